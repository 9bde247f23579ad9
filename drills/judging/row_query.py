"""Rows of a record that match a query, for people who look for a cause."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.base.errors import UsageError
from sim.record.history import History, Rows
from sim.record.observations import Kind

AROUND = 5  # [ours] positions before and after the asked one


@dataclass(frozen=True)
class RowQuery:
    """Which rows are wanted; a missing value does not narrow them down."""

    client: int | None = None
    stream: str | None = None  # or a part of its name that no other stream has
    around: int | None = None  # a position, with `AROUND` before and after it; needs `stream`
    kinds: tuple[str, ...] = ()
    since_s: float | None = None
    until_s: float | None = None


def matching(history: History, query: RowQuery) -> Rows:
    """Return the rows in order of time. Raises `UsageError` for an unknown kind, client or stream."""
    if unknown := [kind for kind in query.kinds if kind not in list(Kind)]:
        raise UsageError(f"--kind {unknown[0]}: there is no such kind of row. There are: {', '.join(Kind)}.")
    rows = history.of(*(Kind(kind) for kind in query.kinds)) if query.kinds else history.of(*Kind)
    keep = np.ones(len(rows), np.bool_)
    if query.client is not None:
        if not bool((history.of(*Kind).client == query.client).any()):
            raise UsageError(f"--client {query.client}: has no rows. The fleet has clients 0 to {history.header.clients - 1}.")
        keep &= rows.client == query.client
    if query.around is not None and query.stream is None:
        raise UsageError("--around needs --stream, because positions count for each stream.")
    if query.stream is not None:
        keep &= np.isin(rows.stream, _stream_codes(history, query.stream))
    if query.around is not None:
        keep &= (rows.seq >= 0) & (np.abs(rows.seq - query.around) <= AROUND)
    if query.since_s is not None:
        keep &= rows.t >= query.since_s
    if query.until_s is not None:
        keep &= rows.t <= query.until_s
    return rows.take(keep)


def _stream_codes(history: History, text: str) -> list[int]:
    """The codes of the stream with this name, or of the only one whose name contains it."""
    names = [name for name in history.streams if name]
    found = [name for name in names if name == text] or [name for name in names if text in name]
    if len(found) != 1:
        what = f"{len(found)} streams contain it" if found else "there is no such stream"
        raise UsageError(f"--stream {text}: {what}. There are: {', '.join(sorted(found or names)[:10]) or 'none'}.")
    return [code for code, name in enumerate(history.streams) if name == found[0]]


def as_values(history: History, rows: Rows, limit: int) -> Iterator[dict[str, object]]:
    """The first `limit` rows, each with the columns that its kind uses; `position` is the column `seq`."""
    kinds = list(Kind)
    for place in range(min(limit, len(rows))):
        found: dict[str, object] = {"t": round(float(rows.t[place]), 6), "kind": kinds[int(rows.kind[place])].value}
        numbers = {"client": rows.client, "position": rows.seq, "marker": rows.marker}
        found |= {name: int(column[place]) for name, column in numbers.items() if column[place] >= 0}
        if rows.attempt[place]:
            found["attempt"] = int(rows.attempt[place])
        if np.isfinite(rows.value[place]):
            found["value"] = float(rows.value[place])
        texts = {"stream": history.streams[int(rows.stream[place])], "detail": history.details[int(rows.detail[place])]}
        yield found | {name: text for name, text in texts.items() if text}
