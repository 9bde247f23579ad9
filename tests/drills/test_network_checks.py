"""The checks of the network drills: seen to pass, to fail, and to say that there was nothing to look at."""

from typing import Any

import pytest

from drills.judging import gates
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import State
from sim.drill import fault_schedule
from sim.drill.fault_kinds import StopReading
from sim.record.observations import Kind
from tests.drills.asking import ERROR, FAIL, NO_DATA, PASS, ask, with_fault
from tests.histories import Story, good_storm

# Of ten clients three stop reading: whom the fault draws by the seed.
STOPPED = with_fault(10, StopReading(at_s=0.0, for_s=4.0, share=0.3))
WHO = fault_schedule.plan(STOPPED, 7)[0].clients


def broken_by(kind: str, acted: float, clients: int = 10, **more: Any) -> Story:
    """A drill with one fault, from 20 to 30 s."""
    plan = [{"kind": kind, "at_s": 0.0, "clients": clients, **more}]
    story = Story(clients, header={"plan": plan})
    story.tell(20.0, Kind.FAULT_INJECTED, attempt=0, detail=kind)
    story.tell(30.0, Kind.FAULT_OBSERVED, attempt=0, value=acted, detail=kind)
    return story.tell(30.0, Kind.FAULT_REVERTED, attempt=0, detail=kind)


@pytest.mark.parametrize(("left", "state"), [(0, PASS), (1, FAIL), (None, NO_DATA)])
def test_half_open_connections_that_a_side_still_held(left: int | None, state: State):
    story = broken_by("half_open_links", 10)
    if left is not None:
        story.tell(30.0, Kind.HALF_OPEN_LEFT, attempt=0, value=float(left))
    answer = ask("reconnect.half_open_left", story)
    assert answer.state is state
    assert answer.n == (10 if left is not None else 0)


def test_half_open_check_has_no_data_without_its_fault():
    for story in (broken_by("stall_links", 10).tell(30.0, Kind.HALF_OPEN_LEFT, attempt=0, value=0.0), good_storm(2)):
        assert ask("reconnect.half_open_left", story).state is NO_DATA


@pytest.mark.parametrize(("reason", "state"), [("network", FAIL), ("unknown", FAIL), ("token_refresh_due", PASS), (None, PASS)])
def test_connections_lost_that_nothing_cut(reason: str | None, state: State):
    story = broken_by("slow_links", 10).tell(1.0, Kind.SUBSCRIBED, 0)
    if reason:
        story.tell(25.0, Kind.DISCONNECTED, 0, detail=reason)
    assert ask("reconnect.needless_disconnects", story).state is state
    assert ask("reconnect.needless_disconnects", Story(1)).state is NO_DATA


def evictions(*moments: float) -> Story:
    story = broken_by("stop_reading", 3)
    for client, t in zip(WHO, moments, strict=False):
        story.tell(t, Kind.EVICTED, client, detail="disconnect")
    return story


@pytest.mark.parametrize(
    ("moments", "untold"),
    [
        ((25.0, 29.0, 31.0), 0),
        ((20.0, 29.0, 35.0), 0),
        ((19.99, 29.0, 35.01), 2),
        ((25.0, 29.0), 1),
        ((10.0, 25.0, 29.0), 1),
        ((25.0, 29.0, 36.0), 1),
        ((), 3),
    ],
)
def test_who_stopped_reading_and_was_never_told(moments: tuple[float, ...], untold: int):
    answer = ask("delivery.slow_consumers_kept", evictions(*moments), STOPPED)
    assert (answer.state, answer.value, answer.n) == (FAIL if untold else PASS, untold, 3)


def test_one_client_told_twice_is_one_client():
    twice = evictions(25.0, 26.0).tell(28.0, Kind.EVICTED, WHO[1])
    assert ask("delivery.slow_consumers_kept", twice, STOPPED).value == 1
    assert ask("delivery.slow_consumers_kept", broken_by("slow_links", 3)).state is NO_DATA


def test_it_is_those_who_stopped_that_are_told():
    """As many others were sent away in their stead, and whoever does not read was kept."""
    story = broken_by("stop_reading", 3)
    for client in [client for client in range(10) if client not in WHO][:3]:
        story.tell(25.0, Kind.EVICTED, client, detail="disconnect")
    answer = ask("delivery.slow_consumers_kept", story, STOPPED)
    assert (answer.state, answer.value) == (FAIL, 3)


@pytest.mark.parametrize(("after_s", "state"), [(2.0, PASS), (2.001, PASS), (1.999, FAIL), (None, PASS)])
def test_evicted_clients_come_back_when_they_were_asked_to(after_s: float | None, state: State):
    story = evictions(25.0).tell(24.0, Kind.CONNECT_ATTEMPTED, WHO[0]).tell(25.1, Kind.CONNECT_ATTEMPTED, WHO[1])
    if after_s is not None:
        story.tell(25.0 + after_s, Kind.CONNECT_ATTEMPTED, WHO[0])
    assert ask("reconnect.early_returns", story).state is state
    assert ask("reconnect.early_returns", evictions()).state is NO_DATA


@pytest.mark.parametrize(("detail", "state"), [("live", FAIL), ("replay", PASS), (None, PASS)])
def test_holes_in_a_live_tail(detail: str | None, state: State):
    story = Story(1).fresh(0).publish(1, 2).apply(0, 1, 2)
    if detail:
        story.tell(3.0, Kind.GAP, 0, "s", 4, value=2.0, detail=detail)
    assert ask("delivery.live_gaps", story).state is state
    assert ask("delivery.live_gaps", Story(1)).state is NO_DATA


@pytest.mark.parametrize(
    ("kind", "wanted"), [("slow_links", 0.9), ("stall_links", 0.9), ("stop_reading", 0.9), ("slow_close", 0.0)]
)
@pytest.mark.parametrize("acted", [8.0, 9.0])
def test_a_fault_of_links_must_act_on_nearly_all_that_it_names(kind: str, wanted: float, acted: float):
    state = ask("drill.faults_observed", broken_by(kind, acted)).state
    assert state is (PASS if acted >= wanted * 10 else ERROR)


@pytest.mark.parametrize(("busy_s", "state"), [(0.5, FAIL), (5.0, PASS)])
def test_a_busy_machine_takes_the_time_in_which_something_should_be_noticed(busy_s: float, state: State):
    open_ended = broken_by("half_open_links", 10).tell(30.0, Kind.HALF_OPEN_LEFT, attempt=0, value=1.0)
    for name, story in (("reconnect.half_open_left", open_ended), ("delivery.slow_consumers_kept", evictions(25.0))):
        for t, phase in ((0.0, "steady"), (20.0, "fault"), (30.0, "settle")):
            story.tell(t, Kind.PHASE, detail=phase)
        case = Case(STOPPED, story.busy(20.0, 20.0 + busy_s).history())
        assert gates.answer(OF_RUNS[name], case, None, "").state is FAIL
        assert gates.answer(OF_RUNS[name], case.excused, None, "").state is state


def test_clients_evicted_too_often_do_not_make_up_for_those_that_were_kept():
    """Of the first fault, which says that one client stopped, three were evicted; of the second, which says two, none."""
    story = evictions(25.0, 26.0, 27.0).changed(lambda row: row.kind is Kind.FAULT_OBSERVED, value=1.0)
    story.header["plan"].append(story.header["plan"][0])
    story.tell(40.0, Kind.FAULT_INJECTED, attempt=1, detail="stop_reading")
    story.tell(50.0, Kind.FAULT_OBSERVED, attempt=1, value=2.0, detail="stop_reading")
    story.tell(50.0, Kind.FAULT_REVERTED, attempt=1, detail="stop_reading")
    answer = ask("delivery.slow_consumers_kept", story, STOPPED)
    assert (answer.state, answer.value, answer.n) == (FAIL, 2, 3)
