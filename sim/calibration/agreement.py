"""A model that tells its own probes: what single numbers leave out, the simulation knows.

How long a burst takes to return depends on all numbers at once, so some are corrected until the simulated probe takes as long
as the measured one: a handshake's time by the large burst, an event's by the replay. A lane is taken for one loop, where a
frame holds up handshakes, unless the busy burst shows that it is none: of two mistakes that one foretells no storm as too
short. Of one loop a frame's time is what holds up the busy burst, which among handshakes may be more than in a fan-out alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from sim.analysis import statistics
from sim.base.errors import EvidenceError
from sim.calibration import estimates, fitting, probes
from sim.calibration.fitting import Estimate
from sim.calibration.measuring import Measured, RunProbe
from sim.calibration.probes import Sizes
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.record import run_header
from sim.record.history import History

Simulate = Callable[[SystemModel], RunProbe]
Numbers = Mapping[str, Estimate]
_NEARLY_ALL = 0.95
_TURNS = 3  # [ours] of correction: each leaves about a tenth of the difference
_MIN_MS = 1e-4
_BUSY = "burst_busy"
_HANDSHAKE, _WORKERS = "server.handshake_ms", "server.handshake_workers"
_FRAME, _EVENT = "server.delivery_batch_ms", "server.delivery_event_ms"


class Residual(msgspec.Struct, frozen=True):
    """A probe's measure (s) beside what the fitted model makes of that probe, both as medians over the rounds.

    `error` is (simulated - measured) / measured, `rounds` what each round measured.
    """

    probe: str
    metric: str
    measured: float
    simulated: float
    error: float
    rounds: tuple[float, ...]


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
        return History(*run_header.read_verified(folder))

    def slower_s(self, model: SystemModel, probe: str) -> float:
        """By so much the measured probe took longer than the simulated one, until nearly all were live again."""
        return _takes_s(self.measured.rounds[probe], _NEARLY_ALL) - _takes_s([self.simulated(model, probe)], _NEARLY_ALL)


@dataclass(frozen=True)
class Pace:
    """How much quicker or slower than its model a lane is from one probe to the next.

    `spread` is the standard deviation, about the model, of the logarithm of measured over simulated; `free` are its degrees of
    freedom, none where too few rounds tell of it.
    """

    spread: float
    free: int

    @property
    def is_known(self) -> bool:
        """Whether there is a spread."""
        return self.free > 0


def pace_of(residuals: Sequence[Residual]) -> Pace:
    """From each round of each probe, until nearly all were live again; each number fitted to them leaves one free less."""
    told = [(each.simulated, took) for each in residuals if each.metric == _NEARLY_ALL_S for took in each.rounds]
    free = len(told) - len((_HANDSHAKE, _FRAME, _EVENT))
    if free < 1 or not all(simulated > 0 and took > 0 for simulated, took in told):
        return Pace(math.nan, 0)
    return Pace(math.sqrt(sum(math.log(took / simulated) ** 2 for simulated, took in told) / free), free)


def _takes_s(rounds: Sequence[History], share: float) -> float:
    """The median: on a machine that others share a round may be twice as long, and none is half as long."""
    return float(np.median([estimates.return_s(history, share) for history in rounds]))


def _of_either_kind(bench: _Bench, alone: Numbers) -> Numbers:
    """With handshakes and frames at one worker, or each at its own."""
    workers = alone[_WORKERS]
    shared = {
        _WORKERS: msgspec.structs.replace(workers, value=1, how="of one loop"),
        _HANDSHAKE: msgspec.structs.replace(fitting.times(alone[_HANDSHAKE], 1 / workers.value), how=fitting.RETURN_SHARE),
        "server.one_loop": Estimate(1.0),
    }
    one = _corrected(bench, {**alone, **shared})
    took = statistics.mean(np.array([estimates.return_s(history, _NEARLY_ALL) for history in bench.measured.rounds[_BUSY]]))
    would_take_s = _takes_s([bench.simulated(fitting.model_of(one), _BUSY)], _NEARLY_ALL)
    is_one = not took.upper < would_take_s
    how = f"a busy burst took {took.value:.3g} s ({took.lower:.3g}..{took.upper:.3g}); in one loop {would_take_s:.3g} s"
    kind = {"server.one_loop": Estimate(float(is_one), None, None, took.n, "", how)}
    if is_one:
        return {**_corrected(bench, one, by_busy=True), **kind}
    return {**_corrected(bench, {**alone, "server.one_loop": Estimate(0.0)}), **kind}


def _corrected(bench: _Bench, found: Numbers, by_busy: bool = False) -> Numbers:
    """Until simulated probes take as long as the measured ones."""
    replayed = float(np.mean([estimates.replayed_each(history) for history in bench.measured.rounds["replay"]]))
    min_ms = found[_FRAME].value  # among other work a frame is no quicker than in a fan-out
    for _ in range(_TURNS):
        if by_busy:
            found = _nearer(bench, found, _FRAME, _BUSY, _frames_of_busy(bench), min_ms)
        found = _nearer(bench, found, _HANDSHAKE, "burst_large", _paid(bench, "burst_large") / found[_WORKERS].value)
        frame_ms = found[_FRAME].value + found[_EVENT].value
        found = _nearer(bench, found, _EVENT, "replay", _paid(bench, "replay") * max(replayed, 1.0))
        found = {**found, _FRAME: _to(found[_FRAME], max(frame_ms - found[_EVENT].value, 0.0))}
    return found


def _paid(bench: _Bench, probe: str) -> float:
    """How many clients are served until nearly all are live."""
    return _NEARLY_ALL * bench.drills[f"calibrate_{probe}"].fleet.clients


def _frames_of_busy(bench: _Bench) -> float:
    """About how many frames are sent until nearly all are live: half of the fleet stays, the other half comes in between."""
    drill = bench.drills[f"calibrate_{_BUSY}"]
    took_s = _takes_s(bench.measured.rounds[_BUSY], _NEARLY_ALL)
    return took_s * drill.load.events_per_s * 0.75 * drill.fleet.clients + fitting.REPLIES * _paid(bench, _BUSY) / 2


def _nearer(bench: _Bench, found: Numbers, key: str, probe: str, times: float, least: float = _MIN_MS) -> Numbers:
    """One number changed by what a probe misses, if that number is paid so many times until the probe's end."""
    missing_ms = bench.slower_s(fitting.model_of(found), probe) * 1000
    if not math.isfinite(missing_ms):
        raise EvidenceError(f"too few were live again in the probe {probe}, so nothing can be fitted to it; mend the target.")
    return {**found, key: _to(found[key], max(found[key].value + missing_ms / times, least))}


def _to(estimate: Estimate, value: float) -> Estimate:
    """Another value, with an interval as wide in proportion."""
    if estimate.value <= 0:
        return msgspec.structs.replace(estimate, value=value)
    return fitting.times(estimate, value / estimate.value)


_NEARLY_ALL_S = "return_95_s"
_TOLD = {"return_50_s": 0.5, _NEARLY_ALL_S: _NEARLY_ALL}


def _residuals(bench: _Bench, model: SystemModel, rounds: int) -> tuple[Residual, ...]:
    """Each burst and replay beside its simulation with the fitted model."""
    found: list[Residual] = []
    for probe in (name.removeprefix("calibrate_") for name in bench.drills):
        if probe == "mints":
            continue
        simulated = [bench.simulated(model, probe, number) for number in range(rounds)]
        for what, share in _TOLD.items():
            took = tuple(estimates.return_s(history, share) for history in bench.measured.rounds[probe])
            one, other = float(np.median(took)), _takes_s(simulated, share)
            found.append(Residual(probe, what, one, other, (other - one) / one, took))
    return tuple(found)
