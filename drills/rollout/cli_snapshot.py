"""`stormgate snapshot`: what a target's servers say of themselves, once or every so often, kept as evidence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.errors import TargetError, UsageError

if TYPE_CHECKING:
    from drills.rollout.records import Snapshot
    from drills.target_file import Target
    from sim.engines.lane_http import Lane

_LEAST_EVERY_S = 1.0  # [ours] oftener, an endpoint that counts in whole seconds would look frozen
_GO, _CANNOT_TELL = 0, 2


def snapshot(
    target: Annotated[str, typer.Option(help="'mock' starts one; or an address on this machine; or a live target's name.")],
    targets: Annotated[Path | None, typer.Option(help="File of live targets; without it, targets.toml in this folder.")] = None,
    every: Annotated[float | None, typer.Option(metavar="S", help="Ask again every so many seconds; needs --for.")] = None,
    seconds: Annotated[float | None, typer.Option("--for", metavar="S", help="For how many seconds; needs --every.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for them; one that has some is gone on with. Without it: a new one in results/snapshots."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")] = False,
) -> None:
    """Ask a target's metrics endpoint, control service and Prometheus what they say of themselves, and keep it as evidence.

    Exits with 0 if every answer told something, with 2 if one did not, and with 3 if nothing ever answered.
    """
    from drills import results
    from drills.rollout.clock import SystemClock

    if (every is None) != (seconds is None):
        raise UsageError("give --every and --for together, or neither for a single snapshot.")
    if every is not None and seconds is not None and not _LEAST_EVERY_S <= every <= seconds < float("inf"):
        raise UsageError(
            f"--every {every:g} --for {seconds:g}: expected at least {_LEAST_EVERY_S:g} s, and no more than --for."
        )
    clock = SystemClock()
    with _lane(target, targets) as (lane, entry):
        folder = out or results.snapshot_folder(Path("results"), clock.now())
        try:
            taken = _sample(lane, entry, folder, every, seconds)
        except KeyboardInterrupt:
            print(f"note: what was taken until then is in {folder}.", file=sys.stderr)
            raise
        _say(taken, lane, folder, as_json)
    if not any(each.status is not None for each in taken):
        raise TargetError(f"nothing answers at {lane.runtime_url}, nor at {lane.control_url}; is this target's address right?")
    raise typer.Exit(_GO if all(each.ok for each in taken) else _CANNOT_TELL)


def _sample(lane: "Lane", entry: "Target | None", folder: Path, every: float | None, seconds: float | None) -> "list[Snapshot]":
    """All snapshots of this call; what was taken until then is on disk, however it ends."""
    from datetime import timedelta

    from drills.rollout.clock import SystemClock
    from drills.rollout.sampler import Sampler
    from drills.rollout.snapshots import sources_of

    clock, taken = SystemClock(), []
    began = due = clock.now()
    with Sampler(folder, sources_of(lane, entry), clock) as sampler:
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


@contextmanager
def _lane(target: str, targets: Path | None) -> "Iterator[tuple[Lane, Target | None]]":
    """The lane that `--target` names; `mock` starts one, for as long as it is needed."""
    import asyncio
    from tempfile import TemporaryDirectory

    from drills import target_file
    from drills.targets import DEFAULT_FILE, EMBEDDED, resolve
    from sim.contract.settings import RuntimeSettings, Switches
    from sim.engines.lane_http import Lane
    from sim.mock.process import MockProcess
    from sim.mock.server import ServeOptions, admin_token

    lane = resolve(target, targets)
    if lane is not None:
        yield lane, None if "://" in target else target_file.read(targets or DEFAULT_FILE, target)
        return
    with asyncio.Runner() as runner, TemporaryDirectory() as log:
        process = MockProcess(ServeOptions(RuntimeSettings(), Switches()), Path(log))
        try:
            runner.run(process.start())
            yield Lane(f"embedded {EMBEDDED}", "mock", process.url, process.url, admin_token=admin_token()), None
        finally:
            runner.run(process.stop())


def _say(taken: "list[Snapshot]", lane: "Lane", folder: Path, as_json: bool) -> None:
    """Tell what there is of each source: the latest answer, and how many of all told something."""
    import msgspec

    from drills.terminal import out

    if as_json:
        answer = {"schema": 1, "target": lane.name, "target_kind": lane.kind, "folder": str(folder), "snapshots": taken}
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
    from sim.contract.endpoint import MEANINGS, MONITORED

    meaning = MEANINGS.get(name) or MONITORED.get(name)
    return f" ({meaning})" if meaning else ""
