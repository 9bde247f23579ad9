"""One client of a realtime service as pure code. It knows no protocol: it sends intents and takes events.

Its driver (a socket's or a simulator's) reports what happened and when. The session answers with actions to
carry out, notices of what happened, and the next moment at which it must be woken:

    session.start(now)                      session.actions() -> [Mint | Connect | Send | Close]
    session.minted(token, now)              session.notices() -> [Notice]
    session.received(message, now)          session.wake_at()  -> float
    session.wake(now)

Reconnects, backoff, heartbeats, time-outs and token refresh (`sim.client.lifecycle`) and subscribes and replays live here and
nowhere else, so that two engines cannot disagree about them. What a session does depends on the protocol's capabilities.
`sim.client.transitions` says which state follows which.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sim.base import randomness
from sim.client.actions import ClientSettings, Send
from sim.client.lifecycle import NEVER, Lifecycle
from sim.client.notices import NO_CODE, Run
from sim.client.policies import Policy
from sim.client.replays import Feeds, Replays
from sim.client.transitions import CONNECTED, TRANSITIONS, State, Trigger
from sim.protocols.adapter import CaughtUpSign, HeadSource, ResumingBy, Subscribing
from sim.protocols.events import (
    RETRY,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    DisconnectReason,
    Event,
    Head,
    Joined,
    Malformed,
    Message,
    Next,
    Opened,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Renewed,
    Reply,
    Resumed,
    Stale,
    Step,
    StreamEnded,
)
from sim.protocols.intents import AskHead, Subscribe, Unsubscribe

EVICTION = "slow_consumer"  # the code with which a server evicts a slow client
_RECEIVES = frozenset(TRANSITIONS[Trigger.RECEIVED])
_CONNECTS = frozenset({Opened, Refused})
_DELIVERS = frozenset({Batch, CaughtUp})
_DELIVERY, _SIGNAL, _SINGLE = range(3)
_GROUPS: dict[type, int] = {Batch: _DELIVERY, CaughtUp: _DELIVERY, Head: _DELIVERY, Stale: _SIGNAL}
# The method for each event. Batches, heads and stale signals are processed once per message.
_TAKES: dict[type, str] = {
    **dict.fromkeys((Joined, Resumed, Renewed, PositionUnknown, Answer), "_take_reply"),
    Opened: "connected",
    Refused: "_take_refusal",
    Problem: "_obey",
    Malformed: "_take_malformed",
    StreamEnded: "_take_stream_end",
    Closed: "disconnected",
}


class Session(Lifecycle):
    """One client and its streams. `topics` never change; `checkpoints` are the positions that it had persisted.

    The checkpoint of the stream "" is the session to resume, in protocols whose join resumes.
    """

    def __init__(
        self,
        client: int,
        topics: Iterable[str],
        policy: Policy,
        settings: ClientSettings,
        checkpoints: Mapping[str, Position] | None = None,
    ) -> None:
        super().__init__(client, topics, policy, settings, checkpoints)
        capabilities = self._capabilities = settings.capabilities
        self._replays = Replays()
        self._feeds = Feeds(client, policy, settings, self._note)
        self._names_all = capabilities.subscribing is Subscribing.WHOLE_SET
        self._joins_resume = capabilities.resuming_by is ResumingBy.JOIN
        self._can_resubscribe = not self._joins_resume and (capabilities.can_resubscribe or not capabilities.is_one_connection)
        self._reply_ends_replay = capabilities.caught_up in (CaughtUpSign.REPLY, CaughtUpSign.NONE)
        self._fruitless = 0

    # --- what the driver reads ----------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Subscribed to all streams, on an open connection."""
        return self.state is State.LIVE and not self._feeds.is_down

    @property
    def follows_live(self) -> bool:
        """Live, with no replay running: it takes live events only."""
        return self.is_live and self.is_caught_up and not self._replays.running

    @property
    def only_follows(self) -> bool:
        """The same with no event missing and no request pending: it only applies the runs that continue at its position."""
        return self.follows_live and self._ask_at == NEVER and self.policy.asks_again and not self.replica.behind()

    def why_pending(self) -> str:
        """What this client still waits for, in one or two words."""
        if code := self.end_code or self._feeds.end_code:
            return f"ended:{code}"
        if self.state is not State.LIVE:
            return self.state.name.lower()
        if self._feeds.is_down:
            return "resubscribing"
        return "behind" if self.is_caught_up else "replaying"

    # --- what the driver reports --------------------------------------------------------------------

    def received(self, message: Message, now: float) -> None:
        """A message came in, or the connection was opened, refused or closed."""
        was_open = self.state in _RECEIVES
        self.replica.now = now
        if was_open:
            self._last_heard = now
        elif not message or message[0].__class__ not in _CONNECTS:
            self._move(Trigger.RECEIVED)  # which is illegal here
        if not self._capabilities.is_one_connection:
            self._feeds.hear(message, now, self._silence_limit_s)
            self._schedule()
        # An answer must be taken in its place among the batches and stale signals.
        groups = {_GROUPS.get(event.__class__, _SINGLE) for event in message}
        parts = [message]
        if len(groups) > 1:
            self.replica.learn_baselines(message)
            parts = [tuple(part) for _, part in groupby(message, _group_of)]
        for part in parts:
            if part and not (was_open and self.state not in CONNECTED):  # after a disconnect, ignore the rest
                self._take(part, was_open, now)

    def _take(self, part: Message, was_open: bool, now: float) -> None:
        group = _group_of(part[0])
        if group == _SIGNAL:
            self._take_stale(tuple(event for event in part if isinstance(event, Stale)), now)
        elif group == _DELIVERY and _DELIVERS.isdisjoint([event.__class__ for event in part]):
            self._take_heads(part, now)
        elif group == _DELIVERY:
            self._take_delivery(part, now)
        else:
            for event in part:
                if was_open and self.state not in CONNECTED:
                    return
                if take := _TAKES.get(event.__class__):
                    getattr(self, take)(event, now)

    def follow(self, run: Run, now: float) -> bool:
        """Apply a run as `received` would, if its notices are all that follows; otherwise return False and change nothing."""
        only_delivers = self.state is State.LIVE and self._capabilities.is_one_connection and not self._replays.running
        if not only_delivers or not self.replica.take_run(run):
            return False
        self._last_heard = now
        return True

    # --- joined: replies, errors, heartbeats --------------------------------------------------------

    def _take_reply(self, reply: Reply, now: float) -> None:
        asked = self._replays.asked(reply.ref)
        if reply.ref == self._join_ref and self.state is State.JOINING:
            if isinstance(reply, Joined):
                self._joined(reply, now)
            else:
                self._refused(reply, now)
        elif reply.ref and reply.ref == self._renew_ref:
            if isinstance(reply, Renewed):
                self._take_renewal(reply, now)
            else:
                self._leave(DisconnectReason.TOKEN_REFRESH_DUE, now)
        elif isinstance(reply, PositionUnknown) and (asked or not reply.ref):
            self._take_unknown(reply, now)
        elif asked:
            self._take_answer(reply, asked, now)
        else:
            self._take_other_reply(reply, now)

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        """Process replies to heartbeats, and to requests of negative clients."""

    def _take_refusal(self, refusal: Refused, now: float) -> None:
        if not self._names_all and (own := [stream for stream in refusal.streams if stream in self.replica.cursors]):
            for stream in own:
                self._end_stream(stream, refusal.code, refusal.next, now)
        elif refusal.is_open:
            self._take_reply(refusal, now)
        else:
            (self._obey if self.state in CONNECTED else self.connect_failed)(refusal, now)

    def _refused(self, reply: Reply, now: float) -> None:
        """A join or subscribe was refused."""
        self._note("subscribe_refused", detail=reply.code)
        if isinstance(reply, Refused):
            self._obey(reply, now)

    def _obey(self, event: Refused | Problem, now: float) -> None:
        """Disconnect if the server demands it."""
        if event.next.step is Step.NOTHING:
            return
        if event.code == EVICTION:
            self._note("evicted", detail="disconnect")
        self._leave(event.reason, now, event.next, event.code or NO_CODE)

    def _take_malformed(self, event: Malformed, now: float) -> None:
        self._note("malformed", detail=event.code)

    def _joined(self, joined: Joined, now: float) -> None:
        self._take_join(joined, now)
        if self._joins_resume:
            self._session = joined.session
            if joined.resumed and self.resumable is not None:
                if self.replica.behind():  # the next join must bring what is missing
                    self._session = self.resumable
                self._answered(self.replica.topics, now, ends=True)
                return
            self.resumable = None
            self.replica.lose_session()
        self._subscribe(now)

    def _join(self, now: float) -> None:
        super()._join(now)
        if self.resumable is not None:  # what it missed may come before the answer
            self.replica.begin_replay(self.replica.topics)
            self._replays.ask(self._join_ref, self.replica.topics)

    # --- subscribing --------------------------------------------------------------------------------

    def _subscribe(self, now: float, streams: Sequence[str] = ()) -> None:
        """Subscribe to these streams, by default to all, from their cursors.

        Always name all where a runtime takes the list as the whole set.
        """
        self._ask_at = NEVER
        named = self.replica.topics if self._names_all or not streams else streams
        if named is self.replica.topics:
            self._replays.clear()
        ref = self._next_ref()
        self._replays.ask(ref, named)
        after = self.replica.begin_replay(named)
        self._send_subscribe(ref, dict.fromkeys(after) if self._joins_resume else after, now)
        self._await_reply(now)
        self._schedule()

    def _send_subscribe(self, ref: str, after: dict[str, Position | None], now: float) -> None:
        self._feeds.ask(after, now, self.settings.reply_timeout_s, self._silence_limit_s)
        self._actions.append(Send(Subscribe(ref, after, self.settings.replay_batch_size)))

    def _await_reply(self, now: float) -> None:
        """Start the time-out of the connection; streams with own connections have time-outs of their own."""
        self._reply_by = now + self.settings.reply_timeout_s if self._capabilities.is_one_connection else NEVER

    def _take_answer(self, reply: Reply, asked: Sequence[str], now: float) -> None:
        """Take the answer to a subscribe, for one of its streams or for all."""
        if not reply.ok:
            self._refused(reply, now)
        elif isinstance(reply, Resumed):
            is_missing = self.replica.resume(reply)
            streams = asked if reply.stream is None else [reply.stream]
            if self.replica.has_doubts():
                self._leave(DisconnectReason.UNKNOWN, now)
                return
            if is_missing and self._can_resubscribe:
                self._subscribe(now, streams)
            elif is_missing:
                self._leave(DisconnectReason.STALE_CURSOR, now)
            else:
                self._answered(streams, now, ends=self._reply_ends_replay, head=reply.head)

    def _answered(self, streams: Sequence[str], now: float, *, ends: bool, head: Position | None = None) -> None:
        """Take an answer for some streams. Where only the head shows the end of a replay, it is in the answer or asked for."""
        for stream in streams:
            self._feeds.goes_on(stream, now)
        if self._capabilities.caught_up is CaughtUpSign.HEAD and head is not None:
            self._replays.headed.update(streams)
        elif self._capabilities.caught_up is CaughtUpSign.HEAD and HeadSource.QUERY in self._capabilities.head:
            self._actions += [Send(AskHead(self._next_ref(), stream)) for stream in streams]
        if self._replays.running:  # otherwise it answers the next poll of a stream
            self._replays.answer(streams, ends=ends)
            if not self._replays.unanswered:
                self._go_live(now)
            self._end_replay(now)

    def _go_live(self, now: float) -> None:
        self._await_reply(now)  # for the replay, where it follows the reply
        is_new = self.state is State.SUBSCRIBING
        self._move(Trigger.SUBSCRIBED)
        if is_new:
            self._last_try.is_token_proven, self.resumable = True, self._session or self.resumable
            self._live_since, self.renewing_since = now, -NEVER
            self._note("subscribed", value=(now - self._due) * 1000)
            self._went_live(now)
        self._schedule()

    def _went_live(self, now: float) -> None:
        """For negative clients: the session has just become live."""

    def _answer_missing(self, now: float) -> None:
        """For negative clients: `_answer_by` has passed without an answer."""

    def _ask_again(self, now: float) -> None:
        """Close a hole by a replay from the watermark. If that did not help before, wait, and finally reconnect."""
        if self._fruitless >= self.policy.fruitless_asks or not self._can_resubscribe:
            self._leave(DisconnectReason.UNKNOWN, now)
        elif self._fruitless == 0:
            self._subscribe(now, self.replica.behind())
        elif self._ask_at == NEVER:
            draw = randomness.draw(self.settings.seed, "ask", self.client, self._refs)
            self._ask_at = now + self.policy.backoff.delay_ms(self._fruitless + 1, draw, 0.0) / 1000
            self._schedule()

    def _ask_once_more(self, now: float) -> None:
        self._ask_at = NEVER
        if behind := self.replica.behind():
            self._subscribe(now, behind)
        else:
            self._fruitless = 0

    def _end_replay(self, now: float) -> None:
        """A replay has ended when both its reply and the sign of its end have come, in whichever order."""
        for stream in self._replays.headed & self._replays.incomplete:
            if self.replica.has_reached_head(stream):
                self._replays.complete(stream)
        if not self._replays.is_complete:
            return
        streams, self._reply_by = self._replays.finish(), NEVER
        # After a repeated replay, events that the live tail had delivered earlier may look like a hole in the replay.
        behind = self.replica.end_replay(streams, diverged=not self.is_caught_up or self._fruitless > 0)
        is_first = not self.is_caught_up and not self._feeds.is_down  # otherwise another stream is still to come back
        self._note("replay_completed", value=(now - self._due) * 1000 if is_first else math.nan)
        self.is_caught_up |= is_first
        self._rejoins = 0
        self._fruitless = self._fruitless + 1 if behind else 0
        if behind:
            self._ask_again(now)

    def _end_slow_replay(self, now: float) -> bool:
        if self.state is not State.LIVE or self._replays.unanswered or not self._replays.running:
            return False
        self._replays.complete(None)  # a server that does not say when a replay is complete
        self._end_replay(now)
        return True

    # --- streams that end one by one ----------------------------------------------------------------

    def _take_stream_end(self, event: StreamEnded, now: float) -> None:
        if event.stream is not None:
            self._end_stream(event.stream, event.code, event.next, now)
        elif event.next.step is Step.RESUBSCRIBE and self._capabilities.can_resubscribe:
            self._rejoin(event.code, event.next, now)
        else:
            self._leave(DisconnectReason.UNKNOWN, now, event.next, event.code or NO_CODE)

    def _end_stream(self, topic: str, code: str, hint: Next, now: float) -> None:
        """A stream ended, or was refused, while the connection stays open: subscribe to it again when the server allows."""
        reason = DisconnectReason.STREAM_CLOSED
        if topic not in self.replica.cursors or hint.step is Step.NOTHING:
            return
        stream = self.replica.cursors[topic].stream
        if hint.step is Step.MINT or not self._can_resubscribe:
            if not self._capabilities.is_one_connection:
                self._note("subscribe_refused", stream, detail=code)
            self._leave(reason, now, hint, code)
            return
        self._replays.drop(topic)
        if hint.step is Step.TERMINAL:
            self._note_stream_end(stream, code, hint)
            self._note("subscribe_refused", stream, detail=code)
            self._feeds.end_for_good(topic, code)
            if self._feeds.has_only_ended(self.replica.topics):
                self._leave(reason, now, hint, code)
                return
        elif (delay_ms := self._feeds.end(topic, hint, now, code, is_live=self.state is State.LIVE)) is not None:
            self.is_caught_up, self._due = False, max(self._due, now + delay_ms / 1000)
            if hint.step is Step.REFETCH:
                self.replica.refetch(topic)
            self._note_stream_end(stream, code, hint)
            self._note("backoff", stream, attempt=self._feeds[topic].retries.attempt, value=delay_ms, detail=reason)
        self._answered((), now, ends=False)
        self._schedule()

    def _wake_streams(self, now: float) -> None:
        if now >= self._ask_at:
            self._ask_once_more(now)
        if now >= self._answer_by:
            self._answer_missing(now)
        for topic in self._feeds.overdue(now) if self._notices_silence else ():
            self._note("heartbeat_timeout", self.replica.cursors[topic].stream)
            self._actions.append(Send(Unsubscribe(self._next_ref(), (topic,))))
            self._end_stream(topic, "timeout", RETRY, now)
        if self.state in CONNECTED and self.state is not State.JOINING:
            self._retry_streams(self._feeds.to_retry(now), now)

    def _retry_streams(self, due: Sequence[str], now: float) -> None:
        lost = [topic for topic in due if self._feeds[topic].is_down]
        for topic in [topic for topic in due if topic not in lost]:  # a poll ended, which is no disconnect
            ref = self._next_ref()
            self._replays.poll(ref, topic)
            self._send_subscribe(ref, {topic: self.replica.poll(topic)}, now)
        if lost:
            self._subscribe(now, lost)

    def _streams_due(self) -> float:
        return self._feeds.due() if self.state in CONNECTED else NEVER

    def _clear_streams(self) -> None:
        self._replays.clear()
        self._feeds.clear()
        self._fruitless = 0

    # --- stale cursors and unknown positions --------------------------------------------------------

    def _take_stale(self, signals: tuple[Stale, ...], now: float) -> None:
        """Before it is live: subscribe again, only once if a push and the reply report the same. When live: reconnect.

        On a live connection, tail events may be under way. Without a cursor, the session would take the first of them
        as the start of the replay. It would then report all events of the replay as lost.
        """
        ref = signals[0].ref
        if self.state is State.JOINING:
            return
        if ref and not self._replays.asked(ref):
            self._take_other_reply(signals[0], now)
            return
        if not ref and self.replica.has_dropped(signals):
            return  # the push belongs to the previous subscribe; otherwise the reply or its time-out shows it
        again = self.replica.take_stale(signals, self.retries.disconnects)
        named = [each.stream for each in signals if each.stream is not None]
        if all(each.subscribed_at is not None for each in signals):
            for each in signals:
                streams = self.replica.topics if each.stream is None else [each.stream]
                self._answered(streams, now, ends=self._reply_ends_replay, head=each.head)
        elif again and self.policy.takes_snapshots and self.state is State.SUBSCRIBING:
            self._subscribe(now, named)
        else:
            self._leave(DisconnectReason.STALE_CURSOR, now)

    def _take_unknown(self, event: PositionUnknown, now: float) -> None:
        """Go on where the server subscribed the client, or subscribe again, once, without a position."""
        had_position = self.replica.take_unknown(event)
        if event.subscribed_at is not None:
            self._answered([event.stream], now, ends=self._reply_ends_replay, head=event.head)
        elif had_position and (event.ref or not self._capabilities.is_one_connection):
            self._subscribe(now, [event.stream])
        else:
            self._leave(DisconnectReason.STALE_CURSOR, now)

    # --- events -------------------------------------------------------------------------------------

    def _take_heads(self, message: Message, now: float) -> None:
        """Process the heads of a heartbeat, or the answer to a question for one."""
        stuck = self.replica.compare_heads(message)
        if self.replica.has_doubts():
            self._leave(DisconnectReason.UNKNOWN, now)
            return
        if self._replays.running:
            self._replays.headed.update(event.stream for event in message if isinstance(event, Head))
            if self._capabilities.caught_up is CaughtUpSign.HEAD:
                self._end_replay(now)
        elif stuck and self.policy.asks_again and self.state is State.LIVE:
            self._ask_again(now)

    def _take_delivery(self, message: Message, now: float) -> None:
        hole, is_asking = False, bool(self._replays.running)
        if (run := self.settings.run_of(message)) and self.replica.take_run(run, is_asking):
            self._notes.add_shared(run.notices)
        else:
            hole = self.replica.take_batches(message, self._replays.running, is_asking and not self.is_caught_up)
            hole |= self.replica.learn_heads(message)
        if self._joins_resume and not self.replica.behind():  # otherwise the next join must bring what is missing
            self._learn_session(message)
        if hole and self.replica.has_doubts():
            # As with a stale cursor on a live connection: events under way must not count as part of the new replay.
            self._leave(DisconnectReason.UNKNOWN, now)
        elif is_asking:
            if self.state is State.SUBSCRIBING:
                self._await_reply(now)  # a long replay does not count as silence
            for event in message:
                if isinstance(event, CaughtUp):
                    self._replays.complete(event.stream)
            self._end_replay(now)
        elif hole and self.state is State.LIVE:
            self._ask_again(now)


def _group_of(event: Event) -> int:
    return _GROUPS.get(event.__class__, _SINGLE)
