"""Whole load tests as processes of their own, because Locust changes Python's sockets."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from drills.judging.checks.verdicts import DrillVerdict, RunVerdict, State
from drills.runs import results
from tests.commands import free_port
from tests.storms import OF_TIME, SHORT, SMALL

ROOT = Path(__file__).parents[2]
DRILL = "reconnect_storm"
PATIENCE = ("phases.settle_s=25",)  # a limit, for a busy machine
SETTINGS = (*SMALL, *SHORT[DRILL], *PATIENCE)
TOO_LONG = 240.0


class Load:
    """One `locust` process and the folder of its run; `beside` is a second locustfile, `folder` that of the first."""

    def __init__(
        self,
        out: Path,
        locustfile: str,
        *arguments: str,
        beside: str = "",
        settings: tuple[str, ...] = SETTINGS,
        environment: Mapping[str, str] | None = None,
        folder: str = "locustfiles",
    ) -> None:
        self.out = out
        self._log = (out.parent / f"{out.name}.log").open("w+")
        self._out = (out.parent / f"{out.name}.out").open("w+")
        sets = [f"--set={setting}" for setting in settings]
        files = ",".join(filter(None, [f"{folder}/{locustfile}.py", beside]))
        command = [sys.executable, "-m", "locust", "-f", files, "--headless", "--only-summary"]
        self.process = subprocess.Popen(
            [*command, "--out", str(out), *sets, *arguments],
            cwd=ROOT,
            stdout=self._out,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(TOO_LONG)

    @property
    def output(self) -> str:
        """The output so far."""
        self._log.seek(0)
        return self._log.read() + self.printed

    @property
    def printed(self) -> str:
        """What it printed for other programs so far."""
        self._out.seek(0)
        return self._out.read()

    def wait_for(self, text: str) -> None:
        """Wait for a text in the output."""
        limit = time.monotonic() + TOO_LONG
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < limit, self.output
            time.sleep(0.05)

    @property
    def run_dir(self) -> Path:
        """The folder of its one run."""
        (found,) = self.out.iterdir()
        return found

    @property
    def verdict(self) -> RunVerdict:
        """The verdict of `stormgate judge`."""
        return results.judge_run(self.run_dir)


def over_two_processes() -> list[str]:
    """Arguments for a master and two workers, on a port of their own."""
    port = str(free_port())
    return ["--processes", "2", "--master-bind-port", port, "--master-port", port]


def drill_of(verdict: RunVerdict) -> DrillVerdict:
    """The verdict's only drill."""
    (drill,) = verdict.drills
    return drill


def wrong(verdict: DrillVerdict) -> tuple[set[str], set[str]]:
    """Violated invariants, and failed checks that do not depend on time."""
    failed = {check.name for check in verdict.checks if check.state is State.FAIL and check.name not in OF_TIME}
    return {violation.invariant for violation in verdict.violations}, failed
