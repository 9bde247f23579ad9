"""One client of a realtime service as pure code. It knows no protocol: it sends intents and takes events.

Its driver (a socket's or a simulator's) reports what happened and when. The session answers with actions to
carry out, notices of what happened, and the next moment at which it must be woken:

    session.start(now)                      session.actions() -> [Mint | Connect | Send | Close]
    session.minted(token, now)              session.notices() -> [Notice]
    session.received(message, now)          session.wake_at()  -> float
    session.wake(now)

Reconnects, backoff, heartbeats, time-outs and token refresh live here and nowhere else, so that two
engines cannot disagree about them. `sim.client.transitions` says which state follows which. All times are unix seconds;
randomness is `draw(seed, purpose, client, n)`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from sim.base import randomness
from sim.base.errors import IllegalMoveError
from sim.client.actions import Action, ClientSettings, Close, Connect, Mint, Send, Token, TokenRequest
from sim.client.notices import Notes, Notice, Run
from sim.client.policies import Policy, Retries
from sim.client.replica import Replica
from sim.client.transitions import CONNECTED, TRANSITIONS, State, Trigger
from sim.protocols.events import (
    MINTS_FIRST,
    RETRY,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    DisconnectReason,
    Head,
    Joined,
    Malformed,
    Message,
    Next,
    Opened,
    Position,
    Problem,
    Refused,
    Reply,
    Resumed,
    Stale,
    Step,
    StreamEnded,
)
from sim.protocols.intents import Beat, Compatibility, Join, Subscribe

NEVER = math.inf
EVICTION = "slow_consumer"  # the code with which a server evicts a slow client
_RECEIVES = frozenset(TRANSITIONS[Trigger.RECEIVED])
_DELIVERS, _CONNECTS = frozenset({Batch, CaughtUp}), frozenset({Opened, Refused})
# The method for each event. Batches, heads and stale signals are processed once per message.
_TAKES: dict[type, str] = {
    Opened: "connected",
    Joined: "_take_reply",
    Resumed: "_take_reply",
    Refused: "_take_refusal",
    Answer: "_take_reply",
    Problem: "_take_problem",
    Malformed: "_take_malformed",
    StreamEnded: "_take_stream_end",
    Closed: "disconnected",
}


class Session:
    """One client and its streams. `topics` never change; `checkpoints` are the positions that it had persisted."""

    def __init__(
        self,
        client: int,
        topics: Iterable[str],
        policy: Policy,
        settings: ClientSettings,
        checkpoints: Mapping[str, Position] | None = None,
    ) -> None:
        self.client = client
        self.policy = policy
        self.settings = settings
        self.state = State.IDLE
        self._notes = Notes()
        self._note = self._notes.add
        self.replica = Replica(topics, policy, self._note, checkpoints or {}, settings)
        self._notices_silence = "trusts_silence" not in policy.defects
        self.token: Token | None = None
        self.retries = Retries(client, policy, settings.seed)
        self.is_caught_up = False
        self.must_mint = True  # the next connect needs a new token
        self.sign_ins = 0  # how often a revoked session was followed by a new one
        self._actions: list[Action] = []
        self._refs = 0
        self._join_ref = self._ask_ref = ""
        self._asking = False  # a subscribe's replay is running
        self._ask_answered = self._ask_complete = False
        self._fruitless = 0
        self._due = 0.0  # when the running attempt was due
        self._live_since = NEVER
        self.renewing_since = -NEVER  # when it disconnected to renew its token; it is not live again yet
        self._last_heard = 0.0
        self._retry_at = self._reply_by = self._beat_at = self._refresh_at = self._ask_at = self._answer_by = NEVER
        self._wake_at = NEVER

    # --- what the driver reads ----------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Actions to carry out now, in order; each is returned once."""
        out, self._actions = self._actions, []
        return out

    def notices(self) -> Sequence[Notice]:
        """What happened since the last call. Many clients may share the same tuple object."""
        return self._notes.take()

    def wake_at(self) -> float:
        """When to call `wake`; infinity: only after another call. Waking earlier does no harm."""
        return self._wake_at

    @property
    def token_request(self) -> TokenRequest:
        """What to ask the control service for."""
        sign_in = f".{self.sign_ins}" if self.sign_ins else ""
        return TokenRequest(f"client-{self.client}{sign_in}", self.replica.topics, self.settings.token_ttl_s)

    @property
    def is_live(self) -> bool:
        """Subscribed, on an open socket."""
        return self.state is State.LIVE

    @property
    def only_follows(self) -> bool:
        """Live, with no event missing and no request pending: it only has to apply the runs that continue at its position."""
        is_idle = self.state is State.LIVE and self.is_caught_up and not self._asking and self._ask_at == NEVER
        return is_idle and self.policy.asks_again and not self.replica.is_behind()

    def why_pending(self) -> str:
        """What this client still waits for, in one or two words."""
        if self.state is not State.LIVE:
            return self.state.name.lower()
        return "behind" if self.is_caught_up else "replaying"

    # --- what the driver reports --------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start: mint a token, then connect."""
        self._move(Trigger.START)
        self._due = now
        self._begin_attempt(now)
        self._schedule()

    def stop(self, now: float) -> None:
        """Stop permanently."""
        if self.state in CONNECTED or self.state is State.CONNECTING:
            self._actions.append(Close())
        self._move(Trigger.STOP)
        self._clear_deadlines()
        self._schedule()

    def minted(self, token: Token, now: float) -> None:
        """The control service issued a token."""
        self._move(Trigger.MINTED)
        self._note("token_minted", value=(now - self._due) * 1000, detail=token.key_id)
        self.token, self.must_mint, self._due = token, False, now
        self._connect(now)
        self._schedule()

    def mint_failed(self, code: str, now: float, hint_ms: float | None = None) -> None:
        """The control service issued no token."""
        self._move(Trigger.MINT_FAILED)
        self._note("token_refused", value=(now - self._due) * 1000, detail=code)
        self._back_off(DisconnectReason.UNAUTHORIZED, now, hint_ms)
        self._schedule()

    def received(self, message: Message, now: float) -> None:
        """A message came in, or the connection was opened, refused or closed."""
        was_open = self.state in _RECEIVES
        if was_open:
            self._last_heard = now
        elif not message or message[0].__class__ not in _CONNECTS:
            self._move(Trigger.RECEIVED)  # which is illegal here
        if message and message[0].__class__ is Head:
            self._take_heads(message, now)
        elif message and message[0].__class__ is Stale:
            self._take_stale(tuple(event for event in message if isinstance(event, Stale)), now)
        elif not _DELIVERS.isdisjoint([event.__class__ for event in message]):
            self._take_delivery(message, now)
        for event in message:
            if was_open and self.state is State.BACKOFF:
                return  # it has disconnected; ignore the rest
            if take := _TAKES.get(event.__class__):
                getattr(self, take)(event, now)

    def connected(self, event: Opened, now: float) -> None:
        """The connection is open."""
        self._move(Trigger.CONNECTED)
        self._note("connect_done", value=(now - self._due) * 1000)
        self._last_heard = now
        self.replica.begin_connection()
        self._join_ref = self._next_ref()
        self._actions.append(Send(Join(self._join_ref, self._metadata(), self.token.text if self.token else "")))
        self._reply_by = now + self.settings.reply_timeout_s
        self._beat_at = now + self.settings.heartbeat_interval_s
        self._refresh_at = self.token.refresh_at if self.token else NEVER
        self._schedule()

    def connect_failed(self, refusal: Refused, now: float) -> None:
        """The connection could not be opened."""
        self._move(Trigger.CONNECT_FAILED)
        self._note("connect_failed", value=(now - self._due) * 1000, detail=refusal.code)
        self._back_off(refusal.reason, now, refusal.next.wait_ms)
        self._schedule()

    def disconnected(self, event: Closed, now: float) -> None:
        """The connection ended."""
        self._lost(event.reason, now, event.next)
        self._schedule()

    def follow(self, run: Run, now: float) -> None:
        """Apply a run that continues at this client's position, as `received` would. The notices are those of `run`.

        Call it only if the client `only_follows` and has received only such runs since.
        """
        if self.state is not State.LIVE or not self.replica.follow(run):
            raise IllegalMoveError(f"client {self.client}: a run that does not go on from where it is")
        self._last_heard = now

    def wake(self, now: float) -> None:
        """A deadline may have passed."""
        if self.state is State.BACKOFF and now >= self._retry_at:
            self._due = self._retry_at
            self._begin_attempt(now)
        elif now >= self._reply_by:
            self._time_out(now)
        elif self.state in CONNECTED:
            self._wake_connected(now)
        self._schedule()

    # --- connecting ---------------------------------------------------------------------------------

    def _begin_attempt(self, now: float) -> None:
        self._retry_at = NEVER
        if self.must_mint or self.token is None or now >= self.token.refresh_at:
            self._move(Trigger.NEEDS_TOKEN)
            self._actions.append(Mint())
        else:
            self._move(Trigger.HAS_TOKEN)
            self._connect(now)

    def _connect(self, now: float) -> None:
        assert self.token is not None
        self._reply_by = now + self.settings.reply_timeout_s
        self._note("connect_attempted")
        self._actions.append(Connect(self.token, self._metadata()))

    def _metadata(self) -> Compatibility:
        """Return what the client reports about itself."""
        return self.settings.compatibility

    def _wake_connected(self, now: float) -> None:
        if self._notices_silence and now >= self._last_heard + self.settings.silence_limit_s:
            self._note("heartbeat_timeout")
            self._leave(DisconnectReason.NETWORK, now)
            return
        if now >= self._refresh_at:
            self._leave(DisconnectReason.TOKEN_REFRESH_DUE, now)
            return
        if now >= self._beat_at:
            self._actions.append(Send(Beat(self._next_ref())))
            self._beat_at = now + self.settings.heartbeat_interval_s
        if now >= self._ask_at:
            self._ask_once_more(now)
        if now >= self._answer_by:
            self._answer_missing(now)

    def _time_out(self, now: float) -> None:
        self._reply_by = NEVER
        if self.state is State.CONNECTING:
            self._actions.append(Close())
            self._move(Trigger.CONNECT_FAILED)
            self._note("connect_failed", value=(now - self._due) * 1000, detail="timeout")
            self._back_off(DisconnectReason.NETWORK, now, None)
        elif self.state is State.LIVE and self._ask_answered:
            self._ask_complete = True  # a server that does not say when a replay is complete
            self._end_replay(now)
        elif self.state in CONNECTED:
            self._leave(DisconnectReason.NETWORK, now)

    def _leave(self, reason: DisconnectReason, now: float, hint: Next = RETRY) -> None:
        """Close the connection ourselves."""
        self._actions.append(Close())
        self._lost(reason, now, hint)
        self._schedule()

    def _lost(self, reason: DisconnectReason, now: float, hint: Next) -> None:
        self._move(Trigger.DISCONNECTED)
        self._note("disconnected", detail=reason)
        self.must_mint |= hint.step is Step.MINT
        self._back_off(reason, now, hint.wait_ms)

    def _back_off(self, reason: DisconnectReason, now: float, hint_ms: float | None) -> None:
        """Count a disconnect or a failed connect, draw a delay, and wait for it."""
        self.retries.count(live_for_s=now - self._live_since)
        attempt = self.retries.attempt
        # A client that renews repeatedly, or keeps failing, does not count as renewing.
        self.renewing_since = now if reason is DisconnectReason.TOKEN_REFRESH_DUE and attempt == 1 else -NEVER
        delay_ms, hinted = self.retries.delay_ms(reason, hint_ms)
        self._clear_deadlines()
        self.is_caught_up = False
        self._retry_at = now + delay_ms / 1000
        self.must_mint |= reason in MINTS_FIRST
        detail = f"{reason}:hint" if hinted else str(reason)
        self._note("backoff", attempt=attempt, value=delay_ms, detail=detail)

    def _clear_deadlines(self) -> None:
        self._retry_at = self._reply_by = self._beat_at = self._refresh_at = self._ask_at = self._answer_by = NEVER
        self._live_since = NEVER
        self._asking = False
        self._fruitless = 0

    # --- joined: replies, errors, heartbeats --------------------------------------------------------

    def _take_reply(self, reply: Reply, now: float) -> None:
        if reply.ref == self._join_ref and self.state is State.JOINING:
            if reply.ok:
                self._move(Trigger.JOINED)
                self._note("joined")
                self._subscribe(now)
            else:
                self._refused(reply, now)
        elif reply.ref == self._ask_ref and self._asking:
            if reply.ok:
                self._ask_answered = True
                self._go_live(now)
                self._end_replay(now)
            else:
                self._refused(reply, now)
        else:
            self._take_other_reply(reply, now)

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        """Process replies to heartbeats, and to requests of negative clients."""

    def _take_refusal(self, refusal: Refused, now: float) -> None:
        take = self._take_reply if refusal.is_open else self.connect_failed
        take(refusal, now)

    def _refused(self, reply: Reply, now: float) -> None:
        """A join or subscribe was refused."""
        self._note("subscribe_refused", detail=reply.code)
        if isinstance(reply, Refused):
            self._obey(reply, now)

    def _take_problem(self, problem: Problem, now: float) -> None:
        self._obey(problem, now)

    def _obey(self, event: Refused | Problem, now: float) -> None:
        """Disconnect if the server demands it."""
        if event.next.step is Step.NOTHING:
            return
        if event.code == EVICTION:
            self._note("evicted", detail="disconnect")
        self._leave(event.reason, now, event.next)

    def _take_malformed(self, event: Malformed, now: float) -> None:
        self._note("malformed", detail=event.code)

    def _take_stream_end(self, event: StreamEnded, now: float) -> None:
        self._leave(DisconnectReason.UNKNOWN, now, event.next)

    def _take_heads(self, message: Message, now: float) -> None:
        """Process the heads of a heartbeat."""
        stuck = self.replica.compare_heads(message)
        if self.replica.has_doubts():
            self._leave(DisconnectReason.UNKNOWN, now)
        elif stuck and self.policy.asks_again and self.state is State.LIVE and not self._asking:
            self._ask_again(now)

    # --- subscribing --------------------------------------------------------------------------------

    def _subscribe(self, now: float) -> None:
        """Subscribe to every stream from its cursor. Always send all: a runtime may take the list as the whole set."""
        self._ask_at = NEVER
        self._ask_ref = self._next_ref()
        self._asking, self._ask_answered, self._ask_complete = True, False, False
        after = self.replica.begin_replay(self.replica.topics)
        self._actions.append(Send(Subscribe(self._ask_ref, after, self.settings.replay_batch_size)))
        self._reply_by = now + self.settings.reply_timeout_s
        self._schedule()

    def _go_live(self, now: float) -> None:
        self._reply_by = now + self.settings.reply_timeout_s  # for the replay, where it follows the reply
        is_new = self.state is State.SUBSCRIBING
        self._move(Trigger.SUBSCRIBED)
        if is_new:
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
        if self._fruitless >= self.policy.fruitless_asks:
            self._leave(DisconnectReason.UNKNOWN, now)
        elif self._fruitless == 0:
            self._subscribe(now)
        elif self._ask_at == NEVER:
            draw = randomness.draw(self.settings.seed, "ask", self.client, self._refs)
            self._ask_at = now + self.policy.backoff.delay_ms(self._fruitless + 1, draw, 0.0) / 1000
            self._schedule()

    def _ask_once_more(self, now: float) -> None:
        self._ask_at = NEVER
        if self.replica.is_behind():
            self._subscribe(now)
        else:
            self._fruitless = 0

    def _end_replay(self, now: float) -> None:
        """A replay has ended when both its reply and `replay_complete` have come, in whichever order."""
        if not (self._asking and self._ask_answered and self._ask_complete):
            return
        self._asking, self._reply_by = False, NEVER
        # After a repeated replay, events that the live tail had delivered earlier may look like a hole in the replay.
        behind = self.replica.end_replay(self.replica.topics, diverged=not self.is_caught_up or self._fruitless > 0)
        self._note("replay_completed", value=math.nan if self.is_caught_up else (now - self._due) * 1000)
        self.is_caught_up = True
        self._fruitless = self._fruitless + 1 if behind else 0
        if behind:
            self._ask_again(now)

    # --- stale cursors ------------------------------------------------------------------------------

    def _take_stale(self, signals: tuple[Stale, ...], now: float) -> None:
        """Before it is live: subscribe again, only once if a push and the reply report the same. When live: reconnect.

        On a live connection, tail events may be under way. Without a cursor, the session would take the first of them
        as the start of the replay. It would then report all events of the replay as lost.
        """
        ref = signals[0].ref
        if self.state is State.JOINING:
            return
        if ref and not (ref == self._ask_ref and self._asking):
            self._take_other_reply(signals[0], now)
            return
        if not ref and self.replica.has_dropped(signals):
            return  # the push belongs to the previous subscribe; otherwise the reply or its time-out shows it
        again = self.replica.take_stale(signals, self.retries.disconnects)
        if again and self.policy.takes_snapshots and self.state is State.SUBSCRIBING:
            self._subscribe(now)
        else:
            self._leave(DisconnectReason.STALE_CURSOR, now)

    # --- events -------------------------------------------------------------------------------------

    def _take_delivery(self, message: Message, now: float) -> None:
        hole = False
        if (run := self.settings.run_of(message)) and self.replica.take_run(run, self._asking):
            self._notes.add_shared(run.notices)
        else:
            hole = self.replica.take_batches(message, self._asking, self._asking and not self.is_caught_up)
            hole |= self.replica.learn_heads(message)
        if hole and self.replica.has_doubts():
            # As with a stale cursor on a live connection: events under way must not count as part of the new replay.
            self._leave(DisconnectReason.UNKNOWN, now)
        elif self._asking:
            if self.state is State.SUBSCRIBING:
                self._reply_by = now + self.settings.reply_timeout_s  # a long replay does not count as silence
            self._ask_complete |= any(event.__class__ is CaughtUp for event in message)
            self._end_replay(now)
        elif hole and self.state is State.LIVE:
            self._ask_again(now)

    # --- details ------------------------------------------------------------------------------------

    def _next_ref(self) -> str:
        self._refs += 1
        return str(self._refs)

    def _move(self, trigger: Trigger) -> None:
        """Go to the state that follows."""
        following = TRANSITIONS[trigger].get(self.state)
        if following is None:
            raise IllegalMoveError(f"client {self.client}: '{trigger.value}' in state {self.state.name}")
        self.state = following

    def _schedule(self) -> None:
        listens = self.state in CONNECTED and self._notices_silence
        silent_at = self._last_heard + self.settings.silence_limit_s if listens else NEVER
        self._wake_at = min(
            self._retry_at, self._reply_by, self._beat_at, self._refresh_at, self._ask_at, self._answer_by, silent_at
        )
