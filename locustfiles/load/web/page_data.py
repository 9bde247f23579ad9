"""The data of the web page: everything that it shows about a run, as plain values."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, DrillVerdict, RunVerdict
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


class CheckShown(msgspec.Struct, frozen=True):
    """A row of the checks table. `state` is the verdict's; before it pending, looks_good or looks_bad."""

    name: str
    description: str
    state: str
    value: str
    n: int
    limit: str
    reason: str


class MetricShown(msgspec.Struct, frozen=True):
    """A duration so far, in ms."""

    name: str
    n: int
    p50: float | None
    p95: float | None
    p99: float | None


class Broken(msgspec.Struct, frozen=True):
    """A violated invariant."""

    invariant: str
    count: int
    first: str
    users_saw: str


class Noticed(msgspec.Struct, frozen=True):
    """What clients noticed, and how often."""

    what: str
    count: int


class Judged(msgspec.Struct, frozen=True):
    """A verdict in words."""

    kind: str  # go, no_go or doubt
    headline: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    broken: tuple[Broken, ...]


class Ended(msgspec.Struct, frozen=True):
    """A finished run of this process."""

    run_id: str
    clients: int
    kind: str
    headline: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page. Times are seconds of the run."""

    state: str  # idle, starting, running, judging, judged or refused
    is_busy: bool = False  # Locust runs a test, so its own page shows tabs
    refusal: str = ""
    run_id: str = ""
    folder: str = ""
    drill: str = ""
    question: str = ""
    policy: str = ""
    target: str = ""
    seed: int = 0
    clients: int = 0
    live: int = 0
    phase: str = ""
    phases: dict[str, float] = {}
    elapsed_s: float = 0.0
    expected_s: float = 0.0  # about
    checks: tuple[CheckShown, ...] = ()
    durations: tuple[MetricShown, ...] = ()
    noticed: tuple[Noticed, ...] = ()
    curve: tuple[dict[str, float], ...] = ()
    verdict: Judged | None = None
    no_storm: str = ""  # why no fault can be injected now; empty: it can
    no_revert: str = ""
    downloads: tuple[str, ...] = ()
    ended: tuple[Ended, ...] = ()
    capacity_ramp: str = ""


def shown(conductor: "Conductor", *, is_asked: bool, is_busy: bool, after_s: float = -math.inf) -> Shown:
    """Return the current state, with the curve after `after_s`. `is_asked`: Locust runs a test or is about to."""
    run, ended = conductor.run, tuple(_ended(verdict) for verdict in conductor.judged)
    is_beginning = is_asked and conductor.is_expected  # the data is still the previous run's
    if run is None or conductor.folder is None or is_beginning or run.phase == "start":
        state = "starting" if is_asked else "refused" if conductor.refusal else "idle"
        return Shown(state=state, is_busy=is_busy, refusal=conductor.refusal, ended=ended)
    plan, verdict, live, counts = run.plan, conductor.verdict, run.live, run.live.counts
    return Shown(
        state=_state(conductor, run),
        is_busy=is_busy,
        refusal=conductor.refusal,
        run_id=run_id(conductor),
        folder=str(conductor.folder.run_dir),
        drill=plan.drill.name,
        question=plan.drill.summary,
        policy=plan.drill.fleet.policy,
        target=plan.target[0],
        seed=plan.seed,
        clients=plan.drill.fleet.clients,
        live=run.live_clients if not conductor.is_over else 0,
        phase=run.phase,
        phases=dict(live.phases),
        elapsed_s=run.header.duration_s or run.clock.now() - run.clock.began,
        expected_s=expected_duration_s(plan.drill),
        checks=tuple(_provisional(conductor) if verdict is None else _final(verdict)),
        durations=tuple(_durations(run)),
        noticed=tuple(Noticed(what, counts[kind]) for kind, what in _NOTICED.items()),
        curve=tuple(point for point in live.curve if point["t"] > after_s),
        verdict=None if verdict is None else judged(verdict),
        no_storm=conductor.why_no("storm"),
        no_revert=conductor.why_no("revert"),
        downloads=tuple(name for name, path in downloads(conductor).items() if path.exists()),
        ended=ended,
        capacity_ramp=conductor.capacity_ramp.in_words() if conductor.capacity_ramp and conductor.capacity_ramp.steps else "",
    )


def judged(verdict: RunVerdict) -> Judged:
    """A verdict in words."""
    kind, headline = _HEADLINES[verdict.decision_reason]
    drills = verdict.drills
    return Judged(
        kind=kind,
        headline=headline,
        reasons=tuple(reason for drill in drills for reason in report.reasons(drill)),
        remarks=(*verdict.notes, *(remark for drill in drills for remark in drill.remarks)),
        broken=tuple(broken for drill in drills for broken in _broken(drill)),
    )


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


def _ended(verdict: RunVerdict) -> Ended:
    kind, headline = _HEADLINES[verdict.decision_reason]
    return Ended(verdict.run_id, sum(drill.clients for drill in verdict.drills), kind, headline)


def _broken(drill: DrillVerdict) -> Iterator[Broken]:
    for each in drill.violations:
        yield Broken(each.invariant, each.count, each.first, report.users_saw(each))


def _durations(run: "DrillRun") -> Iterator[MetricShown]:
    sketches = run.live.sketches
    for name in _DURATIONS:
        sketch: Any = sketches.get(name)
        shares = [None if sketch is None else sketch.get_quantile_value(share) for share in (0.5, 0.95, 0.99)]
        yield MetricShown(name, 0 if sketch is None else int(sketch.count), *shares)


# --- the table of checks ----------------------------------------------------------------------------


def _provisional(conductor: "Conductor") -> Iterator[CheckShown]:
    return (_provisional_row(each) for each in conductor.provisional())


def _provisional_row(each: Provisional) -> CheckShown:
    check = OF_RUNS[each.check]
    limit = "" if math.isnan(each.threshold) else f"{check.comparator} {report.number(each.threshold)} {check.unit}"
    value = "" if math.isnan(each.value) else f"{report.number(each.value)} {check.unit}"
    reason = "" if each.state == "open" else "provisional; only the final verdict counts"
    return CheckShown(each.check, check.measures, _LOOKS[each.state], value, each.n, limit, reason)


def _final(verdict: RunVerdict) -> list[CheckShown]:
    """Return the checks, worst state first."""
    checks = [check for drill in verdict.drills for check in drill.checks]
    return [_decided(check) for check in sorted(checks, key=lambda check: GRAVEST_FIRST.index(check.state))]


def _decided(check: CheckResult) -> CheckShown:
    known = OF_RUNS.get(check.name)
    value = f"{report.number(check.value)} {check.unit}" if math.isfinite(check.value) else report.number(check.value)
    limit = "" if check.threshold is None else f"{check.comparator} {report.number(check.threshold)} {check.unit}"
    return CheckShown(check.name, known.measures if known else "", str(check.state), value, check.n, limit, check.reason)
