"""Check a stage before it starts: files, secrets, commands, hooks, caps, machine and services. Changes nothing.

What the services are asked only reads: each page of metrics, one token, a join of each client build, routing checks, and the
operators' own command that checks the last good revisions.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from drills.judging.checks.thresholds import Thresholds
from drills.rollout.check import limits, machine, service
from drills.rollout.check.findings import Finding, attempt, fails, note, ok
from drills.rollout.hold import canary_checks, rollouts, stage_plan, times, unlock
from drills.rollout.hold.stage_plan import Asked
from drills.rollout.preflight import drill_runs
from drills.rollout.setup import commands, journal, stage_target
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import PREFLIGHT, Command, StageRules, Stages
from drills.rollout.verdict import splits
from drills.runs import targets
from sim.base.clocks import Clock
from sim.drill import model as drill_file
from sim.drill.model import Drill
from sim.drill.target_rules import TargetKind

_ASSUMED = "https://a-variable-that-is-not-set.invalid"  # fits where an address is expected, and where a secret is
_DAYS_AHEAD = 14  # [ours] for which free days are shown


def check(asked: Asked, clock: Clock) -> list[Finding]:
    """Check everything that the stage will need. Raises `UsageError` for a stages or thresholds file that cannot be used."""
    stages, thresholds = stage_plan.read_files(asked)
    return list(_Check(asked, stages, thresholds, clock).run())


@dataclass
class _Check:
    """One check of a stage."""

    asked: Asked
    stages: Stages
    thresholds: Thresholds
    clock: Clock
    found: list[Finding] = field(default_factory=list)

    @property
    def _rules(self) -> StageRules:
        return self.stages.stages[self.asked.stage]

    @property
    def _is_preflight(self) -> bool:
        return self.asked.stage == PREFLIGHT

    @property
    def _file(self) -> str:
        """The targets file, for sentences."""
        return str(self.asked.targets or targets.DEFAULT_FILE)

    def run(self) -> list[Finding]:
        """Find everything, in the order in which the stage would meet it."""
        is_embedded, unset = self.asked.target == targets.EMBEDDED, self._secrets()
        target = None if is_embedded else self._target(unset)
        if target is None and not is_embedded:
            return self.found
        kind: TargetKind = target.endpoints.kind if target else "mock"
        if not self._is_preflight:
            self.found += list(self._unlocked(kind))
        control = self._control(target, unset) if target else None
        drills = self._drills(kind, 2 if control else 1)
        if target is not None:
            self.found += list(limits.of(drills, target.endpoints, self.asked.thresholds, self._file))
        self.found += list(self._commands(kind, target))
        self.found += list(self._machine(kind, drills, target, 2 if control else 1))
        self.found += list(self._time(kind, drills, is_embedded))
        if target is not None and not unset:
            self.found += list(self._services(target, control))
        elif unset:
            self.found.append(note("services", "were not asked, as secrets are missing"))
        return self.found

    # --- files ----------------------------------------------------------------------------------------

    def _secrets(self) -> dict[str, str]:
        """The environment variables that the targets file names and that are not set, with their keys."""
        target = self.asked.target
        if target == targets.EMBEDDED or "://" in target:
            return {}
        names = [target, *([self._rules.control] if self._rules.control else [])]
        unset: dict[str, str] = {}
        for name in names:
            found = attempt([], "secrets", lambda name=name: targets.unset_variables(Path(self._file), name))  # type: ignore[misc]
            for variable, key in (found or {}).items():
                unset[variable] = f"[targets.{name}] {key}"
        for variable, key in unset.items():
            reason = f"the environment variable {variable} is not set"
            self.found.append(fails("secrets", reason, f"export {variable}, or name another in {self._file}: {key}"))
        if not unset:
            self.found.append(ok("secrets", f"every environment variable that {target} names is set"))
        return unset

    def _target(self, unset: Mapping[str, str]) -> StageTarget | None:
        assumed = {**os.environ, **dict.fromkeys(unset, _ASSUMED)}
        found = attempt(
            self.found, "target", lambda: stage_target.resolve(self.asked.target, self.asked.targets, assumed), self._file
        )
        if found is not None:
            about = found.endpoints
            self.found.append(ok("target", f"{about.name} ({about.kind}): {self._file} can be read, and its commands exist"))
        return found

    def _control(self, target: StageTarget, unset: Mapping[str, str]) -> StageTarget | None:
        where = f"{self.asked.stages}: [stages.{self.asked.stage}] control"
        if splits.CANARY in self._rules.required and not self._rules.control:
            self.found.append(fails("control", "it is missing, so the canary cannot be compared, which is no go", where))
        assumed = {**os.environ, **dict.fromkeys(unset, _ASSUMED)}
        name = self._rules.control
        control = attempt(self.found, "control", lambda: stage_target.control_of(name, target, assumed), where)
        if control is not None:
            self.found.append(ok("control", f"{name}, at {control.endpoints.runtime_url}"))
        return control

    def _drills(self, kind: TargetKind, sides: int) -> dict[str, Drill]:
        """The drills of the stage, and that of its canary checks."""
        beside, checks = self.asked.stages.parent, self.stages.canary_checks(kind)
        interval_s = self.stages.interval_s(kind)
        canary = attempt(
            self.found,
            "canary check",
            lambda: canary_checks.load(checks, beside, kind, interval_s, sides),
            f"{self.asked.stages}: [canary_check] drill, every_s and set",
        )
        found = {f"the canary check '{canary.name}'": canary} if canary is not None else {}
        if self._rules.drills:
            names, where = self._rules.drills.of(kind), f"{self.asked.stages}: [stages.0.drills] {kind}"
            paths = attempt(self.found, "drills", lambda: drill_runs.chosen(names, beside, kind), where) or {}
            attempt(self.found, "thresholds", lambda: drill_runs.require_judged(paths.values(), self.thresholds))
            found |= {name: drill_file.load(path) for name, path in paths.items()}
        return found

    def _commands(self, kind: TargetKind, target: StageTarget | None) -> Iterator[Finding]:
        if not self._is_preflight:
            return
        setting = commands.Setting(
            target=target.given if target else "", targets=self._file if target and target.file else "", is_mock=kind == "mock"
        )
        lacks: dict[str, list[Command]] = {}
        for command in self.stages.commands:
            lacks.setdefault(commands.missing(command, setting), []).append(command)
        for reason, same in lacks.items():
            names = ", ".join(command.name for command in same)
            if not reason:
                yield ok("commands", f"{names} can be run")
            elif setting.is_mock and not any(command.is_ours for command in same):
                yield note("commands", f"{names} will not be run, which is allowed on a mock: {reason}")
            else:
                yield fails("commands", f"{names} will not be run: {reason}", f"{self.asked.stages}: [[commands]]")

    # --- the stage's place in the rollout -------------------------------------------------------------

    def _unlocked(self, kind: TargetKind) -> Iterator[Finding]:
        if kind == "mock":
            yield fails("unlocked", "a mock unlocks no stage but 0", "give --target a target of kind staging or production")
            return
        folder = rollouts.folder_of(self.asked.out, self.asked.rollout)
        entries = journal.read(folder / journal.NAME)
        left = rollouts.under_way(entries, self.asked.stage)
        if left is not None:
            yield ok("unlocked", f"the hold {left.run_id} is under way and will be resumed")
            return
        lacks = list(unlock.missing(folder, entries, self.asked.stage, self.clock.now(), self.stages))
        for sentence in lacks:
            yield fails("unlocked", sentence, f"stormgate stage status --rollout {self.asked.rollout}")
        if not lacks:
            yield ok("unlocked", f"stage {self.stages.before(self.asked.stage)} is a signed go")

    # --- the machine and the time ---------------------------------------------------------------------

    def _hold_s(self, kind: TargetKind) -> float:
        return self.stages.baseline_s(kind) if self._is_preflight else self._rules.hold_s or 8 * 3600.0

    def _machine(
        self, kind: TargetKind, drills: Mapping[str, Drill], target: StageTarget | None, sides: int
    ) -> Iterator[Finding]:
        canary = next((drill for name, drill in drills.items() if name.startswith("the canary")), None)
        needed = sum(machine.run_bytes(drill) for drill in drills.values())
        if canary is not None:
            needed += machine.hold_bytes(self.stages, kind, canary, self._hold_s(kind), sides)
        yield machine.disk(self.asked.out, needed)
        yield from machine.sockets(list(drills.values()), target.endpoints if target else None)

    def _time(self, kind: TargetKind, drills: Mapping[str, Drill], is_embedded: bool) -> Iterator[Finding]:
        now = self.clock.now()
        if self._is_preflight:
            part = times.preflight(self.stages, kind, drills.values(), is_embedded)
            parts = (
                f"drills {times.words(part.drills_s)}, rollback {times.words(part.rehearsal_s)}, "
                f"baseline {times.words(part.baseline_s)}"
            )
            ends = now + timedelta(seconds=part.total_s)
            yield ok("time", f"about {times.words(part.total_s)} ({parts}), until about {ends.astimezone():%a %H:%M %Z}")
            return
        where = f"{self.asked.stages}: [calendar]"
        calendar = attempt(self.found, "calendar", lambda: Calendar(self.stages.calendar), where)
        if calendar is None:
            return
        day = self._rules.business_day
        if day is None:
            ends = now + timedelta(seconds=self._rules.hold_s or 0.0)
            yield ok("time", f"held for {times.words(self._rules.hold_s or 0.0)}, until {calendar.local(ends)} at the earliest")
            return
        hours = attempt(self.found, "calendar", lambda: calendar.next_hours(now, day), where)
        if hours is not None:
            waits = times.words((hours.begin - now).total_seconds())
            span = f"from {calendar.local(hours.begin)} to {calendar.local(hours.end)}"
            free = calendar.free_days(now, hours.begin)
            skipped = f"; free until then: {', '.join(free)}" if free else ""
            yield ok("time", f"the next whole business day is {span}; the hold waits {waits} for it{skipped}")
        ahead = calendar.free_days(now, now + timedelta(days=_DAYS_AHEAD))
        named = [text for text in ahead if "weekend" not in text]
        if named:
            yield note("calendar", f"free within {_DAYS_AHEAD} days besides weekends: {', '.join(named)}", where)

    # --- the services ---------------------------------------------------------------------------------

    def _services(self, target: StageTarget, control: StageTarget | None) -> Iterator[Finding]:
        rules = self._rules
        yield from service.servers(target, self._file, self.clock)
        if control is not None:
            yield from service.servers(control, self._file, self.clock, "control's ")
        yield from service.accounts(target, self.stages.client_builds, self._file)
        if self._is_preflight or rules.cohort_percent is not None:
            yield from service.cohort(target, self.stages.routing_check, rules.cohort_percent, self._file, self.clock)
        if self._is_preflight:
            yield from service.rehearsal(target, self._file, self.clock, rules.rehearsal_limit_s or 0.0)
        if self._is_preflight or "armed" in rules.required:
            yield from service.rollback_check(target, self._file)
