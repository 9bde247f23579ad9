"""Comparison of the variants of a parity run: after the same events, all must leave every client with the same state.

A *variant* is an engine, a form of delivery and a client policy. All variants publish the same events in the same order and
inject the same faults at the same times. They may differ in how a client got its events: live or by replay, after how many
reconnects, and up to which event a snapshot reached. They must not differ in the result, compared per client and stream:

- **log**: each seq was acknowledged with the same content in every variant, and all logs have the same length;
- **state**: the content of each event that the client holds; an event that a snapshot covered has that from the log; an event
  that the client does not have has none;
- **checkpoint**: the watermark with which the client would resume;
- **order**: whether an event was late (after one that must follow it). With a correct service that never happens.

Parity drills have no streams without snapshots, because losses there depend on when a client was away. A variant whose steady
state did not hold before the faults is reported as unready. Every variant is compared with the first one; a difference is
reported at the event with the lowest seq.

The content of an event is the number of its marker: that number and the drill determine the payload, and altered payloads are
recorded as such. Payload hashes differ between runs, because a marker names its run; they serve for events without a marker.
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
_ALTERED = "an altered event"


@dataclass(frozen=True)
class Difference:
    """The first event at which two variants differ; `client` is -1 if their logs differ."""

    stream: str
    seq: int
    client: int
    one: str
    one_has: str
    other: str
    other_has: str

    def __str__(self) -> str:
        where = f"client {self.client}" if self.client >= 0 else "the log"
        return f"{self.stream}, seq {self.seq}, {where}: {self.one_has} on {self.one}, but {self.other_has} on {self.other}"


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison."""

    variants: int
    events: int  # acknowledged in the first variant
    sequences: int  # (client, stream) pairs of the first variant that have anything to compare
    differences: tuple[Difference, ...]  # one per variant that differs from the first, the earliest event first
    unequal: str = ""  # why the variants did not publish the same events
    unready: str = ""  # variants whose steady state did not hold before the faults, and why


@dataclass(frozen=True)
class Account:
    """The result of one variant in compact form, so that many fit into memory.

    Axes: clients, streams, seq - 1; the log has no client axis. Values are indices into `words`; the first word, an empty text,
    means that the event is missing.
    """

    streams: tuple[str, ...]
    words: tuple[str, ...]
    log: Codes
    held: Codes
    checkpoint: Ints
    acknowledged: int
    unready: str = ""  # why the steady state did not hold before the faults


def account(history: History) -> Account:
    """The result of one variant."""
    # Runs are numbered, so streams have the same names in all variants.
    streams = tuple(dict.fromkeys(name for own in history.header.subscriptions.values() for name in own))
    length = int(history.of(Kind.PUBLISHED, Kind.APPLIED, Kind.GAP).seq.max(initial=0))
    clients = history.header.clients
    names = [history.base_name(code) for code in range(len(history.streams))]
    place = np.array([streams.index(name) if name in streams else -1 for name in names] or [-1], np.int64)
    contents = _Contents(history)
    words = contents.words

    def known(rows: Rows) -> Rows:
        return rows.take((place[rows.stream] >= 0) & (rows.seq >= 1))

    log = np.zeros((len(streams), length), np.int32)
    published = known(history.of(Kind.PUBLISHED))
    log[place[published.stream], published.seq - 1] = contents.of(published)
    held = np.zeros((clients, len(streams), length), np.int32)
    snapshots = known(history.fleet(Kind.REBOOTSTRAPPED))
    snapshots = snapshots.take(history.detail_is(snapshots, ["snapshot"]))
    olds = np.nan_to_num(snapshots.value, nan=0.0).astype(np.int64)
    for client, stream, old, new in zip(snapshots.client, place[snapshots.stream], olds, snapshots.seq, strict=True):
        held[client, stream, old:new] = log[stream, old:new]
    applied = known(history.fleet(Kind.APPLIED))
    held[applied.client, place[applied.stream], applied.seq - 1] = contents.of(applied)
    altered = known(history.fleet(Kind.ALTERED))
    held[altered.client, place[altered.stream], altered.seq - 1] = words.index(_ALTERED)
    gaps = known(history.fleet(Kind.GAP))
    gaps = gaps.take(np.isfinite(gaps.value) & (gaps.value < gaps.seq))
    late = (gaps.client, place[gaps.stream], gaps.value.astype(np.int64))  # the event after the watermark is late
    held[late] += np.where((held[late] > 0) & (held[late] < len(words)), len(words), 0).astype(np.int32)
    checkpoint = np.zeros((clients, len(streams)), np.int64)
    written = known(history.fleet(Kind.CHECKPOINT_WRITTEN))
    checkpoint[written.client, place[written.stream]] = written.seq  # the last one counts
    words = (*words, *(word + _LATE for word in words))
    return Account(streams, words, log, held, checkpoint, len(published), _unready_reason(history))


class _Contents:
    """The contents of events as indices into `words`: by marker, or by payload hash for an event without a marker."""

    def __init__(self, history: History) -> None:
        self._numbers = np.unique(history.of(Kind.PUBLISHED, Kind.APPLIED).marker)
        self._hashes = np.array([1 + at if text else 0 for at, text in enumerate(history.details)] or [0], np.int32)
        self.words = ("", *history.details, _ALTERED, *(f"event {number}" for number in self._numbers.tolist()))

    def of(self, rows: Rows) -> Codes:
        """Index of each row's content."""
        first = len(self.words) - len(self._numbers)
        by_marker = first + np.searchsorted(self._numbers, rows.marker).astype(np.int32)
        return np.where(rows.marker >= 0, by_marker, self._hashes[rows.detail])


def compare(accounts: Mapping[str, Account], events: int) -> Comparison:
    """Compare variants, by name, that each should have published `events` events."""
    short = [f"{each.acknowledged} of {events} on {name}" for name, each in accounts.items() if each.acknowledged != events]
    if not accounts:
        return Comparison(0, 0, 0, ())
    common = _Common(list(accounts.values()))
    (first, one), *others = accounts.items()
    mine = common.aligned(one)
    found = [each for name, other in others if (each := common.difference(first, mine, name, common.aligned(other)))]
    return Comparison(
        variants=len(accounts),
        events=one.acknowledged,
        sequences=int(((one.held > 0).any(axis=-1) | (one.checkpoint > 0)).sum()),
        differences=tuple(sorted(found, key=lambda each: (each.seq, common.streams.index(each.stream)))),
        unequal=f"not all events were acknowledged: {'; '.join(short)}" if short else "",
        unready=", ".join(f"{name} ({each.unready})" for name, each in accounts.items() if each.unready),
    )


def _unready_reason(history: History) -> str:
    steady = history.of(Kind.STEADY)
    why = steady.take(steady.value != 1.0).detail
    return (history.details[why[0]] or "no reason was given") if len(why) else ""


_Found = tuple[int, int, int, str, str]  # seq, index of the stream, client, what each of both variants has


class _Common:
    """The streams, seqs, clients and words of several accounts together."""

    def __init__(self, accounts: Sequence[Account]) -> None:
        self.streams = list(dict.fromkeys(name for each in accounts for name in each.streams))
        self._clients = max(each.held.shape[0] for each in accounts)
        self._length = max(each.held.shape[2] for each in accounts)
        self._words = list(dict.fromkeys(word for each in accounts for word in each.words))

    def aligned(self, one: Account) -> Account:
        """The same account with the common axes and words."""
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

    def difference(self, first: str, one: Account, other: str, two: Account) -> Difference | None:
        """The first difference of two aligned accounts."""
        found = (*self._in_log(one, two), *self._in_state(one, two), *_in_checkpoint(one, two))
        if not found:
            return None
        seq, stream, client, one_has, other_has = min(found, key=lambda each: each[:3])
        return Difference(self.streams[stream], seq, client, first, one_has or NOTHING, other, other_has or NOTHING)

    def _in_log(self, one: Account, two: Account) -> list[_Found]:
        return [
            (int(at) + 1, int(stream), -1, self._words[one.log[stream, at]], self._words[two.log[stream, at]])
            for stream, at in _earliest(one.log != two.log)
        ]

    def _in_state(self, one: Account, two: Account) -> list[_Found]:
        found = [(int(at), int(stream), int(client)) for client, stream, at in _earliest(one.held != two.held)]
        return [
            (at + 1, stream, client, self._words[one.held[client, stream, at]], self._words[two.held[client, stream, at]])
            for at, stream, client in found
        ]


def _in_checkpoint(one: Account, two: Account) -> list[_Found]:
    found = []
    for client, stream in np.argwhere(one.checkpoint != two.checkpoint)[:1]:
        marks = int(one.checkpoint[client, stream]), int(two.checkpoint[client, stream])
        found.append((min(marks) + 1, int(stream), int(client), f"checkpoint {marks[0]}", f"checkpoint {marks[1]}"))
    return found


def _earliest(differs: NDArray[np.bool_]) -> Ints:
    """The index with the lowest last axis, as an array of one row, or of none if nothing differs."""
    places = np.argwhere(differs)
    return places[np.argsort(places[:, -1], kind="stable")][:1]
