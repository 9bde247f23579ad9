"""A rate that is never exceeded, anyone who asks and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.redaction import MARK, Redactor
from sim.engines.shared.pacer import Pacer


def test_a_crowd_passes_at_the_rate():
    pacer = Pacer(3)
    assert [pacer.reserve(10.0) for _ in range(7)] == [10.0, 10.0, 10.0, 11.0, 11.0, 11.0, 12.0]


def test_a_late_arrival_does_not_wait():
    pacer = Pacer(2)
    assert [pacer.reserve(moment) for moment in (1.0, 1.1, 5.0, 5.0)] == [1.0, 1.1, 5.0, 5.0]


def test_a_rate_below_one_per_second_is_kept():
    pacer = Pacer(0.5)
    assert [pacer.reserve(0.0) for _ in range(3)] == [0.0, 2.0, 4.0]


@given(st.floats(0.2, 40.0), st.lists(st.floats(0.0, 0.6), min_size=1, max_size=120))
def test_no_window_exceeds_the_rate(per_s: float, waits: list[float]):
    pacer, now, given_out = Pacer(per_s), 0.0, []
    for wait in waits:
        now += wait
        given_out.append(pacer.reserve(now))
    at_once = max(int(per_s), 1)
    assert given_out == sorted(given_out)
    assert all(
        later - early >= max(at_once / per_s, 1.0) - 1e-9 for early, later in zip(given_out, given_out[at_once:], strict=False)
    )


def test_late_wakeups_do_not_act_together():
    pacer = Pacer(2)
    assert [pacer.reserve(0.0) for _ in range(4)] == [0.0, 0.0, 1.0, 1.0]
    assert [pacer.act(0.9) for _ in range(2)] == [0.9, 0.9], "the event loop was late for the first two"
    assert [pacer.act(1.0) for _ in range(2)] == [1.9, 1.9], "so the others must wait once more"
    assert [pacer.act(1.9) for _ in range(2)] == [1.9, 1.9]


@pytest.mark.parametrize(
    "text", ["s3cr/t+x", "Bearer s3cr/t+x.", "?token=s3cr%2Ft%2Bx&", "czNjci90K3g=", "s3cr/t+xs3cr/t+x", "é s3cr/t+x"]
)
def test_a_secret_is_found_in_every_encoding(text: str):
    kept = Redactor(["s3cr/t+x", ""])(text.encode())
    assert MARK in kept
    assert not any(form in kept for form in (b"s3cr/t+x", b"s3cr%2Ft%2Bx", b"czNjci90K3g="))


def test_without_secrets_nothing_changes():
    assert Redactor([])(b"as it was") == b"as it was"
