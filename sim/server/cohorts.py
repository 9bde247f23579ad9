"""Who is in a canary: a stable bucket from 0 to 99 for every key, so that raising a percentage only adds keys."""

import hashlib

CANARY_SEED = "runtime-canary-v1"


def cohort_bucket(scope: str, key: str, seed: str = CANARY_SEED) -> int:
    """The bucket of a key: first 4 bytes, big-endian, of SHA-256 of `<seed>|<scope>|<key>`, mod 100 (the control service's)."""
    digest = hashlib.sha256(f"{seed}|{scope}|{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100


def in_cohort(scope: str, key: str, percent: int, seed: str = CANARY_SEED) -> bool:
    """Whether a key is among the first `percent` (0..100) of its scope."""
    return cohort_bucket(scope, key, seed) < percent
