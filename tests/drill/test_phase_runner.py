"""One phase runner and one fault lifecycle: every driver comes to the same decisions, in the same order."""

import ast
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.drill.fault_kinds import AnyFault, DropSockets, KillRuntime, ResetLinks, ShrinkWindow
from sim.drill.phase_runner import DRAIN_LIMIT_S
from sim.drill.waiting import Signals, Wait, Woke
from tests.drill.scripted_world import DRIVERS, NEVER, Script, ScriptedWorld, drill_with

ROOT = Path(__file__).parents[2]
DROP = DropSockets(at_s=0.5, offline_s=1.0)
LATER = DropSockets(at_s=2.0, offline_s=0.0)


def outcome(driver: str, script: Script) -> tuple[list[tuple[float, str]], str]:
    """All calls, and what was raised."""
    made: list[ScriptedWorld] = []
    original = ScriptedWorld.__init__

    def remember(self: ScriptedWorld, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedWorld, "__init__", remember)
        try:
            DRIVERS[driver](script)
        except (RuntimeError, OSError) as error:
            return made[0].calls, str(error)
    return made[0].calls, ""


def names(calls: list[tuple[float, str]]) -> list[str]:
    return [what for _, what in calls if not what.startswith("entered ")]


def moment(calls: list[tuple[float, str]], what: str) -> float:
    return next(t for t, each in calls if each == what)


FAULTS = st.one_of(
    st.builds(DropSockets, at_s=st.sampled_from((0.0, 0.5, 1.5)), offline_s=st.sampled_from((0.0, 0.5, 1.0))),
    st.builds(ShrinkWindow, at_s=st.sampled_from((0.0, 0.5, 2.0)), keep_events=st.just(1)),
    st.builds(ResetLinks, at_s=st.sampled_from((0.0, 0.5)), times=st.just(3), every_s=st.just(0.25)),
    st.builds(KillRuntime, at_s=st.just(1.0), down_s=st.sampled_from((0.0, 1.5))),
)


def moments(offset_s: float) -> st.SearchStrategy[float | None]:
    """Between those of phases and faults: which of two things of one moment comes first is the clock's affair."""
    return st.none() | st.integers(0, 70).map(lambda tenths: tenths / 10 + offset_s)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    faults: list[AnyFault] = draw(st.lists(FAULTS, max_size=3))
    takes_s = st.sampled_from((0.0, 0.0, 0.3171, 2.7171, float(NEVER)))
    inject_takes_s = draw(takes_s)
    stop_at = draw(moments(0.0137))
    return Script(
        drill_with(*faults),
        ready_after=draw(st.sampled_from((0, 3, NEVER))),
        inject_takes_s=inject_takes_s,
        revert_takes_s=draw(st.sampled_from((0.0, 0.1171))),
        lead_s=draw(st.sampled_from((0.0, 0.0313))),
        inject_fails=draw(st.booleans()),
        revert_fails=draw(st.booleans()),
        drains_after=draw(st.sampled_from((0, 2, NEVER))),
        settles_after=draw(st.sampled_from((0, 3, NEVER))),
        is_audited_after=draw(st.sampled_from((0, 3, NEVER))),
        stop_at=4.0137 if stop_at is None and inject_takes_s == NEVER else stop_at,
        storm_at=draw(moments(0.0211)),
        revert_at=draw(moments(0.0293)),
    )


# A stop during the recovery, which does not heed it, ends the wait after it at once.
@example(Script(drill_with(ShrinkWindow(at_s=0.0, keep_events=1)), 3, revert_takes_s=0.1171, stop_at=3.5137, storm_at=0.1211))
@given(script=scripts())
@settings(max_examples=300, deadline=None)
def test_every_driver_makes_the_same_calls_at_the_same_moments(script: Script):
    expected = outcome("virtual", script)
    for driver in DRIVERS:
        assert outcome(driver, script) == expected, driver


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_all_goes_well(driver: str):
    calls, error = outcome(driver, Script(drill_with(DROP, LATER), drains_after=2, settles_after=3))
    assert error == ""
    assert names(calls) == [
        *("phase steady", "start", "steady all clients live", "phase fault"),
        *("announce [0]", "fault_injected 0 drop_sockets", "inject 0"),
        *("revert 0", "fault_observed 0 drop_sockets", "fault_reverted 0 drop_sockets"),
        *("announce [1]", "fault_injected 1 drop_sockets", "inject 1"),
        *("revert 1", "fault_observed 1 drop_sockets", "fault_reverted 1 drop_sockets"),
        *("phase recovery", "revert_all", "phase settle", "finish_publishing", "abandon_publishing"),
        *("conclude", "add_auditor", "conclude_audit", "phase end"),
    ]
    times = [moment(calls, f"phase {name}") for name in ("steady", "fault", "recovery", "settle", "end")]
    assert times == pytest.approx([0.0, 1.5, 4.5, 5.0, 5.7])
    assert moment(calls, "revert 0") == pytest.approx(3.0)


def test_a_steady_state_that_is_never_reached_breaks_nothing(driver: str):
    calls, error = outcome(driver, Script(drill_with(DROP), ready_after=NEVER))
    assert error == ""
    assert "steady 9 of 10 clients live" in names(calls)
    assert not [what for what in names(calls) if what.startswith(("inject", "fault_"))]
    assert names(calls)[-1] == "phase end"
    assert moment(calls, "phase fault") == moment(calls, "phase recovery") == pytest.approx(3.5, abs=0.11)
    assert "revert_all" in names(calls)


@pytest.mark.parametrize(("stop_at", "phase"), [(0.2, "steady"), (2.2, "fault"), (4.7, "recovery"), (5.05, "settle")])
def test_a_stop_reverts_and_concludes_at_once(driver: str, stop_at: float, phase: str):
    calls, error = outcome(driver, Script(drill_with(DROP), stop_at=stop_at, settles_after=NEVER))
    assert error == ""
    ended = names(calls)
    assert ended[-2:] == ["conclude", "phase end"]
    assert moment(calls, "phase end") == pytest.approx(stop_at)
    assert ended.count("revert_all") == 1
    assert ("end_load" in ended) == (phase in ("steady", "fault"))
    assert "add_auditor" not in ended
    assert ("fault_reverted 0 drop_sockets" in ended) == (phase != "steady")


def test_a_stop_during_the_revert_is_heeded_after_it(driver: str):
    calls, _ = outcome(driver, Script(drill_with(), ready_after=NEVER, revert_takes_s=0.5, stop_at=3.7))
    assert moment(calls, "revert_all") == pytest.approx(3.5, abs=0.11)
    assert moment(calls, "phase settle") == moment(calls, "phase end") == pytest.approx(4.0, abs=0.11)
    assert "add_auditor" not in names(calls)


def test_an_injection_that_hangs_extends_the_fault_phase_until_it_is_stopped(driver: str):
    script = Script(drill_with(DROP, LATER), inject_takes_s=NEVER, stop_at=9.0)
    calls, error = outcome(driver, script)
    assert error == ""
    assert moment(calls, "inject 1") == pytest.approx(3.5), "it holds up no other fault"
    assert names(calls).count("cancel") == 2
    assert moment(calls, "phase recovery") == pytest.approx(9.0)
    assert names(calls).index("cancel") < names(calls).index("revert_all")
    assert "fault_observed 0 drop_sockets" not in names(calls)
    assert "fault_reverted 0 drop_sockets" in names(calls)


def test_an_injection_that_takes_longer_than_its_fault_is_reverted_when_it_ends(driver: str):
    calls, _ = outcome(driver, Script(drill_with(DROP), inject_takes_s=3.7171))
    assert moment(calls, "revert 0") == pytest.approx(2.0 + 3.7171)
    assert moment(calls, "phase recovery") == pytest.approx(2.0 + 3.7171)


def test_an_injection_that_fails_is_raised_after_everything_is_reverted(driver: str):
    calls, error = outcome(driver, Script(drill_with(DROP), inject_fails=True))
    assert error == "inject"
    assert names(calls)[-4:] == ["phase recovery", "end_load", "revert_all", "fault_reverted 0 drop_sockets"]


def test_a_revert_that_fails_is_raised_and_its_fault_is_not_recorded_as_reverted(driver: str):
    calls, error = outcome(driver, Script(drill_with(DROP), inject_takes_s=NEVER, stop_at=2.5, revert_fails=True))
    assert error == "revert"
    assert names(calls)[-1] == "revert_all"


@pytest.mark.parametrize("driver", ["asyncio", "greenlets"])
@pytest.mark.parametrize(("breaks_at", "last"), [(0.5, "revert_all"), (2.2, "fault_reverted 0 drop_sockets")])
def test_a_check_that_fails_is_raised_after_everything_is_reverted(driver: str, breaks_at: float, last: str):
    calls, error = outcome(driver, Script(drill_with(DROP), breaks_at=breaks_at))
    assert error == "the disk is full"
    assert names(calls)[-1] == last


def test_publishing_that_never_drains_is_abandoned(driver: str):
    calls, error = outcome(driver, Script(drill_with(), drains_after=NEVER))
    assert error == ""
    waited_s = moment(calls, "abandon_publishing") - moment(calls, "finish_publishing")
    assert DRAIN_LIMIT_S <= waited_s <= DRAIN_LIMIT_S + 0.11
    assert names(calls)[-1] == "phase end"


def test_clients_that_never_converge_end_at_the_limit(driver: str):
    calls, _ = outcome(driver, Script(drill_with(), settles_after=NEVER))
    assert moment(calls, "conclude") - moment(calls, "abandon_publishing") == pytest.approx(2.0, abs=0.11)


def test_auditor_connects_after_convergence_is_judged(driver: str):
    """A service that wakes up for a new connection must not converge because of ours."""
    calls, _ = outcome(driver, Script(drill_with(), settles_after=NEVER, is_audited_after=NEVER))
    assert names(calls)[-4:] == ["conclude", "add_auditor", "conclude_audit", "phase end"]
    assert moment(calls, "conclude_audit") - moment(calls, "add_auditor") == pytest.approx(2.0, abs=0.11)


def test_stop_during_the_audit_concludes_it_at_once(driver: str):
    calls, _ = outcome(driver, Script(drill_with(), is_audited_after=NEVER, stop_at=5.37))
    assert names(calls)[-2:] == ["conclude_audit", "phase end"]
    assert moment(calls, "conclude_audit") == pytest.approx(5.37)


def test_a_fault_that_is_brought_forward_ends_the_steady_state_and_begins_first(driver: str):
    calls, _ = outcome(driver, Script(drill_with(LATER, DROP), storm_at=0.3))
    assert moment(calls, "phase fault") == moment(calls, "inject 1") == pytest.approx(0.3)
    assert moment(calls, "inject 0") == pytest.approx(2.3), "the other one keeps its time"


def test_a_fault_that_is_brought_forward_in_the_fault_phase_begins_at_once(driver: str):
    calls, _ = outcome(driver, Script(drill_with(DROP, LATER), storm_at=2.2))
    assert moment(calls, "inject 1") == pytest.approx(2.2)
    assert moment(calls, "phase recovery") == pytest.approx(4.5)


def test_open_ended_steady_state_lasts_until_a_fault_by_hand(driver: str):
    calls, error = outcome(driver, Script(drill_with(DROP), storm_at=9.3, is_open_ended=True))
    assert error == ""
    assert [moment for moment, name in calls if name in ("phase fault", "inject 0")] == [9.3, 9.3]


def test_open_ended_steady_state_ends_with_a_stop(driver: str):
    calls, _ = outcome(driver, Script(drill_with(DROP), stop_at=7.7, is_open_ended=True))
    assert [moment for moment, name in calls if name == "phase recovery"] == [7.7]
    assert "inject 0" not in names(calls)


def test_a_revert_by_hand_ends_all_faults_in_good_order(driver: str):
    calls, _ = outcome(driver, Script(drill_with(DROP, LATER), revert_at=2.2))
    assert moment(calls, "revert 0") == moment(calls, "phase recovery") == pytest.approx(2.2)
    assert "fault_observed 0 drop_sockets" in names(calls)
    assert "inject 1" not in names(calls)


def test_faults_of_one_moment_are_announced_together_and_begin_before_others_end(driver: str):
    ends_then = DropSockets(at_s=0.0, offline_s=0.5)
    calls, _ = outcome(driver, Script(drill_with(DROP, LATER, ends_then, ShrinkWindow(at_s=0.5, keep_events=1))))
    order = [what for t, what in calls if t == pytest.approx(2.0) and not what.startswith("fault_observed")]
    assert order == [
        *("announce [0, 3]", "fault_injected 0 drop_sockets", "inject 0", "fault_injected 3 shrink_window", "inject 3"),
        *("fault_reverted 3 shrink_window", "revert 2", "fault_reverted 2 drop_sockets"),
    ]


def test_a_fault_with_several_injections_is_one_fault(driver: str):
    calls, _ = outcome(driver, Script(drill_with(ResetLinks(at_s=0.0, times=3, every_s=0.25))))
    assert [round(t - 1.5, 3) for t, what in calls if what == "inject 0"] == [0.0, 0.25, 0.5]
    assert names(calls).count("fault_injected 0 reset_links") == names(calls).count("fault_reverted 0 reset_links") == 1


@pytest.mark.parametrize(
    ("signals", "wait", "woke"),
    [
        (Signals(), Wait((5.0,)), None),
        (Signals(), Wait((5.0, 1.0)), Woke.TIME),
        (Signals(), Wait((5.0,), lambda: True), Woke.CONDITION),
        (Signals(is_stopped=True), Wait((1.0,), lambda: True), Woke.STOPPED),
        (Signals(is_stopped=True), Wait((5.0,), heeds_stop=False), None),
        (Signals(is_by_hand=True), Wait((5.0,)), Woke.BY_HAND),
        (Signals(), Wait(()), None),
    ],
)
def test_a_wait_ends_for_one_reason(signals: Signals, wait: Wait, woke: Woke | None):
    assert signals.reason(wait, 2.0) is woke


# --- one place for lengths ------------------------------------------------------------------------------

LENGTHS = {"steady_s", "steady_limit_s", "fault_s", "recovery_s", "settle_s"}
# They make a drill before it runs.
BEFORE_A_RUN = {"locustfiles/load/run/storm_patterns.py"}


def readers(text: str) -> list[str]:
    """What reads a length of a drill's phases."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return [ast.unparse(node) for node in nodes if node.attr in LENGTHS and not ast.unparse(node).startswith("options.")]


def test_no_engine_and_no_locustfile_reads_the_lengths_of_phases():
    paths = [path for folder in ("sim/engines", "locustfiles") for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): readers(path.read_text()) for path in paths}
    assert len(found) > 50
    assert {name for name, read in found.items() if read} <= BEFORE_A_RUN


def test_a_reader_of_a_length_is_found():
    assert readers("def f(drill):\n    phases = drill.phases\n    return phases.steady_limit_s") == ["phases.steady_limit_s"]
