"""The control service's token endpoint as pure code: which token a client may have, and the body of the answer."""

import re
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec

from sim.base.errors import PeerError
from sim.protocols.profile import ServerProfile, Topics
from sim.server.settings import RuntimeSettings
from sim.server.tokens import AUDIENCE, ISSUER, MAX_TOKEN_CHARS, Claims, Key, Keyring, mint

ISSUED = "sync.token.issued"
# The counter of a refusal, by its HTTP status.
_REFUSAL_COUNTERS = {
    401: "sync.token.issue.auth_failed",
    403: "sync.token.issue.policy_denied",
    422: "sync.token.issue.failed",
    503: "sync.token.issue.failed",
}
COUNTERS = (ISSUED, *dict.fromkeys(_REFUSAL_COUNTERS.values()), "sync.token.issue.policy_eval_failed")
_SESSION = re.compile(r"session-([A-Za-z0-9._:-]{1,128})")
_ORG = "org-mock"


class ControlRefusedError(PeerError):
    """The control service refuses a token request: HTTP `status` (401, 403, 422, 503), a short stable `code`, and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class _Body(msgspec.Struct):
    """A token request's body; every field may be left out or null."""

    scopes: list[str] | None = None
    streams: list[str] | None = None
    topics: list[str] | None = None
    device_id: str | None = None
    ttl_seconds: int | None = None


_decoder = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token request. `session` is the bearer session without its scheme; `ttl_s` is in seconds."""

    session: str | None
    scopes: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    device_id: str | None = None
    ttl_s: int | None = None

    @classmethod
    def parse(cls, session: str | None, body: bytes) -> "TokenRequest":
        """Build a request from its `Authorization` value (with or without `Bearer`) and its body, which may be empty.

        Raises ControlRefusedError (422) for a body that violates the contract.
        """
        try:
            asked = _decoder.decode(body or b"{}")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ControlRefusedError(422, "malformed_request", f"the request's body is malformed: {error}") from None
        return cls(
            session=_bearer(session),
            scopes=_distinct(asked.scopes),
            topics=_distinct(asked.topics),
            streams=_distinct(asked.streams),
            device_id=asked.device_id,
            ttl_s=asked.ttl_seconds,
        )


def _bearer(authorization: str | None) -> str | None:
    text = (authorization or "").strip()
    scheme, _, rest = text.partition(" ")
    return (rest.strip() if scheme.lower() == "bearer" else text) or None


def _distinct(names: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names or ()))


class Control:
    """A control service that mints tokens for every session of the form `session-<user>`.

    Apart from its keys, it stores only its counters and the count for token ids.
    """

    def __init__(
        self, settings: RuntimeSettings, keyring: Keyring, profile: ServerProfile, *, denied_devices: Container[str] = ()
    ) -> None:
        self._settings = settings
        self._profile = profile
        self._topics = profile.topics
        self._keyring = keyring
        self._denied_devices = denied_devices
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._minted = 0

    @property
    def keyring(self) -> Keyring:
        """The current keys, with which the runtime verifies tokens."""
        return self._keyring

    @property
    def counters(self) -> dict[str, int]:
        """The service's counters by the contract's names. Our policy never fails, so `policy_eval_failed` stays 0."""
        return dict(self._counts)

    def rotate(self, key: Key) -> None:
        """Sign with another key from now on; tokens of older keys still verify."""
        self._keyring = self._keyring.rotated(key)

    def retire_old_keys(self) -> None:
        """Drop all older keys: their tokens no longer verify."""
        self._keyring = Keyring(self._keyring.primary)

    def refused(self, error: ControlRefusedError) -> None:
        """Count a refusal that happened before `issue` was reached, such as a malformed body."""
        self._counts[_REFUSAL_COUNTERS[error.status]] += 1

    def issue(
        self, request: TokenRequest, now: float, *, outage: bool, token_id: str | None = None, defects: Container[str] = ()
    ) -> dict[str, Any]:
        """Return the body of the 200 answer, `{"data": {...}}`. Counts any other answer and raises it as ControlRefusedError.

        With `outage`, minting is disabled (503). Token ids count up unless one is given.
        """
        try:
            claims = self._decide(request, now, outage, token_id)
            if "grant_any_topic" not in defects:
                _refuse_other_tenants(claims, self._topics)
            key = self._keyring.primary
            if "sign_with_old_key" in defects and self._keyring.fallbacks:
                key = self._keyring.fallbacks[0]
            token = self._sign(claims, key)
        except ControlRefusedError as error:
            self.refused(error)
            raise
        self._counts[ISSUED] += 1
        return {"data": self._answer(claims, token, key)}

    def _decide(self, request: TokenRequest, now: float, outage: bool, token_id: str | None) -> Claims:
        if outage:
            _refuse(503, "minting_disabled", "minting sync tokens is disabled")
        user = _user(request.session)
        ttl_s = self._ttl(request.ttl_s)
        topics = _merged_topics(request, self._topics)
        device = self._device(request.device_id, user)
        scopes = _scopes(request.scopes, topics, self._topics)
        self._minted += 1
        return Claims(
            issuer=ISSUER,
            audience=AUDIENCE,
            subject=f"user:{user}",
            issued_at=now,
            not_before=now,
            expires_at=now + ttl_s,
            token_id=token_id or f"token-{int(now * 1000)}-{self._minted}",  # unique across restarts
            user_id=user,
            org_id=_ORG,
            session_id=f"session-{user}",
            device_id=device,
            scopes=scopes,
            topics=topics,
            streams=request.streams,
        )

    def _ttl(self, asked_s: int | None) -> int:
        settings = self._settings
        ttl_s = settings.token_ttl_s if asked_s is None else asked_s
        if not settings.token_ttl_min_s <= ttl_s <= settings.token_ttl_max_s:
            bounds = f"{settings.token_ttl_min_s}..{settings.token_ttl_max_s}"
            _refuse(422, "invalid_ttl", f"ttl_seconds is {ttl_s}, expected {bounds}")
        return ttl_s

    def _device(self, asked: str | None, user: str) -> str:
        if asked is not None and asked in self._denied_devices:
            _refuse(403, "device_not_allowed", "the device is not allowed")
        return asked or f"device-{user}"

    def _sign(self, claims: Claims, key: Key) -> str:
        token = mint(claims, key)
        if len(token) > MAX_TOKEN_CHARS:
            _refuse(
                422, "grant_too_large", f"the token would be longer than {MAX_TOKEN_CHARS} characters: ask for fewer topics"
            )
        return token

    def _answer(self, claims: Claims, token: str, key: Key) -> dict[str, Any]:
        ttl_s = round(claims.expires_at - claims.issued_at)
        refresh_s = max(ttl_s - self._settings.token_refresh_margin_s, 1)
        return {
            "token": token,
            "token_type": "Bearer",
            "transport": self._profile.transport,
            "protocol_version": self._settings.protocol_version,
            "expires_in": ttl_s,
            "refresh_after_in": refresh_s,
            "issued_at": _rfc3339(claims.issued_at),
            "refresh_after": _rfc3339(claims.issued_at + refresh_s),
            "expires_at": _rfc3339(claims.expires_at),
            "kid": key.kid,
            **_granted(claims, self._topics),
        }


def _granted(claims: Claims, topics: Topics) -> dict[str, Any]:
    """Return the part of an answer that describes what a token grants."""
    return {
        "issuer": claims.issuer,
        "audience": claims.audience,
        "subject": claims.subject,
        "org_id": claims.org_id,
        "claims_version": claims.claims_version,
        "scopes": list(claims.scopes),
        "granted_topics": [{"topic": topic, "required_scope": topics.required_scope(topic)} for topic in claims.topics],
        "granted_streams": [
            {"stream": topics.stream_id(topic), "required_scope": topics.required_scope(topic)} for topic in claims.topics
        ],
        "token_id": claims.token_id,
        "session_id": claims.session_id,
        "device_id": claims.device_id,
    }


def _refuse(status: int, code: str, message: str) -> NoReturn:
    raise ControlRefusedError(status, code, message)


def _user(session: str | None) -> str:
    match = _SESSION.fullmatch(session or "")
    if match is None:
        _refuse(401, "unauthorized", "no session, or not one this service knows")
    return match[1]


def _merged_topics(request: TokenRequest, known: Topics) -> tuple[str, ...]:
    """Return the requested topics, including those of stream ids. A topic without its own class is refused (422)."""
    fixed = {known.stream_id(topic): topic for topic in known.fixed}
    named = [fixed.get(stream) or known.topic_of(stream) or stream for stream in request.streams]
    topics = tuple(dict.fromkeys((*request.topics, *named)))
    for topic in topics:
        if known.topic_class(topic) is known.fallback:
            _refuse(422, "unsupported_topic", f"unsupported topic {topic[:128]!r}")
    return topics


def _refuse_other_tenants(claims: Claims, topics: Topics) -> None:
    """Refuse (403) a topic that only another user may read."""
    for topic in claims.topics:
        if topics.owner_of(topic) not in (None, claims.user_id):
            _refuse(403, "scope_not_allowed", f"topic {topic[:128]!r} is another user's")


def _scopes(asked: tuple[str, ...], topics: tuple[str, ...], known: Topics) -> tuple[str, ...]:
    """Return the scopes of a token: the requested ones, else those that its topics need, else all that can be granted."""
    needed = tuple(dict.fromkeys(known.required_scope(topic) for topic in topics))
    scopes = asked or needed or known.scopes
    refused = [scope for scope in scopes if scope not in known.scopes] + [scope for scope in needed if scope not in scopes]
    if refused:
        _refuse(403, "scope_not_allowed", f"scope {refused[0][:128]!r} is not allowed, or not asked for with its topic")
    return scopes


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
