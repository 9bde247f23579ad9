"""How connections ended, by code, and how clients reacted: to terminal ends, to hints, and to being closed soon after accepted.

A *series* of attempts is a time in which a client was never live for `PROVEN_S`. A restart of its process, or
a new sign-in, also starts one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.protocols.events import Step
from sim.record.history import Floats, History, Ints, Mask, Rows
from sim.record.observations import Kind

PROVEN_S = 1.0  # [ours] a client that was live for so long may count its attempts from the start again
MAX_HINT_S = 300.0  # [ours] a client may wait less if the server asks for more
QUICK_ATTEMPTS, QUICK_S = 5, 0.05  # [ours] so many waits in a row, of so little together: chance below 1e-8 with full jitter
# [ours] A row may be recorded so long after the moment from which its client counts. A later load generator is an error.
_LATE_S = {"virtual": 0.001, "wall": 0.25}
_KINDS = (
    *(Kind.ENDED, Kind.DISCONNECTED, Kind.CONNECT_FAILED, Kind.CONNECT_ATTEMPTED, Kind.CONNECT_DONE, Kind.SUBSCRIBED),
    *(Kind.BACKOFF, Kind.TOKEN_MINTED, Kind.RESTARTED, Kind.SIGNED_IN),
)


@dataclass(frozen=True)
class Ending:
    """Connections, or single streams, that ended alike."""

    by: str  # see `EndedBy`
    code: str  # a close code, an HTTP status with the server's code, or a code alone
    next: str  # see `Step`
    count: int
    clients: int


@dataclass(frozen=True)
class Reactions:
    """Attempts of clients, each after the end in the same row of `ends`."""

    attempts: Rows
    ends: Rows

    def and_then(self, others: "Reactions") -> "Reactions":
        """Return these and the others, in the order of the attempts."""
        attempts, ends = self.attempts.and_then(others.attempts), self.ends.and_then(others.ends)
        order = np.argsort(attempts.t, kind="stable")
        return Reactions(attempts.take(order), ends.take(order))


def endings(history: History) -> tuple[Ending, ...]:
    """Return how the fleet's connections and connects ended, the most frequent first."""
    rows = history.fleet(Kind.ENDED)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, key in enumerate(zip(rows.detail.tolist(), rows.attempt.tolist(), strict=True)):
        groups.setdefault(parts_of(history.details[key[0]], key[1]), []).append(place)
    found = [Ending(*key, len(places), len(np.unique(rows.client[places]))) for key, places in groups.items()]
    return tuple(sorted(found, key=lambda each: (-each.count, each.by, each.code)))


def parts_of(detail: str, number: int) -> tuple[str, str, str]:
    """Return who caused an end, its code and the next step, from the row's detail and its number."""
    by, _, rest = detail.partition(":")
    code, _, step = rest.rpartition(":")
    return by, f"{number} {code}" if number and code != str(number) else code, step


def said_at(history: History, ends: Rows) -> str:
    """Return the first of these ends in words: who ended it, and the code."""
    detail = history.details[int(ends.detail[0])]
    if not ends.is_kind(Kind.ENDED)[0]:
        return f"the end '{detail}'"
    by, code, step = parts_of(detail, int(ends.attempt[0]))
    return f"{by if by == code else f'{by} {code}'}, next step {step}"


def merged(many: Sequence[Sequence[Ending]]) -> tuple[Ending, ...]:
    """Return the endings of several runs; clients of different runs count separately."""
    groups: dict[tuple[str, str, str], Ending] = {}
    for each in (each for one in many for each in one):
        key = each.by, each.code, each.next
        before = groups.get(key, Ending(*key, 0, 0))
        groups[key] = Ending(*key, before.count + each.count, before.clients + each.clients)
    return tuple(sorted(groups.values(), key=lambda each: (-each.count, each.by, each.code)))


# --- reactions ------------------------------------------------------------------------------------------


class ConnectHistory:
    """What the clients of a fleet did about their connections: rows sorted by client, then by time."""

    def __init__(self, history: History) -> None:
        self._history = history
        rows = history.fleet(*_KINDS)
        is_whole = history.is_stream(rows, "") | rows.is_kind(Kind.RESTARTED)  # not of a single stream
        self.rows = rows.take(is_whole).by_client()
        self._late_s = _LATE_S.get(history.header.clock, max(_LATE_S.values()))

    def _places(self, *kinds: Kind) -> Ints:
        found = np.zeros(len(self.rows), np.bool_)
        for kind in kinds:
            found |= self.rows.is_kind(kind)
        return np.flatnonzero(found)

    @cached_property
    def _attempts(self) -> Ints:
        return self._places(Kind.CONNECT_ATTEMPTED)

    @cached_property
    def _life(self) -> Ints:
        """By row: the number of the client's process or sign-in."""
        is_new = np.append(True, np.diff(self.rows.client) != 0)[: len(self.rows)]
        return np.cumsum(is_new | self.rows.is_kind(Kind.RESTARTED) | self.rows.is_kind(Kind.SIGNED_IN))

    @cached_property
    def _series(self) -> Ints:
        """By row: the number of the series. A connection that was live for long ends in the next one."""
        lost = self._places(Kind.DISCONNECTED)
        live = self._last_before(lost, self._places(Kind.SUBSCRIBED))
        lasted_s = np.where(live >= 0, self.rows.t[lost] - self.rows.t[live], 0.0) if len(lost) else np.zeros(0)
        was_lost = self._last_before(lost, lost)  # an earlier disconnect after it was live
        is_proven = np.zeros(len(self.rows), np.bool_)
        is_proven[lost] = (lasted_s >= PROVEN_S) & (was_lost < live)
        return np.cumsum(is_proven) + self._life

    def _last_before(self, places: Ints, others: Ints) -> Ints:
        """By place: the last of the others before it in the same life, or -1."""
        if not len(others):
            return np.full(len(places), -1)
        at = np.searchsorted(others, places) - 1
        found = others[np.maximum(at, 0)]
        return np.where((at >= 0) & (self._life[found] == self._life[places]), found, -1)

    def _next_after(self, places: Ints, others: Ints) -> Ints:
        """By place: the first of the others after it in the same life, or -1."""
        if not len(others):
            return np.full(len(places), -1)
        at = np.searchsorted(others, places, side="right")
        found = others[np.minimum(at, len(others) - 1)]
        return np.where((at < len(others)) & (self._life[found] == self._life[places]), found, -1)

    def _reactions(self, ends: Ints, attempts: Ints) -> Reactions:
        order = np.argsort(self.rows.t[attempts], kind="stable")
        return Reactions(self.rows.take(attempts[order]), self.rows.take(ends[order]))

    def retried_terminal(self) -> Reactions:
        """Attempts after a terminal end: without a new token, or after the second such end of a series."""
        ends = self._places(Kind.ENDED)
        ends = ends[self._says(ends, Step.TERMINAL)]
        attempt = self._next_after(ends, self._attempts)
        minted = self._next_after(ends, self._places(Kind.TOKEN_MINTED))
        is_second = np.append(False, np.diff(self._series[ends]) == 0)[: len(ends)]
        is_wrong = (attempt >= 0) & (is_second | (minted < 0) | (minted > attempt))
        return self._reactions(ends[is_wrong], attempt[is_wrong])

    def _says(self, places: Ints, step: Step) -> Mask:
        wanted = [text for text in self._history.details if text.endswith(f":{step}")]
        return self._history.detail_is(self.rows.take(places), wanted)

    def ignored_hint(self) -> Reactions:
        """Attempts that came before the server had asked for them."""
        ends = self._places(Kind.ENDED)
        ends = ends[np.nan_to_num(self.rows.value[ends]) > 0]
        attempt = self._next_after(ends, self._attempts)
        wanted_s = np.minimum(self.rows.value[ends] / 1000, MAX_HINT_S)
        is_early = (attempt >= 0) & (self.rows.t[attempt] < self.rows.t[ends] + wanted_s - self._late_s)
        return self._reactions(ends[is_early], attempt[is_early]).and_then(self._ignored_by_streams())

    def _ignored_by_streams(self) -> Reactions:
        """Subscribes to single streams that came too early. A new connection, or a new process, subscribes to all at once."""
        history = self._history
        rows = history.fleet(Kind.ENDED, Kind.REPLAY_STARTED)
        rows = rows.take(~history.is_stream(rows, ""))
        rows = rows.take(np.argsort(history.pair(rows), kind="stable"))
        ends = np.flatnonzero(rows.is_kind(Kind.ENDED) & (np.nan_to_num(rows.value) > 0))
        starts = np.flatnonzero(rows.is_kind(Kind.REPLAY_STARTED))
        if not len(ends) or not len(starts):
            return Reactions(rows.take(ends[:0]), rows.take(ends[:0]))
        at = np.searchsorted(starts, ends)
        start = starts[np.minimum(at, len(starts) - 1)]
        pair, wanted_s = history.pair(rows), np.minimum(rows.value[ends] / 1000, MAX_HINT_S)
        is_next = (at < len(starts)) & (pair[start] == pair[ends]) & ~self._is_broken(rows.take(ends), rows.take(start))
        is_early = is_next & (rows.t[start] < rows.t[ends] + wanted_s - self._late_s)
        return Reactions(rows.take(start[is_early]), rows.take(ends[is_early]))

    def _is_broken(self, ends: Rows, starts: Rows) -> Mask:
        """By row: whether the client's connection ended, or its process died, between the two."""
        breaks = self.rows.take(self._places(Kind.DISCONNECTED, Kind.CONNECT_FAILED, Kind.RESTARTED))
        span_s = self._history.duration_s + 1.0
        moments = breaks.client * span_s + breaks.t
        before = np.searchsorted(moments, ends.client * span_s + ends.t, side="left")
        after = np.searchsorted(moments, starts.client * span_s + starts.t, side="right")
        return after > before

    def backoff_reset_by_accept(self) -> Reactions:
        """Backoffs that were counted from the start again, although the client was accepted and then soon closed."""
        backoffs = self._places(Kind.BACKOFF)
        before = self._last_before(backoffs, backoffs)
        accepted = self._last_before(backoffs, self._places(Kind.CONNECT_DONE))
        is_same = (before >= 0) & (self._series[before] == self._series[backoffs]) & (accepted > before)
        is_reset = is_same & (self.rows.attempt[backoffs] <= self.rows.attempt[before])
        ended = self._last_before(backoffs, self._ends)
        is_reset &= ended >= 0
        return self._reactions(self._stated(backoffs, ended)[is_reset], backoffs[is_reset])

    def _stated(self, places: Ints, ends: Ints) -> Ints:
        """By place: the row that states how the connection ended, if there is one; `ends` are the ends themselves."""
        return np.maximum(self._last_before(places, self._places(Kind.ENDED)), ends)

    @cached_property
    def _ends(self) -> Ints:
        return self._places(Kind.DISCONNECTED, Kind.CONNECT_FAILED)

    def reconnected_too_fast(self) -> Reactions:
        """Attempts before the client's own delay was over, and several in a row that waited for almost nothing."""
        attempts = self._attempts
        ends, backoff = self._last_before(attempts, self._ends), self._last_before(attempts, self._places(Kind.BACKOFF))
        has_waited = (ends >= 0) & (backoff >= 0) & (self._last_before(attempts, attempts) < ends)
        due_t = self.rows.t[backoff] + self.rows.value[backoff] / 1000
        is_early = has_waited & (self.rows.t[attempts] < due_t - self._late_s)
        is_wrong = is_early | self._is_quick(attempts, self.rows.t[attempts] - self.rows.t[ends], has_waited)
        return self._reactions(self._stated(attempts, ends)[is_wrong], attempts[is_wrong])

    def _is_quick(self, attempts: Ints, waited_s: Floats, has_waited: Mask) -> Mask:
        """Where an attempt is the last of some of one series that waited for almost nothing."""
        found = np.zeros(len(attempts), np.bool_)
        places = np.flatnonzero(has_waited)
        if len(places) < QUICK_ATTEMPTS:
            return found
        together_s = np.convolve(waited_s[places], np.ones(QUICK_ATTEMPTS))[QUICK_ATTEMPTS - 1 : len(places)]
        series, last = self._series[attempts[places]], QUICK_ATTEMPTS - 1
        found[places[last:]] = (together_s < QUICK_S) & (series[last:] == series[: len(series) - last])
        return found
