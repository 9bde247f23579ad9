"""An hour of snapshots of a real mock, on a stepped clock and through a targets file, as a stage takes them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drills.rollout.servers import revisions, sampler
from drills.rollout.servers.sampler import Sampler, sources_of
from drills.rollout.setup.records import Revisions, Snapshot
from drills.runs import targets
from sim.base.clocks import SteppedClock, iso
from sim.server.deployment import Deployment
from tests.rollout.stepped_service import ADMIN, METRICS, SESSION, SteppedService, stepped_service, unaltered

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
REVISION = Deployment().revision


@pytest.fixture(scope="module")
def clock() -> SteppedClock:
    return SteppedClock(START)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory, clock: SteppedClock) -> Iterator[SteppedService]:
    with stepped_service(tmp_path_factory.mktemp("service"), clock) as served:
        yield served


def polled(endpoints: SteppedService, folder: Path, clock: SteppedClock, minutes: int) -> list[Snapshot]:
    found, entry = targets.resolve(endpoints.name, endpoints.targets), targets.read(endpoints.targets, endpoints.name)
    assert found is not None
    taken = []
    with Sampler(folder, sources_of(found, entry), clock) as taking:
        for _ in range(minutes):
            taken += taking.poll("hold")
            clock.sleep_until(clock.now() + timedelta(minutes=1))
    return taken


def test_hour_is_sampled_without_a_hole(endpoints: SteppedService, clock: SteppedClock, tmp_path: Path) -> None:
    began = clock.now()
    taken = polled(endpoints, tmp_path, clock, 60)
    assert sampler.read(tmp_path) == taken
    assert {(each.source, each.outcome, each.notes) for each in taken} == {("metrics", "ok", ()), ("control", "ok", ())}
    assert [each.at for each in taken[::2]] == [iso(began + timedelta(minutes=minute)) for minute in range(60)]
    assert {each.revisions for each in taken} == {Revisions(control=REVISION), Revisions(runtime=REVISION)}
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SESSION.encode() not in kept
    assert ADMIN.encode() not in kept


def test_cache_before_the_endpoint_is_detected(endpoints: SteppedService, clock: SteppedClock, tmp_path: Path) -> None:
    cached: dict[str, bytes] = {}
    endpoints.alter = lambda path, status, body: (status, cached.setdefault(path, body) if path == METRICS else body)
    try:
        taken = polled(endpoints, tmp_path, clock, 4)
    finally:
        endpoints.alter = unaltered
    outcomes = [each.outcome for each in taken if each.source == "metrics"]
    assert outcomes == ["ok", "ok", "stale_body", "stale_body"], "it may be a minute old"
    assert {each.outcome for each in taken if each.source == "control"} == {"ok"}


def test_revisions_are_found(endpoints: SteppedService) -> None:
    found = targets.resolve(endpoints.name, endpoints.targets)
    assert found is not None
    assert revisions.find(found, targets.read(endpoints.targets, endpoints.name)) == Revisions(
        control=REVISION, runtime=REVISION
    )


def test_runtime_without_a_revision_is_unknown(endpoints: SteppedService, clock: SteppedClock, tmp_path: Path) -> None:
    endpoints.alter = lambda path, status, body: (
        (200, json.dumps({"data": {"status": "ok"}}).encode()) if path != METRICS else (200, body)
    )
    try:
        metrics, control = polled(endpoints, tmp_path, clock, 1)
    finally:
        endpoints.alter = unaltered
    assert (metrics.outcome, metrics.revisions) == ("ok", Revisions())
    assert (control.outcome, control.revisions) == ("no_metrics", Revisions())
