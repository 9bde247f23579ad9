"""Typed messages between master and workers about a run, carried by Locust's own messages.

No loss goes unnoticed: observations are numbered and counted, every other message is answered or repeated.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from sim.client.marks import Acknowledged
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill

Send = Callable[[str, "ToWorker"], None]  # takes the worker's id
NAME = "stormgate"  # Locust's name for all of them


class ToWorker(msgspec.Struct, frozen=True, tag=True):
    """A message from the master. All times are unix seconds of the master's clock."""


class FromWorker(msgspec.Struct, frozen=True, tag=True):
    """A message from a worker."""


class PrepareRun(ToWorker, frozen=True):
    """Prepare for a new run."""

    worker: str  # this worker's name in the evidence
    drill: Drill
    seed: int
    marker_run: str  # of the run's header
    target: str  # a local address, or a name in the targets file of every machine
    topics: list[str]  # of the published streams
    clock_began: float  # time zero of the run's observations
    connects_per_s: float  # this worker's share of the target's cap; 0: no cap


class Ready(FromWorker, frozen=True):
    """The target answers and the master's clock is known."""

    host: str
    pid: int
    version: str  # of stormgate
    clock_ahead_ms: float  # how far the master's wall clock is ahead of this machine's
    clock_within_ms: float  # uncertainty of that


class Refused(FromWorker, frozen=True):
    """This worker cannot take part, or cannot continue."""

    sentence: str


class UsersSpawned(FromWorker, frozen=True):
    """Number of users that Locust has spawned on this worker in this run; each needs a client."""

    users: int


class Clients(ToWorker, frozen=True):
    """Clients of the fleet for this worker's users."""

    numbers: list[int]


class Start(ToWorker, frozen=True):
    """Start connecting clients, the first at this time."""

    at: float


class Ping(FromWorker, frozen=True):
    """Ask for the master's time."""

    sent: float


class Pong(ToWorker, frozen=True):
    """The master's time, in answer to a `Ping`."""

    sent: float
    at: float


class Published(ToWorker, frozen=True):
    """Acknowledged events: stream, number of the marker, due time."""

    events: list[tuple[str, int, float]]


class InjectFault(ToWorker, frozen=True):
    """Inject a client fault; `number` identifies this order."""

    number: int
    planned: PlannedFault
    at: float
    until: float


class FaultDone(FromWorker, frozen=True):
    """A fault has ended here: on how many clients it took effect, and how late it started."""

    number: int
    clients: int
    late_ms: float


class EndFaults(ToWorker, frozen=True):
    """End the active faults now, each with its normal revert."""


class Revert(ToWorker, frozen=True):
    """Revert every fault that is still active."""


class Reverted(FromWorker, frozen=True):
    """No fault is active here."""


class CountLagging(ToWorker, frozen=True):
    """From now on, count the clients behind these heads (by topic) in each `Status`."""

    heads: dict[str, Acknowledged]


class RecordConvergence(ToWorker, frozen=True):
    """Record for each client whether it has converged."""

    heads: dict[str, Acknowledged]


class End(ToWorker, frozen=True):
    """End the run: disconnect the clients and send the remaining observations."""


class Status(FromWorker, frozen=True):
    """This worker's state."""

    live: int  # of its clients
    there: int  # live, or renewing their tokens
    behind: int  # clients behind the heads of `CountLagging`; -1: not asked yet
    lag_ms: float  # lateness of its own timers
    counts: dict[str, int]  # by kind of observation, since the run began
    worst_ms: dict[str, float]  # by name in Locust's tables, since the previous status


class Sketches(FromWorker, frozen=True):
    """All durations of the run by name in Locust's tables: milliseconds with their counts."""

    of: dict[str, list[tuple[float, float]]]


class Rows(FromWorker, frozen=True):
    """Observations, as an Arrow stream."""

    number: int  # of this message, from 0
    rows: int
    table: bytes


class Done(FromWorker, frozen=True):
    """The worker's last message of a run."""

    messages: int  # number of `Rows` messages sent
    rows: int  # in all of them
    clients: int
    clock_moved_ms: float  # drift between the clocks since the run began
    clock_within_ms: float
    left: str  # why this worker ended early; empty: it did not


AnyToWorker = (
    PrepareRun | Clients | Start | Pong | Published | InjectFault | EndFaults | Revert | CountLagging | RecordConvergence | End
)
AnyFromWorker = Ready | Refused | UsersSpawned | Ping | FaultDone | Reverted | Status | Sketches | Rows | Done
_ENCODER = msgspec.msgpack.Encoder()
_TO_WORKER = msgspec.msgpack.Decoder(AnyToWorker)
_FROM_WORKER = msgspec.msgpack.Decoder(AnyFromWorker)


class Channel:
    """One process's end of Locust's connection. `receive` takes sender, run and message, and must not block."""

    def __init__(self, runner: Any, receive: Callable[[str, str, Any], None], *, is_master: bool) -> None:
        self._runner = runner
        decoder: Any = _FROM_WORKER if is_master else _TO_WORKER
        runner.register_message(
            NAME, lambda environment, msg: receive(msg.node_id, msg.data["run"], decoder.decode(msg.data["message"]))
        )

    def send(self, run: str, message: ToWorker | FromWorker, worker: str | None = None) -> None:
        """Send a message to the master, or to `worker`."""
        self._runner.send_message(NAME, {"run": run, "message": _ENCODER.encode(message)}, worker)
