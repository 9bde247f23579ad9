"""Parity: one history of events, taken through several worlds, must leave everyone with the same.

A *surface* is one such world: an engine, a form of delivery, a client policy. All publish the same events in the same
order, and all break the same things at the same moments; but one moment finds real sockets a few events further than
simulated ones, and one policy back sooner than another. What may differ, then, is the way: which events came live and
which in a replay, how often a client came back, and how far the snapshot reached that it took after the window was
trimmed. What may not differ is what comes of it, and that is compared for each client and stream:

- **log**: each seq was acknowledged with the same payload hash on every surface, and they are equally many;
- **state**: what the client holds of each seq. That is the hash of what it applied; for an event that a snapshot covered,
  that of the log, since the snapshot is the log's own account of itself; and nothing, where it has a hole;
- **checkpoint**: the watermark it would come back with;
- **order**: whether an event was late, that is, came after one that must follow it, or not at all. A client of a right
  runtime never sees that, in no replay and on no live tail, so a surface on which it does has parted from the others.

Streams without snapshots are left out of such drills: there, what is lost for good depends on when a client was away.
The first event at which a surface parts is the one of the lowest seq; every surface is compared with the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.history import History, Ints, Rows
from sim.observations import Kind

Words = NDArray[np.str_]
_LONGEST = 32  # characters of what is said to be had: a short hash and a remark
NOTHING = "nothing"
_LATE = " late"


@dataclass(frozen=True)
class Parting:
    """The first event at which two surfaces have something else. `client` -1: the log itself has."""

    stream: str
    seq: int
    client: int
    one: str
    one_has: str
    other: str
    other_has: str

    def __str__(self) -> str:
        whose = f"client {self.client}" if self.client >= 0 else "the log"
        return f"{self.stream}, seq {self.seq}, {whose}: {self.one_has} on {self.one}, but {self.other_has} on {self.other}"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found. `sequences` is how many (client, stream) pairs each surface was compared in."""

    surfaces: int
    events: int  # acknowledged on the first surface
    sequences: int  # (client, stream) pairs in which the first surface has anything to compare
    partings: tuple[Parting, ...]  # one for each surface that is not as the first, the earliest event first
    unequal: str = ""  # why the histories are not of the same events at all


@dataclass(frozen=True)
class _State:
    """What one surface came to. Axes: clients, streams, seq - 1; the log lacks the first one."""

    log: Words
    held: Words
    checkpoint: Ints
    acknowledged: int


def compare(histories: Mapping[str, History], events: int) -> Comparison:
    """Compare surfaces, by name, that each published `events` events; of fewer than two nothing can be said."""
    streams = _streams(histories)
    clients = max((history.header.clients for history in histories.values()), default=0)
    length = max((_highest_seq(history) for history in histories.values()), default=0)
    states = {name: _state(history, streams, clients, length) for name, history in histories.items()}
    short = [f"{state.acknowledged} of {events} on {name}" for name, state in states.items() if state.acknowledged != events]
    first, *others = states or ("",)
    found = [parting for other in others if (parting := _first_parting(streams, states, first, other))]
    return Comparison(
        surfaces=len(states),
        events=states[first].acknowledged if states else 0,
        sequences=_sequences(states[first]) if states else 0,
        partings=tuple(sorted(found, key=lambda parting: (parting.seq, streams.index(parting.stream)))),
        unequal=f"not all events were acknowledged: {'; '.join(short)}" if short else "",
    )


def _sequences(state: _State) -> int:
    """In how many (client, stream) pairs there is anything at all."""
    return int(((state.held != "").any(axis=-1) | (state.checkpoint > 0)).sum())


def _streams(histories: Mapping[str, History]) -> list[str]:
    """All streams that anyone subscribed to; runs are counted up, so they have the same names everywhere."""
    names = (name for history in histories.values() for own in history.header.subscriptions.values() for name in own)
    return list(dict.fromkeys(names))


def _highest_seq(history: History) -> int:
    rows = history.of(Kind.PUBLISHED, Kind.APPLIED, Kind.GAP)
    return int(rows.seq.max(initial=0))


def _log_rows(history: History) -> Rows:
    rows = history.of(Kind.PUBLISHED)
    return rows.take(rows.seq >= 1)


def _state(history: History, streams: list[str], clients: int, length: int) -> _State:
    place = np.array([streams.index(name) if name in streams else -1 for name in history.streams] or [-1], np.int64)
    words = np.array(history.details or [""], f"U{_LONGEST}")

    def known(rows: Rows) -> Rows:
        return rows.take((place[rows.stream] >= 0) & (rows.seq >= 1))

    log = np.full((len(streams), length), "", words.dtype)
    published = known(_log_rows(history))
    log[place[published.stream], published.seq - 1] = words[published.detail]
    held = np.full((clients, len(streams), length), "", words.dtype)
    snapshots = known(history.fleet(Kind.REBOOTSTRAPPED))
    snapshots = snapshots.take(history.detail_is(snapshots, ["snapshot"]))
    olds = np.nan_to_num(snapshots.value, nan=0.0).astype(np.int64)
    for client, stream, old, new in zip(snapshots.client, place[snapshots.stream], olds, snapshots.seq, strict=True):
        held[client, stream, old:new] = log[stream, old:new]
    applied = known(history.fleet(Kind.APPLIED))
    held[applied.client, place[applied.stream], applied.seq - 1] = words[applied.detail]
    gaps = known(history.fleet(Kind.GAP))
    gaps = gaps.take(np.isfinite(gaps.value) & (gaps.value < gaps.seq))
    late = (gaps.client, place[gaps.stream], gaps.value.astype(np.int64))  # the one after the watermark should have come
    held[late] = np.where(held[late] == "", "", np.char.add(held[late], _LATE))
    checkpoint = np.zeros((clients, len(streams)), np.int64)
    written = known(history.fleet(Kind.CHECKPOINT_WRITTEN))
    checkpoint[written.client, place[written.stream]] = written.seq  # of several the last counts
    return _State(log, held, checkpoint, len(published))


def _first_parting(streams: list[str], states: Mapping[str, _State], first: str, other: str) -> Parting | None:
    one, two = states[first], states[other]
    found = (*_log_partings(one, two), *_held_partings(one, two), *_checkpoint_partings(one, two))
    if not found:
        return None
    seq, stream, client, one_has, other_has = min(found, key=lambda each: each[:3])
    return Parting(streams[stream], seq, client, first, one_has or NOTHING, other, other_has or NOTHING)


_Found = tuple[int, int, int, str, str]  # seq, place of the stream, client, what the one has, what the other has


def _log_partings(one: _State, two: _State) -> list[_Found]:
    return [
        (int(at) + 1, int(stream), -1, str(one.log[stream, at]), str(two.log[stream, at]))
        for stream, at in _earliest(one.log != two.log)
    ]


def _held_partings(one: _State, two: _State) -> list[_Found]:
    return [
        (int(at) + 1, int(stream), int(client), str(one.held[client, stream, at]), str(two.held[client, stream, at]))
        for client, stream, at in _earliest(one.held != two.held)
    ]


def _checkpoint_partings(one: _State, two: _State) -> list[_Found]:
    found = []
    for client, stream in np.argwhere(one.checkpoint != two.checkpoint)[:1]:
        marks = int(one.checkpoint[client, stream]), int(two.checkpoint[client, stream])
        found.append((min(marks) + 1, int(stream), int(client), f"checkpoint {marks[0]}", f"checkpoint {marks[1]}"))
    return found


def _earliest(differs: NDArray[np.bool_]) -> Ints:
    """The place, as a table of one row or none, whose last axis is lowest; of several the first."""
    places = np.argwhere(differs)
    return places[np.argsort(places[:, -1], kind="stable")][:1]
