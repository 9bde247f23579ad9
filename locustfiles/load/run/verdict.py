"""A run's folder, its verdict, and how the gates look while it goes on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import RunVerdict
from drills.runs import leftovers, results
from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.run.options import Plan
from sim.base.ownership import Mark


@dataclass(frozen=True)
class RunFolder:
    """Where a run's files go, and the mark that says that it is going on."""

    run_dir: Path
    folder: Path  # of its one drill
    mark: Mark


def open_folder(plan: Plan) -> RunFolder:
    """Make the folder of a new run; raises `UsageError` and `StorageError`."""
    leftovers.clean_up(plan.out)
    target, kind = plan.target
    run_dir = results.create_run(
        plan.out,
        [plan.drill],
        engine="locust",
        target=target,
        target_kind=kind,
        seed=plan.seed,
        thresholds=plan.thresholds,
    )
    return RunFolder(run_dir, results.create_drill_folder(run_dir, plan.drill), leftovers.mark(run_dir))


def conclude(run: RunFolder) -> RunVerdict:
    """Judge a run from its files, as `stormgate judge` would, and write its report and figures."""
    run.mark.remove()
    verdict = results.judge_run(run.run_dir)
    results.write_reports(run.run_dir, verdict)
    for drill in verdict.drills:
        results.write_figure(run.run_dir, drill.name)
    return verdict


def in_words(verdict: RunVerdict) -> str:
    """The verdict on one line, with the first reasons why."""
    wrong = [f"{check.name}: {check.reason}" for drill in verdict.drills for check in drill.checks if check.state != "pass"]
    broken = [violation.invariant for drill in verdict.drills for violation in drill.violations]
    said = "; ".join([*(f"broken law {name}" for name in broken), *wrong][:5])
    return f"{verdict.decision}{f' ({said})' if said else ''}"


# --- while it goes on -------------------------------------------------------------------------------

# Checks of which a live sketch gives a first idea: what Locust's tables call it, and which percentile.
_LIVE = {
    "replay.bootstrap_ms": ("replay bootstrap", 0.95),
    "ux.publish_to_apply_ms": ("delivery", 0.95),
}
_LIVE_COUNTS = {"replay.divergence": "hash_mismatch", "delivery.dropped_deliveries": "declared_loss"}


@dataclass(frozen=True)
class Provisional:
    """How a check looks now; `state` is pass, fail or open. Only the verdict at the end counts."""

    check: str
    state: str
    value: float
    threshold: float
    n: int = 0


def provisional(checks: tuple[str, ...], thresholds: Mapping[str, Threshold], live: LiveMetrics) -> list[Provisional]:
    """The drill's checks as they look now; those that live figures say nothing about are open until the end."""
    return [_look(name, thresholds[name].threshold if name in thresholds else math.nan, live) for name in checks]


def _look(name: str, limit: float, live: LiveMetrics) -> Provisional:
    value, n = None, 0
    if name in _LIVE:
        value, n = live.percentile(*_LIVE[name]), live.n(_LIVE[name][0])
    elif name in _LIVE_COUNTS:
        value, n = float(live.counts[_LIVE_COUNTS[name]]), live.counts["applied"]
    if value is None or math.isnan(limit):
        return Provisional(name, "open", math.nan, limit)
    return Provisional(name, "pass" if value <= limit else "fail", value, limit, n)
