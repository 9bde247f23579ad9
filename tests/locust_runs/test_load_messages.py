"""Messages between master and workers: every loss is detected, and merged metrics equal those of one process."""

import random
from pathlib import Path
from types import SimpleNamespace

import gevent
import msgspec
import pyarrow as pa
import pytest

from drills.runs import catalog
from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.workers import messages, workers
from locustfiles.load.workers.clocks import SharedClock
from locustfiles.load.workers.messages import Channel, ToWorker
from locustfiles.load.workers.observation_transport import Heads, OutgoingObservations, ReceivedObservations
from locustfiles.load.workers.workers import Workers
from sim.base.clocks import WallClock
from sim.base.errors import TargetError
from sim.client.marks import Acknowledged
from sim.drill import fault_schedule
from sim.drill import model as drills
from sim.engines.shared.stop_conditions import CountingRecorder
from sim.record.parquet import Chunk

NAN = float("nan")
STORM = drills.load(catalog.path_of("reconnect_storm"))
IDLE = messages.Status(5, 5, -1, 0.0, {}, {})
READY = messages.Ready("here", 7, workers.version("stormgate"), 0.0, 0.2)


class Kept:
    """A recorder, as much of it as workers need."""

    def __init__(self) -> None:
        self.rows = 0

    def take(self, chunk: Chunk) -> None:
        self.rows += len(chunk)


class Master:
    """The master's side of a run of ten clients; a test sends the workers' messages."""

    def __init__(self, count: int = 2) -> None:
        self.sent: list[tuple[str, ToWorker]] = []
        self.stopped: list[str] = []
        self.recorder = Kept()
        self.live = LiveMetrics(lambda *_: None)
        ids = [f"id{number}" for number in range(1, count + 1)]
        send, stop = (lambda worker, message: self.sent.append((worker, message))), self.stopped.append
        self.workers = Workers(ids, 10, send, WallClock(), self.recorder, self.live, stop)  # type: ignore[arg-type]
        for each in ids:
            self.workers.receive(each, READY)

    def ended(self, *done: messages.Done) -> str:
        for number, said in enumerate(done, 1):
            self.workers.receive(f"id{number}", said)
        return self.workers.end()


def done(**changes: object) -> messages.Done:
    return msgspec.structs.replace(messages.Done(0, 0, 5, 0.0, 0.2, ""), **changes)


def sent_rows(*rows: tuple[float, str, int, str, int]) -> list[messages.Rows]:
    """The messages in which a worker sends these observations."""
    outgoing, sent = OutgoingObservations(), []
    for t, kind, client, stream, seq in rows:
        outgoing.extend(t, client, [(kind, stream, seq, 0, NAN, "", -1)])
    outgoing.send_all(sent.append)
    assert (outgoing.rows, outgoing.messages) == (len(rows), len(sent))
    return sent


def test_message_arrives_as_it_was_sent():
    planned = fault_schedule.plan(STORM, seed=1)[0]
    runner, heard = SimpleNamespace(), []
    runner.register_message = lambda name, listener: setattr(runner, "listener", listener)
    runner.send_message = lambda name, data, worker: runner.listener(None, SimpleNamespace(node_id="me", data=data))
    to_worker = Channel(runner, lambda *said: heard.append(said), is_master=False)
    order = messages.InjectFault(1, planned, 5.0, 6.0)
    begin = messages.PrepareRun("worker 1", STORM, 1, "5f0c9b1a77d2", "http://127.0.0.1:1", ["topic"], 0.0, 0.5)
    to_worker.send("run", order)
    to_worker.send("run", begin)
    assert heard == [("me", "run", order), ("me", "run", begin)]
    assert heard[1][2].drill.digest() == STORM.digest()


def test_each_client_gets_one_user_and_surplus_users_get_none():
    master = Master()
    for users in (3, 3, 6, 9):
        master.workers.receive("id1", messages.UsersSpawned(users))
    master.workers.receive("id2", messages.UsersSpawned(7))
    master.workers.receive("stranger", messages.UsersSpawned(7))
    numbers = {each: [n for worker, sent in master.sent if worker == each for n in sent.numbers] for each in ("id1", "id2")}
    assert numbers == {"id1": [0, 2, 4, 6, 8, 1, 3, 5, 7], "id2": [9]}


def test_client_without_a_user_is_never_live(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "GATHER_LIMIT_S", 0.2)
    master = Master(1)
    master.workers.receive("id1", messages.UsersSpawned(7))
    master.workers.gather(lambda: False)
    master.workers.start(5.0)
    master.workers.receive("id1", messages.Status(7, 7, -1, 0.0, {}, {}))
    assert master.sent == [("id1", messages.Clients(list(range(7)))), ("id1", messages.Start(5.0))]
    assert master.workers.there == 7  # of ten: the steady state does not hold


def test_missing_observations_are_reported():
    def result_of(rows: int) -> str:
        master = Master(1)
        for each in sent_rows((1.0, "applied", 0, "s", 1), (1.1, "applied", 1, "s", 1)):
            master.workers.receive("id1", each)
        return master.ended(done(messages=1, rows=rows))

    assert result_of(2) == ""
    assert result_of(3) == "worker 1 (process 7 on here) observed 3 rows; 2 arrived"


def test_unreadable_observations_are_reported():
    master = Master(1)
    master.workers.receive("id1", messages.Rows(0, 1, b"nothing"))
    assert "cannot be read" in master.ended(done(messages=1, rows=1))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (done(left="it was interrupted"), "left early: it was interrupted"),
        (done(clock_within_ms=150.0), "known within 150 ms"),
        (done(clock_moved_ms=-170.0), "known within 170 ms"),
    ],
)
def test_worker_with_a_problem_is_named(said: messages.Done, why: str):
    master = Master(1)
    assert why in master.ended(said)
    assert bool(master.stopped) == bool(said.left)


def test_worker_without_a_final_message_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "FINAL_OBSERVATIONS_S", 0.1)
    master = Master()
    said = master.ended(done())
    assert said == "worker 2 (process 7 on here) did not report its number of observations; 0 arrived"


def test_silent_worker_is_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "SILENCE_S", 0.2)
    master = Master()
    master.workers.receive("id1", done())  # a worker that is done may be silent
    gevent.sleep(0.8)
    assert master.stopped == ["worker 2 (process 7 on here) was lost during the run: no message for 0.2 s"]


def test_fault_that_starts_late_on_a_worker_stops_the_run():
    master = Master()
    order = master.workers.inject(fault_schedule.plan(STORM, seed=1)[0], 1.0, 1.0)
    master.workers.receive("id1", messages.FaultDone(order, 5, 3.0))
    assert master.stopped == []
    master.workers.receive("id2", messages.FaultDone(order, 4, 1400.0))
    assert master.workers.affected(order) == 9
    assert master.stopped == ["worker 2 (process 7 on here) began a fault 1.4 s later than the others"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (messages.Refused("nothing answers at http://127.0.0.1:1/readyz"), "worker 1: nothing answers"),
        (msgspec.structs.replace(READY, version="0.0"), "has stormgate 0.0, but the master has"),
        (None, "worker 1 was not ready"),
    ],
)
def test_worker_that_cannot_take_part_is_named(
    answer: messages.AnyFromWorker | None, why: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers, "READY_LIMIT_S", 0.1)
    master = Master(0)
    master.workers = Workers(["id"], 10, lambda *_: None, WallClock(), master.recorder, master.live, master.stopped.append)  # type: ignore[arg-type]
    if answer is not None:
        master.workers.receive("id", answer)
    with pytest.raises(TargetError, match=why):
        master.workers.prepare(STORM, 1, "5f0c9b1a77d2", "mock", [], 0.0)


def test_stop_conditions_count_what_all_workers_observe(tmp_path: Path):
    master = Master(1)
    master.workers._recorder = counting = CountingRecorder(tmp_path)
    for counts in ({"connect_done": 3, "connect_failed": 1, "applied": 9}, {"connect_done": 4, "connect_failed": 3}):
        master.workers.receive("id1", msgspec.structs.replace(IDLE, counts=counts))
    assert counting.failed_within(100.0, 50.0) == (3, 7)
    counting.seal()


def test_lagging_clients_of_all_workers_are_counted():
    master = Master()
    for each in ("id1", "id2"):
        master.workers.receive(each, IDLE)
    assert master.workers.behind({"t": Acknowledged(3)}) == 2  # no worker has answered yet
    for each, behind in (("id1", 0), ("id2", 4)):
        master.workers.receive(each, msgspec.structs.replace(IDLE, behind=behind))
    assert (master.workers.behind({"t": Acknowledged(3)}), master.workers.live) == (4, 10)


def test_lag_is_measured_from_the_head_at_that_moment_on_the_worst_stream():
    heads = Heads()
    for number, t in ((1, 1.0), (2, 2.0), (3, 2.5)):
        heads.acknowledged("s", number, t)
    heads.acknowledged("other", 7, 2.2)
    outgoing, sent = OutgoingObservations(), []
    outgoing.extend(2.3, 4, [("client_lag", "s", -1, 0, NAN, "", 1), ("client_lag", "other", -1, 0, NAN, "", 3)])
    outgoing.extend(2.4, 5, [("client_lag", "s", -1, 0, NAN, "", 1)])
    outgoing.extend(2.6, 4, [("client_lag", "s", -1, 0, NAN, "", 3), ("applied", "s", 3, 0, NAN, "", -1)])
    outgoing.send_all(sent.append)
    arrived = ReceivedObservations(sent[0], heads)
    kept = arrived.table().select(["t", "kind", "client", "seq", "value"]).to_pylist()
    lags = [(row["t"], row["client"], row["value"]) for row in kept if row["kind"] == "client_lag"]
    assert lags == [(2.3, 4, 4.0), (2.4, 5, 1.0), (2.6, 4, 0.0)]
    assert (arrived.worst_lag, len(arrived)) == (4.0, 4)


def test_message_with_a_wrong_row_count_is_refused():
    (said,) = sent_rows((1.0, "applied", 0, "s", 1))
    with pytest.raises(ValueError, match="2 observations has 1"):
        ReceivedObservations(msgspec.structs.replace(said, rows=2), Heads())
    with pytest.raises(pa.ArrowInvalid):
        ReceivedObservations(msgspec.structs.replace(said, table=b"nothing"), Heads())


def test_merged_metrics_equal_those_of_one_process():
    draws = random.Random(1)
    one, parts = LiveMetrics(lambda *_: None), [LiveMetrics(lambda *_: None) for _ in range(2)]
    for number in range(2000):
        due = SimpleNamespace(due=0.0, number=number, stream=SimpleNamespace(stream="s"))
        ms = draws.expovariate(1 / 50) if number % 10 else 0.0
        for metrics in (one, parts[number % 2]):
            metrics.published(due, ms)  # type: ignore[arg-type]
    merged = LiveMetrics(lambda *_: None)
    for number, part in enumerate(parts):
        for _ in range(2):  # a repeated message counts once
            merged.worker_counted(f"worker {number}", part.own_counts(), {})
            merged.worker_measured(f"worker {number}", part.own_values())
    assert merged.counts == one.counts
    for share in (0.0, 0.5, 0.95, 1.0):
        assert merged.percentile("publish", share) == one.percentile("publish", share)


def test_clock_follows_the_quickest_answer(monkeypatch: pytest.MonkeyPatch):
    clock = SharedClock()
    now = clock.now()
    for took_s, ahead_s in ((0.4, 5.3), (0.002, 5.0), (0.1, 5.04)):
        monkeypatch.setattr(clock, "now", lambda took_s=took_s: now + took_s)
        clock.answered(now, now + took_s / 2 + ahead_s)
    assert clock.within_s == pytest.approx(0.001, rel=0.01)
    assert clock.follow() == pytest.approx(5.0)
    monkeypatch.undo()
    assert clock.now() - now == pytest.approx(5.0, abs=0.5)
    assert clock.answers == 0
