"""Clocks that nobody can set."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from sim.base import bounded_reads, clocks
from sim.base.clocks import SystemClock


@pytest.mark.parametrize("wrong", [3600.0, -3600.0])
def test_a_rollouts_clock_does_not_follow_a_wall_clock_that_is_set(monkeypatch: pytest.MonkeyPatch, wrong: float):
    clock, real = SystemClock(), time.time
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: real() + wrong)
    assert timedelta(0) <= clock.now() - before < timedelta(minutes=5)


def test_a_rollouts_clock_goes_on_while_the_machine_is_asleep(monkeypatch: pytest.MonkeyPatch):
    clock, elapsed_s = SystemClock(), clocks.elapsed_s
    before = clock.now()
    monkeypatch.setattr(clocks, "elapsed_s", lambda: elapsed_s() + 7200.0)
    assert clock.now() - before >= timedelta(hours=2)


def test_a_rollouts_clock_starts_with_the_wall_clock():
    assert abs(SystemClock().now().timestamp() - time.time()) < 5.0


def test_boot_is_the_same_for_all_clocks_and_empty_where_unknown(monkeypatch: pytest.MonkeyPatch):
    assert SystemClock().boot == SystemClock().boot

    def unknown(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(bounded_reads, "file_text", unknown)
    assert SystemClock().boot == ""
