"""`report.html` of a run: the decision and why, and for each drill its figures, checks and the explanation of each failure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from drills.judging import explanations
from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State
from drills.judging.explanations import Event, Explanation
from drills.reports import page, report
from drills.reports.page import Drawn, Section, Text
from drills.reports.report import between, limit, number
from sim.drill.model import Drill
from sim.record.history import History
from sim.record.ledger import Ledger

_MANY = 3  # [ours] drills of a page from which passed ones are folded


@dataclass(frozen=True)
class Explained:
    """The failures of one run of a drill, and the folder of that run as a command takes it."""

    name: str
    folder: str
    failures: tuple[Explanation, ...]


@dataclass(frozen=True)
class Shown:
    """What a page shows of a drill besides its verdict: figures of one run, its phases and faults, and failures explained."""

    figures: tuple[Drawn, ...] = ()
    times: tuple[tuple[str, float, float], ...] = ()  # phases and faults: name, begin and end (s)
    explained: tuple[Explained, ...] = ()


def shown(history: History, verdict: DrillVerdict, run_id: str, of_run: str, png: Path) -> Shown:
    """Draw a recorded run, its figure over time also as PNG. `of_run` names it if it is one of several of its drill.

    Raises `OSError`.
    """
    from sim.plots import runs  # imported late: importing Matplotlib takes longer than judging a small run
    from sim.plots.svg import svg

    limits = {check.name: check.threshold for check in verdict.checks if check.threshold is not None}
    said = f"run {run_id}{f', {of_run}' if of_run else ''}: {verdict.status}"
    over_time = runs.drill_figure(history, said, limits)
    runs.save(over_time, png)
    drawn = (
        ("Over time", _OVER_TIME, over_time),
        ("Recovery", _RECOVERY, runs.recovery_figure(history, said, limits)),
        ("Latencies", _LATENCIES, runs.latency_figure(history, Ledger(history), said, limits)),
    )
    figures = tuple(
        Drawn(title, f"{says} {said[0].upper()}{said[1:]}.", svg(made, f"{verdict.name} {title}"))
        for title, says, made in drawn
        if made is not None
    )
    return Shown(figures, tuple(_times(history)))


_OVER_TIME = (
    "Phases, faults (red) and ends of connections by code; live clients; connects in the last second, whose highest value "
    "after the first fault is peak_connects_per_s; lag and backlog, sampled. The lag in the table leaves out the fault phase."
)
_RECOVERY = "Share of the clients that a fault cut off and that were live again. The dots are live_again_50_s, _95_s and _99_s."
_LATENCIES = "Share of the bootstraps, and of the deliveries, that took at most so long. The dots are the p95 of the table."


def _times(history: History) -> Iterator[tuple[str, float, float]]:
    from sim.plots import series

    yield from ((f"phase {name}", begin, end) for name, begin, end in series.phases(history))
    yield from ((f"fault {fault.kind} #{fault.index}", fault.start_t, fault.end_t) for fault in history.faults)


def explained(name: str, folder: str, drill: Drill, history: History, verdict: DrillVerdict) -> Explained:
    """The failures of one run: what `stormgate drill explain` prints."""
    return Explained(name, folder, explanations.explain(Case(drill, history), verdict))


def html(verdict: RunVerdict, of_drills: Sequence[Shown]) -> str:
    """The page; `of_drills` in the order of the verdict's drills."""
    headline = report.headline(verdict)
    return page.html(
        page.Page(
            title=f"{headline}: {verdict.run_id}",
            headline=headline,
            tone=page.tone(verdict.decision, verdict.decision_reason),
            lines=(report.sentence(verdict), Markup("Run <b>{}</b>, {}").format(verdict.run_id, _where(verdict))),
            facts=page.together(_facts(verdict), *(page.paragraph(note, "note") for note in verdict.notes)),
            sections=list(_sections(verdict, of_drills)),
            footer=Markup(
                "{} Written by stormgate {}. To judge this run again, run <code>stormgate judge</code> with its folder."
            ).format(page.HOW_DECIDED, verdict.tool_version),
        )
    )


def _where(verdict: RunVerdict) -> str:
    return f"target {verdict.target} ({verdict.target_kind}), engine {verdict.engine}"


def _facts(verdict: RunVerdict) -> Markup:
    return page.facts(
        (
            ("Drills", f"{len(verdict.drills)}, failures {verdict.failures}, not run {verdict.not_run}"),
            ("Engine", verdict.engine),
            ("Target", f"{verdict.target} ({verdict.target_kind})"),
            ("Seed", str(verdict.seed)),
            ("Thresholds", page.code(verdict.thresholds_sha256[:16])),
            ("Target configuration", page.code(verdict.target_sha256[:16])),
        )
    )


def _sections(verdict: RunVerdict, of_drills: Sequence[Shown]) -> Iterator[Section]:
    if len(verdict.drills) > 1:
        heads = ("drill", "state", "clients", "seconds", "live again (99 %)", "why")
        rows = (
            (
                *(page.jump(_anchor(each), each.name), page.badge(each.status), str(each.clients), number(each.duration_s)),
                *(report.recovery(each), report.why(each)),
            )
            for each in verdict.drills
        )
        yield Section("Drills", page.table(heads, rows))
    for drill, own in zip(verdict.drills, of_drills, strict=True):
        content = page.together(*_drill(drill, own))
        if len(verdict.drills) > _MANY and drill.status is State.PASS:
            content = page.folded(drill.summary or drill.name, content)
        yield Section(Markup("{} {}").format(drill.name, page.badge(drill.status)), content, _anchor(drill))
    yield Section("Evidence", _evidence(verdict))


def _anchor(drill: DrillVerdict) -> str:
    return f"drill-{drill.name}"


def _drill(drill: DrillVerdict, own: Shown) -> Iterator[Text]:
    """The parts of one drill, what matters first."""
    if drill.summary:
        yield page.paragraph(drill.summary)
    yield page.facts(
        (
            ("Clients", f"{drill.clients}, policy {drill.policy}" if drill.policy else ""),
            ("Duration", f"{number(drill.duration_s)} s" if not drill.not_run else ""),
            ("Runs", str(drill.replications) if drill.replications != 1 else ""),
            ("Live again (99 %)", report.recovery(drill)),
            ("Defects switched on", ", ".join(drill.defects)),
        )
    )
    yield from (page.paragraph(remark, "note") for remark in drill.remarks)
    if drill.status is not State.PASS:
        yield page.heading("Why it did not pass")
        yield page.listed(report.reasons(drill), numbered=True)
    yield from map(page.figure, own.figures)
    yield from _tables(drill, own)


def _tables(drill: DrillVerdict, own: Shown) -> Iterator[Text]:
    if drill.violations:
        yield page.heading("Violations")
        rows = ((each.invariant, str(each.count), each.first, report.users_saw(each)) for each in drill.violations)
        yield page.table(("invariant", "count", "first event", "what users would have seen"), rows)
    if drill.checks:
        yield page.heading("Checks")
        heads = ("check", "state", "value", "95 % bounds", "n", "threshold", "reason")
        yield page.table(heads, map(_check, drill.checks))
    if drill.endings:
        yield page.heading("How connections ended")
        endings = ((each.by, each.code, each.next, str(each.count), str(each.clients)) for each in drill.endings)
        yield page.table(("by", "code", "next step", "count", "clients"), endings)
    if any(each.failures for each in own.explained):
        yield page.heading("Failures explained")
        yield from (part for place, each in enumerate(own.explained) for part in _explained(each, is_first=place == 0))
    yield from _predicted(drill)
    if own.times:
        times = ((name, number(begin), number(end)) for name, begin, end in own.times)
        yield page.folded("Phases and faults", page.table(("what", "begin (s)", "end (s)"), times))
    yield from _metrics(drill)


def _check(check: CheckResult) -> Sequence[Text]:
    seen = report.check_seen(check)
    more = Markup('<br><span class="note">Users would have seen: {}.</span>').format(seen) if seen else ""
    optional = Markup('<br><span class="note">not required</span>') if not check.is_required else ""
    return (
        *(check.name, Markup("{}{}").format(page.badge(check.state), optional), report.with_unit(check.value, check.unit)),
        *(between(check.interval), str(check.n), limit(check), Markup("{}{}").format(check.reason, more)),
    )


def _predicted(drill: DrillVerdict) -> Iterator[Text]:
    if drill.prediction is None:
        return
    yield page.heading("Predicted and measured")
    by = f"By {drill.prediction.model}, simulated {drill.prediction.replications} times before the run."
    yield page.paragraph(f"{by} It does not affect the verdict.", "note")
    rows = (
        (
            *(each.metric, report.with_unit(each.predicted, each.unit), between(each.interval)),
            *(report.with_unit(each.measured, each.unit), report.percent(each.error)),
        )
        for each in report.compared(drill, drill.prediction)
    )
    yield page.table(("metric", "predicted", "95 % of runs", "measured", "error"), rows)


def _metrics(drill: DrillVerdict) -> Iterator[Text]:
    """All metrics, and those of the server itself, folded."""
    if drill.spreads:
        rows = (
            (
                *(each.name, report.with_unit(each.mean, each.unit), between(each.interval), number(each.least)),
                *(number(each.median), number(each.p95), number(each.most), str(each.n)),
            )
            for each in drill.spreads
        )
        heads = ("metric", "mean", "95 % interval", "min", "median", "p95", "max", "n")
        yield page.folded(f"Metrics over {drill.replications} runs", page.table(heads, rows))
    elif drill.metrics:
        values = ((each.name, report.with_unit(each.value, each.unit), str(each.n)) for each in drill.metrics)
        yield page.folded("Metrics", page.table(("metric", "value", "n"), values))
    if drill.server is not None:
        polls = f"{drill.server.polls} polls, {sum(drill.server.failed.values())} without an answer"
        figures = (
            (each.name, number(each.first), number(each.last), str(each.n), each.meaning or "") for each in drill.server.figures
        )
        of_server = ("metric", "first", "last", "n", "meaning")
        yield page.folded(f"The server's own metrics: {polls}", page.table(of_server, figures))


# --- failures explained -----------------------------------------------------------------------------


def _explained(found: Explained, is_first: bool) -> Iterator[Text]:
    for place, each in enumerate(found.failures):
        name = f"{each.name}, {found.name}" if found.name else each.name
        title = Markup("{} {}").format(page.badge(each.state), name)
        yield page.folded(title, *_failure(each, found.folder), is_open=is_first and place == 0)


def _failure(each: Explanation, folder: str) -> Iterator[Text]:
    yield page.paragraph(each.reason)
    if each.expected:
        yield page.paragraph(Markup("<b>Expected:</b> {}").format(each.expected))
    yield from (_event(event, folder, is_open=place == 0) for place, event in enumerate(each.events))
    if each.count < 0:
        yield page.paragraph("No single events decide it.", "note")
    elif each.query and each.count > 0:
        command = page.code(f"stormgate drill events {folder} {each.query}")
        yield page.paragraph(Markup("All of them: {}").format(command), "note")


def _event(event: Event, folder: str, is_open: bool) -> Markup:
    where = ", ".join(explanations.where(event))
    return page.folded(
        f"{event.t:.3f} s, {where}: {event.seen}",
        page.paragraph(Markup("<b>Blamed:</b> {}: {}").format(event.blamed, event.why)) if event.blamed else "",
        page.listed(event.story),
        page.paragraph(page.code(f"stormgate drill events {folder} {event.query}")) if event.query else "",
        is_open=is_open,
    )


def _evidence(verdict: RunVerdict) -> Markup:
    """Every file that was judged, and the files for programs."""
    rows = ((page.link(path), page.code(sha256)) for path, sha256 in sorted(verdict.files.items()))
    written = ("SUMMARY.md", "summary.json", "gate-results.jsonl")
    others = page.listed([Markup(", ").join(map(page.link, written))])
    return page.together(
        page.paragraph("The same verdict for programs and as text:", "note"), others, page.table(("file", "SHA-256"), rows)
    )
