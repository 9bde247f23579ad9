"""Simulated runs in processes: several drills, replications of one, or its surfaces.

Each is an ordinary run of the engine into a folder of its own, whatever else runs beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.base import process_pool
from sim.base.process_pool import INTERRUPTED, Outcome, Say, Standing
from sim.drill.model import Drill, expected_duration_s
from sim.drill.system_model import SystemModel
from sim.record.run_header import RunHeader
from sim.server.settings import Switches

Progress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Job:
    """One run. `name` is what progress calls it."""

    drill: Drill
    folder: Path
    seed: int
    model: SystemModel
    switches: Switches
    run_id: str = ""
    name: str = ""
    engine: str = "virtual"

    def run(self, progress: Progress) -> RunHeader:
        """Simulate it here and now."""
        options = (self.folder, self.seed, self.model, self.switches, progress, self.run_id)
        if self.engine == "fleet":
            from sim.engines.fleet import engine as fleet

            return fleet.run(self.drill, fleet.Options(*options))
        from sim.engines.virtual import engine as virtual

        return virtual.run(self.drill, virtual.Options(*options))

    @property
    def load(self) -> float:
        """About how many deliveries it simulates."""
        topics = self.drill.fleet.topics_per_client / self.drill.load.run_streams
        return self.drill.fleet.clients * self.drill.load.events_per_s * topics * expected_duration_s(self.drill)


def check(engine: str, drill: Drill, model: SystemModel, switches: Switches) -> None:
    """Raise `UsageError` for what the engine would have to leave out."""
    if engine == "fleet":
        from sim.engines.fleet import engine as fleet

        fleet.check(drill, model, switches)
    else:
        from sim.engines.virtual import engine as virtual

        virtual.check(drill)


def run(jobs: Sequence[Job], watch: Callable[[Sequence[Standing]], None], workers: int | None = None) -> Outcome[str]:
    """Run all jobs.

    Ctrl-C ends them all; what they had is kept. The first error of one ends the others, and is raised.
    """
    return process_pool.run(_simulate, jobs, watch, str, workers)


def _simulate(job: Job, say: Say) -> str:
    """One run; returns why it was cut short, empty when it was not."""
    if process_pool.must_end():
        return INTERRUPTED

    def watch(phase: str, text: str, simulated_s: float) -> None:
        say(phase, simulated_s)

    header = job.run(watch)
    return "" if header.complete else header.stopped_because
