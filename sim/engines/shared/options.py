"""What both engines that simulate are given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sim.drill.system_model import SystemModel
from sim.server.settings import Switches

Progress = Callable[[str, str, float], None]  # now and then: the phase, what is going on, seconds simulated


@dataclass(frozen=True)
class Options:
    """How to run a simulation."""

    folder: Path
    seed: int = 1
    model: SystemModel = field(default_factory=SystemModel)
    switches: Switches = field(default_factory=Switches)
    progress: Progress = lambda phase, text, simulated_s: None
    run_id: str = ""  # of the run this is a part of
