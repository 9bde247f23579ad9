"""What network faults make of a simulated link: later, slower, held, cut, never out of order; nothing once they are over."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sim.drill.fault_schedule import CALM, LinkConditions, Way
from sim.drill.system_model import UNLIMITED, Network
from sim.engines.virtual import engine
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.links import MessageSizes, RoughLink
from sim.protocols.events import Head, Position
from sim.protocols.spacetime.codec import encode_server
from sim.protocols.spacetime.frames import JOIN_REF, HeartbeatPush, Watermark
from sim.protocols.spacetime.server import SERVER
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from tests.storms import small, with_faults

DELAY_S, BUFFER = 0.01, 1000.0
UNHURRIED = ("phases.steady_s=1", "phases.fault_s=4", "phases.recovery_s=3", "fleet.clients=20", "load.events_per_s=60")


@dataclass(eq=False)
class Wire:
    """Stands for a connection."""

    number: int = 1
    up_free: float = 0.0
    down_free: float = 0.0


@dataclass
class Bench:
    """One link, its clock, and what came out of it."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    arrived: list[tuple[float, object]] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    cut: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.link = RoughLink(self.clock, self, 3, 1, DELAY_S, BUFFER, self.cut.append, MessageSizes(SERVER))

    def hold(self, number: int) -> None:
        self.full.append(True)

    def release(self, number: int) -> None:
        self.full.append(False)

    def be(self, *, reads: bool = True, refuses: bool = False, **way: float) -> None:
        """The way to the client is like that from now on."""
        self.link.change(LinkConditions(to_client=Way(**way), refuses=refuses), reads=reads)  # type: ignore[arg-type]

    def send(self, wire: Wire, what: object, size: float = 0.0, moment: float | None = None) -> None:
        at = self.clock.now if moment is None else moment
        self.link.to_client.carry(wire, at, size, lambda: self.arrived.append((self.clock.now, what)))

    def run(self, seconds: float) -> None:
        self.clock.run(until=self.clock.now + seconds)

    @property
    def order(self) -> list[object]:
        return [what for _, what in self.arrived]


def test_latency_is_on_top_of_the_links_own_delay():
    bench, wire = Bench(), Wire()
    bench.be(latency_s=0.5)
    bench.send(wire, "a")
    bench.run(2)
    assert bench.arrived == [(pytest.approx(DELAY_S + 0.5), "a")]
    assert bench.link.acted["slowed"] == 1


def test_a_narrow_way_lets_so_many_bytes_a_second_through():
    bench, wire = Bench(), Wire()
    bench.be(bytes_per_s=100.0)
    for number in range(4):
        bench.send(wire, number, 50.0)
    bench.run(10)
    assert [t for t, _ in bench.arrived] == pytest.approx([0.5 + DELAY_S, 1.0 + DELAY_S, 1.5 + DELAY_S, 2.0 + DELAY_S])


def test_what_waits_on_a_narrow_way_passes_when_it_is_wide_again():
    bench, wire = Bench(), Wire()
    bench.be(bytes_per_s=100.0)
    for number in range(12):
        bench.send(wire, number, 100.0)
    assert bench.full == [True, True]
    bench.run(1.5)
    bench.be()
    assert bench.full[-1] is False
    bench.run(0.1)
    assert bench.order == list(range(12))
    assert [t for t, _ in bench.arrived[1:]] == pytest.approx([1.5 + DELAY_S] * 11)


def test_a_narrow_way_that_is_shut_holds_what_has_not_passed_yet():
    bench, wire = Bench(), Wire()
    bench.be(bytes_per_s=100.0)
    for number in range(4):
        bench.send(wire, number, 100.0)
    bench.run(1.5)
    bench.be(stalled=True)
    bench.run(60)
    assert bench.order == [0]
    bench.be()
    bench.run(1)
    assert bench.order == [0, 1, 2, 3]


def test_a_narrow_way_is_full_while_more_is_on_it_than_the_buffers_hold():
    bench, wire = Bench(), Wire()
    bench.be(bytes_per_s=100.0)
    for number in range(12):  # 1200 bytes where 1000 fit
        bench.send(wire, number, 100.0)
    assert bench.full == [True, True]
    bench.run(0.99)
    assert bench.full == [True, True]
    bench.run(1.1)
    assert bench.full[2:] == [False, False]


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 400)), min_size=1, max_size=30),
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.5), st.sampled_from([float("inf"), 500.0]), st.floats(0, 1)), max_size=6),
)
def test_whatever_the_conditions_become_bytes_arrive_in_order_and_all_of_them(sent, changes):
    bench, wire = Bench(), Wire()
    for stalled, jitter_s, bytes_per_s, wait_s in changes:
        bench.clock.call_at(wait_s, lambda s=stalled, j=jitter_s, b=bytes_per_s: bench.be(stalled=s, jitter_s=j, bytes_per_s=b))
    at = 0.0
    for number, (pause_s, size) in enumerate(sent):
        at += pause_s
        bench.clock.call_at(at, bench.send, wire, number, size)
    bench.run(12)
    bench.link.change(CALM, reads=True)
    bench.run(60)
    assert bench.order == list(range(len(sent)))
    assert bench.link.is_calm


@pytest.mark.parametrize("how", [{"stalled": True}, {"reads": False}])
def test_a_shut_way_holds_everything_fills_up_and_lets_all_go(how: dict):
    bench, wire = Bench(), Wire()
    bench.be(**how)
    for number in range(4):
        bench.send(wire, number, 300.0)
    bench.link.to_client.close(wire, bench.clock.now, lambda: bench.arrived.append((bench.clock.now, "end")))
    bench.run(5)
    assert bench.arrived == []
    assert bench.full
    assert all(bench.full)
    bench.be()
    bench.run(1)
    assert bench.order == [0, 1, 2, 3, "end"]
    assert bench.full[-1] is False
    assert bench.link.acted == Counter({"stalled" if "stalled" in how else "unread": 5})


def test_a_connection_is_cut_once_for_the_bytes_too_many_and_another_is_not():
    bench, wire, other = Bench(), Wire(), Wire(2)
    bench.be(cut_after_bytes=100)
    for number in range(3):
        bench.send(wire, number, 60.0)
    bench.send(other, "other", 60.0)
    bench.run(1)
    assert bench.order == [0, "other"]
    assert bench.cut == [wire]
    assert bench.link.acted["cut"] == 1


def test_only_the_end_of_a_connection_is_late_under_slow_close():
    bench, wire = Bench(), Wire()
    bench.be(close_delay_s=2.0)
    bench.send(wire, "bytes")
    bench.link.to_client.close(wire, 0.0, lambda: bench.arrived.append((bench.clock.now, "end")))
    bench.run(5)
    assert bench.arrived == [(pytest.approx(DELAY_S), "bytes"), (pytest.approx(DELAY_S + 2.0), "end")]
    assert bench.link.acted["closed_late"] == 1


def test_refused_connects_are_counted_and_only_while_refused():
    bench = Bench()
    bench.be(refuses=True)
    assert bench.link.is_refused()
    bench.be()
    assert not bench.link.is_refused()
    assert bench.link.acted["refused"] == 1


def test_a_message_is_as_long_as_its_json_and_another_of_the_same_identity_is_measured_again():
    sizes = MessageSizes(SERVER)
    for number in range(100):  # messages that are let go, whose identities come back
        message = (Head("t" * number, Position(number)),)
        frame = HeartbeatPush((Watermark("t" * number, number),))
        assert sizes(message) == sizes(message) == len(encode_server(frame, JOIN_REF))


# --- in a drill -------------------------------------------------------------------------------------------


def simulate(tmp_path: Path, fault: dict, *more: str) -> list[dict]:
    """A small drill with this fault alone, in a service that takes no time; its rows."""
    drill = with_faults(small("reconnect_storm", *UNHURRIED, *more), {"at_s": 0.5, **fault})
    engine.run(drill, engine.Options(tmp_path, 1, replace(UNLIMITED, network=Network(sigma=0.0))))
    return read_verified(tmp_path)[1].table().to_pylist()


def of(rows: list[dict], *kinds: Kind) -> list[dict]:
    return [row for row in rows if row["kind"] in kinds]


def took_s(rows: list[dict]) -> list[tuple[float, int, float]]:
    """When each event was published, who applied it, and how much later."""
    published = {(row["stream"], row["seq"]): row["t"] for row in of(rows, Kind.PUBLISHED)}
    live = {row["client"]: row["t"] for row in reversed(of(rows, Kind.SUBSCRIBED))}
    applied = [(published[row["stream"], row["seq"]], row) for row in of(rows, Kind.APPLIED)]
    return [(at, row["client"], row["t"] - at) for at, row in applied if at > live[row["client"]]]


def window(rows: list[dict]) -> tuple[float, float]:
    return of(rows, Kind.FAULT_INJECTED)[0]["t"], of(rows, Kind.FAULT_REVERTED)[0]["t"]


def observed(rows: list[dict]) -> float:
    return of(rows, Kind.FAULT_OBSERVED)[0]["value"]


def test_slow_links_concern_their_share_while_they_last_and_nobody_else(tmp_path: Path):
    rows = simulate(tmp_path, {"kind": "slow_links", "for_s": 3.0, "latency_ms": 200.0, "share": 0.5, "direction": "to_client"})
    begun, ended = window(rows)
    during = [(client, took) for at, client, took in took_s(rows) if begun < at < ended - 0.01]
    slow = {client for client, took in during if took > 0.1}
    assert len(slow) == 10 == observed(rows)
    assert {round(took, 3) for client, took in during if client in slow} == {0.21}
    assert {round(took, 3) for client, took in during if client not in slow} == {0.01}
    assert {round(took, 3) for at, _, took in took_s(rows) if at > ended + 0.3} == {0.01}
    assert of(rows, Kind.DISCONNECTED) == []


def test_what_waited_in_a_stall_arrives_when_it_ends_and_nothing_is_lost(tmp_path: Path):
    rows = simulate(tmp_path, {"kind": "stall_links", "for_s": 3.0})
    begun, ended = window(rows)
    assert observed(rows) == 20
    applied = [row["t"] for row in of(rows, Kind.APPLIED)]
    assert not [t for t in applied if begun + 0.011 < t < ended]
    assert sum(ended <= t <= ended + 0.02 for t in applied) > 20 * 3.0 * 60 / 3 * 0.9
    assert of(rows, Kind.DISCONNECTED, Kind.GAP) == []
    assert len(of(rows, Kind.STILL_PENDING)) == 0


def test_resets_come_as_often_as_asked(tmp_path: Path):
    rows = simulate(tmp_path, {"kind": "reset_links", "times": 3, "every_s": 1.0})
    begun, _ = window(rows)
    lost = Counter(round(row["t"] - begun, 3) for row in of(rows, Kind.DISCONNECTED))
    assert set(lost) == {0.0, 1.0, 2.0}
    assert lost[0.0] == 20
    assert observed(rows) >= sum(lost.values())


@pytest.mark.parametrize(("gone", "noticed"), [("client", 0.0), ("runtime", 10.0)])
def test_half_open_connections_end_when_the_side_that_is_left_notices(tmp_path: Path, gone: str, noticed: float):
    more = ("phases.fault_s=14", "runtime.client_timeout_s=5")
    rows = simulate(tmp_path, {"kind": "half_open_links", "for_s": 13.0, "gone": gone}, *more)
    begun, _ = window(rows)
    assert observed(rows) == 20
    assert of(rows, Kind.HALF_OPEN_LEFT)[0]["value"] == 0
    waits = [row["t"] - begun for row in of(rows, Kind.DISCONNECTED)]
    assert len(waits) == 20
    assert median(waits) == pytest.approx(noticed, abs=0.1)


def test_who_is_left_half_open_at_the_end_is_counted_and_reset(tmp_path: Path):
    """Shorter than a client's patience."""
    rows = simulate(tmp_path, {"kind": "half_open_links", "for_s": 3.0, "gone": "runtime"})
    _, ended = window(rows)
    assert of(rows, Kind.HALF_OPEN_LEFT)[0]["value"] == 20
    assert {row["t"] for row in of(rows, Kind.DISCONNECTED)} == {ended}
    assert len(of(rows, Kind.SETTLED)) == 21


def test_refused_connects_get_through_when_it_is_over(tmp_path: Path):
    rows = simulate(tmp_path, {"kind": "refuse_connects", "for_s": 3.0}, "runtime.client_timeout_s=1.5")
    begun, ended = window(rows)
    assert observed(rows) == len([row for row in of(rows, Kind.CONNECT_FAILED) if row["t"] <= ended + 0.02]) > 20
    assert not [row for row in of(rows, Kind.CONNECT_DONE) if begun + 0.05 < row["t"] < ended]


def test_connections_are_cut_after_so_many_bytes_and_nothing_is_lost(tmp_path: Path):
    rows = simulate(tmp_path, {"kind": "cut_after_bytes", "for_s": 3.0, "after_bytes": 4000})
    assert observed(rows) == len(of(rows, Kind.DISCONNECTED)) >= 20
    assert len(of(rows, Kind.SETTLED)) == 21
    assert len(of(rows, Kind.APPLIED)) == len({(r["client"], r["stream"], r["seq"]) for r in of(rows, Kind.APPLIED)})


def test_who_does_not_read_is_evicted_and_comes_back_when_asked(tmp_path: Path):
    more = ("load.payload_bytes=4096", "phases.fault_s=9", "load.events_per_s=150", "load.run_streams=1")
    rows = simulate(tmp_path, {"kind": "stop_reading", "for_s": 8.0, "share": 0.25}, *more)
    assert observed(rows) == 5 == len(of(rows, Kind.EVICTED))
    back = {row["client"]: row["t"] for row in of(rows, Kind.CONNECT_ATTEMPTED)}
    assert all(2.0 <= back[row["client"]] - row["t"] <= 2.25 for row in of(rows, Kind.EVICTED))
    assert len(of(rows, Kind.SETTLED)) == 21


def test_slow_close_leaves_the_runtime_with_a_ghost_for_a_while(tmp_path: Path):
    """Who is dropped for silence learns of it late."""
    rows = simulate(tmp_path, {"kind": "slow_close", "for_s": 3.0, "delay_ms": 800.0}, "runtime.client_timeout_s=1.5")
    assert observed(rows) > 0
