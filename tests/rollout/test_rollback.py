"""The rollback rehearsal on a mock process: what passes, what fails, and what is refused."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.rollout.rollback import bursts, recovery
from drills.rollout.rollback import rehearsal as rollback
from drills.rollout.rollback.recovery import CanaryCheck
from drills.rollout.rollback.rehearsal import ORDER, Rehearsal, rehearsal_steps
from drills.rollout.setup.records import Rollback
from sim.analysis.samples import Share
from sim.base.clocks import SteppedClock, SystemClock
from sim.base.errors import UsageError
from sim.engines.shared.endpoints import Endpoints
from sim.mock.server import admin_token
from tests.rollout.rehearsal_world import (
    AS_IT_WAS,
    HEALTHY,
    NOTHING,
    PUT,
    START,
    UNHEALTHY,
    ScriptedCanaryChecks,
    endpoints_of,
    put,
    rehearsal,
    rules,
    set_wide_throttle,
    states,
    target,
    traffic_of,
    write_lenient_thresholds,
)
from tests.served import Served, serving

pytestmark = pytest.mark.usefixtures("quick_rehearsal")


# --- what passes ------------------------------------------------------------------------------------


def test_rehearsal_on_a_mock_recovers_it_and_restores_everything(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_wide_throttle(monkeypatch)
    monkeypatch.setattr(rehearsal_steps, "MOCK_STABLE_S", 3.5)
    entry = target(mock, tmp_path, {"recovery_check": '["phases.fault_s=3.5"]'})
    write_lenient_thresholds(tmp_path / "thresholds.toml")
    done = rollback.rehearse(endpoints_of(entry), entry, tmp_path, SystemClock(), dry_run=False)
    assert (done.state, states(done)) == ("pass", ["pass"] * 4), done
    traffic, throttle, cohort, recovery = done.steps
    assert (traffic.before, traffic.after) == ({"control": "r2", "runtime": "r2"}, {"control": "r1", "runtime": "r1"})
    assert throttle.before["taken"] == "200"
    assert int(throttle.after["taken"]) < 200
    assert "spacetime_publish_rate_limited" in throttle.after["codes"]
    assert (int(cohort.before["in_cohort"]) > 10, cohort.after["in_cohort"]) == (True, "0")
    assert "0 of 150 connects refused" in recovery.verified_by
    assert "not for 900 s, as the target is a mock" in recovery.verified_by
    assert [step.restored for step in done.steps] == [True, True, True, None]
    assert done.seconds is not None
    assert 0 < done.seconds < 300
    assert (done.stable_s, done.dry_run, done.run_id) == (3.5, False, tmp_path.name)
    assert traffic_of(mock) == AS_IT_WAS
    assert msgspec.json.decode((tmp_path / "rollback.json").read_bytes(), type=Rollback) == done
    assert all((tmp_path / path).exists() for step in done.steps for path in step.evidence)
    assert len(cohort.evidence) == 4, "one canary check, and three rounds of routing checks"


def test_operators_commands_get_their_context_and_leak_no_secret(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOWN", "session-s3cret")
    show = f"import os; print(os.environ['SHOWN'], sorted(v for v in os.environ.items() if 'STORMGATE_' in v[0]));{PUT}"
    commands = rules(mock, traffic_apply=[sys.executable, "-c", show, f"{mock.url}/_mock/traffic", '{"revision": "r1"}'])
    entry = target(mock, tmp_path, commands, kind="staging")
    clock = SteppedClock(START)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", clock)
    canary_checks = ScriptedCanaryChecks()
    done = Rehearsal(replace(plan, check=canary_checks), tmp_path / "run", clock).run()
    assert (done.state, done.target_kind) == ("pass", "staging"), done
    assert canary_checks.lengths == [None, None, 900.0]
    said = (tmp_path / "run/rollback/traffic-apply.txt").read_text()
    assert said.startswith("[secret]")
    for part in ("'apply'", "'traffic'", "('STORMGATE_RUNTIME_REVISION', 'r1')", "('STORMGATE_RUN_ID', 'run')", mock.url):
        assert part in said
    everything = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"s3cret" in each for each in everything)
    assert traffic_of(mock) == AS_IT_WAS


# --- what fails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("traffic_apply", NOTHING, "control is r2, expected r1; runtime is r2, expected r1"),
        ("throttle_apply", NOTHING, "all 40 publishes of a burst were accepted"),
        ("cohort_apply", NOTHING, "wrong side of 0 %"),
    ],
)
def test_command_without_effect_fails_its_step(mock: Served, tmp_path: Path, name: str, command: list[str], words: str) -> None:
    done = rehearsal(mock, tmp_path, **{name: command}).run()
    n = ORDER.index(name.partition("_")[0])  # type: ignore[arg-type]
    assert states(done) == [*["pass"] * n, "fail", *["not_run"] * (3 - n)]
    assert done.state == "fail"
    assert words in done.reason
    assert done.seconds is None
    assert [step.restored for step in done.steps] == [*[True] * (n + 1), *[None] * (3 - n)]
    assert traffic_of(mock) == AS_IT_WAS


def test_cohort_of_another_size_fails_its_step(mock: Served, tmp_path: Path) -> None:
    done = rehearsal(mock, tmp_path, cohort_apply=put(mock, "cohort", '{"percent": 15}')).run()
    assert (done.state, done.steps[2].state) == ("fail", "fail")
    assert traffic_of(mock) == AS_IT_WAS


def test_refusals_without_a_rate_limit_fail_the_throttle(mock: Served, tmp_path: Path) -> None:
    broken = put(mock, "switches", '{"publish_fail_status": 500, "publish_fail_share": 1.0}')
    done = rehearsal(mock, tmp_path, throttle_apply=broken, throttle_restore=put(mock, "switches", "{}")).run()
    assert done.steps[1].state == "fail"
    assert "40 by unknown_outcome were refused, which is no throttle's answer" in done.reason


def test_failed_command_ends_the_rehearsal_and_is_reverted(mock: Served, tmp_path: Path) -> None:
    half = f"{PUT}; print('no more'); sys.exit(7)"
    done = rehearsal(
        mock, tmp_path, traffic_apply=[sys.executable, "-c", half, f"{mock.url}/_mock/traffic", '{"revision": "r1"}']
    ).run()
    assert (done.state, states(done)) == ("error", ["error", "not_run", "not_run", "not_run"])
    assert "ended with exit code 7" in done.reason
    assert done.steps[0].restored is True
    assert traffic_of(mock) == AS_IT_WAS


def test_command_that_takes_too_long_is_ended_and_reverted(mock: Served, tmp_path: Path) -> None:
    put_and_stay = f"{PUT}; import time; time.sleep(60)"
    tables = {"traffic": rules(mock)["traffic"] | {"timeout_s": 1.5}}
    tables["traffic"]["apply"] = [sys.executable, "-c", put_and_stay, f"{mock.url}/_mock/traffic", '{"revision": "r1"}']
    entry = target(mock, tmp_path, tables)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", SteppedClock(START))
    done = Rehearsal(replace(plan, check=ScriptedCanaryChecks()), tmp_path / "run", SteppedClock(START)).run()
    assert (done.state, done.steps[0].state, done.steps[0].restored) == ("error", "error", True)
    assert "did not end within 1.5 s" in done.reason
    assert traffic_of(mock) == AS_IT_WAS


def test_cohort_is_not_changed_while_the_server_is_unhealthy(mock: Served, tmp_path: Path) -> None:
    done = rehearsal(mock, tmp_path, ScriptedCanaryChecks(UNHEALTHY), cohort_apply=put(mock, "no_such", "{}")).run()
    assert states(done) == ["pass", "pass", "fail", "not_run"]
    assert "refused, because the server's gates are not green: delivery.dropped_deliveries" in done.reason
    assert done.steps[2].restored is None, "it was not changed"
    assert traffic_of(mock) == AS_IT_WAS


def test_canary_check_detects_a_defect_that_the_rollback_leaves(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_wide_throttle(monkeypatch)
    mock.switch(defects=["cross_topic_leak"])
    entry = target(mock, tmp_path, {"recovery_check": '["phases.fault_s=2.0", "fleet.clients=20", "load.run_streams=4"]'})
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path, SystemClock())
    real = plan.check
    checked: list[CanaryCheck] = []

    def check(length_s: float | None) -> CanaryCheck:
        checked.append(HEALTHY if not checked else real(length_s))
        return checked[-1]

    done = Rehearsal(replace(plan, check=check), tmp_path, SteppedClock(START)).run()
    assert states(done) == ["pass", "pass", "pass", "fail"]
    assert "no recovery was observed: " in done.reason
    assert "cross_topic_leak" in done.reason
    assert done.seconds is None
    assert traffic_of(mock) == AS_IT_WAS


def test_service_that_does_not_stay_healthy_has_not_recovered(mock: Served, tmp_path: Path) -> None:
    few = CanaryCheck(State.INCONCLUSIVE, "too few connects", "w", "")
    for answer, state in ((UNHEALTHY, "fail"), (few, "error")):
        done = rehearsal(mock, tmp_path, ScriptedCanaryChecks(HEALTHY, HEALTHY, answer)).run()
        assert (done.state, done.steps[3].state, done.stable_s) == (state, state, None)
        assert "did not stay healthy" in done.reason


@pytest.mark.parametrize(
    ("hits", "n", "looks", "is_sure"),
    [
        (0, 150, State.PASS, State.PASS),
        (0, 100, State.PASS, State.INCONCLUSIVE),
        (2, 150, State.PASS, State.INCONCLUSIVE),
        (3, 150, State.FAIL, State.INCONCLUSIVE),
        (9, 150, State.FAIL, State.FAIL),
        (0, 0, State.NO_DATA, State.NO_DATA),
    ],
)
def test_few_refusals_pass_with_confidence_only_after_many_connects(hits: int, n: int, looks: State, is_sure: State) -> None:
    share = Share(hits, n)
    assert (recovery.few(share, "connects", False)[0], recovery.few(share, "connects", True)[0]) == (looks, is_sure)


def test_late_recovery_fails(mock: Served, tmp_path: Path) -> None:
    clock = SteppedClock(START)
    slow = ScriptedCanaryChecks(meanwhile=lambda n: clock.step(timedelta(seconds=200)) if n < 3 else None)
    done = rehearsal(mock, tmp_path, slow, clock).run()
    assert (done.state, states(done)) == ("fail", ["pass"] * 4)
    assert done.seconds is not None
    assert done.seconds > 400
    assert "300 s are allowed" in done.reason


def test_time_to_recover_excludes_the_monitoring_after_it(mock: Served, tmp_path: Path) -> None:
    clock = SteppedClock(START)
    done = rehearsal(
        mock, tmp_path, ScriptedCanaryChecks(meanwhile=lambda n: clock.step(timedelta(seconds=900)) if n == 3 else None), clock
    ).run()
    assert done.state == "pass"
    assert done.seconds is not None
    assert done.seconds < 60


# --- what a target must allow --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("production", {}, "of kind production"),
        ("staging", {"cohort": None}, r"add \[targets.theirs.rollback.cohort\] with 'apply' and 'restore'"),
        ("staging", {"recovery_check": ["fleet.clients=500"]}, "caps.clients is 200"),
    ],
)
def test_rehearsal_that_a_target_does_not_allow_is_refused(
    mock: Served, tmp_path: Path, kind: str, change: dict[str, Any], words: str
) -> None:
    tables = {key: value for key, value in {**rules(mock), **change}.items() if value is not None}
    entry = target(
        mock, tmp_path, {k: msgspec.json.encode(v).decode() if isinstance(v, list) else v for k, v in tables.items()}, kind
    )
    with pytest.raises(UsageError, match=words):
        rollback.rehearse(endpoints_of(entry), entry, tmp_path / "run", SystemClock(), dry_run=False)
    assert traffic_of(mock) == AS_IT_WAS


def test_production_is_rehearsed_if_its_file_allows_it(mock: Served, tmp_path: Path) -> None:
    entry = target(mock, tmp_path, {**rules(mock), "allow_on_production": "true"}, "production")
    assert (
        rollback.rehearse(endpoints_of(entry), entry, tmp_path / "run", SystemClock(), dry_run=True).target_kind == "production"
    )


def test_burst_keeps_within_the_caps(mock: Served, tmp_path: Path) -> None:
    tables = rules(mock)
    tables["throttle"] |= {"burst": 1000, "refuses": "publishes"}
    entry = target(mock, tmp_path, tables, "staging")
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", SteppedClock(START))
    assert plan.changes[1].begin()["publishes"] == "100"


def test_throttle_of_connects_is_observed(mock: Served, tmp_path: Path) -> None:
    commands = rules(mock, throttle_apply=put(mock, "throttle", '{"connects_per_s": 2}'))
    commands["throttle"] |= {"refuses": "connects", "burst": 12}
    entry = target(mock, tmp_path, commands)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", SteppedClock(START))
    throttle = plan.changes[1]
    assert throttle.begin() == {"connects": "12", "taken": "12", "codes": ""}
    throttle.lever.apply()
    seen = throttle.rolled_back()
    assert not seen.missing
    assert 1 <= int(seen.facts["taken"]) < 12
    assert "rate_limited" in seen.facts["codes"]
    throttle.lever.restore()
    assert not throttle.restored().missing


def test_burst_of_connects_speaks_the_protocol_of_the_target(tmp_path: Path) -> None:
    """Each client joins as its protocol wants it; an upgrade alone is no accepted connect."""
    with serving(tmp_path, protocol="phoenix_sync") as served:
        endpoints = Endpoints.of_embedded_mock(served.url, admin_token(), "phoenix_sync")
        assert bursts.connects(endpoints, 5).facts == {"connects": "5", "taken": "5", "codes": ""}
        refused = bursts.connects(replace(endpoints, socket_path="/elsewhere"), 3)
    assert (refused.taken, refused.refused, refused.other) == (0, 0, "3 by http_403")


def test_throttle_of_connects_needs_a_socket(mock: Served, tmp_path: Path) -> None:
    commands = rules(mock)
    commands["throttle"] |= {"refuses": "connects"}
    entry = target(mock, tmp_path, commands)
    without = replace(endpoints_of(entry), has_socket=False)
    with pytest.raises(UsageError, match="has no socket, so no burst of connects shows a throttle"):
        rehearsal_steps.make(without, entry, tmp_path / "run", SteppedClock(START))


def test_unknown_revisions_leave_the_traffic_alone(mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drills.rollout.setup.records import Revisions

    monkeypatch.setattr(rehearsal_steps.revisions, "find", lambda *_: Revisions(control="r2"))
    done = rehearsal(mock, tmp_path).run()
    assert (done.state, states(done)) == ("not_run", ["not_run", "pass", "pass", "pass"])
    assert "cannot be found out" in done.steps[0].reason
    assert traffic_of(mock) == AS_IT_WAS


FREEZE = '{"publish_fail_status": 503, "publish_fail_share": 1.0}'


def guarded(mock: Served, folder: Path, apply: list[str], checks: ScriptedCanaryChecks | None = None) -> Rollback:
    """A rehearsal whose throttle is a read-only guard."""
    tables = rules(mock, throttle_apply=apply, throttle_restore=put(mock, "switches", "{}"))
    tables["throttle"] |= {"refuses": "writes"}
    entry = target(mock, folder, tables)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, folder / "run", SteppedClock(START))
    return Rehearsal(replace(plan, check=checks or ScriptedCanaryChecks()), folder / "run", SteppedClock(START)).run()


def test_read_only_guard_ends_before_clients_must_publish_again(mock: Served, tmp_path: Path) -> None:
    switches: list[object] = []
    checks = ScriptedCanaryChecks(meanwhile=lambda n: switches.append(mock.state()["switches"]["publish_fail_status"]))
    done = guarded(mock, tmp_path, put(mock, "switches", FREEZE), checks)
    assert (done.state, states(done)) == ("pass", ["pass"] * 4), done
    assert "all were refused (40 by http_503)" in done.steps[1].verified_by
    assert done.steps[1].restored is True
    assert set(switches) == {0}, "no canary check ran under the guard"


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (FREEZE.replace("1.0", "0.5"), "writes were accepted: the guard let them through"),
        (FREEZE.replace("503", "500"), "which is no guard's answer"),
        ("{}", "40 of 40 writes were accepted"),
    ],
)
def test_guard_that_lets_writes_through_or_breaks_the_service_fails(
    mock: Served, tmp_path: Path, apply: str, words: str
) -> None:
    done = guarded(mock, tmp_path, put(mock, "switches", apply))
    assert (done.state, done.steps[1].state) == ("fail", "fail")
    assert words in done.reason
