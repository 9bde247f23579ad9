"""Run drills into a results folder, and judge the folder."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import DrillVerdict, RunVerdict
from drills.reports.run_page import Shown
from drills.reports.terminal import Progress, Several, err, out
from drills.runs import checking, dry_run, predictions, results, simulations, variants
from drills.runs.checking import model_of, switches
from drills.runs.request import SIMULATED, Request
from sim.base import process_pool
from sim.base.config import set_key, to_struct
from sim.base.errors import EvidenceError, HookError
from sim.base.process_pool import INTERRUPTED, Say
from sim.drill.model import Drill, expected_duration_s
from sim.record.run_header import RunHeader
from sim.server.deployment import Deployment
from sim.server.settings import RuntimeSettings, Switches

if TYPE_CHECKING:
    import pyarrow as pa

    from sim.engines.shared.endpoints import Endpoints

_MANY_BYTES = 5_000_000  # [ours] size of observations from which processes pay off; they take about a second to start
RunDrill = Callable[[Drill, Path, Progress], RunHeader]  # into a drill's folder
Observe = Callable[[RunHeader, "pa.Table"], None]  # gets the rows of a running drill; see `sim.engines.sockets.engine.Options`


def run(request: Request, observe: Observe | None = None) -> Path:
    """Run all drills and return the run's folder. Real drills run one after the other, simulated ones on all cores.

    Invalid requests are refused before anything starts. A drill that the target cannot run is `not_run`. An interruption ends
    the run; drills that did not run because of it are errors. `observe` gets the rows of runs on real sockets.
    """
    checked = checking.check(request)
    endpoints = checked.endpoints
    if endpoints is not None and not endpoints.is_mock:
        dry_run.in_words(request, checked, err())
    planned, request = request.drills, replace(request, drills=checked.runnable(request.drills))
    run_drill = None if request.engine in SIMULATED or not request.drills else _sockets(request, endpoints, observe)
    for sentence in results.clean_up(request.out):
        print(f"note: {sentence}", file=sys.stderr)
    run_dir = results.create_run(
        request.out,
        planned,
        engine=_engine_name(planned, request.engine),
        target=endpoints.name if endpoints else "embedded mock",
        target_kind=endpoints.kind if endpoints else "mock",
        seed=request.seed,
        thresholds=request.thresholds or DEFAULT_PATH,
        replications=request.replications,
        not_run=checked.not_run,
        target_sha256=endpoints.configuration_sha256 if endpoints else "",
    )
    mark = results.mark(run_dir)
    try:
        stopped_because = _simulate_all(request, run_dir) if run_drill is None else _run_all(request, run_dir, run_drill)
        if stopped_because:
            print(f"stormgate: {stopped_because.rstrip('.')}; the observations until then are in {run_dir}.", file=sys.stderr)
    except HookError:
        results.write_reports(run_dir, results.judge_run(run_dir))  # its summary says what may be left behind
        raise
    finally:
        mark.remove()
    return run_dir


def _run_all(request: Request, run_dir: Path, run_drill: RunDrill) -> str:
    """Run all drills one after the other; return why they ended early, or an empty text."""
    for drill in request.drills:
        folder = results.create_drill_folder(run_dir, drill)
        stopped_because = run_variants(drill, run_dir, request) if drill.variants else _run_once(drill, folder, run_drill)
        if stopped_because:
            return stopped_because
    return ""


def _simulate_all(request: Request, run_dir: Path) -> str:
    """Run all simulations on all cores; return why they ended early, or an empty text."""
    jobs: list[simulations.Job] = []
    for drill in request.drills:
        if "sockets" not in variants.engines_of(drill):
            jobs += _jobs(drill, run_dir, request)
            continue
        results.create_drill_folder(run_dir, drill)
        if why := run_variants(drill, run_dir, request):  # real sockets need the machine to themselves
            return why
    if not jobs:
        return ""
    if len(jobs) == 1:
        return _simulate_one(jobs[0])
    jobs.sort(key=lambda job: -job.load)  # longest first: a long job that starts last would delay the end
    what = request.drills[0].name if len(request.drills) == 1 else f"{len(request.drills)} drills"
    with Several(what, [job.name for job in jobs]) as progress:
        outcome = simulations.run(jobs, progress)
    done = sum(not why for why in outcome.results.values())
    why = outcome.stopped_because
    return f"{why}, after {done} of {len(jobs)} runs" if why else ""


def _jobs(drill: Drill, run_dir: Path, request: Request) -> list[simulations.Job]:
    """The jobs of a drill: one, or one per variant or replication."""
    folder = results.create_drill_folder(run_dir, drill)
    model = model_of(request)

    def job(variant: Drill, folder: Path, seed: int, name: str) -> simulations.Job:
        on = switches(request.defects, seed)
        return simulations.Job(variant, folder, seed, model, on, run_dir.name, name, request.engine, request.protocol)

    if drill.variants:
        all_of_them = [(on, results.create_variant_folder(run_dir, drill, on)) for on in variants.variants_of(drill)]
        return [job(on.variant(drill), own, request.seed, f"{drill.name} on {on.name}") for on, own in all_of_them]
    if request.replications > 1:
        return [
            job(drill, results.replication_folder(run_dir, drill.name, seed), seed, f"{drill.name} with seed {seed}")
            for seed in results.seeds(request.seed, request.replications)
        ]
    return [job(drill, folder, request.seed, drill.name)]


def _simulate_one(job: simulations.Job) -> str:
    """Run the only job in this process; return why it was interrupted, or an empty text."""
    with Progress(job.name, expected_duration_s(job.drill)) as progress:
        header = job.run(progress)
    return "" if header.complete else header.stopped_because


def _engine_name(drills: Sequence[Drill], engine: str) -> str:
    """The engine name for the run's plan; variants have their own engines."""
    own = dict.fromkeys(engine for drill in drills for engine in variants.engines_of(drill))
    return " and ".join(own) if all(drill.variants for drill in drills) else engine


def _run_once(drill: Drill, folder: Path, run_drill: RunDrill) -> str:
    """Run a drill on real sockets; return why it was interrupted, or an empty text."""
    with Progress(drill.name) as progress:
        header = run_drill(drill, folder, progress)
    return "" if header.complete else header.stopped_because


def run_variants(drill: Drill, run_dir: Path, request: Request, wrong_on: Mapping[str, tuple[str, ...]] | None = None) -> str:
    """Run a drill's variants; return why they ended early, or an empty text.

    `wrong_on` maps the name of a variant to further defects of its runtime.
    """
    with Progress(drill.name) as progress:
        options = variants.Options(
            folder_of=lambda each: results.create_variant_folder(run_dir, drill, each),
            switches_of=lambda on: switches((*request.defects, *(wrong_on or {}).get(on.name, ())), request.seed),
            progress=progress,
            run_id=run_dir.name,
            seed=request.seed,
            model=model_of(request),
            protocol=request.protocol,
        )
        return variants.run(drill, options)


def _sockets(request: Request, endpoints: "Endpoints | None", observe: Observe | None) -> RunDrill:
    """The sockets engine. Raises unless it can run all drills on that target."""
    from sim.engines.sockets import engine as sockets

    for drill in request.drills:
        sockets.check(drill, endpoints)
    if endpoints is not None:
        breaks = any(drill.faults or drill.expect.negative_clients for drill in request.drills)
        sockets.check_service(endpoints, with_refusal=breaks)  # what only observes causes no refusal of its own
    chosen = switches(request.defects, request.seed)

    def run_drill(drill: Drill, folder: Path, progress: Progress) -> RunHeader:
        run_id = results.run_id_of(folder)
        return sockets.run(
            drill,
            sockets.Options(folder, request.seed, endpoints, chosen, progress, run_id, request.protocol, observe),
        )

    return _predicted(run_drill, request) if request.predict else run_drill


def _predicted(run_drill: RunDrill, request: Request) -> RunDrill:
    """Wrap an engine so that a fitted model predicts each drill before it runs."""
    predictor = predictions.predictor(request.model, request.target, request.out)

    def run_predicted(drill: Drill, folder: Path, progress: Progress) -> RunHeader:
        prediction = predictor.predict(drill, request.seed)
        header = run_drill(drill, folder, progress)
        predictions.keep(folder, header, prediction)
        return header

    return run_predicted


def show_plan(request: Request, as_json: bool) -> None:
    """Print what a run would do. Raises `UsageError` if it could not run."""
    checked = checking.check(request)
    if as_json:
        dry_run.as_json(request, checked)
        return
    console = out()
    dry_run.in_words(request, checked, console)
    console.print("dry run: nothing was executed")


def mock_settings(overrides: list[str], defects: tuple[str, ...]) -> tuple[RuntimeSettings, Switches, Deployment]:
    """The runtime's settings, switches and revisions with `KEY=VALUE` overrides of any of them; raises `UsageError`."""
    data: dict[str, object] = {}
    for assignment in overrides:
        set_key(data, assignment)
    named = {name: data.pop(name) for name in list(data) if name in Switches.__struct_fields__}
    deployed = {name: data.pop(name) for name in list(data) if name in Deployment.__struct_fields__}
    on = to_struct({"defects": list(switches(defects, seed=1).defects), **named}, Switches, "--set")
    return to_struct(data, RuntimeSettings, "--set"), on, to_struct(deployed, Deployment, "--set")


# --- judging ----------------------------------------------------------------------------------------


def conclude(run_dir: Path) -> RunVerdict:
    """Judge a run on all cores, and write its report and figures. Raises `StormgateError`."""
    names = [planned.name for planned in results.read_plan(run_dir).drills]
    observed = sum(path.stat().st_size for path in run_dir.rglob("*.parquet"))
    judged = _in_processes(run_dir, names) if observed >= _MANY_BYTES else {}
    verdict = results.judge_run(run_dir, judged={name: each for name, (each, _) in judged.items()})
    results.write_reports(run_dir, verdict)
    shown = [judged[each.name][1] if each.name in judged else results.show(run_dir, each) for each in verdict.drills]
    results.write_page(run_dir, verdict, shown)
    return verdict


_Judged = tuple[DrillVerdict, Shown]


def _in_processes(run_dir: Path, names: list[str]) -> dict[str, _Judged]:
    """Judge and draw all drills in processes; return the results by drill."""
    with Several("judging and drawing", names) as progress:
        outcome = process_pool.run(partial(_judge_and_show, run_dir), names, progress)
    if outcome.stopped_because == INTERRUPTED:
        raise KeyboardInterrupt
    if outcome.stopped_because:
        raise EvidenceError(
            f"{run_dir}: judging failed: {outcome.stopped_because}; "
            "`stormgate judge` reads one drill after the other, which needs less memory."
        )
    return {names[place]: found for place, found in outcome.results.items()}


def _judge_and_show(run_dir: Path, name: str, say: Say) -> _Judged:
    say("judging", 0.0)
    verdict = results.judge_drill(run_dir, name)
    say("drawing", 0.0)
    return verdict, results.show(run_dir, verdict)
