"""The simulated runs of a sweep: every point under the same seeds, so that points differ by what they are, not by their luck.

Where a run happens changes nothing in it: here, in processes, or on a cluster the same job gives the same row, bit by bit.
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
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.planning.designs import Point
from sim.planning.store import Row, Store, code_digest
from sim.record import run_header
from sim.record.history import History
from sim.record.ledger import Ledger

WORK_PREFIX = "stormgate-plan-"  # of the temporary folders that runs are simulated in
Watch = Callable[[Sequence[Standing]], None]


class Evaluate(Protocol):
    """What is made of a run. `key` says everything that decides it, besides the run."""

    @property
    def key(self) -> str:
        """Equal keys, equal evaluations."""

    def of(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """The measures, and a judgement that only whoever asked for it reads."""


@dataclass(frozen=True)
class Measured:
    """The measures alone."""

    key: str = "metrics"

    def of(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """All measures of the run."""
        return tuple(metrics.run_metrics(history, Ledger(history))), b""


@dataclass(frozen=True)
class Job:
    """One run of one point."""

    engine: str
    drill: Drill
    model: SystemModel
    seed: int
    evaluate: Evaluate
    digest: str

    @property
    def name(self) -> str:
        """For progress."""
        return f"{self.drill.name} with seed {self.seed}"


def job(engine: str, point: Point, seed: int, evaluate: Evaluate) -> Job:
    """The run of a point under a seed."""
    parts = (engine, point.digest, str(seed), evaluate.key, code_digest())
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Job(engine, point.drill, point.model, seed, evaluate, digest)


def jobs(engine: str, points: Sequence[Point], seeds: Iterable[int], evaluate: Evaluate) -> list[Job]:
    """Every point under every seed; points that come to the same are run once. Raises `UsageError` as `check` does."""
    wanted = list(seeds)
    all_of_them = [job(engine, point, seed, evaluate) for point in points for seed in wanted]
    different = list({each.digest: each for each in all_of_them}.values())
    for point in points:
        check(engine, point.drill, point.model)
    return different


def check(engine: str, drill: Drill, model: SystemModel | None = None) -> None:
    """Raise `UsageError` for a drill that this engine cannot run. The fleet engine runs what is for the virtual one."""
    if "virtual" not in drill.engines:
        raise UsageError(
            f"drill '{drill.name}' is not for the engine {engine}; its key 'engines' has: {', '.join(drill.engines)}."
        )
    if drill.variants:
        raise UsageError(f"drill '{drill.name}' compares surfaces, and has no measures to plan by; choose another.")
    if engine == "fleet":
        from sim.engines.fleet import engine as fleet

        fleet.check(drill, model)
        return
    from sim.engines.virtual import engine as virtual

    virtual.check(drill)


def perform(job: Job, say: Say) -> Row | None:
    """Simulate, measure, and leave nothing behind; None when it was interrupted. One that cannot end says why in its row."""
    try:
        history = _simulate(job, say)
    except UsageError as error:  # it came to a standstill, as every run of it would
        return Row(job.digest, job.seed, (), trouble=str(error), code=code_digest())
    if history is None:
        return None
    measures, judgement = job.evaluate.of(job.drill, history)
    return Row(job.digest, job.seed, measures, judgement, code=code_digest())


def _simulate(job: Job, say: Say) -> History | None:
    """What was observed; None when it was interrupted."""

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
    """Run what the store has not yet, on all cores; returns why it ended early, empty when all are there."""
    missing = [each for each in wanted if store.get(each.digest) is None]
    if len(missing) == 1 or workers == 1:
        return _run_here(missing, store)
    # The largest first, or one of them might begin last and hold up the end.
    missing.sort(key=lambda each: -each.drill.fleet.clients)
    return process_pool.run(perform, missing, watch, lambda row: _keep(row, store), workers).stopped_because if missing else ""


def _run_here(missing: Iterable[Job], store: Store) -> str:
    for each in missing:
        if why := _keep(perform(each, lambda phase, reached: None), store):
            return why
    return ""


def _keep(row: Row | None, store: Store) -> str:
    """Put a row away as soon as it is there; returns why to go no further."""
    if row is None:
        return INTERRUPTED
    store.put(row)
    return ""
