"""The rules that operators write for a live target: caps, stop conditions, hooks and rollback."""

from typing import Annotated, Literal

import msgspec

from sim.server.settings import Count, Positive, Share
from sim.service.templates import NOWHERE, Pointer

TargetKind = Literal["mock", "staging", "production"]
MetricsProfile = Literal["full", "pinned", "none"]  # none: the metrics endpoint is not polled
Command = Annotated[list[str], msgspec.Meta(min_length=1)]  # a program and its arguments; runs without a shell
ENDS_EACH = 3  # [ours] see `Hook.ends_each`
Word = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}$")]  # printable, without blanks


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on what a drill may do to a target, checked before it starts and enforced while it runs."""

    clients: Count  # maximum open connections, including negative clients and the auditor
    connects_per_s: Positive  # maximum connects in any second, including storms
    events_per_s: Positive  # maximum publishes in any second, including retries


class Stop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions that end a drill early and revert its faults. A missing condition never applies. Defaults are [ours]."""

    error_ratio: Share | None = None  # stop above this ratio of failed mints, connects and publishes in `error_window_s`
    error_window_s: Positive = 10.0  # window in which requests and errors are counted
    error_minimum_n: Count = 20  # minimum number of requests in the window
    live_share: Share | None = None  # stop when the share of live clients was lower for `live_share_for_s`
    live_share_for_s: Positive = 30.0  # see `live_share`
    metrics_unreachable_polls: Count | None = None  # stop after this number of failed metrics polls in a row
    # Server metrics, such as `delivery.max_replay_lag`, and the highest value allowed for each. For counters (names like
    # `_total`) the value is the increase since the run started.
    metrics_above: dict[str, float] = {}

    @property
    def needs_metrics(self) -> bool:
        """Whether a condition needs the metrics endpoint."""
        return self.metrics_unreachable_polls is not None or bool(self.metrics_above)


class HookReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the JSON that `inject` prints as its last line says what it did. Without any key, nothing is read.

    `target` hooks need not be believed: what clients observe is judged besides.
    """

    count: Pointer = NOWHERE  # how often the fault took effect: a number, or a list such as that of the restarted nodes
    devices: Pointer = NOWHERE  # list of the devices whose clients it affected
    sessions: Pointer = NOWHERE  # list of the ids of the sessions that it affected
    key_id: Pointer = NOWHERE  # id of the key that signs tokens from now on, of `rotate_keys`

    @property
    def is_read(self) -> bool:
        """Whether a report is expected."""
        return self != HookReport()


class Hook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operators' commands that inject and revert one kind of fault on their target."""

    inject: Command  # injects the fault
    revert: list[str] = []  # reverts the fault; empty: the fault ends by itself
    timeout_s: Positive = 60.0  # [ours] timeout of each command
    ends_each: Count = ENDS_EACH  # [ours] how often it ends one client's connection at most, such as the nodes that it restarts
    reports: HookReport = HookReport()


class RevisionCommands(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that print the deployed revision in the first line. Without a command the service is queried."""

    control: list[str] = []  # prints the revision of the control service
    runtime: list[str] = []  # prints the revision of the runtime
    timeout_s: Positive = 10.0  # [ours] timeout of each command


class RollbackHook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operators' commands for one rollback step, and to undo it after a rehearsal."""

    apply: Command  # applies the rollback step
    restore: Command  # restores the state from before the step
    timeout_s: Positive = 60.0  # [ours] timeout of each command


class TrafficRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Moves traffic to the last known good revisions."""

    control_revision: Word  # last known good revision of the control service
    runtime_revision: Word  # last known good revision of the runtime


class ThrottleRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tightens a throttle or guard, and defines how its effect is observed."""

    refuses: Literal["publishes", "connects", "writes"] = (
        "publishes"  # what the throttle refuses; writes: a read-only guard that refuses every publish, and new streams
    )
    burst: Annotated[int, msgspec.Meta(ge=2, le=1000)] = (
        40  # [ours] requests sent at once: all accepted without the throttle, some refused with it
    )


class CohortRollback(RollbackHook, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reduces the client cohort only."""

    percent: Annotated[float, msgspec.Meta(ge=0, lt=100)] = 0.0  # cohort after the rollback, in percent of all keys


class RollbackRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a rollback is rehearsed on a target. The embedded mock needs no commands."""

    traffic: TrafficRollback | None = None
    throttle: ThrottleRollback | None = None
    cohort: CohortRollback | None = None
    observed_within_s: Positive = 60.0  # [ours] limit from the end of a command to its observed effect
    check: list[str] = []  # exits with 0 if the last good revisions are still available; changes nothing
    recovery_check: tuple[str, ...] = ()  # overrides of the recovery check's drill, as with --set
    allow_on_production: bool = False  # required on production, because a rehearsal moves the traffic of all users


class StreamRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The streams that a drill publishes to: new ones, or those named here, which may have other publishers."""

    names: tuple[Word, ...] = ()  # existing streams; empty: each run creates its own
    created_by_publish: bool = False  # a stream is created by its first event: each run takes new names, without [create]
    topic: Annotated[str, msgspec.Meta(max_length=200)] = (
        ""  # topic of a created stream, such as room:{run_id}; empty: the protocol's
    )


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All rules of a target. The defaults are those of the embedded mock: no caps, no stop conditions."""

    caps: Caps | None = None
    stop: Stop = Stop()
    hooks: dict[str, Hook] = {}  # by kind of fault
    metrics_profile: MetricsProfile = "full"
    metrics_every_s: Positive = 2.0  # [ours] between two polls of the metrics endpoint
