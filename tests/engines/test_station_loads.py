"""The load of a simulated service's queues: exact means per bin, and equal in both engines."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from sim.drill import model as drills
from sim.drill.fault_kinds import DropSockets, KillRuntime
from sim.drill.model import Drill, Fleet, Load, Phases
from sim.drill.system_model import ControlService, Server, SystemModel
from sim.engines.fleet import engine as fleet
from sim.engines.virtual import engine as virtual
from sim.engines.virtual.queues import Station
from sim.record import stations
from sim.record.stations import FINE_S, FULL, Level, StationLoad


def counted(stays: list[tuple[float, float]], until_s: float) -> np.ndarray:
    """The mean number of stays in each bin, by looking at each bin and stay."""
    edges = FINE_S * np.arange(round(until_s / FINE_S) + 1)
    return np.array(
        [
            sum(max(min(end, high) - max(start, low), 0.0) for start, end in stays) / FINE_S
            for low, high in itertools.pairwise(edges)
        ]
    )


def test_level_is_the_exact_mean_of_each_bin():
    random = np.random.default_rng(7)
    starts, lengths = random.uniform(0, 3, 200), random.exponential(0.2, 200)
    stays = [(float(start), float(start + length)) for start, length in zip(starts, lengths, strict=True)]
    level = Level(begin=1000.0)
    for start, end in stays:
        level.between(1000 + start, 1000 + end)
    np.testing.assert_allclose(level.means(2.5), counted(stays, 2.5), atol=1e-6)


def test_level_that_is_set_lasts_until_the_next():
    level = Level()
    for at, value in ((0.05, 4.0), (0.25, 4.0), (0.35, 1.0)):
        level.set(at, value)
    np.testing.assert_allclose(level.means(0.6), [2.0, 4.0, 4.0, 2.5, 1.0, 1.0])


def test_station_counts_who_waits_and_is_served():
    station = Station(2)
    for at in (0.0, 0.0, 0.0, 0.0):  # two are served until 0.3, two wait for them until then, and are served until 0.6
        station.admit(at, 0.3)
    load = station.load("minting", 0.8)
    np.testing.assert_allclose(load.busy, [2, 2, 2, 2, 2, 2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(load.waiting, [2, 2, 2, 0, 0, 0, 0, 0], atol=1e-9)
    assert (load.max_busy, load.max_waiting, load.full_s) == (2.0, 2.0, pytest.approx(0.6))


def test_killed_station_has_nobody_from_then_on():
    station = Station(1)
    for _ in range(5):
        station.admit(0.0, 0.2)
    station.clear(0.3)
    load = station.load("handshakes", 1.0)
    np.testing.assert_allclose(load.busy, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(load.waiting, [4, 4, 3, 0, 0, 0, 0, 0, 0, 0], atol=1e-9)


def test_peak_of_arrivals_is_the_fullest_second_from_a_moment_on():
    load = stations.load(
        "handshakes", 1, 0.1, np.zeros(30), np.zeros(30), 0.0, arrived=[90, *[0] * 9, *[1] * 5, 6, *[2] * 9, 1]
    )
    assert load.peak_arrivals_per_s(0.0) == 90
    assert load.peak_arrivals_per_s(0.5) == 24  # 6 + 9 * 2
    assert load.peak_arrivals_per_s(2.5) == 1
    assert np.isnan(load.peak_arrivals_per_s(9.0))


def test_numbers_count_from_the_first_fault_on():
    busy = np.array([2.0] * 10 + [1.0] * 5 + [0.0] * 5)
    load = stations.load("minting", 2, FINE_S, busy, 10 * busy, 1.0)
    assert (load.full_s, load.max_busy, load.max_waiting, load.mean_busy) == (0.0, 1.0, 10.0, 0.5)
    assert max(load.busy) == 2.0
    assert stations.load("minting", 2, FINE_S, busy, busy, 0.0).full_s == 1.0


def test_wider_bins_keep_the_integral():
    busy = np.arange(1001) % 7 / 7
    kept = stations.load("minting", 1, FINE_S, busy, busy, 0.0)
    assert len(kept.busy) <= 120
    whole = len(busy) // round(kept.bin_s / FINE_S)
    assert sum(kept.busy[:whole]) * kept.bin_s == pytest.approx(
        busy[: whole * round(kept.bin_s / FINE_S)].sum() * FINE_S, abs=0.05
    )
    assert kept.full_s == 0 < FULL


PHASES = Phases(steady_s=1.0, fault_s=4.0, recovery_s=0.5, settle_s=10.0)
CUT, KILL = DropSockets(at_s=0.0), KillRuntime(at_s=0.0, down_s=0.5)
NARROW = Server(handshake_ms=4.0, accept_backlog=32)
CASES = {
    "a full accept queue": (CUT, SystemModel(server=NARROW)),
    "one loop": (CUT, SystemModel(server=Server(handshake_ms=4.0, one_loop=True))),
    "few tokens": (CUT, SystemModel(control=ControlService(mints_per_s=100.0))),
    "a killed runtime": (KILL, SystemModel(server=Server(handshake_ms=4.0))),
}


@pytest.mark.parametrize("name", CASES)
def test_both_engines_load_the_same_stations(tmp_path: Path, name: str):
    fault, model = CASES[name]
    drill = Drill("x", "?", ("reconnect.live_again_99_s",), Fleet(120, connects_per_s=200.0), Load(2.0), PHASES, (fault,))
    drills.check(drill, "here")
    one = fleet.observe(drill, model, 3)[0].stations
    other = virtual.run(drill, virtual.Options(tmp_path, 3, model)).stations
    assert [load.name for load in one] == [load.name for load in other]
    for mine, theirs in zip(one, other, strict=True):
        _are_alike(mine, theirs)
    (door,) = (load for load in one if load.name == stations.HANDSHAKES)
    assert (door.refused > 0, door.places) == (name == "a full accept queue", model.server.accept_backlog)
    (other_door,) = (load for load in other if load.name == stations.HANDSHAKES)
    peaks = [load.peak_arrivals_per_s(1.5) for load in (door, other_door)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.05)
    assert 20 < peaks[0] <= 120
    assert (stations.TOKEN_LIMIT in {load.name for load in one}) == (name == "few tokens")
    assert (stations.EVENT_LOOP in {load.name for load in one}) == (name == "one loop")


def _are_alike(one: StationLoad, other: StationLoad) -> None:
    """The auditor and frames of the live tail are only in the virtual engine."""
    n = min(len(one.busy), len(other.busy)) - round(1.0 / FINE_S)  # without the end, when the auditor connects
    assert one.since_s == pytest.approx(other.since_s, abs=1e-6)
    assert one.since_s > 1.0
    assert one.full_s == pytest.approx(other.full_s, abs=0.15)
    assert (one.workers, one.places) == (other.workers, other.places)
    assert one.refused == pytest.approx(other.refused, rel=0.05, abs=2)
    np.testing.assert_allclose(one.busy[:n], other.busy[:n], atol=0.06)
    delivers = one.name in (stations.DELIVERY, stations.EVENT_LOOP)
    np.testing.assert_allclose(one.waiting[:n], other.waiting[:n], atol=3.0 if delivers else 0.6, rtol=0.02)
