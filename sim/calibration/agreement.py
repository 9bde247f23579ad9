"""A model that tells its own probes: what single numbers leave out, the simulation knows.

How long a burst takes to return depends on all numbers at once, so two of them are corrected until the simulated probe takes
as long as the measured one: a handshake's time by the large burst, an event's by the replay. Whether handshakes and frames
share one worker is decided by the busy burst, which nothing is corrected by: the model that tells it better is taken.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from sim import observations
from sim.calibration import estimates, fitting, probes
from sim.calibration.fitting import Estimate
from sim.calibration.measuring import Measured, RunProbe
from sim.calibration.probes import Sizes
from sim.drill import Drill
from sim.errors import EvidenceError
from sim.history import History
from sim.system_model import SystemModel

Simulate = Callable[[SystemModel], RunProbe]
Numbers = Mapping[str, Estimate]
_NEARLY_ALL = 0.95
_TURNS = 3  # [ours] of correction: each leaves about a tenth of the difference
_LEAST_MS = 1e-4


class Residual(msgspec.Struct, frozen=True):
    """A probe's measure beside what the fitted model makes of that probe. `error` is (simulated - measured) / measured."""

    probe: str
    measure: str
    measured: float
    simulated: float
    error: float


class Fit(msgspec.Struct, frozen=True):
    """A model, each of its measured numbers by its key, and how well it tells its own probes."""

    model: SystemModel
    estimates: dict[str, Estimate]
    residuals: tuple[Residual, ...]


def fit(measured: Measured, simulate: Simulate, folder: Path, sizes: Sizes, seed: int) -> Fit:
    """Fit a model; simulated probes are kept in `folder`. Raises `EvidenceError` where the probes show too little."""
    bench = _Bench(measured, simulate, folder, {each.name: each for each in probes.one_round(sizes)}, seed)
    found = _of_either_kind(bench, fitting.estimated(measured))
    model = fitting.model_of(found)
    return Fit(model, dict(found), _residuals(bench, model, sizes.rounds))


@dataclass(frozen=True)
class _Bench:
    """The probes as they were measured, and a way to simulate them."""

    measured: Measured
    simulate: Simulate
    folder: Path
    drills: Mapping[str, Drill]
    seed: int

    def simulated(self, model: SystemModel, probe: str, number: int = 0) -> History:
        """A round of a probe, with this model."""
        folder = self.folder / f"{probe}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        self.simulate(model)(self.drills[f"calibrate_{probe}"], folder, self.seed + number)
        return History(*observations.read_verified(folder))

    def slower_s(self, model: SystemModel, probe: str) -> float:
        """By so much the measured probe took longer than the simulated one, until nearly all were live again."""
        return _takes_s(self.measured.rounds[probe], _NEARLY_ALL) - _takes_s([self.simulated(model, probe)], _NEARLY_ALL)


def _takes_s(rounds: Sequence[History], share: float) -> float:
    return float(np.mean([estimates.return_s(history, share) for history in rounds]))


def _of_either_kind(bench: _Bench, alone: Numbers) -> Numbers:
    """With handshakes and frames at one worker, or each at its own: as the busy burst says."""
    workers = alone["server.handshake_workers"].value
    shared = {
        "server.handshake_workers": msgspec.structs.replace(alone["server.handshake_workers"], value=1, how="of one loop"),
        "server.handshake_ms": fitting.times(alone["server.handshake_ms"], 1 / workers),
    }
    kinds = [_corrected(bench, {**alone, "server.one_loop": Estimate(0.0)}),
             _corrected(bench, {**alone, **shared, "server.one_loop": Estimate(1.0)})]  # fmt: skip
    misses = [bench.slower_s(fitting.model_of(each), "burst_busy") for each in kinds]
    apart, one = (abs(each) for each in misses)
    took_s = _takes_s(bench.measured.rounds["burst_busy"], _NEARLY_ALL)
    how = f"of a busy burst's {took_s:.3g} s, it misses {one:.3g} s with one loop, {apart:.3g} s without"
    chosen = kinds[one < apart]
    return {**chosen, "server.one_loop": msgspec.structs.replace(chosen["server.one_loop"], how=how)}


def _corrected(bench: _Bench, found: Numbers) -> Numbers:
    """Until simulated probes take as long as the measured ones."""
    replayed = float(np.mean([estimates.replayed_each(history) for history in bench.measured.rounds["replay"]]))
    for _ in range(_TURNS):
        handshakes = _paid(bench, "burst_large") / found["server.handshake_workers"].value
        found = _nearer(bench, found, "server.handshake_ms", "burst_large", handshakes)
        frame_ms = found["server.delivery_batch_ms"].value + found["server.delivery_event_ms"].value
        found = _nearer(bench, found, "server.delivery_event_ms", "replay", _paid(bench, "replay") * max(replayed, 1.0))
        batch_ms = max(frame_ms - found["server.delivery_event_ms"].value, 0.0)
        found = {**found, "server.delivery_batch_ms": _to(found["server.delivery_batch_ms"], batch_ms)}
    return found


def _paid(bench: _Bench, probe: str) -> float:
    """How many clients are served until nearly all are live."""
    return _NEARLY_ALL * bench.drills[f"calibrate_{probe}"].fleet.clients


def _nearer(bench: _Bench, found: Numbers, key: str, probe: str, times: float) -> Numbers:
    """One number changed by what a probe misses, if that number is paid so many times until the probe's end."""
    missing_ms = bench.slower_s(fitting.model_of(found), probe) * 1000
    if not math.isfinite(missing_ms):
        raise EvidenceError(f"too few were live again in the probe {probe}, so nothing can be fitted to it; mend the target.")
    return {**found, key: _to(found[key], max(found[key].value + missing_ms / times, _LEAST_MS))}


def _to(estimate: Estimate, value: float) -> Estimate:
    """Another value, with an interval as wide in proportion."""
    if estimate.value <= 0:
        return msgspec.structs.replace(estimate, value=value)
    return fitting.times(estimate, value / estimate.value)


_TOLD = {"return_50_s": 0.5, "return_95_s": 0.95}


def _residuals(bench: _Bench, model: SystemModel, rounds: int) -> tuple[Residual, ...]:
    """Each burst and replay beside its simulation with the fitted model, as means over the rounds."""
    found: list[Residual] = []
    for probe in (name.removeprefix("calibrate_") for name in bench.drills):
        if probe == "mints":
            continue
        simulated = [bench.simulated(model, probe, number) for number in range(rounds)]
        for what, share in _TOLD.items():
            one, other = _takes_s(bench.measured.rounds[probe], share), _takes_s(simulated, share)
            found.append(Residual(probe, what, one, other, (other - one) / one))
    return tuple(found)
