"""What a user can ask to be run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.drill.model import Drill

if TYPE_CHECKING:
    from sim.engines.shared.endpoints import Endpoints

ENGINES = ("sockets", "virtual", "fleet")
SIMULATED = {
    "virtual": "This was a simulation: it says how such a lane would behave, not how any real one did.",
    "fleet": "This was a simulation of the storm alone: nothing was delivered and no law looked at, so it can never be a go.",
}
"""Engines that simulate, and what must be known of what they say."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    drills: tuple[Drill, ...]
    engine: str
    target: str
    seed: int
    defects: tuple[str, ...]
    thresholds: Path | None
    out: Path
    model: Path | None = None  # of the simulated system
    replications: int = 1  # of each drill, under as many seeds
    targets: Path | None = None  # the file that names targets; None: the one in the working directory
    predict: bool = False  # let a model that was fitted to the target foretell each drill
    endpoints: "Endpoints | None" = None  # looked up already; None: `target` says where
