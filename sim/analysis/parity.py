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
Nor does a surface that was never well say much: nothing was broken there, and its clients had not even caught up.
The first event at which a surface parts is the one of the lowest seq; every surface is compared with the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.record.history import History, Ints, Rows
from sim.record.observations import Kind

Codes = NDArray[np.int32]
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

    variants: int
    events: int  # acknowledged on the first surface
    sequences: int  # (client, stream) pairs in which the first surface has anything to compare
    partings: tuple[Parting, ...]  # one for each surface that is not as the first, the earliest event first
    unequal: str = ""  # why the histories are not of the same events at all
    unready: str = ""  # which surfaces were never well before anything was to be broken, and why


@dataclass(frozen=True)
class Account:
    """What one surface came to, in so few bytes that many of them can be held.

    Axes: clients, streams, seq - 1; the log lacks the first one. What was had of an event is the place of its word in `words`;
    the first of these is no word at all: nothing was had.
    """

    streams: tuple[str, ...]
    words: tuple[str, ...]
    log: Codes
    held: Codes
    checkpoint: Ints
    acknowledged: int
    unready: str = ""  # why everyone was never live and up to date at one time, before anything was broken


def account(history: History) -> Account:
    """What a surface's history comes to."""
    # Runs are counted up, so streams have the same names everywhere.
    streams = tuple(dict.fromkeys(name for own in history.header.subscriptions.values() for name in own))
    length, clients = _highest_seq(history), history.header.clients
    place = np.array([streams.index(name) if name in streams else -1 for name in history.streams] or [-1], np.int64)
    words = ("", *history.details)
    code = np.array([1 + at if text else 0 for at, text in enumerate(history.details)] or [0], np.int32)

    def known(rows: Rows) -> Rows:
        return rows.take((place[rows.stream] >= 0) & (rows.seq >= 1))

    log = np.zeros((len(streams), length), np.int32)
    published = known(_log_rows(history))
    log[place[published.stream], published.seq - 1] = code[published.detail]
    held = np.zeros((clients, len(streams), length), np.int32)
    snapshots = known(history.fleet(Kind.REBOOTSTRAPPED))
    snapshots = snapshots.take(history.detail_is(snapshots, ["snapshot"]))
    olds = np.nan_to_num(snapshots.value, nan=0.0).astype(np.int64)
    for client, stream, old, new in zip(snapshots.client, place[snapshots.stream], olds, snapshots.seq, strict=True):
        held[client, stream, old:new] = log[stream, old:new]
    applied = known(history.fleet(Kind.APPLIED))
    held[applied.client, place[applied.stream], applied.seq - 1] = code[applied.detail]
    gaps = known(history.fleet(Kind.GAP))
    gaps = gaps.take(np.isfinite(gaps.value) & (gaps.value < gaps.seq))
    late = (gaps.client, place[gaps.stream], gaps.value.astype(np.int64))  # the one after the watermark should have come
    held[late] += np.where((held[late] > 0) & (held[late] < len(words)), len(words), 0).astype(np.int32)
    checkpoint = np.zeros((clients, len(streams)), np.int64)
    written = known(history.fleet(Kind.CHECKPOINT_WRITTEN))
    checkpoint[written.client, place[written.stream]] = written.seq  # of several the last counts
    return Account(streams, (*words, *(word + _LATE for word in words)), log, held, checkpoint, len(published), _sick(history))


def compare(accounts: Mapping[str, Account], events: int) -> Comparison:
    """Compare surfaces, by name, that each published `events` events; of fewer than two nothing can be said."""
    short = [f"{each.acknowledged} of {events} on {name}" for name, each in accounts.items() if each.acknowledged != events]
    if not accounts:
        return Comparison(0, 0, 0, ())
    common = _Common(list(accounts.values()))
    (first, one), *others = accounts.items()
    mine = common.aligned(one)
    found = [parting for name, other in others if (parting := common.parting(first, mine, name, common.aligned(other)))]
    return Comparison(
        variants=len(accounts),
        events=one.acknowledged,
        sequences=int(((one.held > 0).any(axis=-1) | (one.checkpoint > 0)).sum()),
        partings=tuple(sorted(found, key=lambda parting: (parting.seq, common.streams.index(parting.stream)))),
        unequal=f"not all events were acknowledged: {'; '.join(short)}" if short else "",
        unready=", ".join(f"{name} ({each.unready})" for name, each in accounts.items() if each.unready),
    )


def _highest_seq(history: History) -> int:
    rows = history.of(Kind.PUBLISHED, Kind.APPLIED, Kind.GAP)
    return int(rows.seq.max(initial=0))


def _sick(history: History) -> str:
    steady = history.of(Kind.STEADY)
    why = steady.take(steady.value != 1.0).detail
    return (history.details[why[0]] or "no reason was given") if len(why) else ""


def _log_rows(history: History) -> Rows:
    rows = history.of(Kind.PUBLISHED)
    return rows.take(rows.seq >= 1)


_Found = tuple[int, int, int, str, str]  # seq, place of the stream, client, what the one has, what the other has


class _Common:
    """The streams, seqs, clients and words of several accounts together."""

    def __init__(self, accounts: Sequence[Account]) -> None:
        self.streams = list(dict.fromkeys(name for each in accounts for name in each.streams))
        self._clients = max(each.held.shape[0] for each in accounts)
        self._length = max(each.held.shape[2] for each in accounts)
        self._words = list(dict.fromkeys(word for each in accounts for word in each.words))

    def aligned(self, one: Account) -> Account:
        """The same account with everyone's axes and words."""
        places = {word: place for place, word in enumerate(self._words)}
        code = np.array([places[word] for word in one.words], np.int32)
        streams = [self.streams.index(name) for name in one.streams]
        clients, _, length = one.held.shape
        log = np.zeros((len(self.streams), self._length), np.int32)
        held = np.zeros((self._clients, len(self.streams), self._length), np.int32)
        checkpoint = np.zeros((self._clients, len(self.streams)), np.int64)
        log[streams, :length] = code[one.log]
        held[:clients, streams, :length] = code[one.held]
        checkpoint[:clients, streams] = one.checkpoint
        return Account(tuple(self.streams), tuple(self._words), log, held, checkpoint, one.acknowledged, one.unready)

    def parting(self, first: str, one: Account, other: str, two: Account) -> Parting | None:
        """Where two aligned accounts part first, if they do."""
        found = (*self._log_partings(one, two), *self._held_partings(one, two), *_checkpoint_partings(one, two))
        if not found:
            return None
        seq, stream, client, one_has, other_has = min(found, key=lambda each: each[:3])
        return Parting(self.streams[stream], seq, client, first, one_has or NOTHING, other, other_has or NOTHING)

    def _log_partings(self, one: Account, two: Account) -> list[_Found]:
        return [
            (int(at) + 1, int(stream), -1, self._words[one.log[stream, at]], self._words[two.log[stream, at]])
            for stream, at in _earliest(one.log != two.log)
        ]

    def _held_partings(self, one: Account, two: Account) -> list[_Found]:
        found = [(int(at), int(stream), int(client)) for client, stream, at in _earliest(one.held != two.held)]
        return [
            (at + 1, stream, client, self._words[one.held[client, stream, at]], self._words[two.held[client, stream, at]])
            for at, stream, client in found
        ]


def _checkpoint_partings(one: Account, two: Account) -> list[_Found]:
    found = []
    for client, stream in np.argwhere(one.checkpoint != two.checkpoint)[:1]:
        marks = int(one.checkpoint[client, stream]), int(two.checkpoint[client, stream])
        found.append((min(marks) + 1, int(stream), int(client), f"checkpoint {marks[0]}", f"checkpoint {marks[1]}"))
    return found


def _earliest(differs: NDArray[np.bool_]) -> Ints:
    """The place, as a table of one row or none, whose last axis is lowest; of several the first."""
    places = np.argwhere(differs)
    return places[np.argsort(places[:, -1], kind="stable")][:1]
