"""Payload hashes of the sync runtime: Base64 of the SHA-256 of canonical JSON."""

import base64
import hashlib

import msgspec

from sim.protocols.events import Hash
from sim.protocols.payloads import canonical_json

_decode = msgspec.json.Decoder().decode


def payload_hash(canonical: bytes) -> str:
    """Return the hash of canonical JSON."""
    return base64.b64encode(hashlib.sha256(canonical).digest()).decode()


def check(payload: bytes, declared: str) -> Hash:
    """Compare a payload with its declared hash; `NONE` if it has numbers that the runtime may format otherwise than we do."""
    try:
        content = _decode(payload)
        if payload_hash(canonical_json(content)) == declared:
            return Hash.OK
        return Hash.NONE if _has_odd_number(content) else Hash.BAD
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return Hash.BAD


def _has_odd_number(value: object) -> bool:
    """Whether a value contains a number with a fraction or an exponent."""
    if isinstance(value, dict):
        return any(map(_has_odd_number, value.values()))
    if isinstance(value, list):
        return any(map(_has_odd_number, value))
    return isinstance(value, float)
