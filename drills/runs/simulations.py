"""Simulated runs in parallel processes: several drills, the replications of one, or its variants.

Each is an ordinary run of the engine into its own folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.base import process_pool
from sim.base.process_pool import INTERRUPTED, Outcome, Say, Standing
from sim.drill.model import Drill, expected_duration_s
from sim.drill.system_model import SystemModel
from sim.protocols import registry
from sim.record.run_header import RunHeader
from sim.server.settings import Switches

Progress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Job:
    """One run. `name` is shown in the progress."""

    drill: Drill
    folder: Path
    seed: int
    model: SystemModel
    switches: Switches
    run_id: str = ""
    name: str = ""
    engine: str = "virtual"
    protocol: str = registry.DEFAULT

    def run(self, progress: Progress) -> RunHeader:
        """Simulate it in this process."""
        options = (self.folder, self.seed, self.model, self.switches, progress, self.run_id, self.protocol)
        if self.engine == "fleet":
            from sim.engines.fleet import engine as fleet

            return fleet.run(self.drill, fleet.Options(*options))
        from sim.engines.virtual import engine as virtual

        return virtual.run(self.drill, virtual.Options(*options))

    @property
    def load(self) -> float:
        """Approximate number of deliveries to simulate."""
        topics = self.drill.fleet.topics_per_client / self.drill.load.run_streams
        return self.drill.fleet.clients * self.drill.load.events_per_s * topics * expected_duration_s(self.drill)


def check(engine: str, drill: Drill, model: SystemModel, switches: Switches, protocol: str) -> None:
    """Raise `UsageError` for a drill that the engine cannot represent completely."""
    if engine == "fleet":
        from sim.engines.fleet import engine as fleet

        fleet.check(drill, model, switches, protocol)
    else:
        from sim.engines.virtual import engine as virtual

        virtual.check(drill, protocol)


def run(jobs: Sequence[Job], show: Callable[[Sequence[Standing]], None], workers: int | None = None) -> Outcome[str]:
    """Run all jobs. Ctrl-C ends them and keeps their observations. The first error ends all jobs and is raised."""
    return process_pool.run(_simulate, jobs, show, str, workers)


def _simulate(job: Job, say: Say) -> str:
    """Run one job; return why it was interrupted, or an empty text."""
    if process_pool.must_end():
        return INTERRUPTED

    header = job.run(lambda phase, text, simulated_s: say(phase, simulated_s))
    return "" if header.complete else header.stopped_because
