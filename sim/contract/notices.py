"""What a session tells of itself."""

import math
from typing import NamedTuple

HASH_DIGITS = 12  # of a payload's hash, kept in observations


class Notice(NamedTuple):
    """Something that happened, with the fields of an observation (see `sim.observations`)."""

    kind: str
    stream: str = ""
    seq: int = -1
    attempt: int = 0
    value: float = math.nan
    detail: str = ""


def short_hash(payload_hash: str) -> str:
    """The first digits of a payload hash, enough to tell two payloads of one event apart."""
    return payload_hash[7 : 7 + HASH_DIGITS]
