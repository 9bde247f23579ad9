"""Transport of observations from workers to the master: packed and numbered by the worker, checked by the master."""

from bisect import bisect_right
from collections.abc import Callable

import gevent
import pyarrow as pa
import pyarrow.compute as pc

from locustfiles.load.workers.messages import Rows
from sim.record.columns import Columns
from sim.record.observations import NAN, SCHEMA, Kind
from sim.record.parquet import Collector

_MESSAGE_ROWS = 20_000  # a few hundred KiB, so that heartbeats are not delayed


class OutgoingObservations(Collector):
    """A worker's observations until they are sent."""

    def __init__(self) -> None:
        super().__init__(_MESSAGE_ROWS)
        self._waiting: list[Columns] = []
        self.messages = 0  # sent
        self.rows = 0  # observed

    def _hand_on(self, columns: Columns) -> None:
        self._waiting.append(columns)
        self.rows += len(columns)

    def send_all(self, send: Callable[[Rows], None]) -> None:
        """Send all observations. A native thread packs them, so that clients do not wait; unsent ones are kept."""
        self.flush()
        while self._waiting:
            columns = self._waiting[0]
            packed: bytes = gevent.get_hub().threadpool.apply(_packed, (columns,))
            send(Rows(self.messages, len(columns), packed))
            self.messages += 1
            del self._waiting[0]


def _packed(columns: Columns) -> bytes:
    sink, table = pa.BufferOutputStream(), columns.table()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


class ReceivedObservations:
    """Observations from a worker, with its clients' positions turned into lags."""

    def __init__(self, message: Rows, heads: "Heads") -> None:
        """Raises `ValueError` if the rows do not match the message."""
        table = pa.ipc.open_stream(message.table).read_all()
        if table.num_rows != message.rows or table.schema != SCHEMA:
            raise ValueError(f"a message of {message.rows} observations has {table.num_rows}")
        self._table, self.worst_lag = _with_lags(table, heads)

    def __len__(self) -> int:
        return self._table.num_rows

    def table(self) -> pa.Table:
        """See `Chunk`."""
        return self._table


class Heads:
    """The highest acknowledged number of each stream's markers, at any time of the run."""

    def __init__(self) -> None:
        self._t: dict[str, list[float]] = {}
        self._numbers: dict[str, list[int]] = {}

    def acknowledged(self, stream: str, number: int, t: float) -> None:
        """Record an acknowledgement at `t` (s of the run); call in order of time."""
        numbers = self._numbers.setdefault(stream, [])
        numbers.append(max(number, numbers[-1]) if numbers else number)
        self._t.setdefault(stream, []).append(t)

    def at(self, stream: str, t: float) -> int:
        """Return the head at `t`."""
        number = bisect_right(self._t.get(stream, ()), t)
        return self._numbers[stream][number - 1] if number else 0


def _with_lags(table: pa.Table, heads: Heads) -> tuple[pa.Table, float]:
    """Replace positions by each client's largest lag in events; returns the table and the largest lag of all."""
    is_position = pc.equal(table["kind"].cast(pa.string()), pa.scalar(str(Kind.CLIENT_LAG)))
    positions = table.filter(is_position).select(["t", "client", "stream", "marker"]).to_pydict()
    worst: dict[tuple[float, int], float] = {}
    for t, client, stream, marker in zip(*positions.values(), strict=True):
        worst[t, client] = max(float(heads.at(stream, t) - marker), worst.get((t, client), 0.0))
    lags = Columns()
    for (t, client), lag in worst.items():
        lags.add(t, Kind.CLIENT_LAG, client, value=lag)
    both = pa.concat_tables([table.filter(pc.invert(is_position)), lags.table()]).unify_dictionaries()
    return both, max(worst.values(), default=NAN)
