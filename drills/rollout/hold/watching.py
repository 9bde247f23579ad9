"""Who follows a stage while it runs: the served metrics and verdict, and the operators' notification command.

The command gets JSON on its input for each change: an event of the hold, another worst check, the report. Its environment has
only what every program needs, so it holds no secrets. Its outcome goes to the rollout's journal, and changes no verdict.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drills.exports.verdict import CheckNow, HoldNow
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, State
from drills.rollout.hold.rollouts import StageRun
from drills.rollout.setup import commands, records
from drills.rollout.setup.records import CanaryCheckDone, DrillDone, HoldEvent, StageReport
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import Notify
from drills.runs import recorded_runs
from sim.base import operator_command
from sim.base.clocks import iso
from sim.base.errors import StormgateError, UsageError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.record.parquet import Recorded

if TYPE_CHECKING:
    from drills.exports.live import Live

NOTIFIED = "notified"  # kind of the journal's entry
SCHEMA = 1
_MAX_OUTPUT_BYTES = 400  # of a command that failed, for the journal
_CLOSING_S = 30.0  # [ours] for the notifications that are left when the hold ends


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What the notification command gets on its input."""

    schema: int = SCHEMA
    event: str  # started, restarted, interrupted, resumed, gate, aborted, ended, worst_check or reported
    at: str
    rollout: str
    stage: str
    run_id: str
    target: str
    reason: str = ""
    decision: str = ""  # go or no_go; only of a report
    worst_check: CheckNow | None = None
    hold: HoldNow | None = None


def checks_now(checks: Sequence[CheckResult]) -> tuple[CheckNow, ...]:
    """The checks of an evaluation, the gravest first."""
    ordered = sorted(checks, key=lambda check: GRAVEST_FIRST.index(check.state))
    return tuple(CheckNow(name=check.name, state=check.state, reason=check.reason) for check in ordered)


def worst_of(checks: Sequence[CheckNow]) -> CheckNow | None:
    """The gravest check that does not pass; None without one."""
    return checks[0] if checks and checks[0].state != State.PASS else None


class Watcher:
    """Follows one stage. `show` and `report` may raise `StorageError`, for the journal."""

    def __init__(self, run: StageRun, live: "Live | None" = None) -> None:
        self._run, self._live = run, live
        self._notifier = _Notifier(run) if run.stages.notify.argv else None
        self._worst = ""
        self._failed: list[CheckNow] = []  # of a preflight

    def begin(self, part: str) -> None:
        """A part of a preflight begins."""
        if self._live is not None:
            self._live.changed(part=part)

    def found(self, name: str, state: str, reason: str) -> None:
        """Show a command, precondition, drill or rehearsal of a preflight that has ended."""
        if self._live is not None and state != State.PASS:
            self._failed.append(CheckNow(name=name, state=state, reason=reason))
            self._live.changed(worst_check=min(self._failed, key=lambda each: GRAVEST_FIRST.index(State(each.state))))

    def drilled(self, done: DrillDone) -> None:
        """Show a drill of a preflight that has ended, and add its rows to the live metrics."""
        self.found(f"drill {done.name}", done.status, done.reason)
        self._observe(Path(records.DRILLS) / done.run if done.run else None)

    def baseline(self, held_s: float) -> None:
        """Show how much of the baseline has been taken."""
        if self._live is not None:
            required_s = self._run.plan.hold_required_s
            self._live.changed(hold=HoldNow(is_holding=True, held_s=min(held_s, required_s), required_s=required_s))

    def show(self, now: HoldNow, event: HoldEvent | None = None) -> None:
        """Show the state of the hold, and the event that has just been recorded."""
        worst = worst_of(now.checks)
        if self._live is not None:
            self._live.changed(hold=now, worst_check=worst)
        if event is not None:
            self._notify(event.kind, event.at, event.reason, now)
        name = f"{worst.name} {worst.state}" if worst else ""
        if name != self._worst:
            self._worst = name
            self._notify("worst_check", iso(self._run.clock.now()), worst.reason if worst else "every check passes", now)
        self._record()

    def checked(self, done: CanaryCheckDone) -> None:
        """Add the rows of a canary check to the live metrics."""
        self._observe(Path(done.run) if done.run else None)

    def _observe(self, run: Path | None) -> None:
        if self._live is None or run is None:
            return
        with contextlib.suppress(StormgateError):  # a run without a whole record has its own line in the evidence
            for each in recorded_runs.runs_in(self._run.run_dir / run):
                self._live.observe(each.history.header, Recorded(each.folder).table().combine_chunks())

    def reported(self, report: StageReport) -> None:
        """Notify of the report."""
        reason = report.why[0] if report.why else ""
        self._notify("reported", report.ended, reason, None, report.decision)

    def close(self) -> None:
        """Wait for the notifications under way, and record them."""
        if self._notifier is not None:
            self._notifier.close()
        self._record()

    def _notify(self, event: str, at: str, reason: str, hold: HoldNow | None, decision: str = "") -> None:
        if self._notifier is None:
            return
        plan = self._run.plan
        worst = worst_of(hold.checks) if hold else None
        short = msgspec.structs.replace(hold, checks=()) if hold else None
        said = Notification(
            event=event,
            at=at,
            rollout=plan.rollout,
            stage=plan.stage,
            run_id=plan.run_id,
            target=plan.target,
            reason=reason,
            decision=decision,
            worst_check=worst,
            hold=short,
        )
        self._notifier.send(said)

    def _record(self) -> None:
        for event, why in self._notifier.done() if self._notifier is not None else ():
            state = State.FAIL if why else State.PASS
            self._run.journal.append(NOTIFIED, run=self._run.plan.run_id, event=event, state=state, reason=why)
            if why:
                self._run.say(f"the notification command failed for '{event}': {why}; the hold goes on")


def require_no_secrets(rules: Notify, target: StageTarget) -> None:
    """Raise `UsageError` if the command's arguments have a secret of the target: a process list shows them to everybody."""
    redact = _redactor(target)
    if any(redact.text(part) != part for part in rules.argv):
        raise UsageError("[notify] argv has a secret of the target; let the command read it from a file.")


def _redactor(target: StageTarget) -> Redactor:
    return Redactor(secret for secret in target.endpoints.secrets if len(secret) >= commands.MIN_SECRET_CHARS)


@contextlib.contextmanager
def watching(run: StageRun, live: "Live | None") -> Iterator[Watcher]:
    """A watcher for the block."""
    watcher = Watcher(run, live)
    try:
        yield watcher
    finally:
        watcher.close()


@dataclass
class _Notifier:
    """Runs the command in a thread, one notification after the other, so that the hold never waits for it."""

    run: StageRun

    def __post_init__(self) -> None:
        self._redact = _redactor(self.run.target)
        self._left: queue.SimpleQueue[Notification | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notifications", daemon=True)
        self._thread.start()

    def send(self, said: Notification) -> None:
        self._left.put(said)

    def done(self) -> Iterator[tuple[str, str]]:
        """Events whose command has ended since the last call, each with what went wrong."""
        while not self._done.empty():
            yield self._done.get()

    def close(self) -> None:
        self._left.put(None)
        self._thread.join(_CLOSING_S)

    def _work(self) -> None:
        while (said := self._left.get()) is not None:
            try:
                why = self._call(said)
            except Exception as error:  # a defect here must not stop the notifications that follow
                why = f"{type(error).__name__}: {error}"
            self._done.put((said.event, why))

    def _call(self, said: Notification) -> str:
        """Run the command; returns what went wrong."""
        rules, output = self.run.stages.notify, Output(self._redact, _MAX_OUTPUT_BYTES)
        given = self._redact(msgspec.json.encode(said))
        beside = self.run.stages_path.resolve().parent
        argv = [str(beside / rules.argv[0]) if rules.argv[0].startswith("./") else rules.argv[0], *rules.argv[1:]]
        running = operator_command.run(
            argv, commands.plain_environment(), rules.timeout_s, output, cwd=beside, ends_all=True, given=given
        )
        _, why = asyncio.run(running)
        words = " ".join(output.content.decode("utf-8", "replace").split())
        return f"it {why}{f' ({words})' if words else ''}" if why else ""
