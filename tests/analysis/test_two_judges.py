"""The judge and a second, plain one agree on every run: on random histories, and on what engines recorded."""

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drills.runs import results
from sim.analysis.invariants.registry import violations
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from tests.analysis.plain_judge import PlainJudge, Seen
from tests.histories import AUDITOR, Row, Story, run_header
from tests.storms import run_all, small

CORE = (
    *("applied_twice", "applied_out_of_order", "hole", "silent_loss", "missing_at_rest", "partly_delivered"),
    *("phantom_event", "altered_payload", "cross_topic_leak", "real_time_order"),
)
BY_POSITION = ("partly_delivered",)
STREAMS = ("runtime.run.1.events", "runtime.run.2.events")


def judged(history: History) -> dict[str, int]:
    ledger = Ledger(history)
    return {each.invariant: each.count for each in violations(history, ledger) if each.invariant in CORE}


def judged_plainly(header: Any, rows: list[Seen]) -> dict[str, int]:
    found = PlainJudge(header, rows).found
    return {name: len(found[name]) for name in CORE if found[name]}


# --- random histories -------------------------------------------------------------------------------


class World:
    """A service and its clients that go wrong at random. `wrong`: the share of steps that do.

    With `from_now_on`, a client gets nothing of the past. With `recreated`, each log is deleted and created again halfway.
    With `epochs`, positions say which log they are of.
    """

    def __init__(
        self,
        seed: int,
        events: int,
        clients: int,
        positions: str,
        wrong: float,
        *,
        from_now_on: bool = False,
        recreated: bool = False,
        epochs: bool = False,
    ) -> None:
        self.random, self.wrong, self.positions = random.Random(seed), wrong, positions
        self.from_now_on, self.recreated, self.epochs = from_now_on, recreated, epochs
        able = {"has_epochs": epochs, "positions": positions, "fresh_start": "from_now_on" if from_now_on else "retained"}
        self.story = Story(clients, header={"capabilities": able, "plan": [self.plan()]})
        self.story.header["subscriptions"] = {str(client): [*STREAMS] for client in range(clients)}
        self.end_s = 2.0 + events * 0.01
        for t, kind in ((0.4 * self.end_s, Kind.FAULT_INJECTED), (0.6 * self.end_s, Kind.FAULT_REVERTED)):
            self.story.tell(t, kind, detail="restart_clients")
        starts_t = [self.random.uniform(0.1, 0.5 * self.end_s) for _ in range(clients)]
        self.split_t = 1.5 + 0.01 * (events // len(STREAMS)) if recreated else math.inf
        for stream in STREAMS:
            log = self.publish(stream, events // len(STREAMS))
            old, new = ([each for each in log if (each[0] < self.split_t) is is_old] for is_old in (True, False))
            for client in range(clients):
                at, t = self.follow(client, stream, old, starts_t[client])
                if recreated:
                    self.goes_on(client, stream, new, at, max(t, self.split_t))
            if not from_now_on:
                self.read_all(stream, new if recreated else old)
        if not from_now_on:
            self.story.tell(self.end_s + 5.0, Kind.REPLAY_COMPLETED, AUDITOR, value=1.0)
        self.story.tell(self.end_s + 10.0, Kind.PHASE, detail="end")
        self.story.rows.sort(key=lambda row: row.t)

    @staticmethod
    def plan() -> dict[str, object]:
        return {"kind": "restart_clients", "at_s": 0.0, "checkpoint": "kept"}

    def goes_wrong(self) -> bool:
        return self.random.random() < self.wrong

    def publish(self, stream: str, count: int) -> list[tuple[float, int]]:
        """Publish events, some of them at the same time; return (time, number) in the order of the log."""
        committed, told = [], []
        for number in range(1, count + 1):
            sent_t = 1.0 + number * 0.02 + self.random.random() * 0.05
            sent_t += 1.0 if self.recreated and sent_t > self.split_t - 0.5 else 0.0  # nothing is under way meanwhile
            answered_t = sent_t + self.random.random() * 0.2
            at = self.random.uniform(sent_t, answered_t)
            if self.positions != "ordered" and not self.recreated and self.goes_wrong():  # else it would show another log
                at += self.random.uniform(-1, 1)
            is_answered = not self.goes_wrong()
            told.append((number, sent_t, answered_t, is_answered))
            if is_answered or self.random.random() < 0.7:
                committed.append((at, number))
        committed.sort()
        old = sum(t < self.split_t for t, _ in committed)
        seq_of = {number: seq if seq <= old else seq - old for seq, (_, number) in enumerate(committed, 1)}
        for number, sent_t, t, is_answered in told:
            ms = (t - sent_t) * 1000
            outcome = "acknowledged" if is_answered else "unknown"
            self.story.tell(t, Kind.PUBLISH_TRIED, -1, stream, value=ms, attempt=1, detail=outcome, marker=number)
            if is_answered:
                self.story.tell(t, Kind.PUBLISHED, -1, stream, self.shown(seq_of[number]), value=ms, marker=number)
            else:
                self.story.tell(t, Kind.PUBLISH_FAILED, -1, stream, value=ms, detail="unknown_outcome", marker=number)
        return committed

    def shown(self, seq: int) -> int:
        return -1 if self.positions == "opaque" else seq

    def follow(self, client: int, stream: str, log: list[tuple[float, int]], t: float) -> tuple[int, float]:
        """One client reads a stream: from where it starts, live or in replays; returns its position and the time."""
        behind = sum(at < t for at, _ in log)
        at = behind if self.from_now_on or self.random.random() < 0.3 else 0
        self.tell(t - 0.02, Kind.REPLAY_STARTED, client, stream)
        self.tell(t, Kind.SUBSCRIBED, client, value=1.0)
        self.learns(t, client, stream, at, "e1")
        self.tell(t, Kind.REBOOTSTRAPPED, client, stream, at, detail="fresh")
        return self.read(client, stream, log, at, t)

    def goes_on(self, client: int, stream: str, log: list[tuple[float, int]], at: int, t: float) -> None:
        """What a client does in a new log: it starts again and declares its loss, or does not notice."""
        self.learns(t, client, stream, at, "e2")
        if self.random.random() < 0.7:
            self.tell(t, Kind.REBOOTSTRAPPED, client, stream, 0, value=float(at), detail="other_log")
            if not self.goes_wrong():
                self.tell(t, Kind.DECLARED_LOSS, client, stream, 0)
            at = 0
        self.read(client, stream, log, at, t)

    def learns(self, t: float, client: int, stream: str, at: int, epoch: str) -> None:
        if self.epochs:
            self.tell(t, Kind.EPOCH_LEARNED, client, stream, at, detail=epoch)

    def read(self, client: int, stream: str, log: list[tuple[float, int]], at: int, t: float) -> tuple[int, float]:
        """One client goes on from a position, with restarts, losses and new snapshots."""
        stored, has_restarted = at, False
        while at < len(log) and not (self.random.random() < self.wrong / 20):
            t = max(t, log[at][0]) + self.random.random() * 0.01
            chance = self.random.random()
            head = sum(committed_t < t for committed_t, _ in log)
            if 0.02 < chance < 0.025 and self.from_now_on and head > at:
                at = self.loses(client, stream, at, head, t)
                continue
            if chance < 0.01 and self.positions != "opaque" and head > at:
                at = stored = self.starts_again(client, stream, at, head, t)
                continue
            if chance < 0.02 and not has_restarted and 0.4 * self.end_s < t < 0.6 * self.end_s:
                self.tell(t, Kind.RESTARTED, client, stream, stored, value=float(at), detail="kept")
                at, has_restarted = stored, True
                continue
            at = self.apply_next(client, stream, log, at, t)
            if self.random.random() < 0.3:
                self.tell(t, Kind.CHECKPOINT_WRITTEN, client, stream, at)
                stored = at
        return at, t

    def loses(self, client: int, stream: str, at: int, head: int, t: float) -> int:
        """The service does not know its position: the client starts from now on and declares its loss, unless it goes wrong."""
        self.tell(t - 0.01, Kind.REPLAY_STARTED, client, stream)
        self.tell(t, Kind.REBOOTSTRAPPED, client, stream, head, value=float(at), detail="other_log")
        if not self.goes_wrong():
            self.tell(t, Kind.DECLARED_LOSS, client, stream, head, value=math.nan)
        return head

    def tell(self, t: float, kind: Kind, client: int, stream: str = "", seq: int = -1, **more: Any) -> None:
        self.story.tell(t, kind, client, stream, self.shown(seq), **more)

    def starts_again(self, client: int, stream: str, at: int, end: int, t: float) -> int:
        to = min(at + self.random.randrange(1, 30), end)
        kind = self.random.choice(("snapshot", "retained"))
        self.tell(t, Kind.REBOOTSTRAPPED, client, stream, to, value=float(at), detail=kind)
        if kind == "retained" and not self.goes_wrong():
            self.tell(t, Kind.DECLARED_LOSS, client, stream, to, value=float(to - at))
        return to

    def apply_next(self, client: int, stream: str, log: list[tuple[float, int]], at: int, t: float) -> int:
        """Apply the next event, or do something wrong; return the new position."""
        seq, number = at + 1, log[at][1]
        wrong = self.random.choice(("skip", "twice", "swap", "other", "moved", "altered", "leak")) if self.goes_wrong() else ""
        if wrong == "skip":
            return seq
        if wrong == "swap" and seq < len(log):
            self.tell(t, Kind.APPLIED, client, stream, seq + 1, marker=log[seq][1])
        if wrong in ("altered", "leak"):
            self.tell(
                t, Kind.ALTERED, client, stream, seq, detail="checksum" if wrong == "altered" else "stream", marker=number
            )
        marker = self.random.choice((10**6, self.random.randrange(1, len(log) + 1))) if wrong == "other" else number
        self.tell(t, Kind.APPLIED, client, stream, seq + (wrong == "moved"), marker=marker)
        if wrong == "twice":
            self.tell(t, Kind.APPLIED, client, stream, seq, marker=number)
        return seq + 1 if wrong == "swap" and seq < len(log) else seq

    def read_all(self, stream: str, log: list[tuple[float, int]]) -> None:
        t = self.end_s + 4.0
        self.learns(t, AUDITOR, stream, 0, "e2" if self.recreated else "e1")
        self.tell(t, Kind.REBOOTSTRAPPED, AUDITOR, stream, 0, detail="fresh")
        for seq, (_, number) in enumerate(log, 1):
            self.tell(t, Kind.APPLIED, AUDITOR, stream, seq, marker=number)


def seen(row: Row) -> Seen:
    t, kind, client, stream, seq, _, value, detail, marker = row
    return Seen(t, str(kind), client, stream, seq, value, detail, marker)


def agree(world: World) -> dict[str, int]:
    found = judged(world.story.history())
    plain = judged_plainly(run_header(world.story.clients, **world.story.header), [seen(row) for row in world.story.rows])
    if world.positions == "opaque":
        found = {name: count for name, count in found.items() if name not in BY_POSITION}
    assert found == plain
    return found


@pytest.mark.parametrize("positions", ["dense", "ordered", "opaque"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), events=st.integers(2, 200), clients=st.integers(1, 4), wrong=st.sampled_from((0, 0.01, 0.1)))
@example(seed=1, events=176, clients=1, wrong=0.1)  # a snapshot covers an event of unknown outcome
def test_both_judges_agree_on_random_histories(positions: str, seed: int, events: int, clients: int, wrong: float) -> None:
    found = agree(World(seed, events, clients, positions, wrong))
    assert wrong or not found


@pytest.mark.parametrize("positions", ["dense", "ordered", "opaque"])
def test_both_judges_agree_on_thousands_of_events(positions: str) -> None:
    assert len(agree(World(7, 3000, 4, positions, 0.02))) >= 6
    assert agree(World(7, 3000, 4, positions, 0.0)) == {}


NEW_LOGS, FROM_NOW_ON = {"recreated": True}, {"from_now_on": True}
WORLDS: tuple[tuple[str, dict[str, bool]], ...] = (
    *((positions, {}) for positions in ("dense", "ordered", "opaque")),
    *((positions, FROM_NOW_ON) for positions in ("dense", "ordered", "opaque")),
    *((positions, NEW_LOGS) for positions in ("dense", "ordered")),
    ("dense", NEW_LOGS | FROM_NOW_ON),
)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("positions", "more"), WORLDS)
def test_both_judges_agree_on_short_histories(positions: str, more: dict[str, bool], seed: int) -> None:
    healthy = agree(World(seed, 80, 3, positions, 0.0, **more))
    assert set(healthy) <= ({"silent_loss"} if "recreated" in more else set()), "who does not notice a new log lacks its start"
    assert agree(World(seed, 80, 3, positions, 0.04, **more))


@pytest.mark.parametrize(("positions", "more"), WORLDS[3:])
def test_both_judges_agree_on_new_logs_and_clients_that_start_from_now_on(positions: str, more: dict[str, bool]) -> None:
    found = Counter[str]()
    for seed in range(5, 10):
        found.update(agree(World(seed, 120, 3, positions, 0.03, **more)))
    found.update(agree(World(7, 900, 4, positions, 0.02, **more)))
    assert len(found) >= 6


@pytest.mark.parametrize(
    "world",
    [
        (2000603, 20, 4, "ordered", 0.01),  # a reader has it in the place of an acknowledged event
        (125, 60, 3, "dense", 0.1),  # a reader has it before it was sent
        (700, 30, 2, "dense", 0.1),
    ],
)
def test_both_judges_agree_on_events_without_an_answer_where_clients_start_from_now_on(world: tuple[Any, ...]) -> None:
    assert "partly_delivered" in agree(World(*world, from_now_on=True))


@pytest.mark.parametrize("seed", [1000073, *range(24)])
@pytest.mark.parametrize("positions", ["dense", "ordered"])
def test_epochs_separate_logs_of_few_events(positions: str, seed: int) -> None:
    """Their positions alone do not: old events seem to be new ones that were answered late."""
    events = 14 if seed > 24 else 4 + seed % 12
    healthy = agree(World(seed, events, 1 + seed % 3, positions, 0, recreated=True, epochs=True))
    assert set(healthy) <= {"silent_loss"}, f"seed {seed}: who goes on in a new log lacks its start"
    agree(World(seed, events, 1 + seed % 3, positions, 0.05, recreated=True, epochs=True))


def test_random_histories_violate_every_core_invariant() -> None:
    """Otherwise the judges would agree on nothing."""
    found = Counter[str]()
    for seed in range(6):
        for positions in ("dense", "ordered"):
            found.update(agree(World(seed, 300, 3, positions, 0.1)))
    assert set(found) == set(CORE)


# --- recorded runs ----------------------------------------------------------------------------------

RECORDED = (
    ("reconnect_storm", "spacetime", ()),
    ("dropped_delivery", "spacetime", ("replay_off_by_one",)),
    ("runtime_restart", "spacetime", ("swap_payloads",)),
    ("runtime_restart", "spacetime", ("repeat_payloads",)),
    ("reconnect_storm", "phoenix_sync", ("alter_payloads",)),
    ("checkpoint_damage", "nats_jetstream", ()),
    ("reconnect_storm", "durable_streams", ()),
    ("dropped_delivery", "socketio", ()),
    ("checkpoint_damage", "centrifugo", ()),
    ("runtime_restart", "centrifugo", ()),  # it starts with another log
    ("log_recreated", "spacetime", ()),
    ("epoch_changed", "nats_jetstream", ()),
)
RED_BY_ITSELF = ("log_recreated",)  # without epochs no client can notice it


@pytest.mark.parametrize(("drill", "protocol", "defects"), RECORDED)
def test_both_judges_agree_on_a_recorded_run(tmp_path: Path, drill: str, protocol: str, defects: tuple[str, ...]) -> None:
    changes = "fleet.clients=12", "phases.settle_s=8"
    run_dir = run_all(tmp_path, small(drill, *changes), defects=defects, engine="virtual", protocol=protocol)
    found = agree_on_run(run_dir, drill)
    assert bool(found) == bool(defects or drill in RED_BY_ITSELF)


def test_both_judges_agree_on_a_run_over_sockets(tmp_path: Path) -> None:
    changes = "fleet.clients=8", "phases.settle_s=2", "load.events_per_s=30"
    assert agree_on_run(run_all(tmp_path, small("reconnect_storm", *changes)), "reconnect_storm") == {}


def agree_on_run(run_dir: Path, drill: str) -> dict[str, int]:
    header, table = read_verified(results.drill_folder(run_dir, drill))
    columns = [table.column(name).to_pylist() for name in Seen._fields]
    rows = sorted((Seen(*row) for row in zip(*columns, strict=True)), key=lambda row: row.t)
    found = judged(History(header, table))
    assert found == judged_plainly(header, rows)
    return found
