"""`stormgate snapshot`: record the metrics that a target's servers report, once or at intervals, as evidence."""

import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drills.cli import output
from drills.cli.options import RESULTS, AsJson, Target, Targets
from sim.base.errors import TargetError, UsageError
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from drills.rollout.setup.records import Snapshot
    from drills.rollout.setup.stage_target import StageTarget
    from sim.engines.shared.endpoints import Endpoints

SourceName = Literal["metrics", "control", "prometheus"]
_MIN_EVERY_S = 1.0  # [ours] with shorter intervals, an endpoint that counts whole seconds would look frozen


def snapshot(
    target: Target,
    targets: Targets = None,
    every: Annotated[float | None, typer.Option(metavar="SECONDS", help="Interval, at least 1 s. Needs --for.")] = None,
    seconds: Annotated[float | None, typer.Option("--for", metavar="SECONDS", help="Total time. Needs --every.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; existing snapshots are continued. Default: a new one.")
    ] = None,
    source: Annotated[
        SourceName | None,
        typer.Option(
            metavar="SOURCE", help="Ask only this one: metrics, control or prometheus. Default: all that the target has."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record what a target's servers report.

    Asks the metrics endpoint, the control service and Prometheus. Exits with 0 if every answer had data, with 2 if one had
    none, and with 3 if nothing answered.
    """
    from drills.rollout.setup.stage_target import open_target
    from drills.runs import results
    from sim.base.clocks import SystemClock

    if (every is None) != (seconds is None):
        raise UsageError("give --every and --for together, or neither for a single snapshot.")
    if every is not None and seconds is not None and not _MIN_EVERY_S <= every <= seconds < float("inf"):
        raise UsageError(f"--every {every:g} --for {seconds:g}: expected at least {_MIN_EVERY_S:g} s, and no more than --for.")
    with TemporaryDirectory() as logs, open_target(target, targets, Path(logs) / "runtime.log") as found:
        folder = out or results.snapshot_folder(RESULTS, SystemClock().now())
        try:
            taken = _sample(found, folder, source, every, seconds)
        except KeyboardInterrupt:
            print(f"note: the snapshots taken so far are in {folder}.", file=sys.stderr)
            raise
        if as_json:
            output.json_object(_summary(taken, found.endpoints, folder))
        else:
            _print(taken, folder)
    if not any(each.status is not None for each in taken):
        places = " nor at ".join(dict.fromkeys((found.endpoints.runtime_url, found.endpoints.control_url)))
        raise TargetError(f"nothing answers at {places}; start it there, or correct this target's addresses.")
    raise typer.Exit(ExitCode.GO if all(each.ok for each in taken) else ExitCode.INCONCLUSIVE)


def _sample(
    found: "StageTarget", folder: Path, only: str | None, every: float | None, seconds: float | None
) -> "list[Snapshot]":
    """Take all snapshots of this call. Each is on disk before the next one is taken."""
    from drills.rollout.servers.sampler import Sampler, sources_of
    from sim.base.clocks import SystemClock

    clock, taken = SystemClock(), []
    began = due = clock.now()
    sources = [each for each in sources_of(found.endpoints, found.entry) if only in (None, each.name)]
    if not sources:
        raise UsageError(f"--source {only}: target '{found.endpoints.name}' has none; see the targets file.")
    with Sampler(folder, sources, clock) as sampler:
        while True:
            clock.sleep_until(due)
            taken += (polled := sampler.poll("other"))
            if every is None or seconds is None:
                return taken
            outcomes = ", ".join(f"{each.source} {each.outcome}" for each in polled)
            print(f"snapshot {polled[-1].n} at {polled[-1].at}: {outcomes}", file=sys.stderr)
            now = clock.now()
            while due <= now:  # after a poll that took longer than the interval, skip the polls that are overdue
                due += timedelta(seconds=every)
            if due > began + timedelta(seconds=seconds):
                return taken


def _summary(taken: "list[Snapshot]", endpoints: "Endpoints", folder: Path) -> dict[str, object]:
    about = {"target": endpoints.name, "target_kind": endpoints.kind, "folder": str(folder)}
    return {"schema": 1, **about, "snapshots": taken}


def _print(taken: "list[Snapshot]", folder: Path) -> None:
    """Print the latest answer of each source, and how many of its answers had data."""
    for source, last in {each.source: each for each in taken}.items():
        had_data = [each.ok for each in taken if each.source == source]
        share = f", {sum(had_data)} of {len(had_data)} had data" if len(had_data) > 1 else ""
        output.lines(f"{source}: {last.outcome}{share} ({_about(last)})")
        output.lines(*(f"  {note}" for note in last.notes))
        output.lines(*(f"  {name} {value:g}{_meaning(name)}" for name, value in last.metrics.items()))
        if last.missing:
            output.lines(f"  not served: {', '.join(last.missing)}")
    output.lines(f"evidence: {folder}")


def _about(snapshot: "Snapshot") -> str:
    facts = {
        "": snapshot.url,
        "profile": snapshot.profile,
        "revision": snapshot.revisions.control or snapshot.revisions.runtime,
        "generated": snapshot.generated_at,
        "latency": f"{snapshot.latency_ms:.1f} ms",
        "its clock minus ours": None if snapshot.clock_skew_s is None else f"{snapshot.clock_skew_s:.1f} s",
    }
    return ", ".join(f"{name} {value}".strip() for name, value in facts.items() if value)


def _meaning(name: str) -> str:
    from sim.service.metric_names import MEANINGS, MONITORED

    meaning = MEANINGS.get(name) or MONITORED.get(name)
    return f" ({meaning})" if meaning else ""
