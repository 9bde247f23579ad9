"""`STAGE_REPORT.html`: a stage's report as one page, with its figures, and the evidence one by one. It decides nothing."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from drills.reports import page
from drills.reports.page import Drawn, Section, Text
from drills.reports.report import between, limit, number
from drills.rollout.report import figures, stage_report
from drills.rollout.report.stage_report import minutes, moment, value
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CommandDone, DrillDone, GateCheck, Precondition, Rollback, StageReport
from sim.base import bounded_reads
from sim.base.atomic_files import read_struct
from sim.base.errors import StormgateError

_LAST_LINES, _LAST_CHARACTERS = 40, 6000  # [ours] of the output of each command; the page links to the whole
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal


@dataclass(frozen=True)
class Kept:
    """What a stage's folder keeps besides the report. Damaged files are left out: the verdict reports them."""

    preconditions: tuple[Precondition, ...] = ()
    commands: tuple[tuple[CommandDone, str], ...] = ()  # each with the end of its output
    drills: tuple[tuple[DrillDone, str], ...] = ()  # each with the path of its run's page, if there is one
    rollback: Rollback | None = None
    figures: tuple[Drawn, ...] = ()


def read(run_dir: Path, report: StageReport) -> Kept:
    """Read what the page shows besides the report."""
    try:
        commands = evidence.read_lines(run_dir / records.COMMANDS, CommandDone)
        done, rollback = run_dir / records.DRILL_RESULTS, run_dir / records.ROLLBACK
        return Kept(
            preconditions=tuple(evidence.read_lines(run_dir / records.PRECONDITIONS, Precondition)),
            commands=tuple((each, _end_of(run_dir / each.log) if each.log else "") for each in commands),
            drills=tuple((each, _page_of(run_dir, each)) for each in evidence.read_lines(done, DrillDone)),
            rollback=read_struct(rollback, Rollback) if rollback.exists() else None,
            figures=figures.of(run_dir, report),
        )
    except StormgateError:
        return Kept(figures=figures.of(run_dir, report))


def _page_of(run_dir: Path, drill: DrillDone) -> str:
    """The path of a drill's page, relative to the stage's folder; empty without one."""
    path = f"{drill.run}/{page.NAME}"
    return path if drill.run and (run_dir / path).is_file() else ""


def _end_of(log: Path) -> str:
    """The last lines of a command's output."""
    try:
        text = _ESCAPES.sub("", bounded_reads.file_end(log, _LAST_CHARACTERS).decode(errors="replace"))
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])


def html(report: StageReport, kept: Kept) -> str:
    """The page: one file without external resources."""
    plan, about = report.plan, stage_report.about(report.plan)
    shown = page.Page(
        title=f"{stage_report.headline(report)}: stage {plan.stage} of {plan.rollout}",
        headline=stage_report.headline(report),
        tone=page.tone(report.decision, report.reason),
        lines=(
            stage_report.sentence(report),
            Markup("Stage {}, {}, of rollout <b>{}</b>: {}").format(plan.stage, plan.title, plan.rollout, about),
        ),
        facts=page.together(_facts(report), *(page.paragraph(note, "note") for note in report.notes)),
        sections=[section for section in _sections(report, kept) if section.content],
        footer=_footer(report),
    )
    return page.html(shown)


def _facts(report: StageReport) -> Markup:
    plan, covered = report.plan, report.coverage
    percent = "" if plan.cohort_percent is None else f", {number(plan.cohort_percent)} %"
    held = f"{minutes(report.hold_observed_s)} of {minutes(plan.hold_required_s)}" if plan.hold_required_s else ""
    hole = (
        f"{covered.got} snapshots, {covered.expected} expected, longest hole {minutes(covered.longest_hole_s)}"
        if covered
        else ""
    )
    return page.facts(
        (
            ("Cohort", f"{plan.cohort}{percent}"),
            ("Target", f"{plan.target} ({plan.target_kind})"),
            ("Revisions", f"control {plan.revisions.control or 'unknown'}\nruntime {plan.revisions.runtime or 'unknown'}"),
            ("Time", f"{moment(plan.began)}\nto {moment(report.ended)}"),
            ("Held", held),
            ("Coverage", hole),
            ("Run", page.code(plan.run_id)),
            ("Thresholds", page.code(plan.thresholds_sha256[:16])),
        )
    )


def _footer(report: StageReport) -> Markup:
    commit = f" ({report.plan.tool_commit[:12]})" if report.plan.tool_commit else ""
    return Markup(
        "{} Written by stormgate {}{}. To check this report, run <code>stormgate stage verify</code> with its folder. "
        "Its signature is in <code>signoff.json</code>."
    ).format(page.HOW_DECIDED, report.plan.tool_version, commit)


def _sections(report: StageReport, kept: Kept) -> Iterator[Section]:
    yield Section("Why", page.listed(report.why, numbered=True) or page.paragraph("All checks and requirements passed."))
    yield Section("Gates", page.cards(_gates(report)))
    yield Section("Requirements", _requirements(report))
    yield Section("What to do", page.together(*_blockers(report)))
    none = page.paragraph("There is no window, so there are no figures.", "note")
    yield Section("The window", page.together(*map(page.figure, kept.figures)) or none)
    yield Section("Checks", _checks(report))
    yield Section("By client build, and compared with the control", _splits(report))
    yield Section("Since the previous stage", _changes(report))
    yield Section("Preconditions", _preconditions(kept))
    yield Section("Commands", page.together(*_commands(kept)))
    yield Section("Drills", _drills(kept))
    yield Section("Rollback", _rollback(kept.rollback) if kept.rollback else Markup())
    yield Section("Skipped, or for information only", page.listed(report.skipped))
    yield Section("Evidence", _evidence(report))


def _gates(report: StageReport) -> Iterator[Markup]:
    for gate, by, is_information, _ in stage_report.gates(report):
        state = page.badge(gate.state)
        yield page.card(gate.name, state + " information only" if is_information else state, page.paragraph(by, "note"))


def _requirements(report: StageReport) -> Markup:
    rows = (
        (each.name.replace("_", " "), page.badge(each.state), each.reason, _file(each.evidence)) for each in report.requirements
    )
    return page.table(("requirement", "state", "reason", "evidence"), rows)


def _file(path: str) -> Text:
    """A link to a file of the evidence. Several are separated by commas or spaces, and stay text."""
    return page.link(path) if path and not any(sign in path for sign in ", *") else page.code(path)


def _blockers(report: StageReport) -> Iterator[Markup]:
    for place, each in enumerate(report.blockers, 1):
        kind = "Requirement " if each.gate == "stage" else ""
        yield page.card(
            f"{place}. {kind}{each.check}",
            page.paragraph(f"{each.severity}; {each.owner or 'no owner'}, {each.due}", "note"),
            page.paragraph(each.cause),
            page.listed(each.remediation, numbered=True),
            page.paragraph(Markup("Then: {}").format(page.code(each.retest))),
            tone="bad" if each.severity == "blocker" else "doubt",
        )


def _checks(report: StageReport) -> Markup:
    heads = ("check", "state", "value", "95 % bounds", "n", "limit", "origin", "window and reason")
    rows = (_check(gate.name, check) for gate, *_, checks in stage_report.gates(report) for check in checks)
    return page.table(heads, rows)


def _check(gate: str, check: GateCheck) -> Sequence[Text]:
    source = f"; limit from {check.source}" if check.source else ""
    more = Markup('<br><span class="note">{}; {}{}; {}</span>').format(
        check.window, check.method, source, page.code(check.evidence)
    )
    state = page.badge(check.state)
    return (
        f"{gate}.{check.check}",
        state if check.required else state + Markup('<br><span class="note">information only</span>'),
        *(value(check), between(check.interval), str(check.n), limit(check), check.origin),
        Markup("{}{}").format(check.reason, more),
    )


def _splits(report: StageReport) -> Markup:
    heads = ("check", "state", "value", "95 % bounds", "n", "limit", "reason")
    rows = (
        (
            *(f"{each.gate}: {each.check}", page.badge(each.state), value(each), between(each.interval), str(each.n)),
            *(limit(each), each.reason),
        )
        for each in report.splits
    )
    return page.table(heads, rows)


def _changes(report: StageReport) -> Markup:
    if not report.changes:
        return Markup()
    changed, unchanged = stage_report.changes(report)
    heads = ("check", "before", "now", "value before", "value now", "change", "verdict")
    rows = (
        (
            *(f"{each.gate}.{each.check}", (each.before_state or "-").replace("_", " "), (each.state or "-").replace("_", " ")),
            *(number(each.before), number(each.now), f"{number(each.change)} {each.unit}"),
            "" if each.verdict == "same" else each.verdict,
        )
        for each in changed
    )
    return page.together(page.paragraph(f"{unchanged} checks did not change.", "note"), page.table(heads, rows))


# --- the evidence, one by one -----------------------------------------------------------------------


def _preconditions(kept: Kept) -> Markup:
    rows = (
        (each.name.replace("_", " "), page.badge(each.state), each.reason, moment(each.at), _file(each.evidence))
        for each in kept.preconditions
    )
    return page.table(("precondition", "state", "reason", "time", "evidence"), rows)


def _commands(kept: Kept) -> Iterator[Markup]:
    for command, said in kept.commands:
        counted = "" if command.tests is None else f", {command.tests} tests by {command.runner}"
        code = "no exit code" if command.exit_code is None else f"exit code {command.exit_code}"
        yield page.folded(
            Markup("{} {}").format(page.badge(command.state), command.name),
            page.output(" ".join(command.argv)),
            page.paragraph(f"In {command.cwd}: {code} after {number(command.duration_s)} s{counted}. {command.reason}", "note"),
            page.output(said) if said else page.paragraph("No output.", "note"),
            page.paragraph(Markup("All of it: {}").format(page.link(command.log))) if command.log else "",
            is_open=command.state != "pass",
        )


def _drills(kept: Kept) -> Markup:
    rows = (
        (
            page.link(path, each.name) if path else each.name,
            *(page.badge(each.status), number(each.duration_s), str(each.seed), each.reason),
        )
        for each, path in kept.drills
    )
    return page.table(("drill", "state", "seconds", "seed", "reason"), rows)


def _rollback(done: Rollback) -> Markup:
    heads = ("step", "state", "observed", "before", "after", "time", "evidence")
    rows = (
        (
            f"{step.n}. {step.name}",
            page.badge(step.state),
            f"{step.reason} ({step.verified_by})" if step.verified_by else step.reason,
            *(", ".join(f"{key} {what}" for key, what in each.items()) for each in (step.before, step.after)),
            moment(step.began),
            Markup(" ").join(map(_file, step.evidence)),
        )
        for step in done.steps
    )
    took = f"recovered after {number(done.seconds)} s" if done.seconds is not None else "did not recover"
    said = Markup("{} {}: {}, limit {} s. {}").format(
        page.badge(done.state), "dry run" if done.dry_run else "rehearsal", took, number(done.limit_s), done.reason
    )
    return page.together(page.paragraph(said), page.table(heads, rows))


def _evidence(report: StageReport) -> Markup:
    said = Markup(
        "The SHA-256 of a folder covers the lines <code>hash&nbsp;&nbsp;name</code> of its files, in the order of {}."
    ).format(page.link(records.REPORT))
    rows = (
        (page.link(name), str(count), stage_report.size(size), page.code(digest[:16]))
        for name, count, size, digest in stage_report.folders(report.evidence)
    )
    return page.together(page.paragraph(said, "note"), page.table(("what", "files", "size", "SHA-256"), rows))
