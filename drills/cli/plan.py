"""`stormgate plan`: plan capacity by sweeps and searches over simulated drills, and fit a system model to a target."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drills.cli import output
from drills.cli.options import RESULTS, AsJson, Out, Target, Targets, Thresholds
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from drills.planning.search import Searched
    from drills.planning.sweeps import Execute, Swept
    from sim.calibration.agreement import Fit


plan_app = typer.Typer(
    help="""Plan capacity by simulation.

    Exit codes: 0 an answer, 1 no value within the bounds is good enough, 2 inconclusive, 3 wrong usage, 4 interrupted.""",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file, such as those in drills/examples/plans.")]
Workers = Annotated[int | None, typer.Option(metavar="N", min=1, help="Processes, at least 1. Default: one per core.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a dask cluster to simulate on, such as tcp://HOST:PORT.")
]


@plan_app.command("sweep")
def plan_sweep(
    file: File,
    out: Out = RESULTS,
    thresholds: Thresholds = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the points and exit with 2.")] = False,
) -> None:
    """Simulate a drill at every point of a design. Resumes an interrupted sweep."""
    from drills.planning import report as plan_report
    from drills.planning import sweeps
    from drills.planning.gates import Gates
    from sim.planning import designs

    plan = sweeps.load(file)
    if dry_run:
        _print_points(designs.points(plan), plan.sweep.replications, as_json)
        raise typer.Exit(ExitCode.INCONCLUSIVE)
    swept = sweeps.sweep(plan, out, _execute(plan.sweep.name, workers, scheduler), Gates(thresholds))
    plan_report.write(swept)
    _print_swept(swept, as_json)


@plan_app.command("find")
def plan_find(
    file: File,
    out: Out = RESULTS,
    thresholds: Thresholds = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Find the best value at which the gates pass.

    The table [find] of the file says which key to vary, between which bounds, and whether to find the largest, the smallest or
    the best value.
    """
    from drills.planning import report as plan_report
    from drills.planning import search, sweeps
    from drills.planning.gates import Gates

    plan = sweeps.load(file)
    searched = search.find(plan, out, _execute(plan.sweep.name, workers, scheduler), Gates(thresholds))
    plan_report.write(searched)
    _print_searched(searched, as_json)


@plan_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a complete sweep or search in results/plans.")],
    as_json: AsJson = False,
) -> None:
    """Write the report of a sweep or search again.

    Reads what its folder keeps and simulates nothing.
    """
    from drills.planning import report as plan_report
    from drills.planning.sweeps import Swept

    done = plan_report.again(folder)
    if isinstance(done, Swept):
        _print_swept(done, as_json)
    else:
        _print_searched(done, as_json)


@plan_app.command("calibrate")
def plan_calibrate(
    target: Target = "mock",
    targets: Targets = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model file to write. Default: results/calibrations/<target>.toml.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=2, max=50, help="Repetitions of each calibration drill, 2 to 50.")
    ] = 3,
    clients: Annotated[
        int,
        typer.Option(metavar="N", min=20, help="Clients that reconnect at once, at least 20. Drills have up to twice as many."),
    ] = 400,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the first round.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Fit a system model to a target on this machine.

    Measures the target with small drills. Takes a few minutes.
    """
    import msgspec

    from drills.planning import calibrating
    from drills.reports.terminal import Progress
    from drills.runs import predictions
    from sim.calibration import files
    from sim.calibration.drills import Sizes

    sizes = Sizes(rounds=rounds, large_burst=clients, small_burst=max(clients * 3 // 8, 10), mint_clients=max(clients // 2, 10))
    with Progress(f"calibrating {target}") as progress:
        fit, about = calibrating.calibrate(target, targets, sizes, seed, lambda what: progress("measuring", what))
    path = out or predictions.calibration_path(RESULTS, target)
    files.write(path, fit, about)
    if as_json:
        about_fit = {"model": msgspec.to_builtins(fit.model), "calibration": msgspec.to_builtins(about)}
        output.json_object({"file": str(path), **about_fit})
    else:
        _print_fit(fit, path)


def _execute(name: str, workers: int | None, scheduler: str | None) -> "Execute":
    from drills.planning import sweeps

    return sweeps.on_cluster(name, scheduler) if scheduler else sweeps.on_all_cores(name, workers)


def _print_points(points: Any, replications: int, as_json: bool) -> None:
    if as_json:
        values = [dict(point.values) for point in points]
        output.json_object({"dry_run": True, "replications": replications, "points": values})
        return
    output.lines(*(", ".join(f"{key} = {value}" for key, value in point.values.items()) for point in points))
    output.lines(f"{len(points)} points, {replications} replications each; dry run: nothing was simulated")


def _print_swept(swept: "Swept", as_json: bool) -> None:
    """Print a sweep. A sweep without any metric is inconclusive."""
    from drills.planning import report as plan_report

    if as_json:
        points = [_point(swept, point) for point in swept.points]
        said = {"in_words": dataclasses.asdict(plan_report.answer(swept))}
        output.json_object({"name": swept.plan.sweep.name, "folder": str(swept.folder), **said, "points": points})
    else:
        heads, body = plan_report.lines(swept, brief=True)
        where = f"tables and figures: {swept.folder} (± is half of the 95 % interval)"
        _print_table(heads, body, swept.plan.sweep.question, *plan_report.answer(swept).paragraphs, where)
    if not any(row.metrics for rows in swept.rows.values() for row in rows):
        raise typer.Exit(ExitCode.INCONCLUSIVE)


def _print_searched(searched: "Searched", as_json: bool) -> None:
    """Print the answer of a search and exit with its code."""
    from drills.planning import report as plan_report
    from drills.planning import search

    if as_json:
        said = dataclasses.asdict(plan_report.answer(searched))
        output.json_object({**search.summary(searched), "in_words": said, "folder": str(searched.folder)})
    else:
        heads = [searched.find.key, "gates", "replications", "why"]
        where = f"tables and figures: {searched.folder}"
        _print_table(heads, search.lines(searched), *plan_report.answer(searched).paragraphs, where)
    raise typer.Exit({"green": ExitCode.GO, "red": ExitCode.NO_GO}.get(searched.found.outcome, ExitCode.INCONCLUSIVE))


def _print_table(heads: list[str], body: list[list[str]], *sentences: str) -> None:
    from rich.table import Column

    output.table([Column(head.replace(".", ".\n"), overflow="fold", no_wrap=head == "gates") for head in heads], body)
    output.lines(*sentences)


def _point(swept: "Swept", point: Any) -> dict[str, Any]:
    """One point as JSON values. Infinity and NaN become null."""
    table = swept.table
    rows = table[table["point"] == point.number]
    verdict = swept.verdicts[point.number]
    columns = ("n", "missing", "mean", "lower", "upper")
    return {
        "values": dict(point.values),
        "gates": str(verdict.status),
        "checks": {check.name: str(check.state) for check in verdict.checks},
        "metrics": {
            row["metric"]: {"unit": row["unit"]} | {key: _finite(float(row[key])) for key in columns}
            for _, row in rows.iterrows()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_fit(fit: "Fit", path: Path) -> None:
    from drills.planning import calibrating

    numbers, compared = calibrating.lines(fit)
    output.table(("number", "value", "95 % interval", "found as"), numbers)
    output.table(("calibration drill", "metric", "measured", "simulated", "error"), compared)
    output.lines(f"model: {path}")
