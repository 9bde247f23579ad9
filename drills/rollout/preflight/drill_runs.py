"""The drills of the preflight: choose them, run them one after the other or side by side, and record each."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from drills.judging import gates
from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import State
from drills.rollout.preflight import one_drill
from drills.rollout.preflight.one_drill import Order
from drills.rollout.setup import records
from drills.rollout.setup.evidence import append, cannot_write
from drills.rollout.setup.records import DrillDone
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import EVERY_DRILL
from drills.runs import catalog, variants
from sim.base.errors import UsageError
from sim.drill import model as drill_file
from sim.drill.model import Drill, expected_duration_s
from sim.server.settings import RuntimeSettings

_POLL_S = 0.1
END_LIMIT_S = 90.0  # time limit for an interrupted drill to revert its faults and save its files
Say = Callable[[str], None]


class Child:
    """One drill in a child process, which also ends if this process is killed. Its messages go to `log`."""

    def __init__(self, order: Order, log: Path) -> None:
        self._log = log
        self._order = order = msgspec.structs.replace(order, ends_with_stdin=True)
        self._answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it is read after the process ends
        command = [sys.executable, "-P", "-m", "drills.rollout.preflight.one_drill", msgspec.json.encode(order).decode()]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as errors:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=self._answer, stderr=errors, start_new_session=True
                )
        except OSError as error:
            raise cannot_write(log, error) from None

    @property
    def name(self) -> str:
        """The name of its file, without the ending."""
        return Path(self._order.drill).stem

    def poll(self) -> DrillDone | None:
        """Return its result; None while it runs."""
        return None if self._process.poll() is None else self._result()

    def interrupt(self) -> DrillDone:
        """End it gracefully: it reverts its faults and saves its observations."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)  # unlike SIGINT, it is never ignored
        return self.wait(END_LIMIT_S)

    def wait(self, limit_s: float | None = None) -> DrillDone:
        """Wait for its result; kill it after `limit_s`."""
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return self._result()

    def _result(self) -> DrillDone:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._answer.seek(0)
        try:
            return msgspec.json.decode(self._answer.read(), type=DrillDone)
        except msgspec.DecodeError:
            why = f"its process ended with exit code {self._process.returncode} and without an answer; see {self._log}"
            done = one_drill.not_run(self.name, self._order.seed, why)
            return msgspec.structs.replace(done, status=State.ERROR)


def chosen(names: Iterable[str], beside: Path, kind: str) -> dict[str, Path]:
    """The chosen drills: name -> file. `all` is the catalogue; on a live target without the drills that need an embedded mock.

    Raises `UsageError` for a missing name or file, for two drills with the same name, and for an invalid drill.
    """
    found: dict[str, Path] = {}
    for name in names:
        paths = catalog.catalogue().values() if name == EVERY_DRILL else (catalog.path_of(name, beside),)
        for path in paths:
            drill = drill_file.load(path)
            if name == EVERY_DRILL and kind != "mock" and _needs_own_runtime(drill):
                continue
            if drill.name in found and found[drill.name] != path:
                raise UsageError(f"{path}: there are two drills called '{drill.name}'; each needs a name of its own.")
            found[drill.name] = path
    return found


def _needs_own_runtime(drill: Drill) -> bool:
    usual = RuntimeSettings()
    own = [key for key in usual.__struct_fields__ if key.startswith("token_")]
    return bool(drill.variants) or any(getattr(drill.runtime, key) != getattr(usual, key) for key in own)


def left_out(names: Iterable[str]) -> tuple[str, ...]:
    """The drills of the catalogue that are not chosen."""
    return tuple(sorted(catalog.catalogue().keys() - set(names)))


def require_judged(drills: Iterable[Path], thresholds: Thresholds) -> None:
    """Raise `UsageError` for a drill with a check that has no threshold."""
    for path in drills:
        gates.require_checks(drill_file.load(path), thresholds)


def run_all(
    drills: dict[str, Path],
    folder: Path,
    target: StageTarget,
    side_by_side: int,
    say: Say,
    show: Say = lambda text: None,
    follow: Callable[[DrillDone], None] = lambda done: None,
) -> list[DrillDone]:
    """Run the drills into a stage's folder, and record each as it ends; `show` gets how many have ended, and which run.

    `follow` gets each record.

    On the embedded mock, `side_by_side` drills run at once, each with its own runtime, the longest first; elsewhere one at a
    time, the shortest first, so that a no-go shows early. Ctrl-C ends the running drills; those that have not started are
    recorded as not run.
    """
    log = folder / records.LOGS / "drills.txt"
    _make(folder / records.DRILLS)
    at_once = side_by_side if target.is_embedded else 1
    orders = [_order(path, folder, target) for path in sorted(drills.values(), key=_length_s, reverse=at_once > 1)]
    done: list[DrillDone] = []
    running: list[Child] = []

    def record(answer: DrillDone) -> None:
        done.append(answer)
        append(folder / records.DRILL_RESULTS, answer)
        follow(answer)
        say(_line(answer, is_first_failure=[each.status != State.PASS for each in done].count(True) == 1))

    try:
        while orders or running:
            while orders and len(running) < at_once:
                running.append(Child(orders.pop(0), log))
            show(f"{len(done)} of {len(drills)} done, {', '.join(child.name for child in running)} running")
            ended = [(child, answer) for child in running if (answer := child.poll()) is not None]
            for child, answer in ended:
                running.remove(child)
                record(answer)
            if not ended:
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        for child in running:
            record(child.interrupt())
        for order in orders:
            record(one_drill.not_run(Path(order.drill).stem, order.seed, "the stage was interrupted"))
        raise
    finally:
        _write_summary(folder, done)
    return done


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None


def _line(answer: DrillDone, is_first_failure: bool) -> str:
    """The line about a drill that has ended."""
    line = f"drill {answer.name}: {answer.status}" + (f" ({answer.reason})" if answer.reason else "")
    if answer.status == State.PASS or not is_first_failure:
        return line
    return f"{line}; so this stage cannot be a go. The rest still runs, and Ctrl-C ends it with a report"


def _length_s(path: Path) -> float:
    drill = drill_file.load(path)
    return expected_duration_s(drill) * max(len(variants.variants_of(drill)), 1)


def _order(path: Path, folder: Path, target: StageTarget) -> Order:
    return Order(
        drill=str(path.resolve()),
        target="mock" if target.is_embedded else target.given,
        targets=str(target.file) if target.file else "",
        thresholds=str(folder / records.THRESHOLDS),
        out=str(folder / records.DRILLS),
        figures=True,
    )


def _write_summary(folder: Path, done: Sequence[DrillDone]) -> None:
    lines = [
        "# Drills of this stage",
        "",
        "| drill | status | seed | faults took effect | recovered at | run |",
        "|---|---|---|---|---|---|",
    ]
    for each in sorted(done, key=lambda each: each.name):
        recovered = f"{each.recovered_at_s:g} s" if each.recovered_at_s is not None else "-"
        effect = "-" if not each.faults else "yes" if each.observed else "no"
        lines.append(f"| {each.name} | {each.status} | {each.seed} | {effect} | {recovered} | {each.run or '-'} |")
    failed = [each for each in done if each.status != State.PASS]
    lines += ["", *(f"- {each.name} {each.status}: {each.reason}" for each in failed), "", f"Failures: {len(failed)}", ""]
    path = folder / records.DRILL_SUMMARY
    try:
        path.write_text("\n".join(lines))
    except OSError as error:
        raise cannot_write(path, error) from None
