"""`stormgate drill`, `judge` and `compare`: list, show and run drills, judge a run again, and compare runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from drills.cli import output
from drills.cli.options import (
    LOOPBACK,
    RESULTS,
    AsJson,
    Defect,
    DryRun,
    ExportOperators,
    Junit,
    MetricsHost,
    MetricsLinger,
    MetricsPort,
    OtlpEndpoint,
    Out,
    Protocol,
    Set,
    Target,
    Targets,
    Thresholds,
)
from drills.runs import catalog
from sim.base.errors import UsageError
from sim.base.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drills.judging.checks.verdicts import RunVerdict
    from drills.runs.request import Request
    from sim.drill.model import Drill


drill_app = typer.Typer(help="List, show and run drills.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A drill of the catalogue or an example, or a .toml file.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Drills of the catalogue, or .toml files.")]
Engine = Annotated[
    str | None,
    typer.Option(metavar="ENGINE", help="sockets (real connections), virtual (simulated time) or fleet. Default: sockets."),
]
Model = Annotated[Path | None, typer.Option(metavar="FILE", help="System model for simulations and --predict.")]
Predict = Annotated[bool, typer.Option("--predict", help="Predict each drill with a model fitted to the target.")]
Replications = Annotated[int, typer.Option(metavar="N", help="Simulated replications per drill, with consecutive seeds.")]
Clients = Annotated[int | None, typer.Option(metavar="N", help="Number of clients. Default: as the drill says.")]
Policy = Annotated[str | None, typer.Option(metavar="POLICY", help="Client policy, such as reference, desktop or phoenix_js.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed. The same seed gives the same faults and delays.")]


@drill_app.command("list")
def drill_list() -> None:
    """List all drills, one per line.

    `set` says which ones --quick runs. --all leaves out the examples, and those that delete what a service stores ("named").
    The time is for real sockets.
    """
    from drills.runs import variants
    from sim.drill import model as drills

    rows = [("drill", "set", "time", "question")]
    left_out = dict.fromkeys(catalog.examples(), "example") | dict.fromkeys(catalog.only_by_name(), "named")
    for name, path in catalog.by_name().items():
        drill = drills.load(path)
        real_runs = sum(variant.engine == "sockets" for variant in variants.variants_of(drill)) or 1
        which = "quick" if drill.quick else left_out.get(name, "")
        rows.append((drill.name, which, f"{real_runs * drills.expected_duration_s(drill):.0f} s", drill.summary))
    width = max(len(row[0]) for row in rows)
    output.cropped(*(f"{name:<{width}}  {which:<7} {time:>7}  {question}" for name, which, time, question in rows))


@drill_app.command("show")
def drill_show(name: Name, thresholds: Thresholds = None, overrides: Set = None) -> None:
    """Show one drill: its question, phases, faults and checks."""
    from rich.table import Column

    from sim.drill import model as drills

    drill = drills.load(catalog.path_of(name), tuple(overrides or ()))
    heads = (Column(no_wrap=True, style="bold"), Column(overflow="fold"))
    output.table(heads, _shown(drill, thresholds), show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))


@drill_app.command("run")
def drill_run(
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Run the whole catalogue.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Run the quick set of the catalogue.")] = False,
    engine: Engine = None,
    model: Model = None,
    predict: Predict = False,
    replications: Replications = 1,
    target: Target = "mock",
    targets: Targets = None,
    clients: Clients = None,
    policy: Policy = None,
    seed: Seed = 1,
    overrides: Set = None,
    defect: Defect = None,
    protocol: Protocol = None,
    thresholds: Thresholds = None,
    out: Out = RESULTS,
    as_json: AsJson = False,
    junit: Junit = None,
    export_operators: ExportOperators = None,
    dry_run: DryRun = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    metrics_linger: MetricsLinger = 0.0,
    otlp_endpoint: OtlpEndpoint = "",
) -> None:
    """Run drills, judge them, and decide go or no-go."""
    from drills.runs import running
    from drills.runs.request import ENGINES, Request

    chosen = _fit(load(names or [], every, quick, all_overrides(overrides, clients, policy)), engine, replications, bool(names))
    request = Request(
        drills=chosen,
        engine=engine or ENGINES[0],
        target=target,
        seed=seed,
        defects=tuple(defect or ()),
        protocol=protocol or Request.protocol,
        thresholds=thresholds,
        out=out,
        model=model,
        replications=replications,
        targets=targets,
        predict=predict,
    )
    if dry_run:
        running.show_plan(request, as_json)
        raise typer.Exit(ExitCode.USAGE if _lacks_something(request) else ExitCode.INCONCLUSIVE)
    _run(request, (metrics_port, metrics_host, metrics_linger, otlp_endpoint), as_json, Files(junit, export_operators))


class Files(NamedTuple):
    """Further files of a verdict; None: not asked for."""

    junit: Path | None = None
    operators: Path | None = None  # a folder


def _run(request: "Request", exports: tuple[int | None, str, float, str], as_json: bool, files: Files) -> None:
    """Run drills, show them to other tools meanwhile, and exit with the verdict's code."""
    from drills.exports.asked import Exports, trace_of, worst_of
    from drills.runs import running

    asked = Exports(*exports)
    asked.check(request.engine)
    output.prepare_operators(files.operators)
    with asked.serving("drill run", target=request.target) as live:
        run_dir = running.run(request, live.observe if live else None)
        verdict = running.conclude(run_dir)
        if live is not None:
            live.changed(run_id=verdict.run_id)
            live.concluded(verdict.exit_code, verdict.decision, verdict.decision_reason, worst_of(verdict))
        asked.trace(lambda: trace_of(run_dir, verdict))
        finish(verdict, run_dir, as_json, files, then=asked.linger)


def _lacks_something(request: "Request") -> bool:
    """Print on stderr what this machine lacks for a run."""
    from drills.reports.terminal import err
    from drills.rollout.check import findings, machine
    from drills.runs import targets
    from drills.runs.request import SIMULATED

    found = [machine.disk(request.out, request.replications * sum(map(machine.run_bytes, request.drills)))]
    if request.engine not in SIMULATED:
        found += machine.sockets(request.drills, targets.resolve(request.target, request.targets))
    failed = findings.failed(found)
    if failed:
        findings.show(failed, err())
    return bool(failed)


RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as results/<run id>, or of a drill in it.")]
OneDrill = Annotated[str | None, typer.Option("--drill", metavar="NAME", help="Only this drill. Default: all of the run.")]


@drill_app.command("explain")
def drill_explain(run: RunDir, name: OneDrill = None, as_json: AsJson = False) -> None:
    """Explain why a run failed, with the first events.

    For each failure it shows what was expected, what was seen, and who is blamed.
    Reads the record only. Nothing is run and nothing is changed.
    """
    from drills.judging import explanations, gates
    from drills.judging.checks.base import Case
    from drills.reports import explained
    from drills.runs import recorded_runs, results

    limits = gates.load_thresholds(results.thresholds_of(run), is_record=True)
    found = {}
    for each in recorded_runs.runs_in(run, name):
        verdict = gates.judge(each.drill, each.history, limits, str(each.folder / "observations.parquet"))
        found[each.name] = explanations.explain(Case(each.drill, each.history), verdict)
        if not as_json:
            output.lines(*explained.lines(each.name, found[each.name], f"stormgate drill events {each.folder}"), "")
    if as_json:
        output.json_object(found)


@drill_app.command("events")
def drill_events(
    run: RunDir,
    name: OneDrill = None,
    client: Annotated[int | None, typer.Option(metavar="N", help="Only rows of this client.")] = None,
    stream: Annotated[str | None, typer.Option(metavar="NAME", help="Only this stream; a part of its name is enough.")] = None,
    around: Annotated[int | None, typer.Option(metavar="POSITION", help="Only positions of --stream near this one.")] = None,
    kind: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Only this kind of row. Repeatable.")] = None,
    since: Annotated[float | None, typer.Option(metavar="SECONDS", help="Only rows from this time of the run on.")] = None,
    until: Annotated[float | None, typer.Option(metavar="SECONDS", help="Only rows up to this time of the run.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Print at most so many rows of each drill.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Print rows of a run's record in order of time."""
    from drills.judging import row_query
    from drills.reports import explained, terminal
    from drills.runs import recorded_runs

    width = terminal.width_of(terminal.out())
    query = row_query.RowQuery(client, stream, around, tuple(kind or ()), since, until)
    found = {}
    for each in recorded_runs.runs_in(run, name):
        rows = row_query.matching(each.history, query)
        found[each.name] = list(row_query.as_values(each.history, rows, limit))
        if not as_json:
            more = f" (the first {limit}; --limit prints more)" if len(rows) > limit else ""
            output.lines(f"{each.name}: {len(rows)} rows{more}", *explained.table(found[each.name], width), "")
    if as_json:
        output.json_object(found)


def judge(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, such as results/<run id>.")],
    thresholds: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Thresholds file. Default: the run's own copy.")
    ] = None,
    as_json: AsJson = False,
    junit: Junit = None,
    export_operators: ExportOperators = None,
) -> None:
    """Judge a run again from its files. Runs nothing and changes nothing."""
    from drills.runs import results

    verdict = results.judge_run(run_dir, thresholds)
    output.prepare_operators(export_operators)
    finish(verdict, run_dir, as_json, Files(junit, export_operators))


# --- comparing --------------------------------------------------------------------------------------

Baseline = Annotated[
    Path, typer.Argument(metavar="BASELINE", help="Folder of a run, of a drill in it, of several runs, or of a stage.")
]
Others = Annotated[list[Path], typer.Argument(metavar="OTHER", help="The same, to compare with the baseline. Repeatable.")]
FailIfWorse = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC=LIMIT",
        help="Exit with 1 if this metric is worse by more: in percent of the baseline (p99_recovery=10%), or in its unit "
        "(publish_to_apply_p95_ms=50). Exit with 2 if that cannot be decided. Repeatable.",
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="A difference that is intended: a key of the drill such as fleet.policy, or engine, machine, ... Repeatable.",
    ),
]


def compare(
    baseline: Baseline,
    others: Others,
    fail_if_worse: FailIfWorse = None,
    accept: Accept = None,
    minimum_effect: Annotated[
        str, typer.Option(metavar="PERCENT", help="Smaller differences count as none, in percent of the baseline.")
    ] = "5%",
    drill: Annotated[str | None, typer.Option(metavar="NAME", help="Only this drill. Default: all.")] = None,
    all_metrics: Annotated[bool, typer.Option("--all-metrics", help="Print every metric, not only what differs.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page with overlaid curves.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs or stages with a baseline, with intervals.

    Conditions are checked first. Where they make the comparison meaningless, it exits with 2.
    Without --fail-if-worse it only reports, and exits with 0.
    """
    from drills.comparison import comparing, limits, sides, words
    from drills.reports.terminal import out

    asked = limits.parse(fail_if_worse or [])
    options = comparing.Options(_effect(minimum_effect), tuple(accept or ()), asked)
    read = [sides.read(path, drill) for path in (baseline, *others)]
    found = comparing.compare(read[0], read[1:], options)
    if html is not None:
        from drills.comparison import page

        page.write(html, found, read)
    if as_json:
        output.json_object(found)
    else:
        words.show(found, out(), all_metrics)
    raise typer.Exit(words.EXIT_CODES[found.result])


def _effect(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise UsageError(f"--minimum-effect {text}: expected a share of the baseline from 0% to below 100%, such as 5%.")
    return percent / 100


def finish(
    verdict: "RunVerdict", run_dir: Path, as_json: bool, files: Files, then: "Callable[[], None]" = lambda: None
) -> None:
    """Print a verdict, do what is left to do `then`, and exit with its code."""
    from drills.reports import page, report
    from drills.reports.terminal import out

    if files.junit is not None:
        from drills.rollout.report import junit

        junit.write(verdict, files.junit)
    if files.operators is not None:
        from drills.rollout.report import operators

        operators.of_run(verdict, run_dir, files.operators)
    if as_json:
        sys.stdout.write(report.summary_json(verdict).decode())
    else:
        report.print_verdict(verdict, out())
        output.lines(f"evidence: {run_dir}")
        if (path := run_dir / page.NAME).is_file():
            output.lines(f"report: {path}")
    sys.stdout.flush()
    then()
    raise typer.Exit(verdict.exit_code)


# --- showing one drill ------------------------------------------------------------------------------


def _shown(drill: "Drill", thresholds: Path | None) -> "Iterator[tuple[str, str]]":
    """The description of a drill, as pairs of a heading and a text."""
    import msgspec

    from drills.judging import gates
    from drills.judging.checks.registry import OF_RUNS
    from drills.judging.checks.thresholds import DEFAULT_PATH
    from drills.rollout.report import explain_checks
    from drills.runs.request import ENGINES

    limits, phases = gates.load_thresholds(thresholds or DEFAULT_PATH), drill.phases
    yield drill.name, drill.summary
    yield "clients", f"{drill.fleet.clients}, policy {drill.fleet.policy}"
    yield "load", f"{drill.load.events_per_s:g} events/s over {drill.streams} streams"
    yield (
        "phases",
        f"steady {phases.steady_s:g} s, fault {phases.fault_s:g} s, recovery {phases.recovery_s:g} s, "
        f"settle up to {phases.settle_s:g} s",
    )
    for number, fault in enumerate(drill.faults):
        changed = (f"{key} {value}" for key, value in _changed(fault) if key != "at_s")
        yield "" if number else "faults", ", ".join([f"{fault.kind} at {fault.at_s:g} s", *changed])
    if not drill.faults:
        yield "faults", "none; the drill only observes"
    if expected := [f"{key} {_words(value)}" for key, value in _changed(drill.expect)]:
        yield "expects", ", ".join(expected)
    if drill.variants:
        yield "variants", ", ".join(f"{each.engine}: {_words(each.policies)}" for each in drill.variants)
    yield "engines", ", ".join(engine for engine in ENGINES if _is_for(drill, engine))
    for number, check in enumerate(drill.checks):
        yield "" if number else "checks", f"{check}: {explain_checks.passes(OF_RUNS[check], limits.get(check))}"
    if settings := [f"{key} {msgspec.to_builtins(value)}" for key, value in _changed(drill.runtime)]:
        yield "settings", ", ".join(settings)


def _changed(struct: object) -> "Iterator[tuple[str, object]]":
    """The fields of a struct that differ from their defaults."""
    import msgspec

    for field in msgspec.structs.fields(struct):  # type: ignore[arg-type]
        value = getattr(struct, field.name)
        if value != field.default:
            yield field.name, value


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- choosing drills --------------------------------------------------------------------------------


def load(names: list[str], every: bool, quick: bool, overrides: tuple[str, ...]) -> "tuple[Drill, ...]":
    """Load the drills that the options name. Raises `UsageError`."""
    from sim.drill import model as drills

    catalogue = catalog.catalogue()
    if bool(names) + every + quick > 1:
        raise UsageError("give drill names, --quick or --all, not two of them.")
    if not every and not quick and not names:
        raise UsageError(f"name a drill, or use --quick or --all; there are: {', '.join(catalog.by_name())}.")
    paths = [catalog.path_of(name) for name in names] or list(catalogue.values())
    loaded = [drills.load(path, overrides) for path in paths]
    return tuple(drill for drill in loaded if drill.quick or not quick)


def _fit(chosen: "tuple[Drill, ...]", engine: str | None, replications: int, by_name: bool) -> "tuple[Drill, ...]":
    """Adapt the drills to this engine."""
    from drills.runs import variants
    from drills.runs.request import ENGINES

    if not by_name:
        chosen = _able(chosen, engine or ENGINES[0], replications)
    return tuple(variants.on_engine(drill, engine) for drill in chosen) if engine in ENGINES else chosen


def _able(drills: "tuple[Drill, ...]", engine: str, replications: int) -> "tuple[Drill, ...]":
    """The drills of a set that this engine can run; prints which are left out. A drill given by name is refused instead."""
    unfit = {drill.name: f"not for --engine {engine}" for drill in drills if not _is_for(drill, engine)}
    if replications > 1:
        unfit |= {drill.name: "it compares variants, one run of each" for drill in drills if drill.variants}
    if unfit:
        named = "; ".join(f"{name} ({why})" for name, why in unfit.items())
        print(f"stormgate: note: left out: {named}.", file=sys.stderr)
    return tuple(drill for drill in drills if drill.name not in unfit)


def _is_for(drill: "Drill", engine: str) -> bool:
    """Whether an engine can run a drill; the fleet engine cannot represent every drill."""
    from sim.drill.model import runs_on

    if engine != "fleet":
        return runs_on(drill, engine)
    from sim.engines.fleet import engine as fleet

    return runs_on(drill, engine) and not drill.variants and fleet.can_represent(drill)


def all_overrides(given: list[str] | None, clients: int | None, policy: str | None = None) -> tuple[str, ...]:
    """Return the overrides that the options stand for. Raises `UsageError`."""
    if clients is not None and clients < 1:
        raise UsageError(f"--clients {clients}: a drill needs at least 1 client.")
    extra = [f"fleet.clients={clients}"] if clients is not None else []
    return (*(given or []), *extra, *([f"fleet.policy={policy}"] if policy is not None else []))
