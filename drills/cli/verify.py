"""`stormgate stage verify`, `stormgate stage judge`: a stage's folder worked out again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from drills.cli.options import AsJson

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A stage's folder: results/rollouts/<rollout>/runs/<run id>.")]


def stage_verify(run_dir: Dir, as_json: AsJson = False) -> None:
    """Work out every hash and the verdict again from the evidence; exits with 0 only if all of it holds, else with 4."""
    import msgspec

    from drills.reports.terminal import out
    from drills.rollout.report.verify import verify

    found = verify(run_dir)
    if as_json:
        sys.stdout.write(msgspec.json.encode({**msgspec.to_builtins(found), "holds": found.holds}).decode() + "\n")
    else:
        for trouble in found.troubles:
            out().print(trouble, markup=False, soft_wrap=True)
        signed = f"signed by {found.signed_by}" if found.signed_by else "not signed"
        holds = f"all {found.files} files are as they were" if found.holds else f"{len(found.troubles)} troubles"
        out().print(f"{found.run_id}: {holds}; {found.decision.replace('_', '-')}, {signed}", markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.holds else 4)


def stage_judge(run_dir: Dir, as_json: AsJson = False) -> None:
    """Judge a stage again from its files alone; nothing is written."""
    from drills.reports.terminal import out
    from drills.rollout.report import stage_files, stage_report
    from drills.rollout.verdict.judging import judge_stage

    report = judge_stage(run_dir)
    if as_json:
        sys.stdout.write(stage_files.encoded(report).decode())
    else:
        stage_report.print_report(report, out())
    raise typer.Exit(stage_report.exit_code(report))
