"""Sync tokens: JWT HS256 minted by the control service and verified by the runtime, with time as an argument.

PyJWT only signs and checks signatures. This module checks times, issuer, audience and revocation
against `now`, because PyJWT would read the clock itself.
"""

import math
from collections.abc import Container
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.api_jws import PyJWS

from sim.base.errors import PeerError
from sim.protocols.profile import Topics

# Ours: the contract fixes the claims' names, not these values.
ISSUER: Final = "stormgate.control"
AUDIENCE: Final = "stormgate.runtime"
CLAIMS_VERSION: Final = "openagents.sync.claims.v1"
MAX_TOKEN_CHARS: Final = 8192  # longer tokens are refused without decoding
_REMEMBERED: Final = 16_384  # cached tokens with a valid signature; about 1.5 KB each
_ALGORITHM: Final = "HS256"


class _AnyLengthHmac(HMACAlgorithm):
    """HMAC without PyJWT's warning about short keys: a drill's key protects only a mock."""

    def check_key_length(self, key: bytes) -> None:
        """Accept any length."""


_jws = PyJWS(algorithms=[])
_jws.register_algorithm(_ALGORITHM, _AnyLengthHmac(HMACAlgorithm.SHA256))


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key, and the id that its tokens have as `kid`; the repr omits the secret."""

    kid: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key that signs, and older keys whose tokens still verify."""

    primary: Key
    fallbacks: tuple[Key, ...] = ()

    def rotated(self, new: Key) -> "Keyring":
        """Return a keyring that signs with `new` and still verifies all tokens that this one verifies."""
        return Keyring(new, (self.primary, *self.fallbacks))


@dataclass(frozen=True, slots=True)
class Claims:
    """The content of a token; times are unix seconds. Empty `topics` and `streams` mean that the scopes alone decide."""

    issuer: str
    audience: str
    subject: str
    issued_at: float
    not_before: float
    expires_at: float
    token_id: str
    user_id: str
    org_id: str
    session_id: str
    device_id: str
    scopes: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    claims_version: str = CLAIMS_VERSION


class _WireClaims(msgspec.Struct):
    """The claims by their names on the wire; a missing or mistyped one is a decoding error."""

    iss: str
    aud: str
    sub: str
    iat: float
    nbf: float
    exp: float
    jti: str
    oa_user_id: str
    oa_org_id: str
    oa_session_id: str
    oa_device_id: str
    oa_sync_scopes: tuple[str, ...]
    oa_sync_topics: tuple[str, ...]
    oa_sync_streams: tuple[str, ...]
    oa_claims_version: str


_WIRE_NAMES = _WireClaims.__struct_fields__  # in the order of Claims' fields
_CLAIM_NAMES = tuple(Claims.__dataclass_fields__)
_decoder = msgspec.json.Decoder(_WireClaims)


class TokenRefusedError(PeerError):
    """The runtime refuses a token; `code` is the contract's, and no message contains the token.

    Codes: unauthorized (no token), invalid_token (signature, issuer, audience, malformed, a missing
    claim), token_expired, token_not_yet_valid, token_too_old, token_revoked.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def mint(claims: Claims, key: Key) -> str:
    """Return the signed token of these claims."""
    wire = {name: getattr(claims, own) for name, own in zip(_WIRE_NAMES, _CLAIM_NAMES, strict=True)}
    return _jws.encode(msgspec.json.encode(wire), key.secret, _ALGORITHM, {"kid": key.kid})


def verify(
    token: str | None,
    keyring: Keyring,
    now: float,
    *,
    leeway_s: float,
    expiry_leeway_s: float | None = None,
    max_age_s: float,
    revoked_tokens: Container[str] = (),
    void_before: float = 0.0,
    defects: Container[str] = (),
) -> Claims:
    """Return the claims of a token that is valid at `now` (unix seconds). Raises TokenRefusedError.

    `leeway_s` applies to `nbf`, and to `exp` without `expiry_leeway_s`, not to the age since `iat`. Tokens issued before
    `void_before` count as expired. Of the defects, `accept_expired_token` accepts every kind of outdated token.
    """
    if not token:
        raise TokenRefusedError("unauthorized", "no token was given")
    claims = unverified(token) if "accept_any_signature" in defects else _vouched(token, keyring)
    _check_names(claims)
    if "accept_expired_token" not in defects:
        end_s = leeway_s if expiry_leeway_s is None else expiry_leeway_s
        _check_outdated(claims, now, end_s, max_age_s, void_before)
    if max(claims.not_before, claims.issued_at) > now + leeway_s:
        raise TokenRefusedError("token_not_yet_valid", "the token is not valid yet")
    if claims.token_id in revoked_tokens:
        raise TokenRefusedError("token_revoked", "the token was revoked")
    return claims


@lru_cache(maxsize=_REMEMBERED)
def _vouched(token: str, keyring: Keyring) -> Claims:
    """Return the claims of a token with a valid signature, at any age. Cached, as clients reconnect with the same token."""
    return _read(_signed_payload(token, keyring))


def unverified(token: str) -> Claims:
    """Return the claims of a token without checking its signature. Raises TokenRefusedError for a malformed one."""
    try:
        payload: bytes = _jws.decode_complete(token, options={"verify_signature": False})["payload"]
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise TokenRefusedError("invalid_token", "the token is malformed") from None
    return _read(payload)


def of_nobody() -> Claims:
    """Return the claims of a client whose token is not read."""
    return Claims(ISSUER, AUDIENCE, "", 0.0, 0.0, math.inf, "", "", "", "", "")


def _signed_payload(token: str, keyring: Keyring) -> bytes:
    """Return the payload if a key verifies its signature: the primary key is tried first, then the fallbacks."""
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRefusedError("invalid_token", f"the token is longer than {MAX_TOKEN_CHARS} characters")
    for key in (keyring.primary, *keyring.fallbacks):
        try:
            payload: bytes = _jws.decode_complete(token, key.secret, algorithms=[_ALGORITHM])["payload"]
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            break
        return payload
    raise TokenRefusedError("invalid_token", "the token is malformed, or no known key signed it")


def _read(payload: bytes) -> Claims:
    try:
        wire = _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TokenRefusedError("invalid_token", f"the token's claims are not the contract's: {error}") from None
    return Claims(*(getattr(wire, name) for name in _WIRE_NAMES))


def _check_names(claims: Claims) -> None:
    if claims.issuer != ISSUER:
        raise TokenRefusedError("invalid_token", "the token has another issuer")
    if claims.audience != AUDIENCE:
        raise TokenRefusedError("invalid_token", "the token is for another audience")
    if not claims.token_id:
        raise TokenRefusedError("invalid_token", "the token has no id")


def _check_outdated(claims: Claims, now: float, leeway_s: float, max_age_s: float, void_before: float) -> None:
    if now >= claims.expires_at + leeway_s:  # RFC 7519 4.1.4: not "on or after" the time
        raise TokenRefusedError("token_expired", "the token has expired")
    if claims.issued_at < void_before:
        raise TokenRefusedError("token_expired", "tokens issued at that time are void")
    if now - claims.issued_at > max_age_s:
        raise TokenRefusedError("token_too_old", f"the token is older than {max_age_s:g} s")


def may_read(claims: Claims, topic: str, topics: Topics) -> bool:
    """Whether claims allow reading a topic: they have its scope and, if grants are explicit, they grant its log.

    A granted stream covers every topic with that stream id.
    """
    if topics.required_scope(topic) not in claims.scopes:
        return False
    if not (claims.topics or claims.streams):
        return True
    return topic in claims.topics or topics.stream_id(topic) in claims.streams


def device_id(client: int) -> str:
    """Return the device id of a drill's client, by which the runtime identifies it."""
    return f"client-{client}"
