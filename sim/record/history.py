"""A run's observations as arrays that judges can ask: rows by kind, in time order, words as small integers.

Judging reads millions of rows, so nothing here loops over rows: one stable sort by kind when a history is
built, and slices of it afterwards.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim.base.errors import EvidenceError
from sim.record.observations import Kind
from sim.record.run_header import RunHeader

Ints = NDArray[np.int64]
Codes = NDArray[np.signedinteger[Any]]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MAX_INT32 = 2**31
_KINDS = tuple(Kind)
_KIND_CODE = {str(kind): code for code, kind in enumerate(_KINDS)}

PHASES = ("steady", "fault", "recovery", "settle", "end")


class Rows:
    """Observations as parallel arrays, earliest first; `kind`, `stream` and `detail` are codes of their `History`.

    `columns` are whole columns in as few bytes as they need, `where` the positions that these rows have in them (None: all).
    A column is gathered when it is first asked for, since a judge of millions of rows looks at two or three of the eight.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]], where: NDArray[Any] | None = None) -> None:
        self._columns = columns
        self._where = where

    def __len__(self) -> int:
        return len(self._columns["t"] if self._where is None else self._where)

    @cached_property
    def t(self) -> Floats:
        """Seconds since the run began."""
        return self._gather("t")

    @cached_property
    def kind(self) -> Codes:
        """Codes of `Kind`."""
        return self._gather_codes("kind")

    @cached_property
    def client(self) -> Ints:
        """Indices of clients."""
        return self._gather("client")

    @cached_property
    def stream(self) -> Ints:
        """Codes of `History.streams`."""
        return self._gather("stream")

    @cached_property
    def seq(self) -> Ints:
        """Sequence numbers."""
        return self._gather("seq")

    @cached_property
    def attempt(self) -> Ints:
        """Attempts, or a fault's place in its plan."""
        return self._gather("attempt")

    @cached_property
    def value(self) -> Floats:
        """Milliseconds, events or counts, by kind."""
        return self._gather("value")

    @cached_property
    def detail(self) -> Codes:
        """Codes of `History.details`."""
        return self._gather_codes("detail")

    def _gather_codes(self, name: str) -> Codes:
        """In as few bytes as the column has: these codes are compared and looked up, not reckoned with."""
        column = self._columns[name]
        return column if self._where is None else column[self._where]

    def _gather(self, name: str) -> NDArray[Any]:
        rows: NDArray[Any] = self._gather_codes(name)
        return rows.astype(np.float64 if rows.dtype.kind == "f" else np.int64, copy=False)

    def take(self, which: NDArray[Any]) -> "Rows":
        """The rows that a mask or an array of positions picks, in that order."""
        if self._where is not None:
            return Rows(self._columns, self._where[which])
        return Rows(self._columns, np.flatnonzero(which) if which.dtype == np.bool_ else which)

    def having(self, **columns: NDArray[Any]) -> "Rows":
        """The same rows with other values in some columns."""
        return Rows({name: columns.get(name, getattr(self, name)) for name in self._columns})

    def and_then(self, others: "Rows") -> "Rows":
        """These rows, then the others."""
        return Rows({name: np.concatenate((getattr(self, name), getattr(others, name))) for name in self._columns})

    def by_client(self) -> "Rows":
        """The same rows ordered by client, each client's still in time order."""
        return self.take(np.argsort(self.client, kind="stable"))

    def is_kind(self, kind: Kind) -> Mask:
        """Where a row is of `kind`."""
        return np.equal(self.kind, _KIND_CODE[kind])


class History:
    """The observations of one run, beside its header.

    Raises `EvidenceError` for rows that no engine writes: unknown kinds, empty cells, times that are no number.
    """

    def __init__(self, header: RunHeader, table: pa.Table) -> None:
        self.header = header
        _refuse_empty_cells(table)
        order = _time_order(table)
        kind_codes, kinds = _words(table, "kind")
        kind = _known_kinds(kinds)[kind_codes][order]
        stream, self.streams = _words(table, "stream")
        detail, self.details = _words(table, "detail")
        columns = {
            name: np.asarray(table.column(name).to_numpy())[order] for name in ("t", "client", "seq", "attempt", "value")
        }
        self._rows = Rows(columns | {"kind": kind, "stream": stream[order], "detail": detail[order]})
        # Sixteen bits are enough for kinds, and NumPy sorts those by radix.
        places = np.argsort(kind, kind="stable")
        self._by_kind = places.astype(np.int32) if len(places) < _MAX_INT32 else places
        self._ends = np.concatenate(([0], np.cumsum(np.bincount(kind, minlength=len(_KINDS)))))

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, *kinds: Kind) -> Rows:
        """All rows of these kinds, whoever's they are."""
        places = [self._by_kind[self._ends[code] : self._ends[code + 1]] for code in (_KIND_CODE[kind] for kind in kinds)]
        where = places[0] if len(places) == 1 else np.sort(np.concatenate(places))
        return self._rows.take(where)

    def fleet(self, *kinds: Kind) -> Rows:
        """The fleet's rows of these kinds; probes, the auditor and clientless rows are left out."""
        rows = self.of(*kinds)
        inside = (rows.client >= 0) & (rows.client < self.header.clients)
        return rows if bool(inside.all()) else rows.take(inside)

    def session_rows(self, *kinds: Kind) -> Rows:
        """The rows of everyone who plays by the rules: the fleet and the auditor, but no probe."""
        rows = self.of(*kinds)
        inside = (rows.client >= 0) & (rows.client < self.header.clients)
        return rows.take(inside | (rows.client == self.header.auditor) & (rows.client >= 0))

    def believable(self, rows: Rows) -> Rows:
        """The rows without those restarts of clients that no fault announced, which excuse nothing.

        A fault of the plan announces one restart a (client, stream), while it lasts and with the checkpoint it says.
        """
        restarted = rows.is_kind(Kind.RESTARTED)
        if not restarted.any():
            return rows
        keep = ~restarted
        for index, (begun_t, ended_t) in self.fault_times("restart_clients").items():
            said = [str(self.header.plan[index].get("checkpoint"))] if index < len(self.header.plan) else []
            inside = np.flatnonzero(restarted & (rows.t >= begun_t) & (rows.t <= ended_t) & self.detail_is(rows, said))
            _, first = np.unique(self.pair(rows)[inside], return_index=True)
            keep[inside[first]] = True
        return rows.take(keep)

    def fault_times(self, kind: str) -> dict[int, tuple[float, float]]:
        """By index in the plan, when each fault of this kind began and ended, in seconds; infinity for never ended."""
        begun, ended = self.of(Kind.FAULT_INJECTED), self.of(Kind.FAULT_REVERTED)
        begun = begun.take(self.detail_is(begun, [kind]))
        ends = dict(zip(ended.attempt.tolist(), ended.t.tolist(), strict=True))
        return {index: (t, ends.get(index, np.inf)) for index, t in zip(begun.attempt.tolist(), begun.t.tolist(), strict=True)}

    def detail_is(self, rows: Rows, texts: Iterable[str]) -> Mask:
        """Where a row's detail is one of `texts`."""
        wanted = set(texts)
        return np.isin(rows.detail, [code for code, text in enumerate(self.details) if text in wanted])

    def detail_counts(self, rows: Rows) -> dict[str, int]:
        """How often each detail occurs, the most frequent first."""
        counts = np.bincount(rows.detail, minlength=len(self.details))
        found = {self.details[code]: int(counts[code]) for code in np.flatnonzero(counts)}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def pair(self, rows: Rows) -> Ints:
        """One integer for each row's (client, stream)."""
        return (rows.client + 1) * len(self.streams) + rows.stream

    @cached_property
    def phases(self) -> dict[str, float]:
        """When each phase began, in seconds; only those that did begin."""
        rows = self.of(Kind.PHASE)
        return {self.details[code]: float(t) for t, code in zip(rows.t[::-1], rows.detail[::-1], strict=True)}

    @cached_property
    def first_fault_t(self) -> float:
        """When the first fault began, in seconds; infinity if none did."""
        begun = self.of(Kind.FAULT_INJECTED)
        return float(begun.t[0]) if len(begun) else float("inf")

    @cached_property
    def first_live_t(self) -> Floats:
        """By fleet client, when it was first live, in seconds; infinity for never."""
        live_t = np.full(self.header.clients, np.inf)
        rows = self.fleet(Kind.SUBSCRIBED)
        np.minimum.at(live_t, rows.client, rows.t)
        return live_t

    @cached_property
    def duration_s(self) -> float:
        """From the run's begin to its last observation, in seconds."""
        return float(self._rows.t[-1]) if len(self) else 0.0

    def in_fault_phase(self, t: Floats) -> Mask:
        """Where a moment lies in the fault phase; nowhere in a run that breaks nothing, whose phases are all alike."""
        if not self.header.plan:
            return np.zeros(len(t), np.bool_)
        begin = self.phases.get("fault", float("inf"))
        return (t >= begin) & (t < self.phases.get("recovery", float("inf")))


def at(client: int, stream: str, seq: int, t: float) -> str:
    """One observation in words, as `client 3, runtime.run.1.events, seq 17, at 4.201 s`."""
    parts = [f"client {client}" if client >= 0 else "", stream, f"seq {seq}" if seq >= 0 else "", f"at {t:.3f} s"]
    return ", ".join(part for part in parts if part)


def _refuse_empty_cells(table: pa.Table) -> None:
    for name in table.column_names:
        if table.column(name).null_count:
            raise EvidenceError(f"observations: column {name} has empty cells, which no engine writes.")


def _time_order(table: pa.Table) -> Ints | slice:
    t = np.asarray(table.column("t").to_numpy(), np.float64)
    if not bool(np.isfinite(t).all()):
        raise EvidenceError("observations: a time is not a finite number.")
    # Sorting copies every column, so it is spared where the engine wrote in order already.
    return slice(None) if bool((np.diff(t) >= 0).all()) else np.argsort(t, kind="stable")


def _words(table: pa.Table, name: str) -> tuple[NDArray[np.int32], list[str]]:
    """A dictionary column as codes and the words they stand for, each word once."""
    if table.num_rows == 0:
        return np.zeros(0, np.int32), []
    column = table.column(name).unify_dictionaries()
    chunks = cast("list[pa.DictionaryArray[Any, Any]]", column.chunks)
    words = cast(list[str], chunks[0].dictionary.to_pylist())
    codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in chunks])
    distinct = list(dict.fromkeys(words))
    place = {word: code for code, word in enumerate(distinct)}
    return np.array([place[word] for word in words], np.int32)[codes], distinct


def _known_kinds(kinds: list[str]) -> NDArray[np.int16]:
    unknown = [kind for kind in kinds if kind not in _KIND_CODE]
    if unknown:
        raise EvidenceError(f"observations: there are rows of kind '{unknown[0]}', which this version does not know.")
    return np.array([_KIND_CODE[kind] for kind in kinds], np.int16)
