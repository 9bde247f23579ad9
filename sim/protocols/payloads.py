"""Payloads of events: canonical JSON and the hash of it."""

import hashlib

import msgspec

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder()


def canonical_json(value: object) -> bytes:
    """`value` as canonical JSON: keys sorted at all levels, no whitespace, arrays in order.

    Not-a-number and infinity become `null`, as JSON has neither. Raises ValueError for what JSON
    cannot hold: foreign types, keys that are not text, circular or too deeply nested values.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a JSON value: {error}") from error


def payload_hash(canonical: bytes) -> str:
    """The payload hash of the mock's services: `sha256:` and the hex SHA-256 of canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def hash_matches(raw_payload: bytes, declared: str) -> bool:
    """Whether `declared` is the hash of a payload's canonical form, however the payload was laid out. Never raises.

    A hash of the very bytes that came does not match: two peers that write the same value differently must agree on it.
    """
    try:
        canonical = _encoder.encode(_decoder.decode(raw_payload))
    except (TypeError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError):
        return False
    return payload_hash(canonical) == declared
