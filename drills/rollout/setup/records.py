"""What a gate execution leaves behind: one typed record for each artifact, and where it lies.

    results/<run id>/
        stage-plan.json                   what was going to be done, written before anything was
        stages.toml, thresholds.toml      as they were
        snapshots.jsonl, snapshots/*.json what the servers said, and when
        canary-checks.jsonl, canary-checks/<run id>/  short drills beside the hold: the clients' side of the window
        control-canary-checks.jsonl, control/   the same of the control, which the canary is held against
        drills/<run id>/                  ordinary runs of the catalogue; results.jsonl and SUMMARY.md there tell of them
        preconditions.jsonl               what must be so before a rollout begins, and whether it was
        commands.jsonl, logs/             commands that were run, and what they printed
        routing-checks.jsonl                      cohort probes
        hold.jsonl                        when the hold began, broke, began again, ended
        armed.jsonl                       whether the way back was open at each gate of the full rollout
        rollback.json, rollback/          a rehearsal; what its commands said, cohort probes, and its watches
        gate-results.jsonl, stage-report.json, STAGE_REPORT.md, STAGE_REPORT.html, blockers.json, junit.xml
        signoff.json, waivers.json        written by people, later

All but the last two lines is evidence; what is in the line before the last is worked out from it, and can be again.
Times are ISO 8601 in UTC. No number is NaN or infinite: a value that is none is null.
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
UNDER_WAY = "canary-check-under-way.json"  # a `CanaryCheckDone` of the one that runs, with the folder that its run is made in
COMMANDS, LOGS, ROUTING_CHECKS, HOLD, ROLLBACK = "commands.jsonl", "logs", "routing-checks.jsonl", "hold.jsonl", "rollback.json"
GATE_RESULTS, REPORT, REPORT_MD, REPORT_HTML = (
    *("gate-results.jsonl", "stage-report.json", "STAGE_REPORT.md"),
    "STAGE_REPORT.html",
)
BLOCKERS, JUNIT, SIGNOFF, WAIVERS = "blockers.json", "junit.xml", "signoff.json", "waivers.json"

Stage = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}[a-z]?$")]  # such as 0, 1, 3a
Phase = Literal["baseline", "hold", "drills", "rollback", "other"]
Decision = Literal["go", "no_go"]
PRECONDITION_NAMES = (
    *("observability_tests", "retired_route_guard", "token_issuance", "builds_deployed"),
    "rollback_revisions",
)


class Revisions(msgspec.Struct, frozen=True, kw_only=True):
    """What was deployed; empty where it could not be found out, which is never the same as unchanged."""

    control: str = ""
    runtime: str = ""

    @property
    def known(self) -> bool:
        """Whether both were found out."""
        return bool(self.control and self.runtime)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a server: a line of `snapshots.jsonl`. `metrics` has only what was served and is finite."""

    n: int  # from 1 on, without a hole in one file
    at: str  # when it was asked
    source: Literal["metrics", "control", "prometheus"]
    profile: Literal["full", "pinned", ""]  # of the metrics endpoint, as the body has it
    phase: Phase
    fault: bool = False  # whether something was being broken on purpose then
    url: str  # without anything secret
    outcome: str  # ok, or why it tells nothing: http_500, timeout, unreachable, no_json, no_metrics, stale_body, ...
    status: int | None = None
    latency_ms: float = 0.0
    generated_at: str | None = None  # what the body says
    clock_skew_s: float | None = None  # the answer's Date minus our clock
    revisions: Revisions = Revisions()  # of the service that was asked, found out at the same time; the other's is empty
    sha256: str = ""  # of the body's file
    body: str = ""  # the file, below the run's folder
    missing: tuple[str, ...] = ()  # metrics that the profile promises
    metrics: dict[str, float] = {}  # by name, such as `delivery.served_messages`
    notes: tuple[str, ...] = ()  # in words: what is odd about it, or why it tells nothing

    @property
    def ok(self) -> bool:
        """Whether it tells anything."""
        return self.outcome == "ok"


class CommandDone(msgspec.Struct, frozen=True, kw_only=True):
    """One command that was run, or was to be: a line of `commands.jsonl`."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    state: Literal["pass", "fail", "error", "not_run"]
    reason: str
    exit_code: int | None = None
    began: str = ""
    duration_s: float = 0.0
    log: str = ""  # the file of what it printed, below the run's folder
    sha256: str = ""  # of that file
    runner: str = ""  # which runner's words the tests were counted from: cargo, pytest, go, node
    tests: int | None = None  # how many ran; None where a command runs none by its nature
    stands_for: str = ""  # the operators' command in whose place nothing of ours can stand, but beside which this does
    required: bool = True  # False only of the operators' commands on a target of kind mock, and believed of no other kind


class Precondition(msgspec.Struct, frozen=True, kw_only=True):
    """One of `PRECONDITION_NAMES`: a line of `preconditions.jsonl`; of several lines of one name the last counts."""

    at: str
    name: str
    state: Literal["pass", "fail", "error", "not_run"]
    reason: str
    evidence: str = ""  # a file below the run's folder
    required: bool = True  # as of a command


class CanaryCheckDone(msgspec.Struct, frozen=True, kw_only=True):
    """One watch: a line of `canary-checks.jsonl`, or of `control-canary-checks.jsonl`.

    Its observations count their seconds from `at`, whatever clock it ran under.
    """

    at: str
    ended: str
    run: str  # its run's folder, below the stage's; empty where it could not even begin
    drill: str
    phase: Phase
    status: str  # a check's state
    reason: str = ""
    build: str = ""  # that its clients said they are of
    revisions: Revisions = Revisions()  # of the control, the same before and after; unknown where they were not. Else unknown


class DrillDone(msgspec.Struct, frozen=True, kw_only=True):
    """One drill: a line of `drills/results.jsonl`."""

    name: str
    run: str  # its run's folder, below the stage's
    status: str
    seed: int
    faults: tuple[str, ...]
    injected_at_s: tuple[float, ...]  # seconds after the run began
    observed: bool  # whether the faults were seen to act
    recovered_at_s: float | None
    duration_s: float
    assertions: tuple[tuple[str, str], ...]  # each check's name and state
    reason: str = ""


class RoutingCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One key's answer of the routing service: a line of `routing-checks.jsonl`."""

    at: str
    key: str
    bucket: int  # by the cohort hash, worked out here
    in_cohort: bool | None  # as the service says; None where it said nothing
    outcome: str  # ok, or why it tells nothing
    revision: str = ""


HoldKind = Literal["started", "restarted", "interrupted", "resumed", "gate", "aborted", "ended"]


class HoldEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `hold.jsonl`."""

    at: str
    kind: HoldKind
    reason: str = ""
    gate_h: float | None = None  # of a gate that was judged within the hold: so many hours after it began
    state: str = ""  # what that gate said
    waits: bool = False  # of a hold that was broken: it begins anew once that is over, and not yet


class Armed(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the way back was open at one gate: a line of `armed.jsonl`; of several lines of one gate the last counts."""

    at: str
    gate_h: float  # hours after the hold began
    state: str  # a check's
    reason: str
    hooks_sha256: str  # of the rollback's commands then, as in `rollback.json`
    last_good: Revisions  # that they lead back to


class RollbackStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a rollback."""

    n: int  # 1 to 4
    name: Literal["traffic", "throttle", "cohort", "recovery"]
    state: Literal["pass", "fail", "error", "not_run"]
    reason: str
    before: dict[str, str]
    after: dict[str, str]
    verified_by: str  # the observation, in words
    began: str
    ended: str
    restored: bool | None = None  # None: there was nothing to restore
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
    seconds: float | None  # to recover: from the begin of step 1 to recovery seen by clients; None when it was not
    limit_s: float
    stable_s: float | None = None  # watched from then on, beyond `seconds`; None when it did not come to that
    state: Literal["pass", "fail", "error", "not_run"]
    reason: str
    steps: tuple[RollbackStep, ...]
    hooks_sha256: str = ""  # of the commands that were rehearsed, and of the files that they name


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """Where the revisions before are reached, for a canary to be held against."""

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
    hold_required_s: float  # 0: nothing is held
    snapshot_interval_s: float
    thresholds_sha256: str
    stages_sha256: str
    configuration_sha256: str  # of what was said of the target, without secrets
    previous_run: str  # the stage before this one, empty for the first
    previous_report_sha256: str
    tool_version: str
    tool_commit: str
    required: tuple[str, ...]  # parts that a go needs: preconditions, commands, drills, rollback, baseline, hold, cohort
    synthetic_load: str  # what load of ours was added, in words; empty for none
    commands: tuple[str, ...] = ()  # by name: each must have a line in commands.jsonl
    drills: tuple[str, ...] = ()  # by name: each must have a line in drills/results.jsonl
    left_out: tuple[str, ...] = ()  # drills of the catalogue that were not asked for
    gates_at_h: tuple[float, ...] = ()  # hours after the hold began at which gates are judged, besides its end
    client_builds: tuple[str, ...] = ()  # that the watches take turns over
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
    required: bool = True  # False: it is told, and its answer decides nothing


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate: the worst of its checks."""

    name: str
    state: str
    checks: tuple[GateCheck, ...]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How well the window was watched."""

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
    change: float | None  # now minus before; None where one of them is none
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
    """An entry of `waivers.json`: somebody has seen what a check says and lives with it. It changes no state and opens nothing.

    One without owner, role and statement, or of another report, counts for nothing at all.
    """

    check: str  # `gate.check`, or a part's name
    owner: str
    role: str
    at: str
    statement: str
    report_sha256: str
