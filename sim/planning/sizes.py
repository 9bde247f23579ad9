"""How much there is to simulate: what is done sooner than processes start is not worth any."""

from collections.abc import Iterable

from sim.drill.model import expected_duration_s
from sim.planning.runs import Job

_LITTLE = 300_000  # [ours] deliveries that are simulated sooner than processes start
_A_CLIENT = 0.25  # [ours] deliveries that take the virtual engine as long as a client's whole storm takes the fleet engine


def is_little(missing: Iterable[Job]) -> bool:
    """Whether these runs are best done here, one after the other."""
    return sum(map(_deliveries, missing)) < _LITTLE


def _deliveries(job: Job) -> float:
    """About how many deliveries a run has, or what takes as long."""
    drill = job.drill
    if job.engine == "fleet":
        return _A_CLIENT * drill.fleet.clients
    return drill.fleet.clients * drill.load.events_per_s / drill.load.run_streams * expected_duration_s(drill)
