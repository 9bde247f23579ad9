"""Tokens that stormgate signs itself with an operator's key, and the types of a token's claims."""

from collections.abc import Mapping
from typing import Any

import jwt

from sim.service.forms import ClaimType

_TYPES: dict[ClaimType, type | tuple[type, ...]] = {
    "text": str,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "table": dict,
}


def signed(claims: dict[str, Any], header: dict[str, Any], key: str) -> str:
    """Return a JWT with these claims, signed with HS256."""
    return jwt.encode(claims, key, "HS256", header)


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
