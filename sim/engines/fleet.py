"""The fleet engine: the storm alone, as compiled code over arrays, for fleets of millions in seconds.

It takes the virtual engine's `SystemModel` and comes to the same moments by the same draws, but simulates no frame of the live
tail and delivers no event: it measures recovery, and proves no law. Its evidence is a `Tally`.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from sim.contract import policies
from sim.contract.settings import Switches
from sim.contract.streams import topic_class
from sim.drill import Drill
from sim.engines import course, fleet_faults
from sim.engines.fleet_setup import topics_of
from sim.engines.fleet_storm import Storm
from sim.errors import UsageError
from sim.observations import Recorder, RunHeader, write_header
from sim.system_model import SystemModel
from sim.tally import Tally

_SAY_EVERY_S = 0.1  # of the clock on the wall, which nothing else here looks at
_MOST_TOPICS = 32  # of a client: it has a bit for each
_USE_VIRTUAL = "use --engine virtual"


@dataclass(frozen=True)
class Options:
    """How to run; as the virtual engine's."""

    folder: Path
    seed: int = 1
    model: SystemModel = field(default_factory=SystemModel)
    switches: Switches = field(default_factory=Switches)
    progress: Callable[[str, str, float], None] = lambda phase, text, simulated_s: None
    run_id: str = ""


class _InterruptedError(Exception):
    """Ctrl-C, between two steps of the simulation."""


def run(drill: Drill, options: Options) -> RunHeader:
    """Run a drill into `options.folder`; returns the finished header. An interrupted run keeps what it had and says so.

    Raises `UsageError` for what this engine cannot represent, and `StorageError`.
    """
    check(drill, options.model, options.switches)
    return _FleetRun(drill, options).run()


def measure(drill: Drill, model: SystemModel, seed: int) -> Tally:
    """Simulate a drill in memory alone; raises `UsageError` as `run` does."""
    check(drill, model)
    storm = Storm(drill, model, seed)
    storm.run()
    return storm.tally()


def check(drill: Drill, model: SystemModel | None = None, switches: Switches | None = None) -> None:
    """Raise `UsageError` for a drill with something in it that this engine would have to leave out."""
    for key, value, why, instead in _unfit(drill, model or SystemModel(), switches or Switches()):
        raise UsageError(f"drill '{drill.name}': {key} is {value}, {why}, which the fleet engine does not simulate; {instead}.")


def can_represent(drill: Drill) -> bool:
    """Whether `check` lets it pass, under the default model."""
    return not _unfit(drill, SystemModel(), Switches())


def _unfit(drill: Drill, model: SystemModel, switches: Switches) -> list[tuple[str, object, str, str]]:
    """Of all that is so: the key, its value, what it means, and what to do."""
    fleet, load, runtime = drill.fleet, drill.load, drill.runtime
    policy, topics = policies.get(fleet.policy), fleet.topics_per_client + load.worker_events
    slowest = min(runtime.publishes_per_s or topic_class(topic).publishes_per_s for topic in topics_of(drill))
    ttl_s = fleet.token_ttl_s or runtime.token_ttl_s
    in_bounds = runtime.token_ttl_min_s <= ttl_s <= min(runtime.token_ttl_max_s, runtime.token_max_age_s)
    asks = [
        (bool(switches.defects), "--defect", ", ".join(sorted(switches.defects)), "a runtime with a defect", _USE_VIRTUAL),
        (bool(policy.defects), "key 'fleet.policy'", f"'{fleet.policy}'", "a client that is wrong on purpose", _USE_VIRTUAL),
        (drill.expect.retired_routes, "key 'expect.retired_routes'", "true", "HTTP", "use --engine sockets"),
        (load.events > 0, "key 'load.events'", load.events, "publishing by count", _USE_VIRTUAL),
        (
            load.events_per_s / drill.streams > slowest,
            "key 'load.events_per_s'",
            f"{load.events_per_s:g}",
            "throttled publishing",
            _USE_VIRTUAL,
        ),
        (runtime.sync_frames, "key 'runtime.sync_frames'", "true", "delivery event by event", _USE_VIRTUAL),
        (
            topics > _MOST_TOPICS,
            "key 'fleet.topics_per_client'",
            fleet.topics_per_client,
            f"more than {_MOST_TOPICS} streams a client",
            _USE_VIRTUAL,
        ),
        (not in_bounds, "the tokens' lifetime", f"{ttl_s} s", "tokens that the lane refuses", _USE_VIRTUAL),
        (
            runtime.heartbeat_interval_s >= runtime.client_timeout_s,
            "key 'runtime.heartbeat_interval_s'",
            f"{runtime.heartbeat_interval_s:g}",
            "clients dropped as silent",
            _USE_VIRTUAL,
        ),
        (
            model.server.mirror_failure_share > 0,
            "the model's 'server.mirror_failure_share'",
            f"{model.server.mirror_failure_share:g}",
            "a mirror that fails",
            _USE_VIRTUAL,
        ),
    ]
    faults = [
        (f"key 'faults.{index}.kind'", f"'{fault.kind}'", "a fault", _USE_VIRTUAL)
        for index, fault in enumerate(drill.faults)
        if not isinstance(fault, fleet_faults.REPRESENTED)
    ]
    return [(key, value, why, instead) for is_so, key, value, why, instead in asks if is_so] + faults


class _FleetRun:
    """One run into a folder."""

    def __init__(self, drill: Drill, options: Options) -> None:
        self._options = options
        self._clients = drill.fleet.clients
        self._recorder = Recorder(options.folder)
        self._interrupted = False
        self._said_at = -math.inf
        self._storm = Storm(drill, options.model, options.seed, self._note, self._look)
        self._header = course.new_header(
            drill,
            (),
            run_id=options.run_id,
            engine="fleet",
            clock="virtual",
            seed=options.seed,
            libraries=("numba",),
        )
        self._header.plan = [fault.describe() for fault in self._storm.faults]

    def run(self) -> RunHeader:
        """The whole course."""
        folder = self._options.folder
        write_header(folder, self._header)
        # Only the main thread hears signals; in any other there is nothing to be done about them.
        heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._interrupt) for number in heard}
        try:
            self._storm.run()
            self._header.complete = True
        except _InterruptedError:
            phase, at_s = self._storm.phase, self._storm.now
            self._header.stopped_because = f"it was interrupted in the {phase} phase, {at_s:.1f} s simulated"
        except Exception as error:
            self._header.stopped_because = str(error) or type(error).__name__
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._header.duration_s = self._storm.now
            self._header.observations_sha256, self._header.observations_rows = self._recorder.seal()
            self._header.tally = self._storm.tally()
            write_header(folder, self._header)
        return self._header

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        self._interrupted = True

    def _note(self, t: float, kind: str, index: int, value: float, detail: str) -> None:
        self._recorder.add(t, kind, attempt=index, value=value, detail=detail)

    def _look(self, phase: str, simulated_s: float, live: int) -> None:
        if self._interrupted:
            raise _InterruptedError
        if time.monotonic() >= self._said_at + _SAY_EVERY_S:
            self._said_at = time.monotonic()
            text = f"{simulated_s:.1f} s simulated, {live} of {self._clients} clients live"
            self._options.progress(phase, text, simulated_s)
