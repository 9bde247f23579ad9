"""What may be done to a live target and how: caps, stop conditions, hooks. Operators write it; nothing here acts."""

from typing import Annotated, Literal

import msgspec

from sim.server.settings import Count, Positive, Share

TargetKind = Literal["mock", "staging", "production"]
MetricsProfile = Literal["full", "pinned", "none"]  # none: the endpoint is not asked
Command = Annotated[list[str], msgspec.Meta(min_length=1)]  # a program and its arguments; no shell reads it
Word = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}$")]  # printable, without blanks


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that a drill may do to a target, checked before it starts and kept while it runs."""

    clients: Count  # connections open at once, probes and the auditor included
    connects_per_s: Positive  # in any one second, storms included
    events_per_s: Positive  # publishes in any one second, retries included


class Stop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a drill is to be aborted and healed; a condition that is left out is never met. All defaults are [ours]."""

    error_ratio: Share | None = None  # of mints, connects and publishes that fail, within `error_window_s`: stops above it
    error_window_s: Positive = 10.0
    error_minimum_n: Count = 20  # of fewer, nothing is concluded
    live_share: Share | None = None  # of the fleet that is live: stops when it was under it for `live_share_for_s`
    live_share_for_s: Positive = 30.0
    metrics_unreachable_polls: Count | None = None  # polls of the metrics endpoint in a row that failed
    # Figures of the endpoint, such as `delivery.max_replay_lag`, and the value that each may reach; of counters (names in
    # `_total` and the like) it is the increase since the run began.
    metrics_above: dict[str, float] = {}

    @property
    def needs_metrics(self) -> bool:
        """Whether it cannot be kept without the metrics endpoint."""
        return self.metrics_unreachable_polls is not None or bool(self.metrics_above)


class Hook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How operators carry out one kind of fault on their target, and how they take it back."""

    inject: Command
    revert: list[str] = []  # empty: it heals by itself
    timeout_s: Positive = 60.0  # [ours] of either command


class RevisionCommands(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to find out what is deployed: the first line that each prints is the revision. One left out: the service is asked."""

    control: list[str] = []
    runtime: list[str] = []
    timeout_s: Positive = 10.0  # [ours] of either command


class RollbackHook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How operators change one thing in a rollback, and how they put it back after a rehearsal."""

    apply: Command
    restore: Command
    timeout_s: Positive = 60.0  # [ours] of either command


class TrafficRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traffic to the last known good revisions, and which these are."""

    control_revision: Word
    runtime_revision: Word


class ThrottleRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tighter throttle or guard, and how its effect is seen."""

    refuses: Literal["publishes", "connects"] = "publishes"
    burst: Annotated[int, msgspec.Meta(ge=2, le=1000)] = (
        40  # [ours] at once: taken without the throttle, refused in part with it
    )


class CohortRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The client cohort alone, and how large it is then."""

    percent: Annotated[float, msgspec.Meta(ge=0, lt=100)] = 0.0


class RollbackRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a rollback is rehearsed on a target. Only a mock of ours needs no hooks."""

    traffic: TrafficRollback | None = None
    throttle: ThrottleRollback | None = None
    cohort: CohortRollback | None = None
    observed_within_s: Positive = 60.0  # [ours] from a command's end to its effect
    check: list[str] = []  # ends with 0 where the last good revisions are still there; changes nothing
    watch: tuple[str, ...] = ()  # overrides of the drill that watches, as with --set
    allow_on_production: bool = False  # a rehearsal moves everybody's traffic


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. The defaults are those of a mock of ours: nothing is capped, nothing stops a drill."""

    caps: Caps | None = None
    stop: Stop = Stop()
    hooks: dict[str, Hook] = {}  # by kind of fault
    metrics_profile: MetricsProfile = "full"
    metrics_every_s: Positive = 2.0  # [ours]
