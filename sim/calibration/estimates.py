"""Single numbers from the history of a calibration drill: the median of a latency, the time per client in a queue.

While a queue is never empty, the time between two departures is the service time of the bottleneck. It is measured in the
middle of the queue, because its ends are not full.
"""

import math

import numpy as np

from sim.analysis import samples
from sim.record.history import Floats, History
from sim.record.ledger import Ledger
from sim.record.observations import Kind

_MIDDLE = (0.2, 0.8)  # [ours] of a queue, without its first and last fifth
_MIN_QUEUE = 8  # a shorter queue has no middle


def median_ms(history: History, kind: Kind) -> float:
    """The median value of a kind in milliseconds; NaN without values."""
    values = history.fleet(kind).value
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def publish_ms(history: History) -> float:
    """The median time from an event's due time to its acknowledgement."""
    values = history.of(Kind.PUBLISHED).value
    return float(np.median(values)) if len(values) else math.nan


def apply_ms(history: History) -> float:
    """The median time from an event's due time until a client applied it."""
    values = samples.publish_to_apply_ms(history, Ledger(history))
    return float(np.median(values)) if len(values) else math.nan


def queue_step_ms(t: Floats) -> float:
    """Milliseconds between two departures from a full queue at the times `t` (s, any order); NaN for too few."""
    if len(t) < _MIN_QUEUE:
        return math.nan
    ordered = np.sort(t)
    first, last = (int(share * (len(t) - 1)) for share in _MIDDLE)
    return float(ordered[last] - ordered[first]) / (last - first) * 1000


def mint_step_ms(history: History) -> float:
    """Time between two tokens when many clients wait."""
    return queue_step_ms(history.fleet(Kind.TOKEN_MINTED).t)


def fan_out_step_ms(history: History) -> float:
    """Median time between two clients that apply the same event, after all were live and before the first fault."""
    rows = history.fleet(Kind.APPLIED)
    before = rows.take(rows.t < history.first_fault_t)
    keys = before.stream * (1 + int(before.seq.max(initial=0))) + before.seq
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    arrived_t = history.first_live_t.max(initial=0.0)  # an arriving client takes service time from deliveries
    groups = [group for group in np.split(before.t[order], ends) if group.min(initial=np.inf) > arrived_t]
    known = [step for step in map(queue_step_ms, groups) if not math.isnan(step)]
    return float(np.median(known)) if known else math.nan


def replayed_each(history: History) -> float:
    """Mean number of replayed events per client after the fault."""
    rows = history.fleet(Kind.REPLAYED)
    rows = rows.take(rows.t >= history.first_fault_t)
    return float(np.maximum(rows.seq, 0).sum()) / history.header.clients


def return_step_ms(history: History) -> float:
    """Time per client when all clients reconnect at once: the total time divided by the number of clients."""
    opened, done = (_after_fault(history, kind) for kind in (Kind.CONNECT_DONE, Kind.SUBSCRIBED))
    if len(done) < _MIN_QUEUE:
        return math.nan
    return float(done.max() - opened.min()) / len(done) * 1000


def return_s(history: History, share: float) -> float:
    """Time from the first successful attempt after the fault until a share of the disconnected clients was live; NaN: never."""
    cut, opened = (history.fleet(kind) for kind in (Kind.DISCONNECTED, Kind.CONNECT_DONE))
    opened = opened.take(opened.t >= history.first_fault_t)
    live_t = np.sort(_after_fault(history, Kind.SUBSCRIBED))
    place = math.ceil(share * len(np.unique(cut.client[cut.t >= history.first_fault_t]))) - 1
    return float(live_t[place] - (opened.t - opened.value / 1000).min()) if 0 <= place < len(live_t) else math.nan


def generator_lag_ms(history: History) -> float:
    """The 95th percentile of the load generator's own lag."""
    values = history.of(Kind.GENERATOR_LAG).value
    return float(np.percentile(values, 95)) if len(values) else 0.0


def is_ready(history: History) -> bool:
    """Whether the steady state held before the first fault."""
    rows = history.of(Kind.STEADY)
    return bool(len(rows)) and bool((rows.value == 1).all())


def _after_fault(history: History, kind: Kind) -> Floats:
    """Per client, the time of its first row of a kind after the first fault."""
    rows = history.fleet(kind)
    rows = rows.take(rows.t >= history.first_fault_t).by_client()
    _, first = np.unique(rows.client, return_index=True)
    return rows.t[first]
