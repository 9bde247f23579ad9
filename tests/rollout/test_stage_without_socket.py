"""The whole preflight on a target without a socket: what needs none runs, the rest says why not, and the gate stays closed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH as THRESHOLDS
from drills.judging.checks.verdicts import State
from drills.rollout.hold import stage_run
from drills.rollout.hold.stage_plan import Asked
from drills.rollout.preflight import preconditions
from drills.rollout.rollback import bursts, rehearsal_steps
from drills.rollout.setup import evidence, records, stages
from drills.rollout.setup.records import DrillDone, Precondition, Revisions, Rollback, Snapshot
from drills.runs import results, targets
from sim.base import atomic_files
from sim.base.clocks import SystemClock
from tests.targets.test_http_services import STAND_IN, described

COMMANDS = """
[[commands]]
name = "sync_metrics"
precondition = "observability_tests"
argv = ["echo", "test result: ok. 1 passed; 0 failed;"]
runner = "cargo"

[[commands]]
name = "retired_routes"
precondition = "retired_route_guard"
argv = ["echo", "test result: ok. 1 passed; 0 failed;"]
runner = "cargo"
"""
OWN_VALUES = {  # in place of those of the shipped stages file
    "baseline_s = 3600.0 ": "baseline_s = 20.0 ",
    "interval_s = 30.0 ": "interval_s = 1.0 ",
    'drill = "observation" ': 'drill = "quiet.toml" ',
    'staging = ["all"]': 'staging = ["appends.toml", "reconnect_storm"]',
}
QUIET = """
name = "quiet"
summary = "Is every event stored, once?"
checks = ["delivery.one_order"]
faults = []
fleet = { clients = 5, connects_per_s = 10.0 }
load = { events_per_s = 10.0, run_streams = 1 }
phases = { steady_s = 1.0, fault_s = 1.0, recovery_s = 0.0, settle_s = 1.0 }
"""
APPENDS = """
name = "appends"
summary = "Are overlapping appends stored once each, in one order?"
checks = ["delivery.one_order"]
faults = [{ kind = "concurrent_appends", at_s = 0.0, at_once = 5, for_s = 1.0 }]
fleet = { clients = 5, connects_per_s = 10.0 }
load = { events_per_s = 20.0, run_streams = 1 }
phases = { steady_s = 1.0, fault_s = 1.5, recovery_s = 1.0, settle_s = 1.0 }
"""
ROLLBACK = """
[targets.http.revisions]
control = ["sh", "-c", "test -e {levers}/traffic && echo good || echo new"]
runtime = ["sh", "-c", "test -e {levers}/traffic && echo good || echo new"]

[targets.http.rollback]
recovery_check = ["phases.steady_s=1", "phases.fault_s=8", "phases.settle_s=1", "load.events_per_s=40"]
traffic = {{ {traffic}, control_revision = "good", runtime_revision = "good" }}
throttle = {{ {throttle}, burst = 160 }}
cohort = {{ {cohort} }}
"""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Path]:
    """Run the services; yield the targets file that describes them, with the levers of their rollback."""
    levers = tmp_path / "levers"
    levers.mkdir()
    command = [sys.executable, str(STAND_IN), "--log", str(tmp_path / "control.log"), "--levers", str(levers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        runtime, control = map(int, process.stdout.readline().split())
        file = described(tmp_path, (runtime, control))
        pulls = {
            name: f'apply = ["touch", "{levers}/{name}"], restore = ["rm", "-f", "{levers}/{name}"]'
            for name in ("traffic", "throttle", "cohort")
        }
        file.write_text(file.read_text() + ROLLBACK.format(levers=levers, **pulls))
        yield file
        process.kill()


def test_preflight_of_a_target_without_a_socket(services: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the length of the baseline and of the rehearsal's last check is shortened."""
    monkeypatch.setenv("THEIR_SESSION", "their-session")
    monkeypatch.setenv("THEIR_ADMIN", "unused")
    monkeypatch.setattr(stages, "MIN_BASELINE_S", 1.0)
    monkeypatch.setattr(rehearsal_steps, "STABLE_S", 1.0)
    for name, text in (("quiet", QUIET), ("appends", APPENDS)):
        (tmp_path / f"{name}.toml").write_text(text)
    text = stages.DEFAULT_PATH.read_text().partition("[[commands]]")[0] + COMMANDS
    for shipped, own in OWN_VALUES.items():
        assert shipped in text
        text = text.replace(shipped, own)
    (tmp_path / "stages.toml").write_text(text)
    asked = Asked("0", "http", services, "r1", tmp_path / "stages.toml", THRESHOLDS, tmp_path / "out")
    run_dir, report = stage_run.run(asked, SystemClock(), lambda line: None)

    conditions = {each.name: each.state for each in evidence.read_lines(run_dir / records.PRECONDITIONS, Precondition)}
    assert {name for name, state in conditions.items() if state == "not_run"} == {"builds_deployed"}
    assert {*conditions.values()} == {"pass", "not_run"}
    drills = {each.name: each for each in evidence.read_lines(run_dir / records.DRILL_RESULTS, DrillDone)}
    assert {name: each.status for name, each in drills.items()} == {"appends": State.PASS, "reconnect_storm": State.NOT_RUN}
    assert "target 'http' has no socket" in drills["reconnect_storm"].reason
    snapshots = evidence.read_lines(run_dir / records.SNAPSHOTS, Snapshot)
    assert {each.source for each in snapshots if each.outcome == "ok"} == {"metrics", "control"}
    counted = [each.metrics["sync.token.issued"] for each in snapshots if each.source == "control" and each.metrics]
    assert counted[-1] > counted[0], "the command of [status] counts the tokens in the service's log"
    (check,) = (run_dir / "canary-checks").iterdir()
    (verdict,) = results.judge_run(check).drills
    assert verdict.status is State.PASS, verdict
    rollback = atomic_files.read_struct(run_dir / records.ROLLBACK, Rollback)
    assert {step.name: step.state for step in rollback.steps} == {
        **dict.fromkeys(("traffic", "throttle", "cohort"), "pass"),
        "recovery": "not_run",
    }, rollback
    assert "no socket, so there were no clients" in rollback.reason

    assert report.decision == "no_go"
    required = {each.name: each for each in report.requirements}
    assert required["preconditions"].state == required["drills"].state == required["rollback"].state == "not_run", required


def test_guard_that_freezes_even_new_streams_is_observed(
    services: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_SESSION", "their-session")
    monkeypatch.setenv("THEIR_ADMIN", "unused")
    endpoints = targets.resolve("http", services)
    assert endpoints is not None
    assert bursts.writes(endpoints, 10).codes == {}
    (tmp_path / "levers" / "guard").touch()
    assert bursts.writes(endpoints, 10).codes == {"http_503": 10}


def test_token_that_nobody_takes_is_not_known_to_be_healthy(services: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_SESSION", "their-session")
    monkeypatch.setenv("THEIR_ADMIN", "unused")
    text = services.read_text()
    assert "claim_types" in text
    services.write_text("\n".join(line for line in text.splitlines() if not line.startswith("claim_types")))
    endpoints = targets.resolve("http", services)
    assert endpoints is not None
    state, reason = preconditions.of_service(endpoints, ["b"], Revisions(), None)["token_issuance"]
    assert (state, "nobody saw whether the runtime takes it" in reason) == ("not_run", True)
