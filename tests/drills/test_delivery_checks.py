"""What clients receive and notice, and whether the right cursors are stale: hand-written histories."""

import msgspec
import pytest

from drills.judging import gates
from drills.judging.checks.verdicts import State
from sim.drill.fault_kinds import DuplicateDeliveries, RecreateLog, RollingDeploy, ShrinkReplayBudget, ShrinkWindow
from sim.drill.model import Drill
from sim.protocols import registry
from sim.protocols.adapter import Positions, StaleSign
from sim.record.observations import Kind
from sim.server.settings import RuntimeSettings
from tests.drills.asking import CASE, FAIL, NO_DATA, PASS, ask, cases, state, with_fault
from tests.histories import STREAM, Story, good_storm, storm_drill

SPOKEN = registry.get(registry.DEFAULT).capabilities
FLOOR, BUDGET = "retention_floor_breach", "replay_budget_exceeded"
NOTICED = {
    "duplicate_deliveries": Kind.DUPLICATE_DROPPED,
    "jumble_deliveries": Kind.HASH_MISMATCH,
    "malform_frames": Kind.MALFORMED,
    "reorder_deliveries": Kind.GAP,
    "delay_deliveries": Kind.GAP,
}


def under(kind: str, acted: int, noticed: int, t: float = 21.0) -> Story:
    story = good_storm(10)
    story.header["plan"] = [{"kind": kind}]
    story.rows = [row for row in story.rows if row.kind not in (Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED)]
    story.tell(20.0, Kind.FAULT_INJECTED, detail=kind).tell(22.0, Kind.FAULT_REVERTED, detail=kind)
    if acted:
        story.tell(22.0, Kind.FAULT_OBSERVED, value=acted, detail=kind)
    for number in range(noticed):
        story.tell(t, NOTICED[kind], number % 10, STREAM, number, detail="live")
    return story


@pytest.mark.parametrize("kind", NOTICED)
def test_what_goes_wrong_must_be_noticed(kind: str) -> None:
    assert state("drill.faults_noticed", under(kind, 10, 5)) is PASS
    assert state("drill.faults_noticed", under(kind, 10, 4)) is FAIL
    assert state("drill.faults_noticed", under(kind, 10, 10, t=19.0)) is FAIL
    assert state("drill.faults_noticed", under(kind, 10, 10, t=24.0)) is FAIL
    assert state("drill.faults_noticed", under(kind, 0, 10)) is NO_DATA


def test_every_fault_must_be_noticed() -> None:
    story = under("malform_frames", 10, 10)
    story.header["plan"].append({"kind": "jumble_deliveries"})
    assert state("drill.faults_noticed", story) is FAIL


def names_of(fault: object) -> set[str]:
    """The checks of a drill with this fault."""
    return {spec.name for spec in gates.asked_of(with_fault(10, fault))}


def test_drills_that_break_it_are_asked() -> None:
    duplicates = DuplicateDeliveries(at_s=0.0, clients_share=0.5, events_share=0.5, for_s=1.0)
    deploy = RollingDeploy(at_s=0.0, waves=2, wave_s=1.0)
    assert "drill.faults_noticed" in names_of(duplicates) - names_of(deploy)
    assert "drill.cut_once" in names_of(deploy) - names_of(duplicates)


def stale(*reasons: str, t: float = 20.5, seq: int = 100) -> Story:
    """The cursor of each client in turn is stale for its reason."""
    story = good_storm(10)
    for client, reason in enumerate(reasons):
        story.tell(t, Kind.STALE, client, STREAM, seq, value=1.0, detail=reason)
    return story


def shrunk(budget: int, **expect: object) -> Drill:
    return with_fault(10, ShrinkReplayBudget(at_s=0.0, events=budget, for_s=1.0), stale_reasons=(BUDGET,), **expect)


def windowed(events: int) -> Drill:
    """A drill that expects cursors below the retained window, and trims nothing."""
    drill = storm_drill(10, stale_reasons=(FLOOR,))
    return msgspec.structs.replace(drill, runtime=RuntimeSettings(window_events=events))


def shared() -> Story:
    """A stream to which others publish, too: nobody knows how far a cursor is behind."""
    story = stale(FLOOR)
    story.header = {**story.header, "own_streams": []}
    return story


def another_hash() -> Story:
    return good_storm(3).changed(lambda row: row.kind == Kind.APPLIED and (row.client, row.seq) == (1, 7), detail="h8")


def without_hashes(story: Story) -> Story:
    """The same events, of a protocol without payload hashes: only their markers show what each client applied."""
    return story.marked().changed(lambda row: row.kind == Kind.APPLIED, detail="")


def another_marker() -> Story:
    return without_hashes(good_storm(3)).changed(
        lambda row: row.kind == Kind.APPLIED and (row.client, row.seq) == (1, 7), marker=8
    )


def cut_again(t: float) -> Story:
    return good_storm(4).tell(t, Kind.DISCONNECTED, 2, detail="stream_closed")


CASES = [
    *cases(
        "delivery.one_order",
        # To apply an event twice is another question.
        PASS=[good_storm(3), good_storm(3).apply(0, 5, t=50.0), without_hashes(good_storm(3))],
        FAIL=[another_hash(), another_marker()],
        NO_DATA=[Story(2).publish(1, 2).fresh(0).apply(0, 1, 2)],  # one client alone
    ),
    *cases(
        "drill.cut_once",
        PASS=[good_storm(4), cut_again(30.0)],
        FAIL=[cut_again(22.0)],
        NO_DATA=[good_storm(4).without(lambda row: row.kind == Kind.DISCONNECTED)],
    ),
    # Each reason must be one that the drill causes.
    *cases("drill.stale_signalled", shrunk(5), PASS=[stale(BUDGET)], FAIL=[stale(FLOOR), stale(BUDGET, FLOOR)]),
    *cases("drill.stale_signalled", shrunk(5, stale_share=0.9), PASS=[stale(*[BUDGET] * 9)], FAIL=[stale(*[BUDGET] * 8)]),
    # By 20.5 s events 1 to 264 were due: the cursor 100 cannot be more than 164 behind.
    *cases("drill.stale_justified", shrunk(163), PASS=[stale(BUDGET)], FAIL=[stale(BUDGET, t=20.0)]),
    *cases("drill.stale_justified", shrunk(164), PASS=[stale(BUDGET, seq=99)], FAIL=[stale(BUDGET)]),
    *cases("drill.stale_justified", storm_drill(10, stale_reasons=(BUDGET,)), FAIL=[stale(BUDGET)]),  # the topic's own budget
    *cases("drill.stale_justified", shrunk(5), NO_DATA=[stale()], FAIL=[stale(FLOOR)]),  # the window is larger
    *cases("drill.stale_justified", windowed(163), PASS=[stale(FLOOR)], FAIL=[stale(FLOOR, t=20.0)], NO_DATA=[shared()]),
    *cases("drill.stale_justified", windowed(164), PASS=[stale(FLOOR, seq=99)], FAIL=[stale(FLOOR)]),
]


@pytest.mark.parametrize(CASE, CASES)
def test_check_has_the_state_of_its_history(name: str, story: Story, drill: Drill, expected: State) -> None:
    assert state(name, story, drill) is expected


@pytest.mark.parametrize(
    ("clamped", "expected"),
    [
        ({}, PASS),
        ({"client": 4}, FAIL),  # of another client
        ({"stream": "run:other:events"}, FAIL),
        ({"value": 900.0}, FAIL),  # another position than that which it had asked for
        (None, FAIL),
    ],
)
def test_a_replay_for_a_cursor_above_the_head_starts_below_it(clamped: dict[str, object] | None, expected: State) -> None:
    story = good_storm(10).tell(22.0, Kind.REPLAY_BELOW_CURSOR, 3, STREAM, 300, value=1_000_300.0)
    if clamped is not None:
        fields = {"client": 3, "stream": STREAM, "seq": 300, "value": 1_000_300.0, **clamped}
        story.tell(22.0, Kind.CLAMPED, **fields)  # type: ignore[arg-type]
    assert state("replay.divergence", story) is expected


@pytest.mark.parametrize(("t", "expected"), [(19.99, PASS), (20.0, FAIL), (25.0, FAIL), (25.01, PASS)])
def test_connections_cut_twice_count_from_the_fault_to_the_recovery(t: float, expected: State) -> None:
    assert state("drill.cut_once", cut_again(t)) is expected


def opaque(*applied: tuple[int, int], has_one_order: bool = True, fault: str = "drop_sockets") -> tuple[State, float, int, str]:
    """What is said where positions cannot be compared: (client, marker) in the order of application."""
    able = msgspec.structs.replace(SPOKEN, positions=Positions.OPAQUE, has_one_order=has_one_order)
    story = Story(3, header={"capabilities": msgspec.to_builtins(able)})
    story.tell(0.5, Kind.FAULT_INJECTED, detail=fault).header["plan"] = [{"kind": fault}]
    for number in (1, 2, 3):
        story.tell(1.0, Kind.PUBLISHED, -1, STREAM, value=0.0, marker=number)
    for place, (client, marker) in enumerate(applied):
        story.tell(2.0 + place / 10, Kind.APPLIED, client, STREAM, marker=marker)
    found = ask("delivery.one_order", story)
    return found.state, found.value, found.n, found.reason


def test_order_of_readers_is_compared_where_positions_are_opaque_and_one_order_is_promised() -> None:
    same = opaque((0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (0, -1), (1, -1))
    assert same == (PASS, 0, 2, "0 events in another order among 2 events that several applied")
    assert opaque((0, 1), (0, 2), (0, 3), (1, 2), (1, 1), (1, 3))[:3] == (FAIL, 1, 3)
    assert opaque((0, 1), (1, 2))[0] is NO_DATA
    changed = opaque((0, 1), (1, 1), fault="reorder_deliveries")
    assert (changed[0], changed[2], changed[3]) == (
        NO_DATA,
        0,
        "a fault changed the order of events, and positions do not show it",
    )


def test_two_readers_share_an_event() -> None:
    found = ask("delivery.one_order", Story(3).publish(1, 2).fresh(0).fresh(1).apply(0, 1, 2).apply(1, 1))
    assert (found.state, found.value, found.n) == (PASS, 0, 1)


def test_reasons_of_stale_answers_count_only_where_the_server_states_them() -> None:
    drill = shrunk(5)
    bare = msgspec.to_builtins(msgspec.structs.replace(SPOKEN, stale=StaleSign.FLAG))

    def answer(story: Story) -> tuple[State, float, int]:
        story.header["capabilities"] = bare
        found = ask("drill.stale_signalled", story, drill)
        return found.state, found.value, found.n

    assert answer(stale("the client's own word")) == (PASS, 1, 1)
    assert answer(stale()) == (FAIL, 0, 0)
    assert answer(stale("a", "b")) == (PASS, 1, 2)


def test_what_is_said_of_refused_cursors() -> None:
    def answer(story: Story, drill: Drill) -> tuple[State, int, str]:
        found = ask("drill.stale_justified", story, drill)
        assert found.value != found.value if found.state is NO_DATA else found.value == (found.state is FAIL)
        return found.state, found.n, found.reason

    covered = "none of 2 refused cursors was covered"
    assert answer(stale(BUDGET, BUDGET), shrunk(163)) == (PASS, 2, covered)
    unknown = stale(BUDGET)
    unknown.header |= {"streams": {}}
    assert answer(unknown, storm_drill(10)) == (NO_DATA, 0, "the service's replay budget is not known")
    assert answer(unknown, shrunk(163))[:2] == (PASS, 1), "the drill's own budget is known"
    unplaced = stale(BUDGET, seq=-1)
    assert answer(unplaced, shrunk(163))[:2] == (NO_DATA, 0)
    stated = msgspec.structs.replace(storm_drill(10), runtime=RuntimeSettings(replay_budget_events=163))
    assert answer(stale(BUDGET), stated)[:2] == (PASS, 1)


def always_on(drill: Drill) -> set[str]:
    return {spec.name for spec in gates.asked_of(drill)}


def test_checks_of_stale_answers_belong_to_the_drills_that_expect_them() -> None:
    recreated = with_fault(10, RecreateLog(at_s=0.0))
    trimmed = with_fault(10, ShrinkWindow(at_s=0.0, keep_events=5), stale_reasons=(FLOOR,))
    floor, budget, plain = storm_drill(10, stale_reasons=(FLOOR,)), storm_drill(10, stale_reasons=(BUDGET,)), storm_drill(10)
    for name, drills in (
        ("drill.unexpected_stale", {"plain"}),
        ("drill.stale_signalled", {"floor", "budget", "trimmed"}),
        ("drill.stale_justified", {"floor", "budget"}),
    ):
        every = {"plain": plain, "floor": floor, "budget": budget, "trimmed": trimmed, "recreated": recreated}
        assert {which for which, drill in every.items() if name in always_on(drill)} == drills, name
    assert "drill.retired_routes" in always_on(storm_drill(1, retired_routes=True)) - always_on(plain)
    assert "drill.negative_clients" in always_on(storm_drill(1, negative_clients=("expired_token",))) - always_on(plain)
    assert "drill.stale_justified" in always_on(with_fault(10, RecreateLog(at_s=0.0), stale_reasons=(BUDGET,)))


def test_readers_of_the_only_stream_share_its_events() -> None:
    able = msgspec.structs.replace(SPOKEN, positions=Positions.OPAQUE, has_one_order=True)
    story = Story(2, header={"capabilities": msgspec.to_builtins(able)})
    for marker in (1, 2):
        story.tell(1.0, Kind.PUBLISHED, -1, STREAM, value=0.0, marker=marker)
        for client in (0, 1):
            story.tell(2.0, Kind.APPLIED, client, STREAM, marker=marker)
    found = ask("delivery.one_order", story)
    assert (story.history().streams, found.state, found.n) == ([STREAM], PASS, 2)
