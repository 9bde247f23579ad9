"""`stormgate snapshot`: what a target's servers say of themselves, once or every so often, kept as evidence."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drills.cli.options import AsJson, Target, Targets
from sim.base.errors import TargetError, UsageError

if TYPE_CHECKING:
    from drills.rollout.setup.aim import StageTarget
    from drills.rollout.setup.records import Snapshot
    from sim.engines.sockets.service import Endpoints

_MIN_EVERY_S = 1.0  # [ours] oftener, an endpoint that counts in whole seconds would look frozen
_GO, _INCONCLUSIVE = 0, 2


def snapshot(
    target: Target,
    targets: Targets = None,
    every: Annotated[float | None, typer.Option(metavar="S", help="Ask again every so many seconds; needs --for.")] = None,
    seconds: Annotated[float | None, typer.Option("--for", metavar="S", help="For how many seconds; needs --every.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for them; one that has some is gone on with. Without it: a new one in results/snapshots."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a target's metrics endpoint, control service and Prometheus what they say of themselves, and keep it as evidence.

    Exits with 0 if every answer told something, with 2 if one did not, and with 3 if nothing ever answered.
    """
    from tempfile import TemporaryDirectory

    from drills.rollout.setup.aim import aimed
    from drills.runs import results
    from sim.base.clocks import SystemClock

    if (every is None) != (seconds is None):
        raise UsageError("give --every and --for together, or neither for a single snapshot.")
    if every is not None and seconds is not None and not _MIN_EVERY_S <= every <= seconds < float("inf"):
        raise UsageError(f"--every {every:g} --for {seconds:g}: expected at least {_MIN_EVERY_S:g} s, and no more than --for.")
    clock = SystemClock()
    with TemporaryDirectory() as logs, aimed(target, targets, Path(logs) / "runtime.log") as aim:
        folder = out or results.snapshot_folder(Path("results"), clock.now())
        try:
            taken = _sample(aim, folder, every, seconds)
        except KeyboardInterrupt:
            print(f"note: what was taken until then is in {folder}.", file=sys.stderr)
            raise
        _say(taken, aim.endpoints, folder, as_json)
    if not any(each.status is not None for each in taken):
        places = " nor at ".join(dict.fromkeys((aim.endpoints.runtime_url, aim.endpoints.control_url)))
        raise TargetError(f"nothing answers at {places}; start it there, or mend this target's addresses.")
    raise typer.Exit(_GO if all(each.ok for each in taken) else _INCONCLUSIVE)


def _sample(aim: "StageTarget", folder: Path, every: float | None, seconds: float | None) -> "list[Snapshot]":
    """All snapshots of this call; what was taken until then is on disk, however it ends."""
    from datetime import timedelta

    from drills.rollout.servers.sampler import Sampler
    from drills.rollout.servers.snapshots import sources_of
    from sim.base.clocks import SystemClock

    clock, taken = SystemClock(), []
    began = due = clock.now()
    with Sampler(folder, sources_of(aim.endpoints, aim.entry), clock) as sampler:
        while True:
            clock.sleep_until(due)
            taken += (polled := sampler.poll("other"))
            if every is None or seconds is None:
                return taken
            _tell(polled)
            now = clock.now()
            while due <= now:  # a poll that took longer than the interval is no reason to ask twice at once
                due += timedelta(seconds=every)
            if due > began + timedelta(seconds=seconds):
                return taken


def _tell(polled: "list[Snapshot]") -> None:
    said = ", ".join(f"{each.source} {each.outcome}" for each in polled)
    print(f"snapshot {polled[-1].n} at {polled[-1].at}: {said}", file=sys.stderr)


def _say(taken: "list[Snapshot]", endpoints: "Endpoints", folder: Path, as_json: bool) -> None:
    """Tell what there is of each source: the latest answer, and how many of all told something."""
    import msgspec

    from drills.reports.terminal import out

    if as_json:
        answer = {
            "schema": 1,
            "target": endpoints.name,
            "target_kind": endpoints.kind,
            "folder": str(folder),
            "snapshots": taken,
        }
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    console = out()
    latest = {each.source: each for each in taken}
    for source, last in latest.items():
        told = [each.ok for each in taken if each.source == source]
        of_them = f", {sum(told)} of {len(told)} told something" if len(told) > 1 else ""
        console.print(f"{source}: {last.outcome}{of_them} ({_about(last)})", soft_wrap=True)
        for note in last.notes:
            console.print(f"  {note}", soft_wrap=True)
        for name, value in last.figures.items():
            console.print(f"  {name} {value:g}{_meaning(name)}", soft_wrap=True)
        if last.missing:
            console.print(f"  not served: {', '.join(last.missing)}", soft_wrap=True)
    console.print(f"evidence: {folder}", soft_wrap=True)


def _about(snapshot: "Snapshot") -> str:
    revisions = snapshot.revisions.control or snapshot.revisions.runtime
    said = {
        "": snapshot.url,
        "profile": snapshot.profile,
        "revision": revisions,
        "generated": snapshot.generated_at,
        "latency": f"{snapshot.latency_ms:.1f} ms",
        "its clock minus ours": None if snapshot.clock_skew_s is None else f"{snapshot.clock_skew_s:.1f} s",
    }
    return ", ".join(f"{name} {value}".strip() for name, value in said.items() if value)


def _meaning(name: str) -> str:
    from sim.protocols.spacetime.metric_names import MEANINGS, MONITORED

    meaning = MEANINGS.get(name) or MONITORED.get(name)
    return f" ({meaning})" if meaning else ""
