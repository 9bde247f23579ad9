"""A fault that reaches nothing is an error on each engine, and never a go: a cut of no socket, a limit that no byte reaches."""

from pathlib import Path

import pytest

from drills.judging.checks.verdicts import State
from drills.runs import results
from tests.storms import run_all, small, with_faults

CUT_ALL = {"kind": "drop_sockets", "at_s": 0.0, "offline_s": 2.0}
FAULTS = {
    # The second cut comes while the clients of the first one have no network.
    "cut_of_no_socket": ("drop_sockets #1", (CUT_ALL, {**CUT_ALL, "at_s": 0.5, "offline_s": 0.5})),
    "no_byte_reaches_the_limit": (
        "cut_after_bytes #0",
        ({"kind": "cut_after_bytes", "at_s": 0.0, "for_s": 1.0, "after_bytes": 10**9},),
    ),
}


@pytest.mark.parametrize("engine", ["virtual", pytest.param("sockets", marks=pytest.mark.long)])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_that_reaches_nothing_is_an_error(tmp_path: Path, engine: str, fault: str) -> None:
    name, planned = FAULTS[fault]
    times = "phases.steady_s=1", "phases.fault_s=3", "phases.recovery_s=0.5", "phases.settle_s=3", "fleet.clients=10"
    run_dir = run_all(tmp_path, with_faults(small("reconnect_storm", *times), *planned), engine=engine)
    (verdict,) = results.judge_run(run_dir).drills
    (found,) = [check for check in verdict.checks if check.name == "drill.faults_observed"]
    assert found.state is State.ERROR
    assert f"{name}: had no observed effect" in found.reason
    assert verdict.status is State.ERROR
