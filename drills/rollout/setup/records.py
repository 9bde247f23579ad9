"""The files of a stage's run: one typed record per file, and where it lies.

    results/<run id>/
        stage-plan.json                   what the stage is going to do, written before it does anything
        stages.toml, thresholds.toml      copies of the files that it was made by
        snapshots.jsonl, snapshots/*.json what the servers reported, and when
        canary-checks.jsonl, canary-checks/<run id>/  the clients' side of the window
        control-canary-checks.jsonl, control/   the same of the control, which the canary is compared with
        drills/<run id>/                  ordinary runs of the catalogue, recorded in results.jsonl and SUMMARY.md there
        preconditions.jsonl               the preconditions of a rollout, and whether they were met
        commands.jsonl, logs/             commands that were run, and their output
        routing-checks.jsonl              which keys the routing service puts into the cohort
        hold.jsonl                        when the hold started, restarted, resumed and ended
        armed.jsonl                       whether the rollback was armed at each gate of the full rollout
        rollback.json, rollback/          a rehearsal: its record, the output of its commands, its routing and canary checks
        gate-results.jsonl, stage-report.json, STAGE_REPORT.md, STAGE_REPORT.html, blockers.json, junit.xml
        signoff.json, waivers.json        written by people, later

All but the last two lines is evidence; the line before the last is computed from it, and can be computed again.
Times are ISO 8601 in UTC. No number is NaN or infinite: a missing value is null.
"""

from typing import Annotated, Literal

import msgspec

from drills.judging.checks.registry import Origin as Origin
from drills.judging.checks.verdicts import Reason as Reason
from sim.drill.target_rules import TargetKind

SCHEMA = 1
PLAN, STAGES, THRESHOLDS = "stage-plan.json", "stages.toml", "thresholds.toml"
SNAPSHOTS, BODIES, CANARY_CHECKS, DRILLS = "snapshots.jsonl", "snapshots", "canary-checks", "drills"
DRILL_RESULTS, DRILL_SUMMARY = "drills/results.jsonl", "drills/SUMMARY.md"
CANARY_CHECK_LIST, PRECONDITIONS = "canary-checks.jsonl", "preconditions.jsonl"
CONTROL_LIST, CONTROL, ARMED = "control-canary-checks.jsonl", "control", "armed.jsonl"
UNDER_WAY = "canary-check-under-way.json"  # a `CanaryCheckDone` of the running one; its `run` is the parent of the run's folder
COMMANDS, LOGS, ROUTING_CHECKS, HOLD, ROLLBACK = "commands.jsonl", "logs", "routing-checks.jsonl", "hold.jsonl", "rollback.json"
GATE_RESULTS, REPORT = "gate-results.jsonl", "stage-report.json"
REPORT_MD, REPORT_HTML = "STAGE_REPORT.md", "STAGE_REPORT.html"
BLOCKERS, JUNIT, SIGNOFF, WAIVERS = "blockers.json", "junit.xml", "signoff.json", "waivers.json"

Stage = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}[a-z]?$")]  # such as 0, 1, 3a
Phase = Literal["baseline", "hold", "drills", "rollback", "other"]
Decision = Literal["go", "no_go"]
Outcome = Literal["pass", "fail", "error", "not_run"]
StepName = Literal["traffic", "throttle", "cohort", "recovery"]
COMMAND_PRECONDITIONS = ("observability_tests", "retired_route_guard")  # those that operators' commands answer
PRECONDITION_NAMES = (*COMMAND_PRECONDITIONS, "token_issuance", "builds_deployed", "rollback_revisions")


class Revisions(msgspec.Struct, frozen=True, kw_only=True):
    """The deployed revisions; empty if unknown, which never counts as unchanged."""

    control: str = ""
    runtime: str = ""

    @property
    def known(self) -> bool:
        """Whether both are known."""
        return bool(self.control and self.runtime)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a server: a line of `snapshots.jsonl`. `metrics` has only what was served and is finite."""

    n: int  # from 1 on, without a hole in one file
    at: str  # when it was asked
    source: Literal["metrics", "control", "prometheus"]
    profile: Literal["full", "pinned", ""]  # of the metrics endpoint, as the body has it
    phase: Phase
    fault: bool = False  # whether faults were being injected then
    url: str  # without anything secret
    outcome: str  # ok, or why it cannot be used: http_500, timeout, unreachable, no_json, no_metrics, stale_body, ...
    status: int | None = None
    latency_ms: float = 0.0
    generated_at: str | None = None  # the body's own date
    clock_skew_s: float | None = None  # the answer's Date minus our clock
    revisions: Revisions = Revisions()  # of the service that was asked; the other's is empty
    sha256: str = ""  # of the body's file
    body: str = ""  # the file, below the run's folder
    missing: tuple[str, ...] = ()  # metrics that the profile promises
    metrics: dict[str, float] = {}  # by name, such as `delivery.served_messages`
    notes: tuple[str, ...] = ()  # in words: what is odd about it, or why it cannot be used

    @property
    def ok(self) -> bool:
        """Whether it can be used."""
        return self.outcome == "ok"


class CommandDone(msgspec.Struct, frozen=True, kw_only=True):
    """One command that was run, or was to be: a line of `commands.jsonl`."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    state: Outcome
    reason: str
    exit_code: int | None = None
    began: str = ""
    duration_s: float = 0.0
    log: str = ""  # the file of its output, below the run's folder
    sha256: str = ""  # of that file
    runner: str = ""  # whose summary the tests were counted from: cargo, pytest, go, node
    tests: int | None = None  # how many ran; None for a command without a runner
    stands_for: str = ""  # the operators' command that this one of ours accompanies
    required: bool = True  # False only for the operators' commands on a mock; ignored on any other kind


class Precondition(msgspec.Struct, frozen=True, kw_only=True):
    """One of `PRECONDITION_NAMES`: a line of `preconditions.jsonl`; of several lines of one name the last counts."""

    at: str
    name: str
    state: Outcome
    reason: str
    evidence: str = ""  # a file below the run's folder
    required: bool = True  # as of a command


class CanaryCheckDone(msgspec.Struct, frozen=True, kw_only=True):
    """One canary check: a line of `canary-checks.jsonl`, or of `control-canary-checks.jsonl`.

    Its observations count their seconds from `at`, whatever clock it ran under.
    """

    at: str
    ended: str
    run: str  # its run's folder, below the stage's; empty if it could not start
    drill: str
    phase: Phase
    status: str  # a check's state
    reason: str = ""
    build: str = ""  # the build that its clients reported
    revisions: Revisions = Revisions()  # the control's, if the same before and after; else unknown


class DrillDone(msgspec.Struct, frozen=True, kw_only=True):
    """One drill: a line of `drills/results.jsonl`."""

    name: str
    run: str  # its run's folder, below the stage's
    status: str
    seed: int
    faults: tuple[str, ...]
    injected_at_s: tuple[float, ...]  # seconds after the run began
    observed: bool  # whether the faults took effect
    recovered_at_s: float | None
    duration_s: float
    assertions: tuple[tuple[str, str], ...]  # each check's name and state
    reason: str = ""


class RoutingCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One key's answer of the routing service: a line of `routing-checks.jsonl`."""

    at: str
    key: str
    bucket: int  # by the cohort hash, computed here
    in_cohort: bool | None  # the service's answer; None without one
    outcome: str  # ok, or why it is unusable
    revision: str = ""


HoldKind = Literal["started", "restarted", "interrupted", "resumed", "gate", "aborted", "ended"]


class HoldEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `hold.jsonl`."""

    at: str
    kind: HoldKind
    reason: str = ""
    gate_h: float | None = None  # of a gate within the hold: hours after it began
    state: str = ""  # of that gate
    waits: bool = False  # of a broken hold: it restarts only once that is over


class Armed(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the rollback was armed at one gate: a line of `armed.jsonl`; of several lines of one gate the last counts."""

    at: str
    gate_h: float  # hours after the hold began
    state: str  # a check's
    reason: str
    hooks_sha256: str  # of the rollback's commands then, as in `rollback.json`
    last_good: Revisions  # the revisions that they roll back to


class RollbackStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a rollback."""

    n: int  # 1 to 4
    name: StepName
    state: Outcome
    reason: str
    before: dict[str, str]
    after: dict[str, str]
    verified_by: str  # the observation, in words
    began: str
    ended: str
    restored: bool | None = None  # None: nothing to restore
    evidence: tuple[str, ...] = ()  # files and folders below the run's


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """`rollback.json`: a rehearsal."""

    schema: int = SCHEMA
    run_id: str
    target: str
    target_kind: TargetKind
    dry_run: bool
    began: str
    ended: str
    seconds: float | None  # to recover: from the begin of step 1 until clients saw recovery; None without recovery
    limit_s: float
    stable_s: float | None = None  # monitored from then on; None if that was not reached
    state: Outcome
    reason: str
    steps: tuple[RollbackStep, ...]
    hooks_sha256: str = ""  # of the rehearsed commands and the files that they name


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """Where the previous revisions are served, for a canary to be compared with."""

    target: str
    revisions: Revisions
    configuration_sha256: str


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """`stage-plan.json`."""

    schema: int = SCHEMA
    run_id: str
    rollout: str
    stage: Stage
    title: str
    cohort: str
    cohort_percent: float | None
    target: str
    target_kind: TargetKind
    revisions: Revisions
    began: str
    hold_required_s: float  # 0: no hold
    snapshot_interval_s: float
    thresholds_sha256: str
    stages_sha256: str
    configuration_sha256: str  # of the target's configuration, without secrets
    previous_run: str  # of the stage before; empty for the first
    previous_report_sha256: str
    tool_version: str
    tool_commit: str
    required: tuple[str, ...]  # requirements of a go: preconditions, commands, drills, rollback, baseline, hold, cohort
    synthetic_load: str  # our own added load, in words; empty for none
    commands: tuple[str, ...] = ()  # by name: each must have a line in commands.jsonl
    drills: tuple[str, ...] = ()  # by name: each must have a line in drills/results.jsonl
    left_out: tuple[str, ...] = ()  # drills of the catalogue that are not among these
    gates_at_h: tuple[float, ...] = ()  # hours after the hold began at which gates are judged, besides its end
    client_builds: tuple[str, ...] = ()  # that the canary checks rotate through
    control: Control | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a report rests on."""

    path: str  # below the run's folder
    sha256: str
    size_bytes: int


class GateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check's answer, as in `gate-results.jsonl`."""

    gate: str
    check: str
    state: str
    value: float | None
    unit: str
    n: int
    interval: tuple[float | None, float | None] | None
    comparator: str
    threshold: float | None
    source: str
    window: str
    method: str
    origin: str
    reason: str
    evidence: str
    required: bool = True  # False: it is reported, and decides nothing


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate: the worst of its checks."""

    name: str
    state: str
    checks: tuple[GateCheck, ...]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the window has snapshots."""

    expected: int
    got: int
    longest_hole_s: float
    interval_s: float
    state: str
    reason: str


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """Something beside the gates that a go needs: a precondition, the hold, the drills, the rehearsal."""

    name: str
    state: str
    reason: str
    evidence: str = ""


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that stands in the way: an entry of `blockers.json`."""

    id: str
    gate: str
    check: str
    severity: Literal["blocker", "major"]
    cause: str
    remediation: tuple[str, ...]  # steps, the runbook's own next one first
    retest: str  # a command
    owner: str = ""
    due: str = ""
    status: Literal["open", "done"] = "open"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One check, now and in the report of the stage before."""

    gate: str
    check: str
    unit: str
    before_state: str  # empty: it was not asked then
    state: str  # empty: it is not asked now
    before: float | None
    now: float | None
    change: float | None  # now minus before; None if one of them is missing
    verdict: Literal["better", "worse", "same"]  # of the states alone


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """`stage-report.json`. Whether somebody has signed it is said by `signoff.json`, which holds the hash of this."""

    schema: int = SCHEMA
    plan: StagePlan
    ended: str
    hold_observed_s: float
    coverage: Coverage | None
    gates: tuple[Gate, ...]
    requirements: tuple[Requirement, ...]
    decision: Decision
    reason: Reason
    why: tuple[str, ...]  # sentences, the gravest first
    blockers: tuple[Blocker, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    changes: tuple[Change, ...] = ()  # against the stage before
    rendered: tuple[Evidence, ...] = ()  # the other files that were written of this report
    splits: tuple[GateCheck, ...] = ()  # what was asked of each client build by itself, and of the canary against control


class Signoff(msgspec.Struct, frozen=True, kw_only=True):
    """`signoff.json`: a person's word on a report."""

    schema: int = SCHEMA
    run_id: str
    owner: str
    role: str
    at: str
    decision: Decision
    statement: str
    report_sha256: str


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `waivers.json`: a person accepts that a check did not pass. It changes no state and unlocks no stage.

    One without owner, role and statement, or of another report, counts for nothing at all.
    """

    check: str  # `gate.check`, or a requirement's name
    owner: str
    role: str
    at: str
    statement: str
    report_sha256: str
