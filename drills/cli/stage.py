"""`stormgate stage`: run the stages of a rollout, sign their reports, and judge or verify them again."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drills.cli import output
from drills.cli.options import (
    LOOPBACK,
    RESULTS,
    AsJson,
    DryRun,
    ExportOperators,
    MetricsHost,
    MetricsLinger,
    MetricsPort,
    OtlpEndpoint,
    Out,
    Rollout,
    Targets,
    Thresholds,
)
from sim.base.errors import StormgateError, UsageError
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from datetime import datetime

    from drills.exports.asked import Exports
    from drills.rollout.hold.stage_plan import Asked
    from drills.rollout.setup.records import StageReport
    from drills.rollout.setup.stages import Stages


stage_app = typer.Typer(help="Take a rollout through its stages.", no_args_is_help=True)

StagesFile = Annotated[
    Path | None, typer.Option("--stages", metavar="FILE", help="Stages file. Default: the one stormgate ships.")
]
OfRollout = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="mock, an address on this machine, or a name in the targets file. Default: as in the rollout's latest run.",
    ),
]
Named = Annotated[str, typer.Option("--rollout", metavar="NAME", help="Name of the rollout.")]
Owner = Annotated[str, typer.Option(metavar="NAME", help="Who signs.")]
Role = Annotated[str, typer.Option(metavar="TEXT", help="What this person is responsible for.")]
Statement = Annotated[str, typer.Option(metavar="TEXT", help="What this person states.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Begin although `stage check` finds what will fail.")]
Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a stage: results/rollouts/<rollout>/runs/<run id>.")]


@stage_app.command("run")
def run(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="0, the preflight. Hold the other stages.")],
    target: OfRollout = "",
    targets: Targets = None,
    rollout: Rollout = "",
    stages: StagesFile = None,
    thresholds: Thresholds = None,
    out: Out = RESULTS,
    anyway: Anyway = False,
    as_json: AsJson = False,
    export_operators: ExportOperators = None,
    dry_run: DryRun = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    metrics_linger: MetricsLinger = 0.0,
    otlp_endpoint: OtlpEndpoint = "",
) -> None:
    """Run the preflight, stage 0, and report.

    It first does `stage check 0`, and begins only if nothing will fail. Then it checks preconditions, runs the verification
    commands and every drill, rehearses the rollback, and takes a baseline.
    """
    if stage != "0":
        raise UsageError(f"stage {stage} is held, not run: stormgate stage hold {stage}.")
    asked = _asked(stage, target, targets, rollout, stages, thresholds, out)
    _execute(asked, anyway, as_json, dry_run, export_operators, (metrics_port, metrics_host, metrics_linger, otlp_endpoint))


@stage_app.command("hold")
def hold(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of the stages file, such as 1 or 3a.")],
    target: OfRollout = "",
    targets: Targets = None,
    rollout: Rollout = "",
    stages: StagesFile = None,
    thresholds: Thresholds = None,
    out: Out = RESULTS,
    anyway: Anyway = False,
    as_json: AsJson = False,
    export_operators: ExportOperators = None,
    dry_run: DryRun = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    metrics_linger: MetricsLinger = 0.0,
    otlp_endpoint: OtlpEndpoint = "",
) -> None:
    """Hold a stage for its whole time, and report. Resumes an interrupted hold.

    A new hold first does `stage check`, and begins only if nothing will fail. The rollout keeps its options: what is not given
    is as in its latest run.
    """
    if stage == "0":
        raise UsageError("stage 0 is run, not held: stormgate stage run 0.")
    asked = _asked(stage, target, targets, rollout, stages, thresholds, out)
    _execute(asked, anyway, as_json, dry_run, export_operators, (metrics_port, metrics_host, metrics_linger, otlp_endpoint))


@stage_app.command("check")
def check(
    stage: Annotated[
        str, typer.Argument(metavar="[STAGE]", help="A stage of the stages file. Default: the next one of the rollout.")
    ] = "",
    target: OfRollout = "",
    targets: Targets = None,
    rollout: Rollout = "",
    stages: StagesFile = None,
    thresholds: Thresholds = None,
    out: Out = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Find what of a stage will fail, before it begins.

    Checks secrets, commands, hooks, the caps against every drill, disk, ports and time, and asks the services once. Says what
    to change. Drills nothing. Exits with 0 if nothing will fail, else with 3.
    """
    from drills.reports.terminal import out as console
    from drills.rollout.check import findings, stage_check
    from sim.base.clocks import SystemClock

    stage = stage or _next_stage(target, rollout, stages, out)
    asked = _asked(stage, target, targets, rollout, stages, thresholds, out)
    found = stage_check.check(asked, SystemClock())
    failed = findings.failed(found)
    if as_json:
        output.json_object({"schema": 1, "stage": stage, "target": asked.target, "fails": len(failed), "items": found})
    else:
        output.lines(f"stage {stage} on {asked.target}")
        findings.show(found, console())
        output.lines(f"{len(failed)} of {len(found)} items will fail" if failed else "nothing will fail")
    raise typer.Exit(ExitCode.USAGE if failed else ExitCode.GO)


@stage_app.command("plan")
def plan(
    target: OfRollout = "",
    targets: Targets = None,
    rollout: Rollout = "",
    stages: StagesFile = None,
    begin: Annotated[
        str, typer.Option("--from", metavar="TIME", help="When stage 0 begins, such as 2026-12-01T09:00. Default: now.")
    ] = "",
    out: Out = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Show the calendar of the whole rollout.

    Each stage with its earliest begin and end, with business days, holidays and time zone.
    """
    from drills.reports.terminal import out as console
    from drills.rollout.check import rollout_plan
    from drills.rollout.hold import stage_plan
    from sim.base.clocks import SystemClock

    asked = _asked("0", target, targets, rollout, stages, None, out)
    rules, _ = stage_plan.read_files(asked)
    found = rollout_plan.plan(asked, stage_plan.kind_of(asked), rules, _moment(begin, rules) or SystemClock().now())
    if as_json:
        output.json_object({"schema": 1, **output.plain(found)})
    else:
        rollout_plan.show(found, rules, console())


@stage_app.command("sign")
def sign(
    rollout: Named,
    owner: Owner,
    role: Role,
    statement: Statement,
    decision: Annotated[str, typer.Option(metavar="DECISION", help="go or no_go. Default: as the report decides.")] = "",
    run_id: Annotated[str, typer.Option("--run", metavar="RUN_ID", help="Run to sign. Default: the latest report.")] = "",
    out: Out = RESULTS,
    yes: Yes = False,
) -> None:
    """Sign the report of a stage.

    A no-go cannot be signed as a go. A report has one signature.
    """
    from drills.rollout.hold import rollouts, signoff, unlock
    from sim.base.clocks import SystemClock

    clock, folder = SystemClock(), _existing(out, rollout)
    person = signoff.Person(owner=owner, role=role, statement=statement)
    with rollouts.journal_of(folder, clock) as journal:
        run = signoff.signable(folder, journal.entries, run_id)
        report = unlock.recorded_report(rollouts.run_dir(folder, run.run_id), run)
        chosen = _decision(decision or report.decision)
        _print(report, rollouts.run_dir(folder, run.run_id))
        _confirm(f"Sign this as {chosen.replace('_', '-')}, {owner} ({role}): {statement}", yes)
        done = signoff.sign(folder, run, person, chosen, journal, clock)
    output.lines(f"signed: {done.decision.replace('_', '-')}, {done.owner} ({done.role}), {done.at}")


@stage_app.command("waive")
def waive(
    rollout: Named,
    check: Annotated[str, typer.Option(metavar="CHECK", help="Check or requirement that did not pass, as in the report.")],
    owner: Owner,
    role: Role,
    statement: Statement,
    out: Out = RESULTS,
    yes: Yes = False,
) -> None:
    """Record that a person accepts a check that did not pass.

    A waiver changes no state and unlocks no stage.
    """
    from drills.rollout.hold import rollouts, signoff
    from sim.base.clocks import SystemClock

    clock, folder = SystemClock(), _existing(out, rollout)
    person = signoff.Person(owner=owner, role=role, statement=statement)
    with rollouts.journal_of(folder, clock) as journal:
        finished = [run for run in rollouts.runs(journal.entries) if run.is_finished]
        if not finished:
            raise UsageError(f"{folder}: there is no report, so there is nothing to waive.")
        _confirm(f"Waive {check}, {owner} ({role}): {statement}", yes)
        signoff.waive(folder, finished[-1], check, person, journal, clock)
    output.lines(f"waived: {check}; the decision does not change")


@stage_app.command("status")
def status(rollout: Named, stages: StagesFile = None, out: Out = RESULTS, as_json: AsJson = False) -> None:
    """Show the state of a rollout and what its next stage needs."""
    from drills.reports.terminal import out as console
    from drills.rollout.hold import rollout_options
    from drills.rollout.hold import status as standing
    from drills.rollout.setup import journal
    from drills.rollout.setup import stages as stage_file
    from sim.base.clocks import SystemClock

    folder = _existing(out, rollout)
    kept = rollout_options.latest(journal.read(folder / journal.NAME)).stages
    rules = stage_file.load(stages or (Path(kept) if kept else stage_file.DEFAULT_PATH))
    found = standing.of(folder, SystemClock().now(), rules)
    if as_json:
        output.json_object(found)
    else:
        standing.show(found, console())


@stage_app.command("judge")
def judge(run_dir: Dir, as_json: AsJson = False, export_operators: ExportOperators = None) -> None:
    """Judge a stage again from its files. Writes nothing there."""
    from drills.reports.terminal import out
    from drills.rollout.report import stage_report
    from drills.rollout.setup import evidence
    from drills.rollout.verdict.judging import judge_stage

    report = judge_stage(run_dir)
    output.prepare_operators(export_operators)
    _export(report, run_dir, export_operators)
    if as_json:
        sys.stdout.write(evidence.encoded(report).decode())
    else:
        stage_report.print_report(report, out())
    raise typer.Exit(stage_report.exit_code(report))


@stage_app.command("verify")
def verify(run_dir: Dir, as_json: AsJson = False) -> None:
    """Check the hashes and the verdict of a stage.

    Works both out again from the files. Exits with 0 if everything matches, else with 4.
    """
    import msgspec

    from drills.rollout.report import verify as verifying

    found = verifying.verify(run_dir)
    if as_json:
        output.json_object({**msgspec.to_builtins(found), "holds": found.holds})
    else:
        output.lines(*found.problems)
        signed = f"signed by {found.signed_by}" if found.signed_by else "not signed"
        holds = f"all {found.files} files are unchanged" if found.holds else f"{len(found.problems)} problems"
        output.lines(f"{found.run_id}: {holds}; {found.decision.replace('_', '-')}, {signed}")
    raise typer.Exit(ExitCode.GO if found.holds else ExitCode.TOOL)


def _asked(
    stage: str, target: str, targets: Path | None, rollout: str, stages: Path | None, thresholds: Path | None, out: Path
) -> "Asked":
    import msgspec

    from drills.judging.checks.thresholds import DEFAULT_PATH
    from drills.rollout.hold import rollout_options, rollouts
    from drills.rollout.hold.stage_plan import Asked
    from drills.rollout.setup import journal
    from drills.rollout.setup import stages as stage_file

    if not target and not rollout and stage != "0":
        raise UsageError("name the rollout (--rollout), or the target (--target) of a rollout with its name.")
    rollout = rollout or ("local" if "://" in target else target or "mock")
    given = rollout_options.Options.given(target, targets, stages, thresholds)
    options = rollout_options.settled(given, journal.read(rollouts.folder_of(out, rollout) / journal.NAME), stage)
    return Asked(
        stage=stage,
        target=options.target or "mock",
        targets=Path(options.targets) if options.targets else None,
        rollout=rollout,
        stages=Path(options.stages) if options.stages else stage_file.DEFAULT_PATH,
        thresholds=Path(options.thresholds) if options.thresholds else DEFAULT_PATH,
        out=out,
        options=msgspec.to_builtins(options),
    )


def _next_stage(target: str, rollout: str, stages: Path | None, out: Path) -> str:
    """The stage that `stage status` names as the next; 0 for a rollout that does not exist yet."""
    from drills.rollout.hold import rollouts
    from drills.rollout.hold import status as standing
    from drills.rollout.setup import journal
    from drills.rollout.setup import stages as stage_file
    from sim.base.clocks import SystemClock

    folder = rollouts.folder_of(out, rollout or ("local" if "://" in target else target or "mock"))
    if not (folder / journal.NAME).exists():
        return stage_file.PREFLIGHT
    rules = stage_file.load(stages or stage_file.DEFAULT_PATH)
    return standing.of(folder, SystemClock().now(), rules).next_stage or stage_file.FULL_ROLLOUT


def _moment(text: str, rules: "Stages") -> "datetime | None":
    """The time that an option gives, in the calendar's zone if it names none; None without one. Raises `UsageError`."""
    from datetime import datetime

    from drills.rollout.setup.calendar import zone_of

    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--from {text}: expected a date and a time, such as 2026-12-01T09:00.") from None
    return found if found.tzinfo else found.replace(tzinfo=zone_of(rules.calendar))


def _require_checked(asked: "Asked") -> None:
    """Do `stage check`, and raise `UsageError` if something will fail.

    A hold that is under way resumes without it: it was checked when it began, it watches the same conditions itself, and each
    second until its next snapshot widens its hole.
    """
    from drills.reports.terminal import err
    from drills.rollout.check import findings, stage_check
    from drills.rollout.hold import rollouts
    from drills.rollout.setup import journal
    from sim.base.clocks import SystemClock

    entries = journal.read(rollouts.folder_of(asked.out, asked.rollout) / journal.NAME)
    if rollouts.under_way(entries, asked.stage) is not None:
        return
    found = stage_check.check(asked, SystemClock())
    if failed := findings.failed(found):
        findings.show(failed, err())
        raise UsageError(
            f"stage {asked.stage} did not begin: {len(failed)} of {len(found)} items will fail. Correct them, or add --anyway."
        )


def _execute(
    asked: "Asked",
    anyway: bool,
    as_json: bool,
    dry_run: bool,
    export_operators: Path | None,
    exports: tuple[int | None, str, float, str],
) -> None:
    """Run or hold a stage, print its report, and exit with its code."""
    from drills.exports.asked import Exports, say
    from drills.rollout.hold import stage_run
    from drills.rollout.report import stage_report, trace
    from sim.base.clocks import SystemClock

    shown = Exports(*exports)
    shown.check()
    if dry_run:
        _show_dry_run(asked)
    if not anyway:
        _require_checked(asked)
    output.prepare_operators(export_operators)
    try:
        with shown.serving("stage", stage=asked.stage, rollout=asked.rollout) as live:
            run_dir, report = stage_run.run(asked, SystemClock(), say, live)
            code = stage_report.exit_code(report)
            if live is not None:
                live.concluded(code, report.decision, report.reason, live.verdict.worst_check)
            shown.trace(lambda: trace.of_stage(run_dir, report))
            _export(report, run_dir, export_operators)
            if as_json:
                output.json_object(report)
            else:
                _print(report, run_dir)
            sys.stdout.flush()
            shown.linger()
    except stage_run.Interrupted as interrupted:
        from drills.rollout.setup.stages import command_for

        _export_interrupted(interrupted.run_dir, export_operators, shown)
        again = f"stormgate stage {command_for(asked.stage)} --rollout {asked.rollout}"
        again += "" if asked.out == RESULTS else f" --out {shlex.quote(str(asked.out))}"
        how = "run it again with" if asked.stage == "0" else "resume it with"
        raise StormgateError(f"stage {asked.stage} was interrupted; {how} `{again}`.") from None
    raise typer.Exit(code)


def _export(report: "StageReport", run_dir: Path, folder: Path | None, *, is_interrupted: bool = False) -> None:
    """Write the operators' forms of a report, if they are asked for."""
    if folder is not None:
        from drills.rollout.report import operators

        operators.of_stage(report, run_dir, folder, is_interrupted=is_interrupted)


def _export_interrupted(run_dir: Path, folder: Path | None, shown: "Exports") -> None:
    """Write and send what was asked for of an interrupted stage, which has a report only if it is the preflight."""
    from drills.rollout.report import trace
    from drills.rollout.setup import evidence
    from drills.rollout.verdict.judging import judge_stage

    if folder is not None or shown.otlp:
        report = evidence.read_report(run_dir) or judge_stage(run_dir)
        shown.trace(lambda: trace.of_stage(run_dir, report))
        _export(report, run_dir, folder, is_interrupted=True)


def _show_dry_run(asked: "Asked") -> None:
    """Show what a stage would do and what of it would fail, and exit."""
    from drills.reports.terminal import out
    from drills.rollout.check import findings, stage_check
    from drills.rollout.hold import stage_plan
    from sim.base.clocks import SystemClock

    found = stage_check.check(asked, SystemClock())
    failed = findings.failed(found)
    try:
        stage_plan.show(asked, out())
    finally:
        findings.show(found, out())
    output.lines(f"{len(failed)} of {len(found)} items will fail" if failed else "nothing will fail")
    output.lines("dry run: nothing was executed")
    raise typer.Exit(ExitCode.INCONCLUSIVE)


def _print(report: "StageReport", run_dir: Path) -> None:
    from drills.reports.terminal import out
    from drills.rollout.report import stage_report

    output.lines(f"stage {report.plan.stage} ({report.plan.title})")
    stage_report.print_report(report, out())
    output.lines(f"evidence: {run_dir}")


def _decision(given: str) -> Literal["go", "no_go"]:
    if given == "go":
        return "go"
    if given in ("no_go", "no-go"):
        return "no_go"
    raise UsageError(f"--decision {given}: expected go or no_go.")


def _existing(out: Path, rollout: str) -> Path:
    from drills.rollout.hold import rollouts
    from drills.rollout.setup.journal import NAME

    folder = rollouts.folder_of(out, rollout)
    if not (folder / NAME).exists():
        raise UsageError(f"{folder}: there is no such rollout; start it with `stormgate stage run 0 --rollout {rollout}`.")
    return folder


def _confirm(what: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for confirmation; add --yes.")
    if not typer.confirm(f"{what}\nContinue?"):
        raise UsageError("it was not confirmed, so nothing was written.")
