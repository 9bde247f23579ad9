"""A server that the test plays, event by event, for one session; and the capabilities of real servers."""

import msgspec

from sim.client import policies
from sim.client.actions import Action, ClientSettings, Connect, Mint, Send, Token
from sim.client.notices import Notice
from sim.client.session import Session
from sim.client.transitions import State
from sim.protocols.adapter import (
    Capabilities,
    CaughtUpSign,
    FreshStart,
    HeadSource,
    Liveness,
    Positions,
    Renewal,
    ResumingBy,
    StaleSign,
    Subscribing,
)
from sim.protocols.events import (
    Batch,
    Event,
    Hash,
    Item,
    Joined,
    Opened,
    Position,
)
from sim.protocols.intents import Compatibility, Intent, Join, Subscribe
from tests.client.test_capabilities import DENSE

NATS = msgspec.structs.replace(
    DENSE,
    positions=Positions.ORDERED,
    has_epochs=True,
    head=(HeadSource.REPLY, HeadSource.QUERY),
    caught_up=CaughtUpSign.HEAD,
    stale=StaleSign.SILENT,
    liveness=Liveness.SERVER_PINGS,
    subscribing=Subscribing.EACH_STREAM,
)
CENTRIFUGO = msgspec.structs.replace(
    DENSE,
    has_epochs=True,
    caught_up=CaughtUpSign.REPLY,
    stale=StaleSign.FLAG,
    fresh_start=FreshStart.FROM_NOW_ON,
    liveness=Liveness.SERVER_PINGS,
    renewal=Renewal.ON_CONNECTION,
    subscribing=Subscribing.EACH_STREAM,
)
SOCKETIO = msgspec.structs.replace(
    DENSE,
    positions=Positions.OPAQUE,
    caught_up=CaughtUpSign.REPLY,
    stale=StaleSign.FLAG,
    fresh_start=FreshStart.FROM_NOW_ON,
    liveness=Liveness.SERVER_PINGS,
    renewal=Renewal.NONE,
    resuming_by=ResumingBy.JOIN,
)
DURABLE = msgspec.structs.replace(
    DENSE,
    positions=Positions.OPAQUE,
    caught_up=CaughtUpSign.EXPLICIT,
    is_one_connection=False,
    liveness=Liveness.SERVER_PINGS,
    renewal=Renewal.NONE,
    resuming_by=ResumingBy.REQUEST,
    subscribing=Subscribing.EACH_STREAM,
)


class Peer:
    """A session, the intents that it sent, and its clock; the test is the server."""

    def __init__(self, capabilities: Capabilities, *topics: str, refresh_s: float = 1e6, policy: str = "reference") -> None:
        settings = ClientSettings(1, Compatibility("test"), capabilities)
        self.session = Session(0, topics or ("a",), policies.get(policy), settings)
        self.now, self.refresh_s, self.tokens = 1000.0, refresh_s, 0
        self.seen: list[Notice] = []

    def tell(self, *events: Event) -> "Peer":
        """Send one message to the session."""
        self.session.received(events, self.now)
        return self

    def actions(self) -> list[Action]:
        """What it does now."""
        return self.session.actions()

    def sent(self) -> list[Intent]:
        """The intents that it sends now; fails on any other action."""
        actions = self.actions()
        assert all(isinstance(action, Send) for action in actions), actions
        return [action.intent for action in actions if isinstance(action, Send)]

    def mint(self) -> "Peer":
        """Answer its request for a token."""
        self.tokens += 1
        token = Token(f"t{self.tokens}", self.now + self.refresh_s, self.now + 2 * self.refresh_s)
        assert self.session.awaits_token
        self.session.minted(token, self.now)
        return self

    def connect(self) -> Join:
        """Let it connect, and return its join."""
        actions = self.actions()
        if actions == [Mint()]:
            actions = self.mint().actions()
        assert [type(action) for action in actions] == [Connect]
        (join,) = self.tell(Opened()).sent()
        assert isinstance(join, Join)
        return join

    def join(self, **fields: object) -> Subscribe:
        """Let it start, connect and join, and return its subscribe."""
        if self.session.state is State.IDLE:
            self.session.start(self.now)
        join = self.connect()
        self.tell(Joined(join.ref, **fields))  # type: ignore[arg-type]
        return self.subscribe()

    def subscribe(self) -> Subscribe:
        """Return its subscribe; fails on any other action."""
        (subscribe,) = self.sent()
        assert isinstance(subscribe, Subscribe)
        return subscribe

    def wait(self, seconds: float) -> "Peer":
        """Let time pass in silence."""
        until = self.now + seconds
        while self.session.wake_at() <= until:
            self.now = max(self.now, self.session.wake_at())
            self.session.wake(self.now)
        self.now = until
        return self

    def reconnect(self) -> Join:
        """Wait for its backoff, and return its next join."""
        self.actions()
        assert self.session.state is State.BACKOFF
        self.wait(self.session.wake_at() - self.now)
        return self.connect()

    def of(self, *kinds: str) -> list[tuple[str, int, float]]:
        """The stream, seq and value of its notices of these kinds."""
        self.seen += self.session.notices()
        return [(each.stream, each.seq, each.value) for each in self.seen if each.kind in kinds]

    def details(self, kind: str) -> list[str]:
        """The details of its notices of a kind."""
        self.seen += self.session.notices()
        return [str(each.detail) for each in self.seen if each.kind == kind]


def item(number: int, position: Position | None, check: Hash = Hash.NONE) -> Item:
    return Item(position, msgspec.Raw(f'{{"n":{number}}}'.encode()), f"sha256:{number:012d}", check)


def applied(peer: Peer) -> list[int]:
    return [int(detail) for detail in peer.details("applied")]


def dense(*seqs: int, stream: str = "a", epoch: str | None = None) -> Batch:
    return Batch(stream, tuple(item(seq, Position(seq, epoch)) for seq in seqs))
