"""`sim.base.randomness`, compiled: the same numbers for the same seed, purpose, client and attempt."""

import numpy as np

from sim.base import randomness
from sim.engines.fleet.kernel.compilation import compiled, inner
from sim.engines.fleet.kernel.world import Array

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BY_ATTEMPT = np.uint64(0xD1342543DE82EF95)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_11, _27, _30, _31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
_MASK = (1 << 64) - 1


def key_of(seed: int, purpose: str) -> np.uint64:
    """Return the key of a seed and a purpose, the start of every draw for them."""
    word = randomness.mix((seed + int(_GOLDEN)) & _MASK)
    return np.uint64(randomness.mix(word ^ randomness.purpose_key(purpose)))


@inner
def mix(word: np.uint64) -> np.uint64:
    word = (word ^ (word >> _30)) * _FIRST
    word = (word ^ (word >> _27)) * _SECOND
    return word ^ (word >> _31)


@inner
def bits(key: np.uint64, client: int, attempt: int) -> np.uint64:
    """Return 64 random bits. `key` is the result of `key_of`."""
    word = mix(key + np.uint64(client) * _GOLDEN)
    return mix(word + np.uint64(attempt) * _BY_ATTEMPT + _GOLDEN)


@inner
def draw(key: np.uint64, client: int, attempt: int) -> float:
    return float(bits(key, client, attempt) >> _11) * 2.0**-53


@compiled
def draw_all(key: np.uint64, out: Array, attempt: int) -> None:
    """Write a draw for each client to `out`."""
    for client in range(len(out)):
        out[client] = draw(key, client, attempt)


@compiled
def bits_of_all(key: np.uint64, out: Array) -> None:
    """Write each client's random bits to `out`; a fault's choice of clients sorts by them."""
    for client in range(len(out)):
        out[client] = bits(key, client, 0)
