"""Observations as growing columns in memory, and the Arrow table made from them.

Rows that many clients observe alike are stored once: a tuple of rows is shared, and each client adds three numbers. Rows are
sorted by time only when the table is made, because an engine may record an earlier event later.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim.record.observations import NAN, SCHEMA, Row


class _Codes(dict[str, int]):
    """Strings as small integers, numbered in order of first use."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


class _Shared:
    """Tuples of rows that several clients observed, each stored once, with the client and time of each observation."""

    def __init__(self) -> None:
        self.rows: list[Row] = []  # of all tuples, concatenated
        self.first, self.count = array("q"), array("q")  # per tuple: index of its first row, number of rows
        self.t, self.client, self.code = array("d"), array("i"), array("i")
        self.place = array("q")  # per use: number of single rows before it
        self.held: dict[int, tuple[Sequence[Row], int]] = {}  # by id(); keeping the tuple keeps its id unique

    def code_of(self, rows: Sequence[Row]) -> int:
        """Assign a code to a new tuple."""
        code = len(self.first)
        self.held[id(rows)] = rows, code
        self.first.append(len(self.rows))
        self.count.append(len(rows))
        self.rows += rows
        return code


class RowSink(ABC):
    """Something that takes rows."""

    def add(
        self,
        t: float,
        kind: str,
        client: int = -1,
        stream: str = "",
        seq: int = -1,
        attempt: int = 0,
        value: float = NAN,
        detail: str = "",
        marker: int = -1,
    ) -> None:
        """Add one row; `sim.record.observations` explains the columns."""
        self.extend(t, client, [(kind, stream, seq, attempt, value, detail, marker)])

    @abstractmethod
    def extend(self, t: float, client: int, rows: Sequence[Row]) -> None:
        """Add what one client observed at one time. A tuple of rows is shared between clients."""


class Columns(RowSink):
    """Growing columns of one chunk. `extend` is the hot path of every engine."""

    def __init__(self) -> None:
        self.t = array("d")
        self.kind = array("i")
        self.client = array("i")
        self.stream = array("i")
        self.seq = array("q")
        self.attempt = array("i")
        self.value = array("d")
        self.detail = array("i")
        self.marker = array("q")
        self._kinds, self._streams, self._details = _Codes(), _Codes(), _Codes()
        self._shared = _Shared()
        self._shared_rows = 0

    def __len__(self) -> int:
        return len(self.t) + self._shared_rows

    def extend(self, t: float, client: int, rows: Sequence[Row]) -> None:
        if isinstance(rows, tuple):
            self.share(t, client, rows)
            return
        kinds, streams, details = self._kinds, self._streams, self._details
        for kind, stream, seq, attempt, value, detail, marker in rows:
            self.t.append(t)
            self.kind.append(kinds[kind])
            self.client.append(client)
            self.stream.append(streams[stream])
            self.seq.append(seq)
            self.attempt.append(attempt)
            self.value.append(value)
            self.detail.append(details[detail])
            self.marker.append(marker)

    def share(self, t: float, client: int, rows: tuple[Row, ...]) -> None:
        """Append a tuple of rows that many clients observe."""
        shared = self._shared
        known = shared.held.get(id(rows))
        shared.code.append(shared.code_of(rows) if known is None else known[1])
        shared.t.append(t)
        shared.client.append(client)
        shared.place.append(len(self.t))
        self._shared_rows += len(rows)

    def table(self) -> pa.Table:
        """Arrow table of `SCHEMA`, sorted by time; rows with the same time stay in the order of their addition."""
        columns, texts = self._in_order(), {"kind": self._kinds, "stream": self._streams, "detail": self._details}

        def array_of(name: str) -> "pa.Array[Any]":
            numbers = _array(columns[name])
            return pa.DictionaryArray.from_arrays(numbers, _texts(texts[name])) if name in texts else numbers

        return pa.Table.from_arrays([array_of(name) for name in SCHEMA.names], schema=SCHEMA)

    def _in_order(self) -> dict[str, NDArray[Any]]:
        """All columns with shared rows expanded. An entry is a single row or one client's use of a shared tuple."""
        templates = self._encoded(self._shared.rows)
        single, shared = len(self.t), self._shared
        code = _numbers(shared.code)
        t = np.concatenate((_numbers(self.t), _numbers(shared.t)))
        place = np.concatenate((np.arange(single), _numbers(shared.place) - 0.5))
        order = np.lexsort((place, t))
        count = np.concatenate((np.ones(single, np.int64), _numbers(shared.count)[code]))[order]
        first = np.concatenate((np.arange(single), single + _numbers(shared.first)[code]))[order]
        client = np.concatenate((_numbers(self.client), _numbers(shared.client)))[order]
        rows = np.arange(len(self)) + np.repeat(first - np.cumsum(count) + count, count)
        columns = {"t": np.repeat(t[order], count), "client": np.repeat(client, count)}
        for name in ("kind", "stream", "seq", "attempt", "value", "detail", "marker"):
            both = _numbers(getattr(self, name)), _numbers(getattr(templates, name))
            columns[name] = np.concatenate(both)[rows]
        return columns

    def _encoded(self, rows: Sequence[Row]) -> "Columns":
        """Rows as separate columns with the same codes."""
        encoded = Columns()
        encoded._kinds, encoded._streams, encoded._details = self._kinds, self._streams, self._details
        encoded.extend(NAN, -1, list(rows))
        return encoded


def _numbers(column: "array[Any]") -> NDArray[Any]:
    return np.frombuffer(column, column.typecode) if column else np.zeros(0, column.typecode)


# `pa.array` would import pandas, where it is installed: 50 MiB, and a pause in the middle of a run.
def _array(numbers: NDArray[Any]) -> "pa.Array[Any]":
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers.data)])


def _texts(texts: Iterable[str]) -> pa.StringArray:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends.data), pa.py_buffer(b"".join(encoded)))
