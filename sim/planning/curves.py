"""How a fleet came back, as a curve of each run: kept with its row, so that bands over runs can be drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.analysis import metrics
from sim.analysis.metrics import Metric
from sim.drill.model import Drill
from sim.planning.store import Row
from sim.record.history import Floats, History
from sim.record.ledger import Ledger

STEPS = 240  # of a curve; [ours], more than a figure's pixels can show apart


@dataclass(frozen=True)
class Curves:
    """An `Evaluate` that keeps, besides the measures, the share of clients live from the first fault for `until_s` seconds."""

    until_s: float

    @property
    def key(self) -> str:
        """As `Evaluate` has it."""
        return f"curves for {self.until_s:g} s"

    def of(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """The measures, and the curve at `times`."""
        from sim.plots import runs  # imported late: Matplotlib takes longer to import than a small run to simulate

        found = tuple(metrics.run_metrics(history, Ledger(history)))
        t, live = runs.clients_live(history)
        if not math.isfinite(history.first_fault_t) or not len(t):  # the lane was never well, so nothing was broken
            return found, b""
        places = np.searchsorted(t, history.first_fault_t + self.times, side="right") - 1
        shares = np.where(places >= 0, live[np.maximum(places, 0)], 0.0) / history.header.clients
        return found, shares.astype(np.float64).tobytes()

    @property
    def times(self) -> Floats:
        """Seconds since the first fault began."""
        return np.linspace(0.0, self.until_s, STEPS)

    def read(self, rows: Sequence[Row]) -> tuple[Floats, Floats]:
        """The times, and the curve of each run in which something was broken, as a row of an array."""
        return self.times, np.array([np.frombuffer(row.judgement) for row in rows if row.judgement]).reshape(-1, STEPS)
