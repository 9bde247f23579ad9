"""The checks of a drill's own course: what makes a run prove nothing, and what its kind asks."""

import pytest

from sim.record.observations import Kind
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, NAN, NO_DATA, PASS, ask, judged, many, names, state
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill


def test_course() -> None:
    assert state("drill.phases", good_storm(2)) is PASS
    assert state("drill.phases", good_storm(2).without(lambda row: row.detail == "recovery")) is ERROR
    swapped = good_storm(2).changed(lambda row: row.detail == "recovery", t=59.0)
    swapped.rows.sort(key=lambda row: row.t)
    assert state("drill.phases", swapped) is ERROR


@pytest.mark.parametrize("value", [0.0, NAN, 0.5])
def test_failed_steady_state_is_an_error(value: float) -> None:
    assert state("drill.steady_state", good_storm(2)) is PASS
    assert state("drill.steady_state", good_storm(2).changed(lambda row: row.kind == Kind.STEADY, value=value)) is ERROR


@pytest.mark.parametrize("kind", [Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED])
def test_a_fault_that_did_not_act_proves_nothing(kind: Kind) -> None:
    assert state("drill.faults_observed", good_storm(2)) is PASS
    assert state("drill.faults_observed", good_storm(2).without(lambda row: row.kind == kind)) is ERROR


@pytest.mark.parametrize("value", [0.0, NAN])
def test_a_fault_observed_no_times_proves_nothing(value: float) -> None:
    story = good_storm(2).changed(lambda row: row.kind == Kind.FAULT_OBSERVED, value=value)
    assert state("drill.faults_observed", story) is ERROR


def test_a_plan_without_the_drills_faults_proves_nothing() -> None:
    story = good_storm(2)
    story.header["plan"] = []
    assert state("drill.faults_observed", story) is ERROR


def test_clients_that_a_fault_must_kill_were_killed() -> None:
    def story(killed: int) -> Story:
        story = good_storm(10).changed(lambda row: row.detail == "drop_sockets", detail="restart_clients")
        story.header["plan"] = [{"kind": "restart_clients", "checkpoint": "lost", "clients": 10}]
        for client in range(killed):
            story.tell(20.1, Kind.RESTARTED, client, STREAM, -1, detail="lost")
        return story

    assert state("drill.faults_observed", story(9)) is PASS
    assert state("drill.faults_observed", story(8)) is ERROR
    assert "killed 8 of 10 clients" in ask("drill.faults_observed", story(8)).reason


def test_converged() -> None:
    story = good_storm(3)
    assert state("drill.converged", story) is PASS
    assert state("drill.converged", story.without(lambda row: row.kind == Kind.SETTLED and row.client == 1)) is FAIL
    result = ask("drill.converged", story.tell(59.0, Kind.STILL_PENDING, 2, STREAM, 3, value=9.0, detail="in backoff"))
    assert (result.state, result.value) == (FAIL, 1)
    assert "in backoff (1)" in result.reason


def test_generator_lag() -> None:
    def story(good: int, late: int, value: float = 251.0) -> Story:
        return many(late, Kind.GENERATOR_LAG, many(good, Kind.GENERATOR_LAG, value=250.0), value=value)

    assert state("drill.generator_lag_ms", story(95, 5)) is PASS
    assert state("drill.generator_lag_ms", story(94, 6)) is ERROR
    assert state("drill.generator_lag_ms", story(94, 6, NAN)) is ERROR
    assert state("drill.generator_lag_ms", story(19, 0)) is ERROR
    assert state("drill.generator_lag_ms", story(20, 0)) is PASS
    assert state("drill.generator_lag_ms", story(18, 2)) is ERROR


def test_generator_lag_of_several_processes() -> None:
    """A few late samples among many are a whole process that did not keep up."""

    def story(late: float, *names: str) -> Story:
        story = many(100, Kind.GENERATOR_LAG, value=1.0, detail="worker 1")
        story.header["workers"] = [{"name": name} for name in names]
        return many(24, Kind.GENERATOR_LAG, story, value=late, detail="worker 2")

    assert state("drill.generator_lag_ms", story(250.0, "worker 1", "worker 2")) is PASS
    assert state("drill.generator_lag_ms", story(251.0, "worker 1", "worker 2")) is ERROR
    assert "worker 2" in ask("drill.generator_lag_ms", story(251.0)).reason
    assert state("drill.generator_lag_ms", story(1.0, "worker 1", "worker 2", "worker 3")) is ERROR


def test_audited() -> None:
    story = good_storm(2)
    assert state("drill.audited", story) is PASS
    assert state("drill.audited", story.without(lambda row: row.client == AUDITOR)) is NO_DATA
    assert state("drill.audited", story.without(lambda row: row.client == AUDITOR and row.kind == Kind.SETTLED)) is NO_DATA
    assert state("drill.audited", story.tell(59.5, Kind.STILL_PENDING, AUDITOR, STREAM)) is FAIL


def test_declared_loss() -> None:
    story = good_storm(2).tell(30.0, Kind.DECLARED_LOSS, 0, STREAM, 4, value=2.0)
    assert state("drill.declared_loss", good_storm(2)) is PASS
    assert ask("drill.declared_loss", story).value == 2
    assert state("drill.declared_loss", story) is FAIL
    allowed = storm_drill(2, declared_loss=True)
    assert state("drill.declared_loss", story, allowed) is FAIL, "the stream has snapshots"
    elsewhere = good_storm(2).tell(30.0, Kind.DECLARED_LOSS, 0, "runtime.codex.worker.events", 4, value=2.0)
    assert state("drill.declared_loss", elsewhere, allowed) is PASS


def test_stale_signalled() -> None:
    drill = storm_drill(2, stale_reasons=("retention_floor_breach", "replay_budget_exceeded"))
    story = good_storm(2).tell(30.0, Kind.STALE, 0, STREAM, 1, detail="retention_floor_breach")
    assert state("drill.stale_signalled", story, drill) is FAIL
    both = "retention_floor_breach+replay_budget_exceeded"
    assert state("drill.stale_signalled", good_storm(2).tell(30.0, Kind.STALE, 0, STREAM, 1, detail=both), drill) is PASS
    assert "drill.stale_signalled" not in names(judged(story))


def test_those_who_tried_a_mutation_are_served_as_before() -> None:
    def story(*settled: int) -> Story:
        story = good_storm(2)
        story.header["negative_clients"] = {"2": "any_mutation", "3": "hidden_mutation", "4": "expired_token"}
        story.tell(30.0, Kind.PROBED, 2, detail="any_mutation:refused:mutation_refused")
        for client in settled:
            story.tell(58.0, Kind.SETTLED, client)
        return story

    assert state("drill.misusers_served", story(2, 3)) is PASS
    assert state("drill.misusers_served", story(2, 4)) is FAIL
    assert state("drill.misusers_served", story(2, 3).without(lambda row: row.kind == Kind.PROBED)) is NO_DATA


def test_probes() -> None:
    drill = storm_drill(2, negative_clients=("expired_token", "mutation_over_socket"))
    story = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="expired_token:refused:token_expired")
    assert state("drill.negative_clients", good_storm(2), drill) is NO_DATA
    assert state("drill.negative_clients", story, drill) is INCONCLUSIVE
    assert (
        state("drill.negative_clients", story.tell(31.0, Kind.PROBED, 3, detail="mutation_over_socket:refused:silence"), drill)
        is INCONCLUSIVE
    )
    assert (
        state(
            "drill.negative_clients", story.tell(31.0, Kind.PROBED, 3, detail="mutation_over_socket:refused:bad_event"), drill
        )
        is PASS
    )
    assert (
        state("drill.negative_clients", story.tell(32.0, Kind.PROBED, 3, detail="mutation_over_socket:accepted"), drill) is FAIL
    )


def test_a_probe_that_is_refused_by_a_wrong_name_fails() -> None:
    drill = storm_drill(2, negative_clients=("garbled_token",))
    right = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="garbled_token:refused:invalid_token")
    assert state("drill.negative_clients", right, drill) is PASS
    wrong = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="garbled_token:refused:unauthorized")
    assert state("drill.negative_clients", wrong, drill) is FAIL
    unanswered = good_storm(2).tell(30.0, Kind.PROBED, 2, detail="garbled_token:refused:timeout")
    assert state("drill.negative_clients", unanswered, drill) is INCONCLUSIVE
