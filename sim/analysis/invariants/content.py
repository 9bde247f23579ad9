"""What events contain, and whose they are: phantom, altered, of another stream, jumbled."""

import numpy as np

from sim.analysis import corrupted
from sim.analysis.invariants.evidence import Evidence
from sim.analysis.invariants.watermarks import EPOCH_SPAN, events
from sim.record.history import History, Ints, Mask, Rows
from sim.record.observations import Kind


def phantom_event(evidence: Evidence) -> Rows:
    """Applied events that were not published, or that were acknowledged at another position.

    A publish of unknown outcome explains the event with its marker. On a stream without markers it explains any event. An event
    without a marker of this run is somebody else's, unless nobody else can have published it.
    """
    history, published = evidence.history, evidence.ledger.published
    rows = history.session_rows(Kind.APPLIED)
    if history.has_no_markers:
        return rows.take(np.zeros(0, np.int64))
    index = published.find(rows)
    is_marked = published.is_marked[rows.stream]
    failed = history.of(Kind.PUBLISH_FAILED)
    unknown = failed.take(history.detail_is(failed, ["unknown_outcome"]))
    explained = is_marked & np.isin(events(rows), events(unknown.take(unknown.marker >= 0)))
    is_other = np.where(is_marked, rows.marker < 0, index < 0)
    wrong = (
        is_other & _is_ours(evidence, rows)
        | _is_moved(history, rows)
        | (is_marked & (rows.marker >= 0) & (index < 0) & ~explained)
    )
    rows = rows.take(wrong)
    _, first = np.unique(_positions(rows), return_index=True)
    rows = rows.take(np.sort(first))
    excused = np.bincount(unknown.stream[unknown.marker < 0], minlength=len(history.streams) + 1)
    keep = [np.flatnonzero(rows.stream == code)[excused[code] :] for code in np.unique(rows.stream)]
    return rows.take(np.concatenate([np.zeros(0, np.int64), *keep]))


def _is_moved(history: History, rows: Rows) -> Mask:
    """Which rows apply an event at another position than that of its acknowledgement, if no other event was given that one."""
    stated = history.of(Kind.PUBLISHED)
    stated = stated.take((stated.seq >= 0) & (stated.marker >= 0) & (history.positions != "opaque"))
    stated = stated.take(np.unique(events(stated), return_index=True)[1])  # sorted by event
    if len(stated) == 0:
        return np.zeros(len(rows), np.bool_)
    _, where, counts = np.unique(stated.stream * EPOCH_SPAN + stated.seq, return_inverse=True, return_counts=True)
    at = np.minimum(np.searchsorted(events(stated), events(rows)), len(stated) - 1)
    is_stated = (rows.marker >= 0) & (events(stated)[at] == events(rows)) & (counts[where][at] == 1)
    moved: Mask = is_stated & (stated.seq[at] != rows.seq)
    return moved


def _positions(rows: Rows) -> Ints:
    """One integer for each row's position; for its event where it has no position."""
    return np.where(rows.seq >= 0, rows.stream * EPOCH_SPAN + rows.seq, -2 - events(rows))


def _is_ours(evidence: Evidence, rows: Rows) -> Mask:
    """Which rows without a marker of this run only this run can have published: on its own streams.

    On a live target, others publish to shared streams as well, a shared stream has events from before the run, and a service
    may write events of its own to a new stream. On the mock, only a socket can.
    """
    history, published = evidence.history, evidence.ledger.published
    first_seq = np.full(len(history.streams), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(first_seq, published.stream, published.seq)
    published_to = first_seq < np.iinfo(np.int64).max
    is_mock = history.header.target_kind == "mock"
    exclusive = np.where(published.is_marked, evidence.is_own_stream & is_mock, evidence.is_own_stream | is_mock)
    floor = np.where(evidence.is_own_stream, 0, first_seq)
    ours: Mask = (published_to & exclusive)[rows.stream] & (rows.seq >= floor[rows.stream])
    return ours


def altered(evidence: Evidence) -> Rows:
    """Applied events that are not what was published under their marker, and that no fault explains."""
    rows = corrupted.unexplained(evidence.history, Kind.ALTERED)
    return rows.take(evidence.history.detail_is(rows, ["checksum"]))


def leaks(evidence: Evidence) -> Rows:
    """Events of streams that the client did not subscribe to, that another stream delivered, or that another run published."""
    history = evidence.history
    altered = history.of(Kind.ALTERED)
    of_other_run = history.detail_is(altered, ["run"]) & evidence.is_own_stream[altered.stream]
    return history.of(Kind.UNGRANTED).and_then(altered.take(history.detail_is(altered, ["stream"]) | of_other_run))


def jumbled_message(evidence: Evidence) -> Rows:
    """Hash mismatches and malformed frames that no fault explains."""
    mismatches, malformed = (corrupted.unexplained(evidence.history, kind) for kind in (Kind.HASH_MISMATCH, Kind.MALFORMED))
    return mismatches.and_then(malformed)
