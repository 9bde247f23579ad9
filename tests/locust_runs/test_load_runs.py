"""Whole load tests: Locust in a process of its own, because it changes Python's sockets, and what its runs leave behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from storms import OF_TIME, SHORT, SMALL, run_all, small

from drills import results
from drills.verdicts import DrillVerdict, RunVerdict, State
from sim.observations import Kind, read_header, read_verified

ROOT = Path(__file__).parents[2]
DRILL = "reconnect_storm"
PATIENCE = ("phases.settle_s=25",)  # a limit, for a busy machine
SETTINGS = (*SMALL, *SHORT[DRILL], *PATIENCE)
TOO_LONG = 240.0


class Load:
    """One `locust` process and the folder its run goes to."""

    def __init__(self, out: Path, locustfile: str, *arguments: str) -> None:
        self.out = out
        self._log = (out.parent / f"{out.name}.log").open("w+")
        sets = [f"--set={setting}" for setting in SETTINGS]
        command = [sys.executable, "-m", "locust", "-f", f"locustfiles/{locustfile}.py", "--headless", "--only-summary"]
        self.process = subprocess.Popen(
            [*command, "--out", str(out), *sets, *arguments], cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT
        )

    def end(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(TOO_LONG)

    @property
    def said(self) -> str:
        """All it has said until now."""
        self._log.seek(0)
        return self._log.read()

    def wait_for(self, text: str) -> None:
        """Until it says so."""
        limit = time.monotonic() + TOO_LONG
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < limit, self.said
            time.sleep(0.05)

    @property
    def run_dir(self) -> Path:
        """The folder of its one run."""
        (found,) = self.out.iterdir()
        return found

    @property
    def verdict(self) -> RunVerdict:
        """What `stormgate judge` makes of it."""
        return results.judge_run(self.run_dir)


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Load]]:
    """All load tests of this module, at once, for they mostly wait."""
    out = tmp_path_factory.mktemp("loads")
    begun = {
        "well": Load(out / "well", DRILL),
        "defect": Load(out / "defect", DRILL, "--defect", "ignore_cursor"),
        "killed": Load(out / "killed", DRILL),
    }
    begun["killed"].wait_for("fault: 40 of 40")
    begun["killed"].process.send_signal(signal.SIGTERM)
    yield begun
    for load in begun.values():
        load.process.kill()
        load.process.wait()


def drill_of(verdict: RunVerdict) -> DrillVerdict:
    (drill,) = verdict.drills
    return drill


def wrong(verdict: DrillVerdict) -> tuple[set[str], set[str]]:
    """Broken laws, and failed checks that have nothing to do with time."""
    failed = {check.name for check in verdict.checks if check.state is State.FAIL and check.name not in OF_TIME}
    return {violation.invariant for violation in verdict.violations}, failed


def test_a_storm_is_a_drill_s_run(loads: dict[str, Load]):
    load = loads["well"]
    code = load.end()
    drill = drill_of(load.verdict)
    header, table = read_verified(results.drill_folder(load.run_dir, DRILL))
    assert (header.engine, header.complete, header.clients) == ("locust", True, 40)
    assert code == load.verdict.exit_code, load.said
    assert wrong(drill) == (set(), set())
    assert {"steady_state", "faults_observed", "converged", "audited", "probes"} <= {
        check.check for check in drill.checks if check.state is State.PASS
    }
    assert (load.run_dir / "SUMMARY.md").exists()
    assert results.figure_path(load.run_dir, DRILL).exists()
    kinds = set(table.column("kind").to_pylist())
    assert {Kind.GENERATOR_LAG, Kind.CLIENT_LAG, Kind.SETTLED, Kind.PUBLISHED, Kind.REPLAY_COMPLETED} <= kinds
    for name in ("WS connect", "join", "subscribe", "replay bootstrap", "delivery", "mint", "publish"):
        assert f" {name} " in load.said


def test_the_sockets_engine_finds_the_same_of_a_defect(loads: dict[str, Load], tmp_path: Path):
    load = loads["defect"]
    assert load.end() == 1, load.said
    (sockets,) = results.judge_run(run_all(tmp_path, small(DRILL, *PATIENCE), defects=("ignore_cursor",))).drills
    assert wrong(drill_of(load.verdict)) == wrong(sockets) != (set(), set())


def test_a_load_test_that_is_ended_early_is_no_go(loads: dict[str, Load]):
    load = loads["killed"]
    assert load.end() == 4, load.said
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert (header.complete, header.stopped_because) == (False, "it was interrupted")
    assert header.observations_rows > 0
    assert load.verdict.exit_code == 4


def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path: Path):
    load = Load(tmp_path / "out", DRILL, "--target", "http://127.0.0.1:9")
    assert load.end() == 3
    assert "nothing answers at http://127.0.0.1:9/readyz" in load.said
    assert "Traceback" not in load.said
