"""The options of the two simulating engines, virtual and fleet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sim.drill.system_model import SystemModel
from sim.protocols import registry
from sim.server.settings import Switches

Progress = Callable[[str, str, float], None]  # called regularly with: phase, progress in words, simulated seconds


@dataclass(frozen=True)
class Options:
    """The options of one simulation."""

    folder: Path
    seed: int = 1
    model: SystemModel = field(default_factory=SystemModel)
    switches: Switches = field(default_factory=Switches)
    progress: Progress = lambda phase, text, simulated_s: None
    run_id: str = ""  # id of the run that this simulation belongs to
    protocol: str = registry.DEFAULT
