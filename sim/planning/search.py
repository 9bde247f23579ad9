"""Searches in simulation: the largest or smallest number at which the gates stay green, and the best of some values.

A number is looked for by halving the span between one that is green and one that is not, which takes for granted that nothing
turns green again beyond: more clients are never easier, more workers never harder. A value is green only when it was shown to
be; one that too few or too different runs cannot tell is neither, and the answer never lies there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sim.analysis.statistics import CONFIDENCE, Mean
from sim.base.errors import UsageError
from sim.planning.sweeps import Find, Value

MAX_TRIALS = 64


class Word(StrEnum):
    """What is known of one value."""

    GREEN = "green"  # every check that is to be kept was shown to pass
    RED = "red"  # one was shown to fail
    UNSURE = "unsure"  # neither
    ERROR = "error"  # the drill did not work there, as when a lane is never well before anything is broken


@dataclass(frozen=True)
class Trial:
    """One value, by how many replications it was judged, and why it is not green."""

    value: Value
    word: Word
    replications: int
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """What a search came to. `answer` was shown to be green; without one, `why` says what is in the way.

    `beyond` is the nearest value shown not to do; of a best one, `ties` are the green ones that cannot be told from it.
    """

    trials: tuple[Trial, ...]
    answer: Value | None
    why: str = ""
    beyond: Value | None = None
    at_bound: bool = False
    ties: tuple[Value, ...] = ()

    @property
    def word(self) -> Word:
        """Green with an answer, red where all that was asked was shown not to do, else unsure."""
        if self.answer is not None:
            return Word.UNSURE if self.ties else Word.GREEN
        return Word.RED if all(trial.word is Word.RED for trial in self.trials) else Word.UNSURE


Ask = Callable[[Value, int], Trial]
"""Judge a value by so many replications."""
Compare = Callable[[Value, Value, int, float], Mean]
"""By how much a measure is larger at one value than at another, over so many common seeds, with a confidence."""


def number(find: Find, replications: int, ask: Ask) -> Found:
    """The largest or smallest number that is green, to within the tolerance."""
    assert find.low is not None
    assert find.high is not None
    easy, hard = (find.low, find.high) if find.want == "largest" else (find.high, find.low)
    trials: list[Trial] = []

    def word_at(value: int | float) -> Word:
        trials.append(surely(ask, value, replications, find.max_replications))
        return trials[-1].word

    if word_at(easy) is not Word.GREEN:
        return Found(tuple(trials), None, f"already at {easy:g} it is {trials[0].word}: {trials[0].reason}")
    if word_at(hard) is Word.GREEN:
        return Found(tuple(trials), hard, at_bound=True)
    green, other = easy, hard
    while not _is_near(green, other, find.tolerance) and len(trials) < MAX_TRIALS:
        middle = _middle(green, other)
        green, other = (middle, other) if word_at(middle) is Word.GREEN else (green, middle)
    red = [trial.value for trial in trials if trial.word is Word.RED]
    beyond = min(red, key=lambda value: abs(float(value) - green), default=None)
    return Found(tuple(trials), green, beyond=beyond)


def surely(ask: Ask, value: Value, replications: int, most: int) -> Trial:
    """Judge a value by more and more replications until it is told, or there are as many as may be."""
    trial = ask(value, replications)
    while trial.word is Word.UNSURE and replications < most:
        replications = min(2 * replications, most)
        trial = ask(value, replications)
    return trial


def _is_near(one: float, other: float, tolerance: float) -> bool:
    if isinstance(one, int) and isinstance(other, int) and abs(one - other) <= 1:
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other))


def _middle(one: int | float, other: int | float) -> int | float:
    """Between both, of the same ratio to each where both are above 0; whole where both are."""
    middle = math.sqrt(one * other) if one > 0 and other > 0 else (one + other) / 2
    if isinstance(one, int) and isinstance(other, int):
        low, high = min(one, other), max(one, other)
        return min(max(round(middle), low + 1), high - 1)
    return middle


def best(find: Find, replications: int, ask: Ask, compare: Compare) -> Found:
    """Of the values that are green the one at which the measure is least, if it can be told from all others."""
    trials = [surely(ask, value, replications, find.max_replications) for value in find.values]
    green = [trial.value for trial in trials if trial.word is Word.GREEN]
    if not green:
        said = "; ".join(f"{trial.value} is {trial.word}: {trial.reason}" for trial in trials)
        return Found(tuple(trials), None, f"none of the values was shown to be green: {said}")
    count = max(trial.replications for trial in trials)
    leader, ties = _leader(green, count, compare)
    while ties and count < find.max_replications:
        count = min(2 * count, find.max_replications)
        leader, ties = _leader(green, count, compare)
    trials = [replace(trial, replications=count) if trial.value in green else trial for trial in trials]
    return Found(tuple(trials), leader, ties=ties)


def _leader(green: Sequence[Value], count: int, compare: Compare) -> tuple[Value, tuple[Value, ...]]:
    """The value with the least mean, and those that it cannot be told from, all together with 95 % confidence (Bonferroni)."""
    confidence = 1 - (1 - CONFIDENCE) / max(len(green) - 1, 1)
    leader = green[0]
    for value in green[1:]:
        difference = compare(value, leader, count, confidence).value
        if math.isnan(difference):
            raise UsageError(
                f"{value} and {leader} cannot be compared: a run has no finite value of the measure; give another 'by'."
            )
        leader = value if difference < 0 else leader
    others = [value for value in green if value != leader]
    return leader, tuple(value for value in others if not compare(value, leader, count, confidence).lower > 0)
