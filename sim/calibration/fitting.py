"""From the histories of the calibration drills to the parameters of a system model, each with its interval over the rounds.

The formulas follow the simulation, with d for the one-way delay: a handshake takes 4 d and its service time, becoming live
takes another 4 d, a token 2 d and its service time. Departures from a full queue give the service time of the bottleneck. If a
single request takes longer than that, several are served at once, and the quotient is the number of workers.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from sim.analysis import statistics
from sim.base.errors import EvidenceError
from sim.calibration import estimates
from sim.calibration.measuring import Measured
from sim.drill.system_model import ControlService, Network, Server, SystemModel
from sim.record.history import Floats, History
from sim.record.observations import Kind

MAX_WORKERS = 64
_MIN_DELAY_MS = _MIN_STEP_MS = 0.001
RETURN_SHARE = "time per client in a burst, less the frames it gets"
REPLIES = 3  # frames that a client gets while it becomes live, without a replay


class Estimate(msgspec.Struct, frozen=True):
    """One parameter of the model: the mean over rounds and its two-sided 95 % interval (null: unknown)."""

    value: float
    lower: float | None = None
    upper: float | None = None
    n: int = 0
    unit: str = ""
    how: str = ""


def estimated(measured: Measured) -> dict[str, Estimate]:
    """All parameters, by the keys of the model."""
    network = _network(measured.quiet)
    delay_ms = network["network.median_ms"].value
    delivery = _delivery(measured)
    publish = _estimate([estimates.publish_ms(each) for each in measured.quiet], "ms", "median of the quiet drills")
    return {
        **network,
        **_handshake(measured, delay_ms, delivery),
        **_minting(measured, delay_ms),
        **delivery,
        "server.publish_ms": publish,
    }


def model_of(found: Mapping[str, Estimate]) -> SystemModel:
    """A system model with these parameters; all others keep their default."""
    value = {key: each.value for key, each in found.items()}
    return SystemModel(
        network=Network(median_ms=value["network.median_ms"], sigma=value["network.sigma"]),
        server=Server(
            one_loop=bool(value.get("server.one_loop", 0.0)),
            handshake_workers=int(value["server.handshake_workers"]),
            handshake_ms=value["server.handshake_ms"],
            delivery_batch_ms=value["server.delivery_batch_ms"],
            delivery_event_ms=value["server.delivery_event_ms"],
            publish_ms=value["server.publish_ms"],
        ),
        control=ControlService(mint_workers=int(value["control.mint_workers"]), mint_ms=value["control.mint_ms"]),
    )


def _network(quiet: Sequence[History]) -> dict[str, Estimate]:
    """The delay, from the two round trips between an open socket and a live client, where no client waits in a queue."""
    delays = np.array([_delays_ms(history) for history in quiet])
    middle = _estimate(
        [float(np.nanmedian(row)) for row in delays], "ms", "a quarter of the time from open to live, without load"
    )
    # What a client has in common in both drills is its own distance; the rest is noise.
    logs = np.log(delays[:, np.isfinite(delays).all(axis=0)])
    shared = float(np.cov(logs[0], logs[-1])[0, 1]) if logs.shape[1] > 2 and len(logs) > 1 else 0.0
    spread = Estimate(math.sqrt(max(shared, 0.0)), None, None, logs.shape[1], "", "common to both quiet drills, per client")
    return {"network.median_ms": middle, "network.sigma": spread}


def _delays_ms(history: History) -> Floats:
    """Per client, a quarter of the time from its open socket until it was live, in ms."""
    done, live = (_first_t(history, kind) for kind in (Kind.CONNECT_DONE, Kind.SUBSCRIBED))
    return np.maximum((live - done) * 1000 / 4, _MIN_DELAY_MS)


def _first_t(history: History, kind: Kind) -> Floats:
    first = np.full(history.header.clients, np.nan)
    rows = history.fleet(kind)
    np.fmin.at(first, rows.client, rows.t)
    return first


def _handshake(measured: Measured, delay_ms: float, delivery: Mapping[str, Estimate]) -> dict[str, Estimate]:
    replies_ms = REPLIES * delivery["server.delivery_batch_ms"].value
    steps = [estimates.return_step_ms(history) - replies_ms for history in measured.rounds["burst_large"]]
    alone_ms = float(np.mean([estimates.median_ms(history, Kind.CONNECT_DONE) for history in measured.quiet])) - 4 * delay_ms
    steps = [max(step, _MIN_STEP_MS) for step in steps]
    return _station("server.handshake", steps, alone_ms, RETURN_SHARE)


def _minting(measured: Measured, delay_ms: float) -> dict[str, Estimate]:
    steps = [estimates.mint_step_ms(history) for history in measured.rounds["mints"]]
    alone_ms = float(np.mean([estimates.median_ms(history, Kind.TOKEN_MINTED) for history in measured.quiet])) - 2 * delay_ms
    return _station("control.mint", steps, alone_ms, "time between two tokens when many clients wait")


def _station(name: str, steps_ms: Sequence[float], alone_ms: float, how: str) -> dict[str, Estimate]:
    """Workers and service time of a queue with a departure every step, in which a single client takes `alone_ms`."""
    step = _estimate(steps_ms, "ms", how)
    workers = min(max(round(alone_ms / step.value), 1), MAX_WORKERS) if step.value > 0 else 1
    knee = f"a single one takes {alone_ms:.3g} ms, and in a queue one departs every {step.value:.3g} ms"
    return {
        f"{name}_workers": Estimate(workers, None, None, step.n, "", knee),
        f"{name}_ms": times(msgspec.structs.replace(step, how=f"{how}, times the workers"), workers),
    }


def _delivery(measured: Measured) -> dict[str, Estimate]:
    """Time per frame and per event, from a fan-out (one event per frame) and a replay (many events per frame)."""
    busy = [estimates.fan_out_step_ms(history) for history in measured.rounds["burst_busy"]]
    found = [_replay_costs(history, frame_ms) for history, frame_ms in zip(measured.rounds["replay"], busy, strict=True)]
    batch, event = ([one[place] for one in found] for place in (0, 1))
    return {
        "server.delivery_batch_ms": _estimate(batch, "ms", "time between two clients that get the same event, less an event"),
        "server.delivery_event_ms": _estimate(event, "ms", "time per event of a replay in a full queue"),
    }


def _replay_costs(history: History, frame_ms: float) -> tuple[float, float]:
    """Time per frame, and per event in it, in ms."""
    events, step_ms = estimates.replayed_each(history), estimates.return_step_ms(history)
    frames = REPLIES + math.ceil(events / 200)  # events per batch of a replay
    event_ms = max((step_ms - frames * frame_ms) / max(events - frames, 1.0), 0.0)
    event_ms = min(event_ms, frame_ms)
    return frame_ms - event_ms, event_ms


def _estimate(values: Sequence[float], unit: str, how: str) -> Estimate:
    """The mean over rounds. Raises `EvidenceError` if a round has no value."""
    if any(math.isnan(value) for value in values):
        raise EvidenceError(
            f"a calibration drill has no value for '{how}': too few clients became live. Use more clients, or check the target."
        )
    found = statistics.mean(np.array(values))
    return Estimate(found.value, _known(found.lower), _known(found.upper), len(values), unit, how)


def times(estimate: Estimate, factor: float) -> Estimate:
    """An estimate times a factor, with its interval."""
    lower, upper = (None if bound is None else bound * factor for bound in (estimate.lower, estimate.upper))
    return msgspec.structs.replace(estimate, value=estimate.value * factor, lower=lower, upper=upper)


def _known(bound: float) -> float | None:
    return None if math.isnan(bound) else max(bound, 0.0)
