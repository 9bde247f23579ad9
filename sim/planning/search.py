"""Searches in simulation: the largest or smallest number at which the gates stay green, and the best of several values.

A number is found by bisection between a green and a not green value. This assumes monotony: more clients are never easier, more
workers never harder. The answer is always a value that was shown to be green; an inconclusive value is never the answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sim.analysis.statistics import CONFIDENCE, Mean
from sim.base.errors import UsageError
from sim.planning.sweep_file import Find, Value

MAX_TRIALS = 64


class Outcome(StrEnum):
    """What is known about one value."""

    GREEN = "green"  # all required checks pass
    RED = "red"  # a required check fails
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"  # the drill did not work, for example because the steady state never held


@dataclass(frozen=True)
class Trial:
    """One value, the number of replications, and why it is not green."""

    value: Value
    outcome: Outcome
    replications: int
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """The result of a search: `answer` is green; without an answer, `why` gives the reason.

    `beyond` is the nearest red value. `ties` are green values that do not differ significantly from the best one.
    """

    trials: tuple[Trial, ...]
    answer: Value | None
    why: str = ""
    beyond: Value | None = None
    at_bound: bool = False
    ties: tuple[Value, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Green with an answer, red if all values are red, else inconclusive."""
        if self.answer is not None:
            return Outcome.INCONCLUSIVE if self.ties else Outcome.GREEN
        return Outcome.RED if all(trial.outcome is Outcome.RED for trial in self.trials) else Outcome.INCONCLUSIVE


Ask = Callable[[Value, int], Trial]
"""Judge a value with a number of replications."""
Compare = Callable[[Value, Value, int, float], Mean]
"""How much larger a metric is at the first value than at the second, over a number of common seeds, with a confidence."""


def number(find: Find, replications: int, ask: Ask) -> Found:
    """The largest or smallest number that is green, to within the tolerance."""
    assert find.low is not None
    assert find.high is not None
    easy, hard = (find.low, find.high) if find.want == "largest" else (find.high, find.low)
    trials: list[Trial] = []

    def outcome_at(value: int | float) -> Outcome:
        trials.append(conclude(ask, value, replications, find.max_replications))
        return trials[-1].outcome

    if outcome_at(easy) is not Outcome.GREEN:
        return Found(tuple(trials), None, f"at the easiest value, {easy:g}, it is {trials[0].outcome}: {trials[0].reason}")
    if outcome_at(hard) is Outcome.GREEN:
        return Found(tuple(trials), hard, at_bound=True)
    green, other = easy, hard
    while not _is_near(green, other, find.tolerance) and len(trials) < MAX_TRIALS:
        middle = _middle(green, other)
        green, other = (middle, other) if outcome_at(middle) is Outcome.GREEN else (green, middle)
    red = [trial.value for trial in trials if trial.outcome is Outcome.RED]
    beyond = min(red, key=lambda value: abs(float(value) - green), default=None)
    return Found(tuple(trials), green, beyond=beyond)


def conclude(ask: Ask, value: Value, replications: int, limit: int) -> Trial:
    """Judge a value with more and more replications until it is conclusive, or there are `limit` replications."""
    trial = ask(value, replications)
    while trial.outcome is Outcome.INCONCLUSIVE and replications < limit:
        replications = min(2 * replications, limit)
        trial = ask(value, replications)
    return trial


def _is_near(one: float, other: float, tolerance: float) -> bool:
    if isinstance(one, int) and isinstance(other, int) and abs(one - other) <= 1:
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other))


def _middle(one: int | float, other: int | float) -> int | float:
    """A value in between: the geometric mean if both are positive; an integer between integers."""
    middle = math.sqrt(one * other) if one > 0 and other > 0 else (one + other) / 2
    if isinstance(one, int) and isinstance(other, int):
        low, high = min(one, other), max(one, other)
        return min(max(round(middle), low + 1), high - 1)
    return middle


def best(find: Find, replications: int, ask: Ask, compare: Compare) -> Found:
    """The green value with the lowest metric, and the green values that do not differ significantly from it."""
    trials = [conclude(ask, value, replications, find.max_replications) for value in find.values]
    green = [trial.value for trial in trials if trial.outcome is Outcome.GREEN]
    if not green:
        reasons = "; ".join(f"{trial.value} is {trial.outcome}: {trial.reason}" for trial in trials)
        return Found(tuple(trials), None, f"no value was shown to be green: {reasons}")
    count = max(trial.replications for trial in trials)
    leader, ties = _leader(green, count, compare)
    while ties and count < find.max_replications:
        count = min(2 * count, find.max_replications)
        leader, ties = _leader(green, count, compare)
    trials = [replace(trial, replications=count) if trial.value in green else trial for trial in trials]
    return Found(tuple(trials), leader, ties=ties)


def _leader(green: Sequence[Value], count: int, compare: Compare) -> tuple[Value, tuple[Value, ...]]:
    """The value with the lowest mean, and its ties, with 95 % confidence for all comparisons together (Bonferroni)."""
    confidence = 1 - (1 - CONFIDENCE) / max(len(green) - 1, 1)
    leader = green[0]
    for value in green[1:]:
        difference = compare(value, leader, count, confidence).value
        if math.isnan(difference):
            raise UsageError(
                f"{value} and {leader} cannot be compared: a run has no finite value of the metric. Give another 'by'."
            )
        leader = value if difference < 0 else leader
    others = [value for value in green if value != leader]
    return leader, tuple(value for value in others if not compare(value, leader, count, confidence).lower > 0)
