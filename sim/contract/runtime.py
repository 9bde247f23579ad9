"""The runtime's side of the contract, as pure code: the same core behind the mock's sockets and in the simulator.

The driver opens and closes connections, hands in frames, and pulls frames out as fast as the other end
takes them; what has not been pulled is the outbound queue. Replay is read from the log batch by batch as
it is pulled, so a connection costs no memory for what it has yet to get.

    number = runtime.open(token, compatibility, now)      may raise TokenRefusedError: refuse the upgrade
    runtime.received(number, frame, now)                  runtime.pull(number, now) -> frame | None
    runtime.publish / announce                            runtime.ready() -> numbers that have something to pull
    runtime.wake(now); runtime.wake_at()                  runtime.is_closing(number): close once pulled empty
"""

import heapq
import zlib
from collections.abc import Callable, Iterable

import msgspec

from sim.contract import faulty
from sim.contract.connection import Connection, Replay
from sim.contract.counters import Counters
from sim.contract.frames import (
    Body,
    ClientFrame,
    Compatibility,
    Envelope,
    HeartbeatPush,
    Join,
    Leave,
    Reply,
    Request,
    ServerFrame,
    Subscribe,
    SyncBeat,
    SyncError,
    TransportBeat,
    Unsubscribe,
    Update,
    UpdateBatch,
    Watermark,
)
from sim.contract.retained import Streams
from sim.contract.settings import RuntimeSettings, Switches
from sim.contract.stream_log import Entry
from sim.contract.tokens import Claims, Keyring, TokenRefusedError, may_read, verify

NO_LIMIT = 2**63  # the position of a topic that is not subscribed to: nothing is owed
_BUILD_LENGTH = len("20260101T000000Z")


class Runtime:
    """Streams, connections, and the rules between them. Times are unix seconds."""

    def __init__(self, settings: RuntimeSettings, keyring: Keyring, switches: Switches | None = None) -> None:
        self.settings = settings
        self.keyring = keyring
        self.switches = switches or Switches()
        self.counters = Counters()
        self.streams = Streams(settings)
        self.mutations: list[msgspec.Raw] = []  # carried out by the defect `accept_mutation`
        self._connections: dict[int, Connection] = {}
        self._subscribers: dict[str, dict[int, Connection]] = {}
        self._ready: set[int] = set()
        self._behind: dict[int, Connection] = {}  # with undelivered events, looked at by the slow-consumer tick
        self._deadlines: list[tuple[float, int]] = []
        self._tick_at = 0.0
        self._opened = 0
        self._revoked_sessions: set[str] = set()
        self._shared: dict[tuple[str, int], tuple[Update, ...]] = {}  # live updates after a position, same for everyone
        self._frames: dict[tuple[str, int], UpdateBatch] = {}

    @property
    def consumers(self) -> int:
        """How many sockets are open."""
        return len(self._connections)

    # --- connections --------------------------------------------------------------------------------

    def open(self, token: str | None, compatibility: Compatibility, now: float) -> int:
        """Admit a socket; raises `TokenRefusedError`, counted."""
        try:
            claims = self._verify(token, now)
        except TokenRefusedError as refusal:
            self.counters.refused(refusal.code)
            raise
        self._opened += 1
        number = self._opened
        client_key = zlib.crc32(claims.device_id.encode())
        beat_at = now + self.settings.heartbeat_interval_s
        self._connections[number] = Connection(number, claims, client_key, compatibility, now, beat_at)
        heapq.heappush(self._deadlines, (self._deadline(self._connections[number]), number))
        return number

    def _verify(self, token: str | None, now: float) -> Claims:
        claims = verify(
            token,
            self.keyring,
            now,
            leeway_s=self.settings.token_leeway_s,
            max_age_s=self.settings.token_max_age_s,
            void_before=self.switches.tokens_void_before,
            accept_expired="accept_expired_token" in self.switches.defects,
        )
        if claims.session_id in self._revoked_sessions:
            raise TokenRefusedError("token_revoked", "the session was revoked")
        return claims

    def close(self, number: int) -> None:
        """The socket is gone."""
        connection = self._connections.pop(number, None)
        if connection is not None:
            for topic in connection.positions:
                self._subscribers.get(topic, {}).pop(number, None)
            self._behind.pop(number, None)
            self._ready.discard(number)

    def is_closing(self, number: int) -> bool:
        """Whether the connection is to be closed once everything was pulled."""
        connection = self._connections.get(number)
        return connection is None or connection.closing

    def join_ref(self, number: int) -> str:
        """The reference that pushes to this connection carry."""
        return self._connections[number].join_ref

    def revoke(self, sessions: Iterable[str]) -> int:
        """Revoke sessions: their live sockets are told, then closed. Returns how many sockets."""
        self._revoked_sessions.update(sessions)
        return self._expel(lambda claims: claims.session_id in self._revoked_sessions)

    def set_switches(self, switches: Switches) -> int:
        """Change faults and defects; returns how many sockets were told to authenticate again."""
        self.switches = switches
        self._forget_shared()
        return self._expel(lambda claims: claims.issued_at < switches.tokens_void_before)

    def _expel(self, is_out: Callable[[Claims], bool]) -> int:
        body = Body(code="reauth_required", message="authenticate again with a new token")
        gone = [c for c in self._connections.values() if not c.closing and is_out(c.claims)]
        for connection in gone:
            self._expel_one(connection, SyncError(body))
        return len(gone)

    def _expel_one(self, connection: Connection, frame: ServerFrame) -> None:
        for topic in connection.positions:
            self._subscribers[topic].pop(connection.number, None)
        connection.close_with(frame)
        self._behind.pop(connection.number, None)
        self._ready.add(connection.number)

    # --- frames in ----------------------------------------------------------------------------------

    def received(self, number: int, frame: ClientFrame, now: float) -> None:
        """A client's frame."""
        connection = self._connections.get(number)
        if connection is None or connection.closing:
            return
        connection.last_heard = now
        if isinstance(frame, TransportBeat):
            self._send(connection, Reply(frame.ref, ok=True))
        elif isinstance(frame, Join):
            self._join(connection, frame)
        elif not connection.joined:
            body = Body(code="not_joined", message="join the channel first")
            self._send(connection, Reply(frame.ref, ok=False, body=body))
        elif isinstance(frame, Subscribe):
            self._subscribe(connection, frame, now)
        else:
            self._minor(connection, frame)

    def _minor(self, connection: Connection, frame: Unsubscribe | SyncBeat | Leave | Request) -> None:
        if isinstance(frame, Unsubscribe):
            for topic in frame.topics:
                self._unsubscribe(connection, topic)
        elif isinstance(frame, Request) and not self._mutate(frame):
            body = Body(code="mutation_refused", message="the sync socket only delivers; send commands over HTTP")
            self._send(connection, Reply(frame.ref, ok=False, body=body))
            return
        self._send(connection, Reply(frame.ref, ok=True))
        if isinstance(frame, Leave):
            connection.closing = True

    def _mutate(self, frame: Request) -> bool:
        if "accept_mutation" not in self.switches.defects:
            return False
        self.mutations.append(frame.payload)
        return True

    def malformed(self, number: int, code: str, now: float) -> None:
        """A client sent what is no frame; it is told, and nothing else happens."""
        if connection := self._connections.get(number):
            connection.last_heard = now
            self._send(connection, SyncError(Body(code=code, message="not a frame of this channel")))

    def _send(self, connection: Connection, frame: ServerFrame) -> None:
        connection.outbox.append(frame)
        self._ready.add(connection.number)

    def _join(self, connection: Connection, frame: Join) -> None:
        connection.join_ref = frame.join_ref
        code = self._incompatibility(frame.compatibility, connection.compatibility)
        if code:
            self._send(connection, Reply(frame.ref, ok=False, body=Body(code=code, message="this build cannot sync here")))
            return
        connection.joined = True
        topics = connection.claims.topics
        body = Body(subscription_id=f"sub-{connection.number}", allowed_topics=topics, current_watermarks=())
        self._send(connection, Reply(frame.ref, ok=True, body=body))

    def _incompatibility(self, told: Compatibility, query: Compatibility) -> str:
        """The refusal's code, empty for a client that fits; what the join leaves out the URL may say."""
        settings = self.settings
        if (told.protocol_version or query.protocol_version) != settings.protocol_version:
            return "unsupported_protocol_version"
        schema = query.schema_version if told.schema_version is None else told.schema_version
        if str(schema) != str(settings.schema_version):
            return "unsupported_schema_version"
        build = told.client_build_id or query.client_build_id
        if len(build) != _BUILD_LENGTH or build[8:9] != "T" or build[-1:] != "Z":
            return "invalid_client_build"
        if build < settings.min_client_build:
            return "upgrade_required"
        return "unsupported_client_build" if build > settings.max_client_build else ""

    # --- subscribing --------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, frame: Subscribe, now: float) -> None:
        refusal = self._subscribe_refusal(connection, frame)
        if refusal is None:
            refusal = self._stale_refusal(frame, now)
        if refusal is not None:
            if refusal.code == "stale_cursor":
                self._send(connection, SyncError(refusal))
            self._send(connection, Reply(frame.ref, ok=False, body=refusal))
            return
        for topic in frame.topics:
            self._place(connection, topic, frame.resume_after.get(topic))
        size = min(frame.replay_batch_size or self.settings.replay_batch_size, self.settings.replay_batch_size)
        connection.outbox.append(Replay(frame.ref, list(dict.fromkeys(frame.topics)), size))
        self._ready.add(connection.number)

    def _subscribe_refusal(self, connection: Connection, frame: Subscribe) -> Body | None:
        if not frame.topics or frame.bad_cursor:
            return Body(code="bad_subscription", message="a subscription needs topics, and cursors that are numbers")
        forbidden = tuple(topic for topic in frame.topics if not may_read(connection.claims, topic))
        if forbidden:
            self.counters.refused("forbidden_topic")
            return Body(code="forbidden_topic", message="not granted by this token", forbidden_topics=forbidden)
        return None

    def _place(self, connection: Connection, topic: str, after: int | None) -> None:
        log = self.streams.logs.get(topic)
        oldest = log.oldest if log else 1
        position = oldest - 1 if after is None else faulty.first_position(self.switches, after, oldest)
        connection.positions[topic] = position
        self._subscribers.setdefault(topic, {})[connection.number] = connection

    def _stale_refusal(self, frame: Subscribe, now: float) -> Body | None:
        if "no_stale_signal" in self.switches.defects:
            return None
        refusal = self.streams.refusal(frame.topics, frame.resume_after, self.switches.shrunk_budget_events, now)
        self.counters.stale_cursors += refusal is not None
        return refusal

    def _unsubscribe(self, connection: Connection, topic: str) -> None:
        connection.positions.pop(topic, None)
        connection.pending.pop(topic, None)
        self._subscribers.get(topic, {}).pop(connection.number, None)

    # --- publishing ---------------------------------------------------------------------------------

    def announce(self, topic: str, now: float) -> None:
        """What was appended to the topic is durable: trim the window, and let subscribers have it."""
        log = self.streams.logs[topic]
        self.counters.trimmed += log.trim(now)
        self._forget_shared()
        for number, connection in self._subscribers.get(topic, {}).items():
            connection.pending[topic] = None
            self._behind[number] = connection
            self._ready.add(number)
        if faulty.leaks(self.switches, log.head):
            self._leak(topic)

    def shrink_window(self, topic: str, keep_events: int) -> int:
        """Forget all but the newest events of a topic (a fault); returns how many went."""
        log = self.streams.log(topic)
        gone = log.keep_newest(keep_events)
        self.counters.trimmed += gone
        self._forget_shared()
        return gone

    def _leak(self, topic: str) -> None:
        for connection in self._connections.values():
            if connection.joined and topic not in connection.positions:
                log = self.streams.logs[topic]
                self._send(connection, UpdateBatch(self._updates(topic, log.after(log.head - 1, 1)), replay_complete=True))
                return

    # --- frames out ---------------------------------------------------------------------------------

    def ready(self) -> set[int]:
        """The connections that have had something to pull since the last call."""
        out, self._ready = self._ready, set()
        return out

    def pull(self, number: int, now: float) -> ServerFrame | None:
        """The next frame for this connection, or None when there is nothing more for now."""
        connection = self._connections.get(number)
        if connection is None:
            return None
        self.counters.polls += 1
        if connection.outbox:
            item = connection.outbox[0]
            if isinstance(item, Replay):
                return self._replay_batch(connection, item, now)
            connection.outbox.popleft()
            return item
        return self._live_batch(connection, now) if connection.pending else None

    def _replay_batch(self, connection: Connection, replay: Replay, now: float) -> ServerFrame:
        """The replay's next batch; after the last one the subscribe is answered."""
        entries: list[Entry] = []
        topic = ""
        while replay.next_topic < len(replay.topics) and not entries:
            topic = replay.topics[replay.next_topic]
            entries = self._take(connection, topic, replay.batch_size, now, live=False)
            if self._is_current(connection, topic):
                replay.next_topic += 1
        replay.sent += len(entries)
        complete = all(self._is_current(connection, rest) for rest in replay.topics[replay.next_topic :])
        if complete:
            connection.outbox.popleft()
            connection.outbox.appendleft(Reply(replay.ref, ok=True, body=Body(subscription_id=f"sub-{connection.number}")))
        heads = tuple(Watermark(name, self.streams.head(name)) for name in (replay.topics if complete else [topic]))
        updates = self._updates(topic, entries)
        if self.switches.defects:
            updates = faulty.disfigure(self.switches, topic, updates, replay=True)
        return self._deliver(connection, UpdateBatch(updates, complete, heads))

    def _is_current(self, connection: Connection, topic: str) -> bool:
        return connection.positions.get(topic, NO_LIMIT) >= self.streams.head(topic)

    def _live_batch(self, connection: Connection, now: float) -> ServerFrame | None:
        """Up to `topics_per_drain` topics at once; those served go to the back, so that no busy topic starves another."""
        served = list(connection.pending)[: self.settings.topics_per_drain]
        for topic in served:
            del connection.pending[topic]
        if len(served) == 1:
            frame = self._single_topic_batch(connection, served[0], now)
        else:
            updates = tuple(update for topic in served for update in self._live_updates(connection, topic, now))
            heads = tuple(Watermark(topic, self.streams.head(topic)) for topic in served)
            frame = UpdateBatch(updates, replay_complete=True, head_watermarks=heads)
        for topic in served:
            if not self._is_current(connection, topic):
                connection.pending[topic] = None
        if not connection.pending:
            self._behind.pop(connection.number, None)
        if not frame.updates:
            return self.pull(connection.number, now)
        return self._deliver(connection, frame)

    def _single_topic_batch(self, connection: Connection, topic: str, now: float) -> UpdateBatch:
        """The common case, one frame shared by reference among all who are at the same position."""
        key = (topic, connection.positions.get(topic, 0))
        frame = self._frames.get(key)
        if frame is None or not self._may_share(connection):
            updates = self._live_updates(connection, topic, now)
            frame = UpdateBatch(updates, replay_complete=True, head_watermarks=(Watermark(topic, self.streams.head(topic)),))
            if self._may_share(connection) and updates:
                self._frames[key] = frame
        else:
            connection.positions[topic] = frame.updates[-1].watermark
        return frame

    def _may_share(self, connection: Connection) -> bool:
        return not faulty.may_skip(self.switches, connection.client_key)

    def _live_updates(self, connection: Connection, topic: str, now: float) -> tuple[Update, ...]:
        key = (topic, connection.positions.get(topic, 0))
        shared = self._shared.get(key)
        if shared is not None and self._may_share(connection):
            connection.positions[topic] = shared[-1].watermark
            return shared
        updates = self._updates(topic, self._take(connection, topic, self.settings.replay_batch_size, now, live=True))
        if self.switches.defects:
            updates = faulty.disfigure(self.switches, topic, updates, replay=False)
        if updates and self._may_share(connection):
            self._shared[key] = updates
        return updates

    def _forget_shared(self) -> None:
        self._shared.clear()
        self._frames.clear()

    def _take(self, connection: Connection, topic: str, limit: int, now: float, *, live: bool) -> list[Entry]:
        """The topic's next entries for this connection, which moves on; one that fell off the window is told so."""
        log, position = self.streams.logs.get(topic), connection.positions.get(topic)
        if log is None or position is None:
            return []
        if position < log.oldest - 1 and "no_stale_signal" not in self.switches.defects:
            self._unsubscribe(connection, topic)
            self.counters.stale_cursors += 1
            connection.outbox.append(SyncError(self.streams.fell_off(topic, position, now)))
            return []
        entries = log.after(position, limit)
        if entries:
            connection.positions[topic] = entries[-1].seq
        if entries and faulty.may_skip(self.switches, connection.client_key):
            kept = faulty.keep_unskipped(self.switches, connection.client_key, entries, live)
            self.counters.skipped += len(entries) - len(kept)
            return kept
        return entries

    def _updates(self, topic: str, entries: list[Entry]) -> tuple[Update, ...]:
        return tuple(
            Update(topic, msgspec.Raw(entry.payload), entry.payload_hash, entry.seq, topic, entry.seq) for entry in entries
        )

    def _deliver(self, connection: Connection, frame: UpdateBatch) -> ServerFrame:
        self.counters.served += len(frame.updates)
        if self.settings.sync_frames and frame.updates:
            rest = UpdateBatch((), frame.replay_complete, frame.head_watermarks)
            connection.outbox.extendleft([rest, *(Envelope(update) for update in reversed(frame.updates[1:]))])
            return Envelope(frame.updates[0])
        return frame

    # --- time ---------------------------------------------------------------------------------------

    def wake_at(self) -> float:
        """When to call `wake` next."""
        beat_at = self._deadlines[0][0] if self._deadlines else float("inf")
        return min(beat_at, self._tick_at) if self._behind else beat_at

    def wake(self, now: float) -> None:
        """Send the heartbeats that are due, drop silent clients, give slow ones a strike."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            if connection := self._connections.get(number):
                self._beat(connection, now)
                heapq.heappush(self._deadlines, (self._deadline(connection), number))
        if self._behind and now >= self._tick_at:
            self._tick_at = now + self.settings.slow_consumer_tick_s
            for connection in list(self._behind.values()):
                self._judge_consumer(connection)

    def _deadline(self, connection: Connection) -> float:
        return min(connection.beat_at, connection.last_heard + self.settings.client_timeout_s)

    def _beat(self, connection: Connection, now: float) -> None:
        if now >= connection.last_heard + self.settings.client_timeout_s:
            self.counters.silent_clients += 1
            connection.last_heard = now  # once is enough
            self._expel_one(connection, SyncError(Body(code="client_timeout", message="nothing heard from this client")))
        if now >= connection.beat_at:
            connection.beat_at = now + self.settings.heartbeat_interval_s
            if connection.joined and not connection.closing:
                marks = tuple(Watermark(topic, self.streams.head(topic)) for topic in connection.positions)
                self._send(connection, HeartbeatPush(marks))

    def _judge_consumer(self, connection: Connection) -> None:
        limit = self.settings.outbound_queue_events
        depth = sum(max(self.streams.head(topic) - at, 0) for topic, at in connection.positions.items())
        if depth <= limit or connection.closing:
            connection.strikes = 0
            return
        connection.strikes += 1
        out = connection.strikes >= self.settings.slow_consumer_strikes
        body = Body(
            code="slow_consumer",
            message="the outbound queue of this connection is full",
            action="disconnect" if out else "throttle",
            topic=next(iter(connection.pending), ""),
            queue_depth=depth,
            queue_limit=limit,
            reconnect_after_ms=float(self.settings.slow_consumer_reconnect_after_ms),
        )
        if out:
            self.counters.evicted += 1
            self._expel_one(connection, SyncError(body))
        else:
            self._send(connection, SyncError(body))
