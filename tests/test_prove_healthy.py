"""The proof on healthy servers accepts only a go, or errors that name the machine."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from drills.judging import gates
from drills.judging.checks.base import Answer, result
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State
from sim.analysis.invariants.evidence import Violation
from tests import prove_healthy as healthy
from tests.prove_healthy import GO, MACHINE, OTHER, Attempt, Done

BUSY = "the machine was too busy from 12.4 s to 15.0 s (x had no rest), which alone may explain this: p95 of 80 bootstraps"
LATE = "the load generator was late itself, so this does not measure the target (p95 of 80 bootstraps)"


def check(state: State, reason: str = "", required: bool = True) -> CheckResult:
    found = result(OF_RUNS["drill.converged"], Answer(state, 1.0, 1, reason), "")
    return replace(found, is_required=required)


def run(*checks: CheckResult, violations: tuple[Violation, ...] = ()) -> RunVerdict:
    drill = DrillVerdict("reconnect_storm", 40, 10.0, checks, violations)
    return RunVerdict("run", "sockets", "embedded mock", "mock", 1, (drill,), "", "")


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (run(check(State.PASS)), GO),
        (run(check(State.PASS), check(State.NO_DATA, "cannot tell", required=False)), GO),
        (run(check(State.PASS), check(State.ERROR, BUSY)), MACHINE),
        (run(check(State.ERROR, BUSY), check(State.ERROR, LATE)), MACHINE),
        (run(check(State.ERROR, "nothing was cut")), OTHER),
        (run(check(State.ERROR, BUSY), check(State.ERROR, "nothing was cut")), OTHER),
        (run(check(State.ERROR, BUSY), check(State.INCONCLUSIVE, "too few")), MACHINE),
        (run(check(State.FAIL, BUSY)), OTHER),
        (run(check(State.INCONCLUSIVE, BUSY)), OTHER),
        (run(check(State.ERROR, BUSY), violations=(Violation("hole", 1, "at 1.0 s"),)), OTHER),
    ],
)
def test_only_a_go_and_errors_that_name_the_machine_are_right(verdict: RunVerdict, expected: str):
    found, why = healthy.judged(verdict.exit_code, verdict)
    assert found == expected
    assert bool(why) == (expected != GO)


def test_a_drill_that_is_not_run_is_wrong():
    verdict = replace(run(), drills=(gates.not_run("reconnect_storm", "there is no hook"),))
    assert healthy.judged(verdict.exit_code, verdict) == (OTHER, "there is no hook")


def test_each_server_runs_the_quick_set_twenty_times():
    found = healthy.attempts()
    assert {each.target for each in found} == {"spacetime", "phoenix_sync", "nats", "centrifugo"}
    for target in {each.target for each in found}:
        assert len({each.seed for each in found if (each.target, each.drill) == (target, "reconnect_storm")}) == 20
        assert len([each for each in found if (each.target, each.drill) == (target, "network_flap")]) == 2
    assert len({str(each) for each in found}) == len(found)


def test_a_run_that_is_done_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ran: list[str] = []

    def carry_out(attempt: Attempt, *_: object) -> Done:
        ran.append(str(attempt))
        return Done(str(attempt), attempt.target, attempt.drill, GO if attempt.seed > 1 else OTHER, "", 1.0)

    monkeypatch.setattr(healthy, "carry_out", carry_out)
    asked = ("--out", str(tmp_path), "--busy-cores", "0", "network_flap")
    assert healthy.main([*asked, "--minutes", "0"], threading.Event()) == healthy.WRONG
    assert "0 of 8 right, 8 not tried (out of time)" in capsys.readouterr().out
    for _ in range(2):
        assert healthy.main(asked, threading.Event()) == healthy.WRONG
        assert "4 of 8 right" in capsys.readouterr().out
    assert len(ran) == len({*ran}) == len((tmp_path / healthy.RUNS).read_text().splitlines()) == 8
    assert healthy.main(["nonsense"], threading.Event()) == healthy.USAGE


def test_a_run_that_breaks_or_hangs_is_wrong_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = healthy.carry_out(Attempt("spacetime", "no_such_drill", 1), tmp_path, threading.Event())
    assert broken is not None
    assert (broken.result, broken.why.partition(" without")[0]) == (OTHER, "exit code 3")
    assert "no_such_drill" in (tmp_path / broken.name / "log.txt").read_text()
    monkeypatch.setattr(healthy, "RUN_S", 0.1)
    slow = healthy.carry_out(Attempt("spacetime", "network_flap", 1), tmp_path, threading.Event())
    assert slow is not None
    assert (slow.result, slow.why.partition(" after")[0]) == (OTHER, "not done")
    stop = threading.Event()
    stop.set()
    assert healthy.carry_out(Attempt("spacetime", "network_flap", 2), tmp_path, stop) is None


def test_what_is_done_can_be_read_again(tmp_path: Path):
    done = Done("nats-network_flap-1", "nats", "network_flap", MACHINE, "the machine was too busy", 1.5)
    (tmp_path / healthy.RUNS).write_text(json.dumps(done.__dict__) + "\n")
    assert healthy.done_before(tmp_path) == [done]
