"""What a check is: its declaration, and what it needs of a drill and of a protocol. `registry` declares them all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sim.drill.model import Drill
from sim.protocols.adapter import Capabilities

Comparator = Literal["<=", "=="]
Origin = Literal["server", "client", "synthetic"]
Needs = Literal["run", "window", "control"]
"""The evidence that a check reads: one run, a stage's window, or the windows of a stage and of its control."""
Across = Literal["worst", "mean", "ratio"]
"""How replications of a drill combine: the worst one counts, or their mean is judged, or their pooled ratio."""

RATIO = "one-sided 95 % Wilson bound"
P95 = "p95, distribution-free one-sided 95 % bound by order statistic"
COUNT = "count"
NONE_ALLOWED = "count, 0 allowed"
FIXED_RULE = "fixed rule, no threshold"


class Ability(NamedTuple):
    """What a check needs of the protocol: what is missing without it, in words, and a predicate."""

    without: str
    holds: Callable[[Capabilities], bool]


class When(NamedTuple):
    """The drills that a check of the gate `drill` applies to: in words, and as a predicate."""

    says: str
    holds: Callable[[Drill], bool]


EVERY_DRILL = When("every drill", lambda drill: True)


@dataclass(frozen=True)
class CheckSpec:
    """The declaration of one check."""

    name: str  # gate.check
    unit: str
    measures: str  # in words
    method: str  # in words: how it decides
    needs: Needs = "run"
    window: str = "whole run"  # the part of the evidence that it reads
    origin: Origin = "client"  # for run checks; a window check has one per source
    takes_threshold: bool = True
    keys: tuple[str, ...] = ()  # required keys of its threshold, in addition to the common ones
    optional_keys: tuple[str, ...] = ()
    comparator: Comparator = "<="
    is_timed: bool = False  # a late load generator or connects paced by a cap distort it
    across: Across = "worst"
    when: When = EVERY_DRILL
    is_derived: bool = False  # decided from several runs or from whole files
    no_data: str = "no_data"  # in words: the result if no source has data
    ability: Ability | None = None  # without it the result is no_data, and a drill's decision does not require the check
    or_read_back: bool = False  # the streams that were read back over HTTP stand in for that ability

    @property
    def gate(self) -> str:
        """The first half of its name."""
        return self.name.partition(".")[0]

    @property
    def check(self) -> str:
        """The second half of its name."""
        return self.name.partition(".")[2]


class Expected(NamedTuple):
    """The entry of a check that a thresholds file must have."""

    unit: str
    comparator: str
    keys: tuple[str, ...]  # required keys, in addition to the common ones
    optional_keys: tuple[str, ...]


def has_fault(*kinds: str) -> When:
    return When(f"drills with a fault {' or '.join(kinds)}", lambda drill: any(fault.kind in kinds for fault in drill.faults))


def trims_nothing(drill: Drill) -> bool:
    """Return whether no fault of a drill deletes events, so that the service retains its usual window."""
    return all(fault.kind not in ("shrink_window", "recreate_log") for fault in drill.faults)


def has_negative_client(*kinds: str) -> When:
    says = f"drills with a negative client {' or '.join(kinds)}"
    return When(says, lambda drill: not set(kinds).isdisjoint(drill.expect.negative_clients))


def rule(name: str, unit: str, measures: str, method: str = NONE_ALLOWED, **more: Any) -> CheckSpec:
    """Declare a check without a threshold."""
    return CheckSpec(name, unit, measures, method, takes_threshold=False, **more)


def of_window(name: str, unit: str, measures: str, method: str, window: str = "stage", **more: Any) -> CheckSpec:
    return CheckSpec(name, unit, measures, method, "window", window, **more)
