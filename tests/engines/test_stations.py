"""Queues in virtual time against their closed forms, Little's law, and stations that lose everyone."""

import random
from itertools import pairwise

import pytest
from bench.queues import SYSTEMS, System, closed_form, compare, erlang_c

from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.queues import NO_LIMIT, Station, Turnstile


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_replications_hold_the_closed_forms(system: System):
    """20 fixed seeds, 99 % intervals by Student's t; `-s` shows them, and `python -m tests.bench.queues` as a table."""
    compared = compare(system)
    for row in compared:
        print(row)
    assert all(row.agrees for row in compared), "\n".join(map(str, compared))


def test_the_closed_forms_are_the_textbooks():
    assert erlang_c(1, 0.8) == pytest.approx(0.8)  # one worker: an arrival waits as often as the worker is busy
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    one = closed_form(System("M/M/1", 1, 0.8, True))
    constant = closed_form(System("M/D/1", 1, 0.8, False))
    assert constant.wait_s == pytest.approx(one.wait_s / 2)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_littles_law_holds_over_a_whole_run(workers: int):
    """How many are inside, integrated over time, is the sum of everyone's stay: for any arrivals, and any services."""
    draw = random.Random(workers)
    arrivals = sorted(draw.uniform(0, 50) ** 1.5 for _ in range(400))
    station, counter = Station(workers), Station(workers)
    services = [draw.choice([0.0, 0.1, draw.expovariate(1.0), 9.0]) for _ in arrivals]
    leaves = [station.admit(now, service_s)[1] for now, service_s in zip(arrivals, services, strict=True)]
    stays = [leaves - now for now, leaves in zip(arrivals, leaves, strict=True)]
    moments = sorted([*arrivals, *leaves])
    to_come, area = list(zip(arrivals, services, strict=True)), 0.0
    for moment, following in pairwise(moments):
        while to_come and to_come[0][0] <= moment:
            counter.admit(*to_come.pop(0))
        area += counter.inside(moment) * (following - moment)
    assert area == pytest.approx(sum(stays))
    assert station.waited_s + station.served_s == pytest.approx(sum(stays))


def test_first_come_is_first_served_and_the_first_free_worker_takes_it():
    station = Station(2)
    assert [station.admit(now, 1.0) for now in (0.0, 0.2, 0.3, 0.4)] == [(0.0, 1.0), (0.2, 1.2), (1.0, 2.0), (1.2, 2.2)]
    assert [station.inside(now) for now in (0.4, 1.0, 1.2, 2.1, 2.2)] == [4, 3, 2, 1, 0]
    assert station.admit(5.0, 1.0) == (5.0, 6.0)


def test_a_station_that_dies_loses_everyone_and_starts_empty():
    station = Station(1)
    for _ in range(3):
        station.admit(0.0, 10.0)
    station.clear(1.0)
    assert station.inside(1.0) == 0
    assert station.admit(1.0, 2.0) == (1.0, 3.0)


def test_a_station_forgets_those_who_have_left():
    """Nobody need ask how many are inside for that: a day of arrivals must not fill the memory."""
    station = Station(1)
    for number in range(10_000):
        station.admit(float(number), 0.5)
    assert len(station._inside) == 1


def test_a_change_of_a_turnstile_changes_the_wait_of_those_who_wait():
    """Two places of 1 s each; at 1.5 s the limit goes: the one still waiting is done at once, those inside stay."""
    clock, left = VirtualClock(), {}
    turnstile = Turnstile(clock)
    turnstile.set(2, 1.0)
    for name in "abcde":
        turnstile.enter(lambda name=name: left.__setitem__(name, clock.now))
    clock.call_at(1.5, turnstile.set, NO_LIMIT, 0.0)
    clock.run(until=10.0)
    assert left == {"a": 1.0, "b": 1.0, "c": 2.0, "d": 2.0, "e": 1.5}
