"""The lifecycle of each fault of a run: inject, observe the effect, revert.

Each engine supplies the actions. Their outcome is known at once or later. All moments are seconds on the run's clock.
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
    """Adds observations with their time since `began`. `attempt` is the index of a fault, `at` an earlier moment."""

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
    """The outcome of an action that may still be running."""

    @property
    def is_done(self) -> bool:
        """Whether the action has ended, with success or failure."""

    def result(self) -> float:
        """Return how often the fault took effect through this action; raise the error of a failed action."""

    def cancel(self) -> None:
        """End the action early."""


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of an action that ends at once."""

    value: float = 0.0
    is_done: bool = True

    def result(self) -> float:
        """See `Completion`."""
        return self.value

    def cancel(self) -> None:
        """See `Completion`."""


class FaultActions(Protocol):
    """How an engine injects and reverts faults of its clients, their links and the service. No method blocks."""

    def timing(self, planned: PlannedFault) -> Timing:
        """Return how long the fault lasts on this engine."""

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        """Prepare faults that start together, before any of them takes effect. Return the moment when they start."""

    def inject(self, planned: PlannedFault) -> Completion:
        """Inject a fault, for the first time or again."""

    def revert(self, planned: PlannedFault) -> Completion:
        """Revert a fault that has a duration."""

    def end_early(self) -> None:
        """Prepare the early end of all faults, which an operator asked for."""

    def revert_all(self) -> Completion:
        """Revert every fault that is still active."""


@dataclass
class _Fault:
    """One fault of the run. `due` is the moment of its next action."""

    planned: PlannedFault
    timing: Timing
    due: float
    announced: float | None = None
    injections: int = 0
    observed: float = 0.0
    action: Completion | None = None  # the running action
    is_reverting: bool = False


class FaultLifecycle:
    """All faults of one run. Call `start`, then `advance` at each due moment and after each action that has ended."""

    def __init__(self, faults: Sequence[PlannedFault], actions: FaultActions, record: Record) -> None:
        self._actions = actions
        self._record = record
        self._waiting = [_Fault(planned, actions.timing(planned), math.inf) for planned in faults]
        self._acting: list[_Fault] = []
        self.brought_forward: set[int] = set()  # indices of faults
        self.is_ended_by_hand = False

    @property
    def waiting(self) -> list[PlannedFault]:
        """The faults that have not started and were not brought forward."""
        return [
            each.planned for each in self._waiting if each.planned.index not in self.brought_forward and each.announced is None
        ]

    @property
    def is_over(self) -> bool:
        """Whether every fault has started and ended."""
        return not self._waiting and not self._acting

    def start(self, now: float) -> None:
        """Start the fault phase: set the moment at which each fault starts."""
        for each in self._waiting:
            each.due = now if each.planned.index in self.brought_forward else now + each.planned.begins_s

    def bring_forward(self, planned: PlannedFault, now: float) -> None:
        """Start a fault now, or as soon as the fault phase starts."""
        self.brought_forward.add(planned.index)
        for each in self._waiting:
            if each.planned is planned:
                each.due = min(each.due, now)

    def end_by_hand(self, now: float) -> None:
        """End the active faults now, in the usual order. Faults that have not started are dropped."""
        self.is_ended_by_hand = True
        self._waiting.clear()
        self._actions.end_early()
        for each in self._acting:
            each.due = min(each.due, now)

    def moments(self) -> tuple[float, ...]:
        """Return the moments at which the next actions are due, as far as they are known."""
        return tuple(each.due for each in (*self._waiting, *self._acting) if each.action is None)

    def has_news(self) -> bool:
        """Return whether a running action has ended."""
        return any(each.action is not None and each.action.is_done for each in self._acting)

    def advance(self, now: float) -> None:
        """Start the faults that are due, then continue the active ones. Raise the error of any failed action."""
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
        """Inject a fault, repeatedly if it has several injections, or revert it."""
        if each.injections < each.timing.times:
            each.injections += 1
            each.action = self._actions.inject(each.planned)
            each.due += each.timing.every_s if each.injections < each.timing.times else each.timing.lasts_s or 0.0
        else:
            each.is_reverting = True
            each.action = self._actions.revert(each.planned)

    def _collect(self, each: _Fault) -> None:
        """Record the outcome of an action that has ended."""
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
        """Revert every active fault. First cancel the running actions, so that none of them takes effect later."""
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
    """Wait until the condition is true, even if the run is stopped."""
    while not condition():
        yield Wait((), condition, heeds_stop=False)
