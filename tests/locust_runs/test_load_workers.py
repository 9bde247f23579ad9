"""Whole load tests over several processes: workers' observations are judged, and a failed worker never improves a verdict."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import State
from drills.runs import results
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.run_header import read_header, read_verified
from tests.locust_runs.loads import DRILL, Load, drill_of, over_two_processes
from tests.storms import patient_thresholds

CHECKS = 'checks=["delivery.dropped_deliveries", "ux.integrity"]'  # which so few clients can pass
BUSY = str(Path(__file__).with_name("busy_worker.py"))


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Load]]:
    """All load tests of this module; none asserts how long anything took."""
    out = tmp_path_factory.mktemp("workers")
    grow = ["--clients=40", "--growth=1.5", "--max-clients=60", f"--thresholds={patient_thresholds(out)}", f"--set={CHECKS}"]
    started = {
        "ended": Load(out / "ended", DRILL, *over_two_processes()),
        "lost": Load(out / "lost", DRILL, *over_two_processes()),
        "well": Load(out / "well", "ramp_to_capacity", *over_two_processes(), *grow),
    }
    started["ended"].wait_for("fault: 40 of 40")
    os.killpg(started["ended"].process.pid, signal.SIGINT)  # as Ctrl-C does, which reaches all processes of a terminal
    started["lost"].wait_for("fault: 40 of 40")
    os.kill(process_of(started["lost"], "worker 2"), signal.SIGKILL)
    yield started
    for load in started.values():
        load.process.kill()
        load.process.wait()


def process_of(load: Load, worker: str) -> int:
    """The worker's process id, from its log."""
    said = re.search(rf"begins here as {worker} \(process (\d+)\)", load.output)
    assert said is not None
    return int(said[1])


def runs_of(load: Load) -> list[Path]:
    """The drill's folder in each of its runs, the first one first."""
    return [results.drill_folder(run, DRILL) for run in sorted(load.out.iterdir())]


def test_every_observation_of_workers_arrives(loads: dict[str, Load]):
    """In two runs of the same processes; the second has more users."""
    load = loads["well"]
    assert load.end() == 2, load.output  # the limit was not reached
    for folder, clients in zip(runs_of(load), (40, 60), strict=True):
        header, table = read_verified(folder)
        history = History(header, table)
        ledger = Ledger(history)
        share = clients // 2
        assert [(each["name"], each["clients"]) for each in header.workers] == [("worker 1", share), ("worker 2", share)]
        assert all(each["rows_observed"] == each["rows_arrived"] for each in header.workers)
        assert len(history.fleet(Kind.APPLIED)) == ledger.expected > len(ledger.published) > 100
        assert ledger.dropped.count == 0
        assert Counter(history.fleet(Kind.SETTLED).client.tolist()) == Counter(range(clients))  # unique over workers
        lateness = history.of(Kind.GENERATOR_LAG)
        assert {history.details[code] for code in lateness.detail} == {"master", "worker 1", "worker 2"}
        assert results.judge_run(folder.parents[1]).exit_code == 0


def test_storm_starts_on_all_workers_within_a_second(loads: dict[str, Load]):
    load = loads["well"]
    load.end()
    header, table = read_verified(runs_of(load)[0])
    history = History(header, table)
    cut = history.fleet(Kind.DISCONNECTED)
    for t in history.of(Kind.FAULT_INJECTED).t.tolist():
        assert len(set(cut.client[(cut.t >= t) & (cut.t <= t + 1.0)].tolist())) == 40
    assert all(0 <= float(str(each["latest_fault_ms"])) <= 1000 for each in header.workers)
    assert all(float(str(each["clock_within_ms"])) < 100 for each in header.workers)


def test_killed_worker_gives_an_error_that_names_it(loads: dict[str, Load]):
    load = loads["lost"]
    assert load.end() == 4, load.output
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert not header.complete
    assert re.search(r"worker 2 \(process \d+ on \S+\) was lost during the run", header.stopped_because)
    assert "worker 1" not in header.stopped_because  # all its observations arrived
    assert [each["lost"] for each in header.workers] == [False, True]
    assert header.observations_rows > 0
    assert load.verdict.exit_code == 4
    assert "Traceback" not in load.output


def test_saturated_worker_prevents_a_go(tmp_path: Path):
    shorter = [f"--set={setting}" for setting in ("phases.steady_s=0.5", "phases.fault_s=1.5", "faults.1.at_s=1.0")]
    load = Load(tmp_path / "busy", DRILL, *over_two_processes(), *shorter, beside=BUSY)
    assert load.end() == 4, load.output
    (lag,) = [check for check in drill_of(load.verdict).checks if check.name == "drill.generator_lag_ms"]
    assert (lag.state, "worker 1" in lag.reason) == (State.ERROR, True), lag.reason
    assert read_header(results.drill_folder(load.run_dir, DRILL)).complete


def test_ctrl_c_keeps_the_evidence_and_leaves_no_process(loads: dict[str, Load]):
    load = loads["ended"]
    assert load.end() == 4, load.output
    assert "Traceback" not in load.output
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert not header.complete
    assert "it was interrupted" in header.stopped_because
    assert [each["rows_observed"] == each["rows_arrived"] for each in header.workers] == [True, True]
    for name in ("worker 1", "worker 2"):
        with pytest.raises(ProcessLookupError):
            os.kill(process_of(load, name), 0)
