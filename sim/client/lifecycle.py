"""The life of a client's connection: tokens, connects, backoff, joins, beats, silence and renewal. `Session` adds the streams.

All times are unix seconds; randomness is `draw(seed, purpose, client, n)`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from sim.base.errors import IllegalMoveError
from sim.client.actions import SILENCE_FLOOR_S, Action, ClientSettings, Close, Connect, Mint, Send, Token, TokenRequest
from sim.client.notices import TIMEOUT, Notes, Notice, ending, of_closed, of_refused
from sim.client.policies import LastTry, Policy, Retries
from sim.client.replica import Replica
from sim.client.transitions import CONNECTED, TRANSITIONS, State, Trigger
from sim.protocols.adapter import HeadSource, Liveness, Renewal
from sim.protocols.events import (
    MINTS_FIRST,
    RETRY,
    Batch,
    Closed,
    DisconnectReason,
    EndedBy,
    Joined,
    Message,
    Next,
    Opened,
    Position,
    Refused,
    Renewed,
    Step,
)
from sim.protocols.intents import AskHead, Beat, Compatibility, Join, Renew

NEVER = math.inf
_EARLY = 0.9  # [ours] share of a token's lifetime on a connection after which it is renewed


class Lifecycle(ABC):
    """One client's connection as pure code. `Session` says what happens on it."""

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
        left = checkpoints or {}
        self.replica = Replica(topics, policy, self._note, left, settings)
        self.resumable = str(left[""].offset) if "" in left else None  # the session that the next join resumes
        self._session = ""  # of this connection; the next join resumes it once it has all streams
        self._notices_silence = "trusts_silence" not in policy.defects
        self.token: Token | None = None
        self.retries = Retries(client, policy, settings.seed)
        self.is_caught_up = False
        self.must_mint = True  # the next connect needs a new token
        self.sign_ins = 0  # how often a revoked session was followed by a new one
        self.end_code = ""  # why it gave up
        self.is_cut_by_fault = False  # set by the driver while a fault ends this client's connection
        self._last_try = LastTry(policy)
        self._is_renewing = False  # a token for the open connection was requested
        self._actions: list[Action] = []
        self._refs = 0
        self._join_ref = self._renew_ref = ""
        self._rejoins = 0  # on this connection, since a replay was complete
        self._silence_limit_s = settings.silence_limit_s
        self._due = 0.0  # when the running attempt was due
        self._live_since = NEVER
        self.renewing_since = -NEVER  # when it disconnected to renew its token; it is not live again yet
        self._last_heard = 0.0
        self._retry_at = self._reply_by = self._beat_at = self._refresh_at = self._ask_at = self._answer_by = NEVER
        self._join_at = self._renew_by = NEVER
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
    def live_since(self) -> float:
        """When it became live on this connection; infinity: it is not."""
        return self._live_since

    @property
    def token_request(self) -> TokenRequest:
        """What to ask the control service for."""
        sign_in = f".{self.sign_ins}" if self.sign_ins else ""
        return TokenRequest(f"client-{self.client}{sign_in}", self.replica.topics, self.settings.token_ttl_s)

    @property
    def awaits_token(self) -> bool:
        """Whether it takes an answer of the control service now."""
        return self.state is State.MINTING or (self._is_renewing and self.state in CONNECTED)

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
        if self._is_renewing and self.state in CONNECTED:
            self._send_renewal(token, now)
            return
        self._move(Trigger.MINTED)
        self._note("token_minted", value=(now - self._due) * 1000, detail=token.key_id)
        self.token, self.must_mint, self._due, self._last_try.is_token_proven = token, False, now, False
        self._connect(now)
        self._schedule()

    def mint_failed(self, code: str, now: float, hint_ms: float | None = None) -> None:
        """The control service issued no token."""
        if self._is_renewing and self.state in CONNECTED:
            self._leave(DisconnectReason.TOKEN_REFRESH_DUE, now)
            return
        self._move(Trigger.MINT_FAILED)
        self._note("token_refused", value=(now - self._due) * 1000, detail=code)
        self._back_off(DisconnectReason.UNAUTHORIZED, now, Next(Step.WAIT, hint_ms))
        self._schedule()

    def connected(self, event: Opened, now: float) -> None:
        """The connection is open."""
        self._move(Trigger.CONNECTED)
        self._note("connect_done", value=(now - self._due) * 1000)
        if "resets_on_accept" in self.policy.defects:
            self.retries.reset()
        self._last_heard = now
        self._silence_limit_s = self.settings.silence_limit_s
        self.replica.begin_connection()
        self._join(now)
        if self.settings.capabilities.liveness is not Liveness.SERVER_PINGS or self._asks_heads:
            self._beat_at = now + self.settings.heartbeat_interval_s
        if self.settings.capabilities.renewal is not Renewal.NONE:
            self._refresh_at = self.token.refresh_at if self.token else NEVER
        self._schedule()

    def connect_failed(self, refusal: Refused, now: float) -> None:
        """The connection could not be opened."""
        self._move(Trigger.CONNECT_FAILED)
        self._note("connect_failed", value=(now - self._due) * 1000, detail=refusal.code)
        self._note(*of_refused(refusal, self.is_cut_by_fault))
        self.end_code = refusal.code
        self._back_off(refusal.reason, now, refusal.next)
        self._schedule()

    def disconnected(self, event: Closed, now: float) -> None:
        """The connection ended."""
        self._lost(event.reason, now, event.next, of_closed(event, self.is_cut_by_fault))
        self._schedule()

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
        if self.settings.capabilities.is_one_connection:  # otherwise each stream's request is a connect
            self._note("connect_attempted")
        self._actions.append(Connect(self.token, self._metadata()))

    def _metadata(self) -> Compatibility:
        """Return what the client reports about itself."""
        return self.settings.compatibility

    def _join(self, now: float) -> None:
        self._join_at = NEVER
        self._join_ref = self._next_ref()
        token = self.token.text if self.token else ""
        self._actions.append(Send(Join(self._join_ref, self._metadata(), token, self.resumable)))
        self._reply_by = now + self.settings.reply_timeout_s

    def _take_join(self, joined: Joined, now: float) -> None:
        self._move(Trigger.JOINED)
        self._note("joined")
        if joined.ping_s is not None:
            self._silence_limit_s = joined.ping_s + SILENCE_FLOOR_S
        self._refresh_before(joined.token_ttl_s, now)

    def _learn_session(self, message: Message) -> None:
        """Take the session after these events. While the client subscribes, it lacks streams that no later join would add."""
        for event in message:
            if isinstance(event, Batch) and event.session:
                self._session = event.session
                if self.state is not State.SUBSCRIBING:
                    self.resumable = event.session

    def _rejoin(self, code: str, hint: Next, now: float) -> None:
        """Join again on the open connection after the policy's delay; reconnect if that did not help before."""
        if self._rejoins >= self.policy.fruitless_asks:
            self._leave(DisconnectReason.STREAM_CLOSED, now)
            return
        self._rejoins += 1
        self._move(Trigger.REJOINS)
        self._note("disconnected", detail=DisconnectReason.STREAM_CLOSED)
        self._note(*ending(EndedBy.SERVER, code, hint))
        self.retries.count(live_for_s=now - self._live_since)
        delay_ms, _ = self.retries.delay_ms(DisconnectReason.STREAM_CLOSED, hint.wait_ms)
        self._note("backoff", attempt=self.retries.attempt, value=delay_ms, detail=DisconnectReason.STREAM_CLOSED)
        self._reply_by = self._ask_at = self._answer_by = self._live_since = NEVER
        self.is_caught_up = False
        self._clear_streams()
        self._join_at = self._due = now + delay_ms / 1000
        self._schedule()

    def _wake_connected(self, now: float) -> None:
        if self._notices_silence and now >= self._last_heard + self._silence_limit_s:
            self._note("heartbeat_timeout")
            self._leave(DisconnectReason.NETWORK, now)
            return
        if now >= self._renew_by:
            self._leave(DisconnectReason.TOKEN_REFRESH_DUE, now)
            return
        if now >= self._refresh_at and not self._renew(now):
            self._leave(DisconnectReason.TOKEN_REFRESH_DUE, now)
            return
        if now >= self._beat_at:
            self._beat(now)
        if now >= self._join_at:
            self._join(now)
        self._wake_streams(now)

    def _beat(self, now: float) -> None:
        """Show that the client is alive, and ask for the heads that the server does not report by itself."""
        capabilities = self.settings.capabilities
        if capabilities.liveness is not Liveness.SERVER_PINGS:
            self._actions.append(Send(Beat(self._next_ref(), capabilities.beats_on_channel)))
        if self._asks_heads and self.state is State.LIVE:
            self._actions += [Send(AskHead(self._next_ref(), stream)) for stream in self.replica.topics]
        self._beat_at = now + self.settings.heartbeat_interval_s

    @property
    def _asks_heads(self) -> bool:
        sources = self.settings.capabilities.head
        return HeadSource.QUERY in sources and HeadSource.HEARTBEATS not in sources

    def _time_out(self, now: float) -> None:
        self._reply_by = NEVER
        if self.state is State.CONNECTING:
            self._actions.append(Close())
            self._move(Trigger.CONNECT_FAILED)
            self._note("connect_failed", value=(now - self._due) * 1000, detail=TIMEOUT)
            self._note(*ending(EndedBy.NETWORK, TIMEOUT, RETRY))
            self._back_off(DisconnectReason.NETWORK, now, RETRY)
        elif self.state in CONNECTED and not self._end_slow_replay(now):
            self._leave(DisconnectReason.NETWORK, now)

    # --- renewing on the open connection ------------------------------------------------------------

    def _renew(self, now: float) -> bool:
        """Ask for a token for the open connection; False if this protocol renews by a reconnect."""
        if self.settings.capabilities.renewal is not Renewal.ON_CONNECTION or self.must_mint:
            return False
        self._refresh_at = NEVER
        self._is_renewing = True
        self._actions.append(Mint())
        return True

    def _send_renewal(self, token: Token, now: float) -> None:
        self._move(Trigger.RENEWED)
        self._note("token_minted", detail=token.key_id)
        self._is_renewing = False
        self.token, self._renew_ref = token, self._next_ref()
        self._actions.append(Send(Renew(self._renew_ref, token.text)))
        self._renew_by = now + self.settings.reply_timeout_s
        self._schedule()

    def _take_renewal(self, renewed: Renewed, now: float) -> None:
        self._renew_by, self._renew_ref = NEVER, ""
        self._refresh_at = self.token.refresh_at if self.token else NEVER
        self._refresh_before(renewed.token_ttl_s, now)
        self._schedule()

    def _refresh_before(self, ttl_s: float | None, now: float) -> None:
        if ttl_s is not None and self.settings.capabilities.renewal is not Renewal.NONE:
            self._refresh_at = min(self._refresh_at, now + _EARLY * ttl_s)

    # --- disconnecting ------------------------------------------------------------------------------

    def _leave(self, reason: DisconnectReason, now: float, hint: Next = RETRY, code: str = "") -> None:
        """Close the connection ourselves; `code` is the server's, if it demanded this."""
        self._actions.append(Close())
        self.end_code = code
        self._lost(reason, now, hint, ending(EndedBy.SERVER if code else EndedBy.CLIENT, code or reason, hint))
        self._schedule()

    def _lost(self, reason: DisconnectReason, now: float, hint: Next, end: Notice) -> None:
        self._move(Trigger.DISCONNECTED)
        self._note("disconnected", detail=reason)
        self._note(*end)
        self._back_off(reason, now, hint)

    def _note_stream_end(self, stream: str, code: str, hint: Next) -> None:
        """Note the end of a single stream's subscription, by its code."""
        by = {TIMEOUT: EndedBy.CLIENT, "network": EndedBy.NETWORK}.get(code, EndedBy.SERVER)
        self._note(*ending(EndedBy.FAULT if self.is_cut_by_fault else by, code, hint, stream))

    def _back_off(self, reason: DisconnectReason, now: float, hint: Next) -> None:
        """Count a disconnect or a failed connect, draw a delay, and wait for it.

        If a retry cannot succeed, the client tries once more with a new token, and then gives up.
        """
        live_for_s = now - self._live_since
        self.retries.count(live_for_s)
        attempt = self.retries.attempt
        if "retries_terminal" in self.policy.defects and hint.step is Step.TERMINAL:
            reason, hint = DisconnectReason.NETWORK, Next(wait_ms=hint.wait_ms)
        # A client that renews repeatedly, or keeps failing, does not count as renewing.
        self.renewing_since = now if reason is DisconnectReason.TOKEN_REFRESH_DUE and attempt == 1 else -NEVER
        self._clear_deadlines()
        self.is_caught_up = False
        if not self._last_try.may_retry(hint, live_for_s):
            self._move(Trigger.GAVE_UP)
            self.end_code = self.end_code or str(reason)
            self._note("gave_up", detail=self.end_code)
            return
        self.end_code = ""
        delay_ms, hinted = self.retries.delay_ms(reason, hint.wait_ms)
        self._retry_at = now + delay_ms / 1000
        self.must_mint |= reason in MINTS_FIRST or hint.step in (Step.MINT, Step.TERMINAL)
        detail = f"{reason}:hint" if hinted else str(reason)
        self._note("backoff", attempt=attempt, value=delay_ms, detail=detail)

    def _clear_deadlines(self) -> None:
        self._retry_at = self._reply_by = self._beat_at = self._refresh_at = self._ask_at = self._answer_by = NEVER
        self._join_at = self._renew_by = NEVER
        self._live_since = NEVER
        self._is_renewing = False
        self._rejoins = 0
        self._clear_streams()

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
        silent_at = self._last_heard + self._silence_limit_s if listens else NEVER
        self._wake_at = min(
            *(self._retry_at, self._reply_by, self._beat_at, self._refresh_at, self._ask_at, self._answer_by, silent_at),
            *(self._join_at, self._renew_by, self._streams_due()),
        )

    # --- what a subclass does -----------------------------------------------------------------------

    @abstractmethod
    def _clear_streams(self) -> None:
        """Forget the replays and waits of the connection, or of what was joined."""

    @abstractmethod
    def _wake_streams(self, now: float) -> None:
        """A deadline of the streams may have passed."""

    @abstractmethod
    def _streams_due(self) -> float:
        """Return the next deadline of single streams."""

    @abstractmethod
    def _end_slow_replay(self, now: float) -> bool:
        """End a replay whose end the server does not report; False if the server did not answer."""
