"""The request of a run: which drills, on which engine and target, with which options."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.drill.model import Drill
from sim.protocols import registry

if TYPE_CHECKING:
    from sim.engines.shared.endpoints import Endpoints

ENGINES = ("sockets", "virtual", "fleet")
SIMULATED = {
    "virtual": "This was a simulation. It shows how such a service would behave, not how a real one did.",
    "fleet": "This was a simulation of the storm only. It delivered nothing and checked no invariant, so it can never be a go.",
}
"""The simulating engines, each with the note for its reports."""


@dataclass(frozen=True)
class Request:
    """The request of the user."""

    drills: tuple[Drill, ...]
    engine: str
    target: str
    seed: int
    defects: tuple[str, ...]
    thresholds: Path | None
    out: Path
    protocol: str = registry.DEFAULT  # of the embedded mock or the simulated service; a target states its own
    model: Path | None = None  # of the simulated system
    replications: int = 1  # per drill, with consecutive seeds
    targets: Path | None = None  # the file that names targets; None: the one in the working directory
    predict: bool = False  # predict each drill with the model fitted to the target
    endpoints: "Endpoints | None" = None  # of the target, if already known; else `target` is looked up

    @classmethod
    def of_target(cls, drill: Drill, endpoints: "Endpoints", thresholds: Path | None, out: Path) -> "Request":
        """Return the request of one drill on a target that is already known."""
        return cls((drill,), "sockets", endpoints.name, 1, (), thresholds, out, endpoints=endpoints)
