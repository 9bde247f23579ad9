"""The judge and a second, plain one agree on every run: on random histories, and on what engines recorded."""

import random
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
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
    """A service and its clients that go wrong at random. `wrong`: the share of steps that do."""

    def __init__(self, seed: int, events: int, clients: int, positions: str, wrong: float) -> None:
        self.random, self.wrong, self.positions = random.Random(seed), wrong, positions
        self.story = Story(clients, header={"capabilities": {"positions": positions}, "plan": [self.plan()]})
        self.story.header["subscriptions"] = {str(client): [*STREAMS] for client in range(clients)}
        self.end_s = 2.0 + events * 0.01
        for t, kind in ((0.4 * self.end_s, Kind.FAULT_INJECTED), (0.6 * self.end_s, Kind.FAULT_REVERTED)):
            self.story.tell(t, kind, detail="restart_clients")
        starts_t = [self.random.uniform(0.1, 0.5 * self.end_s) for _ in range(clients)]
        for stream in STREAMS:
            log = self.publish(stream, events // len(STREAMS))
            for client in range(clients):
                self.follow(client, stream, log, starts_t[client])
            self.read_all(stream, log)
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
            answered_t = sent_t + self.random.random() * 0.2
            at = self.random.uniform(sent_t, answered_t)
            if self.positions != "ordered" and self.goes_wrong():  # there, positions that go back show another log
                at += self.random.uniform(-1, 1)
            is_answered = not self.goes_wrong()
            told.append((number, sent_t, answered_t, is_answered))
            if is_answered or self.random.random() < 0.7:
                committed.append((at, number))
        committed.sort()
        seq_of = {number: seq for seq, (_, number) in enumerate(committed, 1)}
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

    def follow(self, client: int, stream: str, log: list[tuple[float, int]], t: float) -> None:
        """One client reads a stream: from where it starts, live or in replays, with restarts and new snapshots."""
        behind = sum(at < t for at, _ in log)
        at = behind if self.random.random() < 0.3 else 0
        self.tell(t, Kind.SUBSCRIBED, client, value=1.0)
        self.tell(t, Kind.REBOOTSTRAPPED, client, stream, at, detail="fresh")
        stored, has_restarted = at, False
        while at < len(log) and not (self.random.random() < self.wrong / 20):
            t = max(t, log[at][0]) + self.random.random() * 0.01
            chance = self.random.random()
            head = sum(committed_t < t for committed_t, _ in log)
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
        self.tell(t, Kind.REBOOTSTRAPPED, AUDITOR, stream, 0, detail="fresh")
        for seq, (_, number) in enumerate(log, 1):
            self.tell(t, Kind.APPLIED, AUDITOR, stream, seq, marker=number)


def seen(row: Row) -> Seen:
    t, kind, client, stream, seq, _, value, detail, marker = astuple(row)
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
def test_both_judges_agree_on_random_histories(positions: str, seed: int, events: int, clients: int, wrong: float) -> None:
    found = agree(World(seed, events, clients, positions, wrong))
    assert wrong or not found


@pytest.mark.parametrize("positions", ["dense", "ordered", "opaque"])
def test_both_judges_agree_on_thousands_of_events(positions: str) -> None:
    assert len(agree(World(7, 3000, 4, positions, 0.02))) >= 6
    assert agree(World(7, 3000, 4, positions, 0.0)) == {}


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
)


@pytest.mark.parametrize(("drill", "protocol", "defects"), RECORDED)
def test_both_judges_agree_on_a_recorded_run(tmp_path: Path, drill: str, protocol: str, defects: tuple[str, ...]) -> None:
    run_dir = run_all(
        tmp_path, small(drill, "fleet.clients=12", "phases.settle_s=8"), defects=defects, engine="virtual", protocol=protocol
    )
    header, table = read_verified(results.drill_folder(run_dir, drill))
    columns = [table.column(name).to_pylist() for name in Seen._fields]
    rows = sorted((Seen(*row) for row in zip(*columns, strict=True)), key=lambda row: row.t)
    found = judged(History(header, table))
    assert found == judged_plainly(header, rows)
    assert bool(found) == bool(defects)
