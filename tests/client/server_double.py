"""Client sessions and one runtime connected in memory on a virtual clock, without a socket.

It is a minimal engine: it executes actions, moves frames and wakes sessions. Each client has two queues of
frames, `up` and `down`. Frames move only on request, so a test decides what is in flight when something
breaks. Every frame goes through the codec.

    service = InMemoryService(clients=2)   all clients have the topics RUN (with snapshots) and WORKER (without)
    service.settle()                deliver all frames until every client is live and at the head
    service.publish(RUN, 3)
    service.carry(0)                move client 0's frames both ways until the queues are empty
    service.cut(0); service.restart(); service.advance(10.0)
    service.check()                 check the invariants of the reference client
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.client import policies
from sim.client.actions import Action, ClientSettings, Close, Connect, Mint, Send, Token
from sim.client.notices import Notice
from sim.client.session import Session
from sim.protocols.events import Closed, Opened
from sim.protocols.intents import Compatibility, Raw
from sim.protocols.payloads import canonical_json
from sim.protocols.spacetime import server
from sim.protocols.spacetime.adapter import CAPABILITIES, SpacetimeConnection, frame_of
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.codes import classify, connect_refused
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.protocols.spacetime.profile import PROFILE
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events, stream_id
from sim.server.runtime import Runtime
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import AUDIENCE, ISSUER, Claims, Key, Keyring, TokenRefusedError, mint

RUN, WORKER = run_events("7"), CODEX_WORKER_EVENTS
TOPICS = (RUN, WORKER)
START = 1_700_000_000.0
KEYRING = Keyring(Key("k1", b"secret"))
COMPATIBILITY = Compatibility("drill", "20260201T000000Z", "spacetime.sync.v1", 1)
SMALL = RuntimeSettings(window_events=8, replay_budget_events=6, replay_batch_size=3, outbound_queue_events=16)


def token(device: str, topics: tuple[str, ...], now: float = START, suffix: str = "") -> str:
    """A token that is valid for 300 s, with the scopes of its topics; `suffix` of its id."""
    claims = Claims(
        *(ISSUER, AUDIENCE, f"user:{device}", now, now, now + 300.0, f"token-{device}{suffix}"),
        *(f"u{device}", "org", f"session-{device}", device),
        scopes=tuple(dict.fromkeys(map(PROFILE.topics.required_scope, topics))),
        topics=topics,
    )
    return mint(claims, KEYRING.primary)


@dataclass
class Wire:
    """One open socket and what is in flight on it, as it is on the wire."""

    number: int
    adapter: SpacetimeConnection = field(default_factory=lambda: SpacetimeConnection("ws://double"))
    up: deque[Raw] = field(default_factory=deque)
    down: deque[str] = field(default_factory=deque)


class InMemoryService:
    """N clients, one runtime, one clock."""

    def __init__(
        self,
        clients: int = 1,
        policy: str = "reference",
        settings: RuntimeSettings = SMALL,
        topics: tuple[str, ...] = TOPICS,
        seed: int = 1,
        session: type[Session] = Session,
        switches: Switches | None = None,
        network_is_down: bool = False,
    ) -> None:
        self.now = START
        self.runtime = Runtime(settings, KEYRING, PROFILE, switches)
        self.is_down = False
        self.network_is_down = network_is_down
        self.topics = topics
        own = ClientSettings(seed, COMPATIBILITY, CAPABILITIES, forms=SpacetimeForms(), stream_id=stream_id, service=settings)
        self.sessions = [session(client, topics, policies.get(policy), own) for client in range(clients)]
        self.wires: dict[int, Wire] = {}
        self.notices: list[list[Notice]] = [[] for _ in range(clients)]
        self.actions: Counter[str] = Counter()
        for session_ in self.sessions:
            session_.start(self.now)
            self._obey(session_)

    # --- the driver ---------------------------------------------------------------------------------

    def _obey(self, session: Session) -> None:
        while actions := session.actions():
            for action in actions:
                self.actions[type(action).__name__] += 1
                self._do(session, action)
        self.notices[session.client] += session.notices()

    def _do(self, session: Session, action: Action) -> None:
        if isinstance(action, Mint):
            self.mint(session)
        elif isinstance(action, Connect):
            self._connect(session, action.token)
        elif isinstance(action, Send):
            wire, intent = self.wires[session.client], action.intent
            wire.adapter.send(intent)
            wire.up.append(intent if isinstance(intent, Raw) else Raw(encode_client(frame_of(intent)).encode()))
        elif isinstance(action, Close):
            self._hang_up(session.client)

    def _connect(self, session: Session, token: Token) -> None:
        if self.is_down or self.network_is_down:
            session.connect_failed(connect_refused("network"), self.now)
            return
        try:
            number = self.runtime.open(token.text, COMPATIBILITY, self.now)
        except TokenRefusedError as refusal:
            session.connect_failed(connect_refused(refusal.code), self.now)
        else:
            self.wires[session.client] = Wire(number)
            session.connected(Opened(), self.now)

    def _hang_up(self, client: int) -> bool:
        wire = self.wires.pop(client, None)
        if wire is not None:
            self.runtime.close(wire.number)
        return wire is not None

    def mint(self, session: Session) -> None:
        """Answer a request with a token for every topic for 300 s, to be refreshed after 270 s."""
        text = token(str(session.client), self.topics, self.now, f"-{self.now}")
        session.minted(Token(text, self.now + 270.0, self.now + 300.0), self.now)

    # --- frames and time ----------------------------------------------------------------------------

    def send_up(self, client: int) -> int:
        """Move the client's frames to the runtime."""
        wire = self.wires.get(client)
        sent = 0
        while wire and wire.up:
            sent += 1
            message = wire.up.popleft()
            try:
                intent = server.read(message.data, message.is_text, self.runtime.settings.longest_frame_kib * 1024)
            except BrokenMessageError as error:
                self.lose(client, Closed(code=error.status))
                break
            except MalformedFrameError as error:
                self.runtime.malformed(wire.number, error.code, self.now)
            else:
                self.runtime.received(wire.number, intent, self.now)
        return sent

    def pull(self, client: int, frames: int = 1_000_000) -> int:
        """Move up to `frames` frames from the runtime to the wire."""
        wire = self.wires.get(client)
        for pulled in range(frames if wire else 0):
            events = self.runtime.pull(wire.number, self.now)
            if events is None:
                return pulled
            wire.down.append(server.write(events, self.runtime.channel(wire.number)))
        return frames if wire else 0

    def deliver(self, client: int, frames: int = 1_000_000) -> int:
        """Deliver up to `frames` frames to the client, then the runtime's close."""
        session, delivered = self.sessions[client], 0
        while (wire := self.wires.get(client)) and wire.down and delivered < frames:
            delivered += 1
            session.received(wire.adapter.received(0, wire.down.popleft().encode(), True), self.now)
            self._obey(session)
        wire = self.wires.get(client)
        if wire and not wire.down and self.runtime.is_closing(wire.number) and not self.pull(client, 1):
            self.cut(client, "stream_closed")
        return delivered

    def exchange(self, client: int, frames: int = 1_000_000) -> None:
        """Move the client's frames up, then up to `frames` frames down to it."""
        self.send_up(client)
        self.pull(client, frames)
        self.deliver(client, frames)

    def duplicate(self, client: int) -> None:
        """Deliver the next frame to the client twice: delivery is at least once."""
        wire = self.wires.get(client)
        if wire and wire.down:
            wire.down.appendleft(wire.down[0])

    def carry(self, client: int) -> None:
        """Move this client's frames both ways until the queues are empty."""
        for _ in range(10_000):
            if not self.send_up(client) + self.pull(client) + self.deliver(client):
                return
        raise AssertionError(f"client {client} and the runtime never stop sending: {self.actions}")

    def carry_all(self) -> None:
        """Move the frames of all clients."""
        for client in range(len(self.sessions)):
            self.carry(client)

    def advance(self, seconds: float, carrying: bool = False) -> None:
        """Let time pass and wake sessions and runtime when due; with `carrying`, frames move at once."""
        until = self.now + seconds
        if carrying:
            self.carry_all()
        while (due := min(self.runtime.wake_at(), *(s.wake_at() for s in self.sessions))) <= until:
            self.now = max(self.now, due)
            self._wake()
            if carrying:
                self.carry_all()
        self.now = until

    def _wake(self) -> None:
        before = [s.wake_at() for s in self.sessions]
        self.runtime.wake(self.now)
        for session, due in zip(self.sessions, before, strict=True):
            if due <= self.now:
                session.wake(self.now)
                self._obey(session)
                assert session.wake_at() > self.now or session.wake_at() != due, "woken again and again"

    def settle(self, within_s: float = 150.0) -> None:
        """Revert all faults and wait until every client is live and at the head of every topic."""
        self.is_down = self.network_is_down = False
        self.runtime.set_switches(Switches())
        self.carry_all()
        until = self.now + within_s
        while not self.has_converged():
            assert self.now < until, f"not converged in {within_s} s: {[s.why_pending() for s in self.sessions]}"
            self.advance(1.0, carrying=True)

    def settle_and_check(self, within_s: float = 150.0) -> None:
        """Settle, then check the invariants."""
        self.settle(within_s)
        self.check()

    def has_converged(self) -> bool:
        """Whether every client is live, caught up and at the head."""
        return all(s.is_live and s.is_caught_up and self.is_at_head(s) for s in self.sessions)

    def is_at_head(self, session: Session) -> bool:
        """Whether this client has applied the last event of every topic."""
        return all(c.watermark == self.runtime.streams.head(c.topic) for c in session.replica.cursors.values())

    # --- events and faults --------------------------------------------------------------------------

    def publish(self, topic: str, count: int = 1) -> None:
        """Append and announce `count` events."""
        for _ in range(count):
            log = self.runtime.streams.log(topic)
            payload = canonical_json({"n": log.next_seq, "of": topic})
            log.append(f"{topic}-{log.next_seq}", payload, self.now)
            self.runtime.announce(topic, self.now)

    def cut(self, client: int, reason: str = "network") -> None:
        """Break the client's socket; frames in flight are lost."""
        self.lose(client, Closed(classify(reason)))

    def lose(self, client: int, event: Closed) -> None:
        """End the client's socket with this event."""
        if self._hang_up(client):
            self.sessions[client].disconnected(event, self.now)
            self._obey(self.sessions[client])

    def stop_runtime(self) -> None:
        """Stop the runtime and close every socket."""
        self.is_down = True
        for client in range(len(self.sessions)):
            self.cut(client)

    def start_runtime(self) -> None:
        """Start another runtime with the same logs."""
        old, self.is_down = self.runtime, False
        self.runtime = Runtime(old.settings, old.keyring, PROFILE, old.switches)
        self.runtime.streams.logs.update(old.streams.logs)

    def restart(self) -> None:
        """Stop and start the runtime at once."""
        self.stop_runtime()
        self.start_runtime()

    def switch(self, **changes: object) -> None:
        """Set these switches of the runtime and reset all others."""
        self.runtime.set_switches(Switches(**changes))  # type: ignore[arg-type]

    # --- invariants ---------------------------------------------------------------------------------

    def of(self, client: int, *kinds: str) -> list[Notice]:
        """One client's notices of these kinds."""
        return [notice for notice in self.notices[client] if notice.kind in kinds]

    def applied(self, client: int, topic: str) -> list[int]:
        """The sequence numbers this client applied of a topic, in that order."""
        return [notice.seq for notice in self.of(client, "applied") if notice.stream == stream_id(topic)]

    def silently_lost(self, client: int, topic: str) -> set[int]:
        """Events above the client's first baseline that were not applied, in a snapshot, or declared lost."""
        has: set[int] = set(self.applied(client, topic))
        baseline = None
        for notice in self.of(client, "rebootstrapped", "declared_loss"):
            if notice.stream != stream_id(topic):
                continue
            baseline = notice.seq if baseline is None else baseline
            low = notice.seq - notice.value if notice.kind == "declared_loss" else notice.value
            if not math.isnan(low) and notice.detail != "retained":
                has |= set(range(int(low) + 1, notice.seq + 1))
        return set(range((baseline or 0) + 1, self.runtime.streams.head(topic) + 1)) - has

    def check(self) -> None:
        """Check the invariants of the reference client."""
        for client in range(len(self.sessions)):
            for topic in self.topics:
                applied = self.applied(client, topic)
                assert all(low < high for low, high in pairwise(applied)), f"twice or out of order: {applied}"
                assert not self.silently_lost(client, topic), (client, topic)
                written = [n.seq for n in self.of(client, "checkpoint_written") if n.stream == stream_id(topic)]
                assert all(low < high for low, high in pairwise(written)), f"checkpoint went back: {written}"
                declared = [n.seq for n in self.of(client, "declared_loss") if n.stream == stream_id(topic)]
                oldest = self.runtime.streams.log(topic).oldest
                assert all(seq < oldest for seq in declared), f"declared retained events lost: {declared}, {oldest}"
            self._check_conservation(client)

    def _check_conservation(self, client: int) -> None:
        """Every received update has one outcome. (A gap with detail `replay` is about a whole replay.)"""
        received = sum(int(notice.value) for notice in self.of(client, "received"))
        became = self.of(client, "applied", "duplicate_dropped", "hash_mismatch", "ungranted", "gap")
        assert received == len([notice for notice in became if notice.detail != "replay"])
