"""The stages as operators write them: who gets the new revision, how long it is held, what a go needs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from drills import DATA
from drills.rollout.setup.records import PRECONDITION_NAMES, Stage
from sim.base.config import read_toml, to_struct
from sim.base.errors import UsageError
from sim.drill.model import Build
from sim.drill.target_rules import TargetKind
from sim.server.settings import Count, NotNegative, Positive

DEFAULT_PATH = DATA / "stages.toml"
ORDER: tuple[Stage, ...] = get_args(Stage)
EVERY_DRILL = "all"
MAX_HOLE_INTERVALS = 3  # a longer one breaks a hold
# What no file may take away: the parts that a go of a stage needs, and how short its hold may be.
REQUIRED: dict[Stage, tuple[str, ...]] = {
    "0": ("preconditions", "commands", "drills", "rollback", "baseline"),
    "1": ("hold",),
    "2": ("hold", "cohort", "builds", "canary_vs_control"),
    **dict.fromkeys(("3a", "3b"), ("hold", "cohort", "builds")),
    "4": ("hold", "cohort", "builds", "armed"),
}
SHORTEST_HOLD_S: dict[Stage, float] = {"1": 3600.0, "3a": 1800.0, "3b": 1800.0, "4": 86400.0}
LONGEST_JUDGING_S = 300.0  # [ours] between two looks at a hold: a budget that burns fast is seen within that
SHORTEST_DAY_H = 8  # of work: 09:00 to 17:00 is one day
SHORTEST_BASELINE_S = 1800.0  # [ours] it stands for the hour before a hold
EVERYBODY_PERCENT = 100.0
LAST_GATES_H = (0.0, 1.0, 6.0, 24.0)

Runner = Literal["cargo", "pytest", "go", "node", ""]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*$")]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Interval = Annotated[float, msgspec.Meta(gt=0, le=300)]  # seconds; the fastest burn of a budget is looked for within 300 s
WatchInterval = Annotated[float, msgspec.Meta(gt=0, le=3600)]  # seconds; clients are what most gates rest on [ours]
Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
Words = Annotated[str, msgspec.Meta(min_length=1)]
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Calendar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When people are at work."""

    zone: Words  # of the IANA database
    country: Words  # whose public holidays count
    subdivision: str = ""
    days_off: tuple[str, ...] = ()  # further ones, YYYY-MM-DD


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a window is watched. All defaults are [ours]."""

    interval_s: Interval = 30.0
    judge_every_s: Positive = 60.0
    extend_up_to_s: NotNegative = 14_400.0


class CanaryChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The drill that runs beside a baseline or a hold. All defaults are [ours]."""

    drill: Words = "observation"
    every_s: WatchInterval = 300.0
    set: tuple[str, ...] = ()


class RoutingChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the routing service is asked. All defaults are [ours]."""

    keys: Annotated[int, msgspec.Meta(ge=100)] = 300
    every_s: Positive = 3600.0
    per_s: Positive = 20.0


class Signing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long what was shown is good for. The defaults are [ours], and the most that is allowed."""

    valid_h: Annotated[float, msgspec.Meta(gt=0, le=24)] = 24.0  # a go and its signature, to open the next stage
    staging_valid_h: Annotated[float, msgspec.Meta(gt=0, le=168)] = 168.0  # staging's drills, for production's preflight
    rehearsal_valid_h: Annotated[float, msgspec.Meta(gt=0, le=336)] = 336.0  # the rollback's, for a full rollout


class OnMock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is shorter on a target of kind mock. All defaults are [ours]."""

    baseline_s: Positive = 56.0
    interval_s: Positive = 1.0
    canary_check_every_s: Positive = 15.0
    canary_check_set: tuple[str, ...] = ()


class DrillsByKind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The drills that must be green on a target of each kind: names, files beside the stages' file, or `all`."""

    mock: tuple[Words, ...] = (EVERY_DRILL,)
    staging: tuple[Words, ...] = (EVERY_DRILL,)
    production: tuple[Words, ...] = ("observation",)

    def of(self, kind: TargetKind) -> tuple[str, ...]:
        """Those for one kind."""
        chosen: tuple[str, ...] = getattr(self, kind)
        return chosen


class BusinessDay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """The hours of a working day, local."""

    from_: TimeOfDay
    to: TimeOfDay

    def __post_init__(self) -> None:
        if self.from_ >= self.to:
            raise ValueError(f"a business day from {self.from_} to {self.to} has no hours")
        if _minutes(self.to) - _minutes(self.from_) < SHORTEST_DAY_H * 60:
            raise ValueError(
                f"from {self.from_} to {self.to} is no whole business day, which has {SHORTEST_DAY_H} hours at least"
            )


def _minutes(time_of_day: str) -> int:
    """From midnight on."""
    hours, minutes = time_of_day.split(":")
    return int(hours) * 60 + int(minutes)


class StageRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[stages.N]`."""

    title: Words
    cohort: Words
    cohort_percent: Percent | None = None
    required: tuple[str, ...]
    hold_s: Positive | None = None
    business_day: BusinessDay | None = None
    gates_at_h: tuple[NotNegative, ...] = ()  # within the hold; its end is one in any case
    control: str = ""  # the target of the targets file where the revisions before are reached, of stages 1 to 3b
    baseline_s: Positive | None = None  # from here on of stage 0 alone
    rehearsal_limit_s: Positive | None = None
    client_builds: tuple[Build, ...] = ()
    side_by_side: Count = 1
    drills: DrillsByKind | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One verification command."""

    name: Name
    argv: Annotated[tuple[Words, ...], msgspec.Meta(min_length=1)]
    cwd_env: VariableName | None = None  # the variable that names the folder
    cwd: str = ""  # the folder, or one below that of `cwd_env`
    programs: tuple[Words, ...] = ()  # further ones that it needs
    environment: tuple[VariableName, ...] = ()  # variables that it gets besides the few that every program needs
    runner: Runner = ""
    timeout_s: Positive = 600.0  # [ours]
    precondition: Literal["", "observability_tests", "retired_route_guard"] = ""
    stands_for: str = ""  # the operators' command beside which this one of ours stands

    @property
    def is_ours(self) -> bool:
        """Whether it is none of the operators' own."""
        return bool(self.stands_for)


class Stages(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    calendar: Calendar
    sampling: Sampling = Sampling()
    canary_check: CanaryChecks = CanaryChecks()
    routing_check: RoutingChecks = RoutingChecks()
    signoff: Signing = Signing()
    mock: OnMock = OnMock()
    stages: dict[Stage, StageRules]
    commands: tuple[Command, ...]

    def interval_s(self, kind: TargetKind) -> float:
        """Between two snapshots, in seconds."""
        return self.mock.interval_s if kind == "mock" else self.sampling.interval_s

    def watching(self, kind: TargetKind) -> CanaryChecks:
        """How clients watch."""
        if kind != "mock":
            return self.canary_check
        return msgspec.structs.replace(
            self.canary_check, every_s=self.mock.canary_check_every_s, set=self.mock.canary_check_set
        )

    def baseline_s(self, kind: TargetKind) -> float:
        """How long the baseline takes, in seconds."""
        return self.mock.baseline_s if kind == "mock" else self.stages["0"].baseline_s or 0.0


def load(path: Path) -> Stages:
    """Read a stages file. Raises `UsageError`, one sentence with file, key and what is allowed."""
    data = read_toml(path)
    tables = data.pop("stages", None)
    found = to_struct({**data, "stages": {}}, Stages, str(path))
    found = msgspec.structs.replace(found, stages=dict(_stages(tables, path)))
    for sentence in _mistakes(found):
        raise UsageError(f"{path}: {sentence}")
    return found


def _stages(tables: object, path: Path) -> Iterator[tuple[Stage, StageRules]]:
    """Each by itself, so that a mistake is told with the stage that it is in."""
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: has no stages; expected one table a stage, such as [stages.1].")
    if unknown := [name for name in tables if name not in ORDER]:
        raise UsageError(f"{path}: there is no stage '{unknown[0]}'; there are: {', '.join(ORDER)}.")
    for stage in ORDER:
        if stage not in tables:
            raise UsageError(f"{path}: key 'stages.{stage}' is missing; there are the stages {', '.join(ORDER)}.")
        if not isinstance(tables[stage], dict):
            raise UsageError(f"{path}: key 'stages.{stage}' is {tables[stage]!r}, but a stage is a table.")
        yield stage, to_struct(tables[stage], StageRules, f"{path}: [stages.{stage}]")


def _mistakes(stages: Stages) -> Iterator[str]:
    for stage, rules in stages.stages.items():
        yield from _mistakes_of_a_stage(stage, rules)
    if stages.sampling.judge_every_s > LONGEST_JUDGING_S:
        yield (
            f"key 'sampling.judge_every_s' is {stages.sampling.judge_every_s:g}, but a hold is judged every "
            f"{LONGEST_JUDGING_S:g} s at least, or what must stop it at once goes on."
        )
    yield from _mistakes_of_cohorts(stages)
    yield from _mistakes_of_commands(stages)
    for day in stages.calendar.days_off:
        if not _DAY.fullmatch(day):
            yield f"key 'calendar.days_off' has {day!r}, but expected days such as \"2026-12-24\"."


def _mistakes_of_a_stage(stage: Stage, rules: StageRules) -> Iterator[str]:
    key = f"key 'stages.{stage}"
    for part in REQUIRED[stage]:
        if part not in rules.required:
            yield f"{key}.required' lacks {part!r}, which a go of stage {stage} always needs."
    for part in rules.required:
        if part not in REQUIRED[stage]:
            yield f"{key}.required' has {part!r}; allowed here: {', '.join(REQUIRED[stage])}."
    if stage == "0":
        yield from _mistakes_of_preflight(rules, key)
        return
    if rules.drills or rules.baseline_s or rules.rehearsal_limit_s or rules.client_builds:
        yield f"{key}' has keys of stage 0, such as 'drills'; they mean nothing here."
    if stage == "4" and rules.control:
        yield f"{key}.control' is {rules.control!r}, but a full rollout leaves no control to hold it against."
    if "cohort" in REQUIRED[stage] and rules.cohort_percent is None:
        yield f"{key}.cohort_percent' is missing; expected the share of the keys that the cohort has, in percent."
    yield from _mistakes_of_a_hold(stage, rules, key)


def _mistakes_of_a_hold(stage: Stage, rules: StageRules, key: str) -> Iterator[str]:
    if stage == "2":
        if rules.business_day is None or rules.hold_s is not None:
            yield f'{key}\' is held for a business day; expected business_day = {{ from = "09:00", to = "17:00" }} alone.'
        return
    if rules.hold_s is None or rules.business_day is not None:
        yield f"{key}.hold_s' is missing; expected the length of the hold in seconds, and no business_day."
        return
    if rules.hold_s < SHORTEST_HOLD_S[stage]:
        yield f"{key}.hold_s' is {rules.hold_s:g}, but stage {stage} is held for at least {SHORTEST_HOLD_S[stage]:g} s."
    if stage == "4" and not set(LAST_GATES_H) <= set(rules.gates_at_h):
        yield f"{key}.gates_at_h' is {list(rules.gates_at_h)}, but gates are judged at 0, 1, 6 and 24 hours."
    if any(hour * 3600 > rules.hold_s for hour in rules.gates_at_h):
        yield f"{key}.gates_at_h' is {list(rules.gates_at_h)}, which goes beyond the hold of {rules.hold_s:g} s."


def _mistakes_of_cohorts(stages: Stages) -> Iterator[str]:
    """A cohort only ever grows, and the last one is everybody: a full rollout to a few would have shown nothing."""
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
    if rules.baseline_s is not None and rules.baseline_s < SHORTEST_BASELINE_S:
        yield f"{key}.baseline_s' is {rules.baseline_s:g}, but a baseline takes at least {SHORTEST_BASELINE_S:g} s."
    if not rules.client_builds:
        yield f"{key}.client_builds' is empty; expected the builds that the target surfaces have."
    if rules.control:
        yield f"{key}.control' means nothing here: nothing new is served yet."
    if rules.hold_s is not None or rules.business_day is not None:
        yield f"{key}' is not held; leave 'hold_s' and 'business_day' out."
    if rules.drills is not None and not (rules.drills.mock and rules.drills.staging and rules.drills.production):
        yield f"{key}.drills' is empty for one kind of target; without a drill nothing is green."


def _mistakes_of_commands(stages: Stages) -> Iterator[str]:
    names = [command.name for command in stages.commands]
    for name in names:
        if names.count(name) > 1:
            yield f"two of the 'commands' are called {name!r}; each needs a name of its own."
    theirs = [command for command in stages.commands if not command.is_ours]
    if not theirs:
        yield "there are no 'commands' of the operators' own, and ours stand beside them only."
    for precondition in PRECONDITION_NAMES[:2]:
        if not any(command.precondition == precondition for command in theirs):
            yield f"no command of the operators' own has precondition = {precondition!r}."
    for command in stages.commands:
        if command.precondition and not command.runner:
            yield f"the command {command.name!r} answers a precondition by its tests; without 'runner' nobody counts them."
        if command.is_ours and command.precondition:
            yield f"the command {command.name!r} stands beside another, so it answers no 'precondition'."
        if command.is_ours and command.stands_for not in names:
            yield f"the command {command.name!r} stands for {command.stands_for!r}; there are: {', '.join(names)}."
