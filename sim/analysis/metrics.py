"""Metrics of a run, for people and for comparisons: value, unit, n and which direction is better.

`drills.judging.gates` decides what passes. A metric without samples has the value NaN and n = 0.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim.analysis import reconnects, samples
from sim.record.history import Floats, History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.tally import Tally

Better = Literal["lower", "higher", "neither"]
_NAN = float("nan")


@dataclass(frozen=True)
class Metric:
    """One measured value; `n` is the number of observations behind it."""

    name: str
    value: float
    unit: str
    n: int
    better: Better = "lower"


def run_metrics(history: History, ledger: Ledger) -> list[Metric]:
    """All metrics of a run."""
    if history.header.tally is not None:
        return list(tally_metrics(history.header.tally))
    return [
        *_recovery(history),
        *_connects(history),
        *_replays(history),
        *_delivery(history, ledger),
        *_latencies(history, ledger),
    ]


def percentile(values: Floats, share: float) -> float:
    """The smallest sample that at least `share` of all samples do not exceed; NaN without samples."""
    return reconnects.time_until(share, np.sort(values))


def replay_amplification(history: History) -> Metric:
    """Events replayed per missed event after the first fault; 1 is ideal, NaN if nothing was missed."""
    rows = history.fleet(Kind.REPLAYED)
    rows = rows.take(rows.t >= history.first_fault_t)
    missed = float(np.nansum(rows.value))
    replayed = int(np.maximum(rows.seq, 0).sum())
    return Metric("replay_amplification", replayed / missed if missed else _NAN, "events/event", len(rows))


def _recovery(history: History) -> Iterator[Metric]:
    episodes = reconnects.episodes(history)
    attempts = np.concatenate([np.zeros(0, np.int64), *(episode.attempts for episode in episodes)])
    mean, most = (float(attempts.mean()), float(attempts.max())) if len(attempts) else (_NAN, _NAN)

    def live_again_s(percent: int) -> float:
        return max((reconnects.time_until(percent / 100, episode.live_s) for episode in episodes), default=_NAN)

    caught_up_s = max((reconnects.time_until(0.99, episode.caught_up_s) for episode in episodes), default=_NAN)
    yield from _recovery_metrics(len(episodes), len(attempts), live_again_s, caught_up_s, mean, most)


def _recovery_metrics(
    faults: int, clients: int, live_again_s: Callable[[int], float], caught_up_s: float, mean: float, most: float
) -> Iterator[Metric]:
    for percent in (50, 95, 99):
        yield Metric(f"live_again_{percent}_s", live_again_s(percent), "s", clients)
    yield Metric("caught_up_99_s", caught_up_s, "s", clients)
    yield Metric("clients_disconnected_by_faults", clients, "clients", faults, "neither")
    yield Metric("attempts_per_client_mean", mean, "attempts", clients)
    yield Metric("attempts_per_client_max", most, "attempts", clients)


def _connects(history: History) -> Iterator[Metric]:
    attempts, failed = len(history.fleet(Kind.CONNECT_ATTEMPTED)), len(history.fleet(Kind.CONNECT_FAILED))
    reasons = history.detail_counts(history.fleet(Kind.DISCONNECTED))
    yield from _connect_metrics(reconnects.peak_connects_per_s(history), attempts, failed, reasons)
    yield _count(history, "heartbeat_timeouts", Kind.HEARTBEAT_TIMEOUT)
    yield _count(history, "slow_consumer_evictions", Kind.EVICTED)
    yield _count(history, "frames_malformed", Kind.MALFORMED)
    delays = history.fleet(Kind.BACKOFF).value
    yield Metric("backoff_max_ms", float(delays.max()) if len(delays) else _NAN, "ms", len(delays))


def _connect_metrics(peak: float, attempts: int, failed: int, disconnects: Mapping[str, int]) -> Iterator[Metric]:
    yield Metric("peak_connects_per_s", peak, "connects/s", attempts)
    yield Metric("connects_attempted", attempts, "connects", attempts, "neither")
    yield Metric("connects_failed", failed, "count", failed)
    total = sum(disconnects.values())
    yield Metric("disconnects", total, "disconnects", total)
    for reason, count in disconnects.items():
        yield Metric(f"disconnects.{reason or 'unknown'}", count, "disconnects", total)


def _replays(history: History) -> Iterator[Metric]:
    yield replay_amplification(history)
    rebootstrapped = history.fleet(Kind.REBOOTSTRAPPED)
    rebootstrapped = rebootstrapped.take(~history.detail_is(rebootstrapped, ["fresh"]))
    clients = history.header.clients
    share = len(np.unique(rebootstrapped.client)) / clients if clients else _NAN
    yield Metric("rebootstrapped_share", share, "ratio", clients)
    answers = samples.subscribe_answers(history)
    yield Metric("stale_answers", len(samples.stale_answers(history)), "answers", answers)
    declared = history.fleet(Kind.DECLARED_LOSS)
    yield Metric("declared_loss_events", float(np.nansum(declared.value)), "events", len(declared))
    yield Metric("unconverged_clients", len(samples.unconverged(history)), "clients", clients)


def _delivery(history: History, ledger: Ledger) -> Iterator[Metric]:
    published, failed = len(ledger.published), samples.failed_publishes(history)
    yield Metric("published_events", published, "events", published, "neither")
    yield Metric("publishes_failed", failed.hits, "publishes", failed.n)
    applied = len(history.fleet(Kind.APPLIED))
    yield Metric("applied_events", applied, "events", applied, "neither")
    if foreign := ledger.foreign_events:
        yield Metric("foreign_events", foreign, "events", applied, "neither")
    yield Metric("dropped_deliveries", ledger.dropped.count, "events", ledger.expected)
    yield _count(history, "duplicates_dropped", Kind.DUPLICATE_DROPPED, "neither")
    yield _count(history, "gaps", Kind.GAP)


def _latencies(history: History, ledger: Ledger) -> Iterator[Metric]:
    yield from _percentiles("publish_to_apply", samples.publish_to_apply_ms(history, ledger), "ms")
    yield from _percentiles("bootstrap", samples.bootstrap_ms(history), "ms")
    yield from _percentiles("client_lag", samples.client_lag_events(history), "events")
    yield from _percentiles("generator_lag", samples.generator_lag_ms(history), "ms")
    yield from _percentiles("token_mint", history.fleet(Kind.TOKEN_MINTED).value, "ms")


def _percentiles(name: str, values: Floats, unit: str) -> Iterator[Metric]:
    ordered = np.sort(values)
    for percent in (50, 95, 99):
        yield Metric(f"{name}_p{percent}_{unit}", reconnects.time_until(percent / 100, ordered), unit, len(ordered))
    yield Metric(f"{name}_max_{unit}", float(ordered[-1]) if len(ordered) else _NAN, unit, len(ordered))


def _count(history: History, name: str, kind: Kind, better: Better = "lower") -> Metric:
    count = len(history.fleet(kind))
    return Metric(name, count, "count", count, better)


# --- of a fleet run ---------------------------------------------------------------------------------


def tally_metrics(tally: Tally) -> Iterator[Metric]:
    """The metrics that a fleet run counts, with the same names; it has no others."""
    yield from _tallied_recovery(tally)
    totals, peak, backoff = tally.totals, tally.peak_connects_per_s, tally.max_backoff_ms
    reasons = sorted(tally.disconnects.items(), key=lambda item: (-item[1], item[0]))
    disconnects = {reason: count for reason, count in reasons if count}
    peak_connects = _NAN if peak is None else peak
    yield from _connect_metrics(peak_connects, totals["connects_attempted"], totals["connects_failed"], disconnects)
    yield Metric("backoff_max_ms", _NAN if backoff is None else backoff, "ms", totals["backoffs"])
    yield Metric("rebootstrapped_share", totals["rebootstrapped"] / tally.clients, "ratio", tally.clients)
    yield Metric("stale_answers", totals["stale_answers"], "answers", totals["subscribe_answers"])
    yield Metric("unconverged_clients", tally.unconverged, "clients", tally.clients)
    yield Metric("published_events", totals["published"], "events", totals["published"], "neither")
    yield from _percentiles("bootstrap", tally.bootstrap_ms.samples(), "ms")
    yield from _percentiles("token_mint", tally.token_ms.samples(), "ms")


def _tallied_recovery(tally: Tally) -> Iterator[Metric]:
    recoveries = tally.recoveries
    clients = sum(each.clients for each in recoveries)

    def live_again_s(percent: int) -> float:
        found = [each.live_again_s[str(percent)] for each in recoveries]
        return max((float("inf") if seconds is None else seconds for seconds in found), default=_NAN)

    mean = sum(each.attempts_mean * each.clients for each in recoveries) / clients if clients else _NAN
    most = float(max(each.attempts_max for each in recoveries)) if clients else _NAN
    # A simulated client is live and caught up at the same time: both come in one answer.
    yield from _recovery_metrics(len(recoveries), clients, live_again_s, live_again_s(99), mean, most)
