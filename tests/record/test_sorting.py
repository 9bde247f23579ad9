"""Sorting by radix and finding by table give what NumPy's own sorts and searches give."""

import numpy as np
import pytest

from sim.record import sorting
from sim.record.sorting import Ranks, first_of_each, order_of

# One digit, several, few of many, negative, and the widest that there are.
KEYS = {
    "one digit": (0, 100),
    "three digits": (0, 1 << 40),
    "far from zero": ((1 << 50), (1 << 50) + 300),
    "negative": (-(1 << 33), 1 << 33),
    "widest": (np.iinfo(np.int64).min, np.iinfo(np.int64).max),
}


@pytest.mark.parametrize("size", [0, 1, 50, sorting._FEW, 20_000])
@pytest.mark.parametrize("span", KEYS.values(), ids=KEYS.keys())
def test_order(span: tuple[int, int], size: int) -> None:
    keys = np.random.default_rng(1).integers(*span, size)
    keys[size // 2 :] = keys[: size - size // 2]  # equal keys stay in their order
    assert order_of(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    found = first_of_each(keys)
    assert [each.tolist() for each in found] == [each.tolist() for each in np.unique(keys, return_index=True)]


def test_equal_keys() -> None:
    assert order_of(np.full(10_000, 7)).tolist() == list(range(10_000))


def test_digits_that_are_alike() -> None:
    keys = (np.arange(10_000)[::-1] % 3 << 40) + np.arange(10_000) % 5
    assert order_of(keys).tolist() == np.argsort(keys, kind="stable").tolist()


@pytest.mark.parametrize("step", [1, 3, 1 << 30], ids=["dense", "with holes", "sparse"])
def test_ranks(step: int) -> None:
    numbers = [[], [step * number + 5 for number in range(100)], [], [-step, 0, 0, step]]  # one list for each stream
    begin = np.cumsum([0, *map(len, numbers)])
    ranks = Ranks(begin, np.concatenate(numbers).astype(np.int64))
    assert (ranks._table is None) == (step == 1 << 30)
    edges = [number + near for own in numbers for number in own for near in (-1, 0, 1)]
    for stream, own in enumerate(numbers):
        wanted = np.array([-(1 << 39), *edges, 1 << 39])
        streams = np.full(len(wanted), stream)
        assert ranks.up_to(streams, wanted).tolist() == np.searchsorted(own, wanted, side="right").tolist()
        last = {number: int(begin[stream]) + place for place, number in enumerate(own)}
        assert ranks.index_of(streams, wanted).tolist() == [last.get(number, -1) for number in wanted.tolist()]


def test_ranks_of_nothing() -> None:
    none = Ranks(np.array([0, 0]), np.zeros(0, np.int64))
    assert none.up_to(np.array([0]), np.array([3])).tolist() == [0]
    assert none.index_of(np.array([0]), np.array([3])).tolist() == [-1]
