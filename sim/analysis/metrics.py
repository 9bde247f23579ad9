"""What was measured in a run, for people and for comparisons: value, unit, n and which direction is better.

Nothing here passes or fails; that is `drills.judging.gates`. A measure of nothing has the value NaN and n = 0.
"""

from collections.abc import Iterator
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
    """One measured value. `n` is how many observations it is made of."""

    name: str
    value: float
    unit: str
    n: int
    better: Better = "lower"


def run_metrics(history: History, ledger: Ledger) -> list[Metric]:
    """All measures of a run."""
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
    """The smallest sample that at least `share` of all samples do not exceed; NaN of nothing."""
    return reconnects.time_until(share, np.sort(values))


def replay_amplification(history: History) -> Metric:
    """Events replayed for each event missed, after the first fault; 1 is ideal, NaN when nothing was missed."""
    rows = history.fleet(Kind.REPLAYED)
    rows = rows.take(rows.t >= history.first_fault_t)
    missed = float(np.nansum(rows.value))
    replayed = int(np.maximum(rows.seq, 0).sum())
    return Metric("replay_amplification", replayed / missed if missed else _NAN, "events/event", len(rows))


def _recovery(history: History) -> Iterator[Metric]:
    episodes = reconnects.episodes(history)
    affected = sum(episode.clients for episode in episodes)
    for percent in (50, 95, 99):
        worst = max((reconnects.time_until(percent / 100, episode.live_s) for episode in episodes), default=_NAN)
        yield Metric(f"live_again_{percent}_s", worst, "s", affected)
    worst = max((reconnects.time_until(0.99, episode.caught_up_s) for episode in episodes), default=_NAN)
    yield Metric("caught_up_99_s", worst, "s", affected)
    yield Metric("clients_disconnected_by_faults", affected, "clients", len(episodes), "neither")
    attempts = np.concatenate([np.zeros(0, np.int64), *(episode.attempts for episode in episodes)])
    mean, most = (float(attempts.mean()), float(attempts.max())) if len(attempts) else (_NAN, _NAN)
    yield Metric("attempts_per_client_mean", mean, "attempts", len(attempts))
    yield Metric("attempts_per_client_max", most, "attempts", len(attempts))


def _connects(history: History) -> Iterator[Metric]:
    attempts = len(history.fleet(Kind.CONNECT_ATTEMPTED))
    yield Metric("peak_connects_per_s", reconnects.peak_connects_per_s(history), "connects/s", attempts)
    yield Metric("connects_attempted", attempts, "connects", attempts, "neither")
    yield _count(history, "connects_failed", Kind.CONNECT_FAILED)
    disconnected = history.fleet(Kind.DISCONNECTED)
    yield Metric("disconnects", len(disconnected), "disconnects", len(disconnected))
    for reason, count in history.detail_counts(disconnected).items():
        yield Metric(f"disconnects.{reason or 'unknown'}", count, "disconnects", len(disconnected))
    yield _count(history, "heartbeat_timeouts", Kind.HEARTBEAT_TIMEOUT)
    yield _count(history, "slow_consumer_evictions", Kind.EVICTED)
    yield _count(history, "frames_malformed", Kind.MALFORMED)
    delays = history.fleet(Kind.BACKOFF).value
    yield Metric("backoff_max_ms", float(delays.max(initial=-1.0)) if len(delays) else _NAN, "ms", len(delays))


def _replays(history: History) -> Iterator[Metric]:
    yield replay_amplification(history)
    rebootstrapped = history.fleet(Kind.REBOOTSTRAPPED)
    again = rebootstrapped.take(~history.detail_is(rebootstrapped, ["fresh"]))
    clients = history.header.clients
    yield Metric("rebootstrapped_share", len(np.unique(again.client)) / clients if clients else _NAN, "ratio", clients)
    answers = samples.subscribe_answers(history)
    yield Metric("stale_answers", len(samples.stale_answers(history)), "answers", answers)
    declared = history.fleet(Kind.DECLARED_LOSS)
    yield Metric("declared_loss_events", float(np.nansum(declared.value)), "events", len(declared))
    yield Metric("unconverged_clients", len(samples.unconverged(history)), "clients", clients)


def _delivery(history: History, ledger: Ledger) -> Iterator[Metric]:
    yield Metric("published_events", len(ledger.published), "events", len(ledger.published), "neither")
    yield Metric("publishes_failed", samples.failed_publishes(history).hits, "publishes", samples.failed_publishes(history).n)
    applied = len(history.fleet(Kind.APPLIED))
    yield Metric("applied_events", applied, "events", applied, "neither")
    yield Metric("dropped_deliveries", ledger.dropped.count, "events", ledger.expected)
    yield _count(history, "duplicates_dropped", Kind.DUPLICATE_DROPPED, "neither")
    yield _count(history, "gaps", Kind.GAP)


def _latencies(history: History, ledger: Ledger) -> Iterator[Metric]:
    yield from _percentiles("publish_to_apply", samples.publish_to_apply_ms(history, ledger), "ms")
    yield from _percentiles("bootstrap", samples.bootstrap_ms(history), "ms")
    yield from _percentiles("client_lag", samples.client_lag_events(history), "events")
    yield from _percentiles("generator_lag", samples.generator_lag_ms(history), "ms")
    minted = history.fleet(Kind.TOKEN_MINTED).value
    yield from _percentiles("token_mint", minted, "ms")


def _percentiles(name: str, values: Floats, unit: str) -> Iterator[Metric]:
    yield from _of_ascending(name, np.sort(values), unit)


def _of_ascending(name: str, values: Floats, unit: str) -> Iterator[Metric]:
    for percent in (50, 95, 99):
        yield Metric(f"{name}_p{percent}_{unit}", reconnects.time_until(percent / 100, values), unit, len(values))
    yield Metric(f"{name}_max_{unit}", float(values[-1]) if len(values) else _NAN, unit, len(values))


def _count(history: History, name: str, kind: Kind, better: Better = "lower") -> Metric:
    count = len(history.fleet(kind))
    return Metric(name, count, "count", count, better)


# --- of a fleet run ---------------------------------------------------------------------------------


def tally_metrics(tally: Tally) -> Iterator[Metric]:
    """Those measures that a fleet run counts, by the same names; the others it has not."""
    yield from _tallied_recovery(tally)
    totals = tally.totals
    attempts, failed = totals["connects_attempted"], totals["connects_failed"]
    peak = _NAN if tally.peak_connects_per_s is None else tally.peak_connects_per_s
    yield Metric("peak_connects_per_s", peak, "connects/s", attempts)
    yield Metric("connects_attempted", attempts, "connects", attempts, "neither")
    yield Metric("connects_failed", failed, "count", failed)
    lost = sum(tally.disconnects.values())
    yield Metric("disconnects", lost, "disconnects", lost)
    for reason, count in sorted(tally.disconnects.items(), key=lambda item: (-item[1], item[0])):
        if count:
            yield Metric(f"disconnects.{reason}", count, "disconnects", lost)
    longest = _NAN if tally.longest_backoff_ms is None else tally.longest_backoff_ms
    yield Metric("backoff_max_ms", longest, "ms", totals["backoffs"])
    yield Metric("rebootstrapped_share", totals["rebootstrapped"] / tally.clients, "ratio", tally.clients)
    yield Metric("stale_answers", totals["stale_answers"], "answers", totals["subscribe_answers"])
    yield Metric("unconverged_clients", tally.unconverged, "clients", tally.clients)
    yield Metric("published_events", totals["published"], "events", totals["published"], "neither")
    yield from _of_ascending("bootstrap", tally.bootstrap_ms.samples(), "ms")
    yield from _of_ascending("token_mint", tally.token_ms.samples(), "ms")


def _tallied_recovery(tally: Tally) -> Iterator[Metric]:
    recoveries = tally.recoveries
    affected = sum(each.clients for each in recoveries)
    for percent in (50, 95, 99):
        never = [each.live_again_s[str(percent)] is None for each in recoveries]
        seconds = [each.live_again_s[str(percent)] or 0.0 for each in recoveries]
        worst = float("inf") if any(never) else max(seconds, default=_NAN)
        yield Metric(f"live_again_{percent}_s", worst, "s", affected)
        if percent == 99:  # a client is live when its replay is complete: both in one answer
            yield Metric("caught_up_99_s", worst, "s", affected)
    yield Metric("clients_disconnected_by_faults", affected, "clients", len(recoveries), "neither")
    mean = sum(each.tries_mean * each.clients for each in recoveries) / affected if affected else _NAN
    yield Metric("attempts_per_client_mean", mean, "attempts", affected)
    most = float(max((each.tries_most for each in recoveries), default=0)) if affected else _NAN
    yield Metric("attempts_per_client_max", most, "attempts", affected)
