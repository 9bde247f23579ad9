"""From what the probes left to a system model: each number by itself, with its interval over the rounds.

The formulas follow the simulation's own course, with d for the one-way delay: a handshake is seen after 4 d and its service,
getting live takes 4 d more, a token 2 d and its service. What a full queue lets through tells a service's time where it is a
bottleneck; where single ones take longer than that, there is room for several at once, and the quotient says for how many.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from sim import observations, statistics
from sim.calibration import estimates, probes
from sim.calibration.probes import Sizes
from sim.drill import Drill
from sim.errors import EvidenceError, StormgateError, TargetError
from sim.history import Floats, History
from sim.observations import Kind, RunHeader
from sim.system_model import ControlService, Network, Server, SystemModel

RunProbe = Callable[[Drill, Path, int], RunHeader]  # into a folder, under a seed
MOST_WORKERS = 64
MOST_GENERATOR_LAG_MS = 50.0  # [ours] beyond, the probes measured the load generator
MOST_CHANGE = 1.0  # [ours] of a latency between the first and the last quiet probe: it doubled
_LEAST_CHANGE_MS = 2.0  # [ours] a smaller difference is none, whatever its share
_LEAST_DELAY_MS = 0.001
REPLIES = 3  # frames that a client gets while it gets live, besides a replay's


class ProbesCutShortError(StormgateError):
    """A probe did not reach its end."""


class Estimate(msgspec.Struct, frozen=True):
    """One number of the model: its mean over rounds and its two-sided 95 % interval, null where there is none."""

    value: float
    lower: float | None = None
    upper: float | None = None
    n: int = 0
    unit: str = ""
    how: str = ""


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


class Measured(msgspec.Struct, frozen=True):
    """What all probes left, by probe: one history a round."""

    quiet: tuple[History, ...]
    rounds: Mapping[str, tuple[History, ...]]


def measure(run: RunProbe, folder: Path, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Measured:
    """Run all probes: a quiet one, the rounds, and a quiet one again.

    Raises `TargetError` for a target that was not well or that changed meanwhile, `EvidenceError` where the load generator was
    too late to measure anything, and `ProbesCutShortError`.
    """

    def one(drill: Drill, name: str, seed: int) -> History:
        say(name)
        return _probe(run, drill, folder / name, seed)

    before = one(probes.quiet(sizes), "quiet-1", seed)
    found: dict[str, list[History]] = {}
    for number in range(sizes.rounds):
        for drill in probes.one_round(sizes):
            name = drill.name.removeprefix("calibrate_")
            found.setdefault(name, []).append(one(drill, f"{name}-{number + 1}", seed + number))
    after = one(probes.quiet(sizes), "quiet-2", seed)
    require_unchanged(before, after)
    return Measured((before, after), {name: tuple(histories) for name, histories in found.items()})


def _probe(run: RunProbe, drill: Drill, folder: Path, seed: int) -> History:
    folder.mkdir(parents=True, exist_ok=True)
    header = run(drill, folder, seed)
    if not header.complete:
        raise ProbesCutShortError(f"the probe {folder.name} was cut short: {header.stopped_because}; nothing was fitted.")
    history = History(*observations.read_verified(folder))
    if not estimates.is_well(history):
        raise TargetError(f"the target was not well during the probe {folder.name} (not everyone got live); mend it first.")
    if (late_ms := estimates.generator_lag_ms(history)) > MOST_GENERATOR_LAG_MS:
        raise EvidenceError(
            f"the load generator itself was {late_ms:.0f} ms late during the probe {folder.name}, so it measured this machine "
            "and not the target; calibrate when the machine is quieter."
        )
    return history


_QUIET: Mapping[str, Callable[[History], float]] = {
    "minting a token": lambda history: estimates.median_ms(history, Kind.TOKEN_MINTED),
    "a handshake": lambda history: estimates.median_ms(history, Kind.CONNECT_DONE),
    "publishing an event": estimates.publish_ms,
    "delivering an event": estimates.apply_ms,
}


def require_unchanged(before: History, after: History) -> None:
    """Raise `TargetError` if the target was another one at the end than at the beginning."""
    for what, of in _QUIET.items():
        one, other = of(before), of(after)
        if not abs(other - one) <= max(MOST_CHANGE * min(one, other), _LEAST_CHANGE_MS):
            raise TargetError(
                f"the target changed while it was calibrated: {what} took {one:.3g} ms before and {other:.3g} ms after; "
                "nothing was fitted. Calibrate again when nothing else happens to it."
            )


def fit(measured: Measured) -> tuple[SystemModel, dict[str, Estimate]]:
    """The model, and its estimates by the model's keys."""
    network = _network(measured.quiet)
    delay_ms, sigma = network["network.median_ms"], network["network.sigma"]
    handshake = _handshake(measured, delay_ms.value)
    minting = _minting(measured, delay_ms.value)
    delivery = _delivery(measured)
    publish = _estimate([estimates.publish_ms(each) for each in measured.quiet], "ms", "median of the quiet probes")
    model = SystemModel(
        network=Network(median_ms=delay_ms.value, sigma=sigma.value),
        server=Server(
            handshake_workers=int(handshake["server.handshake_workers"].value),
            handshake_ms=handshake["server.handshake_ms"].value,
            delivery_batch_ms=delivery["server.delivery_batch_ms"].value,
            delivery_event_ms=delivery["server.delivery_event_ms"].value,
            publish_ms=publish.value,
        ),
        control=ControlService(
            mint_workers=int(minting["control.mint_workers"].value), mint_ms=minting["control.mint_ms"].value
        ),
    )
    return model, {**network, **handshake, **minting, **delivery, "server.publish_ms": publish}


def _network(quiet: Sequence[History]) -> dict[str, Estimate]:
    """The delay from the two exchanges between an open socket and a live client, which no queue holds up."""
    delays = np.array([_delays_ms(history) for history in quiet])
    middle = _estimate(
        [float(np.nanmedian(row)) for row in delays], "ms", "a quarter of the time from open to live, when quiet"
    )
    # What the same client has of it in both probes is its own; what differs is noise, and no client's distance.
    logs = np.log(delays[:, np.isfinite(delays).all(axis=0)])
    shared = float(np.cov(logs[0], logs[-1])[0, 1]) if logs.shape[1] > 2 and len(logs) > 1 else 0.0
    spread = Estimate(math.sqrt(max(shared, 0.0)), None, None, logs.shape[1], "", "what clients share over both quiet probes")
    return {"network.median_ms": middle, "network.sigma": spread}


def _delays_ms(history: History) -> Floats:
    """By client, a quarter of the time from its open socket to its being live, in ms."""
    done, live = (_first_t(history, kind) for kind in (Kind.CONNECT_DONE, Kind.SUBSCRIBED))
    return np.maximum((live - done) * 1000 / 4, _LEAST_DELAY_MS)


def _first_t(history: History, kind: Kind) -> Floats:
    first = np.full(history.header.clients, np.nan)
    rows = history.fleet(kind)
    np.fmin.at(first, rows.client, rows.t)
    return first


def _handshake(measured: Measured, delay_ms: float) -> dict[str, Estimate]:
    steps = [estimates.live_step_ms(history) for history in measured.rounds["burst_large"]]
    alone_ms = float(np.mean([estimates.median_ms(history, Kind.CONNECT_DONE) for history in measured.quiet])) - 4 * delay_ms
    return _station("server.handshake", steps, alone_ms, "between two that get live in a burst")


def _minting(measured: Measured, delay_ms: float) -> dict[str, Estimate]:
    steps = [estimates.mint_step_ms(history) for history in measured.rounds["mints"]]
    alone_ms = float(np.mean([estimates.median_ms(history, Kind.TOKEN_MINTED) for history in measured.quiet])) - 2 * delay_ms
    return _station("control.mint", steps, alone_ms, "between two tokens when many wait")


def _station(name: str, steps_ms: Sequence[float], alone_ms: float, how: str) -> dict[str, Estimate]:
    """Workers and service time of a queue that lets one through every step, and keeps a single one for `alone_ms`.

    The number of workers is where more at once would only wait: the knee.
    """
    step = _estimate(steps_ms, "ms", how)
    workers = min(max(round(alone_ms / step.value), 1), MOST_WORKERS) if step.value > 0 else 1
    knee = f"one alone takes {alone_ms:.3g} ms, and every {step.value:.3g} ms one gets through"
    return {
        f"{name}_workers": Estimate(workers, None, None, step.n, "", knee),
        f"{name}_ms": _times(step, workers, f"{how}, times the workers"),
    }


def _delivery(measured: Measured) -> dict[str, Estimate]:
    """A frame with one event from a fan-out, and a replay's many events in few frames; both unknowns from both."""
    large = [estimates.fan_out_step_ms(history) for history in measured.rounds["burst_large"]]
    found = [_replay_costs(history, frame_ms) for history, frame_ms in zip(measured.rounds["replay"], large, strict=True)]
    batch, event = ([one[place] for one in found] for place in (0, 1))
    return {
        "server.delivery_batch_ms": _estimate(batch, "ms", "between two clients that get the same event, less an event"),
        "server.delivery_event_ms": _estimate(event, "ms", "what a client's replay takes of a full queue, by event"),
    }


def _replay_costs(history: History, frame_ms: float) -> tuple[float, float]:
    """What a frame, and an event in it, cost."""
    events, step_ms = estimates.replayed_each(history), estimates.replay_step_ms(history)
    frames = REPLIES + math.ceil(events / 200)  # a replay's batch
    event_ms = max((step_ms - frames * frame_ms) / max(events - frames, 1.0), 0.0)
    event_ms = min(event_ms, frame_ms)
    return frame_ms - event_ms, event_ms


def _estimate(values: Sequence[float], unit: str, how: str) -> Estimate:
    """The mean over rounds; raises `EvidenceError` where a round has none."""
    if any(math.isnan(value) for value in values):
        raise EvidenceError(
            f"a probe shows nothing of {how}: too few got that far; calibrate with more clients, or mend the target."
        )
    found = statistics.mean(np.array(values))
    return Estimate(found.value, _known(found.lower), _known(found.upper), len(values), unit, how)


def _times(estimate: Estimate, factor: float, how: str) -> Estimate:
    lower, upper = (None if bound is None else bound * factor for bound in (estimate.lower, estimate.upper))
    return msgspec.structs.replace(estimate, value=estimate.value * factor, lower=lower, upper=upper, how=how)


def _known(bound: float) -> float | None:
    return None if math.isnan(bound) else max(bound, 0.0)


# --- how well a model tells the probes it was made of -----------------------------------------------

_TOLD: Mapping[str, Callable[[History], float]] = {
    "live_again_50_s": lambda history: estimates.live_again_s(history, 0.5),
    "live_again_95_s": lambda history: estimates.live_again_s(history, 0.95),
}


def residuals(measured: Measured, simulate: RunProbe, folder: Path, sizes: Sizes, seed: int) -> tuple[Residual, ...]:
    """Each burst and replay beside its simulation with the fitted model, as means over the rounds."""
    found: list[Residual] = []
    for drill in probes.one_round(sizes)[1:]:
        name = drill.name.removeprefix("calibrate_")
        simulated = [_simulated(simulate, drill, folder / f"{name}-{n}", seed + n) for n in range(sizes.rounds)]
        for what, of in _TOLD.items():
            one, other = (float(np.mean([of(history) for history in each])) for each in (measured.rounds[name], simulated))
            found.append(Residual(name, what, one, other, (other - one) / one))
    return tuple(found)


def _simulated(simulate: RunProbe, drill: Drill, folder: Path, seed: int) -> History:
    folder.mkdir(parents=True, exist_ok=True)
    simulate(drill, folder, seed)
    return History(*observations.read_verified(folder))
