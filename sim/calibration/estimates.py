"""Single numbers from what a probe left: the median of a latency, the slope of a queue.

A queue that is never empty lets one through every so often, whatever each waited: the time between two that got through is the
time that one takes of the bottleneck. It is read from the middle of the queue, as its ends are not full.
"""

import math

import numpy as np

from sim.analysis import samples
from sim.record.history import Floats, History
from sim.record.ledger import Ledger
from sim.record.observations import Kind

_MIDDLE = (0.2, 0.8)  # [ours] of a queue: from its first fifth to its last
_FEWEST = 8  # a queue of fewer has no middle


def median_ms(history: History, kind: Kind) -> float:
    """The median of a kind's values, in milliseconds; NaN of none."""
    values = history.fleet(kind).value
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def publish_ms(history: History) -> float:
    """The median time from an event's due moment to its acknowledgement."""
    values = history.of(Kind.PUBLISHED).value
    return float(np.median(values)) if len(values) else math.nan


def apply_ms(history: History) -> float:
    """The median time from an event's due moment until a client had applied it."""
    values = samples.publish_to_apply_ms(history, Ledger(history))
    return float(np.median(values)) if len(values) else math.nan


def queue_step_ms(t: Floats) -> float:
    """Milliseconds between two that got through a full queue at the moments `t` (s, any order); NaN of too few."""
    if len(t) < _FEWEST:
        return math.nan
    ordered = np.sort(t)
    first, last = (int(share * (len(t) - 1)) for share in _MIDDLE)
    return float(ordered[last] - ordered[first]) / (last - first) * 1000


def mint_step_ms(history: History) -> float:
    """Between two tokens, when many wait for theirs."""
    return queue_step_ms(history.fleet(Kind.TOKEN_MINTED).t)


def fan_out_step_ms(history: History) -> float:
    """Between two clients that had the same event, as the median over events that found all live and nothing broken yet."""
    rows = history.fleet(Kind.APPLIED)
    before = rows.take(rows.t < history.first_fault_t)
    keys = before.stream * (1 + int(before.seq.max(initial=0))) + before.seq
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    arrived_t = history.first_live_t.max(initial=0.0)  # whoever arrives takes the lane's time from those who read
    groups = [group for group in np.split(before.t[order], ends) if group.min(initial=np.inf) > arrived_t]
    known = [step for step in map(queue_step_ms, groups) if not math.isnan(step)]
    return float(np.median(known)) if known else math.nan


def replayed_each(history: History) -> float:
    """How many events a client read again after the fault, on average."""
    rows = history.fleet(Kind.REPLAYED)
    rows = rows.take(rows.t >= history.first_fault_t)
    return float(np.maximum(rows.seq, 0).sum()) / history.header.clients


def return_step_ms(history: History) -> float:
    """What one client's coming back takes, when all of them come at once: of the whole, its share."""
    opened, done = (_after_fault(history, kind) for kind in (Kind.CONNECT_DONE, Kind.SUBSCRIBED))
    if len(done) < _FEWEST:
        return math.nan
    return float(done.max() - opened.min()) / len(done) * 1000


def return_s(history: History, share: float) -> float:
    """From the first attempt after the fault that got through until that share of those who were cut was live; NaN: never."""
    cut, opened = (history.fleet(kind) for kind in (Kind.DISCONNECTED, Kind.CONNECT_DONE))
    opened = opened.take(opened.t >= history.first_fault_t)
    live_t = np.sort(_after_fault(history, Kind.SUBSCRIBED))
    place = math.ceil(share * len(np.unique(cut.client[cut.t >= history.first_fault_t]))) - 1
    return float(live_t[place] - (opened.t - opened.value / 1000).min()) if 0 <= place < len(live_t) else math.nan


def generator_lag_ms(history: History) -> float:
    """How late the load generator itself was, at its 95th percentile."""
    values = history.of(Kind.GENERATOR_LAG).value
    return float(np.percentile(values, 95)) if len(values) else 0.0


def is_well(history: History) -> bool:
    """Whether everyone was live before anything was broken."""
    rows = history.of(Kind.STEADY)
    return bool(len(rows)) and bool((rows.value == 1).all())


def _after_fault(history: History, kind: Kind) -> Floats:
    """When each client did so for the first time after the first fault."""
    rows = history.fleet(kind)
    rows = rows.take(rows.t >= history.first_fault_t).by_client()
    _, first = np.unique(rows.client, return_index=True)
    return rows.t[first]
