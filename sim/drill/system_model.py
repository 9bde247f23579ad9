"""The delays and capacities of a simulated service: a default for each parameter, and its source.

"Measured" means: on the mock on two shared cores, with `make bench` and a profile. Such a number is only an order of
magnitude, and only for that mock. A model fitted to another target is a TOML file with these keys.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from sim.base.config import read_toml, to_struct
from sim.server.settings import Count, Positive

ShareOrZero = Annotated[float, msgspec.Meta(ge=0, le=1)]
Finite = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One-way delay of each client: log-normal over the clients, constant for each of them. [ours]: a wired office."""

    median_ms: Finite = 10.0  # median of the delays
    sigma: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.5  # standard deviation of ln(delay); 0: equal for all clients
    # Data that the server can write to a client that does not read: its own buffer and the buffers of both kernels. [ours]
    buffer_kib: Finite = 160.0


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server's capacity. Queues are first come, first served. Times are those of one worker."""

    accept_backlog: Count = 4096  # maximum length of the accept queue; that of the mock
    handshake_workers: Count = 1  # handshakes at the same time
    handshake_ms: Finite = 0.35  # accept, upgrade and token verification; measured
    delivery_batch_ms: Finite = 0.015  # one frame to one client; measured
    delivery_event_ms: Finite = 0.002  # each update in a frame; measured
    # The delivery worker also does the handshakes, when no frame waits, as in a server with one event loop. Live clients then
    # delay clients that reconnect, and `handshake_workers` is 1. [ours]: false, a server with processes for handshakes.
    one_loop: bool = False
    publish_workers: Count = 1  # publishes at the same time
    publish_ms: Finite = 0.5  # one event over HTTP until it is durable; measured
    mirror_failure_share: ShareOrZero = 0.0  # share of the mirror's attempts that fail; [ours]: a healthy mirror
    mirror_tries: Count = 3  # attempts of the mirror for each event; as in the sync service
    mirror_retry_ms: Finite = 10.0  # between two attempts; as in the sync service
    cold_start_s: Finite = 0.25  # from the start of the process until it listens; measured


_SERVICE_TIMES = ("handshake_ms", "delivery_batch_ms", "delivery_event_ms", "publish_ms")


class ControlService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The control service's capacity to mint tokens."""

    mint_workers: Count = 1  # tokens minted at the same time
    mint_ms: Finite = 0.6  # time for one token; measured
    mints_per_s: Finite = 0.0  # rate limit; requests above it wait; 0: no limit, as in the mock


class SystemModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service and its network, as the virtual and the fleet engine simulate them."""

    network: Network = Network()
    server: Server = Server()
    control: ControlService = ControlService()
    syn_retry_s: Positive = 1.0  # delay of the first retry of an unanswered SYN; doubles each time (RFC 6298, Linux)
    sample_period_s: Annotated[float, msgspec.Meta(ge=0.01)] = 0.5  # minimum time between two samples of the clients' lag

    def slowed(self, factor: float) -> "SystemModel":
        """Return the same service with all service times multiplied by `factor`. The network is unchanged."""
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
"""A service without service times: only network delays and the clients' own waits remain."""


def load(path: Path) -> SystemModel:
    """Read a model file. Raise `UsageError` if it is invalid. The table `calibration` is for people and is ignored."""
    data = read_toml(path)
    data.pop("calibration", None)
    return to_struct(data, SystemModel, str(path))
