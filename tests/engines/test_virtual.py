"""The virtual engine does what it says: exact instants, nothing lost or made up, the same bytes for the same seed."""

import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from drills import CATALOG
from sim.base.randomness import draw
from sim.client.notices import KnownRuns
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.drill.system_model import UNLIMITED, Network, Server, SystemModel
from sim.engines.virtual import engine, service
from sim.engines.virtual.client import one_way_delay_s
from sim.engines.virtual.queues import Station
from sim.protocols.events import Batch, CaughtUp, Hash, Head, Item, Message, Position
from sim.protocols.markers import NO_MARKERS
from sim.protocols.payloads import payload_hash
from sim.record.observations import Kind
from sim.record.parquet import FILE_NAME
from sim.record.run_header import RunHeader, read_verified
from tests.storms import CATALOGUE, SHORT, small

MICROSECOND = 1e-6
Rows = list[dict]


def simulate(folder: Path, drill: Drill, seed: int = 1, model: SystemModel | None = None) -> tuple[RunHeader, Rows]:
    folder.mkdir(parents=True, exist_ok=True)
    engine.run(drill, engine.Options(folder, seed, model or SystemModel()))
    header, recorded = read_verified(folder)
    return header, recorded.table().to_pylist()


def of(rows: Rows, *kinds: Kind) -> Rows:
    return [row for row in rows if row["kind"] in kinds]


def by_client(rows: Rows) -> dict[int, Rows]:
    found: dict[int, Rows] = defaultdict(list)
    for row in rows:
        found[row["client"]].append(row)
    return found


# --- exact instants -------------------------------------------------------------------------------------


def expected_delay_s(client: int, seed: int) -> float:
    """The default network's: log-normal with median 10 ms and sigma 0.5, by Box and Muller."""
    radius = math.sqrt(-2 * math.log(1 - draw(seed, "delay_u", client)))
    return 0.010 * math.exp(0.5 * radius * math.cos(math.tau * draw(seed, "delay_v", client)))


def full_jitter_s(client: int, seed: int, disconnects: int, attempt: int = 1) -> float:
    return draw(seed, "backoff", client, disconnects) * min(0.250 * 2 ** (attempt - 1), 8.0)


def test_without_limits_everyone_is_live_after_their_own_delays_and_backoff_to_the_microsecond(tmp_path: Path):
    """Mint: there and back. Connect: SYN, SYN-ACK, upgrade, answer. Join and subscribe: there and back each."""
    clients, seed, steady_s = 100, 3, 6.0
    drill = drills.load(CATALOG / "reconnect_storm.toml", (f"fleet.clients={clients}", f"phases.steady_s={steady_s}"))
    _, rows = simulate(tmp_path, drill, seed, UNLIMITED)
    fault = next(row["t"] for row in of(rows, Kind.PHASE) if row["detail"] == "fault")
    live = by_client(of(rows, Kind.SUBSCRIBED))
    for client in range(clients):
        delay_s = expected_delay_s(client, seed)
        arrived = client * drill.fleet.arrival_s / drill.fleet.clients + 10 * delay_s
        first = fault + full_jitter_s(client, seed, 1) + 8 * delay_s
        second = fault + drill.faults[1].at_s + full_jitter_s(client, seed, 2) + 8 * delay_s
        times = [row["t"] for row in live[client]]
        assert times == pytest.approx([arrived, first, second], rel=0, abs=MICROSECOND), client


def test_without_limits_every_live_event_is_applied_one_delay_after_it_is_published(tmp_path: Path):
    drill = small("reconnect_storm", "fleet.clients=20")
    _, rows = simulate(tmp_path, drill, 1, UNLIMITED)
    fault = next(row["t"] for row in of(rows, Kind.PHASE) if row["detail"] == "fault")
    published = {(row["stream"], row["seq"]): row["t"] for row in of(rows, Kind.PUBLISHED)}
    live_since = {row["client"]: row["t"] for row in reversed(of(rows, Kind.SUBSCRIBED))}
    seen = 0
    for row in of(rows, Kind.APPLIED):
        at, client = published[row["stream"], row["seq"]], row["client"]
        if live_since[client] < at and row["t"] < fault:
            seen += 1
            assert row["t"] == pytest.approx(at + expected_delay_s(client, 1), rel=0, abs=MICROSECOND)
    assert seen > 100


def test_delays_are_log_normal_over_clients():
    model = SystemModel(network=Network(median_ms=20.0, sigma=0.7))
    logs = [math.log(one_way_delay_s(model, 1, client) * 1000 / 20.0) / 0.7 for client in range(20_000)]
    mean = sum(logs) / len(logs)
    assert mean == pytest.approx(0.0, abs=0.02)
    assert sum((value - mean) ** 2 for value in logs) / len(logs) == pytest.approx(1.0, abs=0.03)
    assert sum(value > 1.6449 for value in logs) / len(logs) == pytest.approx(0.05, abs=0.005)
    alike = SystemModel(network=Network(median_ms=20.0, sigma=0.0))
    assert {one_way_delay_s(alike, 1, client) for client in range(10)} == {0.020}


# --- nothing is lost, nothing is made up ----------------------------------------------------------------


def fates(rows: Rows) -> dict[int, str]:
    """What became of each event that these rows of one client and stream tell of, in the order they were observed."""
    fate: dict[int, str] = {}
    covered_to = 0
    for row in rows:
        if row["kind"] == Kind.APPLIED:
            assert fate.setdefault(row["seq"], "applied") == "applied"
        elif row["kind"] == Kind.REBOOTSTRAPPED and row["detail"] == "fresh":
            fate |= dict.fromkeys(range(1, row["seq"] + 1), "before its time")
        elif row["kind"] == Kind.REBOOTSTRAPPED and row["detail"] == "snapshot":
            covered_to = max(covered_to, row["seq"])
        elif row["kind"] == Kind.DECLARED_LOSS:
            for seq in range(row["seq"] - int(row["value"]) + 1, row["seq"] + 1):
                assert fate.setdefault(seq, "declared lost") == "declared lost"
    for seq in range(1, covered_to + 1):
        fate.setdefault(seq, "covered")
    return fate


def account(rows: Rows, stream: str, head: int) -> Counter[str]:
    """What had become of a stream's events 1 to `head` when it was concluded whether this client converged.

    A pending client may go on while the auditor reads; what had become of an event by then stays.
    """
    told = next(number for number, row in enumerate(rows) if row["kind"] in (Kind.SETTLED, Kind.STILL_PENDING))
    fate = fates([row for row in rows[:told] if row["stream"] == stream])
    at_the_end = fates([row for row in rows if row["stream"] == stream])
    assert max(at_the_end, default=0) <= head
    assert fate.items() <= at_the_end.items()
    pending = [row for row in of(rows, Kind.STILL_PENDING) if row["stream"] == stream]
    watermark = max(pending[0]["seq"], 0) if pending else head
    for seq in range(watermark + 1, head + 1):
        assert fate.setdefault(seq, "pending") == "pending"
    return Counter(fate.values())


SLOW = SystemModel(server=Server(delivery_batch_ms=40.0))  # a service that falls behind for good: 25 frames a second


@pytest.mark.parametrize("model", [SystemModel(), SLOW], ids=["default", "slow"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_for_each_client_what_was_published_is_applied_covered_declared_lost_or_pending(
    tmp_path: Path, name: str, model: SystemModel
):
    limits = ("phases.steady_limit_s=0.1", "phases.settle_s=0.5") if model is SLOW else ()
    header, rows = simulate(tmp_path, small(name, *limits), 1, model)
    heads = Counter(row["stream"] for row in of(rows, Kind.PUBLISHED))
    is_refused = name == "publish_failures" and model is not SLOW  # which never gets as far as the faults
    assert bool(of(rows, Kind.PUBLISH_FAILED)) == is_refused
    own = by_client(rows)
    total: Counter[str] = Counter()
    for client, streams in header.subscriptions.items():
        for stream in streams:
            count = account(own[int(client)], stream, heads[stream])
            assert sum(count.values()) == heads[stream], (client, stream, count)
            total += count
    assert total["applied"] > 0
    assert (total["pending"] > 0) == (model is SLOW)
    if name == "stale_cursor" and model is not SLOW:
        assert total["covered"] > 0
        assert total["declared lost"] > 0


def test_a_run_that_cannot_converge_ends_at_its_limit_and_says_who_is_pending_and_why(tmp_path: Path):
    header, rows = simulate(tmp_path, small("dropped_delivery", "phases.steady_limit_s=0.1", "phases.settle_s=2"), 1, SLOW)
    phases = {row["detail"]: row["t"] for row in of(rows, Kind.PHASE)}
    assert header.complete
    told = {row["client"]: row["t"] for row in of(rows, Kind.STILL_PENDING, Kind.SETTLED)}
    assert set(told) == {int(client) for client in header.subscriptions}
    audited = told.pop(header.auditor)
    (concluded,) = set(told.values())
    assert concluded - phases["settle"] == pytest.approx(2, abs=0.2)
    assert audited - concluded == pytest.approx(2, abs=0.2)  # the auditor, who cannot converge either, has as long
    assert phases["end"] == pytest.approx(audited, abs=MICROSECOND)
    reasons = {row["detail"] for row in of(rows, Kind.STILL_PENDING)}
    assert reasons
    assert reasons <= {"behind", "replaying", "connecting", "joining", "subscribing", "backoff"}


def return_s(folder: Path, one_loop: bool) -> float:
    """From the first connect that got through until all of sixty clients are live, who come back at one moment."""
    server = Server(one_loop=one_loop, handshake_ms=2.0, delivery_batch_ms=0.5, delivery_event_ms=0.0, publish_ms=0.0)
    model = SystemModel(network=Network(median_ms=0.0), server=server)
    drill = small("reconnect_storm", "fleet.clients=60", "fleet.policy=sdk", "load.events_per_s=1")
    _, rows = simulate(folder, drill, 1, model)
    after = next(row["t"] for row in of(rows, Kind.FAULT_INJECTED))
    through = [row["t"] - row["value"] / 1000 for row in of(rows, Kind.CONNECT_DONE) if row["t"] > after]
    return sorted(row["t"] for row in of(rows, Kind.SUBSCRIBED) if row["t"] > after)[59] - min(through)


def test_in_one_loop_a_return_takes_the_time_of_handshakes_and_frames_together(tmp_path: Path):
    """Sixty times 2 ms, and at least three frames of 0.5 ms each: one worker does one thing at a time, two share it."""
    assert return_s(tmp_path / "one", one_loop=True) >= 60 * (2.0 + 3 * 0.5) / 1000 - MICROSECOND
    assert 60 * 2.0 / 1000 < return_s(tmp_path / "two", one_loop=False) < 60 * (2.0 + 0.5) / 1000


def test_in_one_loop_frames_go_before_handshakes(tmp_path: Path):
    """A storm's sixty handshakes would hold up everyone who is live by 0.12 s; an event waits for one of them at most."""
    model = SystemModel(
        network=Network(median_ms=0.0), server=Server(one_loop=True, handshake_ms=2.0, delivery_batch_ms=0.0, publish_ms=0.0)
    )
    drill = small("reconnect_storm", "fleet.clients=80", "fleet.policy=sdk", "load.events_per_s=100", "load.run_streams=1")
    fault = msgspec.structs.replace(drill.faults[0], share=0.75)
    _, rows = simulate(tmp_path, msgspec.structs.replace(drill, faults=(fault,)), 1, model)
    begun = next(row["t"] for row in of(rows, Kind.FAULT_INJECTED))
    published = {row["seq"]: row["t"] for row in of(rows, Kind.PUBLISHED) if row["t"] > begun}
    stayed = set(range(80)) - {row["client"] for row in of(rows, Kind.DISCONNECTED)}
    applied = [row for row in of(rows, Kind.APPLIED) if row["seq"] in published and row["client"] in stayed]
    waited = [row["t"] - published[row["seq"]] for row in applied]
    assert len(waited) > 1000
    assert max(waited) <= 0.002 + service.WORK_QUANTUM_S + MICROSECOND


def test_littles_law_holds_for_the_handshakes_of_a_storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The mean number in the station, looked at every millisecond, is the arrival rate times the mean stay."""
    stays: list[tuple[float, float]] = []

    class Watched(Station):
        def admit(self, now: float, service_s: float) -> tuple[float, float]:
            start, end = super().admit(now, service_s)
            if service_s == 0.004:
                stays.append((now, end))
            return start, end

    monkeypatch.setattr(service, "Station", Watched)
    model = SystemModel(server=Server(handshake_workers=2, handshake_ms=4.0))
    simulate(tmp_path, small("reconnect_storm", "fleet.clients=300", "fleet.connects_per_s=400"), 1, model)
    first, last = stays[0][0], max(end for _, end in stays)
    watched, arrivals, number, total, looks = Station(2), iter(stays), 0.0, 0, 0
    following = next(arrivals, None)
    number = first
    while number < last:
        while following and following[0] <= number:
            watched.admit(following[0], 0.004)
            following = next(arrivals, None)
        total, looks, number = total + watched.inside(number), looks + 1, number + 0.001
    rate = len(stays) / (last - first)
    mean_stay_s = sum(end - now for now, end in stays) / len(stays)
    assert len(stays) >= 900
    assert mean_stay_s > 0.010  # there was a queue
    assert total / looks == pytest.approx(rate * mean_stay_s, rel=0.02)


# --- the same bytes -------------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from sim.drill import model as drills
from sim.engines.virtual import engine as virtual
overrides, folder = tuple(sys.argv[3:]), Path(sys.argv[2])
virtual.run(drills.load(Path(sys.argv[1]), overrides), virtual.Options(folder, 7))
"""


def observed(folder: Path) -> bytes:
    return (folder / FILE_NAME).read_bytes()


@pytest.mark.parametrize("name", ["stale_cursor", "dropped_delivery"])
def test_one_seed_gives_the_same_bytes_in_every_process_and_another_does_not(tmp_path: Path, name: str):
    overrides = ("fleet.clients=40", "phases.steady_s=1.0", *SHORT[name])
    drill = drills.load(CATALOG / f"{name}.toml", overrides)
    simulate(tmp_path / "here", drill, 7)
    simulate(tmp_path / "again", drill, 7)
    simulate(tmp_path / "other", drill, 8)
    children = []
    for hash_seed in ("0", "4242"):
        (tmp_path / hash_seed).mkdir()
        command = [sys.executable, "-c", RUN, str(CATALOG / f"{name}.toml"), str(tmp_path / hash_seed), *overrides]
        children.append(subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": hash_seed}))
    assert [child.wait(60) for child in children] == [0, 0]
    bytes_here = observed(tmp_path / "here")
    assert all(observed(tmp_path / other) == bytes_here for other in ("again", "0", "4242"))
    assert observed(tmp_path / "other") != bytes_here


def test_one_client_more_changes_nothing_of_the_others_draws(tmp_path: Path):
    """Without limits clients do not meet, so each one's whole story stays the same, row by row."""
    steady = ("phases.steady_s=1.5", "fleet.connects_per_s=40")
    stories = []
    for clients in (40, 41):
        # One more client arrives a fortieth of a second later; the phases begin at the same moments.
        steady_s = 1.5 + (41 - clients) / 40
        drill = small("reconnect_storm", *steady, f"fleet.clients={clients}", f"phases.steady_s={steady_s}")
        drill = msgspec.structs.replace(drill, expect=drills.Expect())
        _, rows = simulate(tmp_path / str(clients), drill, 1, UNLIMITED)
        stories.append(by_client(rows))
    assert sum(len(of(stories[0][client], Kind.BACKOFF)) for client in range(40)) >= 80
    for client in range(40):
        drawn = [[(row["t"], row["value"]) for row in of(story[client], Kind.BACKOFF, Kind.SUBSCRIBED)] for story in stories]
        assert drawn[0] == drawn[1]


# --- what is worked out once ----------------------------------------------------------------------------


def test_a_message_is_worked_out_once_and_whatever_differs_from_it_again():
    """The memory is of the very object: an equal one with another hash, or in its old place, is not taken for it."""

    def message(seq: int, check: Hash = Hash.OK) -> Message:
        item = Item(Position(seq), msgspec.Raw(b"{}"), payload_hash(b"{}"), check)
        return (Batch("t", (item,)), Head("t", Position(seq)), CaughtUp())

    runs, good = KnownRuns(str, NO_MARKERS), message(1)
    known = runs(good)
    assert known is not None
    assert runs(good) is known
    assert runs(message(1, Hash.BAD)) is None
    assert runs(good) is known
    for number in range(1, 30_000):  # each dies at once, and its place in memory is taken by one of the other kind
        is_good = number % 3 == 0
        assert (runs(message(number, Hash.OK if is_good else Hash.BAD)) is not None) == is_good
