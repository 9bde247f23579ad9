"""Observations of a run as NumPy arrays for analysis: rows by kind, in time order, texts as integer codes.

A run has millions of rows, so nothing here loops over them: a history sorts them once by kind, and the rows of a kind are a
slice. Integers have the smallest type that holds them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim.base.errors import EvidenceError
from sim.record.log_rows import Run, Table, separated
from sim.record.logs import Logs
from sim.record.observations import SCHEMA, Kind
from sim.record.run_header import RunHeader
from sim.record.sorting import order_of

Ints = NDArray[np.int64]
Codes = NDArray[np.signedinteger[Any]]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MAX_INT32 = 2**31
_PART_ROWS = 1 << 17
_BLOCK_ROWS = 1 << 20
_KINDS = tuple(Kind)
_KIND_CODE = {str(kind): code for code, kind in enumerate(_KINDS)}

_AT_REST = ("behind", "unconfirmed")  # of a live client, which waits for nothing but events
PHASES = ("steady", "fault", "recovery", "settle", "end")


@dataclass(frozen=True)
class FaultTimes:
    """When a fault was injected and reverted, in seconds; `end_t` is infinity if it was never reverted."""

    index: int  # in the fault schedule
    kind: str
    start_t: float
    end_t: float


class Observations(Protocol):
    """Where a history reads its columns, one after the other: an Arrow table or a file."""

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """One column of all rows."""


class _Columns(dict[str, NDArray[Any]]):
    """Columns that are made when they are first needed."""

    def __init__(self, make: Callable[[str], NDArray[Any]], known: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(known)
        self._make = make

    def __missing__(self, name: str) -> NDArray[Any]:
        column = self[name] = self._make(name)
        return column


class Rows:
    """Observations as parallel arrays in time order; `kind`, `stream` and `detail` are codes.

    `columns` holds whole columns in their smallest types, `where` the places of these rows in them. A column is gathered on
    first use, because most analyses read only two or three of the nine.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]], where: NDArray[Any] | range) -> None:
        self._columns = columns
        self._where = where

    def __len__(self) -> int:
        return len(self._where)

    t = cached_property[Floats](lambda rows: rows._gather("t"))  # seconds since the run began
    kind = cached_property[Codes](lambda rows: rows.column("kind"))  # codes of `Kind`
    client = cached_property[Ints](lambda rows: rows._gather("client"))
    stream = cached_property[Ints](lambda rows: rows._gather("stream"))  # codes of `History.streams`
    seq = cached_property[Ints](lambda rows: rows._gather("seq"))
    attempt = cached_property[Ints](lambda rows: rows._gather("attempt"))  # or the index of a fault in the fault schedule
    value = cached_property[Floats](lambda rows: rows._gather("value"))  # milliseconds, events or a count, by kind
    detail = cached_property[Codes](lambda rows: rows.column("detail"))  # codes of `History.details`
    marker = cached_property[Ints](lambda rows: rows._gather("marker"))  # the event's number by its marker, or -1
    number = cached_property[Ints](lambda rows: rows._gather("number"))  # of the row, in time order

    def column(self, name: str) -> NDArray[Any]:
        """A column in its own small type, which is too small to add or to multiply in."""
        where = self._where
        return self._columns[name][slice(where.start, where.stop) if isinstance(where, range) else where]

    def _gather(self, name: str) -> NDArray[Any]:
        rows = self.column(name)
        return rows.astype(np.float64 if rows.dtype.kind == "f" else np.int64, copy=False)

    def take(self, which: NDArray[Any]) -> "Rows":
        """The rows that a mask or an array of positions selects, in that order."""
        if not isinstance(self._where, range):
            return Rows(self._columns, self._where[which])
        places = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return Rows(self._columns, (places + self._where.start).astype(np.int32 if self._where.stop < _MAX_INT32 else np.int64))

    def by_parts(self, make: Callable[["Rows"], NDArray[Any]]) -> NDArray[Any]:
        """What `make` returns for these rows, made part by part: intermediate results then stay in the processor's cache."""
        if len(self) <= _PART_ROWS:
            return make(self)
        parts = [Rows(self._columns, self._where[begin : begin + _PART_ROWS]) for begin in range(0, len(self), _PART_ROWS)]
        return np.concatenate([make(part) for part in parts])

    def by_clients(self, find: Callable[["Rows"], "Rows"]) -> "Rows":
        """The rows that `find` returns, asked for some clients at a time: its intermediate results then take little memory."""
        client, parts = self.column("client"), max(len(self) // _BLOCK_ROWS, 1)
        if parts == 1:
            return find(self)
        low, high = int(client.min()), int(client.max()) + 1
        found, bounds = self.take(np.zeros(0, np.int64)), np.linspace(low, high, parts + 1).astype(np.int64).tolist()
        for begin, end in pairwise(bounds):
            found = found.and_then(find(self.take((client >= begin) & (client < end))))
        return found

    def having(self, **columns: NDArray[Any]) -> "Rows":
        """The same rows with some columns replaced."""
        return Rows(_Columns(self.column, columns), range(len(self)))

    def and_then(self, others: "Rows") -> "Rows":
        """These rows followed by the others."""
        if not len(others):
            return self
        columns = _Columns(lambda name: np.concatenate((self.column(name), others.column(name))), {})
        return Rows(columns, range(len(self) + len(others)))

    def by_client(self) -> "Rows":
        """The same rows sorted by client, then by time."""
        return self.take(order_of(self.client))

    def is_kind(self, kind: Kind) -> Mask:
        """Where a row is of `kind`."""
        return np.equal(self.kind, _KIND_CODE[kind])


class History:
    """The observations of one run and its header.

    Raises `EvidenceError` for invalid rows: unknown kinds, empty cells, times that are not finite.
    """

    def __init__(self, header: RunHeader, table: Observations) -> None:
        self.header = header
        columns, self.streams, self.details = _columns(table)
        kinds = np.bincount(columns["kind"], minlength=len(_KINDS))
        self._ends = [0, *np.cumsum(kinds).tolist()]  # of each kind's rows
        self._place = np.empty_like(columns["number"])  # of each row, by its number
        self._place[columns["number"]] = np.arange(len(self._place), dtype=self._place.dtype)
        self.base_stream = np.arange(len(self.streams))
        self.logs: dict[int, Logs] = {}
        self._columns = columns
        self._separate_logs()

    def __len__(self) -> int:
        return len(self._place)

    def _separate_logs(self) -> None:
        """Make each further log of a stream a stream of its own, because its positions are not those of the log before."""
        columns = self._columns
        names = ("t", "kind", "client", "stream", "seq", "value", "detail", "marker", "number")
        table = Table({name: columns[name] for name in names}, _KIND_CODE, self._places)
        recreated = list(self.fault_times("recreate_log").values())
        stream, base = columns["stream"].astype(np.int32), list(range(len(self.streams)))
        for found in separated(table, Run(self.positions, self.header.auditor, recreated)):
            self.logs[found.code] = found.logs
            later = found.log > 0
            stream[found.where[later]] = len(base) - 1 + found.log[later]
            base += [found.code] * (found.logs.count - 1)
            self.streams += [f"{self.streams[found.code]} (log {number})" for number in range(2, found.logs.count + 1)]
        if self.logs:
            self.base_stream = np.array(base)
            columns["stream"] = stream

    def base_name(self, code: int) -> str:
        """The name of the stream to which a log belongs."""
        return self.streams[int(self.base_stream[code])]

    def logs_of(self, base: int) -> Ints:
        """The codes of all logs of a stream, the oldest first."""
        return np.flatnonzero(self.base_stream == base)

    def exists_until_t(self, code: int) -> float:
        """The last time at which a log existed for certain; infinity for the newest."""
        base = int(self.base_stream[code])
        log = int(np.searchsorted(self.logs_of(base), code))
        return self.logs[base].earliest_t(log + 1) if base in self.logs and log + 1 < self.logs[base].count else float("inf")

    def deleted_by_fault(self) -> Mask:
        """Per code, whether a fault `recreate_log` deleted this log."""
        deleted = np.zeros(len(self.streams), np.bool_)
        spans = [(fault.start_t, fault.end_t) for fault in self.faults if fault.kind == "recreate_log"]
        for base, logs in self.logs.items():
            for log, code in enumerate(self.logs_of(base)[:-1]):
                begins, ends = logs.earliest_t(log + 1), logs.latest_t(log + 1)
                deleted[code] = any(start_t <= ends and end_t >= begins for start_t, end_t in spans)
        return deleted

    @property
    def has_epochs(self) -> bool:
        """Whether the protocol's positions name the log that they belong to."""
        return bool(self.header.capabilities.get("has_epochs", False))

    @property
    def positions(self) -> str:
        """What kind of positions the protocol has: dense, ordered or opaque; dense in a record that does not say it."""
        return str(self.header.capabilities.get("positions", "dense"))

    @property
    def starts_from_now_on(self) -> bool:
        """Whether a client without a position gets only events that are published from then on."""
        return self.header.capabilities.get("fresh_start") == "from_now_on"

    @cached_property
    def has_no_markers(self) -> bool:
        """Whether markers were published, and not one was in an event that a client applied: identity is then unknown."""
        published, applied = self.of(Kind.PUBLISHED).marker, self.of(Kind.APPLIED).marker
        return bool(len(applied) and (applied < 0).all() and (published >= 0).any())

    def of(self, *kinds: Kind) -> Rows:
        """All rows of these kinds."""
        if len(kinds) == 1:
            return Rows(self._columns, self._places(kinds[0]))
        places = [self._places(kind) for kind in kinds]
        number = np.sort(np.concatenate([self._columns["number"][each.start : each.stop] for each in places]))
        return Rows(self._columns, self._place[number])

    def _places(self, kind: Kind) -> range:
        code = _KIND_CODE[kind]
        return range(self._ends[code], self._ends[code + 1])

    def fleet(self, *kinds: Kind) -> Rows:
        """The fleet's rows of these kinds, without negative clients, the auditor and rows without a client."""
        rows = self.of(*kinds)
        inside = self._in_fleet(rows)
        return rows if bool(inside.all()) else rows.take(inside)

    def auditor_rows(self, *kinds: Kind) -> Rows:
        """The auditor's rows of these kinds."""
        rows = self.of(*kinds)
        return rows.take(self._by_auditor(rows))

    def session_rows(self, *kinds: Kind) -> Rows:
        """The rows of the fleet and the auditor, without negative clients."""
        rows = self.of(*kinds)
        return rows.take(self._in_fleet(rows) | self._by_auditor(rows))

    def _in_fleet(self, rows: Rows) -> Mask:
        client = rows.column("client")
        inside: Mask = (client >= 0) & (client < self.header.clients)
        return inside

    def _by_auditor(self, rows: Rows) -> Mask:
        client = rows.column("client")
        inside: Mask = (client >= 0) & (client == self.header.auditor)
        return inside

    def without_unplanned_restarts(self, rows: Rows) -> Rows:
        """The rows without client restarts that no fault explains; an unexplained restart is no excuse.

        A fault explains one restart per (client, stream), during the fault and with the checkpoint that it names.
        """
        restarted = rows.is_kind(Kind.RESTARTED)
        if not restarted.any():
            return rows
        keep = ~restarted
        for index, (start_t, end_t) in self.fault_times("restart_clients").items():
            planned = str(self.parameters(index).get("checkpoint"))
            inside = np.flatnonzero(restarted & (rows.t >= start_t) & (rows.t <= end_t) & self.detail_is(rows, [planned]))
            _, first = np.unique(self.pair(rows)[inside], return_index=True)
            keep[inside[first]] = True
        return rows.take(keep)

    def parameters(self, index: int) -> Mapping[str, object]:
        """The parameters of a fault in the run's plan, by its index; empty where the plan has no such fault."""
        return self.header.plan[index] if 0 <= index < len(self.header.plan) else {}

    def under_way(self) -> Rows:
        """What the clients still wait for that were not live at the end, or were in the middle of a replay."""
        pending = self.fleet(Kind.STILL_PENDING)
        return pending.take(~self.detail_is(pending, _AT_REST))

    @cached_property
    def faults(self) -> list[FaultTimes]:
        """All injected faults, in time order."""
        injected, reverted = self.of(Kind.FAULT_INJECTED), self.of(Kind.FAULT_REVERTED)
        ends = dict(zip(reverted.attempt.tolist(), reverted.t.tolist(), strict=True))
        found = zip(injected.attempt.tolist(), injected.detail.tolist(), injected.t.tolist(), strict=True)
        return [FaultTimes(index, self.details[code], t, ends.get(index, np.inf)) for index, code, t in found]

    def fault_times(self, kind: str) -> dict[int, tuple[float, float]]:
        """Start and end of each fault of this kind, in seconds, by its index in the fault schedule."""
        return {fault.index: (fault.start_t, fault.end_t) for fault in self.faults if fault.kind == kind}

    def detail_is(self, rows: Rows, texts: Iterable[str]) -> Mask:
        """Where a row's detail is one of `texts`."""
        wanted = set(texts)
        return np.isin(rows.detail, [code for code, text in enumerate(self.details) if text in wanted])

    def is_stream(self, rows: Rows, stream: str) -> Mask:
        """Where a row is of this stream; the empty text: of none."""
        return np.isin(rows.stream, [code for code, text in enumerate(self.streams) if text == stream])

    def detail_counts(self, rows: Rows) -> dict[str, int]:
        """Number of rows per detail, the most frequent first."""
        counts = np.bincount(rows.detail, minlength=len(self.details))
        found = {self.details[code]: int(counts[code]) for code in np.flatnonzero(counts)}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def pair(self, rows: Rows) -> Ints:
        """One integer for each row's (client, stream)."""
        return rows.by_parts(lambda part: (part.client + 1) * len(self.streams) + part.stream)

    def last_t_before(self, earlier: Rows, rows: Rows, otherwise: float | None = None) -> Floats:
        """Per row, the time of the last of `earlier` of its client and stream by then; without one `otherwise`, or its own."""
        earlier = earlier.take(np.lexsort((earlier.t, self.pair(earlier))))
        pair, t = self.pair(earlier), earlier.t
        found = rows.t.copy() if otherwise is None else np.full(len(rows), otherwise)
        for number, own in enumerate(self.pair(rows)):
            first, end = np.searchsorted(pair, own + np.arange(2))
            place = first + np.searchsorted(t[first:end], rows.t[number], side="right")
            found[number] = t[place - 1] if place > first else found[number]
        return found

    @cached_property
    def phases(self) -> dict[str, float]:
        """Start of each phase that was reached, in seconds."""
        rows = self.of(Kind.PHASE)
        return {self.details[code]: float(t) for t, code in zip(rows.t[::-1], rows.detail[::-1], strict=True)}

    @cached_property
    def first_fault_t(self) -> float:
        """Time of the first fault, in seconds; infinity without a fault."""
        return self.faults[0].start_t if self.faults else float("inf")

    @cached_property
    def first_live_t(self) -> Floats:
        """Per fleet client, when it was first live, in seconds; infinity for never."""
        live_t = np.full(self.header.clients, np.inf)
        rows = self.fleet(Kind.SUBSCRIBED)
        np.minimum.at(live_t, rows.client, rows.t)
        return live_t

    @cached_property
    def duration_s(self) -> float:
        """Time from the start of the run to its last observation, in seconds."""
        return float(self._columns["t"][self._place[-1]]) if len(self) else 0.0

    def in_fault_phase(self, t: Floats) -> Mask:
        """Which times lie in the fault phase; none in a run without faults."""
        if not self.header.plan:
            return np.zeros(len(t), np.bool_)
        start_t = self.phases.get("fault", float("inf"))
        return (t >= start_t) & (t < self.phases.get("recovery", float("inf")))


def at(client: int, stream: str, seq: int, t: float) -> str:
    """One observation as text: `client 3, runtime.run.1.events, seq 17, at 4.201 s`."""
    parts = [f"client {client}" if client >= 0 else "", stream, f"seq {seq}" if seq >= 0 else "", f"at {t:.3f} s"]
    return ", ".join(part for part in parts if part)


def _columns(table: Observations) -> tuple[dict[str, NDArray[Any]], list[str], list[str]]:
    """All columns, sorted by kind and then by time, and what the codes of streams and of details stand for.

    Holds one whole column of the table at a time. `number` is a row's place in the order of time.
    """
    kind, kinds = _words(table, "kind")
    kind, t = _known_kinds(kinds)[kind], _numbers(table, "t")
    by_time = _time_order(t)
    order = np.argsort(kind if by_time is None else kind[by_time], kind="stable")  # NumPy sorts 8-bit integers by radix
    number: Codes = order.astype(np.int32) if len(order) < _MAX_INT32 else order
    order = order if by_time is None else by_time[order]
    columns = {"number": number, "kind": kind[order], "t": t[order]}
    del t, kind
    columns |= {name: _numbers(table, name)[order] for name in ("client", "seq", "attempt", "value", "marker")}
    stream, streams = _words(table, "stream")
    detail, details = _words(table, "detail")
    columns |= {"stream": stream[order], "detail": detail[order]}
    pa.default_memory_pool().release_unused()  # hundreds of MiB of a large record
    return columns, streams, details


def _chunks(table: Observations, name: str) -> "list[pa.Array[Any]]":
    column = table.column(name)
    if column.null_count:
        raise EvidenceError(f"observations: column {name} has empty cells.")
    return column.chunks


def _numbers(table: Observations, name: str) -> NDArray[Any]:
    """A column of numbers; integers in the smallest type that holds them all."""
    chunks = [chunk.to_numpy() for chunk in _chunks(table, name)]
    filled = [chunk for chunk in chunks if len(chunk)]
    kind = chunks[0].dtype if chunks else np.dtype(SCHEMA.field(name).type.to_pandas_dtype())
    if kind.kind == "i" and filled:
        kind = _smallest(min(int(chunk.min()) for chunk in filled), max(int(chunk.max()) for chunk in filled))
    return np.concatenate([np.zeros(0, kind), *(chunk.astype(kind, copy=False) for chunk in filled)])


def _smallest(least: int, most: int) -> np.dtype[Any]:
    """The smallest type of signed integers that holds both."""
    return np.min_scalar_type(min(least, -most - 1, -1))


def _time_order(t: Floats) -> Ints | None:
    """The order of time; None if the rows are in it."""
    if not bool(np.isfinite(t).all()):
        raise EvidenceError("observations: a time is not a finite number.")
    return None if bool((t[1:] >= t[:-1]).all()) else np.argsort(t, kind="stable")


def _words(table: Observations, name: str) -> tuple[NDArray[Any], list[str]]:
    """A dictionary column as codes, in the smallest type that holds them, and the list of distinct texts."""
    code: dict[str, int] = {}
    codes = [np.zeros(0, np.int8)]
    for chunk in cast("list[pa.DictionaryArray[Any, Any]]", _chunks(table, name)):
        own = np.array([code.setdefault(word, len(code)) for word in cast(list[str], chunk.dictionary.to_pylist())], np.int64)
        codes.append(own.astype(_smallest(0, len(code)))[chunk.indices.to_numpy()])
    return np.concatenate(codes), list(code)


def _known_kinds(kinds: list[str]) -> NDArray[np.int8]:
    unknown = [kind for kind in kinds if kind not in _KIND_CODE]
    if unknown:
        raise EvidenceError(
            f"observations: unknown kind of row '{unknown[0]}'. Another version of stormgate recorded this run."
        )
    return np.array([_KIND_CODE[kind] for kind in kinds], np.int8)
