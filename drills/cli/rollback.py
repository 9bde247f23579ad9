"""`stormgate rollback`: rehearse the rollback before it is needed."""

import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drills.cli import output
from drills.cli.options import RESULTS, AsJson, DryRun, Out, Target, Targets
from sim.base.errors import StormgateError, TargetError, UsageError
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from drills.rollout.setup.records import Rollback
    from drills.rollout.setup.stage_target import StageTarget
    from sim.base.clocks import Clock

rollback_app = typer.Typer(help="Rehearse the rollback.", no_args_is_help=True)
_SHOWN = ("control", "runtime", "publishes", "connects", "taken", "in_cohort", "keys")  # in the table
_LOG = "runtime.log"  # of an embedded mock


@rollback_app.callback()
def _group() -> None:
    """Rehearse the rollback."""


@rollback_app.command("rehearse")
def rehearse(
    target: Target = "mock",
    targets: Targets = None,
    rollout: Annotated[str, typer.Option(metavar="NAME", help="Rollout to keep the rehearsal with. Default: none.")] = "",
    out: Out = RESULTS,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Roll back, measure the recovery, and restore everything.

    The steps: traffic to the last known good revisions, the throttle, the client cohort, recovery. An observation must confirm
    each of them. On a target the steps are the operators' own commands, from [targets.NAME.rollback].
    """
    from drills.judging.checks.verdicts import State, exit_code
    from drills.rollout.rollback import rehearsal
    from drills.rollout.setup import stage_target
    from drills.runs.targets import DEFAULT_FILE
    from sim.base.clocks import SystemClock

    clock = SystemClock()
    folder = _new_folder(out, rollout, clock)
    try:
        with stage_target.open_target(target, targets, folder / _LOG) as found:
            will_fail = _will_fail(found, str(targets or DEFAULT_FILE), clock) if dry_run else False
            done = rehearsal.rehearse(found.endpoints, found.entry, folder, clock, dry_run=dry_run)
    except (UsageError, TargetError):  # nothing has started
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        raise StormgateError(_interrupted(folder)) from None
    if as_json:
        output.json_object(done)
    else:
        _print(done, folder)
    raise typer.Exit(ExitCode.USAGE if will_fail else exit_code(State(done.state)))


def _will_fail(target: "StageTarget", file: str, clock: "Clock") -> bool:
    """Ask the services what a rehearsal needs of them, and print on stderr what will fail."""
    from drills.reports.terminal import err
    from drills.rollout.check import findings, service

    failed = findings.failed(service.before_rollback(target, file, clock))
    if failed:
        findings.show(failed, err())
    return bool(failed)


def _new_folder(out: Path, rollout: str, clock: "Clock") -> Path:
    """The folder of a new rehearsal. Raises `UsageError` and `StorageError`."""
    from drills.rollout.hold import rollouts

    run_id = f"{clock.now():%Y%m%dT%H%M%SZ}-rollback-{secrets.token_hex(2)}"
    return output.new_folder(rollouts.run_dir(rollouts.folder_of(out, rollout), run_id) if rollout else out / run_id)


def _interrupted(folder: Path) -> str:
    """Say what an interrupted rehearsal left behind."""
    from drills.rollout.setup import records
    from sim.base import atomic_files

    path = folder / records.ROLLBACK
    if not path.exists():
        return "the rehearsal was interrupted before it changed anything."
    steps = atomic_files.read_struct(path, records.Rollback).steps
    if left := [step.name for step in steps if step.restored is False]:
        return f"the rehearsal was interrupted, and {', '.join(left)} IS NOT RESTORED; how to do it by hand is in {path}."
    return f"the rehearsal was interrupted; everything that it had changed is restored. The record is {path}."


def _print(done: "Rollback", folder: Path) -> None:
    restored = {True: "yes", False: "NO", None: "-"}
    output.table(
        ("step", "state", "before", "after", "restored"),
        (
            (f"{step.n} {step.name}", step.state, _facts(step.before), _facts(step.after), restored[step.restored])
            for step in done.steps
        ),
    )
    for step in done.steps:
        why = f"observed: {step.verified_by}" if step.state == "pass" else step.reason
        output.sentences(f"{step.n} {step.name}: {why}")
    output.sentences(f"{done.state}: {done.reason}")
    if done.target_kind == "mock":
        output.lines("The target was a mock, so this says nothing about a deployed runtime.")
    output.lines(f"evidence: {folder}")


def _facts(facts: dict[str, str]) -> str:
    return "\n".join(f"{name} {facts[name]}" for name in _SHOWN if facts.get(name)) or "-"
