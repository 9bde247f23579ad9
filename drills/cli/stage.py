"""`stormgate stage ...`: run stage 0, hold the others, sign them, and see where a rollout stands."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drills.cli.options import AsJson, Target, Targets
from sim.base.errors import StormgateError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from drills.rollout.hold.stage_run import Asked
    from drills.rollout.setup.records import StageReport

_EXIT_INCONCLUSIVE = 2

stage_app = typer.Typer(help="A rollout, stage by stage: preflight, holds, signatures.", no_args_is_help=True)

Rollout = Annotated[str, typer.Option(help="The rollout's name; without it, the target's.")]
StagesFile = Annotated[Path | None, typer.Option("--stages", help="Another file of stages than the one that ships.")]
Thresholds = Annotated[Path | None, typer.Option(help="Judge by this file instead of the default thresholds.")]
Out = Annotated[Path, typer.Option(help="Folder that rollouts are kept in.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing (exits with 2).")]
Owner = Annotated[str, typer.Option(help="Who signs.")]
Role = Annotated[str, typer.Option(help="What they are responsible for.")]
Statement = Annotated[str, typer.Option(help="What they say.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")]


@stage_app.command("run")
def run(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="0, the preflight; the others are held.")],
    target: Target = "mock",
    targets: Targets = None,
    rollout: Rollout = "",
    stages: StagesFile = None,
    thresholds: Thresholds = None,
    out: Out = Path("results"),
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Run the preflight: preconditions, verification commands, baseline, every drill, rollback rehearsal; and report."""
    if stage != "0":
        raise UsageError(f"stage {stage} is held, not run: stormgate stage hold {stage}.")
    _run(_asked(stage, target, targets, rollout, stages, thresholds, out), as_json, dry_run)


@stage_app.command("hold")
def hold(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of the stages file, such as 1 or 3a.")],
    target: Target,
    targets: Targets = None,
    rollout: Rollout = "",
    stages: StagesFile = None,
    thresholds: Thresholds = None,
    out: Out = Path("results"),
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Hold a stage for as long as it must be, or go on with a hold that was interrupted; and report."""
    if stage == "0":
        raise UsageError("stage 0 is run, not held: stormgate stage run 0.")
    _run(_asked(stage, target, targets, rollout, stages, thresholds, out), as_json, dry_run)


@stage_app.command("sign")
def sign(
    rollout: Rollout,
    owner: Owner,
    role: Role,
    statement: Statement,
    decision: Annotated[str, typer.Option(help="go or no_go; without it, what the report says.")] = "",
    run_id: Annotated[str, typer.Option("--run", help="The run to sign; without it, the latest with a report.")] = "",
    out: Out = Path("results"),
    yes: Yes = False,
) -> None:
    """Sign the latest report. A no-go cannot be signed as a go, and a report has one signature."""
    from drills.rollout.hold import opening, rollouts, signoff
    from sim.base.clocks import SystemClock

    clock, folder = SystemClock(), _existing(out, rollout)
    person = signoff.Person(owner=owner, role=role, statement=statement)
    with rollouts.journal_of(folder, clock) as journal:
        run = signoff.signable(folder, journal.entries, run_id)
        report = opening.told_report(rollouts.run_dir(folder, run.run_id), run)
        chosen = _decision(decision or report.decision)
        _show(report, rollouts.run_dir(folder, run.run_id))
        _confirm(f"Sign this as {chosen.replace('_', '-')}, {owner} ({role}): {statement}", yes)
        done = signoff.sign(folder, run, person, chosen, journal, clock)
    _out().print(
        f"signed: {done.decision.replace('_', '-')}, {done.owner} ({done.role}), {done.at}", markup=False, soft_wrap=True
    )


@stage_app.command("waive")
def waive(
    rollout: Rollout,
    check: Annotated[str, typer.Option(help="What did not pass, as the report names it.")],
    owner: Owner,
    role: Role,
    statement: Statement,
    out: Out = Path("results"),
    yes: Yes = False,
) -> None:
    """Say that somebody has seen what a check says and lives with it. It changes no state, and opens no stage."""
    from drills.rollout.hold import rollouts, signoff
    from sim.base.clocks import SystemClock

    clock, folder = SystemClock(), _existing(out, rollout)
    person = signoff.Person(owner=owner, role=role, statement=statement)
    with rollouts.journal_of(folder, clock) as journal:
        found = [run for run in rollouts.runs(journal.entries) if run.is_finished]
        if not found:
            raise UsageError(f"{folder}: there is no report to waive anything of.")
        _confirm(f"Waive {check}, {owner} ({role}): {statement}", yes)
        signoff.waive(folder, found[-1], check, person, journal, clock)
    _out().print(f"waived: {check}; the decision stays what it is", markup=False, soft_wrap=True)


@stage_app.command("status")
def status(
    rollout: Rollout,
    stages: StagesFile = None,
    out: Out = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Show where a rollout stands, what its next stage waits for, and when a hold could end."""
    import msgspec

    from drills.rollout.hold import status as standing
    from drills.rollout.setup import stages as stage_file
    from sim.base.clocks import SystemClock

    rules = stage_file.load(stages or stage_file.DEFAULT_PATH)
    found = standing.of(_existing(out, rollout), SystemClock().now(), rules)
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        standing.show(found, _out())


def _asked(
    stage: str, target: str, targets: Path | None, rollout: str, stages: Path | None, thresholds: Path | None, out: Path
) -> "Asked":
    from drills.judging.checks.thresholds import DEFAULT_PATH
    from drills.rollout.hold.stage_run import Asked
    from drills.rollout.setup import stages as stage_file

    return Asked(
        stage=stage,
        target=target,
        targets=targets,
        rollout=rollout or ("local" if "://" in target else target),
        stages=stages or stage_file.DEFAULT_PATH,
        thresholds=thresholds or DEFAULT_PATH,
        out=out,
    )


def _run(asked: "Asked", as_json: bool, dry_run: bool) -> None:
    import msgspec

    from drills.reports.terminal import err
    from drills.rollout.hold import dry_run as stage_words
    from drills.rollout.hold import stage_run
    from drills.rollout.report import stage_report
    from sim.base.clocks import SystemClock

    if dry_run:
        stage_words.show(asked, _out())
        raise typer.Exit(_EXIT_INCONCLUSIVE)

    def say(text: str) -> None:
        err().print(text, markup=False, soft_wrap=True)

    try:
        run_dir, report = stage_run.run(asked, SystemClock(), say)
    except KeyboardInterrupt:
        again = f"stormgate stage {'run' if asked.stage == '0' else 'hold'} {asked.stage} --rollout {asked.rollout}"
        how = "run it again with" if asked.stage == "0" else "what was seen is kept; go on with"
        raise StormgateError(f"stage {asked.stage} was interrupted; {how} `{again} --target {asked.target}`.") from None
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _show(report, run_dir)
    raise typer.Exit(stage_report.exit_code(report))


def _show(report: "StageReport", run_dir: Path) -> None:
    from drills.rollout.report import stage_report

    plan = report.plan
    _out().print(f"stage {plan.stage} ({plan.title})", markup=False, soft_wrap=True)
    stage_report.print_report(report, _out())
    _out().print(f"evidence: {run_dir}", markup=False, soft_wrap=True)


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
        raise UsageError(f"{folder}: there is no such rollout; `stormgate stage run 0 --rollout {rollout}` begins one.")
    return folder


def _confirm(what: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask whether this is meant; add --yes.")
    if not typer.confirm(f"{what}\nIs this meant?"):
        raise UsageError("it was not signed.")


def _out() -> "Console":
    from drills.reports.terminal import out

    return out()
