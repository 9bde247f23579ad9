"""A server whose positions cannot be compared forgets all in a restart. Retries are stored long after later events.

Each client declares that it lost an unknown number of events. That covers what was stored while it was away, and nothing else.
"""

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from sim.analysis import new_logs
from sim.record.observations import Kind
from tests.analysis.test_invariants import broken
from tests.histories import STREAM, Row, Story

CLIENTS, EVENTS, FIRST_T, EVERY_S, CRASH_T, RETRY_S = 4, 60, 0.05, 0.05, 1.2, 0.2
HEADER = {"capabilities": {"positions": "opaque", "fresh_start": "from_now_on"}}


@dataclass
class Restart:
    """One server, its publisher and its clients, by chance. `answer_s`: longest time from a subscription to its answer."""

    seed: int
    answer_s: float = 0.0
    rows: list[Row] = field(default_factory=list)
    stored: list[tuple[float, int]] = field(default_factory=list)  # when which event was stored

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.back_t = CRASH_T + self.chance.uniform(0.5, 1.5)
        self.publish()
        end_t = max(t for t, _ in self.stored) + 3
        for client in range(CLIENTS):
            self.live(client, self.chance.uniform(0.0, 0.4), CRASH_T, "fresh")
            self.tell(CRASH_T, Kind.DISCONNECTED, client, "", detail="network")
            self.live(client, self.back_t + self.chance.uniform(0.01, 3.0), end_t, "other_log")
            self.tell(end_t, Kind.SETTLED, client, "")

    def tell(self, t: float, kind: Kind, client: int, stream: str = STREAM, **more: object) -> None:
        self.rows.append(Row(t, kind, client, stream, **more))  # type: ignore[arg-type]

    def story(self) -> Story:
        return Story(CLIENTS, sorted(self.rows, key=lambda row: row.t), HEADER)

    def a_while(self) -> float:
        return self.chance.uniform(0.001, self.chance.choice([0.01, 0.3]))

    def publish(self) -> None:
        """Each event is tried until it is acknowledged. The server knows the events that it stored since its start."""
        tries = [(sent_t(number), number, sent_t(number)) for number in range(1, EVENTS + 1)]
        known: set[tuple[bool, int]] = set()
        while tries:
            t, number, first_t = heapq.heappop(tries)
            taken_t = t + self.a_while()
            answered_t = taken_t + self.a_while()
            is_back = taken_t > self.back_t
            if (taken_t < CRASH_T or is_back) and (is_back, number) not in known:
                known.add((is_back, number))
                self.stored.append((taken_t, number))
            if not is_back and answered_t > CRASH_T:
                answered_t = max(t, CRASH_T) + self.chance.choice([0.001, self.chance.uniform(0.0, 3.0)])
                heapq.heappush(tries, (answered_t + RETRY_S, number, first_t))
            else:
                self.tell(answered_t, Kind.PUBLISHED, -1, value=1000 * (answered_t - first_t), marker=number)
            self.tell(answered_t, Kind.PUBLISH_TRIED, -1, value=1000 * (answered_t - t), marker=number)
        self.stored.sort()

    def live(self, client: int, asked_t: float, until_t: float, start: str) -> None:
        """A client subscribes, and gets what is stored from then on."""
        subscribed_t = asked_t + self.a_while()
        answered_t = subscribed_t + self.answer_s * self.chance.random()
        self.tell(asked_t, Kind.REPLAY_STARTED, client)
        self.tell(answered_t, Kind.SUBSCRIBED, client, "", value=20.0)
        self.tell(answered_t, Kind.REBOOTSTRAPPED, client, detail=start)
        if start != "fresh":
            self.tell(answered_t, Kind.DECLARED_LOSS, client)
        t = subscribed_t
        for stored_t, number in self.stored:
            if subscribed_t < stored_t < until_t:
                t = max(t, stored_t + self.chance.uniform(0.0005, 0.005))
                if t < until_t:
                    self.tell(t, Kind.APPLIED, client, marker=number)


@pytest.mark.parametrize("answer_s", [0.0, 0.2])  # events may come before the answer
@pytest.mark.parametrize("seed", range(25))
def test_what_was_stored_while_a_client_was_away_is_no_silent_loss(seed: int, answer_s: float) -> None:
    assert "silent_loss" not in broken(Restart(seed, answer_s).story())


def skippable(restart: Restart) -> Iterator[int]:
    """Events that were first sent when the first client was live.

    In its first life, they were acknowledged before the last event that it applied was.
    """
    acknowledged = {row.marker: row.t for row in restart.rows if row.kind == Kind.PUBLISHED}
    start_t, back_t = (row.t for row in restart.rows if row.kind == Kind.REBOOTSTRAPPED and row.client == 0)
    own = {row.marker: row.t for row in restart.rows if row.kind == Kind.APPLIED and row.client == 0}
    first_life = [number for number, t in own.items() if t <= CRASH_T]
    known = [number for number in first_life if acknowledged[number] <= own[first_life[-1]]]
    yield from (number for number in known[1:-1] if sent_t(number) > start_t)
    yield from (number for number in own if sent_t(number) > back_t)


def sent_t(number: int) -> float:
    return FIRST_T + EVERY_S * (number - 1)


@pytest.mark.parametrize("seed", range(25))
def test_event_that_was_skipped_while_a_client_was_live_is_a_silent_loss(seed: int) -> None:
    restart = Restart(seed)
    story = restart.story()
    of_others = {row.marker for row in restart.rows if row.kind == Kind.APPLIED and row.client != 0}
    left_out = [number for number in skippable(restart) if number in of_others]
    assert left_out
    for number in left_out[:: max(len(left_out) // 4, 1)]:
        skipped = story.without(lambda row, n=number: (row.client, row.kind, row.marker) == (0, Kind.APPLIED, n))  # type: ignore[misc]
        assert broken(skipped).get("silent_loss") == 1, number


def test_a_restart_in_words_names_positions_where_there_are_some() -> None:
    assert "seq 1 came after seq 9" in str(new_logs.Restart("s", 1.0, 1, 9, 0))
    assert "seq 0 came after seq 9" in str(new_logs.Restart("s", 1.0, 0, 9, 0))
    assert "seq" not in str(new_logs.Restart("s", 1.0, -1, -1, 0))
    assert "2 clients went on" in str(new_logs.Restart("s", 1.0, 1, 9, 2))
