"""Negative clients that misuse tokens: they connect with an invalid token, or request a forbidden one.

Most try it once, when they start, and record the answer; then they are ordinary clients. A network failure is no answer,
so they try again.
"""

from abc import abstractmethod
from dataclasses import replace

from sim.client.actions import Send, Token, TokenRequest
from sim.client.lifecycle import NEVER
from sim.client.negative.base import NegativeClient, OneQuestion, verdict
from sim.client.transitions import State, Trigger
from sim.protocols.events import NETWORK_CODES, Closed, DisconnectReason, Problem, Refused, Reply
from sim.protocols.intents import Subscribe
from sim.server import tokens

# No control service signs with this key.
_FORGED_KEY = tokens.Key("forged", b"a key that a probe made for itself, and that nobody trusts")
_ASK_AGAIN_S = 0.5  # [ours] between token requests, until a suitable token comes
_OF_TOKENS = (DisconnectReason.UNAUTHORIZED, DisconnectReason.FORBIDDEN)
_CLOCKS_S = 0.5  # [ours] how much the clocks of client and runtime may differ


class ExpiredToken(NegativeClient):
    """Connects with a token that is known to be void, once per token, before it mints a new one.

    A token is void if the service demanded a new one, or if its lifetime and the runtime's leeway are over.
    """

    name = "expired_token"
    needs_tokens = True
    expects: tuple[str, ...] = ("token_expired",)
    _void: Token | None = None  # the token that the service called void
    _tried: Token | None = None  # the token whose connect was answered

    def _obey(self, event: Refused | Problem, now: float) -> None:
        if event.reason is DisconnectReason.UNAUTHORIZED:
            self._void = self.token
        super()._obey(event, now)

    def disconnected(self, event: Closed, now: float) -> None:
        """See `Session`; some servers say only by the end of a connection that its token is void, or refused."""
        if event.reason in _OF_TOKENS:
            self._answer(f"refused:{event.reason}", now, State.JOINING)
            self._void = self.token
        super().disconnected(event, now)

    def _begin_attempt(self, now: float) -> None:
        if self.token is not None and self._is_void(self.token, now) and self._tried is not self.token:
            self._retry_at = NEVER
            self._move(Trigger.HAS_TOKEN)
            self._connect(now)
        else:
            super()._begin_attempt(now)

    def _is_void(self, token: Token, now: float) -> bool:
        return token is self._void or now >= token.expires_at + self.settings.service.token_leeway_s

    def connect_failed(self, refusal: Refused, now: float) -> None:
        """See `Session`; a network failure is no answer, so the client tries again."""
        if refusal.reason is not DisconnectReason.NETWORK:
            self._answer(verdict(refusal), now)
        super().connect_failed(refusal, now)

    def _take_reply(self, reply: Reply, now: float) -> None:
        """See `Session`; some servers refuse a token at the join only, so an accepted join is the defect."""
        if reply.ref == self._join_ref:
            self._answer(verdict(reply), now, State.JOINING)
        super()._take_reply(reply, now)

    def _answer(self, answer: str, now: float, state: State = State.CONNECTING) -> None:
        asked = self.state is state and self._tried is not self.token
        if asked and self.token is not None and self._is_void(self.token, now):
            self._tried = self.token
            self._report(answer)


class RevokedToken(ExpiredToken):
    """Connects once more with the token of a session that was revoked."""

    name = "revoked_token"
    expects = ("token_revoked", "reauth_required")


class BadToken(OneQuestion):
    """Connects with a token that must be refused. Subclasses make it from a valid one, and decide when to use it."""

    needs_tokens = True
    _good: Token | None = None  # the valid token, while the other is in use

    def _misuse(self, token: str) -> str:
        """Return the text to connect with; `token` is a valid one."""
        return token

    def _due_at(self, token: Token, now: float) -> float:
        """Return the time from which this token must be refused; `NEVER`: another token is needed."""
        return now

    def _restore(self) -> None:
        """Go on with the valid token."""
        self.token, self._good = self._good or self.token, None

    def _begin_attempt(self, now: float) -> None:
        if self._has_answer or self.must_mint or self.token is None:
            super()._begin_attempt(now)
        else:
            self._retry_at = NEVER
            self._move(Trigger.HAS_TOKEN)
            self._connect(now)

    def _connect(self, now: float) -> None:
        if self._has_answer or self.token is None:
            super()._connect(now)
        elif (due_at := self._due_at(self.token, now)) <= now:
            bad = replace(self.token, text=self._misuse(self.token.text), refresh_at=NEVER)  # it waits for the answer
            self._good, self.token = self.token, bad
            super()._connect(now)
        else:
            self._move(Trigger.HELD_BACK)
            self.must_mint = due_at == NEVER
            self._retry_at = now + _ASK_AGAIN_S if self.must_mint else due_at

    def connect_failed(self, refusal: Refused, now: float) -> None:
        """See `Session`."""
        self._restore()
        if refusal.reason is not DisconnectReason.NETWORK:
            self._report(verdict(refusal))
        super().connect_failed(refusal, now)

    def _take_reply(self, reply: Reply, now: float) -> None:
        """See `Session`; some servers refuse a token at the join only, so an accepted join is the defect."""
        if reply.ref == self._join_ref and self._good is not None:
            self._restore()
            self._report(verdict(reply))
        super()._take_reply(reply, now)

    def disconnected(self, event: Closed, now: float) -> None:
        """See `Session`; some servers refuse a token only by the end of the connection."""
        if self._good is not None and event.reason in _OF_TOKENS:
            self._restore()
            self._report(f"refused:{event.reason}")
        super().disconnected(event, now)

    def _clear_deadlines(self) -> None:
        self._restore()  # the connection ended without an answer
        super()._clear_deadlines()


class MissingToken(BadToken):
    """Connects without a token."""

    name, expects = "missing_token", ("unauthorized",)

    def _misuse(self, token: str) -> str:
        return ""


class GarbledToken(BadToken):
    """Connects with one character of its token's signature changed."""

    name, expects = "garbled_token", ("invalid_token",)

    def _misuse(self, token: str) -> str:
        body, _, signature = token.rpartition(".")
        return f"{body}.{'B' if signature.startswith('A') else 'A'}{signature[1:]}"


class ForeignKeyToken(BadToken):
    """Connects with its token signed again with a foreign key."""

    name, expects = "foreign_key_token", ("invalid_token",)

    def _misuse(self, token: str) -> str:
        return tokens.mint(self._claims(tokens.unverified(token)), _FORGED_KEY)

    def _claims(self, claims: tokens.Claims) -> tokens.Claims:
        return claims


class ForeignIssuerToken(ForeignKeyToken):
    """Connects with a token of a foreign issuer."""

    name = "foreign_issuer_token"

    def _claims(self, claims: tokens.Claims) -> tokens.Claims:
        return replace(claims, issuer="stormgate.forger")


class ForeignAudienceToken(ForeignKeyToken):
    """Connects with a token for another service."""

    name = "foreign_audience_token"

    def _claims(self, claims: tokens.Claims) -> tokens.Claims:
        return replace(claims, audience="stormgate.elsewhere")


class OutdatedToken(BadToken):
    """Requests the shortest lifetime, and connects when it and the runtime's leeway are over."""

    name, expects = "outdated_token", ("token_expired",)

    @property
    def token_request(self) -> TokenRequest:
        """See `Session`."""
        return (
            super().token_request
            if self._has_answer
            else replace(super().token_request, ttl_s=self.settings.service.token_ttl_min_s)
        )

    def _due_at(self, token: Token, now: float) -> float:
        return token.expires_at + self.settings.service.token_leeway_s + _CLOCKS_S


class OveragedToken(BadToken):
    """Requests the longest lifetime, and connects before its end, but when the token is older than the runtime accepts."""

    name, expects = "overaged_token", ("token_too_old",)

    @property
    def token_request(self) -> TokenRequest:
        """See `Session`."""
        return (
            super().token_request
            if self._has_answer
            else replace(super().token_request, ttl_s=self.settings.service.token_ttl_max_s)
        )

    def _due_at(self, token: Token, now: float) -> float:
        return tokens.unverified(token.text).issued_at + self.settings.service.token_max_age_s + _CLOCKS_S


class PrematureToken(BadToken):
    """Requests tokens until it gets one that is not valid yet, and connects at once."""

    name, expects = "premature_token", ("token_not_yet_valid",)

    def _due_at(self, token: Token, now: float) -> float:
        is_premature = tokens.unverified(token.text).not_before > now + self.settings.service.token_leeway_s + _CLOCKS_S
        return now if is_premature else NEVER


class ForbiddenMint(OneQuestion):
    """Asks the control service for a token that must not be granted."""

    needs_tokens = True

    @property
    def token_request(self) -> TokenRequest:
        """See `Session`."""
        return super().token_request if self._has_answer else self._forbidden(super().token_request)

    @abstractmethod
    def _forbidden(self, request: TokenRequest) -> TokenRequest:
        """Return a request that must not be granted."""

    def minted(self, token: Token, now: float) -> None:
        """See `Session`."""
        self._report("accepted")
        super().minted(token, now)

    def mint_failed(self, code: str, now: float, hint_ms: float | None = None) -> None:
        """See `Session`."""
        if code not in NETWORK_CODES:
            self._report(f"refused:{code}")
        super().mint_failed(code, now, hint_ms)


class ForeignTopicMint(ForbiddenMint):
    """Requests another user's topic. The contract defines the status (403 or 422), not the code."""

    needs_forms = True
    name, expects = "foreign_topic_mint", ("scope_not_allowed", "unsupported_topic", "http_403", "http_422")

    def _forbidden(self, request: TokenRequest) -> TokenRequest:
        return replace(request, topics=(*request.topics, self._forms.unmintable_streams[0]))


class UnsupportedTopicMint(ForbiddenMint):
    """Requests a topic that does not exist."""

    needs_forms = True
    name, expects = "unsupported_topic_mint", ("unsupported_topic", "http_422")

    def _forbidden(self, request: TokenRequest) -> TokenRequest:
        return replace(request, topics=(*request.topics, self._forms.unmintable_streams[1]))


class EndlessTokenMint(ForbiddenMint):
    """Requests a lifetime above the maximum."""

    name, expects = "endless_token_mint", ("invalid_ttl", "http_422")

    def _forbidden(self, request: TokenRequest) -> TokenRequest:
        return replace(request, ttl_s=self.settings.service.token_ttl_max_s + 1)


class ForbiddenTopic(OneQuestion):
    """Once live, subscribes to a run that its token does not grant."""

    needs_forms = needs_tokens = True
    name, expects = "forbidden_topic", ("forbidden_topic",)
    _question_ref = ""

    def _went_live(self, now: float) -> None:
        if not self._has_answer:
            self._question_ref = self._next_ref()
            self._actions.append(Send(Subscribe(self._question_ref, {self._forms.foreign_stream: None})))

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if reply.ref == self._question_ref:
            self._report(verdict(reply))


CLIENTS = (
    MissingToken,
    GarbledToken,
    ForeignKeyToken,
    ForeignIssuerToken,
    ForeignAudienceToken,
    OutdatedToken,
    OveragedToken,
    PrematureToken,
    ForeignTopicMint,
    UnsupportedTopicMint,
    EndlessTokenMint,
    ForbiddenTopic,
)
