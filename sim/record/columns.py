"""Observations as growing columns, and as the Arrow table that is written of them.

What many clients notice alike is kept once: a tuple of rows is taken to be shared, and each client that noticed it costs
three numbers until the table is made. There, and not before, everything is put in order of time, since an engine may learn
late of what happened earlier.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim.record.observations import NAN, SCHEMA, Row


class _Codes(dict[str, int]):
    """Strings as small integers, first come first numbered; a known one is a plain dictionary lookup."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


class _Shared:
    """Rows that several clients noticed, each tuple of them once, and who noticed which when."""

    def __init__(self) -> None:
        self.rows: list[Row] = []  # of all tuples, one after the other
        self.first, self.count = array("q"), array("q")  # by tuple: its first row, and how many
        self.t, self.client, self.code = array("d"), array("i"), array("i")
        self.place = array("q")  # how many rows stood alone before
        self.held: dict[int, tuple[Sequence[Row], int]] = {}  # by identity; held, so that no other can have the same

    def code_of(self, rows: Sequence[Row]) -> int:
        """A code for a tuple that has none yet."""
        code = len(self.first)
        self.held[id(rows)] = rows, code
        self.first.append(len(self.rows))
        self.count.append(len(rows))
        self.rows += rows
        return code


class Columns:
    """Growing columns of one chunk; `extend` is the hot path of every engine."""

    def __init__(self) -> None:
        self.t = array("d")
        self.kind = array("i")
        self.client = array("i")
        self.stream = array("i")
        self.seq = array("q")
        self.attempt = array("i")
        self.value = array("d")
        self.detail = array("i")
        self._kinds, self._streams, self._details = _Codes(), _Codes(), _Codes()
        self._shared = _Shared()
        self._shared_rows = 0

    def __len__(self) -> int:
        return len(self.t) + self._shared_rows

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
    ) -> None:
        """Append one row."""
        self.t.append(t)
        self.kind.append(self._kinds[kind])
        self.client.append(client)
        self.stream.append(self._streams[stream])
        self.seq.append(seq)
        self.attempt.append(attempt)
        self.value.append(value)
        self.detail.append(self._details[detail])

    def extend(self, t: float, client: int, rows: Sequence[Row]) -> None:
        """Append what one client noticed at one moment; a tuple of rows is taken to be shared."""
        if isinstance(rows, tuple):
            self.share(t, client, rows)
            return
        kinds, streams, details = self._kinds, self._streams, self._details
        for kind, stream, seq, attempt, value, detail in rows:
            self.t.append(t)
            self.kind.append(kinds[kind])
            self.client.append(client)
            self.stream.append(streams[stream])
            self.seq.append(seq)
            self.attempt.append(attempt)
            self.value.append(value)
            self.detail.append(details[detail])

    def share(self, t: float, client: int, rows: tuple[Row, ...]) -> None:
        """Append what one client noticed at one moment, of which many notice the very same."""
        shared = self._shared
        known = shared.held.get(id(rows))
        shared.code.append(shared.code_of(rows) if known is None else known[1])
        shared.t.append(t)
        shared.client.append(client)
        shared.place.append(len(self.t))
        self._shared_rows += len(rows)

    # --- the table ----------------------------------------------------------------------------------

    def table(self) -> pa.Table:
        """The rows so far as an Arrow table of `SCHEMA`, in order of time, and of those at one moment as they were added."""
        columns = self._in_order()

        def words(name: str, names: _Codes) -> pa.DictionaryArray:  # type: ignore[type-arg]
            return pa.DictionaryArray.from_arrays(pa.array(columns[name]), pa.array(list(names), pa.string()))

        arrays = [
            pa.array(columns["t"]),
            words("kind", self._kinds),
            pa.array(columns["client"]),
            words("stream", self._streams),
            pa.array(columns["seq"]),
            pa.array(columns["attempt"]),
            pa.array(columns["value"]),
            words("detail", self._details),
        ]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)

    def _in_order(self) -> dict[str, NDArray[Any]]:
        """All columns, the shared rows among the others. An entry is a row that stands alone, or what one client shared."""
        templates = self._encoded(self._shared.rows)
        alone, shared = len(self.t), self._shared
        code = _numbers(shared.code)
        t = np.concatenate((_numbers(self.t), _numbers(shared.t)))
        place = np.concatenate((np.arange(alone), _numbers(shared.place) - 0.5))
        order = np.lexsort((place, t))
        count = np.concatenate((np.ones(alone, np.int64), _numbers(shared.count)[code]))[order]
        first = np.concatenate((np.arange(alone), alone + _numbers(shared.first)[code]))[order]
        client = np.concatenate((_numbers(self.client), _numbers(shared.client)))[order]
        rows = np.arange(len(self)) + np.repeat(first - np.cumsum(count) + count, count)
        columns = {"t": np.repeat(t[order], count), "client": np.repeat(client, count)}
        for name in ("kind", "stream", "seq", "attempt", "value", "detail"):
            both = _numbers(getattr(self, name)), _numbers(getattr(templates, name))
            columns[name] = np.concatenate(both)[rows]
        return columns

    def _encoded(self, rows: Sequence[Row]) -> "Columns":
        """Rows as columns of their own, by the same codes."""
        encoded = Columns()
        encoded._kinds, encoded._streams, encoded._details = self._kinds, self._streams, self._details
        encoded.extend(NAN, -1, list(rows))
        return encoded


def _numbers(column: "array[Any]") -> NDArray[Any]:
    return np.frombuffer(column, column.typecode) if column else np.zeros(0, column.typecode)
