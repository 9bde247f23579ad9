"""A comparison on a terminal: one table for each drill, with what is worse, better or asked for; the rest is counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from drills.comparison.records import ComparedDrill, ComparedMetric, Comparison, Limit, Versus
from drills.reports.report import between, number
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = {
    "compared": ExitCode.GO,
    "not_worse": ExitCode.GO,
    "worse": ExitCode.NO_GO,
    "unclear": ExitCode.INCONCLUSIVE,
}
_SHOWN = ("worse", "better", "changed")
_COLOURS = {"worse": "red", "better": "green", "unclear": "yellow", "not_worse": "green"}
_MAX_CONDITIONS = 8


def show(found: Comparison, console: "Console", every_metric: bool = False) -> None:
    """Print a comparison."""
    from drills.reports.terminal import say

    say(console, f"baseline: {found.baseline} ({verdict(found.baseline_decision, found.baseline_decision_reason)})")
    for other in found.others:
        say(console, f"other:    {other.path} ({verdict(other.decision, other.decision_reason)})")
        for drill in other.drills:
            _show_drill(drill, [limit.metric for limit in other.limits], console, every_metric)
        for line in remarks(other):
            say(console, line)
        for limit in other.limits:
            say(console, limit_line(limit), _COLOURS[limit.answer])
    say(console, headline(found), f"bold {_COLOURS.get(found.result, '')}".strip())


def headline(found: Comparison) -> str:
    """The result in one sentence."""
    effect = f"minimum effect {100 * found.minimum_effect:g} %, intervals of 95 % for each metric"
    match found.result:
        case "worse":
            return f"worse: {'; '.join(_worse(found))} ({effect})"
        case "not_worse":
            return f"not worse by more than the limits ({effect})"
        case "unclear":
            return f"inconclusive ({effect})"
    return f"compared ({effect})"


def _worse(found: Comparison) -> Iterator[str]:
    for other in found.others:
        for limit in other.limits:
            if limit.answer == "worse":
                yield f"{limit.drill} {limit.metric}"
        if other.checks and (found.baseline_decision, other.decision_reason) == ("go", "breach"):
            yield "the stage's decision"
        for drill in other.drills:
            if drill.is_comparable and (drill.verdict_baseline, drill.verdict_other) == ("pass", "fail"):
                yield f"the verdict on {drill.name}"


def verdict(decision: str, reason: str) -> str:
    """A decision in words."""
    return decision.replace("_", "-") + (f": {reason.replace('_', ' ')}" if reason else "")


def limit_line(limit: Limit) -> str:
    """One limit and its answer."""
    why = f": {limit.reason}" if limit.reason else ""
    return f"{limit.asked}: {limit.drill}: {limit.answer.replace('_', ' ')} ({limit.allowed}){why}"


def remarks(other: Versus) -> Iterator[str]:
    """Sentences on what the sides do not have in common."""
    if other.missing:
        yield f"missing on this side, so it cannot be compared: {', '.join(other.missing)}"
    if other.extra:
        yield f"only on this side: {', '.join(other.extra)}"
    for check in other.checks:
        yield f"{check.name}: {check.baseline or 'not there'} -> {check.other or 'not there'}"


def shown_metrics(drill: ComparedDrill, asked: Sequence[str]) -> tuple[list[ComparedMetric], str]:
    """The metrics that a reader must see, and a sentence on the others."""
    shown = [each for each in drill.metrics if each.finding in _SHOWN or each.name in asked]
    others = Counter(each.finding for each in drill.metrics if each not in shown)
    return shown, ", ".join(f"{count} {finding}" for finding, count in others.items())


def _show_drill(drill: ComparedDrill, asked: Sequence[str], console: "Console", every_metric: bool) -> None:
    from rich.table import Column, Table

    from drills.reports.terminal import say

    verdicts = drill.verdict_baseline, drill.verdict_other
    changed = f"verdict {verdicts[0]}" if verdicts[0] == verdicts[1] else f"verdict {verdicts[0]} -> {verdicts[1]}"
    console.print()
    say(console, f"{drill.name}: {changed}; {drill.runs_baseline} and {drill.runs_other} runs", "bold")
    if drill.reason:
        say(console, f"  not comparable: {drill.reason}", "yellow")
    for each in drill.conditions[:_MAX_CONDITIONS]:
        say(console, f"  {'differs' if each.blocks else 'note'}: {each.name}: {each.baseline or '-'} -> {each.other or '-'}")
    if len(drill.conditions) > _MAX_CONDITIONS:
        say(console, f"  and {len(drill.conditions) - _MAX_CONDITIONS} more conditions; --json has all")
    for note in drill.notes:
        say(console, f"  {note}", "dim")
    shown, rest = (list(drill.metrics), "") if every_metric else shown_metrics(drill, asked)
    if shown:
        heads = [Column("metric", overflow="fold", ratio=3), *(Column(head, overflow="fold") for head in HEADS)]
        table = Table(*heads, box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
        for metric in shown:
            table.add_row(*cells(metric), style=_COLOURS.get(metric.finding, ""))
        console.print(table)
    if rest:
        say(console, f"  other metrics: {rest}" if shown else f"  metrics: {rest}", "dim")


HEADS = ("before", "after", "difference", "95 % interval", "finding")


def cells(metric: ComparedMetric) -> tuple[str, ...]:
    """One metric as cells of a table: its name with its unit, both values, the difference, its interval and the finding."""
    name = metric.name if metric.name.endswith(f"_{metric.unit}") else f"{metric.name} ({metric.unit})"
    return (name, number(metric.baseline), number(metric.other), signed(metric.difference), _interval(metric), metric.finding)


def _interval(metric: ComparedMetric) -> str:
    lower, upper = metric.interval
    is_unknown = lower is None or upper is None or (lower != lower and upper != upper)
    return "-" if is_unknown else between(metric.interval)


def signed(value: float | None) -> str:
    """A difference for people, with its sign."""
    text = number(value)
    return text if value is None or text == "-" or value <= 0 else f"+{text}"
