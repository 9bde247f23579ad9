"""A stage's report for people: Markdown, and a table on a terminal. It shows the verdict and decides nothing."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from drills.judging.checks.verdicts import EXIT_CODES, GRAVEST_FIRST, State
from drills.reports import report as words
from drills.rollout.setup.records import Change, Evidence, Gate, GateCheck, StagePlan, StageReport
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    import jinja2
    from rich.console import Console

_MAX_WHY = 6  # sentences at the top of the report


def headline(report: StageReport) -> str:
    """The decision, with the reason for a no-go."""
    reason = f": {report.reason.replace('_', ' ')}" if report.reason else ""
    return f"{report.decision.upper().replace('_', '-')}{reason}"


def about(plan: StagePlan) -> str:
    """The target and its kind, as shown beside the headline."""
    if plan.target_kind == "mock":
        return "against the embedded mock: says nothing about a deployed runtime and unlocks no stage"
    return f"target {plan.target}, {plan.target_kind}"


def exit_code(report: StageReport) -> ExitCode:
    """0 go, 1 a failure or expired evidence, 2 inconclusive, 4 the tool or the evidence failed."""
    return EXIT_CODES[report.reason]


def markdown(report: StageReport) -> str:
    """`STAGE_REPORT.md`."""
    text = _environment().get_template("STAGE_REPORT.md.j2").render(report=report, **_given(report))
    return re.sub(r"\n{3,}", "\n\n", text)


def print_report(report: StageReport, console: "Console") -> None:
    """Print the verdict on a terminal: gates, requirements, and the reasons for a no-go."""
    from rich.markup import escape
    from rich.table import Table

    from drills.reports.terminal import say

    table = Table("gate or requirement", "state", "decided by")
    for gate in report.gates:
        table.add_row(gate.name, _coloured(gate.state), escape(decided_by(gate)))
    for each in report.requirements:
        table.add_row(each.name, _coloured(each.state), escape(each.reason))
    console.print(table)
    for sentence in report.why:
        say(console, sentence)
    for note in report.notes:
        say(console, note, "dim")
    say(console, f"{headline(report)} ({about(report.plan)})", "bold")


def _coloured(state: str) -> str:
    colour = {"pass": "green", "fail": "red", "error": "red"}.get(state, "yellow")
    return f"[{colour}]{state}[/]"


def decided_by(gate: Gate) -> str:
    """The check that decides a gate, in words."""
    if gate.state == State.PASS:
        return f"all {sum(check.required for check in gate.checks) or len(gate.checks)} checks passed"
    (worst, *others) = [check for check in _sorted(gate.checks) if check.state == gate.state]
    more = f"; and {len(others)} more" if others else ""
    return f"{worst.check}: {worst.reason}{more}"


def _sorted(checks: Sequence[GateCheck]) -> list[GateCheck]:
    """Required checks first, the most severe state first."""
    return sorted(checks, key=lambda check: (not check.required, GRAVEST_FIRST.index(State(check.state))))


def sentence(report: StageReport) -> str:
    """The decision and its first reason in one sentence."""
    if report.decision == "go":
        return "All required checks and all requirements passed."
    more = len(report.why) - 1
    return f"{report.why[0]}{f' ({more} more reasons below)' if more > 0 else ''}" if report.why else headline(report)


def gates(report: StageReport) -> list[tuple[Gate, str, bool, list[GateCheck]]]:
    """Each gate, what decides it, whether it is for information only, and its checks, the most severe state first."""
    return [(gate, decided_by(gate), not _is_required(gate), _sorted(gate.checks)) for gate in report.gates]


def changes(report: StageReport) -> tuple[list[Change], int]:
    """What changed since the previous stage, and how many checks did not change."""
    changed = [change for change in report.changes if _is_changed(change)]
    return changed, len(report.changes) - len(changed)


def _given(report: StageReport) -> dict[str, object]:
    """The values that the template needs besides the report."""
    changed, unchanged = changes(report)
    return {
        "headline": headline(report),
        "about": about(report.plan),
        "gates": gates(report),
        "first_why": report.why[:_MAX_WHY],
        "more_why": report.why[_MAX_WHY:],
        "folders": folders(report.evidence),
        "changed": changed,
        "unchanged": unchanged,
    }


def _is_required(gate: Gate) -> bool:
    """Whether any check of a gate is required. A gate without one is for information only."""
    return any(check.required for check in gate.checks)


def _is_changed(change: Change) -> bool:
    return change.state != change.before_state or bool(change.change)


def folders(files: Sequence[Evidence]) -> list[tuple[str, int, int, str]]:
    """The evidence by top folder: name, number of files, bytes, and one SHA-256 over the names and hashes of its files."""
    found: dict[str, list[Evidence]] = {}
    for file in files:
        folder, separator, _ = file.path.partition("/")
        found.setdefault(folder + separator, []).append(file)
    return [(name, len(each), sum(file.size_bytes for file in each), _digest(each)) for name, each in found.items()]


def _digest(files: Sequence[Evidence]) -> str:
    if len(files) == 1:
        return files[0].sha256
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


@lru_cache(maxsize=1)
def _environment() -> "jinja2.Environment":
    return words.environment({"value": value, "minutes": minutes, "moment": moment, "size": size})


def value(check: GateCheck) -> str:
    """The value of a check with its unit, for people."""
    return words.with_unit(check.value, check.unit)


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 120 else f"{whole // 60} h {whole % 60:02d} min"


def moment(at: str) -> str:
    """A time for people, to the second."""
    return at[:19].replace("T", " ") + " UTC" if at else "-"


def size(count: int) -> str:
    """A size for people."""
    return f"{count} B" if count < 2048 else f"{count / 1024:.0f} KiB" if count < 2 << 20 else f"{count / (1 << 20):.1f} MiB"
