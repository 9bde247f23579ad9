"""What the service returns over HTTP after settling."""

import numpy as np

from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import events
from sim.record.history import Rows
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
    rows = evidence.history.of(Kind.READ_BACK)
    return rows.take(~evidence.history.detail_is(rows, [""]))
