"""Publishing in simulation: the mirror's retries take their time, and what comes out is held against what went in."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from sim.drill.system_model import UNLIMITED
from sim.engines.virtual import engine
from sim.engines.virtual.client import one_way_delay_s
from sim.engines.virtual.service import SimulatedService
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from tests.storms import red, small, storm, troubles

FLAKY = msgspec.structs.replace(
    UNLIMITED, server=msgspec.structs.replace(UNLIMITED.server, mirror_failure_share=0.5, mirror_tries=3, mirror_retry_ms=10.0)
)


def test_a_mirror_that_fails_is_tried_again_and_what_it_never_takes_comes_with_the_next_event(tmp_path: Path):
    drill = small("reconnect_storm", "fleet.clients=20", "load.run_streams=1", "phases.steady_s=10")
    engine.run(drill, engine.Options(tmp_path, 1, FLAKY))
    _, recorded = read_verified(tmp_path)
    rows = recorded.table().to_pylist()
    fault = next(row["t"] for row in rows if row["kind"] == Kind.PHASE and row["detail"] == "fault")
    published = {row["seq"]: row["t"] for row in rows if row["kind"] == Kind.PUBLISHED}
    live_since = max(row["t"] for row in rows if row["kind"] == Kind.SUBSCRIBED and row["t"] < fault)
    waits_ms = Counter(
        round(1000 * (row["t"] - published[row["seq"]] - one_way_delay_s(FLAKY, 1, row["client"])), 3)
        for row in rows
        if row["kind"] == Kind.APPLIED and row["t"] < fault and published.get(row["seq"], 0.0) > live_since
    )
    at_once, tried_twice, tried_thrice = waits_ms[0.0], waits_ms[10.0], waits_ms[20.0]
    later = waits_ms.total() - at_once - tried_twice - tried_thrice
    assert at_once > tried_twice > tried_thrice > 0
    assert later > 0
    assert all(wait_ms >= 0.0 for wait_ms in waits_ms)


def test_an_event_that_the_service_changes_before_it_takes_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    take = SimulatedService._append
    monkeypatch.setattr(
        SimulatedService, "_append", lambda service, topic, key, payload, run: take(service, topic, key, b'{"other":1}', run)
    )
    assert "acknowledged_lost" in red(storm(tmp_path, small("reconnect_storm"), engine="virtual"))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_events_whose_answers_are_lost_are_stored_once(tmp_path: Path, share: float):
    drill = small("lost_publish_answers", f"faults.0.share={share}")
    assert troubles(storm(tmp_path, drill, engine="virtual")) == []


def test_answers_that_were_never_lost_prove_nothing(tmp_path: Path):
    verdict = storm(tmp_path, small("lost_publish_answers", "faults.0.share=0.000001"), engine="virtual")
    assert troubles(verdict) == ["drill.faults_observed error: lose_publish_answers #0: had no observed effect"]


@pytest.mark.parametrize("in_flight", [0, 2])
def test_appends_overlap_where_the_limit_lets_them(tmp_path: Path, in_flight: int):
    drill = small("concurrent_appends", f"load.in_flight_per_stream={in_flight}")
    assert troubles(storm(tmp_path, drill, engine="virtual")) == []


def test_appends_that_the_limit_keeps_apart_are_not_run(tmp_path: Path):
    """A service that stalls on overlapping appends must not pass because none overlapped."""
    verdict = storm(tmp_path, small("concurrent_appends", "load.in_flight_per_stream=1"), engine="virtual")
    assert verdict.status is State.NOT_RUN
    assert "in_flight_per_stream" in verdict.not_run
