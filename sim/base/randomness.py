"""Random numbers as a function: the same (seed, purpose, client, attempt) always gives the same number.

There is no generator state, so adding a client or drawing in another order changes no other draw.
The mixer is splitmix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number
generators", OOPSLA 2014), applied once per input word. It uses only 64-bit integer arithmetic, so
compiled code draws the same numbers.
"""

import hashlib

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(word: int) -> int:
    """Apply splitmix64's finaliser to one 64-bit word."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


_PURPOSES: dict[str, int] = {}


def purpose_key(purpose: str) -> int:
    """Convert a purpose's name to a 64-bit word, the same on every machine and in every process."""
    key = _PURPOSES.get(purpose)
    if key is None:
        key = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "big")
        _PURPOSES[purpose] = key
    return key


def draw_bits(seed: int, purpose: str, client: int, attempt: int) -> int:
    """Draw 64 uniformly distributed bits."""
    word = mix((seed + _GOLDEN) & _MASK)
    word = mix((word ^ purpose_key(purpose)) & _MASK)
    word = mix((word + client * _GOLDEN) & _MASK)
    return mix((word + attempt * 0xD1342543DE82EF95 + _GOLDEN) & _MASK)


def draw(seed: int, purpose: str, client: int, attempt: int = 0) -> float:
    """Draw a uniform number in [0, 1) with 53 random bits."""
    return (draw_bits(seed, purpose, client, attempt) >> 11) * 2.0**-53


def share_of(items: list[int], share: float, seed: int, purpose: str) -> list[int]:
    """Pick a share (0..1) of `items`: exactly `round(share * n)`, in ascending order."""
    count = round(share * len(items))
    return sorted(sorted(items, key=lambda item: draw_bits(seed, purpose, item, 0))[:count])


def part_of(items: list[int], part: int, parts: int, seed: int, purpose: str) -> list[int]:
    """Return the `part`-th (from 1) of `parts` disjoint random parts of `items`, of about equal size."""
    return [item for item in items if int(draw(seed, purpose, item) * parts) == part - 1]
