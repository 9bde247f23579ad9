"""A target on this machine whose cores others take, in a real run: the machine is named, and the target is not blamed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import State
from drills.runs import results, running
from drills.runs.request import Request
from sim.analysis import machine
from sim.mock.process import BlockingMockProcess
from sim.mock.server import ServeOptions
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from sim.server.settings import Switches
from tests.storms import small

# A target that wants a whole core, whatever the clients do.
BUSY_TARGET = """
import sys, threading
from sim.mock.server import main
def work():
    while True: pass
sys.setswitchinterval(0.0005)
threading.Thread(target=work, daemon=True).start()
sys.exit(main())
"""
BURNER = "while True: pass"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process waited")
def test_a_starved_target_is_an_error_that_names_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = BlockingMockProcess._command
    monkeypatch.setattr(BlockingMockProcess, "_command", lambda mock: [sys.executable, "-c", BUSY_TARGET, command(mock)[-1]])
    drill = small("reconnect_storm", "phases.fault_s=2.5", "faults.1.at_s=1.5")
    mock = BlockingMockProcess(ServeOptions(drill.runtime, Switches()), tmp_path / "mock.log")
    core = max(os.sched_getaffinity(0))
    for thread in map(int, os.listdir(f"/proc/{mock.pid}/task")):
        os.sched_setaffinity(thread, {core})
    burners = [subprocess.Popen([sys.executable, "-c", BURNER], start_new_session=True) for _ in range(2)]
    try:
        for burner in burners:
            os.sched_setaffinity(burner.pid, {core})
        run_dir = running.run(Request((drill,), "sockets", mock.url, 1, (), None, tmp_path / "out"))
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        mock.stop()
    (verdict,) = results.judge_run(run_dir).drills
    history = History(*read_verified(results.drill_folder(run_dir, drill.name)))
    sampled = {history.details[code] for code in history.of(Kind.MACHINE).detail}
    assert {"target_ran", "target_waited", "target_longest"} <= sampled
    assert "server_ran" not in sampled, "it is not the mock of this run"
    assert "the service on this machine waited for a core" in machine.in_words(machine.busy_times(history), 1)
    assert [check.name for check in verdict.checks if check.state is State.FAIL] == []
