"""Prepare the steps of a rollback rehearsal on a target, and check that the target allows them. Changes nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from drills.rollout.rollback import bursts, recovery
from drills.rollout.rollback.changes import Change, Cohort, Guard, HookLever, Lever, MockLever, Throttle, Traffic
from drills.rollout.rollback.recovery import CanaryCheck
from drills.rollout.servers import revisions
from drills.rollout.setup import records
from drills.rollout.setup.records import Revisions
from drills.rollout.verdict import armed
from drills.runs.targets import Target
from sim.base.clocks import Clock
from sim.base.errors import IllegalMoveError, TargetError, UsageError
from sim.drill.target_rules import RollbackHook, RollbackRules, TargetKind, ThrottleRollback
from sim.engines.shared import permission, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.http import ServiceHttp
from sim.server.deployment import Deployment
from sim.server.deployment import Traffic as MockTraffic

FOLDER = "rollback"  # in the run's folder: all files of a rehearsal except its record
LIMIT_S = 300.0  # time limit to recover, from the operators' preflight
STABLE_S = 900.0  # time that recovery is monitored, from the operators' rollback procedure
MOCK_STABLE_S = 10.0  # [ours] the same on a mock, where the record says so
# [ours] On a mock, the throttle is above the publishes of a canary check and far below a burst.
_MOCK_PUBLISHES_PER_S = 60.0
_MOCK_BURST = 300
_MOCK_PERCENT = 0
_BURSTS = {  # what a throttle refuses -> its burst and its step
    "publishes": (bursts.publishes, Throttle),
    "connects": (bursts.connects, Throttle),
    "writes": (bursts.writes, Guard),
}


@dataclass(frozen=True)
class Steps:
    """The inputs of a rehearsal. `check` runs a canary check of the usual length, or of the given seconds."""

    target: str
    target_kind: TargetKind
    changes: tuple[Change, Change, Change]  # in the order of the rollback
    check: Callable[[float | None], CanaryCheck]
    stable_s: float
    limit_s: float
    observed_within_s: float
    hooks_sha256: str = ""  # of the current commands


def make(endpoints: Endpoints, entry: Target | None, folder: Path, clock: Clock, limit_s: float = LIMIT_S) -> Steps:
    """Make the steps for a target. Raises `UsageError` if it does not allow them, `TargetError` if a mock does not answer."""
    rules = entry.rollback if entry else RollbackRules()
    _require_allowed(endpoints, rules)
    for length_s in (None, STABLE_S):
        permission.require_allowed(recovery.drill_for(endpoints, rules.recovery_check, length_s), endpoints)
    own, thresholds = folder / FOLDER, folder / records.THRESHOLDS  # the stage's own thresholds, if it has any

    def check(length_s: float | None) -> CanaryCheck:
        drill, surely = recovery.drill_for(endpoints, rules.recovery_check, length_s), length_s is not None  # the long check
        return recovery.check(endpoints, drill, own / "canary-checks", thresholds if thresholds.exists() else None, surely)

    makers = _Changes(endpoints, entry, rules, own, clock)
    return Steps(
        target=endpoints.name,
        target_kind=endpoints.kind,
        changes=(makers.traffic(), makers.throttle(), makers.cohort()),
        check=check,
        stable_s=MOCK_STABLE_S if endpoints.is_mock else STABLE_S,
        limit_s=limit_s,
        observed_within_s=rules.observed_within_s,
        hooks_sha256=armed.digest(rules),
    )


def _require_allowed(endpoints: Endpoints, rules: RollbackRules) -> None:
    if endpoints.kind == "production" and not rules.allow_on_production:
        raise UsageError(
            f"target '{endpoints.name}' is of kind production, and a rehearsal moves everybody's traffic: rehearse on staging, "
            f"or put allow_on_production = true into [targets.{endpoints.name}.rollback]."
        )
    missing = [name for name in ("traffic", "throttle", "cohort") if getattr(rules, name) is None]
    if missing and not endpoints.is_mock:
        raise UsageError(
            f"target '{endpoints.name}' has no commands to roll back its {missing[0]}; add "
            f"[targets.{endpoints.name}.rollback.{missing[0]}] with 'apply' and 'restore' to the targets file."
        )


class _Changes:
    """Makes the changes: by the operators' commands if the target has them, else by the routes of a mock."""

    def __init__(self, endpoints: Endpoints, entry: Target | None, rules: RollbackRules, folder: Path, clock: Clock) -> None:
        self._endpoints, self._entry, self._rules, self._folder, self._clock = endpoints, entry, rules, folder, clock
        self._mock = _mock(endpoints) if endpoints.is_mock else None

    def traffic(self) -> Traffic:
        def find() -> Revisions:
            return revisions.find(self._endpoints, self._entry)

        if rule := self._rules.traffic:
            good = Revisions(control=rule.control_revision, runtime=rule.runtime_revision)
            lever = self._hook("traffic", rule, CONTROL_REVISION=good.control, RUNTIME_REVISION=good.runtime)
            return Traffic(lever, good, find)
        deployment, traffic = self._of_mock
        old = deployment.previous_revision
        if not old:
            raise UsageError(
                f"the mock at {self._endpoints.runtime_url} has one revision only, so there is nothing to roll back to; "
                "start it with --set previous_revision=NAME."
            )
        return Traffic(
            MockLever(self._endpoints, "traffic", {"revision": old}, {"revision": traffic.serving}),
            Revisions(control=old, runtime=old),
            find,
        )

    def throttle(self) -> Throttle:
        rule = self._rules.throttle
        what, n = rule.refuses if rule else "publishes", self._burst(rule)
        if what == "connects" and not self._endpoints.has_socket:
            raise UsageError(
                f"target '{self._endpoints.name}' has no socket, so no burst of connects shows a throttle: set "
                '[targets.NAME.rollback.throttle] refuses = "publishes".'
            )
        send, kind = _BURSTS[what]
        if rule is not None:
            lever: Lever = self._hook("throttle", rule, BURST=str(n))
        else:
            before = msgspec.to_builtins(self._of_mock[1].throttle)
            lever = MockLever(self._endpoints, "throttle", {"publishes_per_s": _MOCK_PUBLISHES_PER_S}, before)
        return kind(lever, lambda: send(self._endpoints, n), f"{n} {what}", self._clock)

    def _burst(self, rule: ThrottleRollback | None) -> int:
        """Size of a burst, within the target's caps."""
        if rule is None:
            return _MOCK_BURST
        caps = self._endpoints.rules.caps
        if caps is None:
            return rule.burst
        limit = caps.events_per_s if rule.refuses != "connects" else min(caps.connects_per_s, caps.clients)
        if limit < 2:
            raise UsageError(
                f"the caps of target '{self._endpoints.name}' allow no burst of {rule.refuses} ({limit:g} per second), and "
                "only a burst shows a throttle; raise them."
            )
        return min(rule.burst, int(limit))

    def cohort(self) -> Cohort:
        rule = self._rules.cohort
        if rule is not None:
            lever: Lever = self._hook("cohort", rule, PERCENT=f"{rule.percent:g}")
        else:
            before = {"percent": self._of_mock[1].cohort_percent}
            lever = MockLever(self._endpoints, "cohort", {"percent": _MOCK_PERCENT}, before)
        return Cohort(lever, rule.percent if rule else _MOCK_PERCENT, self._endpoints, self._folder, self._clock)

    def _hook(self, name: str, rule: RollbackHook, **about: str) -> HookLever:
        return HookLever(name, rule, self._endpoints, self._folder, {"RUN_ID": self._folder.parent.name, **about})

    @property
    def _of_mock(self) -> tuple[Deployment, MockTraffic]:
        if self._mock is None:
            raise IllegalMoveError("a target that is no mock was accepted without its commands")
        return self._mock


def _mock(endpoints: Endpoints) -> tuple[Deployment, MockTraffic]:
    """The deployment and traffic state of our own mock. Raises `TargetError`."""

    async def ask() -> dict[str, Any]:
        async with ServiceHttp(endpoints) as http:
            return await http.ask(service_api.mock_state)

    state = asyncio.run(ask())
    try:
        return msgspec.convert(state["deployment"], Deployment), msgspec.convert(state["traffic"], MockTraffic)
    except (KeyError, msgspec.ValidationError):
        raise TargetError(f"{endpoints.runtime_url} is a mock of another version of stormgate; start this one's.") from None
