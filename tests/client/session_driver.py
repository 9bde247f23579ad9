"""Drive one client session step by step: frames through the adapter, notices out, time under control of the test."""

import msgspec

from sim.client import policies
from sim.client.actions import Action, ClientSettings, Close, Connect, Mint, Send, Token
from sim.client.notices import Notice
from sim.client.session import Session
from sim.protocols.events import Closed, Opened, Position
from sim.protocols.intents import Compatibility, Raw
from sim.protocols.payloads import canonical_json, payload_hash
from sim.protocols.spacetime.adapter import CAPABILITIES, SpacetimeConnection, frame_of
from sim.protocols.spacetime.codes import classify, connect_refused
from sim.protocols.spacetime.frames import (
    Body,
    ClientFrame,
    HeartbeatPush,
    Join,
    Reply,
    ServerFrame,
    SnapshotPlan,
    SnapshotTopic,
    StaleTopic,
    Subscribe,
    SyncError,
    Update,
    UpdateBatch,
    Watermark,
)
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events, stream_id

RUN, WORKER = run_events("7"), CODEX_WORKER_EVENTS


def update(seq: int, topic: str = RUN) -> Update:
    """An event as a healthy runtime delivers it."""
    payload = canonical_json({"n": seq})
    return Update(topic, msgspec.Raw(payload), seq, payload_hash(payload), topic, seq)


def batch(*seqs: int, topic: str = RUN, complete: bool = True, head: int | None = None) -> UpdateBatch:
    """A batch of one topic's events; its head is the last of them by default."""
    marks = () if head is None and not seqs else (Watermark(topic, max(seqs) if head is None else head),)
    return UpdateBatch(tuple(update(seq, topic) for seq in seqs), complete, marks)


def stale(topic: str = RUN, after: int = 2, floor: int = 9, head: int = 20, snapshot: int | None = 20) -> Body:
    """A `stale_cursor` body; `snapshot` is the snapshot's watermark, None: the topic has none."""
    stale_topic = StaleTopic(topic, "retention_floor_breach", "warm", after, floor, head, head - after, 20_000)
    plan = SnapshotPlan((SnapshotTopic(topic, head, None if snapshot is None else {"watermark": snapshot}),))
    return Body(
        code="stale_cursor",
        full_resync_required=True,
        reason_codes=("retention_floor_breach",),
        stale_topics=(stale_topic,),
        snapshot_plan=plan,
    )


def heads(head: int, topic: str = RUN) -> HeartbeatPush:
    return HeartbeatPush((Watermark(topic, head),))


class SessionDriver:
    """A session, its clock, its requests and its notices so far."""

    def __init__(
        self,
        policy: str = "reference",
        topics: tuple[str, ...] = (RUN,),
        checkpoints: dict[str, int] | None = None,
        session: type[Session] = Session,
        client: int = 0,
        seed: int = 1,
        refresh_s: float = 1e6,
        expires_s: float = 2e6,
    ) -> None:
        compatibility = Compatibility("drill", "20260201T000000Z", "spacetime.sync.v1", 1)
        settings = ClientSettings(seed, compatibility, CAPABILITIES, forms=SpacetimeForms(), stream_id=stream_id)
        self.wire = SpacetimeConnection("ws://driver")
        positions = {topic: Position(seq) for topic, seq in (checkpoints or {}).items()}
        self.session = session(client, topics, policies.get(policy), settings, positions)
        self.now = 1000.0
        self.refresh_s, self.expires_s = refresh_s, expires_s
        self.notices: list[Notice] = []
        self.tokens = 0

    # --- out ----------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """The session's pending actions."""
        self.notices += self.session.notices()
        actions = self.session.actions()
        for action in actions:
            if isinstance(action, Send):
                self.wire.send(action.intent)
        return actions

    def sent(self) -> list[ClientFrame | Raw]:
        """The frames and raw messages it sends now; fails on any other action."""
        actions = self.actions()
        assert all(isinstance(action, Send) for action in actions), actions
        intents = [action.intent for action in actions if isinstance(action, Send)]
        return [intent if isinstance(intent, Raw) else frame_of(intent) for intent in intents]

    def subscribe(self) -> Subscribe:
        """The subscribe it sends now; fails on any other action."""
        (frame,) = self.sent()
        assert isinstance(frame, Subscribe)
        return frame

    def expect_close(self) -> None:
        """Assert that it closes the socket now and does nothing else."""
        assert self.actions() == [Close()]

    def of(self, *kinds: str) -> list[Notice]:
        """The notices of these kinds so far."""
        self.notices += self.session.notices()
        return [notice for notice in self.notices if notice.kind in kinds]

    def seqs(self, kind: str) -> list[int]:
        """The sequence numbers of the notices of a kind."""
        return [notice.seq for notice in self.of(kind)]

    def delay_ms(self) -> float:
        """The delay of the last backoff."""
        return self.of("backoff")[-1].value

    @property
    def watermark(self) -> int | None:
        """Of the topic RUN."""
        return self.session.replica.cursors[RUN].watermark

    # --- in -----------------------------------------------------------------------------------------

    def receive(self, frame: ServerFrame) -> None:
        """A frame arrives."""
        self.session.received(self.wire.read(frame), self.now)

    def reply(self, ref: str, ok: bool = True, **body: object) -> None:
        """A reply arrives."""
        self.receive(Reply(ref, ok, Body(**body)))  # type: ignore[arg-type]

    def error(self, code: str, **body: object) -> None:
        """A `sync:error` arrives."""
        self.receive(SyncError(Body(code=code, **body)))  # type: ignore[arg-type]

    def open(self) -> None:
        """The connection is open."""
        self.wire = SpacetimeConnection("ws://driver")
        self.session.received((Opened(),), self.now)

    def fail_connect(self, code: str) -> None:
        """The connection cannot be opened."""
        self.session.received((connect_refused(code),), self.now)

    def lose(self, error_text: str) -> None:
        """The connection is lost."""
        self.session.received((Closed(classify(error_text)),), self.now)

    def wait(self, seconds: float) -> None:
        """Time passes, with a wake at every deadline."""
        until = self.now + seconds
        while self.session.wake_at() <= until:
            self.now = max(self.now, self.session.wake_at())
            self.session.wake(self.now)
            self.woken()
        self.now = until

    def woken(self) -> None:
        """Called after each wake."""

    # --- whole sequences ----------------------------------------------------------------------------

    def mint(self) -> None:
        """Answer its request for a token."""
        assert self.actions() == [Mint()]
        self.mint_now()

    def mint_now(self) -> None:
        """Issue a token."""
        self.tokens += 1
        self.session.minted(Token(f"t{self.tokens}", self.now + self.refresh_s, self.now + self.expires_s), self.now)

    def connect(self) -> None:
        """Answer its request for a connection."""
        (action,) = self.actions()
        assert isinstance(action, Connect)
        self.open()

    def join(self) -> Subscribe:
        """Accept its join, and return its subscribe."""
        (frame,) = self.sent()
        assert isinstance(frame, Join)
        self.reply(frame.ref, subscription_id="sub-1", allowed_topics=(RUN,), current_watermarks=())
        return self.subscribe()

    def start(self) -> None:
        """Start the session and issue its first token."""
        self.session.start(self.now)
        self.mint()

    def begin(self) -> Subscribe:
        """Start the session and return its first subscribe."""
        self.start()
        self.connect()
        return self.join()

    def replay(self, subscribe: Subscribe, frame: ServerFrame) -> None:
        """Answer a subscribe with a frame of its replay and an ok reply."""
        self.receive(frame)
        self.reply(subscribe.ref)

    def go_live(self, *seqs: int) -> "SessionDriver":
        """Start the session and replay these events until it is live."""
        self.replay(self.begin(), batch(*seqs))
        assert self.session.is_live
        assert self.actions() == []
        return self

    def reconnect(self) -> Subscribe:
        """After a disconnect: wait for the backoff, mint on request, connect, join; returns the subscribe."""
        self.actions()
        self.wait(self.session.wake_at() - self.now)
        if self.session.state.name == "MINTING":
            self.mint()
        self.connect()
        return self.join()


def as_push(driver: SessionDriver, ref: str) -> None:
    driver.receive(SyncError(stale()))


def as_reply(driver: SessionDriver, ref: str) -> None:
    driver.reply(ref, ok=False, **msgspec.structs.asdict(stale()))


def as_both(driver: SessionDriver, ref: str) -> None:
    as_push(driver, ref)
    as_reply(driver, ref)
