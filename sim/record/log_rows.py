"""Which log of its stream each observation is about, in a run in which the positions of a stream started over.

An observation that names an acknowledged event is about that event's log. A client goes on in one log until it starts again at
a position that the server stated, or applies an event of another log.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.record.logs import NO_EPOCHS, Epochs, Events, Floats, Ints, Logs, Mask, by_positions, by_times
from sim.record.observations import Kind

_OF_PUBLISHER = (Kind.PUBLISHED, Kind.PUBLISH_TRIED, Kind.PUBLISH_FAILED, Kind.READ_BACK)
_NAMING = (Kind.DUPLICATE_DROPPED, Kind.GAP, Kind.HASH_MISMATCH, Kind.ALTERED, Kind.APPLIED)
_STARTING = (Kind.REBOOTSTRAPPED, Kind.CLAMPED, Kind.DECLARED_LOSS)


@dataclass(frozen=True)
class Table:
    """The columns of a run's observations, sorted by kind and then by time. `codes` has the number of each kind."""

    columns: Mapping[str, NDArray[Any]]  # t, kind, client, stream, seq, value, detail, marker, number in the order of time
    codes: Mapping[str, int]
    rows_of: Callable[[Kind], range]  # where the rows of a kind are in the whole table

    def __len__(self) -> int:
        return len(self.columns["t"])

    def __getattr__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def is_any(self, kinds: tuple[Kind, ...]) -> Mask:
        """Where a row is of one of these kinds."""
        return np.isin(self.kind, [self.codes[kind] for kind in kinds])

    def of(self, kind: Kind, stream: int | None = None) -> "Table":
        """The rows of one kind, of one stream or of all."""
        rows = self.rows_of(kind)
        of_kind = self.take(slice(rows.start, rows.stop))
        return of_kind if stream is None else of_kind.take(of_kind.stream == stream)

    def take(self, where: NDArray[Any] | slice) -> "Table":
        """The rows that a mask, an array of their places or a slice selects."""
        return Table({name: column[where] for name, column in self.columns.items()}, self.codes, self.rows_of)


@dataclass(frozen=True)
class Separated:
    """A stream whose positions started over: its code, its logs, where its rows are, and the log of each."""

    code: int
    logs: Logs
    where: Ints
    log: Ints


@dataclass(frozen=True)
class Run:
    """What is known of a run: its positions (dense, ordered or opaque), its auditor, and when faults created all logs again."""

    positions: str
    auditor: int
    recreated: Sequence[tuple[float, float]]  # start and end


def separated(table: Table, run: Run) -> Iterator[Separated]:
    """Yield each stream whose positions started over."""
    rows = table.of(Kind.PUBLISHED)
    rows = rows.take(rows.marker >= 0)
    for code in np.unique(rows.stream).tolist():
        logs = _logs(table, rows.take(rows.stream == code), run)
        if logs is not None:
            where = np.flatnonzero(table.stream == code)
            where = where[np.argsort(table.number[where])]  # in the order of time
            yield Separated(code, logs, where, _log_of_rows(table.take(where), logs))


def _logs(table: Table, published: Table, run: Run) -> Logs | None:
    positions = run.positions
    number, first = np.unique(published.marker, return_index=True)
    published = published.take(first)
    stream, is_stated = int(published.stream[0]), bool((published.seq >= 0).any()) and positions != "opaque"
    sent_t = _first_sent_t(table.of(Kind.PUBLISH_TRIED, stream), published)
    epochs = NO_EPOCHS if positions == "opaque" else _epochs(table, published)
    if is_stated:
        return by_positions(Events(number, published.seq, sent_t, published.t), are_dense=positions == "dense", epochs=epochs)
    # A server that delivers events under wrong positions does not state a lower head as well.
    has_lower_head = positions != "opaque" and len(table.of(Kind.CLAMPED, stream)) > 0
    if not run.recreated and not has_lower_head and not len(epochs.number):
        return None
    applied = table.of(Kind.APPLIED, stream)
    seq = published.seq if positions == "opaque" else _most_seen(applied, published)
    events = Events(number, seq, sent_t, published.t)
    if run.recreated:
        return by_times(events, run.recreated, np.isin(number, applied.marker[applied.client == run.auditor]))
    return by_positions(events, are_dense=True, epochs=epochs)


def _epochs(table: Table, published: Table) -> Epochs:
    """The epoch that most clients knew when they applied an event at its own position; the older one of two.

    A client without an epoch says nothing, and neither does a stream of which clients learned only one.
    """
    stream = int(published.stream[0])
    learned = table.of(Kind.EPOCH_LEARNED, stream)
    texts, first = np.unique(learned.detail, return_index=True)
    if len(texts) < 2:
        return NO_EPOCHS
    age = np.argsort(np.argsort(learned.number[first]))  # of each text, by when the first client learned it
    order = np.lexsort((learned.number, learned.client))
    client, number = learned.client[order].astype(np.int64), learned.number[order].astype(np.int64)
    applied = table.of(Kind.APPLIED, stream)
    applied = applied.take(applied.marker >= 0)
    index = np.minimum(np.searchsorted(published.marker, applied.marker), len(published) - 1)
    stated = np.where(published.marker[index] == applied.marker, published.seq[index], -1)
    applied = applied.take((stated < 0) | (stated == applied.seq))
    size = int(table.number.max(initial=0)) + 1
    last = np.searchsorted(client * size + number, applied.client.astype(np.int64) * size + applied.number) - 1
    is_known = (last >= 0) & (client[np.maximum(last, 0)] == applied.client)
    epoch = age[np.searchsorted(texts, learned.detail[order])][last[is_known]]
    return _most_frequent(applied.marker[is_known].astype(np.int64), epoch)


def _most_frequent(marker: Ints, epoch: Ints) -> Epochs:
    if len(marker) == 0:
        return NO_EPOCHS
    (marker, epoch), counts = np.unique(np.stack((marker, epoch)), axis=1, return_counts=True)
    order = np.lexsort((-epoch, counts, marker))
    marker, epoch = marker[order], epoch[order]
    last = np.append(np.diff(marker) != 0, True)
    return Epochs(marker[last], np.unique(epoch[last], return_inverse=True)[1].astype(np.int64))


def _first_sent_t(tries: Table, published: Table) -> Floats:
    """When each event was first sent; when it was due, where no try is recorded."""
    sent_t: Floats = published.t - np.nan_to_num(published.value) / 1000
    tries = tries.take(tries.marker >= 0)
    index = np.minimum(np.searchsorted(published.marker, tries.marker), len(sent_t) - 1)
    known = published.marker[index] == tries.marker
    sent_t[index[known]] = np.inf
    np.minimum.at(sent_t, index[known], (tries.t - np.nan_to_num(tries.value) / 1000)[known])
    return sent_t


def _most_seen(applied: Table, published: Table) -> Ints:
    """The position at which most clients applied each event; -1 if none did."""
    applied = applied.take((applied.seq >= 0) & (applied.marker >= 0))
    if len(applied) == 0:
        return np.full(len(published), -1, np.int64)
    (marker, seq), counts = np.unique(np.stack((applied.marker, applied.seq)), axis=1, return_counts=True)
    order = np.lexsort((counts, marker))
    marker, seq = marker[order], seq[order]
    last = np.maximum(np.searchsorted(marker, published.marker, side="right") - 1, 0)
    return np.where(marker[last] == published.marker, seq[last], -1)


def _log_of_rows(rows: Table, logs: Logs) -> Ints:
    has_marker = rows.marker >= 0
    by_event = logs.of_numbers(rows.marker)
    expected = logs.seq_of_numbers(rows.marker)
    # An event under another position than its own says nothing about the log.
    is_sure = rows.is_any(_NAMING) & has_marker & ((rows.seq < 0) | (expected < 0) | (rows.seq == expected))
    log = np.where(rows.is_any(_OF_PUBLISHER) & has_marker, by_event, 0)
    of_clients = np.flatnonzero(rows.client >= 0)
    of_clients = of_clients[np.argsort(rows.client[of_clients], kind="stable")]
    if len(of_clients):
        own = rows.take(of_clients)
        log[of_clients] = _along_clients(own, np.where(is_sure, by_event, -1)[of_clients], logs)
    return log


def _along_clients(rows: Table, known: Ints, logs: Logs) -> Ints:
    """The log of each row, sorted by client: known, or else that in which the client is."""
    index, ends = np.arange(len(known)), np.flatnonzero(np.diff(rows.client, append=-1) != 0)
    begins = np.append(0, ends[:-1] + 1)
    following = _next_known(known, ends)
    following = np.where(following >= 0, np.minimum(following, logs.possible(rows.t)), logs.certain(rows.t))
    is_first = np.zeros(len(known), np.bool_)
    is_first[begins] = True
    starts = (known < 0) & (rows.is_any(_STARTING) | is_first)
    placed = np.where(starts, following, known)
    last = np.maximum.accumulate(np.where((placed >= 0) | is_first, index, 0))
    return np.maximum(placed[last], 0)


def _next_known(known: Ints, ends: Ints) -> Ints:
    """Per row, the next known log of the same client; -1 without one."""
    size = len(known)
    of_client = np.searchsorted(ends, np.arange(size))
    positions = np.where(known >= 0, np.arange(size), size)
    nearest = np.minimum.accumulate(positions[::-1])[::-1]
    is_own = nearest <= ends[of_client]
    return np.where(is_own, known[np.minimum(nearest, size - 1)], -1)
