"""The options of the two engines that simulate."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sim.drill.system_model import SystemModel
from sim.server.settings import Switches

Progress = Callable[[str, str, float], None]  # called now and then: phase, progress in words, seconds simulated


@dataclass(frozen=True)
class Options:
    """How to run a simulation."""

    folder: Path
    seed: int = 1
    model: SystemModel = field(default_factory=SystemModel)
    switches: Switches = field(default_factory=Switches)
    progress: Progress = lambda phase, text, simulated_s: None
    run_id: str = ""  # of the run that this simulation belongs to
