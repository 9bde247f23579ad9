"""A verdict as JSON, as Markdown and on a terminal."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, DrillVerdict, RunVerdict, ServerView, State
from sim.analysis.invariants.evidence import Violation
from sim.analysis.server_metrics import ServerMetric
from sim.base.config import read_toml
from sim.record import predictions
from sim.record.predictions import Compared, Prediction

if TYPE_CHECKING:
    import jinja2
    from rich.console import Console
    from rich.table import Table

Filters = Mapping[str, Callable[..., Any]]
SCHEMA = 1
TEMPLATES = Path(__file__).with_name("templates")
COLOURS = "colours.css"  # in that folder: the style of all pages, light and dark
_MAX_REASONS = 3
_MAX_ENDINGS = 6  # in the line on a terminal; the report has all

_USERS_SAW = read_toml(TEMPLATES / "users_saw.toml")
USERS_SAW: dict[str, str] = _USERS_SAW["invariants"]
_OF_RUN = ("run_id", "engine", "target", "target_kind", "seed", "decision", "decision_reason", "failures", "not_run")
_HASHES = ("tool_version", "target_sha256", "thresholds_sha256", "recorded_thresholds_sha256", "files")
_OF_CHECK = ("name", "state", "value", "unit", "n", "interval", "threshold")


def summary(verdict: RunVerdict) -> dict[str, Any]:
    """`summary.json` as plain values. Infinity and NaN become None."""
    found: dict[str, Any] = msgspec.json.decode(summary_json(verdict))
    return found


def summary_json(verdict: RunVerdict) -> bytes:
    """`summary.json`."""
    drills = [_drill_summary(drill) for drill in verdict.drills]
    content = {"schema": SCHEMA, **_of(verdict, *_OF_RUN, *_HASHES, "notes"), "drills": drills}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _of(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _drill_summary(drill: DrillVerdict) -> dict[str, Any]:
    return {
        **_of(drill, "name", "status", "clients", "duration_s"),
        "checks": [_of(check, *_OF_CHECK) for check in drill.checks],
        "violations": drill.violations,
        "metrics": _metrics(drill),
        **({"replications": drill.replications} if drill.replications != 1 else {}),
        **({"not_run": drill.not_run} if drill.not_run else {}),
        **({"remarks": drill.remarks} if drill.remarks else {}),
        **({"prediction": _prediction_summary(drill, drill.prediction)} if drill.prediction else {}),
        **({"server": _server_summary(drill.server)} if drill.server else {}),
        **({"endings": drill.endings} if drill.endings else {}),
    }


def _prediction_summary(drill: DrillVerdict, prediction: Prediction) -> dict[str, Any]:
    """The predictions of a fitted model and the measured values."""
    about = _of(prediction, "model", "model_sha256", "engine", "replications", "made_at", "not_predicted")
    found = compared(drill, prediction)
    return {
        **about,
        "metrics": {each.metric: _of(each, "unit", "predicted", "interval", "measured", "error") for each in found},
    }


def _server_summary(server: ServerView) -> dict[str, Any]:
    """The runtime's own metrics. A metric that it does not expose is missing."""
    figures = {figure.name: _server_figure(figure) for figure in server.figures}
    counted = {"origin": "server", "polls": server.polls, "failed_polls": server.failed}
    return {**counted, "figures": figures, "absent": server.absent}


def _server_figure(figure: ServerMetric) -> dict[str, Any]:
    counted = _of(figure, "increase", "resets") if figure.increase is not None else {}
    return {**_of(figure, "first", "last", "n"), **counted, **({"meaning": figure.meaning} if figure.meaning else {})}


def _metrics(drill: DrillVerdict) -> dict[str, Any]:
    """The metrics. With several replications they are means, with interval and quantiles."""
    found = {metric.name: _of(metric, "value", "unit", "n", "better") for metric in drill.metrics}
    for spread in drill.spreads:
        quantiles = {"min": spread.least, "p50": spread.median, "p95": spread.p95, "max": spread.most}
        found[spread.name] |= {"interval": spread.interval, "quantiles": quantiles}
    return found


def gate_lines(verdict: RunVerdict) -> bytes:
    """`gate-results.jsonl`: one line per check of a drill."""
    lines = ({"drill": drill.name, **asdict(check)} for drill in verdict.drills for check in drill.checks)
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def summary_markdown(verdict: RunVerdict) -> str:
    """`SUMMARY.md`."""
    text = _environment().get_template("SUMMARY.md.j2").render(verdict=verdict)
    return re.sub(r"\n{3,}", "\n\n", text)


@lru_cache(maxsize=1)
def _environment() -> "jinja2.Environment":
    of_drills: Filters = {"seen": users_saw, "check_seen": check_seen, "compared": compared}
    return environment({"why": why, "headline": headline, "percent": percent, **of_drills})


def environment(filters: Filters, is_html: bool = False) -> "jinja2.Environment":
    """The settings of all templates: their folder, the filters that they share, and these."""
    import jinja2  # imported late: `--help` does not need it

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=is_html,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters.update(number=number, cell=cell, limit=limit, between=between, **filters)
    return found


def number(value: float | None) -> str:
    """A value for people: four significant digits, `never` for infinity, `-` for NaN and None."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def headline(verdict: RunVerdict) -> str:
    """The decision, the reason for a no-go, and what it cannot be a decision about."""
    decision = verdict.decision.upper().replace("_", "-")
    because = f": {verdict.decision_reason.replace('_', ' ')}" if verdict.decision_reason else ""
    is_simulated = verdict.engine in ("virtual", "fleet")
    about = " (in simulation)" if is_simulated else " (against the embedded mock)" if verdict.target_kind == "mock" else ""
    return f"{decision}{because}{about}"


def sentence(verdict: RunVerdict) -> str:
    """The decision in one sentence, with its first reason."""
    ran = len(verdict.drills) - verdict.not_run
    if verdict.status is State.PASS:
        return f"All {ran} drills passed all required checks." if ran > 1 else "The drill passed all required checks."
    bad = [drill for drill in verdict.drills if not drill.not_run and drill.status is not State.PASS] or verdict.drills
    first = min(bad, key=lambda drill: GRAVEST_FIRST.index(drill.status), default=None)
    if first is None:
        return "No drill was run."
    which = f"{len(bad)} of {len(verdict.drills)} drills did not pass. " if len(verdict.drills) > 1 else ""
    return f"{which}{first.name}: {next(iter(reasons(first)), first.status)}"


def users_saw(violation: Violation) -> str:
    """The effect of a violation that users would have seen."""
    return USERS_SAW.get(violation.invariant, "a forbidden request was granted")


def check_seen(check: CheckResult) -> str:
    """The effect of a failed check that users would have seen; empty if it did not fail or the effect is unknown."""
    return _USERS_SAW["checks"].get(check.name, "") if check.state is State.FAIL else ""


def reasons(drill: DrillVerdict) -> list[str]:
    """Why a drill did not pass, worst first: violations with their effect on users, then checks."""
    if drill.not_run:
        return [drill.not_run]
    broken = [
        f"{each.invariant}: {each.count}, first {each.first}. Users would have seen: {users_saw(each)}."
        for each in drill.violations
    ]
    return broken + [f"{check.name} {check.state}: {check.reason}" for check in _not_passed(drill)]


def why(drill: DrillVerdict) -> str:
    """Why a drill did not pass, in one line; empty if it did."""
    if drill.not_run:
        return drill.not_run
    broken = [f"{violation.invariant} ({violation.count})" for violation in drill.violations]
    found = broken + [f"{check.name} {check.state}: {check.reason}" for check in _not_passed(drill)]
    more = f"; and {len(found) - _MAX_REASONS} more" if len(found) > _MAX_REASONS else ""
    return "; ".join(found[:_MAX_REASONS]) + more


def _not_passed(drill: DrillVerdict) -> list[CheckResult]:
    checks = [
        each for each in drill.checks if each.is_required and each.state is not State.PASS and each.name != "drill.invariants"
    ]
    return sorted(checks, key=lambda check: (check.state is not State.FAIL, check.state is not State.ERROR))


def with_unit(value: float | None, unit: str) -> str:
    """A value with its unit; without a value only `-`."""
    shown = number(value)
    return shown if shown == "-" else f"{shown} {unit}"


def cell(text: object) -> str:
    """Escape text for a table cell, so that it is not read as markup."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def between(interval: Sequence[float | None] | None) -> str:
    """An interval for people; `-` without one."""
    return f"{number(interval[0])} .. {number(interval[1])}" if interval else "-"


def compared(drill: DrillVerdict, prediction: Prediction) -> Sequence[Compared]:
    """The predicted and the measured values of a drill."""
    return predictions.compare(prediction, {metric.name: metric.value for metric in drill.metrics})


def percent(share: float) -> str:
    """A difference for people, with its sign."""
    return f"{share:+.0%}" if math.isfinite(share) else "-"


def limit(check: Any) -> str:
    """The threshold of a drill's or a stage's check."""
    return f"{check.comparator} {number(check.threshold)}" if check.threshold is not None else "-"


_COLOURS = {State.PASS: "green", State.FAIL: "red", State.ERROR: "red"}


def print_verdict(verdict: RunVerdict, console: "Console") -> None:
    """Print a run's verdict: a table of its drills, then the reasons of each drill that did not pass."""
    from rich.table import Table

    from drills.reports.terminal import say

    many = any(drill.replications != 1 for drill in verdict.drills)
    table = Table("drill", "status", "clients", *(["runs"] if many else []), "live again (99 %)")
    for drill in verdict.drills:
        colour = _COLOURS.get(drill.status, "yellow")
        count = [str(drill.replications)] if many else []
        table.add_row(drill.name, f"[{colour}]{drill.status}[/]", str(drill.clients), *count, recovery(drill))
    console.print(table)
    for drill in verdict.drills:
        if drill.status is not State.PASS:
            console.print(f"[bold]{drill.name}[/]")
            for reason in reasons(drill):
                say(console, f"  {reason}")
        if drill.prediction is not None:
            console.print(_predicted_table(drill, drill.prediction))
        if drill.endings:
            say(console, f"{drill.name}: {endings_line(drill)}", "dim")
        for remark in drill.remarks:
            say(console, f"{drill.name}: {remark}", "dim")
    for note in verdict.notes:
        say(console, note, "dim")
    because = f" ({verdict.decision_reason.replace('_', ' ')})" if verdict.decision_reason else ""
    left = f"   Not run: {verdict.not_run}" if verdict.not_run else ""
    colour = _COLOURS.get(verdict.status, "yellow")
    console.print(f"[bold {colour}]{verdict.decision.replace('_', '-')}[/]{because}   Failures: {verdict.failures}{left}")


def endings_line(drill: DrillVerdict) -> str:
    """How connections ended, in one line: who ended them, with which code, and how often."""
    counts: Counter[str] = Counter()
    for each in drill.endings:
        counts[each.by if each.by == each.code else f"{each.by} {each.code}"] += each.count
    shown = [f"{what} ({count})" for what, count in counts.most_common(_MAX_ENDINGS)]
    more = f", and {len(counts) - _MAX_ENDINGS} more codes" if len(counts) > _MAX_ENDINGS else ""
    return f"{counts.total()} connections ended or failed: {', '.join(shown)}{more}"


def _predicted_table(drill: DrillVerdict, prediction: Prediction) -> "Table":
    """A table of predicted and measured values."""
    from rich.table import Table

    table = Table("metric", "predicted", "95 % of runs", "measured", "error", title=f"{drill.name}, by {prediction.model}")
    for each in compared(drill, prediction):
        cells = (f"{number(each.predicted)} {each.unit}", between(each.interval), f"{number(each.measured)} {each.unit}")
        table.add_row(each.metric, *cells, percent(each.error))
    return table


def recovery(drill: DrillVerdict) -> str:
    """When 99 % of the clients were live again, with the interval over replications; `-` if no client was cut off."""
    found = [metric for metric in drill.metrics if metric.name == "live_again_99_s" and metric.n]
    if not found:
        return "-"
    interval = next((spread.interval for spread in drill.spreads if spread.name == "live_again_99_s"), None)
    trust = f" ({number(interval[0])}..{number(interval[1])})" if interval else ""
    return "never" if math.isinf(found[0].value) else f"{number(found[0].value)} s{trust}"
