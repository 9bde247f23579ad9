"""Payload hashes of the sync runtime: Base64 of the SHA-256 of canonical JSON."""

import base64
import hashlib
import re

import msgspec

from sim.protocols.events import Hash
from sim.protocols.payloads import canonical_json, is_base64_form

_decode = msgspec.json.Decoder().decode
_ODD_TEXT = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")  # control characters without a short escape: its hex digits may be capitals


def payload_hash(canonical: bytes) -> str:
    """Return the hash of canonical JSON."""
    return base64.b64encode(hashlib.sha256(canonical).digest()).decode()


def check(payload: bytes, declared: str) -> Hash:
    """Compare a payload with its declared hash.

    `NONE` if the runtime may format its content otherwise than we do, and for a hash in another form.
    """
    if not is_base64_form(declared):
        return Hash.NONE
    try:
        content = _decode(payload)
        if payload_hash(canonical_json(content)) == declared:
            return Hash.OK
        return Hash.NONE if _is_odd(content) else Hash.BAD
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return Hash.BAD


def _is_odd(value: object) -> bool:
    """Whether a value contains a number with a fraction or an exponent, or a rare control character."""
    if isinstance(value, dict):
        return any(map(_is_odd, value)) or any(map(_is_odd, value.values()))
    if isinstance(value, list):
        return any(map(_is_odd, value))
    return isinstance(value, float) or (isinstance(value, str) and _ODD_TEXT.search(value) is not None)
