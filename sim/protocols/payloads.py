"""Payloads of events: canonical JSON and its hash."""

import hashlib

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


def payload_hash(canonical: bytes) -> str:
    """The payload hash of the mock's services: `sha256:` and the hex SHA-256 of canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def hash_matches(raw_payload: bytes, declared: str) -> bool:
    """Whether `declared` is the hash of a payload's canonical form. The payload may have any form. Never raises.

    A hash of the received bytes does not match: peers that format a value differently must agree on its hash.
    """
    try:
        canonical = _encoder.encode(_decoder.decode(raw_payload))
    except (TypeError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError):
        return False
    return payload_hash(canonical) == declared
