"""The data of the web page: everything that it shows about a run, as plain values."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.specs import CheckSpec
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, RunVerdict, State
from drills.reports import report
from drills.runs import results
from locustfiles.load.run.verdict import Provisional
from sim.drill.model import expected_duration_s

if TYPE_CHECKING:
    from locustfiles.load.run.conductor import Conductor  # imports Locust, which patches Python's sockets
    from locustfiles.load.run.drill_run import DrillRun

_DURATIONS = ("replay bootstrap", "delivery", "WS connect", "join", "subscribe", "mint", "publish")
# What clients may notice during a run. Some of it is allowed, so the words do not judge.
_NOTICED = {
    "gap": "gaps that a client found and asked for again",
    "duplicate_dropped": "duplicate events that were dropped",
    "hash_mismatch": "events whose payload does not match their hash",
    "stale": "cursors that the service reported as stale",
    "declared_loss": "times a client declared events lost",
    "ungranted": "events of topics that were not subscribed",
    "malformed": "malformed frames",
    "heartbeat_timeout": "heartbeats without an answer",
    "publish_failed": "publishes that failed",
}
DOWNLOADS = ("SUMMARY.md", "summary.json", "gate-results.jsonl", "observations.parquet", "run.json")
FIGURE = "figure.png"
_LOOKS = {"pass": "looks_good", "fail": "looks_bad", "open": "pending"}
_HEADLINES = {
    "": ("go", "Go: every check passed and no invariant was violated."),
    "breach": ("no_go", "No-go: a check failed or an invariant was violated."),
    "error": ("no_go", "No-go: the run or its measurement failed, so its results cannot be trusted."),
    "insufficient_evidence": ("doubt", "No-go: inconclusive, there is too little evidence."),
}


def shown(conductor: "Conductor", *, is_asked: bool, is_busy: bool, after_s: float = -math.inf) -> dict[str, Any]:
    """Return everything on the page as plain values, with the curve after `after_s`. Times are seconds of the run.

    `state` is idle, starting, running, judging, judged or refused. `is_asked`: Locust runs a test or is about to;
    `is_busy`: it runs one, so its own page shows tabs.
    """
    run = conductor.run
    begins = run is None or conductor.folder is None or run.phase == "start" or (is_asked and conductor.is_expected)
    now = {"is_busy": is_busy, "refusal": conductor.refusal, "ended": [_ended(verdict) for verdict in conductor.judged]}
    if run is None or begins:  # what is known is the previous run's
        return {**_NO_RUN, **now, "state": "starting" if is_asked else "refused" if conductor.refusal else "idle"}
    return {**_of_run(conductor, run, after_s), **now}


_NO_RUN: dict[str, Any] = {
    **dict.fromkeys(("run_id", "no_storm", "no_revert", "capacity_ramp"), ""),
    **dict.fromkeys(("checks", "durations", "noticed", "curve", "downloads"), ()),
    "verdict": None,
    "phases": {},
    "elapsed_s": 0.0,
    "expected_s": 0.0,
}


def _of_run(conductor: "Conductor", run: "DrillRun", after_s: float) -> dict[str, Any]:
    drill, verdict, live, ramp = run.plan.drill, conductor.verdict, run.live, conductor.capacity_ramp
    counts = live.counts
    return {
        "state": _state(conductor, run),
        "run_id": run_id(conductor),
        "folder": "" if conductor.folder is None else str(conductor.folder.run_dir),
        "drill": drill.name,
        "question": drill.summary,
        "policy": drill.fleet.policy,
        "target": run.plan.target[0],
        "seed": run.plan.seed,
        "clients": drill.fleet.clients,
        "live": run.live_clients if not conductor.is_over else 0,
        "phase": run.phase,
        "phases": dict(live.phases),
        "elapsed_s": run.header.duration_s or run.clock.now() - run.clock.began,
        "expected_s": expected_duration_s(drill),
        "checks": [_estimated(each) for each in conductor.provisional()] if verdict is None else _final(verdict),
        "durations": _durations(run),
        "noticed": [{"what": what, "count": counts[kind]} for kind, what in _NOTICED.items()],
        "curve": [point for point in live.curve if point["t"] > after_s],
        "verdict": None if verdict is None else _judged(verdict),
        "no_storm": conductor.why_no("storm"),
        "no_revert": conductor.why_no("revert"),
        "downloads": [name for name, path in downloads(conductor).items() if path.exists()],
        "capacity_ramp": ramp.in_words() if ramp and ramp.steps else "",
    }


def _judged(verdict: RunVerdict) -> dict[str, Any]:
    """A verdict in words."""
    violations = [each for drill in verdict.drills for each in drill.violations]
    return {
        **_ended(verdict),
        "is_cut_short": any(
            check.name == "drill.evidence" and check.state is State.ERROR for drill in verdict.drills for check in drill.checks
        ),
        "reasons": [reason for drill in verdict.drills for reason in report.reasons(drill)],
        "remarks": [*verdict.notes, *(remark for drill in verdict.drills for remark in drill.remarks)],
        "broken": [
            {"invariant": each.invariant, "count": each.count, "first": each.first, "users_saw": report.users_saw(each)}
            for each in violations
        ],
    }


def downloads(conductor: "Conductor") -> dict[str, Path]:
    """Return the finished run's files by name; a file may be missing."""
    if conductor.folder is None or conductor.run is None or not conductor.is_over:
        return {}
    run_dir, folder = conductor.folder.run_dir, conductor.folder.folder
    of_drill = {"observations.parquet": folder, "run.json": folder}
    found = {name: of_drill.get(name, run_dir) / name for name in DOWNLOADS}
    return {**found, FIGURE: results.figure_path(run_dir, conductor.run.plan.drill.name)}


def run_id(conductor: "Conductor") -> str:
    """Return the id of the current or last run."""
    return "" if conductor.folder is None else conductor.folder.run_dir.name


def _state(conductor: "Conductor", run: "DrillRun") -> str:
    if conductor.is_over:
        return "judged" if conductor.verdict is not None else "refused"
    return "judging" if run.phase == "end" else "running"


def _ended(verdict: RunVerdict) -> dict[str, Any]:
    """A run in the table of runs; `kind` is go, no_go or doubt."""
    kind, headline = _HEADLINES[verdict.decision_reason]
    clients = sum(drill.clients for drill in verdict.drills)
    return {"run_id": verdict.run_id, "clients": clients, "kind": kind, "headline": headline}


def _durations(run: "DrillRun") -> list[dict[str, Any]]:
    """Durations so far, in ms."""
    sketches, shares, found = run.live.sketches, {"p50": 0.5, "p95": 0.95, "p99": 0.99}, []
    for name in _DURATIONS:
        sketch: Any = sketches.get(name)
        percentiles = {key: None if sketch is None else sketch.get_quantile_value(share) for key, share in shares.items()}
        found.append({"name": name, "n": 0 if sketch is None else int(sketch.count), **percentiles})
    return found


# --- the table of checks ----------------------------------------------------------------------------


def _estimated(each: Provisional) -> dict[str, Any]:
    """A check before the verdict: pending, looks_good or looks_bad."""
    limit = None if math.isnan(each.threshold) else each.threshold
    reason = "" if each.state == "open" else "provisional; only the final verdict counts"
    return _row(each.check, OF_RUNS[each.check], _LOOKS[each.state], each.value, each.n, limit, reason)


def _final(verdict: RunVerdict) -> list[dict[str, Any]]:
    """Return the checks, worst state first."""
    checks = [check for drill in verdict.drills for check in drill.checks]
    checks.sort(key=lambda check: GRAVEST_FIRST.index(check.state))
    return [_row(each.name, each, str(each.state), each.value, each.n, each.threshold, each.reason) for each in checks]


def _row(
    name: str, of: CheckResult | CheckSpec, state: str, value: float, n: int, threshold: float | None, reason: str
) -> dict[str, Any]:
    return {
        "name": name,
        "description": OF_RUNS[name].measures if name in OF_RUNS else "",
        "state": state,
        "value": f"{report.number(value)} {of.unit}" if math.isfinite(value) else report.number(value),
        "n": n,
        "limit": "" if threshold is None else f"{of.comparator} {report.number(threshold)} {of.unit}",
        "reason": reason,
    }
