"""Correction of a fitted model, until simulated calibration drills take as long as the measured ones.

The duration of a burst depends on all parameters together. So the large burst corrects the handshake time, and the replay
corrects the event time. The service is modelled with one event loop, in which frames delay handshakes, unless the busy burst
shows otherwise: this choice never predicts too short a recovery. With one loop, the busy burst also corrects the time per
frame.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from sim.analysis import statistics
from sim.base.errors import EvidenceError
from sim.calibration import drills, estimates, fitting
from sim.calibration.drills import Sizes
from sim.calibration.fitting import Estimate
from sim.calibration.measuring import Measured, RunDrill
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.record import run_header
from sim.record.history import History

Simulate = Callable[[SystemModel], RunDrill]
Numbers = Mapping[str, Estimate]
_NEARLY_ALL = 0.95
_TURNS = 3  # [ours] corrections; each leaves about a tenth of the difference
_MIN_MS = 1e-4
_BUSY = "burst_busy"
_HANDSHAKE, _WORKERS = "server.handshake_ms", "server.handshake_workers"
_FRAME, _EVENT = "server.delivery_batch_ms", "server.delivery_event_ms"


class Residual(msgspec.Struct, frozen=True):
    """A metric (s) of a calibration drill, measured and simulated with the fitted model: medians over the rounds.

    `error` is (simulated - measured) / measured; `rounds` has the measured value of each round.
    """

    drill: str
    metric: str
    measured: float
    simulated: float
    error: float
    rounds: tuple[float, ...]


class Fit(msgspec.Struct, frozen=True):
    """A fitted model, its parameters by key, and its errors for the calibration drills."""

    model: SystemModel
    estimates: dict[str, Estimate]
    residuals: tuple[Residual, ...]


def fit(measured: Measured, simulate: Simulate, folder: Path, sizes: Sizes, seed: int) -> Fit:
    """Fit a model; simulated drills are kept in `folder`. Raises `EvidenceError` if the histories have too few values."""
    simulator = _Simulator(measured, simulate, folder, {each.name: each for each in drills.one_round(sizes)}, seed)
    found = _of_either_kind(simulator, fitting.estimated(measured))
    model = fitting.model_of(found)
    return Fit(model, dict(found), _residuals(simulator, model, sizes.rounds))


@dataclass(frozen=True)
class _Simulator:
    """The measured calibration drills, and a way to simulate them."""

    measured: Measured
    simulate: Simulate
    folder: Path
    drills: Mapping[str, Drill]
    seed: int

    def simulated(self, model: SystemModel, drill: str, number: int = 0) -> History:
        """One simulated round of a drill."""
        folder = self.folder / f"{drill}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        self.simulate(model)(self.drills[f"calibrate_{drill}"], folder, self.seed + number)
        return History(*run_header.read_verified(folder))

    def slower_s(self, model: SystemModel, drill: str) -> float:
        """How many seconds longer the measured drill took than the simulated one until nearly all clients were live again."""
        return _takes_s(self.measured.rounds[drill], _NEARLY_ALL) - _takes_s([self.simulated(model, drill)], _NEARLY_ALL)


@dataclass(frozen=True)
class Pace:
    """Variation of the service's speed between calibration drills.

    `spread` is the standard deviation of log(measured / simulated), `free` its degrees of freedom (0: too few rounds).
    """

    spread: float
    free: int

    @property
    def is_known(self) -> bool:
        """Whether the spread is known."""
        return self.free > 0


def pace_of(residuals: Sequence[Residual]) -> Pace:
    """From the time until nearly all were live in each round; every fitted parameter takes one degree of freedom."""
    pairs = [(each.simulated, took) for each in residuals if each.metric == _NEARLY_ALL_S for took in each.rounds]
    free = len(pairs) - len((_HANDSHAKE, _FRAME, _EVENT))
    if free < 1 or not all(simulated > 0 and took > 0 for simulated, took in pairs):
        return Pace(math.nan, 0)
    return Pace(math.sqrt(sum(math.log(took / simulated) ** 2 for simulated, took in pairs) / free), free)


def _takes_s(rounds: Sequence[History], share: float) -> float:
    """The median over rounds: on a shared machine, a round may take twice as long, but never half."""
    return float(np.median([estimates.return_s(history, share) for history in rounds]))


def _of_either_kind(simulator: _Simulator, alone: Numbers) -> Numbers:
    """Parameters with one event loop for handshakes and frames, or with separate workers."""
    workers = alone[_WORKERS]
    shared = {
        _WORKERS: msgspec.structs.replace(workers, value=1, how="one event loop"),
        _HANDSHAKE: msgspec.structs.replace(fitting.times(alone[_HANDSHAKE], 1 / workers.value), how=fitting.RETURN_SHARE),
        "server.one_loop": Estimate(1.0),
    }
    one = _corrected(simulator, {**alone, **shared})
    took = statistics.mean(np.array([estimates.return_s(history, _NEARLY_ALL) for history in simulator.measured.rounds[_BUSY]]))
    would_take_s = _takes_s([simulator.simulated(fitting.model_of(one), _BUSY)], _NEARLY_ALL)
    is_one = not took.upper < would_take_s
    how = f"the busy burst took {took.value:.3g} s ({took.lower:.3g}..{took.upper:.3g}); with one loop {would_take_s:.3g} s"
    kind = {"server.one_loop": Estimate(float(is_one), None, None, took.n, "", how)}
    if is_one:
        return {**_corrected(simulator, one, by_busy=True), **kind}
    return {**_corrected(simulator, {**alone, "server.one_loop": Estimate(0.0)}), **kind}


def _corrected(simulator: _Simulator, found: Numbers, by_busy: bool = False) -> Numbers:
    """Correct the parameters until simulated drills take as long as the measured ones."""
    replayed = float(np.mean([estimates.replayed_each(history) for history in simulator.measured.rounds["replay"]]))
    min_ms = found[_FRAME].value  # with other work, a frame takes no less time than in a fan-out
    for _ in range(_TURNS):
        if by_busy:
            found = _corrected_by(simulator, found, _FRAME, _BUSY, _frames_of_busy(simulator), min_ms)
        found = _corrected_by(
            simulator, found, _HANDSHAKE, "burst_large", _served(simulator, "burst_large") / found[_WORKERS].value
        )
        frame_ms = found[_FRAME].value + found[_EVENT].value
        found = _corrected_by(simulator, found, _EVENT, "replay", _served(simulator, "replay") * max(replayed, 1.0))
        found = {**found, _FRAME: _to(found[_FRAME], max(frame_ms - found[_EVENT].value, 0.0))}
    return found


def _served(simulator: _Simulator, drill: str) -> float:
    """Number of clients that are served until nearly all are live."""
    return _NEARLY_ALL * simulator.drills[f"calibrate_{drill}"].fleet.clients


def _frames_of_busy(simulator: _Simulator) -> float:
    """Approximate number of frames until nearly all are live: half of the fleet stays, the other half reconnects."""
    drill = simulator.drills[f"calibrate_{_BUSY}"]
    took_s = _takes_s(simulator.measured.rounds[_BUSY], _NEARLY_ALL)
    return took_s * drill.load.events_per_s * 0.75 * drill.fleet.clients + fitting.REPLIES * _served(simulator, _BUSY) / 2


def _corrected_by(
    simulator: _Simulator, found: Numbers, key: str, drill: str, times: float, min_ms: float = _MIN_MS
) -> Numbers:
    """Correct one parameter by the error of a drill, in which it counts `times` times."""
    missing_ms = simulator.slower_s(fitting.model_of(found), drill) * 1000
    if not math.isfinite(missing_ms):
        raise EvidenceError(
            f"the calibration drill {drill} cannot be fitted: too few clients were live again. Check the target."
        )
    return {**found, key: _to(found[key], max(found[key].value + missing_ms / times, min_ms))}


def _to(estimate: Estimate, value: float) -> Estimate:
    """Another value, with the interval scaled in proportion."""
    if estimate.value <= 0:
        return msgspec.structs.replace(estimate, value=value)
    return fitting.times(estimate, value / estimate.value)


_NEARLY_ALL_S = "return_95_s"
_RETURN_SHARES = {"return_50_s": 0.5, _NEARLY_ALL_S: _NEARLY_ALL}


def _residuals(simulator: _Simulator, model: SystemModel, rounds: int) -> tuple[Residual, ...]:
    """Errors of the fitted model for each burst and the replay."""
    found: list[Residual] = []
    for drill in (name.removeprefix("calibrate_") for name in simulator.drills):
        if drill == "mints":
            continue
        simulated = [simulator.simulated(model, drill, number) for number in range(rounds)]
        for what, share in _RETURN_SHARES.items():
            took = tuple(estimates.return_s(history, share) for history in simulator.measured.rounds[drill])
            one, other = float(np.median(took)), _takes_s(simulated, share)
            found.append(Residual(drill, what, one, other, (other - one) / one, took))
    return tuple(found)
