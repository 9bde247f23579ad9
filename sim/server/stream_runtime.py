"""A runtime whose server answers the subscribe of each stream by itself, in positions of the protocol's own form.

The core counts the events of each stream from 1, as in every runtime. What a connection pulls is converted when it is sent.
`sim.protocols.habits` has what differs from protocol to protocol.
"""

import heapq
import math

import msgspec

from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    Event,
    Head,
    Item,
    Joined,
    Message,
    PositionUnknown,
    Renewed,
    Resumed,
    Stale,
)
from sim.protocols.habits import Asked, LogState, StreamHabits
from sim.protocols.intents import AskHead, Beat, Compatibility, Intent, Join, Leave, Poll, Renew, Subscribe, Unsubscribe
from sim.protocols.profile import ServerProfile
from sim.server import misbehaviours
from sim.server.admission import subscribe_refusal
from sim.server.delivery.connection import Connection, Polled, Replay
from sim.server.delivery.fanout import NO_LIMIT
from sim.server.delivery.forms import Forms
from sim.server.delivery.sessions import SessionStore
from sim.server.runtime import Cause, Runtime
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import Claims, Keyring, TokenRefusedError, of_nobody, unverified


class StreamRuntime(Runtime):
    """See `Runtime`. `habits` are the profile's."""

    def __init__(
        self,
        settings: RuntimeSettings,
        keyring: Keyring,
        profile: ServerProfile,
        habits: StreamHabits,
        switches: Switches | None = None,
    ) -> None:
        super().__init__(settings, keyring, profile, switches)
        self._habits = habits
        self._sessions = SessionStore(habits.sessions) if habits.sessions else None
        self._forms = Forms(habits, self.streams, self._sessions)
        self._ends: dict[int, Closed] = {}  # by connection that is closing
        self._polls_due: list[tuple[float, int]] = []  # a heap: when to look at a connection that polls, and its number
        self._now = -math.inf

    # --- connections --------------------------------------------------------------------------------

    def open(self, token: str | None, compatibility: Compatibility, now: float) -> int:
        """See `Runtime`."""
        number = super().open(token, compatibility, now)
        self._connections[number].joined = not self._habits.has_join
        return number

    def _admit(self, token: str | None, now: float) -> Claims:
        if self._habits.reads_tokens and not self._habits.checks_token_at_join:
            return super()._admit(token, now)
        try:
            return unverified(token or "")
        except TokenRefusedError:
            return of_nobody()

    def close(self, number: int) -> None:
        """See `Runtime`. A client that was lost may resume its session; another connection of it is deaf from now on."""
        if (connection := self._connections.get(number)) is not None:
            self._keep_session(connection)
        super().close(number)
        self._ends.pop(number, None)

    def _keep_session(self, connection: Connection) -> None:
        if not connection.joined or self._sessions is None:
            return
        connection.joined = False
        if connection.end is not None and self._habits.sessions is not None and "closed" in self._habits.sessions.ended_by:
            return
        self._sessions.keep(connection, self._now)
        for other in self._connections.values():
            if other is not connection and other.session == connection.session:
                self._end_reading(other)
                other.is_deaf = True

    def _expel_one(self, connection: Connection, *last: Event) -> None:
        self._keep_session(connection)
        super()._expel_one(connection, *last)

    def end_of(self, number: int) -> Closed:
        """See `Runtime`."""
        return self._ends.get(number) or super().end_of(number)

    def _close_for(self, connection: Connection, cause: Cause) -> None:
        if (sessions := self._habits.sessions) is not None and cause in sessions.ended_by:
            connection.joined = False  # its session is not kept
        self._end(connection, self._habits.endings[cause])

    def _end(self, connection: Connection, ending: Message) -> None:
        """Send the events of an ending; if the last is the end of the connection, close it."""
        *last, end = ending
        if not isinstance(end, Closed):
            self._send(connection, *ending)
            return
        self._ends[connection.number] = end
        self._expel_one(connection, *last)

    # --- intents ------------------------------------------------------------------------------------

    def received(self, number: int, intent: Intent, now: float) -> None:
        """See `Runtime`. A beat answers a ping."""
        self._now = now
        connection = self._connections.get(number)
        if connection is None or connection.closing:
            return
        connection.last_heard = now
        if isinstance(intent, Join):
            self._take_join(connection, intent, now)
        elif not connection.joined:
            self._send(connection, self.profile.not_joined(getattr(intent, "ref", ""), isinstance(intent, Subscribe)))
        else:
            self._take(connection, intent, now)

    def _take(self, connection: Connection, intent: Intent, now: float) -> None:
        match intent:
            case Poll():
                self._take_poll(connection, intent, now)
            case Subscribe():
                self._subscribe(connection, intent, now)
            case Unsubscribe(streams=streams):
                for topic in streams:
                    self._readers.remove(connection, topic)
            case Renew():
                self._renew(connection, intent, now)
            case AskHead(stream=stream):
                # It follows all events before it, so for a reader it is what was sent.
                at = connection.positions.get(stream, self.streams.head(stream))
                self._send(connection, Head(stream, self._forms.position(stream, at)))
            case Leave(ref=ref):
                self._end_channel(connection)
                self._send(connection, Answer(ref, True))
            case Beat():
                pass
            case _:
                self._close_for(connection, "malformed")

    def _take_join(self, connection: Connection, intent: Join, now: float) -> None:
        self._end_channel(connection)
        if self._habits.checks_token_at_join:
            try:
                connection.claims = super()._admit(intent.token, now)
            except TokenRefusedError as refusal:
                self._refuse_token(connection, intent.ref, refusal)
                return
        connection.joined = True
        joined = Joined(intent.ref, token_ttl_s=self._ttl_s(connection, now), ping_s=self.settings.heartbeat_interval_s)
        if self._sessions is None:
            self._send(connection, joined)
        else:
            self._open_session(connection, intent, joined, self._sessions, now)

    def _open_session(self, connection: Connection, intent: Join, joined: Joined, sessions: SessionStore, now: float) -> None:
        """Resume the session that the join names, with what its client missed before the answer, or make a new one."""
        found = sessions.resume(intent.session, now) if intent.session else None
        if found is None:
            connection.session = sessions.new()
            self._send(connection, msgspec.structs.replace(joined, session=sessions.written(connection)))
            return
        connection.session = found.name
        for topic, seq in found.after.items():
            self._readers.add(connection, topic, seq)
        session = intent.session or ""
        answer = msgspec.structs.replace(joined, session=session, resumed=True)
        connection.outbox.append(Replay(intent.ref, list(found.after), self.settings.replay_batch_size, answer=(answer,)))
        self._ready.add(connection.number)

    def _renew(self, connection: Connection, intent: Renew, now: float) -> None:
        try:
            connection.claims = super()._admit(intent.token, now)
        except TokenRefusedError as refusal:
            self._refuse_token(connection, intent.ref, refusal)
        else:
            self._send(connection, Renewed(intent.ref, self._ttl_s(connection, now)))

    def _refuse_token(self, connection: Connection, ref: str, refusal: TokenRefusedError) -> None:
        self.counters.refused(refusal.code)
        self._end(connection, self._habits.refused_token(ref, refusal.code))

    def _ttl_s(self, connection: Connection, now: float) -> float | None:
        """Return how long the token is still good for the connection; None: for ever."""
        is_stated = self._habits.states_expiry and self._habits.expiry_grace_s is not None
        return None if not is_stated else max(connection.claims.expires_at - now, 0.0)

    # --- subscribing --------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, intent: Subscribe, now: float) -> None:
        refused: tuple[str, ...] = ()
        if self._habits.reads_tokens:
            refusal = subscribe_refusal(connection.claims, intent, self.switches.defects, self.profile)
            if refusal is not None:
                self.counters.refused("forbidden_topic")
                self._send(connection, refusal)
                refused = refusal.streams or tuple(intent.after)
        size = min(intent.batch_size or self.settings.replay_batch_size, self.settings.replay_batch_size)
        for topic, after in intent.after.items():
            if topic not in refused:
                self._start(connection, Asked(intent.ref, topic, after, self._state(topic)), size)

    def _state(self, topic: str) -> LogState:
        """Return a stream's log as far as this server replays it."""
        log, limit = self.streams.log(topic), self._habits.max_replayed
        floor = log.oldest - 1
        if limit:
            floor = max(floor, log.head - limit)
        return LogState(self.streams.epoch(topic), floor, log.head)

    def _start(self, connection: Connection, asked: Asked, size: int) -> None:
        answer = self._placed(connection, asked)
        if answer is None:
            return
        if self._habits.answers_first:
            self._send(connection, *answer)
            answer = ()
        connection.outbox.append(Replay(asked.ref, [asked.stream], size, answer=answer))
        self._ready.add(connection.number)

    def _placed(self, connection: Connection, asked: Asked) -> Message | None:
        """Let a connection read a stream; return the answer, or None after a refusal, which is sent."""
        after, answer = self._habits.start(asked)
        self.counters.stale_cursors += any(isinstance(event, Stale | PositionUnknown) for event in answer)
        if after is None:
            self._send(connection, *answer)
            return None
        if asked.after is not None and any(isinstance(event, Resumed) for event in answer):
            after = misbehaviours.first_position(self.switches, after, asked.log.floor + 1)
        self._disorder.restart(connection.number, asked.stream)
        if not connection.is_deaf:
            self._readers.add(connection, asked.stream, after)
        return answer

    # --- long polls ---------------------------------------------------------------------------------

    def _take_poll(self, connection: Connection, intent: Poll, now: float) -> None:
        ((stream, after),) = intent.after.items()
        answer = self._placed(connection, Asked(intent.ref, stream, after, self._state(stream)))
        if answer is None:
            self._next_poll_by(connection, now)
            return
        until = now + self.settings.heartbeat_interval_s if intent.waits else now
        connection.poll = Polled(stream, answer, until)
        self._look_at(connection, until)
        self._ready.add(connection.number)

    def _whole_answer(self, connection: Connection, poll: Polled, now: float) -> Message | None:
        """Return the answer to a poll, with all events after its position; None while it waits for one."""
        topic = poll.stream
        items = self._fanout.replay(connection, topic, NO_LIMIT)
        connection.pending.pop(topic, None)
        if not items and now < poll.until:
            return None
        message: Message = (Batch(topic, items),)
        if items and not self._disorder.is_idle:
            message = self._disorder.disturb(connection, message, now)
        if any(isinstance(event, Batch) for event in message) or not message:
            found = [item for event in message if isinstance(event, Batch) for item in event.items]
            self.counters.served += len(found)
            message = self._forms.whole(connection, topic, found)
        self._readers.remove(connection, topic)
        self._next_poll_by(connection, now)
        return (*poll.answer, *message)

    def _next_poll_by(self, connection: Connection, now: float) -> None:
        """Keep a connection without a request for a while."""
        connection.poll = None
        if self._habits.polls is not None:
            self._look_at(connection, now + self._habits.polls.idle_s)

    def _look_at(self, connection: Connection, moment: float) -> None:
        connection.poll_due_at = moment
        heapq.heappush(self._polls_due, (moment, connection.number))

    def _wake_polls(self, now: float) -> None:
        """Answer the polls that waited long enough, and close the connections whose client polls no more."""
        while self._polls_due and self._polls_due[0][0] <= now:
            moment, number = heapq.heappop(self._polls_due)
            connection = self._connections.get(number)
            if connection is None or connection.closing or connection.poll_due_at != moment:
                continue
            if connection.poll is not None:
                self._ready.add(number)
            else:
                self._close_for(connection, "silent")

    # --- messages out -------------------------------------------------------------------------------

    def announce(self, topic: str, now: float) -> None:
        """See `Runtime`."""
        self._now = now
        if self._sessions is not None:
            self._sessions.number(topic, self.streams.logs[topic], now)
        super().announce(topic, now)

    def pull(self, number: int, now: float) -> Message | None:
        """See `Runtime`."""
        polling = self._connections.get(number)
        if polling is not None and polling.poll is not None and not polling.outbox:
            return self._whole_answer(polling, polling.poll, now)
        message = super().pull(number, now)
        if message is None or not any(isinstance(event, Batch) for event in message):
            return message
        connection = self._connections[number]
        converted = self._forms.converted(message, connection)
        if self._habits.items_have_positions:
            return converted
        streams = (event.stream for event in converted if isinstance(event, Batch))
        return (*converted, *(CaughtUp(stream) for stream in streams if self._fanout.is_current(connection, stream)))

    def _stated(self, connection: Connection, topic: str) -> Batch:
        """Return a message without events, that only states a position."""
        return Batch(topic, (), self._forms.position(topic, connection.positions[topic]))

    def _replay_batch(self, connection: Connection, replay: Replay, now: float) -> Message | None:
        items: tuple[Item, ...] = ()
        topic = ""
        while replay.next_topic < len(replay.topics) and not items:
            topic = replay.topics[replay.next_topic]
            if ended := self._fall_off(connection, topic, now):
                connection.outbox[0] = ended
                return None
            items = self._fanout.replay(connection, topic, replay.batch_size)
            if self._fanout.is_current(connection, topic):
                replay.next_topic += 1
        is_complete = replay.next_topic == len(replay.topics)
        if is_complete:
            connection.outbox.popleft()
            if replay.answer:
                connection.outbox.appendleft(self._answer(connection, replay))
            if self._habits.says_caught_up:
                connection.outbox.appendleft(tuple(CaughtUp(each) for each in replay.topics))
        if not items and is_complete and not self._habits.items_have_positions:
            return tuple(self._stated(connection, each) for each in replay.topics)
        return self._fanout.replay_message(topic, items, False, ()) if items else None

    def _answer(self, connection: Connection, replay: Replay) -> Message:
        """Return the answer after a replay. Its head is what was sent meanwhile, too."""
        (answer,) = replay.answer
        if isinstance(answer, Resumed) and answer.head is not None and answer.stream in connection.positions:
            head = self._forms.position(answer.stream, connection.positions[answer.stream])
            return (msgspec.structs.replace(answer, head=head),)
        return replay.answer

    def _fall_off(self, connection: Connection, topic: str, now: float) -> Message:
        if not self._fanout.has_fallen_off(connection, topic):
            return ()
        if self._habits.fell_off is None:
            connection.positions[topic] = self.streams.logs[topic].oldest - 1
            return ()
        self._readers.remove(connection, topic)
        self.counters.stale_cursors += 1
        return (self._habits.fell_off(topic),)

    def _end_old_log(self, connection: Connection, topic: str) -> None:
        """End reading a log that is gone; a server may leave its reader on an open connection, without a word."""
        if connection.poll is not None and self._habits.polls is not None:
            self._readers.remove(connection, topic)
            self._next_poll_by(connection, self._now)
            self._send(connection, self._habits.polls.log_gone(topic))
        elif self._habits.tells_of_new_log:
            super()._end_old_log(connection, topic)
        else:
            self._readers.remove(connection, topic)

    # --- time ---------------------------------------------------------------------------------------

    def wake_at(self) -> float:
        """See `Runtime`."""
        return min(super().wake_at(), self._polls_due[0][0] if self._polls_due else math.inf)

    def wake(self, now: float) -> None:
        """See `Runtime`."""
        self._now = now
        super().wake(now)
        self._wake_polls(now)

    def _expires_at(self, connection: Connection) -> float:
        grace_s = self._habits.expiry_grace_s
        return math.inf if grace_s is None or not connection.joined else connection.claims.expires_at + grace_s

    def _deadline(self, connection: Connection) -> float:
        if connection.closing:
            return math.inf
        due_at = super()._deadline(connection) if self._habits.asks_clients else connection.beat_at
        return min(due_at, self._expires_at(connection))

    def _beat(self, connection: Connection, now: float) -> None:
        """Send a ping, or close the connection of a silent client, or after its token's end."""
        if connection.closing:
            return
        if self._habits.asks_clients and now >= connection.last_heard + self._client_timeout_s:
            self.counters.silent_clients += 1
            self._close_for(connection, "silent")
        elif now >= self._expires_at(connection):
            self._close_for(connection, "expired")
        elif now >= connection.beat_at:
            connection.beat_at = now + self.settings.heartbeat_interval_s
            if connection.poll is None and (beat := self._beat_of(connection)):
                self._send(connection, *beat)

    def _beat_of(self, connection: Connection) -> Message:
        """Return a ping. It may state positions, or that deliveries are missing."""
        if not self._habits.items_have_positions:
            return tuple(self._stated(connection, each) for each in connection.positions)
        counts, number = self.profile.counts_deliveries, connection.number
        missing = [each for each in connection.positions if counts and self._disorder.takes_missing(number, each)]
        return tuple(Batch(each, (), is_after_gap=True) for each in missing) or (Activity(),)

    def _judge_consumer(self, connection: Connection) -> None:
        """Disconnect a client with too many bytes that were not sent yet."""
        limit = self._habits.max_unsent_bytes
        if not limit or connection.is_replaying or {"keep_slow_consumers"} & self.switches.defects:
            return
        logs = self.streams.logs
        unsent = (logs[topic].after(connection.positions[topic], NO_LIMIT) for topic in connection.pending)
        if sum(len(entry.payload) for entries in unsent for entry in entries) > limit:
            self.counters.evicted += 1
            self._close_for(connection, "slow_consumer")
