"""The clock of a target, by the `Date` of its answers."""

from email.utils import formatdate

from sim.service.requests import TargetClock

NOW_S = 1_800_000_000.0


def clock(*ahead_s: float, took_s: float = 0.1, **headers: str) -> float | None:
    """What a clock takes from answers that were this far ahead."""
    found = TargetClock()
    for each in ahead_s:
        dated = {"date": formatdate(NOW_S + each, usegmt=True), **headers}
        found.note(dated, NOW_S + 0.5 - took_s / 2, NOW_S + 0.5 + took_s / 2)
    return found.take()


def test_date_of_an_answer_is_compared_with_our_clock():
    assert clock(-40.0) == -40.0
    assert clock(0.0) == 0.0


def test_of_several_answers_the_one_that_is_furthest_off_counts():
    assert clock(0.0, 3600.0, 1.0) == 3600.0
    assert clock(2.0, -3600.0, 0.0) == -3600.0


def test_answer_that_took_long_or_came_from_a_cache_says_nothing():
    assert clock(-90.0, took_s=1.2) is None
    assert clock(-90.0, age="90") is None
    assert clock(date="never") is None


def test_difference_is_taken_once():
    found = TargetClock()
    found.note({"date": formatdate(NOW_S, usegmt=True)}, NOW_S, NOW_S + 0.1)
    assert found.take() is not None
    assert found.take() is None
