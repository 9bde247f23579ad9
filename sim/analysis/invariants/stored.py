"""What the service returns over HTTP after settling."""

import numpy as np

from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import before_an_earlier, events
from sim.record.history import Ints, Mask, Rows
from sim.record.observations import Kind


def stored_lost(evidence: Evidence) -> Rows:
    """Acknowledged events that the service did not return over HTTP, where it was asked for its streams after settling."""
    history = evidence.history
    published, stored = history.of(Kind.PUBLISHED), history.of(Kind.READ_BACK)
    published = published.take(~history.deleted_by_fault()[published.stream])
    was_read = np.isin(history.base_stream[published.stream], history.of(Kind.READ_BACK_COMPLETED).stream)
    return published.take(was_read & (published.marker >= 0) & ~np.isin(events(published), events(stored)))


def stored_twice(evidence: Evidence) -> Rows:
    """Events that the service returned over HTTP more than once."""
    rows = evidence.history.of(Kind.READ_BACK)
    rows = rows.take(rows.marker >= 0)
    _, first = np.unique(events(rows), return_index=True)
    again = np.ones(len(rows), np.bool_)
    again[first] = False
    return rows.take(again)


def stored_altered(evidence: Evidence) -> Rows:
    """Events that the service returned over HTTP with another content."""
    rows, history = evidence.history.of(Kind.READ_BACK), evidence.history
    is_others = history.detail_is(rows, ["run"]) & ~evidence.is_own_stream[rows.stream]
    return rows.take(~history.detail_is(rows, [""]) & ~is_others)


def stored_otherwise(evidence: Evidence) -> Rows:
    """Events that clients applied in another order than the service returned them over HTTP, or at another position.

    Which events are there, and their contents, other invariants compare. Opaque positions promise no order of live events.
    """
    walk, stored = evidence.walk, evidence.history.of(Kind.READ_BACK)
    stored = stored.take(stored.marker >= 0)
    keys, first = np.unique(events(stored), return_index=True)
    is_meant = walk.applied & (walk.rows.marker >= 0) & ~walk.twice & ~walk.back
    rows, epoch = walk.rows.take(is_meant), walk.epoch[is_meant]
    at = np.minimum(np.searchsorted(keys, events(rows)), max(len(keys) - 1, 0))
    found = keys[at] == events(rows) if len(keys) else np.zeros(len(rows), np.bool_)
    rows, epoch, place = rows.take(found), epoch[found], first[at[found]]
    if walk.positions == "opaque" or not len(rows):
        return rows.take(np.zeros(len(rows), np.bool_))
    return rows.take(before_an_earlier(epoch, place) | _at_another(rows.seq, stored.seq[place]))


def _at_another(applied: Ints, stored: Ints) -> Mask:
    """Where the positions differ, if both count alike: if they are the same for most events."""
    known = (applied >= 0) & (stored >= 0)
    differ = known & (applied != stored)
    return differ if 2 * differ.sum() < known.sum() else np.zeros(len(applied), np.bool_)
