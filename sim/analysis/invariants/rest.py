"""The end of a run, when nothing is published any more: each reader has what the others have."""

from collections.abc import Iterator

import numpy as np

from sim.analysis.invariants.evidence import Evidence, Violation
from sim.record.history import History, Ints, Mask, Rows
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.published import SPAN

AT_REST_S = 1.0  # [ours] an event that nobody had for so long before the end of the run may still be on its way
_UNKNOWN = "unknown_outcome"


def missing_at_rest(evidence: Evidence) -> Iterator[Violation]:
    """Acknowledged events after everything that a client has, so that no later event showed that they are missing.

    If nobody could settle on a busy machine, only those that are gone for certain.
    """
    ledger = evidence.ledger
    if evidence.could_settle:
        missing = ledger.missing_at_rest
        yield Violation("missing_at_rest", missing.count, f"client {missing.client}, {missing.event}, never applied")
        return
    client, event = ledger.missing("at_rest")
    for first in np.flatnonzero(~may_come(ledger, event))[:1]:
        count = int((~may_come(ledger, event)).sum())
        yield Violation("missing_at_rest", count, f"client {client[first]}, {ledger.name_of(int(event[first]))}, never applied")


def may_come(ledger: Ledger, events: Ints) -> Mask:
    """Which events a client may still get that has nothing after them: those of which nobody knows that they are lost."""
    return np.isin(events, ledger.lost_by_authority, invert=True)


def partly_delivered(evidence: Evidence) -> Iterator[Violation]:
    """Events of unknown outcome that some readers have and others lack, although their range covers them.

    A publish without an answer may have been appended or not, but for all readers alike. The readers are the clients, the
    auditor and what was read over HTTP.
    """
    history = evidence.history
    seen = _seen(history)
    if len(seen) == 0:
        return
    ledger = Ledger(history, seen)
    where = ledger.published.find(seen)
    seen_at = np.full(len(ledger.published), np.inf)
    seen_at[where] = seen.t
    end_t = np.full(len(seen_at), history.duration_s)
    rest_s = end_t - seen_at
    rest_s[where] -= evidence.busy.within_s(seen_at[where], end_t[where])
    is_settled = rest_s >= AT_REST_S
    event, client, is_passed = ledger.lacking(np.sort(where))
    is_due = is_passed | is_settled[event]
    settled = where[is_settled[where]]
    lacked = [(f"client {who}", int(index)) for index, who in zip(event[is_due], client[is_due], strict=True)]
    lacked += [("the auditor", int(index)) for index in _lacked_by_auditor(history, ledger, settled)]
    lacked += [("the log over HTTP", int(index)) for index in _not_stored(history, ledger, settled)]
    if lacked:
        who, index = min(lacked, key=lambda each: float(ledger.published.sent_t[each[1]]))
        first = f"{ledger.name_of(index)}, of unknown outcome, sent at {ledger.published.sent_t[index]:.3f} s, lacked by {who}"
        yield Violation("partly_delivered", len(lacked), first)


def _seen(history: History) -> Rows:
    """The publishes of unknown outcome whose event a reader has, each at the time from which on the event was surely there."""
    failed = history.of(Kind.PUBLISH_FAILED)
    failed = failed.take(history.detail_is(failed, [_UNKNOWN]) & (failed.marker >= 0))
    readers = history.session_rows(Kind.APPLIED).and_then(history.of(Kind.READ_BACK))
    keys = readers.stream * SPAN + readers.marker
    wanted = failed.stream * SPAN + failed.marker
    mine = np.isin(keys, wanted) & (readers.marker >= 0)
    readers, keys = readers.take(mine), keys[mine]
    order = np.lexsort((readers.t, keys))
    found, first = np.unique(keys[order], return_index=True)
    t = readers.t[order][first]
    order = np.lexsort((readers.client != history.header.auditor, keys))  # of different positions, the auditor's counts
    seq = readers.seq[order][np.unique(keys[order], return_index=True)[1]]
    acknowledged = history.of(Kind.PUBLISHED)
    is_seen = np.isin(wanted, found) & ~np.isin(wanted, acknowledged.stream * SPAN + acknowledged.marker)
    failed, wanted = failed.take(is_seen), wanted[is_seen]
    at = np.searchsorted(found, wanted)
    early_ms = np.maximum(failed.t - t[at], 0.0) * 1000.0
    return failed.having(seq=seq[at], t=np.minimum(t[at], failed.t), value=failed.value - early_ms)


def _lacked_by_auditor(history: History, ledger: Ledger, events: Ints) -> Ints:
    """The events that the auditor did not find, although clients have them and they are above the oldest retained event."""
    if not ledger.audited:
        return events[:0]
    low, _ = ledger.retained
    published = ledger.published
    had = published.find(history.auditor_rows(Kind.APPLIED, Kind.GAP, Kind.HASH_MISMATCH))
    is_retained = published.place[events] > low[published.stream[events]]
    return events[is_retained & ~np.isin(events, had) & ~history.deleted_by_fault()[published.stream[events]]]


def _not_stored(history: History, ledger: Ledger, events: Ints) -> Ints:
    """The events that the service did not return over HTTP, where it was asked for its streams."""
    published = ledger.published
    stream = published.stream[events]
    was_read = np.isin(history.base_stream[stream], history.of(Kind.READ_BACK_COMPLETED).stream)
    stored = published.find(history.of(Kind.READ_BACK))
    return events[was_read & ~np.isin(events, stored) & ~history.deleted_by_fault()[stream]]
