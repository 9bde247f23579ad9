"""The service's log: acknowledged events that are gone or have two payloads, and logs that were created again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.analysis import new_logs
from sim.analysis.invariants.evidence import Evidence, Violation
from sim.analysis.invariants.watermarks import EPOCH_SPAN
from sim.record.history import History, Rows, at
from sim.record.observations import Kind
from sim.record.sorting import order_of


def log_recreated(evidence: Evidence) -> Iterator[Violation]:
    """Streams whose positions started over, where positions have no epoch: a client cannot notice that its position is old."""
    history = evidence.history
    found = [] if history.has_epochs else new_logs.restarts(history)
    if found:
        first = max(found, key=lambda restart: restart.unaware)
        count = sum(max(restart.unaware, 1) for restart in found)
        yield Violation("log_recreated", count, f"{first}. Without epochs, clients cannot notice")


def resumed_in_new_log(evidence: Evidence) -> Rows:
    """Events of a new log that a client applied at its position of the old log, where positions have an epoch."""
    history = evidence.history
    unaware, resumed = new_logs.went_on(history), new_logs.resumed(history)
    if not history.has_epochs:
        return unaware.take(np.zeros(0, np.int64))
    return unaware.and_then(resumed.take(~np.isin(resumed.number, unaware.number)))


def acknowledged_lost(evidence: Evidence) -> Iterator[Violation]:
    """Acknowledged events that are no longer in the log, that have two payloads, or that share one position."""
    history, ledger = evidence.history, evidence.ledger
    lost = ledger.lost_by_authority
    kept = ledger.published.without(lost, history.of(Kind.PUBLISHED))
    conflicts, first_conflict = _conflicts(history, kept)
    merged = ledger.merged(kept)
    first = first_conflict or f"{merged} publishes were acknowledged with the position of an earlier event"
    if len(lost):
        event = lost[np.argmin(ledger.published.acknowledged_t[lost])]
        which = ledger.name_of(int(event))
        first = f"{which}, acknowledged at {ledger.published.acknowledged_t[event]:.3f} s, lost"
    yield Violation("acknowledged_lost", len(lost) + max(conflicts, merged), first)


def _conflicts(history: History, published: Rows) -> tuple[int, str]:
    """Number of positions with two payloads, by hash or by marker, and the first as text."""
    rows = published.and_then(history.of(Kind.APPLIED, Kind.DUPLICATE_DROPPED))
    rows = rows.take((rows.seq >= 0) & (history.positions != "opaque"))
    hashed = rows.take(~history.detail_is(rows, [""]))
    found = _differing(hashed, hashed.detail)
    if not history.has_no_markers:
        found = found.and_then(_differing(rows, rows.marker))
    altered = history.session_rows(Kind.ALTERED)
    found = found.and_then(altered.take(history.detail_is(altered, ["position"])))
    if len(found) == 0:
        return 0, ""
    earliest = int(np.argmin(found.t))
    stream, seq = history.streams[found.stream[earliest]], int(found.seq[earliest])
    first = at(-1, stream, seq, float(found.t[earliest])) + ", has two payloads"
    return len(np.unique(found.stream * EPOCH_SPAN + found.seq)), first


def _differing(rows: Rows, content: NDArray[Any]) -> Rows:
    """For each position whose rows differ in content, the first row that differs from the one before."""
    place = rows.stream * EPOCH_SPAN + rows.seq
    order = order_of(place)
    place = place[order]
    other = (np.diff(place) == 0) & (np.diff(content[order]) != 0)
    _, first = np.unique(place[1:][other], return_index=True)
    return rows.take(order[1:][other][first])
