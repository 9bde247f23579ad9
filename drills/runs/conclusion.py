"""What a run comes to: every drill judged and drawn, on all cores where there is much to read."""

from dataclasses import dataclass
from pathlib import Path

from drills.judging.checks.verdicts import DrillVerdict, RunVerdict
from drills.reports.terminal import Several
from drills.runs import results
from sim.base import process_pool
from sim.base.errors import EvidenceError
from sim.base.process_pool import INTERRUPTED, Say

# [ours] Observations that are worth processes of their own: these take about a second to start.
_MANY_BYTES = 4_000_000


@dataclass(frozen=True)
class Task:
    """To judge one drill of a run, or else to draw it."""

    run_dir: Path
    drill: str
    is_to_judge: bool


def conclude(run_dir: Path) -> RunVerdict:
    """Judge a run, and write its report and figures; raises `StormgateError`."""
    names = [planned.name for planned in results.read_plan(run_dir).drills]
    observed = sum(path.stat().st_size for path in run_dir.rglob("*.parquet"))
    judged = _in_processes(run_dir, names) if observed >= _MANY_BYTES else {}
    verdict = results.judge_run(run_dir, judged=judged)
    results.write_reports(run_dir, verdict)
    if not judged:
        for name in names:
            results.write_figure(run_dir, name)
    return verdict


def _in_processes(run_dir: Path, names: list[str]) -> dict[str, DrillVerdict]:
    """The verdicts by drill; all are drawn, too."""
    tasks = [Task(run_dir, name, is_to_judge) for name in names for is_to_judge in (True, False)]
    with Several("judging and drawing", [task.drill for task in tasks]) as progress:
        outcome = process_pool.run(_carry_out, tasks, progress)
    if outcome.stopped_because == INTERRUPTED:
        raise KeyboardInterrupt
    if outcome.stopped_because:
        raise EvidenceError(
            f"{run_dir}: could not be judged: {outcome.stopped_because}; "
            "`stormgate judge` reads one drill after the other, which takes less memory."
        )
    return {tasks[place].drill: verdict for place, verdict in outcome.results.items() if verdict is not None}


def _carry_out(task: Task, say: Say) -> DrillVerdict | None:
    say("judging" if task.is_to_judge else "drawing", 0.0)
    if task.is_to_judge:
        return results.judge_drill(task.run_dir, task.drill)
    results.write_figure(task.run_dir, task.drill)
    return None
