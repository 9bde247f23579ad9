"""The stages file: the stages of a rollout in order, the length of each hold, and the requirements of a go.

The order of the file's `[stages.N]` tables is the order of the rollout. `RUNBOOK` has the minimum that no file may weaken.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from drills import DATA
from drills.rollout.setup.answers import Answer
from drills.rollout.setup.records import COMMAND_PRECONDITIONS, Stage
from sim.base.config import read_toml, to_struct
from sim.base.errors import UsageError
from sim.drill.model import Build
from sim.drill.target_rules import TargetKind
from sim.server.settings import Count, NotNegative, Positive

DEFAULT_PATH = DATA / "stages.toml"
PREFLIGHT = "0"
FULL_ROLLOUT = "4"
EVERY_DRILL = "all"
MAX_HOLE_INTERVALS = 3  # intervals without a usable snapshot; a longer hole breaks a hold


class Minimum(NamedTuple):
    """The minimum of a stage, which the file cannot weaken: required names, and the shortest hold in seconds."""

    required: tuple[str, ...]
    hold_s: float = 0.0


RUNBOOK: dict[Stage, Minimum] = {
    PREFLIGHT: Minimum(("preconditions", "commands", "drills", "rollback", "baseline")),
    "1": Minimum(("hold",), 3600.0),
    "2": Minimum(("hold", "cohort", "builds", "canary_vs_control")),
    "3a": Minimum(("hold", "cohort", "builds"), 1800.0),
    "3b": Minimum(("hold", "cohort", "builds"), 1800.0),
    FULL_ROLLOUT: Minimum(("hold", "cohort", "builds", "armed"), 86400.0),
}
ADDED_STAGE = Minimum(("hold", "cohort", "builds"), 1800.0)  # [ours] for a stage added between those of the runbook
ADDED_STAGE_MAY_REQUIRE = ("hold", "cohort", "builds", "canary_vs_control", "armed")
MAX_JUDGE_EVERY_S = 300.0  # [ours] between two evaluations of a hold; limits the delay in finding a fast burn
MIN_BUSINESS_DAY_H = 8  # 09:00 to 17:00 is one day
MIN_BASELINE_S = 1800.0  # [ours] the baseline replaces the hour before a hold
EVERYBODY_PERCENT = 100.0
FULL_ROLLOUT_GATES_H = (0.0, 1.0, 6.0, 24.0)

Runner = Literal["cargo", "pytest", "unittest", "go", "node", ""]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*$")]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Interval = Annotated[float, msgspec.Meta(gt=0, le=300)]  # seconds; a fast burn of an error budget must show within 300 s
CanaryCheckInterval = Annotated[float, msgspec.Meta(gt=0, le=3600)]  # seconds; most gates need clients [ours]
Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
Words = Annotated[str, msgspec.Meta(min_length=1)]
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def minimum(stage: Stage) -> Minimum:
    """The minimum of a stage: the runbook's, or that of an added stage."""
    return RUNBOOK.get(stage, ADDED_STAGE)


def command_for(stage: Stage) -> str:
    """The command that executes a stage: `run 0` for the preflight, `hold N` for the others."""
    return f"{'run' if stage == PREFLIGHT else 'hold'} {stage}"


class Calendar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The business days of the operators."""

    zone: Words  # time zone of the IANA database
    country: Words  # ISO 3166 code; its public holidays count
    subdivision: str = ""  # subdivision of the country that has its own holidays, such as TX
    days_off: tuple[str, ...] = ()  # further days off, YYYY-MM-DD


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Intervals for sampling the servers and evaluating a hold. All defaults are [ours]."""

    interval_s: Interval = 30.0  # between two snapshots of the servers' metrics
    judge_every_s: Positive = 60.0  # between two evaluations of a hold
    extend_up_to_s: NotNegative = 14_400.0  # longest extension of a hold that has too few samples or was restarted


class CanaryChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The drill that runs at intervals during a baseline or a hold. All defaults are [ours]."""

    drill: Words = "observation"  # name, or a file in the folder of the stages file
    every_s: CanaryCheckInterval = 300.0  # from one start to the next; the same on the control
    set: tuple[str, ...] = ()  # overrides, as with `drill run --set`


class RoutingChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number and rate of the routing checks. All defaults are [ours]."""

    keys: Annotated[int, msgspec.Meta(ge=100)] = 300  # number of keys in one routing check
    every_s: Positive = 3600.0  # between two routing checks
    per_s: Positive = 20.0  # highest rate of requests


class Signing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long evidence and signatures stay valid. The defaults are [ours]; they are also the allowed maximum."""

    valid_h: Annotated[float, msgspec.Meta(gt=0, le=24)] = 24.0  # a go and its signature, to unlock the next stage
    staging_valid_h: Annotated[float, msgspec.Meta(gt=0, le=168)] = 168.0  # staging's drills, for production's preflight
    rehearsal_valid_h: Annotated[float, msgspec.Meta(gt=0, le=336)] = 336.0  # the rollback rehearsal, for a full rollout


class OnMock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shorter times for a target of kind mock. All defaults are [ours]."""

    baseline_s: Positive = 56.0  # length of the baseline
    interval_s: Positive = 1.0  # between two snapshots
    canary_check_every_s: Positive = 15.0  # between two canary checks
    canary_check_set: tuple[str, ...] = ()  # overrides of the canary check's drill


class DrillsByKind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The drills that must pass on a target of each kind: names, files in the folder of the stages file, or `all`."""

    mock: tuple[Words, ...] = (EVERY_DRILL,)  # on a mock
    staging: tuple[Words, ...] = (EVERY_DRILL,)  # on a target of kind staging
    production: tuple[Words, ...] = ("observation",)  # on a target of kind production

    def of(self, kind: TargetKind) -> tuple[str, ...]:
        """The drills for one kind of target."""
        chosen: tuple[str, ...] = getattr(self, kind)
        return chosen


class BusinessDay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """The local hours of a business day."""

    from_: TimeOfDay  # start, HH:MM
    to: TimeOfDay  # end, HH:MM

    def __post_init__(self) -> None:
        if self.from_ >= self.to:
            raise ValueError(f"a business day from {self.from_} to {self.to} has no hours")
        if _minutes(self.to) - _minutes(self.from_) < MIN_BUSINESS_DAY_H * 60:
            raise ValueError(
                f"from {self.from_} to {self.to} is no whole business day, which has at least {MIN_BUSINESS_DAY_H} hours"
            )


def _minutes(time_of_day: str) -> int:
    hours, minutes = time_of_day.split(":")
    return int(hours) * 60 + int(minutes)


class StageRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[stages.N]`."""

    title: Words  # for reports
    cohort: Words  # in words: the users who get the new revision
    cohort_percent: Percent | None = None  # share of the keys in the cohort
    required: tuple[str, ...]  # requirements of a go in addition to the gates
    hold_s: Positive | None = None  # length of the hold
    business_day: BusinessDay | None = None  # hold for a whole business day, instead of `hold_s`
    gates_at_h: tuple[NotNegative, ...] = ()  # hours after the hold began at which gates are judged, besides its end
    control: str = ""  # the target that still serves the previous revisions; not for stages 0 and 4
    baseline_s: Positive | None = None  # length of the baseline; this and the following keys are for stage 0 only
    rehearsal_limit_s: Positive | None = None  # time to recover that a rollback rehearsal may take
    client_builds: tuple[Build, ...] = ()  # builds that must be able to join; canary checks take turns over them
    side_by_side: Count = 1  # drills at the same time on the embedded mock; elsewhere one
    drills: DrillsByKind | None = None  # drills that must pass


class Notify(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The command that is notified of a hold's changes, as JSON on its input. It gets no secrets."""

    argv: tuple[Words, ...] = ()  # program and arguments; run without a shell, beside the stages file; empty: no command
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 10.0  # [ours] time limit


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One verification command."""

    name: Name  # for reports
    argv: Annotated[tuple[Words, ...], msgspec.Meta(min_length=1)]  # program and arguments; run without a shell
    cwd_env: VariableName | None = None  # the variable that names the folder
    cwd: str = ""  # the folder, or a folder relative to that of `cwd_env`
    programs: tuple[Words, ...] = ()  # further programs that it needs
    environment: tuple[VariableName, ...] = ()  # variables that it gets in addition to the few that every program needs
    runner: Runner = ""  # test runner whose output reports the number of tests; empty: it runs no tests
    logs: tuple[Words, ...] = ()  # patterns of files in its folder with the runner's output; default: its own output
    # Patterns of results files that it writes in its folder, as JSON lines with `status` and `log_file`: each step must be
    # `passed`, and the tests in its log file are counted, if there is a runner.
    results: tuple[Words, ...] = ()
    # What it must print: `json`, a service's answer that is no error; `metrics`, the metrics of the sync service. An error
    # answer never passes. A shell's line that ends with `| jq` must print JSON.
    answer: Answer = ""
    timeout_s: Positive = 600.0  # [ours] time limit
    precondition: Literal["", "observability_tests", "retired_route_guard"] = ""  # the precondition that its tests decide
    stands_for: str = ""  # the operators' command that this command of stormgate accompanies

    @property
    def is_ours(self) -> bool:
        """Whether the command belongs to stormgate and not to the operators."""
        return bool(self.stands_for)


class Stages(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stages file. `stages` is in the order of the rollout."""

    calendar: Calendar
    sampling: Sampling = Sampling()
    canary_check: CanaryChecks = CanaryChecks()
    routing_check: RoutingChecks = RoutingChecks()
    signoff: Signing = Signing()
    mock: OnMock = OnMock()
    notify: Notify = Notify()
    stages: dict[Stage, StageRules]
    commands: tuple[Command, ...]

    def require(self, stage: Stage) -> StageRules:
        """The rules of a stage. Raises `UsageError` if the file does not have the stage."""
        if stage not in self.stages:
            raise UsageError(f"there is no stage '{stage}'; expected one of: {', '.join(self.stages)}.")
        return self.stages[stage]

    def before(self, stage: Stage) -> Stage | None:
        """The previous stage, which must be a signed go; None for the first. Raises `UsageError` as `require` does."""
        self.require(stage)
        names = [*self.stages]
        return names[names.index(stage) - 1] if stage != names[0] else None

    @property
    def client_builds(self) -> tuple[str, ...]:
        """The client builds that the canary checks of all stages rotate through."""
        return self.stages[PREFLIGHT].client_builds

    def interval_s(self, kind: TargetKind) -> float:
        """Seconds between two snapshots."""
        return self.mock.interval_s if kind == "mock" else self.sampling.interval_s

    def canary_checks(self, kind: TargetKind) -> CanaryChecks:
        """The canary checks on a target of this kind."""
        if kind != "mock":
            return self.canary_check
        return msgspec.structs.replace(
            self.canary_check, every_s=self.mock.canary_check_every_s, set=self.mock.canary_check_set
        )

    def baseline_s(self, kind: TargetKind) -> float:
        """Length of the baseline in seconds."""
        return self.mock.baseline_s if kind == "mock" else self.stages[PREFLIGHT].baseline_s or 0.0


def load(path: Path) -> Stages:
    """Read a stages file. Raises `UsageError`: a line for each mistake, with file, key and the allowed values."""
    data = read_toml(path)
    tables = data.pop("stages", None)
    found = to_struct({**data, "stages": {}}, Stages, str(path))
    found = msgspec.structs.replace(found, stages=dict(_stages(tables, path)))
    if mistakes := [f"{path}: {sentence}" for sentence in _mistakes(found)]:
        raise UsageError("\n".join(mistakes))
    return found


def _stages(tables: object, path: Path) -> Iterator[tuple[Stage, StageRules]]:
    """Convert each table separately, so that an error names its stage."""
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: has no stages; expected one table per stage, such as [stages.1].")
    for stage in RUNBOOK:
        if stage not in tables:
            raise UsageError(f"{path}: key 'stages.{stage}' is missing; the runbook has the stages {', '.join(RUNBOOK)}.")
    names = [*tables]
    if [name for name in names if name in RUNBOOK] != [*RUNBOOK] or (names[0], names[-1]) != (PREFLIGHT, FULL_ROLLOUT):
        raise UsageError(
            f"{path}: the stages are in the order {', '.join(tables)}; the runbook's are {', '.join(RUNBOOK)}, in this order. "
            f"Put a stage of your own between two of them."
        )
    mistakes = []
    for stage, table in tables.items():
        try:
            msgspec.convert(stage, Stage)
        except msgspec.ValidationError:
            raise UsageError(f"{path}: 'stages.{stage}' is no name for a stage; expected such as 3c.") from None
        if not isinstance(table, dict):
            raise UsageError(f"{path}: key 'stages.{stage}' is {table!r}, but a stage is a table.")
        try:
            yield stage, to_struct(table, StageRules, f"{path}: [stages.{stage}]")
        except UsageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UsageError("\n".join(mistakes))


def _mistakes(stages: Stages) -> Iterator[str]:
    for stage, rules in stages.stages.items():
        yield from _mistakes_of_a_stage(stage, rules)
    if stages.sampling.judge_every_s > MAX_JUDGE_EVERY_S:
        yield (
            f"key 'sampling.judge_every_s' is {stages.sampling.judge_every_s:g}; a hold is judged every "
            f"{MAX_JUDGE_EVERY_S:g} s or more often, so that it stops in time."
        )
    yield from _mistakes_of_cohorts(stages)
    yield from _mistakes_of_commands(stages)
    for day in stages.calendar.days_off:
        if not _DAY.fullmatch(day):
            yield f"key 'calendar.days_off' has {day!r}; expected days such as \"2026-12-24\"."


def _mistakes_of_a_stage(stage: Stage, rules: StageRules) -> Iterator[str]:
    key = f"key 'stages.{stage}"
    needed = minimum(stage).required
    allowed = needed if stage in RUNBOOK else ADDED_STAGE_MAY_REQUIRE
    for name in needed:
        if name not in rules.required:
            yield f"{key}.required' lacks {name!r}, which a go of stage {stage} always needs."
    for name in rules.required:
        if name not in allowed:
            yield f"{key}.required' has {name!r}; allowed here: {', '.join(allowed)}."
    if stage == PREFLIGHT:
        yield from _mistakes_of_preflight(rules, key)
        return
    if rules.drills or rules.baseline_s or rules.rehearsal_limit_s or rules.client_builds:
        yield f"{key}' has keys of stage 0, such as 'drills'; remove them."
    if stage == FULL_ROLLOUT and rules.control:
        yield f"{key}.control' is {rules.control!r}, but a full rollout leaves no control to compare with."
    if "cohort" in needed and rules.cohort_percent is None:
        yield f"{key}.cohort_percent' is missing; expected the share of the keys that the cohort has, in percent."
    if "armed" in rules.required and not rules.gates_at_h:
        yield f"{key}.gates_at_h' is empty, but 'armed' is checked at these hours."
    yield from _mistakes_of_a_hold(stage, rules, key)


def _mistakes_of_a_hold(stage: Stage, rules: StageRules, key: str) -> Iterator[str]:
    if stage == "2":
        if rules.business_day is None or rules.hold_s is not None:
            yield f'{key}\' is held for a business day; expected business_day = {{ from = "09:00", to = "17:00" }} alone.'
        return
    if rules.hold_s is None or rules.business_day is not None:
        yield f"{key}.hold_s' is missing; expected the length of the hold in seconds, and no business_day."
        return
    if rules.hold_s < minimum(stage).hold_s:
        yield f"{key}.hold_s' is {rules.hold_s:g}, but stage {stage} is held for at least {minimum(stage).hold_s:g} s."
    elif stage == FULL_ROLLOUT and not set(FULL_ROLLOUT_GATES_H) <= set(rules.gates_at_h):
        yield f"{key}.gates_at_h' is {list(rules.gates_at_h)}, but gates are judged at 0, 1, 6 and 24 hours."
    elif any(hour * 3600 > rules.hold_s for hour in rules.gates_at_h):
        yield f"{key}.gates_at_h' is {list(rules.gates_at_h)}, which goes beyond the hold of {rules.hold_s:g} s."


def _mistakes_of_cohorts(stages: Stages) -> Iterator[str]:
    """Check that no cohort is smaller than the one before, and that the last one contains all clients."""
    before = 0.0
    for stage, rules in stages.stages.items():
        percent = rules.cohort_percent or 0.0
        if percent < before:
            yield f"key 'stages.{stage}.cohort_percent' is {percent:g}, which is less than the {before:g} of the stage before."
        before = percent
    if before != EVERYBODY_PERCENT:
        yield f"key 'stages.4.cohort_percent' is {before:g}, but a full rollout is to {EVERYBODY_PERCENT:g} percent."


def _mistakes_of_preflight(rules: StageRules, key: str) -> Iterator[str]:
    for name in ("drills", "baseline_s", "rehearsal_limit_s"):
        if getattr(rules, name) is None:
            yield f"{key}.{name}' is missing; stage 0 needs it."
    if rules.baseline_s is not None and rules.baseline_s < MIN_BASELINE_S:
        yield f"{key}.baseline_s' is {rules.baseline_s:g}, but a baseline takes at least {MIN_BASELINE_S:g} s."
    if not rules.client_builds:
        yield f"{key}.client_builds' is empty; expected the client builds that are in use."
    if rules.control:
        yield f"{key}.control' has no use here: stage 0 serves nothing new."
    if rules.hold_s is not None or rules.business_day is not None:
        yield f"{key}' is not held; leave 'hold_s' and 'business_day' out."
    if rules.drills is not None and not (rules.drills.mock and rules.drills.staging and rules.drills.production):
        yield f"{key}.drills' is empty for one kind of target; name at least one drill."


def _mistakes_of_commands(stages: Stages) -> Iterator[str]:
    names = [command.name for command in stages.commands]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"two of the 'commands' are called {name!r}; each needs a name of its own."
    theirs = [command for command in stages.commands if not command.is_ours]
    if not theirs:
        yield "there are no 'commands' of the operators' own; ours (with 'stands_for') cannot replace them."
    for precondition in COMMAND_PRECONDITIONS:
        if not any(command.precondition == precondition for command in theirs):
            yield f"no command of the operators' own has precondition = {precondition!r}."
    for command in stages.commands:
        if command.precondition and not command.runner:
            yield f"the command {command.name!r} answers a precondition by its tests; add 'runner', which counts them."
        if command.is_ours and command.precondition:
            yield f"the command {command.name!r} has 'stands_for', so it answers no 'precondition'."
        if command.is_ours and command.stands_for not in names:
            yield f"the command {command.name!r} stands for {command.stands_for!r}; expected one of: {', '.join(names)}."
