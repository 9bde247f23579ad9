"""The result of a comparison: what `stormgate compare --json` prints. No number is NaN or infinite: such a value is null."""

from typing import Literal

import msgspec

Finding = Literal["worse", "better", "same", "changed", "unclear"]
Answer = Literal["worse", "not_worse", "unclear"]
Result = Literal["worse", "not_worse", "unclear", "compared"]


class Difference(msgspec.Struct, frozen=True):
    """A condition in which two sides differ, or runs of one side."""

    name: str  # of the condition, or of a key of the drill after `drill.`
    baseline: str  # its value there; of a hash the first digits
    other: str  # its value there
    blocks: bool  # whether it makes the comparison meaningless


class ComparedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric on both sides."""

    name: str  # as in `summary.json`
    unit: str  # of its values
    baseline: float | None  # with several runs their median
    other: float | None  # the same on the other side
    n_baseline: int  # runs; within one run a side, the independent samples that its samples are worth
    n_other: int  # the same on the other side
    difference: float | None  # other minus baseline
    interval: tuple[float | None, float | None]  # of the difference, two-sided 95 %; null: too few runs or samples
    finding: Finding  # by more than the minimum effect, for certain; `changed`: neither direction is better
    reason: str  # why it is unclear; else empty
    method: str  # of the interval


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What `--fail-if-worse` asked of one metric, and the answer."""

    asked: str  # as it was given
    drill: str  # its name
    metric: str  # its full name
    allowed: str  # in words
    answer: Answer  # `unclear` never counts as not worse
    reason: str  # why it is unclear; else empty


class ChangedCheck(msgspec.Struct, frozen=True):
    """A check or a requirement of a stage whose state differs."""

    name: str  # of the check or requirement
    baseline: str  # its state; empty: the stage does not have it
    other: str  # its state on the other side


class ComparedDrill(msgspec.Struct, frozen=True, kw_only=True):
    """One drill on both sides."""

    name: str  # of the drill, with its variant; `canary:` or `control:` before that of a stage's canary checks
    runs_baseline: int  # number of runs
    runs_other: int  # number of runs
    verdict_baseline: str  # the worst state of its runs
    verdict_other: str  # the worst state of its runs
    is_comparable: bool  # false: every metric is `unclear`
    reason: str  # why it is not comparable; else empty
    notes: tuple[str, ...]  # for the reader
    conditions: tuple[Difference, ...]  # that differ
    metrics: tuple[ComparedMetric, ...]  # all that either side has


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """One other side against the baseline."""

    path: str  # folder
    decision: str  # go or no_go; of several runs the first no_go
    decision_reason: str  # of a no_go
    drills: tuple[ComparedDrill, ...]  # that both sides have
    missing: tuple[str, ...]  # drills of the baseline that this side does not have
    extra: tuple[str, ...]  # drills that only this side has
    checks: tuple[ChangedCheck, ...]  # of stages: those whose states differ
    limits: tuple[Limit, ...]  # one for each drill to which it applies


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result."""

    schema: int = 1  # version of this form
    baseline: str  # folder
    baseline_decision: str  # go or no_go
    baseline_decision_reason: str  # of a no_go
    minimum_effect: float  # share of the baseline's value; smaller differences are `same`
    result: Result  # over all limits; without limits `compared`, or `unclear` if nothing is comparable
    tool_version: str  # of stormgate, when it compared
    others: tuple[Versus, ...]  # in the order in which they were given
