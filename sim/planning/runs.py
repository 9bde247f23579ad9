"""The simulated runs of a sweep. All points use the same seeds, so differences between points are not random.

A job gives the same row, bit by bit, in this process, in worker processes and on a cluster.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sim.analysis import metrics
from sim.analysis.metrics import Metric
from sim.base import process_pool
from sim.base.errors import UsageError
from sim.base.ownership import OwnedFolder
from sim.base.process_pool import INTERRUPTED, Say, Standing
from sim.drill.model import Drill, expected_duration_s
from sim.drill.system_model import SystemModel
from sim.planning.designs import Point
from sim.planning.store import Row, Store, code_digest
from sim.record import run_header
from sim.record.history import History
from sim.record.ledger import Ledger

WORK_PREFIX = "stormgate-plan-"  # of temporary folders for simulated runs
Watch = Callable[[Sequence[Standing]], None]


_MAX_DELIVERIES_HERE = 300_000  # [ours] up to here, simulating is faster than starting processes
_DELIVERIES_PER_FLEET_CLIENT = 0.25  # [ours] the fleet engine simulates a client as fast as the virtual engine these deliveries


class Evaluator(Protocol):
    """Evaluates a run. `key` names everything, besides the run, that decides the result."""

    @property
    def key(self) -> str:
        """Evaluators with equal keys give equal results."""

    def evaluate(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """The metrics, and further results in a form of its own."""


@dataclass(frozen=True)
class MetricsOnly:
    """Evaluates the metrics and nothing else."""

    key: str = "metrics"

    def evaluate(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """All metrics of the run."""
        return tuple(metrics.run_metrics(history, Ledger(history))), b""


@dataclass(frozen=True)
class Job:
    """One run of one point."""

    engine: str
    drill: Drill
    model: SystemModel
    seed: int
    evaluator: Evaluator
    digest: str

    @property
    def name(self) -> str:
        """Name for the progress display."""
        return f"{self.drill.name} with seed {self.seed}"


def job(engine: str, point: Point, seed: int, evaluator: Evaluator) -> Job:
    """The run of a point with a seed."""
    parts = (engine, point.digest, str(seed), evaluator.key, code_digest())
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Job(engine, point.drill, point.model, seed, evaluator, digest)


def jobs(engine: str, points: Sequence[Point], seeds: Iterable[int], evaluator: Evaluator) -> list[Job]:
    """The runs of all points with all seeds; equal points are run once. Raises `UsageError` like `check`."""
    wanted = list(seeds)
    found = (job(engine, point, seed, evaluator) for point in points for seed in wanted)
    different = list({each.digest: each for each in found}.values())
    for point in points:
        check(engine, point.drill, point.model)
    return different


def check(engine: str, drill: Drill, model: SystemModel | None = None) -> None:
    """Raise `UsageError` for a drill that this engine cannot run. The fleet engine runs drills for the virtual one."""
    if "virtual" not in drill.engines:
        raise UsageError(
            f"drill '{drill.name}' does not run on the engine {engine}. Its key 'engines' has: {', '.join(drill.engines)}."
        )
    if drill.variants:
        raise UsageError(f"drill '{drill.name}' compares variants and has no metrics to plan by. Choose another drill.")
    if engine == "fleet":
        from sim.engines.fleet import engine as fleet

        fleet.check(drill, model)
        return
    from sim.engines.virtual import engine as virtual

    virtual.check(drill)


def perform(job: Job, say: Say) -> Row | None:
    """Simulate and evaluate; None if interrupted. The row of a run that cannot end has an error instead of metrics."""
    try:
        history = _simulate(job, say)
    except UsageError as error:  # the simulation came to a standstill
        return Row(job.digest, job.seed, (), error=str(error), code=code_digest())
    if history is None:
        return None
    found, judgement = job.evaluator.evaluate(job.drill, history)
    return Row(job.digest, job.seed, found, judgement, code=code_digest(), stations=tuple(history.header.stations))


def _simulate(job: Job, say: Say) -> History | None:
    """The history of the run; None if interrupted."""

    def progress(phase: str, text: str, simulated_s: float) -> None:
        say(phase, simulated_s)

    if job.engine == "fleet":
        from sim.engines.fleet import engine as fleet

        header, table = fleet.observe(job.drill, job.model, job.seed, progress)
        return History(header, table) if header.complete else None
    from sim.engines.virtual import engine as virtual

    with OwnedFolder(WORK_PREFIX) as folder:
        header = virtual.run(job.drill, virtual.Options(Path(folder), job.seed, job.model, progress=progress))
        return History(*run_header.read_verified(Path(folder))) if header.complete else None


def run(wanted: Sequence[Job], store: Store, watch: Watch = lambda standings: None, workers: int | None = None) -> str:
    """Simulate the runs that the store lacks, on all cores if that is faster; returns why it ended early, or nothing."""
    missing = in_order(store.missing(wanted))
    if len(missing) == 1 or workers == 1 or (workers is None and sum(map(_deliveries, missing)) < _MAX_DELIVERIES_HERE):
        return _run_here(missing, store, watch)
    return process_pool.run(perform, missing, watch, lambda row: _keep(row, store), workers).stopped_because if missing else ""


def in_order(missing: Iterable[Job]) -> list[Job]:
    """The largest first, so that none of them starts last and delays the end."""
    return sorted(missing, key=lambda each: -each.drill.fleet.clients)


def _run_here(missing: Sequence[Job], store: Store, watch: Watch) -> str:
    waits, done = Standing(False, False, "", 0.0), Standing(False, True, "", 0.0)
    for number, each in enumerate(missing):

        def say(phase: str, reached: float, number: int = number) -> None:
            rest = len(missing) - number - 1
            watch([*[done] * number, Standing(True, False, phase, reached), *[waits] * rest])

        if why := _keep(perform(each, say), store):
            return why
    if missing:
        watch([done] * len(missing))
    return ""


def _keep(row: Row | None, store: Store) -> str:
    """Store a row at once; returns why to stop, or nothing."""
    if row is None:
        return INTERRUPTED
    store.put(row)
    return ""


def _deliveries(job: Job) -> float:
    """Approximate number of deliveries in a run, or the equivalent in time."""
    drill = job.drill
    if job.engine == "fleet":
        return _DELIVERIES_PER_FLEET_CLIENT * drill.fleet.clients
    return drill.fleet.clients * drill.load.events_per_s / drill.load.run_streams * expected_duration_s(drill)
