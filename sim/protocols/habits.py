"""The habits of a server that answers the subscribe of each stream by itself, in positions of its own form.

`sim.server.stream_runtime` simulates it. It counts the events of each stream from 1; the forms that clients see are made here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sim.protocols.events import Event, Item, Message, Position

Ending = Message
"""What a client gets at the end of its connection. The last event is `Closed`."""


class LogState(NamedTuple):
    """A stream's log: what identifies it, the lowest position that misses no event, and its head."""

    epoch: str
    floor: int
    head: int


class Asked(NamedTuple):
    """A subscribe to one stream, as its server gets it."""

    ref: str
    stream: str
    after: Position | None
    log: LogState


class Started(NamedTuple):
    """Where a server starts a stream: after the event of this number; None: nowhere. `answer` is what it says."""

    after: int | None
    answer: Message


@dataclass(frozen=True, slots=True)
class Sessions:
    """The habits of a server whose join resumes. It keeps the session of a client that it lost for `window_s` seconds.

    A session is the name of a client's connections, and the number of the last event that it received, in one series of
    numbers for all streams of the process.
    """

    window_s: float
    write: Callable[[str, int], str]  # by the name and the number
    read: Callable[[str], tuple[str, int]]  # number 0: the client received no event yet
    # Causes, as of endings, after which it is not kept; `closed`: by the application, as the fault `close_connections` does.
    ended_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Polls:
    """The habits of a server whose clients may read by long polls."""

    idle_s: float  # after an answer, until it closes a connection without another request
    log_gone: Callable[[str], Event]  # the answer to a poll of a stream that is deleted


@dataclass(frozen=True, slots=True)
class StreamHabits:
    """How a server starts streams, states positions, and ends connections.

    `endings` are by cause: revoked, expired, slow_consumer, silent, malformed, stopped.
    """

    start: Callable[[Asked], Started]
    position: Callable[[int, str], Position]  # of an event, by its number and its log's epoch
    endings: Mapping[str, Ending]
    refused_token: Callable[[str, str], Message]  # by reference and code; the socket closes after a `Closed`
    sessions: Sessions | None = None
    items_have_positions: bool = True  # otherwise a message states the position after it, and whether that is the head
    answers_first: bool = False  # before what is replayed
    says_caught_up: bool = False  # after what is replayed
    max_replayed: int = 0  # the position of a longer gap is not resumed; 0: no limit
    fell_off: Callable[[str], Event] | None = None  # to a reader whose next event is gone; None: it goes on at the oldest
    max_unsent_bytes: int = 0  # a client with more is disconnected; 0: no limit
    checks_token_at_join: bool = False  # otherwise at the upgrade
    reads_tokens: bool = True
    expiry_grace_s: float | None = None  # after a token's end, until the connection is closed; None: it stays open
    states_expiry: bool = True  # in the answer to a join or a renewal, if connections end with their tokens
    keeps_log: bool = True  # after the process was killed
    drops_events: bool = True  # old ones
    has_join: bool = True  # otherwise a connection is one request for one stream
    asks_clients: bool = True  # whether they are still there; it closes the connections of silent ones
    tells_of_new_log: bool = True  # it closes the connections of those who read a log that is created again
    polls: Polls | None = None  # None: clients cannot read by long polls


def as_delivered(item: Item, position: Position | None) -> Item:
    """Return an event without a declared hash, at a position in the form that clients see."""
    return Item(position, item.payload)
