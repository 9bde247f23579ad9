"""`stormgate plan`: sweeps and searches in simulation, for who has to know how large a lane must be.

Exit codes as everywhere: 0 there is an answer, 1 nothing within the bounds will do, 2 cannot tell, 3 usage, 4 cut short.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drills.cli.options import AsJson, Target, Targets

if TYPE_CHECKING:
    from drills.planning.search import Searched
    from drills.planning.sweeps import Execute, Swept
    from sim.calibration.agreement import Fit

_INCONCLUSIVE = 2

plan_app = typer.Typer(help="Sweep a drill over fleets, models and policies, in simulation.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="What to sweep: a .toml file, see drills/examples/plans.")]
Out = Annotated[Path, typer.Option(help="Folder that results are written to, below plans/.")]
Thresholds = Annotated[Path | None, typer.Option(help="Judge by this file instead of the default thresholds.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes to simulate in, instead of one a core.")]

Scheduler = Annotated[str | None, typer.Option(help="Simulate on a dask cluster: its scheduler's address, tcp://HOST:PORT.")]


@plan_app.command("sweep")
def plan_sweep(
    file: File,
    out: Out = Path("results"),
    thresholds: Thresholds = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the points, and simulate nothing (exits with 2).")] = False,
) -> None:
    """Run a drill at every point of a design, under the same seeds; a sweep that was cut short goes on where it was."""
    from drills.planning import report as plan_report
    from drills.planning import sweeps
    from drills.planning.gates import Gates
    from sim.planning import designs

    plan = sweeps.load(file)
    if dry_run:
        _show_points(designs.points(plan), plan.sweep.replications, as_json)
        raise typer.Exit(_INCONCLUSIVE)
    swept = sweeps.sweep(plan, out, _execute(plan.sweep.name, workers, scheduler), Gates(thresholds))
    plan_report.write(swept)
    _say_swept(swept, as_json)


def _execute(name: str, workers: int | None, scheduler: str | None) -> "Execute":
    from drills.planning import sweeps

    return sweeps.on_cluster(name, scheduler) if scheduler else sweeps.on_all_cores(name, workers)


def _show_points(points: Any, replications: int, as_json: bool) -> None:
    from drills.reports.terminal import out

    if as_json:
        _json({"dry_run": True, "replications": replications, "points": [dict(point.values) for point in points]})
        return
    for point in points:
        out().print(", ".join(f"{key} = {value}" for key, value in point.values.items()), soft_wrap=True, markup=False)
    out().print(f"{len(points)} points, {replications} replications each; dry run: nothing was simulated")


def _say_swept(swept: "Swept", as_json: bool) -> None:
    """Print a sweep; one without any measures can tell nothing."""
    from drills.planning import report as plan_report

    if as_json:
        _json({"name": swept.plan.sweep.name, "folder": str(swept.folder), "points": [_point(swept, p) for p in swept.points]})
    else:
        heads, body = plan_report.lines(swept, brief=True)
        _print(heads, body, f"{swept.plan.sweep.question}\ntables and figures: {swept.folder} (± is half of the 95 % interval)")
    if not any(row.metrics for rows in swept.rows.values() for row in rows):
        raise typer.Exit(_INCONCLUSIVE)


def _say_searched(searched: "Searched", as_json: bool) -> None:
    """Print a search's answer, and leave with what it says."""
    from drills.planning import search

    if as_json:
        _json({**search.summary(searched), "folder": str(searched.folder)})
    else:
        heads = [searched.find.key, "gates", "replications", "why"]
        said = f"{searched.sentence}\n{searched.confidence}\ntables and figures: {searched.folder}"
        _print(heads, search.lines(searched), said)
    raise typer.Exit({"green": 0, "red": 1}.get(searched.found.word, _INCONCLUSIVE))


def _print(heads: list[str], body: list[list[str]], said: str) -> None:
    from rich.table import Column, Table

    from drills.reports.terminal import out

    table = Table(*(Column(head.replace(".", ".\n"), overflow="fold", no_wrap=head == "gates") for head in heads))
    for line in body:
        table.add_row(*line)
    out().print(table)
    out().print(said, soft_wrap=True, markup=False)


def _point(swept: "Swept", point: Any) -> dict[str, Any]:
    """One point for programs: no number in it is infinite or NaN, those are null."""
    table = swept.table
    rows = table[table["point"] == point.number]
    verdict = swept.verdicts[point.number]
    columns = ("n", "missing", "mean", "lower", "upper")
    return {
        "values": dict(point.values),
        "gates": str(verdict.status),
        "checks": {check.name: str(check.state) for check in verdict.checks},
        "metrics": {
            row["measure"]: {"unit": row["unit"]} | {key: _finite(float(row[key])) for key in columns}
            for _, row in rows.iterrows()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json(body: dict[str, Any]) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(body).decode() + "\n")


@plan_app.command("find")
def plan_find(
    file: File,
    out: Out = Path("results"),
    thresholds: Thresholds = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Look for the largest, smallest or best value of the file's [find] at which the gates stay green."""
    from drills.planning import report as plan_report
    from drills.planning import search, sweeps
    from drills.planning.gates import Gates

    plan = sweeps.load(file)
    searched = search.find(plan, out, _execute(plan.sweep.name, workers, scheduler), Gates(thresholds))
    plan_report.write(searched)
    _say_searched(searched, as_json)


@plan_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A complete sweep or search: its folder below results/plans.")],
    as_json: AsJson = False,
) -> None:
    """Write the summary and the figures of a sweep or search again, from what was kept, and simulate nothing."""
    from drills.planning import report as plan_report
    from drills.planning.sweeps import Swept

    done = plan_report.again(folder)
    if isinstance(done, Swept):
        _say_swept(done, as_json)
    else:
        _say_searched(done, as_json)


@plan_app.command("calibrate")
def plan_calibrate(
    target: Target = "mock",
    targets: Targets = None,
    out: Annotated[Path | None, typer.Option(help="File to write; without it results/calibrations/<target>.toml.")] = None,
    rounds: Annotated[int, typer.Option(min=2, max=50, help="How often each probe is repeated.")] = 3,
    clients: Annotated[int, typer.Option(min=20, help="Clients that return at once; fleets have up to twice as many.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the first round.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure a target on this machine by small drills, and fit a system model to it (a few minutes)."""
    import msgspec

    from drills.planning import calibrating
    from drills.reports.terminal import Progress
    from drills.runs import predictions
    from sim.calibration.probes import Sizes

    sizes = Sizes(rounds=rounds, large_burst=clients, small_burst=max(clients * 3 // 8, 10), mint_clients=max(clients // 2, 10))
    with Progress(f"calibrating {target}") as progress:
        fit, about = calibrating.calibrate(target, targets, sizes, seed, lambda what: progress("measuring", what))
    path = out or predictions.calibration_path(Path("results"), target)
    calibrating.write(path, fit, about)
    if as_json:
        _json({"file": str(path), "model": msgspec.to_builtins(fit.model), "calibration": msgspec.to_builtins(about)})
        return
    _say_fit(fit, path)


def _say_fit(fit: "Fit", path: Path) -> None:
    from rich.table import Table

    from drills.planning import calibrating
    from drills.reports.terminal import out

    numbers, told = calibrating.lines(fit)
    table = Table("number", "value", "95 % interval", "found as")
    for line in numbers:
        table.add_row(*line)
    beside = Table("probe", "measure", "measured", "simulated", "error")
    for line in told:
        beside.add_row(*line)
    out().print(table)
    out().print(beside)
    out().print(f"model: {path}", soft_wrap=True, markup=False)
