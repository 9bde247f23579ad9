"""The fleet engine: only the reconnect storm, as compiled code over arrays. It simulates millions of clients in seconds.

It uses the virtual engine's `SystemModel` and gets the same moments from the same random draws. It simulates no frame of the
live tail and delivers no event. So it measures recovery, but proves no invariant. Its evidence is a `Tally`.
"""

import math
import signal
import threading
import time
from types import FrameType

import pyarrow as pa

from sim.base.errors import NotRunnableError, UsageError
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.fleet.limits import unfit, unfit_habits
from sim.engines.fleet.setup import topics_of
from sim.engines.fleet.storm import Storm
from sim.engines.shared import client_setup
from sim.engines.shared.options import Options as Options
from sim.engines.shared.options import Progress
from sim.protocols import registry
from sim.record.columns import Columns
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader, write_header
from sim.record.tally import Tally
from sim.server.settings import Switches

_SAY_EVERY_S = 0.1  # wall-clock time, which is used for nothing else here


def run(drill: Drill, options: Options) -> RunHeader:
    """Run a drill into `options.folder`; return the finished header. An interrupted run keeps its record and says so.

    Raises `UsageError` for a drill that this engine cannot represent, and `StorageError`.
    """
    check(drill, options.model, options.switches, options.protocol)
    recorder = Recorder(options.folder)
    made = _FleetRun(drill, options.model, options.seed, options.progress, options.run_id)
    write_header(options.folder, made.header)
    try:
        made.run()
    finally:
        recorder.take(made.rows)
        made.header.observations_sha256, made.header.observations_rows = recorder.seal()
        write_header(options.folder, made.header)
    return made.header


def observe(
    drill: Drill, model: SystemModel, seed: int, progress: Progress = lambda phase, text, simulated_s: None
) -> tuple[RunHeader, pa.Table]:
    """Simulate a drill in memory; return its header and observations. Raises `UsageError` as `run` does."""
    check(drill, model)
    made = _FleetRun(drill, model, seed, progress)
    made.run()
    return made.header, made.rows.table()


def metric(drill: Drill, model: SystemModel, seed: int) -> Tally:
    """Simulate a drill in memory; return its tally. Raises `UsageError` as `run` does."""
    check(drill, model)
    storm = Storm(drill, model, seed)
    storm.run()
    return storm.tally()


def check(
    drill: Drill,
    model: SystemModel | None = None,
    switches: Switches | None = None,
    protocol: str = registry.DEFAULT,
) -> None:
    """Raise `NotRunnableError` for a protocol, `UsageError` for anything else that this engine cannot simulate."""
    if habits := unfit_habits(registry.server_forms(protocol).profile):
        raise NotRunnableError(
            f"--protocol {protocol}: the fleet engine does not simulate its server ({', '.join(habits)}); use another engine."
        )
    for key, value, why in unfit(drill, model or SystemModel(), switches or Switches()):
        raise UsageError(
            f"drill '{drill.name}': {key} is {value}, {why}, which the fleet engine does not simulate; use another engine."
        )


def can_represent(drill: Drill) -> bool:
    """Return whether this engine can simulate the drill with the default model."""
    return not any(unfit(drill, SystemModel(), Switches()))


class _FleetRun:
    """One run and its results so far."""

    def __init__(self, drill: Drill, model: SystemModel, seed: int, progress: Progress, run_id: str = "") -> None:
        self._clients = drill.fleet.clients
        self._progress = progress
        self._interrupted = False
        self._said_at = -math.inf
        self.rows = Columns()
        self._storm = Storm(drill, model, seed, self.rows.add, self._monitor)
        self.header = client_setup.new_header(
            drill, (), run_id=run_id, engine="fleet", clock="virtual", seed=seed, libraries=("numba",)
        )
        client_setup.describe_streams(self.header, topics_of(drill))
        self.header.plan = [fault.describe() for fault in self._storm.faults]

    def run(self) -> None:
        """Run all phases."""
        # Only the main thread receives signals; any other thread needs no handler.
        heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._interrupt) for number in heard}
        try:
            self._storm.run()
            self.header.complete = not self._storm.driver.signals.is_stopped
        except Exception as error:
            self.header.stopped_because = str(error) or type(error).__name__
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.header.duration_s = self._storm.now()
            self.header.tally = self._storm.tally()
            self.header.stations = self._storm.loads()

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        self._interrupted = True

    def _monitor(self, phase: str, simulated_s: float, live: int) -> None:
        if self._interrupted and not self._storm.driver.signals.is_stopped:
            self.header.stopped_because = f"it was interrupted in the {phase} phase, {simulated_s:.1f} s simulated"
            self._storm.driver.signals.is_stopped = True
        if time.monotonic() >= self._said_at + _SAY_EVERY_S:
            self._said_at = time.monotonic()
            text = f"{simulated_s:.1f} s simulated, {live} of {self._clients} clients live"
            self._progress(phase, text, simulated_s)
