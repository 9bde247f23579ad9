"""The command line. Exit codes everywhere: 0 go, 1 no-go, 2 cannot tell, 3 usage or configuration, 4 the tool itself failed.

Heavy imports are inside the commands, so that `stormgate --help` answers at once.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drills import CATALOG, EXAMPLES
from drills.cli.gates import gates_app
from drills.cli.options import AsJson, Target, Targets
from drills.cli.plan import plan_app
from drills.cli.rollback import rollback_app
from drills.cli.snapshot import snapshot
from drills.cli.stage import stage_app
from drills.cli.verify import stage_judge, stage_verify
from sim.base.errors import StormgateError, UsageError

if TYPE_CHECKING:
    from drills.judging.checks.verdicts import RunVerdict
    from sim.drill.model import Drill

DEBUG_VARIABLE = "STORMGATE_DEBUG"
_EXIT_USAGE, _EXIT_INTERNAL, _EXIT_INCONCLUSIVE = 3, 4, 2
_TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    help="Storm a realtime sync lane on purpose, and let the rollout gates judge what happened.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
drill_app = typer.Typer(help="Run drills and see what there is.", no_args_is_help=True)
mock_app = typer.Typer(help="The embedded runtime.", no_args_is_help=True)
app.add_typer(drill_app, name="drill")
app.add_typer(mock_app, name="mock")
stage_app.command("judge")(stage_judge)
stage_app.command("verify")(stage_verify)
app.add_typer(stage_app, name="stage")
app.command()(snapshot)
app.add_typer(gates_app, name="gates")
app.add_typer(rollback_app, name="rollback")
app.add_typer(plan_app, name="plan")

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. load.events_per_s=50.")]
Replications = Annotated[
    int, typer.Option(help="Run each drill under so many seeds, from --seed on, and judge them together (simulations).")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Drills of the catalogue, or .toml files.")]
Policy = Annotated[
    str | None, typer.Option(help="Client policy: reference, desktop, or the reference with other delays, as phoenix_js.")
]
Predict = Annotated[
    bool, typer.Option("--predict", help="Let a model fitted to the target (`plan calibrate`, or --model) foretell each drill.")
]
Junit = Annotated[Path | None, typer.Option(help="Write the verdict as JUnit XML to this file, too.")]


@drill_app.command("list")
def drill_list() -> None:
    """Show all drills: each one's question, the gates it feeds, the engines it is for, and how long it takes on real sockets.

    Those marked quick are the set that `--quick` runs; the last ones are examples, which `--all` leaves out.
    """
    from rich.table import Table

    from drills.reports.terminal import out
    from drills.runs import variants
    from sim.drill import model as drills

    table = Table("drill", "question", "gates", "engines", "clients", "about", show_lines=True)
    table.columns[0].no_wrap = True
    for path in (_catalogue() | _examples()).values():
        drill = drills.load(path)
        real_runs = sum(variant.engine == "sockets" for variant in variants.variants_of(drill)) or 1
        about_s, gates = f"{real_runs * drills.expected_duration_s(drill):.0f} s", " ".join(drill.gates)
        name = f"{drill.name}\n[green]quick[/]" if drill.quick else drill.name
        table.add_row(name, drill.summary, gates, " ".join(drill.engines), str(drill.fleet.clients), about_s)
    out().print(table)


@drill_app.command("run")
def drill_run(
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Run the whole catalogue.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Run the catalogue's quick set (see `drill list`).")] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="sockets: real ones (default); virtual: simulated time; fleet: the storm alone, for millions."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="System model of a simulation or of --predict, a .toml file.")] = None,
    predict: Predict = False,
    replications: Replications = 1,
    target: Target = "mock",
    targets: Targets = None,
    clients: Annotated[int | None, typer.Option(help="Size of the fleet, instead of the drill's own.")] = None,
    policy: Policy = None,
    seed: Annotated[int, typer.Option(help="Names the run: same seed, same faults and same delays.")] = 1,
    overrides: Set = None,
    defect: Annotated[list[str] | None, typer.Option(help="Switch a named defect of the mock on (see `mock defects`).")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="Judge by this file instead of the default thresholds.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that runs are written to.")] = Path("results"),
    as_json: AsJson = False,
    junit: Junit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing (exits with 2).")] = False,
) -> None:
    """Run drills, judge them, and say go or no-go."""
    from drills.runs import conclusion, running
    from drills.runs.request import ENGINES, Request

    chosen = _load(names or [], every, quick, _overrides(overrides, clients, policy))
    request = Request(
        drills=_fit(chosen, engine, replications, by_name=bool(names)),
        engine=engine or ENGINES[0],
        target=target,
        seed=seed,
        defects=tuple(defect or ()),
        thresholds=thresholds,
        out=out,
        model=model,
        replications=replications,
        targets=targets,
        predict=predict,
    )
    if dry_run:
        running.show_plan(request, as_json)
        raise typer.Exit(_EXIT_INCONCLUSIVE)
    run_dir = running.run(request)
    _say(conclusion.conclude(run_dir), run_dir, as_json, junit)


@app.command()
def judge(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, such as results/<run id>.")],
    thresholds: Annotated[Path | None, typer.Option(help="Another thresholds file than the run's own copy.")] = None,
    as_json: AsJson = False,
    junit: Junit = None,
) -> None:
    """Judge a run again from its files alone; nothing is run, and nothing in its folder is written."""
    from drills.runs import results

    _say(results.judge_run(run_dir, thresholds), run_dir, as_json, junit)


@mock_app.command("serve")
def mock_serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one; it is printed.", min=0, max=65535)] = 0,
    state: Annotated[Path | None, typer.Option(help="SQLite file of the log; without it nothing is kept.")] = None,
    defect: Annotated[list[str] | None, typer.Option(help="Switch a named defect on (see `mock defects`).")] = None,
    profile: Annotated[str, typer.Option(help="Of the metrics endpoint: full or pinned.")] = "full",
    overrides: Set = None,
) -> None:
    """Serve the embedded runtime: control service, HTTP authority and WebSocket on one port, until Ctrl-C."""
    from drills.runs import running
    from sim.mock.server import ServeOptions, serve

    settings, switches, deployment = running.mock_settings([*(overrides or []), f"profile={profile}"], tuple(defect or ()))
    serve(ServeOptions(settings, switches, host, port, str(state or ""), deployment=deployment))


@mock_app.command("defects")
def mock_defects() -> None:
    """List the named defects, which drills must catch."""
    from rich.table import Table

    from drills.reports.terminal import out
    from sim.server.settings import DEFECT_MEANINGS

    table = Table("defect", "what the runtime then does wrong")
    for name, meaning in DEFECT_MEANINGS.items():
        table.add_row(name, meaning)
    out().print(table)


def _catalogue() -> dict[str, Path]:
    return {path.stem: path for path in sorted(CATALOG.glob("*.toml"))}


def _examples() -> dict[str, Path]:
    return {path.stem: path for path in sorted(EXAMPLES.glob("*.toml"))}


def _load(names: list[str], every: bool, quick: bool, overrides: tuple[str, ...]) -> "tuple[Drill, ...]":
    """The drills asked for; raises `UsageError`."""
    from sim.drill import model as drills

    catalogue = _catalogue()
    if bool(names) + every + quick > 1:
        raise UsageError("give drill names, --quick or --all, not two of them.")
    if not every and not quick and not names:
        raise UsageError(f"name a drill, or use --quick or --all; there are: {', '.join(catalogue)}.")
    paths = [_path_of(name, catalogue | _examples()) for name in names] or list(catalogue.values())
    loaded = [drills.load(path, overrides) for path in paths]
    return tuple(drill for drill in loaded if drill.quick or not quick)


def _fit(chosen: "tuple[Drill, ...]", engine: str | None, replications: int, by_name: bool) -> "tuple[Drill, ...]":
    """The drills as this engine runs them."""
    from drills.runs import variants
    from drills.runs.request import ENGINES

    if not by_name:
        chosen = _able(chosen, engine or ENGINES[0], replications)
    return tuple(variants.on_engine(drill, engine) for drill in chosen) if engine in ENGINES else chosen


def _able(drills: "tuple[Drill, ...]", engine: str, replications: int) -> "tuple[Drill, ...]":
    """Those of a whole set that can be run so; what is left out is said. A drill asked for by name is refused instead."""
    unfit = {drill.name: f"not for --engine {engine}" for drill in drills if not _is_for(drill, engine)}
    if replications > 1:
        unfit |= {drill.name: "it compares surfaces, one run of each" for drill in drills if drill.variants}
    if unfit:
        said = "; ".join(f"{name} ({why})" for name, why in unfit.items())
        print(f"stormgate: note: left out: {said}.", file=sys.stderr)
    return tuple(drill for drill in drills if drill.name not in unfit)


def _is_for(drill: "Drill", engine: str) -> bool:
    """Whether an engine is meant for a drill and, if it is the fleet's, can represent it."""
    from sim.drill.model import runs_on

    if engine != "fleet":
        return runs_on(drill, engine)
    from sim.engines.fleet import engine as fleet

    return runs_on(drill, engine) and not drill.variants and fleet.can_represent(drill)


def _path_of(name: str, catalogue: dict[str, Path]) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    if name not in catalogue:
        raise UsageError(f"there is no drill '{name}'; there are: {', '.join(catalogue)}, or give a .toml file.")
    return catalogue[name]


def _overrides(given: list[str] | None, clients: int | None, policy: str | None) -> tuple[str, ...]:
    if clients is not None and clients < 1:
        raise UsageError(f"--clients {clients}: a fleet needs at least 1 client.")
    extra = [f"fleet.clients={clients}"] if clients is not None else []
    return (*(given or []), *extra, *([f"fleet.policy={policy}"] if policy is not None else []))


def _say(verdict: "RunVerdict", run_dir: Path, as_json: bool, junit_file: Path | None) -> None:
    """Print a verdict and leave with its exit code."""
    if junit_file is not None:
        from drills.rollout.report import junit

        junit.write(verdict, junit_file)
    from drills.reports import report
    from drills.reports.terminal import out

    if as_json:
        sys.stdout.write(report.summary_json(verdict).decode())
    else:
        report.print_verdict(verdict, out())
        out().print(f"evidence: {run_dir}", soft_wrap=True)
    raise typer.Exit(verdict.exit_code)


def main() -> None:
    """Entry point: every expected trouble is one sentence on stderr, and the right exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us politely gets what Ctrl-C gets
    sys.exit(run_words(sys.argv[1:]))


def run_words(arguments: list[str]) -> int:
    """Run the command line with these words; returns its exit code. Every expected trouble is one sentence on stderr."""
    try:
        code = int(app(arguments, prog_name="stormgate", standalone_mode=False) or 0)
        sys.stdout.flush()
    except StormgateError as error:
        return _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        return _complain(_sentence(error), _EXIT_USAGE)
    except (BrokenPipeError, SystemExit):  # typer leaves the second way when whoever read us has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_INTERNAL
    except MemoryError as error:
        return _complain(
            f"this machine has too little memory for it ({error or 'none is left'}); ask for less.", _EXIT_INTERNAL
        )
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        what = f"{type(error).__name__}: {error}"
        return _complain(f"a defect of stormgate itself ({what}); set {DEBUG_VARIABLE}=1 to see where.", _EXIT_INTERNAL)
    return _complain("interrupted.", _EXIT_INTERNAL) if code == _TYPER_INTERRUPTED else code


def _sentence(error: typer.TyperException) -> str:
    """What typer complains of, on one line; it prints the help by itself where a command is missing, and says nothing."""
    text = " ".join(error.format_message().split()).rstrip(".")
    return (text or "name a command") + "."


def _complain(sentence: str, code: int) -> int:
    print(f"stormgate: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
