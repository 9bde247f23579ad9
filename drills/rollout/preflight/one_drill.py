"""Run one drill into its own folder, in this process or by `python -m drills.rollout.preflight.one_drill ORDER-AS-JSON`.

A separate process leaves its parent free for other work, and lets several drills run side by side.
"""

import contextlib
import fcntl
import math
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from drills.judging.checks.verdicts import DrillVerdict, RunVerdict, State
from drills.reports import report
from drills.rollout.setup.records import DrillDone
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.errors import EvidenceError, StormgateError
from sim.drill import model as drill_file
from sim.drill.model import Drill
from sim.record import parquet, run_header
from sim.record.history import History
from sim.record.observations import Kind


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The drill to run and its settings. They are visible in the process list, so they contain no secret."""

    drill: str  # a file
    set: tuple[str, ...] = ()
    target: str
    targets: str = ""
    thresholds: str
    out: str  # the parent of the run's folder
    seed: int = 1
    figures: bool = False
    ends_with_stdin: bool = False  # end when stdin closes, which means that the parent has ended
    mark: str = ""  # a file that is locked while it runs


def run(order: Order) -> DrillDone:
    """Run a drill and judge it. The result contains every error as text; raises no `StormgateError`."""
    path = Path(order.drill)
    try:
        drill = drill_file.load(path, order.set)
    except StormgateError as error:
        return not_run(path.stem, order.seed, str(error))
    before = set(Path(order.out).glob("*"))
    try:
        run_dir = running.run(_request(drill, order))
        verdict = running.conclude(run_dir) if order.figures else _concluded(run_dir)
    except StormgateError as error:
        left = sorted(set(Path(order.out).glob("*")) - before)  # left by a failed run
        done = not_run(drill.name, order.seed, str(error))
        is_error = State.ERROR if left else State.NOT_RUN
        return msgspec.structs.replace(done, status=is_error, run=left[0].name if left else "")
    return _done(drill, run_dir, verdict.drills[0], order.seed)


def not_run(name: str, seed: int, why: str) -> DrillDone:
    """The record of a drill that was not run."""
    return DrillDone(
        name=name,
        run="",
        status=State.NOT_RUN,
        seed=seed,
        faults=(),
        injected_at_s=(),
        observed=False,
        recovered_at_s=None,
        duration_s=0.0,
        assertions=(),
        reason=why,
    )


def _request(drill: Drill, order: Order) -> Request:
    return Request(
        drills=(drill,),
        engine="sockets",
        target=order.target,
        seed=order.seed,
        defects=(),
        thresholds=Path(order.thresholds),
        out=Path(order.out),
        targets=Path(order.targets) if order.targets else None,
    )


def _concluded(run_dir: Path) -> RunVerdict:
    verdict = results.judge_run(run_dir)
    results.write_reports(run_dir, verdict)
    return verdict


def _done(drill: Drill, run_dir: Path, verdict: DrillVerdict, seed: int) -> DrillDone:
    injected, reverted = _fault_times(results.drill_folder(run_dir, drill.name))
    took_s = next((each.value for each in verdict.metrics if each.name == "live_again_99_s" and each.n), math.nan)
    return DrillDone(
        name=drill.name,
        run=run_dir.name,
        status=verdict.status,
        seed=seed,
        faults=tuple(fault.kind for fault in drill.faults),
        injected_at_s=injected,
        observed=any(check.name == "drill.faults_observed" and check.state is State.PASS for check in verdict.checks),
        recovered_at_s=round(reverted[-1] + took_s, 3) if reverted and math.isfinite(took_s) else None,
        duration_s=round(verdict.duration_s, 3) if math.isfinite(verdict.duration_s) else 0.0,
        assertions=tuple((check.name, str(check.state)) for check in verdict.checks),
        reason="" if verdict.status is State.PASS else report.why(verdict),
    )


def _fault_times(folder: Path) -> tuple[tuple[float, ...], list[float]]:
    """Start and end times of the faults, in seconds since the run began; empty for several variants and unreadable files."""
    try:
        history = History(run_header.read_header(folder), parquet.Recorded(folder))
    except EvidenceError:
        return (), []
    injected, reverted = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    return tuple(round(float(t), 3) for t in injected.t), sorted(round(float(t), 3) for t in reverted.t)


def _end_with_parent() -> None:
    """Wait until the parent has ended; then revert faults, save the observations and end."""
    while os.read(sys.stdin.fileno(), 65536):  # `sys.stdin` would hold its lock, and then Python aborts when it ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run the command line; the result is one line of JSON on stdout."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # revert and save, as for Ctrl-C
    order = msgspec.json.decode(sys.argv[1], type=Order)
    with contextlib.ExitStack() as until_end:
        if order.mark:
            fcntl.flock(until_end.enter_context(Path(order.mark).open()), fcntl.LOCK_EX)
        if order.ends_with_stdin:
            threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
        done = run(order)
    sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
