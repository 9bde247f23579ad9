"""Ask one check, or one drill, of a hand-written history."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from drills.judging import gates
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, State
from sim.drill.model import Drill
from sim.record.observations import Kind
from tests.histories import GATED, Story, storm_drill

THRESHOLDS = gates.load_thresholds()
PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
NAN, INF = float("nan"), float("inf")


def ask(name: str, story: Story, drill: Drill | None = None) -> CheckResult:
    case = Case(drill or storm_drill(story.clients), story.history())
    return gates.answer(OF_RUNS[name], case, THRESHOLDS.get(name), "observations.parquet")


def state(name: str, story: Story, drill: Drill | None = None) -> State:
    """The state that a check decided; one that raises is an error, too, but decided nothing. Without data it has no value."""
    found = ask(name, story, drill)
    assert not is_broken(found), found.reason
    assert found.state is not NO_DATA or (found.n == 0 and math.isnan(found.value)), found
    return found.state


def is_broken(found: CheckResult) -> bool:
    return found.reason.startswith("the check could not be worked out")


CASE = ("name", "story", "drill", "expected")


def cases(name: str, drill: Drill | None = None, **stories: list[Story]) -> list[Any]:
    """Parameters (`CASE`) for one check: the histories that lead to each state."""
    return [
        pytest.param(name, story, drill, State[expected], id=f"{name}-{expected}-{number}")
        for expected, of_state in stories.items()
        for number, story in enumerate(of_state, 1)
    ]


def with_fault(clients: int, fault: Any, **expect: Any) -> Drill:
    """The storm drill with another fault."""
    return replace(storm_drill(clients, **expect), faults=(fault,))


def many(count: int, kind: Kind, story: Story | None = None, **fields: object) -> Story:
    story = story or Story(1)
    for number in range(count):
        story.tell(1.0 + number * 0.01, kind, **{"client": 0, **fields})  # type: ignore[arg-type]
    return story


def back_after(seconds: float) -> Story:
    story = Story(1).tell(1.0, Kind.FAULT_INJECTED).tell(1.5, Kind.DISCONNECTED, 0).tell(2.0, Kind.FAULT_REVERTED)
    return story.tell(2.0 + seconds, Kind.SUBSCRIBED, 0) if seconds < INF else story


QUICK = tuple(name for name in GATED if name != "reconnect.backoff_never_resets")


def judged(story: Story, drill: Drill | None = None) -> DrillVerdict:
    return gates.judge(drill or storm_drill(story.clients, QUICK), story.history(), THRESHOLDS, "observations.parquet")


def names(verdict: DrillVerdict) -> dict[str, State]:
    return {check.name: check.state for check in verdict.checks}
