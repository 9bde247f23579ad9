"""The files of a stage's run: their names and record types.

    results/<run id>/
        stage-plan.json                   the plan of the stage, written before anything starts
        stages.toml, thresholds.toml      copies of the files that the plan is based on
        snapshots.jsonl, snapshots/*.json the servers' answers, with their times
        canary-checks.jsonl, canary-checks/<run id>/  the canary checks of the window
        control-canary-checks.jsonl, control/   the same for the control, which the canary is compared with
        drills/<run id>/                  ordinary runs of the catalogue, recorded in results.jsonl and SUMMARY.md there
        preconditions.jsonl               the result of each precondition
        commands.jsonl, logs/             the executed commands, and their output
        routing-checks.jsonl              the keys that the routing service puts into the cohort
        hold.jsonl                        the starts, restarts, resumptions and the end of the hold
        evaluations.jsonl                 coverage and the worst check at each evaluation of the hold
        armed.jsonl                       whether the rollback was armed at each gate of the full rollout
        rollback.json, rollback/          the rehearsal: record, output of its commands, its routing and canary checks
        evidence.json                     names, hashes and sizes of all files above, written when the run ended
        gate-results.jsonl, stage-report.json, STAGE_REPORT.md, STAGE_REPORT.html, blockers.json, junit.xml
        signoff.json, waivers.json        written by people, later

All files above the last two lines are evidence. The files of the line before the last are computed from it.
Times are ISO 8601 in UTC. No number is NaN or infinite: a missing value is null.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from drills.judging.checks.specs import Origin as Origin
from drills.judging.checks.verdicts import Reason as Reason
from sim.drill.target_rules import TargetKind

SCHEMA = 1
PLAN, STAGES, THRESHOLDS = "stage-plan.json", "stages.toml", "thresholds.toml"
SNAPSHOTS, BODIES, CANARY_CHECKS, DRILLS = "snapshots.jsonl", "snapshots", "canary-checks", "drills"
DRILL_RESULTS, DRILL_SUMMARY = "drills/results.jsonl", "drills/SUMMARY.md"
CANARY_CHECK_LIST, PRECONDITIONS = "canary-checks.jsonl", "preconditions.jsonl"
CONTROL_LIST, CONTROL, ARMED = "control-canary-checks.jsonl", "control", "armed.jsonl"
UNDER_WAY = "canary-check-under-way.json"  # `CanaryCheckDone` of a running check; its `run` is the parent of the run's folder
COMMANDS, LOGS, ROUTING_CHECKS, HOLD, ROLLBACK = "commands.jsonl", "logs", "routing-checks.jsonl", "hold.jsonl", "rollback.json"
EVALUATIONS, SEAL = "evaluations.jsonl", "evidence.json"
GATE_RESULTS, REPORT = "gate-results.jsonl", "stage-report.json"
REPORT_MD, REPORT_HTML = "STAGE_REPORT.md", "STAGE_REPORT.html"
BLOCKERS, JUNIT, SIGNOFF, WAIVERS = "blockers.json", "junit.xml", "signoff.json", "waivers.json"

Stage = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}[a-z]?$")]  # such as 0, 1, 3a
Phase = Literal["baseline", "hold", "drills", "rollback", "other"]
Decision = Literal["go", "no_go"]
Outcome = Literal["pass", "fail", "error", "not_run"]
StepName = Literal["traffic", "throttle", "cohort", "recovery"]
COMMAND_PRECONDITIONS = ("observability_tests", "retired_route_guard")  # the preconditions that operators' commands decide
PRECONDITION_NAMES = (*COMMAND_PRECONDITIONS, "token_issuance", "builds_deployed", "rollback_revisions")


class Revisions(msgspec.Struct, frozen=True, kw_only=True):
    """The deployed revisions; empty if unknown. An unknown revision never counts as unchanged."""

    control: str = ""
    runtime: str = ""

    @property
    def known(self) -> bool:
        """Whether both revisions are known."""
        return bool(self.control and self.runtime)

    def __str__(self) -> str:
        return f"control {self.control or 'unknown'}, runtime {self.runtime or 'unknown'}"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a server: a line of `snapshots.jsonl`. `metrics` has only metrics that were served and are finite."""

    n: int  # starts at 1; consecutive within a file
    at: str  # time of the request
    source: Literal["metrics", "control", "prometheus"]
    profile: Literal["full", "pinned", ""]  # of the metrics endpoint, as in the body
    phase: Phase
    fault: bool = False  # whether a fault was active at that time
    url: str  # without secrets
    outcome: str  # ok, or why it cannot be used: http_500, timeout, unreachable, no_json, no_metrics, stale_body, ...
    status: int | None = None
    latency_ms: float = 0.0
    generated_at: str | None = None  # the date in the body
    clock_skew_s: float | None = None  # the answer's Date header minus our clock
    revisions: Revisions = Revisions()  # of the service that answered; the other one is empty
    sha256: str = ""  # of the body's file
    body: str = ""  # the body's file, relative to the run's folder
    missing: tuple[str, ...] = ()  # metrics of the profile that were not served
    metrics: dict[str, float] = {}  # by name, such as `delivery.served_messages`
    notes: tuple[str, ...] = ()  # sentences: peculiarities, or why it cannot be used

    @property
    def ok(self) -> bool:
        """Whether the answer can be used."""
        return self.outcome == "ok"


class CommandDone(msgspec.Struct, frozen=True, kw_only=True):
    """One command that was executed or could not be: a line of `commands.jsonl`."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    state: Outcome
    reason: str
    exit_code: int | None = None
    began: str = ""
    duration_s: float = 0.0
    log: str = ""  # the file of its output, relative to the run's folder
    sha256: str = ""  # of that file
    runner: str = ""  # the test runner whose summary was read: cargo, pytest, go, node
    tests: int | None = None  # number of tests that ran; None without a runner
    stands_for: str = ""  # the operators' command that this command of stormgate accompanies
    required: bool = True  # False only for the operators' commands on a mock; ignored on any other kind


class Precondition(msgspec.Struct, frozen=True, kw_only=True):
    """One of `PRECONDITION_NAMES`: a line of `preconditions.jsonl`. The last line of each name counts."""

    at: str
    name: str
    state: Outcome
    reason: str
    evidence: str = ""  # a file, relative to the run's folder
    required: bool = True  # as for a command


class CanaryCheckDone(msgspec.Struct, frozen=True, kw_only=True):
    """One canary check: a line of `canary-checks.jsonl`, or of `control-canary-checks.jsonl`.

    Its observations count seconds from `at`, on a real and on a simulated clock.
    """

    at: str
    ended: str
    run: str  # its run's folder, relative to the stage's; empty if it could not start
    drill: str
    phase: Phase
    status: str  # a check's state
    reason: str = ""
    build: str = ""  # the build that its clients reported
    revisions: Revisions = Revisions()  # the control's, if unchanged during the check; else unknown


class DrillDone(msgspec.Struct, frozen=True, kw_only=True):
    """One drill: a line of `drills/results.jsonl`."""

    name: str
    run: str  # its run's folder, relative to the stage's
    status: str
    seed: int
    faults: tuple[str, ...]
    injected_at_s: tuple[float, ...]  # seconds after the run began
    observed: bool  # whether the faults took effect
    recovered_at_s: float | None
    duration_s: float
    assertions: tuple[tuple[str, str], ...]  # name and state of each check
    reason: str = ""


class RoutingCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The routing service's answer for one key: a line of `routing-checks.jsonl`."""

    at: str
    key: str
    bucket: int | None  # by the cohort hash, computed here; None if the service assigns keys in its own way
    in_cohort: bool | None  # the service's answer; None without one
    outcome: str  # ok, or why it is unusable
    revision: str = ""


HoldKind = Literal["started", "restarted", "interrupted", "resumed", "gate", "aborted", "ended"]


class HoldEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `hold.jsonl`."""

    at: str
    kind: HoldKind
    reason: str = ""
    gate_h: float | None = None  # for a gate within the hold: hours after the hold began
    state: str = ""  # state of that gate
    waits: bool = False  # the hold is broken, and restarts only after the cause has ended
    boot: str = ""  # the machine's boot since which `elapsed_s` counts; empty if unknown
    elapsed_s: float | None = None  # of the machine's clock that nobody can set


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of a hold, for people who follow it: a line of `evaluations.jsonl`. No verdict reads it."""

    at: str
    coverage: str  # its state, with the reason in parentheses
    worst: str  # the worst check with its state and reason, in words
    next: str  # when the next evaluation is due, if nothing breaks the hold before


class Armed(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the rollback was armed at one gate: a line of `armed.jsonl`. The last line of each gate counts."""

    at: str
    gate_h: float  # hours after the hold began
    state: str  # a check's
    reason: str
    hooks_sha256: str  # of the rollback's commands at that time, as in `rollback.json`
    last_good: Revisions  # the revisions that the rollback leads to


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
    evidence: tuple[str, ...] = ()  # files and folders, relative to the run's folder


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """`rollback.json`: a rehearsal."""

    schema: int = SCHEMA
    run_id: str
    target: str
    target_kind: TargetKind
    dry_run: bool = False
    began: str
    ended: str
    seconds: float | None = None  # time to recover: from the begin of step 1 until clients observed it; None without recovery
    limit_s: float
    stable_s: float | None = None  # time monitored after recovery; None if not reached
    state: Outcome
    reason: str
    steps: tuple[RollbackStep, ...] = ()
    hooks_sha256: str = ""  # of the rehearsed commands and the files that they name


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The target that serves the previous revisions and is compared with the canary."""

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
    targets_file: str = ""  # absolute; empty: the target is not in one
    revisions: Revisions
    began: str
    hold_required_s: float  # 0 without a hold
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
    commands: tuple[str, ...] = ()  # names; each must have a line in commands.jsonl
    drills: tuple[str, ...] = ()  # names; each must have a line in drills/results.jsonl
    left_out: tuple[str, ...] = ()  # drills of the catalogue that are not chosen
    gates_at_h: tuple[float, ...] = ()  # hours after the hold began at which gates are judged, besides its end
    client_builds: tuple[str, ...] = ()  # builds that the canary checks rotate through
    control: Control | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a report is based on."""

    path: str  # relative to the run's folder
    sha256: str
    size_bytes: int


class GateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check: a line of `gate-results.jsonl`."""

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
    required: bool = True  # False: for information only


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate, with the worst state of its checks."""

    name: str
    state: str
    checks: tuple[GateCheck, ...]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How well snapshots cover the window."""

    expected: int
    got: int
    longest_hole_s: float
    interval_s: float
    state: str
    reason: str


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """A condition of a go that is not a gate: a precondition, the hold, the drills, the rehearsal."""

    name: str
    state: str
    reason: str
    evidence: str = ""


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """A check or requirement that prevents a go: an entry of `blockers.json`."""

    id: str
    gate: str
    check: str
    severity: Literal["blocker", "major"]
    cause: str
    remediation: tuple[str, ...]  # steps; the next step of the runbook is the first
    retest: str  # a command
    owner: str = ""
    due: str = ""
    status: Literal["open", "done"] = "open"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One check, now and in the report of the previous stage."""

    gate: str
    check: str
    unit: str
    before_state: str  # empty: the previous stage did not have the check
    state: str  # empty: this stage does not have the check
    before: float | None
    now: float | None
    change: float | None  # now minus before; None if one of them is missing
    verdict: Literal["better", "worse", "same"]  # compares only the states


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """`stage-report.json`. If it is signed, `signoff.json` has its hash."""

    schema: int = SCHEMA
    plan: StagePlan
    ended: str
    hold_observed_s: float
    coverage: Coverage | None
    gates: tuple[Gate, ...]
    requirements: tuple[Requirement, ...]
    decision: Decision
    reason: Reason
    why: tuple[str, ...]  # sentences, the most severe first
    blockers: tuple[Blocker, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    changes: tuple[Change, ...] = ()  # compared with the previous stage
    rendered: tuple[Evidence, ...] = ()  # the other files written for this report
    splits: tuple[GateCheck, ...] = ()  # results for each client build, and for the canary compared with its control


class Signoff(msgspec.Struct, frozen=True, kw_only=True):
    """`signoff.json`: a person's signature on a report."""

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

    A waiver without owner, role or statement, or for another report, is ignored.
    """

    check: str  # `gate.check`, or a requirement's name
    owner: str
    role: str
    at: str
    statement: str
    report_sha256: str

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the entry, as in the journal."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()
