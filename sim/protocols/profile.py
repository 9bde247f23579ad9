"""What a simulated server does differently in each protocol. `sim.server`, the mock and the virtual engine read a profile only.

The defaults are the habits that most servers share; a protocol's package states its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sim.protocols import endings
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import Closed, Event, Malformed, Message, Problem, Refused, StreamEnded, Whose
from sim.protocols.habits import StreamHabits
from sim.protocols.intents import Intent, Request


@dataclass(frozen=True, slots=True)
class TopicClass:
    """Limits of every topic of one class; all values are the sync service's own defaults."""

    name: str
    qos: str  # hot, warm or cold
    replay_budget_events: int  # a cursor farther behind the head is stale
    retention_s: float
    publishes_per_s: int
    max_payload_bytes: int
    snapshot_every_s: float | None  # None: the class has no snapshots


@dataclass(frozen=True, slots=True)
class Topics:
    """The streams of a server: their names, limits and scopes."""

    fixed: tuple[str, ...]  # topics with a single log, without an id in their name
    fallback: TopicClass  # class of a topic that the service does not know
    topic_class: Callable[[str], TopicClass]
    stream_id: Callable[[str], str]
    topic_of: Callable[[str], str | None]  # of a stream id
    of_event: Callable[[str, str], str]  # the topic of an event, by its run and its type
    required_scope: Callable[[str], str]  # which a token needs to read a topic
    scopes: tuple[str, ...]  # all that can be granted
    owner_of: Callable[[str], str | None]  # the only user who may read a topic; None: any user


@dataclass(frozen=True, slots=True)
class Refusals:
    """How a client's adapter reports what the server refuses or reports. Each returns the event that the client gets."""

    connect: Callable[[str], Refused]  # by code; a server that states no codes gives all the same
    request: Callable[[str, str, str, tuple[str, ...]], Refused]  # by reference, code, message, refused streams
    slow_consumer: Callable[[bool, float, str, Mapping[str, object]], Problem]  # evicted, wait in ms, message, details
    upgrade: Callable[[TransportEnd], Refused] = endings.upgrade_refused  # by the HTTP answer to the upgrade
    closed: Callable[[TransportEnd], Closed] = endings.closed  # by close code and reason


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """The habits of one protocol's server."""

    transport: str  # as the services name it
    topics: Topics
    refusals: Refusals
    payload_hash: Callable[[bytes], str]  # of canonical JSON
    content: Callable[["Publication"], object]  # what is delivered of a published event
    unknown_request: Callable[[Request], Event]  # answers a request that the protocol does not have
    not_joined: Callable[[str, bool], Event]  # answers a request without a joined channel, by its reference; a subscribe?
    expelled: tuple[Event, ...]  # sent to a client whose session or token is no longer valid, before its socket closes
    silent: tuple[Event, ...]  # sent to a client from which nothing more came
    malformed: Callable[[str], Event] | None  # answers a malformed message, by its code; None: the socket closes
    first_event: tuple[str, object] | None = None  # type and payload of the event that a new run begins with
    damaged: Callable[[str], Message] = lambda stream: (Malformed("malformed_frame"),)  # of a frame with the events of a stream
    counts_deliveries: bool = False  # so that clients notice a missing one, whatever positions say
    close_code: int = 1000
    answers_position: bool = True  # the answer to a publish states the event's position in its topic
    heads_in_beats: Whose = Whose.AUTHORITY
    reply_has_heads: bool = False  # the answer to a subscribe states the positions of its streams
    replays_nothing: bool = True  # a replay without events has a batch nevertheless
    has_second_form: bool = False  # each batch is sent again, in another form
    clamps_cursors: bool = False  # a cursor above the head resumes at the head, which the answer states
    beats_on_channel: bool = False  # a heartbeat of the transport does not keep a client; its answer states positions
    keeps_silent_sockets: bool = False  # the channel of a silent client ends, but not its socket
    leave_ends: StreamEnded | None = None  # sent after the answer to a leave
    reads_metadata_of_join: bool = True  # otherwise only that of the upgrade request
    checks_revocation_at_join: bool = False  # otherwise at the upgrade
    has_token_age: bool = True  # tokens may be too old
    has_token_leeway: bool = True  # for the end of a token
    states_refusals: bool = True  # a refused upgrade has a body
    evicts: bool = True  # slow consumers
    streams: StreamHabits | None = None  # of a server that answers the subscribe of each stream by itself
    pings: bool = False  # the server's heartbeats are pings, which clients answer


@dataclass(frozen=True, slots=True)
class Publication:
    """A published event; `number` counts the events of its run from 1, `at` is in unix seconds."""

    run_id: str
    event_type: str
    payload: object
    number: int
    at: float


@dataclass(frozen=True, slots=True)
class WireForms:
    """A server's forms on the wire. Only the mock needs them."""

    read: Callable[[bytes, bool, int], Intent]  # bytes, is text, most bytes; raises as a codec does
    write: Callable[[Message, str], str]  # addressed to the channel of this name
    socket_path: str
    has_workers: bool = False  # the mock serves the HTTP routes of workers with shared topics, not those of runs
    service_forms: Mapping[str, object] = field(default_factory=dict)  # where the mock's requests and answers differ


@dataclass(frozen=True, slots=True)
class ServerForms:
    """All that a simulated server needs of a protocol: its habits, and the lengths of its messages.

    Without `wire`, the server can be simulated, but the mock cannot serve it.
    """

    profile: ServerProfile
    intent_bytes: Callable[[Intent], int]  # the length of an intent on the wire
    message_bytes: Callable[[Message], int]
    wire: WireForms | None = None
