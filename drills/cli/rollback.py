"""`stormgate rollback`: rehearsing the way back before it is needed. Heavy imports are inside the command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from drills.rollout.setup.records import Rollback
    from sim.base.clocks import Clock

rollback_app = typer.Typer(help="Rehearse the rollback.", no_args_is_help=True)
_EXIT_CODES = {"pass": 0, "fail": 1, "error": 4, "not_run": 2}
_SHOWN = ("control", "runtime", "publishes", "connects", "taken", "in_cohort", "keys")  # in the table
_LOG = "runtime.log"  # of an embedded mock


@rollback_app.callback()
def _group() -> None:
    """Rehearse the rollback."""


@rollback_app.command("rehearse")
def rehearse(
    target: Annotated[
        str, typer.Option(help="'mock' starts one; or an address on this machine; or a live target's name.")
    ] = "mock",
    targets: Annotated[Path | None, typer.Option(help="File of live targets; without it, targets.toml in this folder.")] = None,
    rollout: Annotated[str | None, typer.Option(help="Name of the rollout that the rehearsal is kept with.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that runs are written to.")] = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing (exits with 2).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")] = False,
) -> None:
    """Roll back, see each step act, measure the time to recover, and put everything back.

    Traffic to the last known good revisions, then the throttle, then the client cohort alone, then recovery: each step must be
    seen from outside, whatever its command says. On a target the commands are the operators' own ([targets.NAME.rollback]).
    """
    import shutil

    from drills.rollout.rollback import rehearsal
    from drills.rollout.setup import aim
    from sim.base.clocks import SystemClock
    from sim.base.errors import TargetError, UsageError

    clock = SystemClock()
    folder = _new_folder(out, rollout, clock)
    try:
        with aim.aimed(target, targets, folder / _LOG) as found:
            done = rehearsal.rehearse(found.endpoints, found.entry, folder, clock, dry_run=dry_run)
    except (UsageError, TargetError):  # nothing was begun
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _say(done, folder, as_json)
    raise typer.Exit(_EXIT_CODES[done.state])


def _new_folder(out: Path, rollout: str | None, clock: "Clock") -> Path:
    """The folder of a new rehearsal. Raises `UsageError` and `StorageError`."""
    import secrets

    from drills.rollout.hold import rollouts
    from sim.base.errors import StorageError

    run_id = f"{clock.now():%Y%m%dT%H%M%SZ}-rollback-{secrets.token_hex(2)}"
    folder = rollouts.run_dir(rollouts.folder_of(out, rollout), run_id) if rollout else out / run_id
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); give another folder with --out.") from None
    return folder


def _say(done: "Rollback", folder: Path, as_json: bool) -> None:
    """One object on stdout, or a table and the verdict."""
    import msgspec
    from rich.table import Table

    from drills.reports.terminal import out

    if as_json:
        sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
        return
    table = Table("step", "state", "before", "after", "put back")
    for step in done.steps:
        restored = {True: "yes", False: "NO", None: "-"}[step.restored]
        table.add_row(f"{step.n} {step.name}", step.state, _facts(step.before), _facts(step.after), restored)
    console = out()
    console.print(table)
    for step in done.steps:
        seen = f"seen: {step.verified_by}" if step.state == "pass" else step.reason
        console.print(f"{step.n} {step.name}: {seen}", soft_wrap=True, markup=False)
    console.print(f"{done.state}: {done.reason}", soft_wrap=True, markup=False)
    if done.target_kind == "mock":
        console.print("The target was a mock, so this says nothing about a deployed runtime.", soft_wrap=True)
    console.print(f"evidence: {folder}", soft_wrap=True)


def _facts(facts: dict[str, str]) -> str:
    return "\n".join(f"{name} {facts[name]}" for name in _SHOWN if facts.get(name)) or "-"
