"""Rehearse the rollback: smallest blast radius first, each step confirmed by an observation, and everything restored.

    1 traffic    to the last known good revisions, which the services then report
    2 throttle   tightened; it then refuses part of a burst
    3 cohort     the client cohort alone; refused unless a canary check passes
    4 recovery   a canary check passes, which ends the time to recover; a longer one shows that the service stays healthy

`rollback.json` is written before each change, with the verdict of an interrupted rehearsal. So if the process is killed, it
still names the changes that are not restored.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from drills.judging.checks.verdicts import State
from drills.rollout.rollback import rehearsal_steps
from drills.rollout.rollback.changes import CannotBeginError, Change, Observation
from drills.rollout.rollback.recovery import CanaryCheck
from drills.rollout.rollback.rehearsal_steps import LIMIT_S, STABLE_S, Steps
from drills.rollout.setup import records
from drills.rollout.setup.evidence import cannot_write, write_json
from drills.rollout.setup.records import Outcome, Rollback, RollbackStep, StepName
from drills.runs.targets import Target
from sim.base.clocks import Clock, iso
from sim.base.errors import StormgateError, UsageError
from sim.engines.shared.endpoints import Endpoints

ORDER: tuple[StepName, ...] = ("traffic", "throttle", "cohort", "recovery")
_OBSERVE_EVERY_S = 2.0  # [ours] between two observations, until a change is observed
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Say = Callable[[str], None]
StepResult = tuple[Outcome, str, dict[str, str], str]  # state, reason, facts after it, the observation in words


def rehearse(
    endpoints: Endpoints, entry: Target | None, folder: Path, clock: Clock, *, dry_run: bool, limit_s: float = LIMIT_S
) -> Rollback:
    """Rehearse the rollback on a target; `rollback.json` and `rollback/` go into `folder`.

    Every change is restored, also after an error; one that cannot be restored is reported on stderr. Raises `UsageError` and
    `TargetError` before the first change, `StorageError`, and `KeyboardInterrupt` after everything is restored.
    """
    rehearsal = Rehearsal(rehearsal_steps.make(endpoints, entry, folder, clock, limit_s), folder, clock)
    return rehearsal.pretend() if dry_run else rehearsal.run()


def _say_on_stderr(sentence: str) -> None:
    print(f"stormgate: {sentence}", file=sys.stderr, flush=True)


class Rehearsal:
    """One rehearsal. `run` does all steps: `observe`, `take` for each of `ORDER`, and `restore`."""

    def __init__(self, plan: Steps, folder: Path, clock: Clock, say: Say = _say_on_stderr) -> None:
        self._plan, self._folder, self._clock, self._say = plan, folder, clock, say
        self._changes: dict[str, Change] = {change.name: change for change in plan.changes}
        self._before: dict[str, dict[str, str]] = {}
        self._unobservable: dict[str, str] = {}  # changes that cannot be rehearsed, with the reason
        self._steps: list[RollbackStep] = []
        self._canary_checks: list[str] = []  # of the current step
        self._touched: list[Change] = []
        self._left: list[str] = []  # changes that could not be restored, in words
        self._trouble = ""
        self._began: datetime | None = None  # of the first step
        self._recovered: datetime | None = None
        self._stable_s: float | None = None

    def run(self) -> Rollback:
        """Do the whole rehearsal; see `rehearse`."""
        with signals_handled(signal.default_int_handler):  # each raises `KeyboardInterrupt`
            try:
                self.observe()
                for name in ORDER:
                    if self.take(name).state not in ("pass", "not_run") or self._left:
                        break
            except StormgateError as error:
                self._trouble = str(error)
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt)
                self._trouble = "it was interrupted" if interrupted else f"a defect of stormgate itself ({error!r})"
                raise
            finally:
                self._restore_for_sure()
                result = self._write(self.result())
        return result

    def pretend(self) -> Rollback:
        """Write the record of a dry run; change nothing."""
        now = iso(self._clock.now())
        for change in self._plan.changes:
            would = f"would run `{change.lever.command('apply')}`; {change.observed_by}"
            self._steps.append(self._step(change.name, now, "not_run", would))
        would = f"would run a canary check, and then one of {self._plan.stable_s:g} s"
        self._steps.append(self._step("recovery", now, "not_run", would))
        return self._write(self._record(None, "not_run", "dry run: nothing was executed", dry_run=True))

    # --- step by step -------------------------------------------------------------------------------

    def observe(self) -> None:
        """Observe every state before the first change. A change that could not be observed will not be run.

        Raises `CannotBeginError` if none could be observed.
        """
        for change in self._plan.changes:
            try:
                self._before[change.name] = change.begin()
            except StormgateError as error:
                self._before[change.name], self._unobservable[change.name] = {}, str(error).rstrip(".")
        if len(self._unobservable) == len(self._plan.changes):
            name, why = next(iter(self._unobservable.items()))
            raise CannotBeginError(f"{name}: {why}")

    def take(self, name: StepName) -> RollbackStep:
        """Execute one step. Raises `UsageError` if it is out of order, and `KeyboardInterrupt` if it is interrupted."""
        self._require_next(name)
        print(f"rollback: step {ORDER.index(name) + 1} of {len(ORDER)}, {name}", file=sys.stderr, flush=True)
        began, self._canary_checks = self._clock.now(), []
        self._began = self._began or began
        after: dict[str, str] = {}
        words = ""
        try:
            state, reason, after, words = self._recovery() if name == "recovery" else self._change(self._changes[name])
        except StormgateError as error:
            state, reason = "error", str(error)
        except KeyboardInterrupt:
            self._steps.append(self._step(name, iso(began), "error", "it was interrupted"))
            raise
        step = self._step(name, iso(began), state, reason, after, words)
        self._steps.append(step)
        if state == "pass" and name in self._changes and self._changes[name].is_restored_at_once:
            self.restore(only=name)
        return step

    def restore(self, only: StepName | None = None) -> None:
        """Restore everything in reverse order, or the latest change alone, and observe it; signals do not interrupt this."""
        busy = "what the rehearsal changed is being restored; wait until that is done."
        with signals_handled(lambda *_: self._say(busy)):
            while self._touched and only in (None, self._touched[-1].name):
                change = self._touched.pop()
                missing = self._restore(change)
                self._enter(change, not missing)
                if missing:
                    by_hand = change.lever.command("restore")
                    self._left.append(f"{change.name} ({missing}); to restore it by hand, run: {by_hand}")
                    self._say(f"THE {change.name.upper()} WAS NOT RESTORED: {missing}; run: {by_hand}")

    def _restore_for_sure(self) -> None:
        """Restore, even if another signal arrives just before signals are blocked."""
        while True:
            try:
                self.restore()
                return
            except KeyboardInterrupt:
                continue

    def result(self) -> Rollback:
        """The record. Steps that were not reached are added as not run."""
        for name in ORDER[len(self._steps) :]:
            self._steps.append(self._step(name, iso(self._clock.now()), "not_run", "not reached"))
        state, reason = self._verdict()
        return self._record(self._seconds, state, reason)

    # --- one step -----------------------------------------------------------------------------------

    def _require_next(self, name: StepName) -> None:
        if not self._before:
            raise UsageError(f"step '{name}' of a rollback comes after an observation of the state before.")
        wanted = ORDER[len(self._steps)] if len(self._steps) < len(ORDER) else "nothing more"
        if name != wanted:
            raise UsageError(f"step '{name}' of a rollback is out of order; the next one is {wanted}, of {', '.join(ORDER)}.")
        if self._steps and self._steps[-1].state != "pass" and self._steps[-1].name not in self._unobservable:
            raise UsageError(f"step '{name}' of a rollback is refused, as step '{self._steps[-1].name}' did not pass.")

    def _change(self, change: Change) -> StepResult:
        if why := self._unobservable.get(change.name):
            return "not_run", why, {}, ""
        if change.name == "cohort":
            health = self._check(None)
            if health.state is not State.PASS:
                return _state(health), f"refused, because the server's gates are not green: {health.reason}", {}, ""
        self._touched.append(change)  # before applying it: a failed command may have done half its work
        self._write(self._record(None, "error", self._cut_off()))
        change.lever.apply()
        seen = self._until_observed(change.rolled_back)
        if seen.missing:
            return "fail", f"the rollback was not observed: {seen.missing}", seen.facts, seen.words
        return "pass", "", seen.facts, seen.words

    def _recovery(self) -> StepResult:
        first = self._check(None)
        if first.state is not State.PASS:
            return _state(first), f"no recovery was observed: {first.reason}", {}, ""
        if not first.has_clients:
            return "not_run", f"nobody can observe the recovery of clients: {first.reason}", {}, ""
        self._recovered = self._clock.now()
        longer = self._check(self._plan.stable_s)
        facts = {"recovered": iso(self._recovered), "auth_failures": longer.auth_failures}
        if longer.state is not State.PASS:
            return _state(longer), f"the service did not stay healthy: {longer.reason}", facts, ""
        self._stable_s = self._plan.stable_s
        short = f", not for {STABLE_S:g} s, as the target is a mock" if self._plan.stable_s < STABLE_S else ""
        words = f"{first.reason}; then monitored for {self._plan.stable_s:g} s{short}: {longer.reason}"
        return "pass", "", facts, words

    def _check(self, length_s: float | None) -> CanaryCheck:
        with signals_handled(None):
            found = self._plan.check(length_s)
        self._canary_checks.append(found.run)
        return found

    def _until_observed(self, observe: Callable[[], Observation]) -> Observation:
        limit = self._clock.now() + timedelta(seconds=self._plan.observed_within_s)
        while (seen := observe()).missing and self._clock.now() < limit:
            self._clock.sleep_until(self._clock.now() + timedelta(seconds=_OBSERVE_EVERY_S))
        return seen

    def _restore(self, change: Change) -> str:
        """Restore a change. Returns why it is not restored; empty if it is."""
        try:
            change.lever.restore()
            return self._until_observed(change.restored).missing
        except Exception as error:  # all other changes must still be restored
            return str(error).rstrip(".") or type(error).__name__

    # --- the record ---------------------------------------------------------------------------------

    @property
    def _seconds(self) -> float | None:
        if self._began is None or self._recovered is None:
            return None
        return round((self._recovered - self._began).total_seconds(), 3)

    def _verdict(self) -> tuple[Outcome, str]:
        if self._left:
            return "error", f"what was changed was not restored: {'; '.join(self._left)}"
        if self._trouble:
            return "error", self._trouble
        for state in ("fail", "error", "not_run"):
            for step in self._steps:
                if step.state == state:
                    return step.state, f"step {step.n}, {step.name}: {step.reason}"
        if self._seconds is None or self._seconds > self._plan.limit_s:
            return "fail", f"it took {self._seconds} s to recover, and {self._plan.limit_s:g} s are allowed"
        counted = "from the begin of step 1 until clients saw recovery"
        stable = f"stable for another {self._stable_s:g} s, and restored"
        return "pass", f"recovered within {self._seconds:.1f} s ({counted}), {stable}"

    def _cut_off(self) -> str:
        by_hand = "; ".join(change.lever.command("restore") for change in reversed(self._touched))
        return f"the rehearsal was cut off before anything was restored; run: {by_hand}"

    def _enter(self, change: Change, restored: bool) -> None:
        """Add to a step's record whether its change was restored."""
        for index, step in enumerate(self._steps):
            if step.name == change.name:
                proof = (*step.evidence, *change.evidence)
                self._steps[index] = msgspec.structs.replace(step, restored=restored, evidence=proof)

    def _step(
        self,
        name: StepName,
        began: str,
        state: Outcome,
        reason: str,
        after: dict[str, str] | None = None,
        verified_by: str = "",
    ) -> RollbackStep:
        return RollbackStep(
            n=ORDER.index(name) + 1,
            name=name,
            state=state,
            reason=reason,
            before=self._before.get(name, {}),
            after=after or {},
            verified_by=verified_by,
            began=began,
            ended=iso(self._clock.now()),
            evidence=tuple(self._canary_checks) if state != "not_run" else (),
        )

    def _record(self, seconds: float | None, state: Outcome, reason: str, *, dry_run: bool = False) -> Rollback:
        now = self._clock.now()
        return Rollback(
            run_id=self._folder.name,
            target=self._plan.target,
            target_kind=self._plan.target_kind,
            dry_run=dry_run,
            began=iso(self._began or now),
            ended=iso(now),
            seconds=seconds,
            limit_s=self._plan.limit_s,
            stable_s=self._stable_s,
            state=state,
            reason=reason,
            steps=tuple(self._steps),
            hooks_sha256=self._plan.hooks_sha256,
        )

    def _write(self, rollback: Rollback) -> Rollback:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        write_json(self._folder / records.ROLLBACK, rollback)
        return rollback


def _state(found: CanaryCheck) -> Outcome:
    return "fail" if found.state is State.FAIL else "error"


# --- signals ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def signals_handled(handler: Any) -> Iterator[None]:
    """Let `handler` handle SIGINT, SIGTERM and SIGHUP within the block, and restore the handlers after it.

    With None, the block keeps the handlers: an event loop in it may change them.
    """
    # only the main thread gets signals; under nohup, SIGHUP must stay ignored
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
    changed = [n for n in before if n is not signal.SIGHUP or before[n] is not signal.SIG_IGN]
    for number in changed if handler is not None else ():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
