"""At rest, each reader has what the others have: acknowledged events, and those whose publish got no answer."""

from collections.abc import Callable
from typing import Any

import pytest

from drills.judging import gates
from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from sim.record.observations import Kind
from tests.analysis.test_invariants import broken, first, opaque, unlocated, whole
from tests.histories import AUDITOR, STREAM, Story, storm_drill

END_S = 100.0


def ordered(story: Story) -> Story:
    """With markers, and positions that do not show what is missing."""
    found = story.marked()
    found.header = {**found.header, "capabilities": {"positions": "ordered"}}
    return found


FORMS = [Story.marked, unlocated, ordered, opaque]


def unanswered(*readers: int, t: float = 2.0, after: int = 0) -> Story:
    """Five acknowledged events that all have, then one without an answer that `readers` have, then `after` more events."""
    story = whole().tell(1.9, Kind.PUBLISH_TRIED, stream=STREAM, value=400.0, detail="unknown", attempt=1, marker=6)
    story.tell(1.9, Kind.PUBLISH_FAILED, stream=STREAM, value=400.0, detail="unknown_outcome", marker=6)
    for reader in readers:
        story.apply(reader, 6, t=90.05 if reader == AUDITOR else t)
    later = range(7, 7 + after)
    story.publish(*later, t=2.0)
    for reader in (0, 1, AUDITOR):
        story.apply(reader, *later, t=90.06 if reader == AUDITOR else t + 0.1)
    story.header = {**story.header, "duration_s": END_S}
    return story.tell(END_S, Kind.PHASE, detail="end")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("readers", [(), (0, 1, AUDITOR)])
def test_publish_without_an_answer_is_there_for_all_or_for_none(
    readers: tuple[int, ...], form: Callable[[Story], Story]
) -> None:
    assert broken(form(unanswered(*readers))) == {}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("readers", "n"), [((0, AUDITOR), 1), ((1,), 2), ((0, 1), 1), ((AUDITOR,), 2)])
def test_publish_without_an_answer_that_only_some_have_is_named(
    readers: tuple[int, ...], n: int, form: Callable[[Story], Story]
) -> None:
    story = form(unanswered(*readers))
    assert broken(story) == {"partly_delivered": n}
    assert f"{STREAM}, marker 6" in first(story, "partly_delivered") or f"{STREAM}, seq 6" in first(story, "partly_delivered")


@pytest.mark.parametrize("form", [ordered, opaque])
def test_later_event_shows_that_one_without_an_answer_is_missing(form: Callable[[Story], Story]) -> None:
    assert broken(form(unanswered(0, t=99.5, after=2).changed(lambda row: row.kind is Kind.PUBLISH_FAILED, t=99.5))) == {
        "partly_delivered": 1
    }


def test_event_that_came_at_the_very_end_may_be_on_its_way() -> None:
    story = unanswered(0).changed(lambda row: row.kind is Kind.PUBLISH_FAILED or row.marker == 6 or row.seq == 6, t=99.5)
    assert broken(story.marked()) == {}


def test_client_that_started_after_an_event_without_an_answer_is_not_owed_it() -> None:
    story = unanswered(0, 1, AUDITOR, after=2).publish(9, t=60.0).apply(0, 9, t=60.1).apply(1, 9, t=60.1)
    story.clients = 3
    story.fresh(2, baseline=8, t=50.0).apply(2, 9, t=60.1).apply(AUDITOR, 9, t=90.07)
    assert broken(story.marked()) == {"false_start": 1}, "it was owed the acknowledged events alone"


def test_what_is_delivered_without_an_answer_is_stored_too() -> None:
    story = unanswered(0, 1, AUDITOR).marked()
    for number in range(1, 6):
        story.tell(91.0, Kind.READ_BACK, stream=STREAM, seq=number, marker=number)
    story.tell(92.0, Kind.READ_BACK_COMPLETED, stream=STREAM, value=5.0, detail="ok")
    assert broken(story) == {"partly_delivered": 1}
    assert broken(story.tell(91.0, Kind.READ_BACK, stream=STREAM, seq=6, marker=6)) == {}


def test_refused_publish_that_is_there_is_a_phantom_however_many_have_it() -> None:
    story = unanswered(0, 1, AUDITOR).changed(lambda row: row.kind is Kind.PUBLISH_FAILED, detail="rate_limited")
    assert broken(story.marked()) == {"phantom_event": 1}


def acknowledged_at(position: int, **others: Any) -> Story:
    """The last event was acknowledged at another position than the one under which everybody has it."""
    last = whole().marked().changed(lambda row: row.kind is Kind.PUBLISHED and row.seq == 5, seq=position)
    return last.changed(lambda row: row.kind is Kind.PUBLISHED and row.marker == 2, **others) if others else last


@pytest.mark.parametrize("others", [{}, {"seq": -1}, {"seq": 1}], ids=["stated", "one without", "two at one position"])
@pytest.mark.parametrize("seq", [6, 1000])
def test_position_acknowledged_above_all_that_was_delivered_is_named(seq: int, others: dict[str, int]) -> None:
    """One acknowledgement without a position, or a position given twice, excuses no other."""
    assert "phantom_event" in broken(acknowledged_at(seq, **others))
    assert "phantom_event" not in broken(acknowledged_at(5, **others))


def test_event_acknowledged_above_all_that_was_delivered_and_never_delivered_is_missing() -> None:
    story = whole().publish(1000, t=1.0).marked().changed(lambda row: row.marker == 1000, marker=6)
    assert broken(story).keys() >= {"missing_at_rest"}


@pytest.mark.parametrize(("why", "expected"), [("behind", {"missing_at_rest": 1}), ("backoff", {}), ("replaying", {})])
def test_client_that_is_still_under_way_does_not_rest(why: str, expected: dict[str, int]) -> None:
    """It has not converged, which is a failure by that name; what it lacks may yet come."""
    story = whole().publish(6, t=2.0).apply(1, 6, t=2.1).apply(AUDITOR, 6, t=90.05)
    story.tell(99.0, Kind.STILL_PENDING, 0, STREAM, 5, value=6.0, detail=why)
    assert broken(story) == expected


@pytest.mark.parametrize(
    ("busy", "state"), [(None, State.FAIL), ((10.0, 60.0), State.FAIL), ((1.5, 98.0), State.FAIL), ((1.5, 100.0), State.ERROR)]
)
def test_nobody_was_at_rest_while_the_machine_was_too_busy(busy: tuple[float, float] | None, state: State) -> None:
    story = unanswered(0, AUDITOR).marked()
    case = Case(storm_drill(story.clients), (story.busy(*busy, "server") if busy else story).history())
    violated, checked = gates._invariants(case, "observations.parquet")
    assert checked.state is state
    assert [each.invariant for each in violated] == (["partly_delivered"] if state is State.FAIL else [])
    assert ("the machine was too busy from 1.5 s to 100.0 s" in checked.reason) == (state is State.ERROR)


def test_what_a_later_event_shows_is_missing_on_any_machine() -> None:
    story = ordered(unanswered(0, t=99.5, after=2).changed(lambda row: row.kind is Kind.PUBLISH_FAILED, t=99.5))
    case = Case(storm_drill(story.clients), story.busy(1.5, 100.0).history())
    violated, checked = gates._invariants(case, "observations.parquet")
    assert (checked.state, [each.invariant for each in violated]) == (State.FAIL, ["partly_delivered"])
