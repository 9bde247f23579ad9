"""A verdict as JSON, as Markdown and on a terminal."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, ServerView, State
from sim.analysis.invariants import Violation
from sim.analysis.metrics import Metric
from sim.analysis.server_metrics import ServerMetric
from sim.record import predictions
from sim.record.predictions import Compared, Prediction

if TYPE_CHECKING:
    import jinja2
    from rich.console import Console
    from rich.table import Table

SCHEMA = 1
TEMPLATES = Path(__file__).with_name("templates")
COLOURS = "colours.css"  # in that folder: the style of all pages, light and dark
_MAX_REASONS = 3

USERS_SAW = {
    "applied_twice": "the same message shown, or the same change made, twice",
    "applied_out_of_order": "messages in the wrong order",
    "hole": "a message missing between two others",
    "checkpoint_regressed": "a client that went back to an older state",
    "stale_loop": "a client that reconnects forever and shows nothing new",
    "stale_without_recovery": "a client that stays out of date until it is restarted",
    "silent_loss": "messages that never appear, while the client claims to be up to date",
    "acknowledged_lost": "messages that were accepted and then gone, or replaced by others",
    "phantom_event": "messages that no user wrote",
    "socket_changed_state": "nothing yet; but anyone with a socket can change what only the authority may change",
    "expired_token_accepted": "nothing yet; but a user who lost access keeps it",
    "cross_topic_leak": "messages of other people's conversations",
    "jumbled_message": "garbled messages",
    "needless_loss": "missing messages that the runtime still had",
    "early_replay_complete": "missing messages for a while, although the client claims to be up to date",
    "false_start": "older messages missing forever, although the runtime still had them",
    "runtime_died": "no updates at all until an operator starts the runtime again",
    **dict.fromkeys(
        (
            *("missing_token_accepted", "garbled_token_accepted", "foreign_key_token_accepted"),
            *("foreign_issuer_token_accepted", "foreign_audience_token_accepted"),
        ),
        "nothing yet; but anyone can read the service with a forged token",
    ),
    **dict.fromkeys(("outdated_token_accepted", "overaged_token_accepted"), "nothing yet; but a user who lost access keeps it"),
    **dict.fromkeys(("forbidden_topic_accepted", "foreign_topic_mint_accepted"), "messages of other people's conversations"),
}
# What users see of checks that can fail without a violated invariant.
USERS_SAW_OF_CHECKS = {
    "error.tokens_too_old": "a refusal after every lost connection: a client keeps a 900-second token for 15 minutes, but "
    "the runtime refuses it after 5, so the client must get another one first",
    "replay.stale_loops": USERS_SAW["stale_loop"],
    "delivery.dropped_deliveries": USERS_SAW["silent_loss"],
    "reconnect.backoff_unjittered": "an outage that continues after its cause is gone, because all clients return in the same "
    "instant, again and again",
    "reconnect.backoff_never_resets": "a wait of 8 s after every short interruption, from the sixth of a session on, however "
    "long the connection was fine before",
    "drill.converged": "clients that stay out of date or offline after all faults were reverted",
    "ux.integrity": "duplicate, missing, garbled or misordered messages",
}


def summary(verdict: RunVerdict) -> dict[str, Any]:
    """`summary.json` as plain values. Infinity and NaN become None."""
    return {
        "schema": SCHEMA,
        "run_id": verdict.run_id,
        "engine": verdict.engine,
        "target": verdict.target,
        "target_kind": verdict.target_kind,
        "seed": verdict.seed,
        "decision": verdict.decision,
        "decision_reason": verdict.decision_reason,
        "failures": verdict.failures,
        "thresholds_sha256": verdict.thresholds_sha256,
        "recorded_thresholds_sha256": verdict.recorded_thresholds_sha256,
        "notes": list(verdict.notes),
        "drills": [_drill_summary(drill) for drill in verdict.drills],
    }


def _drill_summary(drill: DrillVerdict) -> dict[str, Any]:
    return {
        "name": drill.name,
        "status": str(drill.status),
        "clients": drill.clients,
        "duration_s": _finite(drill.duration_s),
        "checks": [_check_summary(check) for check in drill.checks],
        "violations": [asdict(violation) for violation in drill.violations],
        "metrics": _metrics(drill),
        **({"replications": drill.replications} if drill.replications != 1 else {}),
        **({"remarks": list(drill.remarks)} if drill.remarks else {}),
        **({"prediction": _prediction_summary(drill, drill.prediction)} if drill.prediction else {}),
        **({"server": _server_summary(drill.server)} if drill.server else {}),
    }


def _prediction_summary(drill: DrillVerdict, prediction: Prediction) -> dict[str, Any]:
    """The predictions of a fitted model and the measured values."""
    about = {name: getattr(prediction, name) for name in ("model", "model_sha256", "engine", "replications", "made_at")}
    metrics = {
        each.metric: {
            "unit": each.unit,
            "predicted": _finite(each.predicted),
            "interval": list(each.interval) if each.interval else None,
            "measured": _finite(each.measured),
            "error": _finite(each.error),
        }
        for each in _compared(drill, prediction)
    }
    return {**about, "not_predicted": list(prediction.not_predicted), "metrics": metrics}


def _server_summary(server: ServerView) -> dict[str, Any]:
    """The runtime's own metrics. A metric that it does not expose is missing."""
    return {
        "origin": "server",
        "polls": server.polls,
        "failed_polls": server.failed,
        "figures": {figure.name: _server_figure(figure) for figure in server.figures},
        "absent": list(server.absent),
    }


def _server_figure(figure: ServerMetric) -> dict[str, Any]:
    counted = {"increase": figure.increase, "resets": figure.resets} if figure.increase is not None else {}
    meaning = {"meaning": figure.meaning} if figure.meaning else {}
    return {"first": figure.first, "last": figure.last, "n": figure.n, **counted, **meaning}


def _metrics(drill: DrillVerdict) -> dict[str, Any]:
    """The metrics. With several replications they are means, with interval and quantiles."""
    found = {metric.name: _metric_summary(metric) for metric in drill.metrics}
    for spread in drill.spreads:
        quantiles = {"min": spread.least, "p50": spread.median, "p95": spread.p95, "max": spread.most}
        found[spread.name] |= {
            "interval": [_finite(bound) for bound in spread.interval] if spread.interval else None,
            "quantiles": {name: _finite(value) for name, value in quantiles.items()},
        }
    return found


def _check_summary(check: CheckResult) -> dict[str, Any]:
    return {
        "name": check.name,
        "state": str(check.state),
        "value": _finite(check.value),
        "unit": check.unit,
        "n": check.n,
        "interval": _interval(check),
        "threshold": check.threshold,
    }


def _metric_summary(metric: Metric) -> dict[str, Any]:
    return {"value": _finite(metric.value), "unit": metric.unit, "n": metric.n, "better": metric.better}


def summary_json(verdict: RunVerdict) -> bytes:
    """`summary.json`."""
    return msgspec.json.format(msgspec.json.encode(summary(verdict)), indent=2) + b"\n"


def gate_lines(verdict: RunVerdict) -> bytes:
    """`gate-results.jsonl`: one line per check of a drill."""
    lines = (_gate_line(drill, check) for drill in verdict.drills for check in drill.checks)
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _gate_line(drill: DrillVerdict, check: CheckResult) -> dict[str, Any]:
    line = {"drill": drill.name, **asdict(check)}
    return {**line, "state": str(check.state), "value": _finite(check.value), "interval": _interval(check)}


def _finite(value: float) -> float | None:
    """Replace infinity and NaN, which JSON does not have, by None."""
    return value if math.isfinite(value) else None


def _interval(check: CheckResult) -> list[float | None] | None:
    return [_finite(bound) for bound in check.interval] if check.interval else None


def summary_markdown(verdict: RunVerdict) -> str:
    """`SUMMARY.md`."""
    text = _environment().get_template("SUMMARY.md.j2").render(verdict=verdict)
    return re.sub(r"\n{3,}", "\n\n", text)


@lru_cache(maxsize=1)
def _environment() -> "jinja2.Environment":
    import jinja2  # imported late: `--help` does not need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=number,
        cell=_cell,
        why=why,
        seen=users_saw,
        check_seen=check_seen,
        bounds=_bounds,
        limit=_limit,
        between=_between,
        compared=_compared,
        percent=_percent,
    )
    return environment


def number(value: float) -> str:
    """A value for people: four significant digits, `never` for infinity, `-` for NaN."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def users_saw(violation: Violation) -> str:
    """The effect of a violation that users would have seen."""
    return USERS_SAW.get(violation.invariant, "a forbidden request was granted")


def check_seen(check: CheckResult) -> str:
    """The effect of a failed check that users would have seen; empty if it did not fail or the effect is unknown."""
    return USERS_SAW_OF_CHECKS.get(check.name, "") if check.state is State.FAIL else ""


def reasons(drill: DrillVerdict) -> list[str]:
    """Why a drill did not pass, worst first: violations with their effect on users, then checks."""
    broken = [f"{each.invariant}: {each.count}, first {each.first}. {users_saw(each)}." for each in drill.violations]
    return broken + [f"{check.name} {check.state}: {check.reason}" for check in _not_passed(drill)]


def why(drill: DrillVerdict) -> str:
    """Why a drill did not pass, in one line; empty if it did."""
    broken = [f"{violation.invariant} ({violation.count})" for violation in drill.violations]
    found = broken + [f"{check.name} {check.state}: {check.reason}" for check in _not_passed(drill)]
    more = f"; and {len(found) - _MAX_REASONS} more" if len(found) > _MAX_REASONS else ""
    return "; ".join(found[:_MAX_REASONS]) + more


def _not_passed(drill: DrillVerdict) -> list[CheckResult]:
    checks = [check for check in drill.checks if check.state is not State.PASS and check.name != "drill.invariants"]
    return sorted(checks, key=lambda check: (check.state is not State.FAIL, check.state is not State.ERROR))


def _cell(text: str) -> str:
    """Text that is safe inside a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _bounds(check: CheckResult) -> str:
    return _between(check.interval)


def _between(interval: tuple[float, float] | None) -> str:
    return f"{number(interval[0])} .. {number(interval[1])}" if interval else "-"


def _compared(drill: DrillVerdict, prediction: Prediction) -> Sequence[Compared]:
    return predictions.compare(prediction, {metric.name: metric.value for metric in drill.metrics})


def _percent(share: float) -> str:
    return f"{share:+.0%}" if math.isfinite(share) else "-"


def _limit(check: CheckResult) -> str:
    return f"{check.comparator} {number(check.threshold)}" if check.threshold is not None else "-"


_COLOURS = {State.PASS: "green", State.FAIL: "red", State.ERROR: "red"}


def print_verdict(verdict: RunVerdict, console: "Console") -> None:
    """Print a run's verdict: a table of its drills, then the reasons of each drill that did not pass."""
    from rich.markup import escape
    from rich.table import Table

    many = any(drill.replications != 1 for drill in verdict.drills)
    table = Table("drill", "status", "clients", *(["runs"] if many else []), "live again (99 %)")
    for drill in verdict.drills:
        colour = _COLOURS.get(drill.status, "yellow")
        count = [str(drill.replications)] if many else []
        table.add_row(drill.name, f"[{colour}]{drill.status}[/]", str(drill.clients), *count, _recovery(drill))
    console.print(table)
    for drill in verdict.drills:
        if drill.status is not State.PASS:
            console.print(f"[bold]{drill.name}[/]")
            for reason in reasons(drill):
                console.print(f"  {escape(reason)}", soft_wrap=True)
        if drill.prediction is not None:
            console.print(_predicted_table(drill, drill.prediction))
        for remark in drill.remarks:
            console.print(escape(f"{drill.name}: {remark}"), style="dim", soft_wrap=True)
    for note in verdict.notes:
        console.print(escape(note), style="dim", soft_wrap=True)
    because = f" ({verdict.decision_reason.replace('_', ' ')})" if verdict.decision_reason else ""
    colour = _COLOURS.get(verdict.status, "yellow")
    console.print(f"[bold {colour}]{verdict.decision.replace('_', '-')}[/]{because}   Failures: {verdict.failures}")


def _predicted_table(drill: DrillVerdict, prediction: Prediction) -> "Table":
    """A table of predicted and measured values."""
    from rich.table import Table

    table = Table("metric", "predicted", "95 % of runs", "measured", "error", title=f"{drill.name}, by {prediction.model}")
    for each in _compared(drill, prediction):
        cells = (f"{number(each.predicted)} {each.unit}", _between(each.interval), f"{number(each.measured)} {each.unit}")
        table.add_row(each.metric, *cells, _percent(each.error))
    return table


def _recovery(drill: DrillVerdict) -> str:
    found = [metric for metric in drill.metrics if metric.name == "live_again_99_s" and metric.n]
    if not found:
        return "-"
    interval = next((spread.interval for spread in drill.spreads if spread.name == "live_again_99_s"), None)
    trust = f" ({number(interval[0])}..{number(interval[1])})" if interval else ""
    return "never" if math.isinf(found[0].value) else f"{number(found[0].value)} s{trust}"
