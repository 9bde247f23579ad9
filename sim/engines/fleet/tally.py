"""The results of a simulated world, as a `Tally`."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from sim.drill.system_model import SystemModel
from sim.engines.fleet.kernel import world as fleet_world
from sim.engines.fleet.kernel.world import Array, World
from sim.record import stations
from sim.record.stations import StationLoad
from sim.record.tally import Herd, Lives, Recovery, Sizes, Tally, sizes

_MAX_BINS = 2000  # per recorded series
_PERCENTS = (50, 95, 99)
_HERD_WINDOW = fleet_world.STEP_BINS // 10 + 1  # at least a tenth of a step
_LIFE_BINS_A_S = round(1 / fleet_world.LIFE_BIN_S)
_LIVES_UP_TO_S = 60


def tally_of(world: World, faults: Sequence[tuple[str, float, float]], unconverged: int, published: int) -> Tally:
    """Return a world's tally. `faults` has each fault's kind, start and end, in the order of the world's episodes."""
    service = world.service[0]
    after = world["sizes"][fleet_world.BOOTSTRAP_AFTER]
    bootstraps = after if after.sum() else world["sizes"][fleet_world.BOOTSTRAP_BEFORE]
    bin_s, series = _series(world)
    totals = {name: int(counts.sum()) for name, counts in zip(fleet_world.SERIES, world["series"], strict=True)}
    counted = ("backoffs", "refused_mints", "limited_subscribes", "replayed", "rebootstrapped", "held_mints")
    return Tally(
        clients=len(world["clients"]),
        events=int(service["events"]),
        bin_s=bin_s,
        series=series,
        totals={**totals, **{name: int(service[name]) for name in counted}, "published": published},
        disconnects=dict(zip(fleet_world.REASONS, world["reasons"].tolist(), strict=True)),
        peak_connects_per_s=_peak(world),
        recoveries=[found for index, each in enumerate(faults) if (found := _recovery(world, index, *each)) is not None],
        bootstrap_ms=_sizes(bootstraps),
        token_ms=_sizes(world["sizes"][fleet_world.TOKEN_WAIT]),
        max_backoff_ms=float(service["longest_ms"]) if service["longest_ms"] >= 0 else None,
        herds=_herds(world["herd"]),
        lives=_lives(world["lives"]),
        unconverged=unconverged,
        overloaded_at_s=_finite(float(service["overloaded_at"])),
    )


def loads_of(world: World, model: SystemModel) -> list[StationLoad]:
    """The load of each station of the kernel so far."""
    service, server, control = world.service[0], model.server, model.control
    delivery = stations.EVENT_LOOP if server.one_loop else stations.DELIVERY
    kept = (
        (fleet_world.TOKEN_LIMIT, stations.TOKEN_LIMIT, 1),
        (fleet_world.MINTING, stations.MINTING, control.mint_workers),
        (fleet_world.HANDSHAKES, stations.HANDSHAKES, server.handshake_workers),
        (fleet_world.DELIVERY, delivery, 1),
    )
    level_s, until_s = float(service["level_s"]), float(service["now"])
    since_s = _finite(float(service["first_fault_t"])) or 0.0

    def means(station: int, what: int) -> Array:
        row = 4 * station + 2 * what
        return stations.means(world["levels"][row], world["levels"][row + 1], level_s, until_s)

    def load(station: int, name: str, workers: int) -> StationLoad:
        busy, waiting = (means(station, what) for what in (fleet_world.BUSY, fleet_world.WAIT))
        found = stations.load(name, workers, level_s, busy, waiting, since_s)
        if name != stations.HANDSHAKES:
            return found
        refused, arrived = (
            int(service["unanswered"]),
            _in_bins(world["series"][fleet_world.REACHED], float(service["bin_s"]), found),
        )
        return msgspec.structs.replace(found, places=server.accept_backlog, refused=refused, arrived=arrived)

    return [load(*each) for each in kept if each[1] != stations.TOKEN_LIMIT or control.mints_per_s]


def _in_bins(counts: Array, bin_s: float, load: StationLoad) -> list[int]:
    """Counts in the wider bins of a load, as far as there are any."""
    used = np.flatnonzero(counts)
    found = np.bincount((used * bin_s / load.fine_s).astype(np.int64), weights=counts[used])
    return [int(count) for count in found]


def times_until(percents: Sequence[int], seconds: Array) -> list[float]:
    """The percentiles of `seconds`, by the nearest rank as in `sim.analysis.reconnects`."""
    places = [max(math.ceil(percent / 100 * len(seconds) - 1e-9), 1) - 1 for percent in percents]
    ordered = np.partition(seconds, places)
    return [float(ordered[place]) for place in places]


def _recovery(world: World, index: int, fault: str, began_s: float, ended_s: float) -> Recovery | None:
    clients = world["clients"]
    away = (clients["pending"] >> index & 1).astype(np.bool_)
    live_t = np.where(away, np.inf, world["live_t"][index])
    hit = live_t >= 0
    if not hit.any():
        return None
    live_s = np.maximum(live_t[hit] - ended_s, 0.0)
    tries = (world["tries"][index] + np.where(away, clients["tries"], 0))[hit]
    again = {str(percent): _finite(until) for percent, until in zip(_PERCENTS, times_until(_PERCENTS, live_s), strict=True)}
    return Recovery(fault, index, began_s, ended_s, len(live_s), again, float(tries.mean()), int(tries.max()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _series(world: World) -> tuple[float, dict[str, list[int]]]:
    """The bin width and the series until the run's end, in at most `_MAX_BINS` bins."""
    service = world.service[0]
    used = min(math.ceil(service["now"] / service["bin_s"]) + 1, world["series"].shape[1])
    joined = math.ceil(used / _MAX_BINS)
    starts = np.arange(0, used, joined)
    sums = np.add.reduceat(world["series"][:, :used], starts, axis=1, dtype=np.int64)
    return float(service["bin_s"]) * joined, {name: row.tolist() for name, row in zip(fleet_world.SERIES, sums, strict=True)}


def _peak(world: World) -> int | None:
    """Return the most connect attempts in any second since the first fault, by whole bins; None without a fault."""
    service, attempts = world.service[0], world["series"][fleet_world.ATTEMPTED]
    if not math.isfinite(service["first_fault_t"]):
        return None
    first = int(service["first_fault_t"] / service["bin_s"])
    sums = np.concatenate(([0], np.cumsum(attempts[first:], dtype=np.int64)))
    width = min(max(round(1.0 / service["bin_s"]), 1), len(sums) - 1)
    return int((sums[width:] - sums[: len(sums) - width]).max(initial=0)) if width else 0


def _sizes(counts: Array) -> Sizes:
    """Return the sizes in milliseconds."""
    places = np.arange(len(counts))
    octave = places // fleet_world.OCTAVE_BINS + fleet_world.LOWEST_OCTAVE
    part = 0.5 + (places % fleet_world.OCTAVE_BINS + 1) / (2 * fleet_world.OCTAVE_BINS)
    return sizes(np.ldexp(part, octave) * 1000, counts)


def _herds(herd: Array) -> list[Herd]:
    """Herds by attempt, and over all attempts if there are several."""
    attempts = [attempt for attempt in range(len(herd)) if herd[attempt].any()]
    rows = [(0, herd.sum(axis=0))] if len(attempts) > 1 else []
    rows += [(attempt, herd[attempt]) for attempt in attempts]
    return [Herd(attempt, int(row.sum()), _fullest(row)) for attempt, row in rows]


def _fullest(row: Array) -> int:
    sums = np.concatenate(([0], np.cumsum(row, dtype=np.int64)))
    return int((sums[_HERD_WINDOW:] - sums[:-_HERD_WINDOW]).max())


def _lives(lives: Array) -> list[Lives]:
    """For each tenth of a second up to a minute, the number of live periods that lasted at least that long."""
    at_least = lives[:, ::-1].cumsum(axis=1)[:, ::-1]
    wanted = range(_LIVES_UP_TO_S * _LIFE_BINS_A_S)
    return [Lives(place / _LIFE_BINS_A_S, int(at_least[0, place]), int(at_least[1, place])) for place in wanted]
