"""The life of every fault of a run: inject, observe the effect, revert, observe the end.

Each engine gives the actions; what they come to may be known at once or later. All moments are of the run's clock, in seconds.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sim.drill.fault_schedule import PlannedFault, Timing
from sim.drill.waiting import Wait, Woke

NAN = math.nan
Steps = Generator[Wait, Woke, None]


@dataclass(frozen=True, slots=True)
class Record:
    """Adds observations of a run by its clock; `began` is when it did. `attempt` is a fault's index, `at` a moment before."""

    add: Callable[..., None]
    now: Callable[[], float]
    began: float

    def __call__(
        self,
        kind: str,
        client: int = -1,
        *,
        attempt: int = 0,
        value: float = NAN,
        detail: str = "",
        at: float | None = None,
    ) -> None:
        """Add one observation."""
        t = (self.now() if at is None else at) - self.began
        self.add(t, kind, client, attempt=attempt, value=value, detail=detail)


class Completion(Protocol):
    """The outcome of an action that may still be under way."""

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""

    def result(self) -> float:
        """How often the fault took effect by this action; raises what went wrong."""

    def cancel(self) -> None:
        """End it early."""


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of an action that is over at once."""

    value: float = 0.0
    is_done: bool = True

    def result(self) -> float:
        """See `Completion`."""
        return self.value

    def cancel(self) -> None:
        """See `Completion`."""


class FaultActions(Protocol):
    """What an engine does to its clients, their links and the service. Nothing here waits."""

    def timing(self, planned: PlannedFault) -> Timing:
        """How long the fault lasts on this engine."""

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        """Prepare faults that begin together, before any of them takes effect; returns the moment when they are to begin."""

    def inject(self, planned: PlannedFault) -> Completion:
        """Begin a fault, or inject it once more."""

    def revert(self, planned: PlannedFault) -> Completion:
        """End a fault that lasts."""

    def end_early(self) -> None:
        """All faults end now, by hand."""

    def revert_all(self) -> Completion:
        """Leave nothing broken, whatever still acts."""


@dataclass
class _Fault:
    """One fault of the run. `due` is the moment of its next action."""

    planned: PlannedFault
    timing: Timing
    due: float
    announced: float | None = None
    injections: int = 0
    observed: float = 0.0
    action: Completion | None = None  # under way
    is_reverting: bool = False


class FaultLifecycle:
    """All faults of one run. `start` it, then call `advance` whenever a moment has come or an action has ended."""

    def __init__(self, faults: Sequence[PlannedFault], actions: FaultActions, record: Record) -> None:
        self._actions = actions
        self._record = record
        self._waiting = [_Fault(planned, actions.timing(planned), math.inf) for planned in faults]
        self._acting: list[_Fault] = []
        self.brought_forward: set[int] = set()  # indices
        self.is_ended_by_hand = False

    @property
    def waiting(self) -> list[PlannedFault]:
        """The faults that have not begun and were not brought forward."""
        return [
            each.planned for each in self._waiting if each.planned.index not in self.brought_forward and each.announced is None
        ]

    @property
    def is_over(self) -> bool:
        """Whether every fault has begun and ended."""
        return not self._waiting and not self._acting

    def start(self, now: float) -> None:
        """The fault phase begins."""
        for each in self._waiting:
            each.due = now if each.planned.index in self.brought_forward else now + each.planned.begins_s

    def bring_forward(self, planned: PlannedFault, now: float) -> None:
        """Begin a fault now, or as soon as the fault phase begins."""
        self.brought_forward.add(planned.index)
        for each in self._waiting:
            if each.planned is planned:
                each.due = min(each.due, now)

    def end_by_hand(self, now: float) -> None:
        """End what acts now, in good order; what has not begun never will."""
        self.is_ended_by_hand = True
        self._waiting.clear()
        self._actions.end_early()
        for each in self._acting:
            each.due = min(each.due, now)

    def moments(self) -> tuple[float, ...]:
        """When something is to be done next, as far as is known."""
        return tuple(each.due for each in (*self._waiting, *self._acting) if each.action is None)

    def has_news(self) -> bool:
        """Whether an action under way has ended."""
        return any(each.action is not None and each.action.is_done for each in self._acting)

    def advance(self, now: float) -> None:
        """Do what is due: begin faults, then go on with those that act. Raises what went wrong with any of them."""
        due = [each for each in self._acting if each.action is not None or each.due <= now]
        self._begin(now)
        for each in sorted(due, key=lambda each: each.due):
            if each.action is None:
                self._act(each)
            self._collect(each)

    def _begin(self, now: float) -> None:
        unannounced = [each for each in self._waiting if each.announced is None and each.due <= now]
        if unannounced:
            begins = self._actions.announce([each.planned for each in unannounced], now)
            for each in unannounced:
                each.due = each.announced = begins
        for each in [each for each in self._waiting if each.announced is not None and each.due <= now]:
            self._waiting.remove(each)
            self._acting.append(each)
            self._record("fault_injected", attempt=each.planned.index, detail=each.planned.kind, at=each.announced)
            self._act(each)
            self._collect(each)

    def _act(self, each: _Fault) -> None:
        """Inject a fault, once more if it has several times, or revert it."""
        if each.injections < each.timing.times:
            each.injections += 1
            each.action = self._actions.inject(each.planned)
            each.due += each.timing.every_s if each.injections < each.timing.times else each.timing.lasts_s or 0.0
        else:
            each.is_reverting = True
            each.action = self._actions.revert(each.planned)

    def _collect(self, each: _Fault) -> None:
        """Take the outcome of an action that has ended."""
        if each.action is None or not each.action.is_done:
            return
        each.observed += each.action.result()
        each.action = None
        if each.is_reverting or (each.injections == each.timing.times and each.timing.lasts_s is None):
            self._acting.remove(each)
            index, kind = each.planned.index, each.planned.kind
            if each.observed:
                self._record("fault_observed", attempt=index, value=each.observed, detail=kind)
            self._record("fault_reverted", attempt=index, detail=kind)

    def revert(self) -> Steps:
        """Revert whatever still acts. A fault that was stopped half-way must not act on meanwhile."""
        self._waiting.clear()
        under_way = [each.action for each in self._acting if each.action is not None and not each.action.is_done]
        for action in under_way:
            action.cancel()
        yield from _until(lambda: all(action.is_done for action in under_way))
        reverting = self._actions.revert_all()
        yield from _until(lambda: reverting.is_done)
        reverting.result()
        for each in self._acting:
            self._record("fault_reverted", attempt=each.planned.index, detail=each.planned.kind)
        self._acting.clear()


def _until(condition: Callable[[], bool]) -> Steps:
    """Wait for it, stopped or not."""
    while not condition():
        yield Wait((), condition, heeds_stop=False)
