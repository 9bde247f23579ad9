"""Check at each gate of the full rollout that the rollback is available, without rolling back.

It is available if its commands and the files that they name did not change since the rehearsal; if the last good revisions are
not the deployed ones and an operator's command still finds them; and if the rehearsal is not too old.
"""

import asyncio
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from drills.judging.checks.verdicts import State
from drills.rollout.setup import evidence, records
from drills.rollout.setup import stages as stages_file
from drills.rollout.setup.commands import hook_environment
from drills.rollout.setup.records import Armed, HoldEvent, Revisions, Rollback, StagePlan
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.verdict import chain
from drills.rollout.verdict.requirements import Found, all_passed, hold_span
from drills.runs import targets
from sim.base import atomic_files as files
from sim.base import bounded_reads, operator_command
from sim.base.clocks import Clock, from_iso, iso
from sim.base.errors import UsageError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.drill.target_rules import RollbackRules
from sim.engines.shared.endpoints import Endpoints

_STEPS = ("traffic", "throttle", "cohort")


def digest(rules: RollbackRules) -> str:
    """Hex SHA-256 of the rollback's commands and of each file that they name, such as a script."""
    commands = [command for name in _STEPS if (hook := getattr(rules, name)) for command in (hook.apply, hook.restore)]
    files = [_file(word) for command in commands for word in command]
    return hashlib.sha256(msgspec.json.encode([msgspec.to_builtins(rules), files], order="deterministic")).hexdigest()


def _file(word: str) -> str:
    """The hash of the file that a word of a command names; empty if there is no readable file."""
    path = Path(shutil.which(word) or word)
    try:
        return bounded_reads.file_sha256(path) if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def last_good(rules: RollbackRules) -> Revisions:
    """The revisions that a rollback returns to; unknown if they are not configured."""
    traffic = rules.traffic
    return Revisions(control=traffic.control_revision, runtime=traffic.runtime_revision) if traffic else Revisions()


@dataclass(frozen=True)
class Monitor:
    """Checks the rollback at each gate, and records the result."""

    aim: StageTarget
    plan: StagePlan
    folder: Path  # the run's folder
    clock: Clock

    def check(self, gate_h: float) -> str:
        """Check the rollback and record the result. Returns why it is not available; empty if it is. Raises `StorageError`."""
        rules = RollbackRules()
        try:
            rules = self._rules()
            state, reason = self._found(rules)
        except UsageError as error:
            state, reason = State.FAIL, str(error)
        line = Armed(
            at=iso(self.clock.now()),
            gate_h=gate_h,
            state=str(state),
            reason=reason,
            hooks_sha256=digest(rules),
            last_good=last_good(rules),
        )
        before = evidence.read_lines(self.folder / records.ARMED, Armed)[-1:]
        if not before or msgspec.structs.replace(before[0], at=line.at) != line or state is State.PASS:
            evidence.append(self.folder / records.ARMED, line)
        return "" if state is State.PASS else reason

    def _rules(self) -> RollbackRules:
        """The rules in the current targets file. Raises `UsageError`."""
        if self.aim.entry is None:
            return RollbackRules()
        return targets.read(self.aim.file or targets.DEFAULT_FILE, self.aim.given).rollback

    def _found(self, rules: RollbackRules) -> Found:
        rehearsed = _rehearsal(self.folder, self.plan)
        if problem := next(_problems(digest(rules), last_good(rules), self.plan, rehearsed), ""):
            return State.FAIL, problem
        if not rules.check:
            return State.NOT_RUN, (
                "it is unknown whether the last good revisions still exist: add check = [...], a command that ends with 0 if "
                f"they do, to [targets.{self.plan.target}.rollback]"
            )
        return self._checked(rules)

    def _checked(self, rules: RollbackRules) -> Found:
        good = last_good(rules)
        why, output = run_check(rules, self.aim.endpoints, self.plan.run_id)
        log = f"{records.LOGS}/armed-{self.clock.now():%Y%m%dT%H%M%SZ}.txt"
        output.keep(self.folder / log)
        if why:
            return State.FAIL, f"the command that checks the last good revisions ({good}) {why}; its output is in {log}"
        return State.PASS, f"{good} exist, and the commands are those that were rehearsed"


def run_check(rules: RollbackRules, endpoints: Endpoints, run_id: str) -> tuple[str, Output]:
    """Run the command that checks the last good revisions. Returns why it failed (empty if it did not), and its output."""
    good = last_good(rules)
    deployed = {"RUNTIME_REVISION": good.runtime, "CONTROL_REVISION": good.control}
    environment = hook_environment(endpoints, ACTION="check", RUN_ID=run_id, **deployed)
    output = Output(Redactor(endpoints.secrets))
    _, why = asyncio.run(operator_command.run(rules.check, environment, rules.observed_within_s, output))
    return why, output


def _rehearsal(run_dir: Path, plan: StagePlan) -> Rollback:
    """The rehearsal of this stage's preflight. Raises `EvidenceError`."""
    return files.read_struct(chain.preflight(run_dir, plan).run_dir / records.ROLLBACK, Rollback)


def _problems(hooks_sha256: str, good: Revisions, plan: StagePlan, rehearsed: Rollback) -> Iterator[str]:
    """The differences between the configured rollback and the rehearsed one."""
    if not good.known:
        yield "the revisions to roll back to are not configured: [targets.NAME.rollback.traffic] is missing"
    if good == plan.revisions:
        yield f"the last good revisions ({good}) are the deployed ones"
    if rehearsed.state != "pass" or rehearsed.dry_run:
        yield "the rollback was not rehearsed, or did not pass"
    if hooks_sha256 != rehearsed.hooks_sha256:
        yield "the rollback's commands, or the files that they name, are not those that were rehearsed"


def requirement(run_dir: Path, plan: StagePlan, events: Sequence[HoldEvent]) -> Found:
    """Whether the rollback was available at each gate of the last hold."""
    lines = evidence.read_lines(run_dir / records.ARMED, Armed)
    began, _ = hold_span(events)
    if not lines or not began:
        return State.NOT_RUN, "it was not checked whether the rollback stays available"
    rehearsed = _rehearsal(run_dir, plan)
    valid = timedelta(hours=stages_file.load(run_dir / records.STAGES).signoff.rehearsal_valid_h)
    found = [_at_gate(hour, lines, from_iso(began), plan, rehearsed, valid) for hour in plan.gates_at_h]
    gates = ", ".join(f"{hour:g}" for hour in plan.gates_at_h)
    reason = f"the rollback was available at {gates} h; {lines[-1].reason}"
    return all_passed(found, reason) if found else (State.NOT_RUN, reason)


def _at_gate(
    hour: float, lines: Sequence[Armed], began: datetime, plan: StagePlan, rehearsed: Rollback, valid: timedelta
) -> Found:
    due = began + timedelta(hours=hour)
    checked = [each for each in lines if each.gate_h == hour and from_iso(each.at) >= due]
    if not checked:
        return State.NOT_RUN, f"{hour:g} h into the hold it was not checked whether the rollback stays available"
    line = checked[-1]
    if line.state != State.PASS:
        return State(line.state), f"{hour:g} h into the hold: {line.reason}"
    if problem := next(_problems(line.hooks_sha256, line.last_good, plan, rehearsed), ""):
        return State.FAIL, f"{hour:g} h into the hold: {problem}"
    if (age := from_iso(line.at) - from_iso(rehearsed.ended)) > valid:
        return State.INCONCLUSIVE, f"{hour:g} h into the hold the rehearsal was {age} old; at most {valid} are allowed"
    return State.PASS, ""
