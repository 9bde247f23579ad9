"""Whether just those are called stale who must be: hand-written answers for and against."""

from msgspec.structs import replace

from sim.drill.fault_kinds import ShrinkReplayBudget
from sim.drill.model import Drill
from sim.record.observations import Kind
from tests.drills.asking import FAIL, NO_DATA, PASS, state
from tests.histories import STREAM, Story, good_storm, storm_drill

FLOOR, BUDGET = "retention_floor_breach", "replay_budget_exceeded"


def told(*reasons: str, t: float = 20.5, seq: int = 100) -> Story:
    """One client after the other is told that it is stale, each for its reason."""
    story = good_storm(10)
    for client, reason in enumerate(reasons):
        story.tell(t, Kind.STALE, client, STREAM, seq, value=1.0, detail=reason)
    return story


def shrunk(budget: int, **expect: object) -> Drill:
    drill = storm_drill(10, stale_reasons=(BUDGET,), **expect)
    return replace(drill, faults=(ShrinkReplayBudget(at_s=0.0, events=budget, for_s=1.0),))


def test_a_reason_that_the_drill_does_not_give_is_wrong() -> None:
    assert state("drill.stale_signalled", told(BUDGET), shrunk(5)) is PASS
    assert state("drill.stale_signalled", told(FLOOR), shrunk(5)) is FAIL
    assert state("drill.stale_signalled", told(BUDGET, FLOOR), shrunk(5)) is FAIL


def test_a_storm_of_stale_cursors_needs_enough_of_them() -> None:
    assert state("drill.stale_signalled", told(*[BUDGET] * 9), shrunk(5, stale_share=0.9)) is PASS
    assert state("drill.stale_signalled", told(*[BUDGET] * 8), shrunk(5, stale_share=0.9)) is FAIL


def test_a_cursor_within_the_replay_budget_is_not_stale() -> None:
    # By 20.5 s events 1 to 264 were due: the cursor 100 cannot be more than 164 behind.
    assert state("drill.stale_justified", told(BUDGET), shrunk(163)) is PASS
    assert state("drill.stale_justified", told(BUDGET), shrunk(164)) is FAIL
    assert state("drill.stale_justified", told(BUDGET, t=20.0), shrunk(163)) is FAIL
    assert state("drill.stale_justified", told(BUDGET, seq=99), shrunk(164)) is PASS


def test_without_a_fault_the_topics_own_budget_counts() -> None:
    assert state("drill.stale_justified", told(BUDGET), storm_drill(10, stale_reasons=(BUDGET,))) is FAIL


def test_no_cursor_over_the_budget_is_no_data() -> None:
    assert state("drill.stale_justified", told(), shrunk(5)) is NO_DATA
    assert state("drill.stale_justified", told(FLOOR), shrunk(5)) is NO_DATA
