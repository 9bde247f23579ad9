"""What a drill may do to a live target: caps, stop conditions, hooks, rollback. Operators write these rules."""

from typing import Annotated, Literal

import msgspec

from sim.server.settings import Count, Positive, Share

TargetKind = Literal["mock", "staging", "production"]
MetricsProfile = Literal["full", "pinned", "none"]  # none: the endpoint is not asked
Command = Annotated[list[str], msgspec.Meta(min_length=1)]  # a program and its arguments; no shell reads it
Word = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}$")]  # printable, without blanks


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on what a drill may do to a target, checked before it starts and kept while it runs."""

    clients: Count  # open connections, including negative clients and the auditor
    connects_per_s: Positive  # in any second, storms included
    events_per_s: Positive  # publishes in any second, including retries


class Stop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a drill ends early and its faults are reverted. A missing condition is never met. All defaults are [ours]."""

    error_ratio: Share | None = None  # of failed mints, connects and publishes within `error_window_s`: stops above it
    error_window_s: Positive = 10.0  # over which errors are counted
    error_minimum_n: Count = 20  # requests that the window must have
    live_share: Share | None = None  # of live clients: stops when it was lower for `live_share_for_s`
    live_share_for_s: Positive = 30.0  # see `live_share`
    metrics_unreachable_polls: Count | None = None  # failed polls of the metrics endpoint in a row
    # Server metrics, such as `delivery.max_replay_lag`, and the value that each may reach. Of counters (names like `_total`)
    # it is the increase since the run started.
    metrics_above: dict[str, float] = {}

    @property
    def needs_metrics(self) -> bool:
        """Whether it cannot be kept without the metrics endpoint."""
        return self.metrics_unreachable_polls is not None or bool(self.metrics_above)


class Hook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operators' commands that inject and revert one kind of fault on their target."""

    inject: Command  # injects the fault
    revert: list[str] = []  # reverts it; empty: the fault ends by itself
    timeout_s: Positive = 60.0  # [ours] of either command


class RevisionCommands(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that print what is deployed: the first line is the revision. Without a command the service is asked."""

    control: list[str] = []  # prints the revision of the control service
    runtime: list[str] = []  # prints the revision of the runtime
    timeout_s: Positive = 10.0  # [ours] of either command


class RollbackHook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operators' commands of one rollback step, and their reversal after a rehearsal."""

    apply: Command  # changes it
    restore: Command  # restores what was before
    timeout_s: Positive = 60.0  # [ours] of either command


class TrafficRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traffic to the last known good revisions."""

    control_revision: Word  # last known good revision of the control service
    runtime_revision: Word  # last known good revision of the runtime


class ThrottleRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tighter throttle or guard, and how its effect is observed."""

    refuses: Literal["publishes", "connects"] = "publishes"  # what the throttle refuses
    burst: Annotated[int, msgspec.Meta(ge=2, le=1000)] = (
        40  # [ours] requests at once: accepted without the throttle, refused in part with it
    )


class CohortRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The client cohort alone."""

    percent: Annotated[float, msgspec.Meta(ge=0, lt=100)] = 0.0  # of all keys, after the rollback


class RollbackRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a rollback is rehearsed on a target. The embedded mock needs no commands."""

    traffic: TrafficRollback | None = None
    throttle: ThrottleRollback | None = None
    cohort: CohortRollback | None = None
    observed_within_s: Positive = 60.0  # [ours] from the end of a command to its observed effect
    check: list[str] = []  # exits with 0 if the last good revisions are still available; changes nothing
    watch: tuple[str, ...] = ()  # overrides of the canary check's drill, as with --set
    allow_on_production: bool = False  # a rehearsal moves the traffic of all users


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All rules of a target. The defaults are those of the embedded mock: no caps, no stop conditions."""

    caps: Caps | None = None
    stop: Stop = Stop()
    hooks: dict[str, Hook] = {}  # by kind of fault
    metrics_profile: MetricsProfile = "full"
    metrics_every_s: Positive = 2.0  # [ours]
