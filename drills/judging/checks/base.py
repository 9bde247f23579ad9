"""The input and the result of a check, and the three ways to decide: by a ratio, by a percentile, by a count."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from drills.judging.checks.registry import MISUSES
from drills.judging.checks.specs import FIXED_RULE, CheckSpec, Origin
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import CheckResult, State
from sim.analysis import machine, statistics
from sim.analysis.disconnects import Disconnects
from sim.analysis.machine import BusyTime, Spans
from sim.analysis.samples import Share
from sim.analysis.statistics import Bounds
from sim.base.errors import IllegalMoveError
from sim.drill import fault_schedule
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill
from sim.protocols.adapter import Capabilities, Refusals, StaleSign
from sim.record.history import Floats, History, Mask
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.server.settings import RuntimeSettings

NAN = float("nan")
# The checks that read the answers to negative clients, each with their names; empty: all.
_OF_NEGATIVE_CLIENTS: Mapping[str, tuple[str, ...]] = {
    "drill.negative_clients": (),
    "drill.misusers_served": MISUSES,
    "drill.malformed_frames": ("malformed_frames",),
}
_EARLY_SHARE = 0.5  # [ours] share of the normal time until a renewal; sooner is early


@dataclass
class Case:
    """One drill's evidence. Values that several checks use are computed once."""

    drill: Drill
    history: History
    is_excused: bool = False  # whether what our own machine may have delayed is taken out

    @cached_property
    def busy_times(self) -> list[BusyTime]:
        """The times in which our own machine was too busy."""
        return machine.busy_times(self.history)

    @property
    def busy(self) -> Spans:
        """The times that are taken out of what is measured."""
        return machine.busy_spans(self.busy_times) if self.is_excused else machine.NO_SPANS

    def busy_s(self, since: str, until: str) -> float:
        """For how long our own machine was too busy between the beginnings of two phases."""
        phases, end_t = self.history.phases, self.history.duration_s
        times = (np.array([phases.get(phase, end_t)]) for phase in (since, until))
        return float(machine.busy_spans(self.busy_times).within_s(*times)[0])

    def had_no_time(self, since: str, until: str) -> bool:
        """Whether a busy machine of ours, if it is taken out, took too much of the time between two phases to do something."""
        return machine.had_no_time(self.history, self.busy, since, until)

    @cached_property
    def excused(self) -> "Case":
        """The same evidence without what our own machine may have delayed. It can only show that a failure is not ours."""
        return Case(self.drill, self.history, is_excused=True)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger: for every acknowledged event, the clients that should have it and those that have it."""
        return Ledger(self.history)

    @property
    def window_events(self) -> int:
        """How many events of a stream the service retains: on the mock by the drill, elsewhere by the target file."""
        header = self.history.header
        return self.drill.runtime.window_events if header.target_kind == "mock" else header.window_events

    @cached_property
    def planned(self) -> Mapping[int, PlannedFault]:
        """The fault schedule with the clients that each fault concerns, by the index of the fault."""
        return {fault.index: fault for fault in fault_schedule.plan(self.drill, self.history.header.seed)}

    @cached_property
    def disconnects(self) -> Disconnects:
        """The fleet's disconnects, and whose each one was."""
        return Disconnects(self.history, self.planned)

    @cached_property
    def dropped_while_busy(self) -> Mask:
        """Per disconnect, whether a busy machine of ours may have caused it: by silence, or a token renewed too late."""
        ends = self.disconnects
        unrenewed = ends.is_of_token & (ends.token_age_s >= soonest_renewal_s(self))
        return self.busy.may_drop(ends.rows.t) & (ends.may_come_of_silence | unrenewed)

    def lacks(self, spec: CheckSpec) -> str:
        """Return what the run's protocol lacks for a check, in words; empty: nothing, or the run does not state it."""
        stated = self.history.header.capabilities
        if why := self._unasked(spec):
            return why
        if spec.ability is None or not stated or spec.ability.holds(self._capabilities):
            return ""
        if spec.or_read_back and len(self.history.of(Kind.READ_BACK_COMPLETED)):
            return ""
        return f"protocol '{self.history.header.protocol}' cannot tell: {spec.ability.without}"

    def _unasked(self, spec: CheckSpec) -> str:
        """Why no negative client of a check could ask its question; empty: one could, or the check reads none."""
        if spec.name not in _OF_NEGATIVE_CLIENTS:
            return ""
        kinds, unasked = _OF_NEGATIVE_CLIENTS[spec.name], self.history.header.unasked
        names = [name for name in self.drill.expect.negative_clients if not kinds or name in kinds]
        if not names or not unasked.keys() >= set(names):
            return ""
        return f"no negative client could ask: {', '.join(f'{name} ({unasked[name]})' for name in dict.fromkeys(names))}"

    @property
    def states_codes(self) -> bool:
        """Whether every refused connect has the server's code."""
        return not self.history.header.capabilities or self._capabilities.refusals is not Refusals.BARE_STATUS

    @property
    def has_own_codes(self) -> bool:
        """Whether refusals have codes of the protocol's own, and not those of the contract."""
        return bool(self.history.header.capabilities) and self._capabilities.refusals is Refusals.CODES

    @property
    def states_stale_reasons(self) -> bool:
        """Whether the server says why a position cannot be resumed."""
        return not self.history.header.capabilities or self._capabilities.stale is StaleSign.EXPLICIT

    @cached_property
    def _capabilities(self) -> Capabilities:
        return msgspec.convert(self.history.header.capabilities, Capabilities)


@dataclass(frozen=True)
class Answer:
    """The state that a check decided, with its value, sample size and reason."""

    state: State
    value: float
    n: int
    reason: str
    interval: tuple[float, float] | None = None


Decide = Callable[[Case, Threshold | None], Answer]
"""A function that decides a check for one run. Its second argument is the threshold, or None for a check without one."""


def result(
    spec: CheckSpec, found: Answer, evidence: str, threshold: Threshold | None = None, origin: Origin | None = None
) -> CheckResult:
    """Build a check's result, with everything a reader needs to verify it. `evidence` is the file that was judged."""
    return CheckResult(
        gate=spec.gate,
        check=spec.check,
        state=found.state,
        value=float(found.value),
        unit=spec.unit,
        n=found.n,
        interval=found.interval,
        comparator=spec.comparator if threshold else "",
        threshold=threshold.threshold if threshold else None,
        source=threshold.source if threshold else FIXED_RULE,
        window=spec.window,
        method=spec.method,
        origin=origin or spec.origin,
        reason=found.reason,
        evidence=evidence,
    ).sound()


def soonest_renewal_s(case: Case) -> float:
    """Seconds after which a token may be renewed. Targets other than the mock grant tokens for the service's minimum time."""
    fleet, endpoints = case.drill.fleet, RuntimeSettings()
    mock = case.history.header.target_kind == "mock"
    runtime = case.drill.runtime if mock else endpoints
    ttl_s = fleet.token_ttl_s or (runtime.token_ttl_s if mock else endpoints.token_ttl_min_s)
    return _EARLY_SHARE * max(ttl_s - runtime.token_refresh_margin_s, 1)


def needed(threshold: Threshold | None) -> Threshold:
    """Return the threshold of a check that requires one."""
    if threshold is None:
        raise IllegalMoveError("a check that takes a threshold was asked without one")
    return threshold


def by_ratio(share: Share, threshold: Threshold, what: str) -> Answer:
    """Decide by one-sided 95 % Wilson bounds: pass if the upper is at most the threshold, fail if the lower is over it."""
    bounds = statistics.ratio(share.hits, share.n)
    said = f"{share.hits} of {share.n} {what}"
    if share.n == 0:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {what}")
    return _by_bounds(bounds, threshold, said)


def by_percentile(samples: Floats, share: float, threshold: Threshold, what: str) -> Answer:
    """Decide by distribution-free 95 % bounds of a percentile, like `by_ratio`. Fewer than `minimum_n` samples cannot pass."""
    bounds = statistics.percentile(samples, share)
    if bounds.n == 0:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {what}")
    answer = _by_bounds(bounds, threshold, f"p{share * 100:g} of {bounds.n} {what}")
    if answer.state is not State.FAIL and bounds.n < (threshold.minimum_n or 0):
        reason = f"{bounds.n} {what} are too few; {threshold.minimum_n} are needed"
        return Answer(State.INCONCLUSIVE, bounds.value, bounds.n, reason, answer.interval)
    return answer


def _by_bounds(bounds: Bounds, threshold: Threshold, said: str) -> Answer:
    limit = threshold.threshold
    if bounds.upper <= limit:
        state, reason = State.PASS, f"{said}: at most {bounds.upper:.4g} with 95 % confidence"
    elif bounds.lower > limit:
        state, reason = State.FAIL, f"{said}: at least {bounds.lower:.4g} with 95 % confidence"
    else:
        state, reason = (
            State.INCONCLUSIVE,
            f"{said}: bounds {_bound(bounds.lower)}..{_bound(bounds.upper)} include {limit:g}",
        )
    return Answer(state, bounds.value, bounds.n, reason, (bounds.lower, bounds.upper))


def _bound(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.4g}"


def by_count(hits: float, n: int, threshold: Threshold, what: str, among: str) -> Answer:
    """Fail if the count is over the threshold, even with a small sample. Pass only if the sample is not empty."""
    if hits > threshold.threshold:
        return Answer(State.FAIL, hits, n, f"{hits:g} {what} among {n} {among}")
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, f"there were no {among}")
    return Answer(State.PASS, hits, n, f"{hits:g} {what} among {n} {among}")
