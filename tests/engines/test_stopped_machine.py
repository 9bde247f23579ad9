"""A load generator that is stopped in the middle of a real run: no latency of it is the target's."""

import os
import subprocess
from pathlib import Path

import pytest

from drills.judging import gates
from drills.judging.checks.verdicts import State
from drills.runs import results
from sim.analysis import machine
from sim.engines.sockets import engine
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from tests.storms import small

STOPPED_S = 3


def test_a_stopped_generator_is_an_error_that_names_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drill = small("reconnect_storm", "phases.steady_s=6")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)
    stopper: list[subprocess.Popen[bytes]] = []

    def stop_us(phase: str, text: str) -> None:
        if phase == "steady":
            us = os.getpid()
            command = f"sleep 2.5; kill -STOP {us}; sleep {STOPPED_S}; kill -CONT {us}"
            stopper.append(subprocess.Popen(["sh", "-c", command]))

    folder = results.create_drill_folder(run_dir, drill)
    engine.run(drill, engine.Options(folder, progress=stop_us, run_id=run_dir.name))
    assert [process.wait() for process in stopper] == [0]
    monkeypatch.setattr(gates, "_disown", lambda found: found)  # the lateness of the whole run, as in a longer one
    (verdict,) = results.judge_run(run_dir).drills
    assert [check.name for check in verdict.checks if check.state is State.FAIL] == []
    assert verdict.status is State.ERROR
    history = History(*read_verified(folder))
    assert max(each.end_t - each.start_t for each in machine.busy_times(history)) > STOPPED_S * 0.9
    assert {"wall_clock", "target_clock"} <= {history.details[code] for code in history.of(Kind.MACHINE).detail}
    monkeypatch.setattr(machine, "busy_times", lambda history: [])
    (blind,) = results.judge_run(run_dir).drills
    assert [check.name for check in blind.checks if check.state is State.FAIL] != [], "the test stops nobody"
