"""The simulated runtime as pure code: the same core behind the mock's sockets and in the virtual engine.

The driver opens and closes connections, passes on clients' intents, and pulls messages as fast as the client reads them.
What a connection gets next is in `sim.server.delivery`.

    number = runtime.open(token, compatibility, now)      may raise TokenRefusedError: refuse the upgrade
    runtime.received(number, intent, now)                 runtime.pull(number, now) -> message | None
    runtime.publish / announce                            runtime.ready() -> numbers that have something to pull
    runtime.wake(now); runtime.wake_at()                  runtime.is_closing(number): close once pulled empty
"""

import heapq
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import msgspec

from sim.base.errors import PeerError
from sim.protocols.events import (
    Answer,
    Closed,
    Event,
    Joined,
    Stale,
    StreamEnded,
)
from sim.protocols.intents import Beat, Compatibility, Intent, Join, Leave, Request, Subscribe, Unsubscribe
from sim.protocols.profile import ServerProfile
from sim.server import misbehaviours
from sim.server.admission import REVOKED, admitted, join_refusal, slow_consumer, subscribe_refusal
from sim.server.closing import Closing
from sim.server.delivery.connection import Connection, Replay
from sim.server.delivery.disorder import client_key
from sim.server.delivery.fanout import FROM_OLDEST
from sim.server.delivery.outbound import Outbound
from sim.server.settings import Defect, RuntimeSettings, Switches
from sim.server.streams import answering
from sim.server.tokens import Claims, Keyring, TokenRefusedError

Cause = Literal["revoked", "expired", "slow_consumer", "silent", "malformed", "stopped"]
"""Why a runtime closes a connection."""


class DeliveryDownError(PeerError):
    """Delivery is down: every socket is refused, with any token."""


class Runtime(Outbound):
    """All streams and connections of the simulated service. Times are unix seconds."""

    def __init__(
        self, settings: RuntimeSettings, keyring: Keyring, profile: ServerProfile, switches: Switches | None = None
    ) -> None:
        super().__init__(settings, profile, switches or Switches())
        self.keyring = keyring
        self.mutations: list[msgspec.Raw] = []  # carried out by the defect `accept_mutation`
        self.closing = Closing(self._connections, self.counters, self._expel_one, profile.close_code)
        self._deadlines: list[tuple[float, int]] = []
        self._opened = 0
        self._revoked: set[str] = set()  # ids of sessions and devices
        self._waiting: dict[str, None] = {}  # topics with live events that are not announced yet

    @property
    def consumers(self) -> int:
        """Number of open sockets."""
        return len(self._connections)

    # --- connections --------------------------------------------------------------------------------

    def take_keys(self, keyring: Keyring) -> None:
        """Verify tokens with these keys from now on."""
        self.keyring = Keyring(keyring.primary) if "forget_fallback_key" in self.switches.defects else keyring

    def open(self, token: str | None, compatibility: Compatibility, now: float) -> int:
        """Admit a socket; raises `TokenRefusedError`, counted, `DeliveryDownError` and `UpgradeRefusedError`."""
        if self.switches.delivery_down:
            self.counters.act("stop_delivery")
            raise DeliveryDownError("sockets are not served now")
        try:
            claims = self._admit(token, now)
        except TokenRefusedError as refusal:
            self.counters.refused(refusal.code)
            if "vague_refusals" in self.switches.defects:
                raise TokenRefusedError("unauthorized", "no good token was given") from None
            raise
        number = self._opened = self._opened + 1
        self.closing.admit(claims.device_id, number, now)
        self.counters.came(key := client_key(claims.device_id))
        beat_at = now + self.settings.heartbeat_interval_s
        self._connections[number] = Connection(number, claims, key, compatibility, now, beat_at)
        heapq.heappush(self._deadlines, (self._deadline(self._connections[number]), number))
        self._deliver_waiting(now, *self._waiting)
        return number

    def _admit(self, token: str | None, now: float) -> Claims:
        """Return the claims of a token; raises `TokenRefusedError`."""
        return admitted(token, self.keyring, now, self.settings, self.switches, self._revoked, self.profile)

    def close(self, number: int) -> None:
        """Remove a closed socket."""
        connection = self._connections.pop(number, None)
        if connection is not None:
            if "forget_revocations" in self.switches.defects:
                self._revoked.discard(connection.claims.session_id)
            self._readers.forget(connection)
            self._ready.discard(number)
            self._disorder.forget(number)

    def is_closing(self, number: int) -> bool:
        """Whether to close the connection after everything was pulled."""
        connection = self._connections.get(number)
        return connection is None or connection.closing

    def end_of(self, number: int) -> Closed:
        """Return the end that the client of a closing connection gets."""
        return self.profile.refusals.closed(self.closing.end_of(number))

    def channel(self, number: int) -> str:
        """Return the client's name for the channel that it joined."""
        return self._connections[number].channel

    def revoke(self, ids: Iterable[str]) -> int:
        """Revoke sessions or devices, by their ids, and close their sockets. Returns the number of sockets."""
        self._revoked.update(ids)
        if "keep_revoked_sockets" in self.switches.defects:
            return 0
        is_everyone = "revoke_everyone" in self.switches.defects
        revoked = self._revoked
        return self._expel(lambda has: is_everyone or not revoked.isdisjoint((has.session_id, has.device_id)), "revoked")

    def hang_up(self, devices: Collection[str]) -> int:
        """Close the sockets of these devices, as the replacement of an instance does; returns their number."""
        is_everyone = "deploy_cuts_everyone" in self.switches.defects
        return self._expel(lambda claims: is_everyone or claims.device_id in devices, "stopped")

    def set_switches(self, switches: Switches) -> int:
        """Change faults and defects; returns how many sockets must authenticate again."""
        self.switches = switches
        self._fanout.set_switches(switches)
        self._disorder.set_switches(switches)
        if switches.delivery_down and (gone := self._expel(lambda claims: True, "stopped")):
            self.counters.act("stop_delivery", gone)
        return self._expel(lambda claims: claims.issued_at < switches.tokens_void_before, "expired")

    def _expel(self, is_out: Callable[[Claims], bool], cause: Cause) -> int:
        gone = [c for c in self._connections.values() if not c.closing and is_out(c.claims)]
        for connection in gone:
            self._close_for(connection, cause)
        return len(gone)

    def _close_for(self, connection: Connection, cause: Cause) -> None:
        """Close a connection, and tell its client the cause as the protocol does."""
        self._expel_one(connection, *(self.profile.expelled if cause in ("revoked", "expired") else ()))

    def _expel_one(self, connection: Connection, *last: Event) -> None:
        self._end_reading(connection)
        connection.close_with(*last)
        self._ready.add(connection.number)

    # --- intents ------------------------------------------------------------------------------------

    def received(self, number: int, intent: Intent, now: float) -> None:
        """Process an intent of a client."""
        connection = self._connections.get(number)
        if connection is None or connection.closing:
            return
        is_of_transport = isinstance(intent, Beat) and not intent.on_channel
        if not (is_of_transport and self.profile.beats_on_channel):
            connection.last_heard = now
        if is_of_transport:
            self._send(connection, Answer(intent.ref, True, is_beat=True))
        elif isinstance(intent, Join):
            self._join(connection, intent)
        elif not connection.joined:
            self._send(connection, self.profile.not_joined(intent.ref, isinstance(intent, Subscribe)))
        elif isinstance(intent, Subscribe):
            self._subscribe(connection, intent, now)
        else:
            self._minor(connection, intent)

    def _minor(self, connection: Connection, intent: Intent) -> None:
        if isinstance(intent, Unsubscribe):
            for topic in intent.streams:
                self._readers.remove(connection, topic)
        elif isinstance(intent, Beat):
            self._mutate(intent.payload, "accept_hidden_mutation")
            if self.profile.beats_on_channel:
                heads = self._fanout.beat(connection, self.profile.heads_in_beats)
                self._send(connection, *heads)
                self._send(connection, Answer(intent.ref, True, is_beat=False), *heads)
                return
        elif isinstance(intent, Request) and not self._mutate(intent.payload, "accept_mutation"):
            self._refuse_unknown(connection, intent)
            return
        if isinstance(intent, Leave):
            self._end_channel(connection)
            # A client that joins again at once must not get this as an answer to the new channel.
            self._send(connection, Answer(intent.ref, True, channel=connection.channel))
            if self.profile.leave_ends is not None:
                self._send(connection, self.profile.leave_ends)
        else:
            self._send(connection, Answer(intent.ref, True))

    def _refuse_unknown(self, connection: Connection, request: Request) -> None:
        event = self.profile.unknown_request(request)
        if isinstance(event, StreamEnded):
            self._end_channel(connection)
        self._send(connection, event)

    def _end_channel(self, connection: Connection) -> None:
        """End the channel but keep the socket: a client may join again over it, under another name."""
        connection.joined = False
        self._end_reading(connection)
        connection.drop_replays()

    def _end_reading(self, connection: Connection) -> None:
        for topic in list(connection.positions):
            self._readers.remove(connection, topic)

    def _mutate(self, payload: msgspec.Raw, defect: Defect) -> bool:
        acts = defect in self.switches.defects and bytes(payload) != b"{}"
        self.mutations += [payload] * acts
        return acts

    def malformed(self, number: int, code: str, now: float) -> None:
        """Answer a malformed message of a client with an error, and do nothing else."""
        connection = self._connections.get(number)
        if connection is None or connection.closing:
            return
        connection.last_heard = now
        if "accept_malformed" in self.switches.defects:
            self._send(connection, Answer("", True))
        elif self.profile.malformed is None:
            self._close_for(connection, "malformed")
        else:
            self._send(connection, self.profile.malformed(code))
        if "malformed_cuts_everyone" in self.switches.defects:
            self.hang_up({each.claims.device_id for each in self._connections.values()})

    def _join(self, connection: Connection, intent: Join) -> None:
        self._end_channel(connection)  # a second join restarts the channel
        connection.channel = intent.channel
        if refusal := join_refusal(connection, intent, self.settings, self.switches, self._revoked, self.profile):
            if refusal.code == REVOKED:
                self.counters.refused("token_revoked")
            self._send(connection, refusal)
            return
        connection.joined = True
        self._send(connection, Joined(intent.ref, f"sub-{connection.number}", connection.claims.topics))

    # --- subscribing --------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, intent: Subscribe, now: float) -> None:
        if refusal := subscribe_refusal(connection.claims, intent, self.switches.defects, self.profile):
            if refusal.streams:
                self.counters.refused("forbidden_topic")
            self._send(connection, refusal)
            return
        if stale := self._stale(intent, now):
            self._send(connection, *stale)
            self._send(connection, *answering(stale, intent.ref))
            return
        for topic, position in intent.after.items():
            self._place(connection, topic, None if position is None else int(position.offset))
        size = min(intent.batch_size or self.settings.replay_batch_size, self.settings.replay_batch_size)
        connection.outbox.append(Replay(intent.ref, list(intent.after), size))
        self._ready.add(connection.number)

    def _place(self, connection: Connection, topic: str, after: int | None) -> None:
        log = self.streams.logs.get(topic)
        oldest = log.oldest if log else 1
        if after is not None and self.profile.clamps_cursors and "echo_cursor_above_head" not in self.switches.defects:
            after = min(after, self.streams.head(topic))
        position = FROM_OLDEST if after is None else misbehaviours.first_position(self.switches, after, oldest)
        self._readers.add(connection, topic, position)

    def _stale(self, intent: Subscribe, now: float) -> tuple[Stale, ...]:
        if "no_stale_signal" in self.switches.defects:
            return ()
        stale = self.streams.refusal(intent, self.switches, now)
        if self.switches.shrunk_budget_events:
            self.counters.act("shrink_replay_budget")
        self.counters.stale_cursors += bool(stale)
        return stale

    # --- publishing ---------------------------------------------------------------------------------

    def announce(self, topic: str, now: float) -> None:
        """Make appended events available to subscribers after they became durable, and trim the window."""
        log = self.streams.logs[topic]
        self.counters.trimmed += log.trim(now)
        self._fanout.forget(topic)
        self._waiting[topic] = None
        if not misbehaviours.waits(self.switches, topic, log.head):
            self._deliver_waiting(now, topic)
        if misbehaviours.leaks(self.switches, log.head):
            self._leak(topic)

    def _deliver_waiting(self, now: float, *topics: str) -> None:
        for topic in topics:
            self._ready.update(self._readers.announce(topic, now))
            del self._waiting[topic]

    def shrink_window(self, topic: str, keep_events: int) -> int:
        """Drop all but the newest events of a topic (a fault); returns the number of dropped events."""
        log = self.streams.log(topic)
        gone = log.keep_newest(keep_events)
        self.counters.trimmed += gone
        self._fanout.forget(topic)
        return gone

    def recreate_log(self, topic: str) -> int:
        """Create a topic's log again and close the sockets that follow it (a fault); returns how many events are gone."""
        gone = self.streams.recreate(topic)
        self._fanout.forget_log(topic)
        for connection in [c for c in self._connections.values() if not c.closing and topic in c.positions]:
            self._end_old_log(connection, topic)
        return gone

    def _end_old_log(self, connection: Connection, topic: str) -> None:
        self._expel_one(connection)

    def _leak(self, topic: str) -> None:
        for connection in self._connections.values():
            if connection.joined and topic not in connection.positions:
                self._send(connection, *self._fanout.newest(topic))
                return

    # --- time ---------------------------------------------------------------------------------------

    def wake_at(self) -> float:
        """Return when to call `wake` next."""
        beat_at = self._deadlines[0][0] if self._deadlines else float("inf")
        return min(beat_at, self._disorder.due_at(), self._readers.tick_at(), self.closing.wake_at())

    def wake(self, now: float) -> None:
        """Send due heartbeats and late events, disconnect silent clients, and warn or evict slow ones."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            if connection := self._connections.get(number):
                self._beat(connection, now)
                heapq.heappush(self._deadlines, (self._deadline(connection), number))
        for number, late in self._disorder.due(now):
            if (connection := self._connections.get(number)) and not connection.closing:
                self._send(connection, *late)
        for connection in self._readers.due(now):
            self._judge_consumer(connection)
        self.closing.wake(now)

    @property
    def _client_timeout_s(self) -> float:
        return misbehaviours.client_timeout_s(self.switches, self.settings)

    def _deadline(self, connection: Connection) -> float:
        return min(connection.beat_at, connection.last_heard + self._client_timeout_s)

    def _beat(self, connection: Connection, now: float) -> None:
        if now >= connection.last_heard + self._client_timeout_s:
            self._end_silent(connection, now)
        if now >= connection.beat_at:
            connection.beat_at = now + self.settings.heartbeat_interval_s
            if connection.joined and not connection.closing:
                self._send(connection, *self._fanout.beat(connection, self.profile.heads_in_beats))

    def _end_silent(self, connection: Connection, now: float) -> None:
        """End the channel of a client from which nothing more came, or its socket."""
        connection.last_heard = now
        if connection.closing:
            return
        if not self.profile.keeps_silent_sockets:
            self.counters.silent_clients += 1
            self._expel_one(connection, *self.profile.silent)
        elif connection.joined:
            self.counters.silent_clients += 1
            self._end_channel(connection)
            self._send(connection, *self.profile.silent)

    def _judge_consumer(self, connection: Connection) -> None:
        """Warn a client with a full queue, or evict it. During a replay neither happens: its events wait in the log."""
        depth = sum(max(self.streams.head(topic) - connection.positions[topic], 0) for topic in connection.pending)
        if depth <= self.settings.outbound_queue_events or connection.is_replaying or not self.profile.evicts:
            connection.strikes = 0
            return
        if {"keep_slow_consumers", "skip_for_slow_consumers"} & self.switches.defects:
            if "skip_for_slow_consumers" in self.switches.defects:
                connection.positions |= {topic: self.streams.head(topic) for topic in connection.pending}
            return
        connection.strikes += 1
        is_evicted = connection.strikes >= self.settings.slow_consumer_strikes
        warning = slow_consumer(self.settings, self.profile, next(iter(connection.pending)), depth, is_evicted)
        if is_evicted:
            self.counters.evicted += 1
            self._expel_one(connection, warning)
        else:
            self._send(connection, warning)
