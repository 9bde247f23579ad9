"""Payloads of events: canonical JSON and its hash."""

import base64
import hashlib
import re

import msgspec

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder()


def canonical_json(value: object) -> bytes:
    """`value` as canonical JSON: keys sorted at all levels, no whitespace, arrays in order.

    Not-a-number and infinity become `null`, as JSON has neither. Raises ValueError for values that JSON
    cannot express: other types, keys that are not text, circular or too deeply nested values.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a JSON value: {error}") from error


_PREFIX = "sha256:"
_BASE64 = re.compile(r"[A-Za-z0-9+/]{43}=")  # of 32 bytes


def payload_hash(canonical: bytes) -> str:
    """The payload hash of the mock's services: `sha256:` and the hex SHA-256 of canonical JSON."""
    return _PREFIX + hashlib.sha256(canonical).hexdigest()


def is_hex_form(declared: str) -> bool:
    """Whether a declared hash has the form of `payload_hash`; its digits may be wrong."""
    return declared.startswith(_PREFIX)


def is_base64_form(declared: str) -> bool:
    """Whether a declared hash may be a SHA-256 in Base64."""
    return _BASE64.fullmatch(declared) is not None


def digits_of(declared: str) -> str:
    """Return the hex digits of a declared SHA-256; empty for a hash in another form, which can be compared with none."""
    if is_hex_form(declared):
        return declared[len(_PREFIX) :].lower()
    return base64.b64decode(declared).hex() if is_base64_form(declared) else ""


def hash_matches(raw_payload: bytes, declared: str) -> bool:
    """Whether `declared` is the hash of a payload's canonical form. The payload may have any form. Never raises.

    A hash of the received bytes does not match: peers that format a value differently must agree on its hash.
    """
    try:
        canonical = _encoder.encode(_decoder.decode(raw_payload))
    except (TypeError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError):
        return False
    return payload_hash(canonical) == declared.lower()
