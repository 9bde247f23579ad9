"""The rollback rehearsal changes nothing that it cannot observe, and restores everything, whatever happens."""

import os
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.rollout.rollback import rehearsal as rollback
from drills.rollout.rollback.changes import CannotBeginError, Change, Cohort, Throttle, Traffic
from drills.rollout.setup.records import Rollback
from sim.base.clocks import SystemClock
from sim.base.errors import UsageError
from sim.engines.shared.endpoints import Endpoints
from tests.rollout.rehearsal_world import (
    AS_IT_WAS,
    NOTHING,
    PUT,
    ScriptedCanaryChecks,
    endpoints_of,
    rehearsal,
    rules,
    states,
    target,
    traffic_of,
)
from tests.served import Served, serving

pytestmark = pytest.mark.usefixtures("quick_rehearsal")


# --- before any change ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("traffic", {"revision": "r1"}, "traffic: the last known good revisions serve already"),
        ("throttle", {"publishes_per_s": 1}, "throttle: the throttle's effect could not be told"),
        ("cohort", {"percent": 0}, "cohort: 0 of 100 keys are in the cohort"),
    ],
)
def test_change_that_cannot_be_observed_is_not_run_and_the_rest_goes_on(
    mock: Served, tmp_path: Path, name: str, body: dict[str, Any], words: str
) -> None:
    assert mock.http.put(f"/_mock/{name}", json=body).status_code == 200
    before = traffic_of(mock)
    done = rehearsal(mock, tmp_path).run()
    assert {step.name: step.state for step in done.steps} == {
        **dict.fromkeys(("traffic", "throttle", "cohort", "recovery"), "pass"),
        name: "not_run",
    }
    assert (done.state, words in done.reason) == ("not_run", True), done.reason
    assert traffic_of(mock) == before


def test_nothing_is_changed_if_no_change_can_be_observed(mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(change: Change) -> dict[str, str]:
        raise CannotBeginError("nobody can see it.")

    for kind in (Traffic, Throttle, Cohort):
        monkeypatch.setattr(kind, "begin", blind)
    done = rehearsal(mock, tmp_path).run()
    assert (done.state, states(done), done.reason) == ("error", ["not_run"] * 4, "traffic: nobody can see it")
    assert traffic_of(mock) == AS_IT_WAS


def test_mock_with_one_revision_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, deployment={"previous_revision": ""}) as mock, pytest.raises(UsageError, match="one revision only"):
        rollback.rehearse(Endpoints("m", "mock", mock.url, mock.url), None, tmp_path / "run", SystemClock(), dry_run=False)


def test_steps_out_of_order_are_refused(mock: Served, tmp_path: Path) -> None:
    each = rehearsal(mock, tmp_path, cohort_apply=NOTHING)
    with pytest.raises(UsageError, match="after an observation"):
        each.take("traffic")
    each.observe()
    for wrong in ("throttle", "cohort", "recovery"):
        with pytest.raises(UsageError, match="out of order; the next one is traffic"):
            each.take(wrong)
    assert traffic_of(mock) == AS_IT_WAS
    assert each.take("traffic").state == each.take("throttle").state == "pass"
    with pytest.raises(UsageError, match="out of order; the next one is cohort"):
        each.take("recovery")
    assert each.take("cohort").state == "fail"
    with pytest.raises(UsageError, match="as step 'cohort' did not pass"):
        each.take("recovery")
    assert traffic_of(mock)["serving"] == "r1"
    each.restore()
    assert traffic_of(mock) == AS_IT_WAS


def test_dry_run_is_marked_and_changes_nothing(mock: Served, tmp_path: Path) -> None:
    entry = target(mock, tmp_path, rules(mock))
    done = rollback.rehearse(endpoints_of(entry), entry, tmp_path / "run", SystemClock(), dry_run=True)
    assert (done.dry_run, done.state, states(done)) == (True, "not_run", ["not_run"] * 4)
    assert done.seconds is None
    assert f"{mock.url}/_mock/traffic" in done.steps[0].reason
    assert not (tmp_path / "run/rollback").exists()
    assert traffic_of(mock) == AS_IT_WAS
    assert msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback) == done


# --- everything is restored ----------------------------------------------------------------------------


def test_interruption_restores_everything(mock: Served, tmp_path: Path) -> None:
    def interrupt(n: int) -> None:
        if n == 2:
            assert traffic_of(mock) == {
                **AS_IT_WAS,
                "serving": "r1",
                "cohort_percent": 0,
                "throttle": traffic_of(mock)["throttle"],
            }
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearsal(mock, tmp_path, ScriptedCanaryChecks(meanwhile=interrupt)).run()
    done = msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback)
    assert (done.state, done.reason, states(done)) == ("error", "it was interrupted", ["pass", "pass", "pass", "error"])
    assert [step.restored for step in done.steps] == [True, True, True, None]
    assert traffic_of(mock) == AS_IT_WAS


def test_defect_of_stormgate_restores_everything(mock: Served, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rehearsal(mock, tmp_path, ScriptedCanaryChecks(meanwhile=fail)).run()
    done = msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback)
    assert done.state == "error"
    assert traffic_of(mock) == AS_IT_WAS


def test_restoring_is_not_interrupted(mock: Served, tmp_path: Path) -> None:
    """The command that restores the first change sends two signals to this process."""
    ask = f"import os, signal; [os.kill({os.getpid()}, s) for s in (signal.SIGINT, signal.SIGTERM)];{PUT}"
    said: list[str] = []
    handled = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    restore = [sys.executable, "-c", ask, f"{mock.url}/_mock/cohort", '{"percent": 30}']
    done = rehearsal(mock, tmp_path, said=said, cohort_restore=restore).run()
    assert done.state == "pass"
    assert said == ["what the rehearsal changed is being restored; wait until that is done."] * 2
    assert traffic_of(mock) == AS_IT_WAS
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handled


def test_second_interruption_restores_everything(mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, impatient = rollback.signals_handled, [True]

    def once_more(handler: Any) -> AbstractContextManager[None]:
        if impatient and handler not in (None, signal.default_int_handler):
            impatient.clear()
            raise KeyboardInterrupt
        return plain(handler)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rollback, "signals_handled", once_more)
    with pytest.raises(KeyboardInterrupt):
        rehearsal(mock, tmp_path, ScriptedCanaryChecks(meanwhile=interrupt)).run()
    assert impatient == []
    assert traffic_of(mock) == AS_IT_WAS


@pytest.mark.parametrize("command", [NOTHING, [sys.executable, "-c", "raise SystemExit(3)"]])
def test_failed_restore_is_reported_with_the_command_to_run(mock: Served, tmp_path: Path, command: list[str]) -> None:
    said: list[str] = []
    done = rehearsal(mock, tmp_path, said=said, throttle_restore=command).run()
    assert done.state == "error"
    assert done.reason.startswith("what was changed was not restored: throttle")
    assert command[-1].split("(")[0] in done.reason
    assert [step.restored for step in done.steps] == [True, False, True, None]
    (warning,) = said
    assert warning.startswith("THE THROTTLE WAS NOT RESTORED")
    assert "run: " in warning
    rest = traffic_of(mock)
    assert (rest["serving"], rest["cohort_percent"], rest["throttle"]["publishes_per_s"]) == ("r2", 30, 2.0)


def test_killed_rehearsal_leaves_the_command_that_restores(mock: Served, tmp_path: Path) -> None:
    each = rehearsal(mock, tmp_path)
    each.observe()
    each.take("traffic")
    left = msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback)
    assert left.state == "error"
    assert "was cut off" in left.reason
    assert f"{mock.url}/_mock/traffic" in left.reason
    assert '"r2"' in left.reason
    each.restore()
