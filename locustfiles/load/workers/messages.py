"""What master and workers say to each other about a run, typed, carried by Locust's own messages.

Nothing here may be lost unseen: what is observed is numbered and counted, and everything else is answered or repeated.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from sim.drill.model import Drill
from sim.drill.schedule import PlannedFault

NAME = "stormgate"  # under which Locust carries all of them


class ToWorker(msgspec.Struct, frozen=True, tag=True):
    """Base of what the master says. All moments are unix seconds of the master's clock."""


class FromWorker(msgspec.Struct, frozen=True, tag=True):
    """Base of what a worker says."""


class Begin(ToWorker, frozen=True):
    """A run begins: make ready."""

    worker: str  # what this worker is called in the evidence
    drill: Drill
    seed: int
    target: str  # an address on this machine, or a name of the targets file that is on every machine
    topics: list[str]  # of the streams that are published to
    clock_began: float  # from which the run's observations count
    connects_per_s: float  # the part of the target's cap that is this worker's; 0: there is no cap


class Ready(FromWorker, frozen=True):
    """The target answers, and the master's clock is known."""

    host: str
    pid: int
    version: str  # of stormgate
    clock_ahead_ms: float  # by how much the master's wall clock is ahead of this machine's
    clock_within_ms: float  # how exactly that is known


class Refused(FromWorker, frozen=True):
    """This worker cannot take part, or can go on no longer."""

    sentence: str


class Wanted(FromWorker, frozen=True):
    """So many users have come to this worker since the run began, each of whom is to be a client."""

    users: int


class Clients(ToWorker, frozen=True):
    """These clients of the fleet are this worker's users."""

    numbers: list[int]


class Start(ToWorker, frozen=True):
    """Clients arrive, the first one at this moment."""

    at: float


class Ping(FromWorker, frozen=True):
    """What time is it there?"""

    sent: float


class Pong(ToWorker, frozen=True):
    """This late it is here."""

    sent: float
    at: float


class Published(ToWorker, frozen=True):
    """Acknowledged events: stream, seq, when due."""

    events: list[tuple[str, int, float]]


class Break(ToWorker, frozen=True):
    """A fault of clients; `number` says which order this is."""

    number: int
    planned: PlannedFault
    at: float
    until: float


class Acted(FromWorker, frozen=True):
    """A fault is over here: on how many clients it acted, and how late it began."""

    number: int
    clients: int
    late_ms: float


class EndFaults(ToWorker, frozen=True):
    """Faults that act end now, each in good order."""


class Heal(ToWorker, frozen=True):
    """Take back whatever still acts."""


class Healed(FromWorker, frozen=True):
    """Nothing acts here any more."""


class Settle(ToWorker, frozen=True):
    """From now on say how many clients are behind these heads, by topic."""

    heads: dict[str, int]


class Conclude(ToWorker, frozen=True):
    """Record of each client whether it has converged."""

    heads: dict[str, int]


class End(ToWorker, frozen=True):
    """The run is over: close everything, hand over what is left."""


class Status(FromWorker, frozen=True):
    """How this worker is."""

    live: int  # of its clients
    there: int  # live, or renewing their tokens
    behind: int  # the heads that were asked about; -1: nobody asked yet
    lag_ms: float  # its own lateness
    counts: dict[str, int]  # by kind of observation, since the run began
    worst_ms: dict[str, float]  # by what Locust's tables call it, since the status before


class Sketches(FromWorker, frozen=True):
    """What took how long since the run began, by what Locust's tables call it: milliseconds, and how many of them."""

    of: dict[str, list[tuple[float, float]]]


class Rows(FromWorker, frozen=True):
    """Observations, as an Arrow stream."""

    number: int  # which of the messages of this kind it is, from 0
    rows: int
    table: bytes


class Done(FromWorker, frozen=True):
    """The last word."""

    messages: int  # of `Rows` that were sent
    rows: int  # in all of them
    clients: int
    clock_moved_ms: float  # by how much the clocks have gone apart since the beginning
    clock_within_ms: float
    left: str  # why this worker ended before its time; empty: it did not


AnyToWorker = Begin | Clients | Start | Pong | Published | Break | EndFaults | Heal | Settle | Conclude | End
AnyFromWorker = Ready | Refused | Wanted | Ping | Acted | Healed | Status | Sketches | Rows | Done
_ENCODER = msgspec.msgpack.Encoder()
_TO_WORKER = msgspec.msgpack.Decoder(AnyToWorker)
_FROM_WORKER = msgspec.msgpack.Decoder(AnyFromWorker)


class Channel:
    """One process's end of Locust's connection. `hear` is told the sender, the run, and what was said; it must not wait."""

    def __init__(self, runner: Any, hear: Callable[[str, str, Any], None], *, is_master: bool) -> None:
        self._runner = runner
        self._hear = hear
        self._decoder: Any = _FROM_WORKER if is_master else _TO_WORKER
        runner.register_message(NAME, self._heard)

    def _heard(self, environment: object, msg: Any) -> None:
        self._hear(msg.node_id, msg.data["run"], self._decoder.decode(msg.data["said"]))

    def send(self, run: str, message: ToWorker | FromWorker, worker: str | None = None) -> None:
        """Say it to the master, or to that worker."""
        self._runner.send_message(NAME, {"run": run, "said": _ENCODER.encode(message)}, worker)
