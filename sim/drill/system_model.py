"""What takes time in a simulated lane: one typed model, with a default for each number and where it comes from.

"Measured" means: with the embedded mock on two shared cores, by `make bench` and a profile of it; they are the right
order of magnitude for that mock, and nothing more. A model fitted to another target is a TOML file with these keys.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from sim.base.config import read_toml, to_struct
from sim.server.settings import Count, Positive

ShareOrZero = Annotated[float, msgspec.Meta(ge=0, le=1)]
Finite = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One-way delay of each client, log-normal over clients, the same for all its packets; [ours]: a wired office."""

    median_ms: Finite = 10.0
    sigma: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.5  # of the delay's logarithm; 0: everyone alike
    # What a runtime can write to a client that reads nothing before it has to wait: its own writer's buffer, and the two
    # kernels' where these are small. [ours]
    buffer_kib: Finite = 160.0


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runtime's capacity. Queues are first come, first served; times are of one worker."""

    accept_backlog: Count = 4096  # connections waiting for a handshake; the mock's own
    handshake_workers: Count = 1
    handshake_ms: Finite = 0.35  # accept, upgrade and token verification; measured
    delivery_batch_ms: Finite = 0.015  # a frame to one client; measured
    delivery_event_ms: Finite = 0.002  # each update in it; measured
    # Handshakes are done by the worker that delivers, when no frame waits, as in a runtime of one event loop: whoever is live
    # slows down those who come back. `handshake_workers` is then 1. [ours]: a runtime that has processes for it.
    one_loop: bool = False
    publish_workers: Count = 1
    publish_ms: Finite = 0.5  # one event over HTTP until it is durable; measured
    mirror_failure_share: ShareOrZero = 0.0  # of the mirror's tries; [ours]: a healthy one
    mirror_tries: Count = 3  # the sync lane's own
    mirror_retry_ms: Finite = 10.0  # between two tries; the sync lane's own
    cold_start_s: Finite = 0.25  # from the process's start until it listens; measured


_SERVICE_TIMES = ("handshake_ms", "delivery_batch_ms", "delivery_event_ms", "publish_ms")


class ControlService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Minting tokens."""

    mint_workers: Count = 1
    mint_ms: Finite = 0.6  # measured
    mints_per_s: Finite = 0.0  # rate limit: whoever is over it waits; 0, the mock's own: none but the workers'


class SystemModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A lane and its network, as the virtual engine simulates them."""

    network: Network = Network()
    server: Server = Server()
    control: ControlService = ControlService()
    syn_retry_s: Positive = 1.0  # first retry of an unanswered SYN, doubling: RFC 6298, as Linux does it
    sample_period_s: Annotated[float, msgspec.Meta(ge=0.01)] = 0.5  # how often clients' lag is looked at, or more rarely

    def slowed(self, factor: float) -> "SystemModel":
        """The same lane where whatever it works on takes so many times as long; the network is as it was."""
        server, control = self.server, self.control
        slower = {name: getattr(server, name) * factor for name in _SERVICE_TIMES}
        return msgspec.structs.replace(
            self,
            server=msgspec.structs.replace(server, **slower),
            control=msgspec.structs.replace(control, mint_ms=control.mint_ms * factor),
        )


UNLIMITED = SystemModel(
    server=Server(
        accept_backlog=2**31 - 1,
        handshake_workers=1,
        handshake_ms=0.0,
        delivery_batch_ms=0.0,
        delivery_event_ms=0.0,
        publish_ms=0.0,
        cold_start_s=0.0,
    ),
    control=ControlService(mint_ms=0.0),
)
"""A lane that takes no time at all: what remains are the network's delays and the clients' own waits."""


def load(path: Path) -> SystemModel:
    """Read a model file; raises `UsageError`, one sentence. A table `calibration` only says what it was fitted to."""
    data = read_toml(path)
    data.pop("calibration", None)
    return to_struct(data, SystemModel, str(path))
