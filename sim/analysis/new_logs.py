"""What clients did when the positions of a stream started over, because its log was deleted and created again."""

from dataclasses import dataclass

import numpy as np

from sim.record.history import History, Ints, Mask, Rows
from sim.record.observations import Kind


@dataclass(frozen=True)
class Restart:
    """One log that was created again, and the clients that went on in it without starting again."""

    stream: str
    t: float  # when its first event was acknowledged
    first_seq: int  # -1 with opaque positions
    last_seq: int  # the highest position of the log before
    unaware: int

    def __str__(self) -> str:
        positions = f": seq {self.first_seq} came after seq {self.last_seq}" if self.first_seq >= 0 else ""
        said = f"{self.stream} started over at {self.t:.3f} s{positions}"
        if self.unaware:
            said += f"; {self.unaware} clients went on in the new log and did not start again"
        return said


def restarts(history: History) -> list[Restart]:
    """All logs that were created again, the earliest first."""
    unaware = went_on(history)
    found = []
    for base, logs in history.logs.items():
        codes = history.logs_of(base)
        events = logs.events
        for log in range(1, logs.count):
            mine, before = np.flatnonzero(logs.log == log), logs.log == log - 1
            first = mine[np.argmin(events.acknowledged_t[mine])]
            highest = int(events.seq[before].max(initial=-1))
            clients = len(np.unique(unaware.client[unaware.stream == codes[log]]))
            name = history.streams[base]
            found.append(Restart(name, float(events.acknowledged_t[first]), int(events.seq[first]), highest, clients))
    return sorted(found, key=lambda restart: restart.t)


def _starts(history: History, rows: Rows) -> Mask:
    """Which rows start a client again. After a retained start it goes on from its old position."""
    return rows.is_kind(Kind.REBOOTSTRAPPED) & ~history.detail_is(rows, ["retained"])


def went_on(history: History) -> Rows:
    """The first event that each client applied in a new log at which it had not started again, after it was in an older one."""
    rows = history.session_rows(Kind.APPLIED, Kind.REBOOTSTRAPPED)
    if not history.logs:
        return rows.take(np.zeros(0, np.int64))
    rows = rows.take(np.isin(history.base_stream[rows.stream], list(history.logs)))
    rows = rows.take(rows.is_kind(Kind.APPLIED) | _starts(history, rows))
    order = np.lexsort((rows.number, history.base_stream[rows.stream], rows.client))
    rows = rows.take(order)
    is_same = _same_stream(history, rows)
    return rows.take(rows.is_kind(Kind.APPLIED) & is_same & (np.diff(rows.stream, prepend=-1) > 0))


def resumed(history: History) -> Rows:
    """The first event that each client applied after it learned another epoch, without starting again in between."""
    rows = history.session_rows(Kind.APPLIED, Kind.REBOOTSTRAPPED, Kind.EPOCH_LEARNED)
    learned = rows.is_kind(Kind.EPOCH_LEARNED)
    if not learned.any():
        return rows.take(learned)
    rows = rows.take(np.isin(history.base_stream[rows.stream], np.unique(history.base_stream[rows.stream[learned]])))
    rows = rows.take(np.lexsort((rows.number, history.base_stream[rows.stream], rows.client)))
    learned, applied = rows.is_kind(Kind.EPOCH_LEARNED), rows.is_kind(Kind.APPLIED)
    first = ~_same_stream(history, rows)
    span = np.cumsum(first | np.append(False, applied[:-1]))  # from one applied event to the next
    started = np.unique(span[_starts(history, rows)])
    suspect = applied & np.isin(span, span[_changed(rows, learned, first)]) & ~np.isin(span, started)
    return rows.take(suspect)


def _changed(rows: Rows, learned: Mask, first: Mask) -> Mask:
    """Which rows learn another epoch than the one before of the same client and stream."""
    where = np.flatnonzero(learned)
    client_stream = np.cumsum(first)[where]
    other = (np.diff(client_stream, prepend=-1) == 0) & (np.diff(rows.detail[where].astype(np.int64), prepend=-1) != 0)
    changed = np.zeros(len(rows), np.bool_)
    changed[where[other]] = True
    return changed


def _same_stream(history: History, rows: Rows) -> Mask:
    """Which rows have the client and the stream of the row before."""
    base: Ints = history.base_stream[rows.stream]
    same: Mask = (np.diff(rows.client, prepend=-2) == 0) & (np.diff(base, prepend=-2) == 0)
    return same
