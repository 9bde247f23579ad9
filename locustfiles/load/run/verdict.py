"""A run's folder, its verdict, and the provisional state of its checks while it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import RunVerdict, State
from drills.runs import results
from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.run.options import Plan
from sim.base.exit_codes import ExitCode
from sim.base.ownership import Mark


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the mark that it is still running."""

    run_dir: Path
    folder: Path  # of its one drill
    mark: Mark


def open_folder(plan: Plan) -> RunFolder:
    """Create the folder of a new run. Raises `UsageError` and `StorageError`."""
    results.clean_up(plan.out)
    target, kind = plan.target
    run_dir = results.create_run(
        *(plan.out, [plan.drill]),
        engine="locust",
        target=target,
        target_kind=kind,
        seed=plan.seed,
        thresholds=plan.thresholds,
        target_sha256=plan.endpoints.configuration_sha256 if plan.endpoints else "",
    )
    return RunFolder(run_dir, results.create_drill_folder(run_dir, plan.drill), results.mark(run_dir))


def conclude(run: RunFolder) -> RunVerdict:
    """Judge a run from its files, as `stormgate judge` does, and write its report and figures."""
    run.mark.remove()
    verdict = results.judge_run(run.run_dir)
    results.write_reports(run.run_dir, verdict)
    results.write_page(run.run_dir, verdict, [results.show(run.run_dir, drill) for drill in verdict.drills])
    return verdict


def in_words(verdict: RunVerdict) -> str:
    """Return the verdict in one line, with its first reasons."""
    wrong = [f"{check.name}: {check.reason}" for drill in verdict.drills for check in drill.checks if check.state != "pass"]
    broken = [violation.invariant for drill in verdict.drills for violation in drill.violations]
    reasons = "; ".join([*(f"invariant {name} violated" for name in broken), *wrong][:5])
    return f"{verdict.decision}{f' ({reasons})' if reasons else ''}"


def rows(verdict: RunVerdict) -> list[tuple[str, str, int]]:
    """Return the verdict for Locust's tables and files: name, error (empty: none) and how often, the verdict itself last."""
    found = [
        (f"invariant {violation.invariant}", violation.first, violation.count)
        for drill in verdict.drills
        for violation in drill.violations
    ]
    found += [
        (f"check {check.name}", f"{check.state}: {check.reason}", 1)
        for drill in verdict.drills
        for check in drill.checks
        if check.state is not State.PASS and check.is_required
    ]
    is_go = verdict.exit_code == ExitCode.GO
    return [*found, (f"verdict: {verdict.decision}", "" if is_go else in_words(verdict), 1)]


# --- while it runs ----------------------------------------------------------------------------------

# Checks with a live estimate: the name in Locust's tables, and the percentile.
_LIVE = {"replay.bootstrap_ms": ("replay bootstrap", 0.95), "ux.publish_to_apply_ms": ("delivery", 0.95)}
_LIVE_COUNTS = {"replay.divergence": "hash_mismatch", "delivery.dropped_deliveries": "declared_loss"}


@dataclass(frozen=True)
class Provisional:
    """A check's provisional `state`: pass, fail or open. Only the final verdict counts."""

    check: str
    state: str
    value: float
    threshold: float
    n: int = 0


def provisional(checks: tuple[str, ...], thresholds: Mapping[str, Threshold], live: LiveMetrics) -> list[Provisional]:
    """Return the drill's checks as they stand now; checks without a live estimate stay open until the end."""
    return [_estimate(name, thresholds[name].threshold if name in thresholds else math.nan, live) for name in checks]


def _estimate(name: str, limit: float, live: LiveMetrics) -> Provisional:
    value, n = None, 0
    if name in _LIVE:
        value, n = live.percentile(*_LIVE[name]), live.n(_LIVE[name][0])
    elif name in _LIVE_COUNTS:
        value, n = float(live.counts[_LIVE_COUNTS[name]]), live.counts["applied"]
    if value is None or math.isnan(limit):
        return Provisional(name, "open", math.nan, limit)
    return Provisional(name, "pass" if value <= limit else "fail", value, limit, n)
