"""From what the probes left to the numbers of a system model: each by itself, with its interval over the rounds.

The formulas follow the simulation's own course, with d for the one-way delay: a handshake is seen after 4 d and its service,
getting live takes 4 d more, a token 2 d and its service. What a full queue lets through tells a service's time where it is a
bottleneck; where single ones take longer than that, there is room for several at once, and the quotient says for how many.
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
RETURN_SHARE = "a client's share of a burst's return, less the frames it gets"
REPLIES = 3  # frames that a client gets while it gets live, besides a replay's


class Estimate(msgspec.Struct, frozen=True):
    """One number of the model: its mean over rounds and its two-sided 95 % interval, null where there is none."""

    value: float
    lower: float | None = None
    upper: float | None = None
    n: int = 0
    unit: str = ""
    how: str = ""


def estimated(measured: Measured) -> dict[str, Estimate]:
    """Each number by itself, by the model's keys."""
    network = _network(measured.quiet)
    delay_ms = network["network.median_ms"].value
    delivery = _delivery(measured)
    publish = _estimate([estimates.publish_ms(each) for each in measured.quiet], "ms", "median of the quiet probes")
    return {
        **network,
        **_handshake(measured, delay_ms, delivery),
        **_minting(measured, delay_ms),
        **delivery,
        "server.publish_ms": publish,
    }


def model_of(found: Mapping[str, Estimate]) -> SystemModel:
    """A system model of these numbers; whatever else it has keeps its default."""
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
    least = [max(step, _MIN_STEP_MS) for step in steps]
    return _station("server.handshake", least, alone_ms, RETURN_SHARE)


def _minting(measured: Measured, delay_ms: float) -> dict[str, Estimate]:
    steps = [estimates.mint_step_ms(history) for history in measured.rounds["mints"]]
    alone_ms = float(np.mean([estimates.median_ms(history, Kind.TOKEN_MINTED) for history in measured.quiet])) - 2 * delay_ms
    return _station("control.mint", steps, alone_ms, "between two tokens when many wait")


def _station(name: str, steps_ms: Sequence[float], alone_ms: float, how: str) -> dict[str, Estimate]:
    """Workers and service time of a queue that lets one through every step, and keeps a single one for `alone_ms`.

    The number of workers is where more at once would only wait: the knee.
    """
    step = _estimate(steps_ms, "ms", how)
    workers = min(max(round(alone_ms / step.value), 1), MAX_WORKERS) if step.value > 0 else 1
    knee = f"one alone takes {alone_ms:.3g} ms, and every {step.value:.3g} ms one gets through"
    return {
        f"{name}_workers": Estimate(workers, None, None, step.n, "", knee),
        f"{name}_ms": times(msgspec.structs.replace(step, how=f"{how}, times the workers"), workers),
    }


def _delivery(measured: Measured) -> dict[str, Estimate]:
    """A frame with one event from a fan-out, and a replay's many events in few frames; both unknowns from both."""
    busy = [estimates.fan_out_step_ms(history) for history in measured.rounds["burst_busy"]]
    found = [_replay_costs(history, frame_ms) for history, frame_ms in zip(measured.rounds["replay"], busy, strict=True)]
    batch, event = ([one[place] for one in found] for place in (0, 1))
    return {
        "server.delivery_batch_ms": _estimate(batch, "ms", "between two clients that get the same event, less an event"),
        "server.delivery_event_ms": _estimate(event, "ms", "what a client's replay takes of a full queue, by event"),
    }


def _replay_costs(history: History, frame_ms: float) -> tuple[float, float]:
    """What a frame, and an event in it, cost."""
    events, step_ms = estimates.replayed_each(history), estimates.return_step_ms(history)
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


def times(estimate: Estimate, factor: float) -> Estimate:
    """So many times an estimate, with its interval."""
    lower, upper = (None if bound is None else bound * factor for bound in (estimate.lower, estimate.upper))
    return msgspec.structs.replace(estimate, value=estimate.value * factor, lower=lower, upper=upper)


def _known(bound: float) -> float | None:
    return None if math.isnan(bound) else max(bound, 0.0)
