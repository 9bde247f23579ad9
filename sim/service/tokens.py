"""Tokens: read from answers, signed here with an operator's key, and the types of their claims."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
import msgspec

from sim.base.errors import UsageError
from sim.service import templates
from sim.service.forms import ClaimType, TokenForm

_REFRESH_MARGIN_S = 30.0  # before the end of a token whose answer states no time to refresh it
_PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"
_FIRST_MOMENT_S = 1e9  # since 1970: a larger number of seconds is a moment, not a lifetime
_FOR_EVER_S = 10 * 365 * 86_400.0  # the lifetime where there are no tokens

_TYPES: dict[ClaimType, type | tuple[type, ...]] = {
    "text": str,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "table": dict,
}


@dataclass(frozen=True, slots=True)
class Issued:
    """A token and what its answer says of it; empty or a default where it says nothing."""

    text: str
    refresh_in_s: float
    expires_in_s: float
    key_id: str = ""
    session_id: str = ""
    refresh_at: str = ""  # by the service's clock
    expires_at: str = ""


def read_token(form: TokenForm, answer: Any, now: float) -> Issued | None:
    """Return the token in an answer: decoded JSON, or bytes that were printed or signed here. None without one."""
    if isinstance(answer, bytes):
        words = answer.decode("utf-8", "replace").split()
        text: object = words[0] if words else ""
        answer = claims_of(text) if isinstance(text, str) else None
    else:
        text = templates.find(answer, form.token)
    lifetime_s = _FOR_EVER_S if form.source == "none" else _lifetime_of(text, now) or form.lifetime_s
    expires_in_s = _FOR_EVER_S if form.source == "none" else _seconds(answer, form.expires_in_s, lifetime_s, now)
    if not isinstance(text, str) or not text or expires_in_s is None:
        return None
    refresh_in_s = _seconds(answer, form.refresh_in_s, max(expires_in_s - _REFRESH_MARGIN_S, expires_in_s / 2), now)
    if refresh_in_s is None:
        return None
    further = (form.key_id, form.session_id, form.refresh_at, form.expires_at)
    return Issued(text, refresh_in_s, expires_in_s, *(str(templates.find(answer, pointer) or "") for pointer in further))


def _lifetime_of(token: object, now: float) -> float | None:
    """Return the seconds from a JWT's issue, or from now, to its end; None if it does not state them."""
    claims = claims_of(token) if isinstance(token, str) else {}
    end, begin = claims.get("exp"), claims.get("iat", now)
    are_numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (end, begin))
    return float(end - begin) if are_numbers and end > begin else None


def _seconds(answer: Any, pointer: str, default: float, now: float) -> float | None:
    """Return the seconds from now that a pointer finds, `default` if there is nothing, and None if there is something else.

    A service may state them as a number, also in text, or as a moment: in seconds or milliseconds since 1970, or in ISO 8601.
    """
    found = templates.find(answer, pointer)
    if found is None:
        return default
    try:
        number = _moment(found) if isinstance(found, str) else None if isinstance(found, bool) else float(found)
    except (ValueError, TypeError):
        return None
    if number is None or not math.isfinite(number):
        return None
    since_1970_s = number / 1000 if number >= 1000 * _FIRST_MOMENT_S else number
    return since_1970_s - now if since_1970_s >= _FIRST_MOMENT_S else number


def _moment(text: str) -> float:
    """Return a number in text, or the seconds since 1970 of a moment in ISO 8601. Raises `ValueError` for other texts."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def signed_token(form: TokenForm, values: Mapping[str, object], key: str) -> str:
    """Return a JWT with the form's claims, signed with the form's algorithm. `values` has `now`, `ttl_s` and `unique`.

    Raises `UsageError` for a key of another algorithm.
    """
    now, ttl_s = values["now"], values["ttl_s"]
    assert isinstance(now, int)
    known = {**values, "expires_at": now + int(ttl_s if isinstance(ttl_s, int) else form.lifetime_s)}
    header = templates.render(form.header, known)
    signer = jwt.PyJWS()
    if (name := header.get("alg", form.algorithm)) != form.algorithm:
        signer.register_algorithm(name, jwt.get_algorithm_by_name(form.algorithm))
    claims = msgspec.json.encode(templates.render(form.claims, known))
    try:
        return signer.encode(claims, key if form.algorithm == "HS256" else _PEM.format(key), name, header)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise UsageError(f"[token]: the signing key is no key for {form.algorithm}: {error}.") from None


def claims_of(token: str) -> dict[str, Any]:
    """Return a token's claims without checking its signature; empty if it is no JWT."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def wrong_claims(token: str, types: Mapping[str, ClaimType]) -> list[str]:
    """Return in words which claims of a token are missing or of another type than stated."""
    claims = claims_of(token)
    if types and not claims:
        return ["the token is no JWT, so its claims cannot be read"]
    return [
        f"claim {name} is missing" if name not in claims else f"claim {name} is {_type(claims[name])}, not {wanted}"
        for name, wanted in types.items()
        if name not in claims or _type(claims[name]) != wanted
    ]


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, kind in _TYPES.items() if isinstance(value, kind)), type(value).__name__)
