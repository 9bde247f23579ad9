"""Rehearsing the rollback: smallest blast radius first, each step believed only once it was seen, and all of it put back.

    1 traffic    to the last known good revisions, which the services then tell
    2 throttle   tightened, which a burst then meets
    3 cohort     the clients alone, refused unless a watch finds the lane well
    4 recovery   a watch finds the lane well again: so far the clock runs; and a longer watch finds that it stays so

`rollback.json` is written before each change, as of a rehearsal that was cut off, so that even one that was killed tells what
it left changed.
"""

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from drills.judging.checks.verdicts import State
from drills.rollout.rollback import interruption, rehearsal_steps
from drills.rollout.rollback.changes import CannotBeginError, Change, Sighting
from drills.rollout.rollback.recovery import Watched
from drills.rollout.rollback.rehearsal_steps import LIMIT_S, STABLE_S, Plan
from drills.rollout.setup import records
from drills.rollout.setup.records import Rollback, RollbackStep
from drills.runs.target_file import Target
from sim.base.atomic_files import write_whole
from sim.base.clocks import Clock, iso
from sim.base.errors import StorageError, StormgateError, UsageError
from sim.engines.shared.endpoints import Endpoints

StepName = Literal["traffic", "throttle", "cohort", "recovery"]
StepState = Literal["pass", "fail", "error", "not_run"]
ORDER: tuple[StepName, ...] = ("traffic", "throttle", "cohort", "recovery")
_LOOK_EVERY_S = 2.0  # [ours] while a change is not seen yet
Say = Callable[[str], None]


def rehearse(
    endpoints: Endpoints, entry: Target | None, folder: Path, clock: Clock, *, dry_run: bool, limit_s: float = LIMIT_S
) -> Rollback:
    """Rehearse the rollback on a target; `rollback.json` and `rollback/` go into `folder`.

    Everything that was changed is put back, whatever happens, and what could not be is said on stderr. Raises `UsageError` and
    `TargetError` before anything is changed, `StorageError`, and `KeyboardInterrupt` once everything is back.
    """
    plan = rehearsal_steps.make(endpoints, entry, folder, clock, limit_s)
    rehearsal = Rehearsal(plan, folder, clock)
    return rehearsal.pretend() if dry_run else rehearsal.run()


def _say_on_stderr(sentence: str) -> None:
    print(f"stormgate: {sentence}", file=sys.stderr, flush=True)


class Rehearsal:
    """One rehearsal. `run` does all of it; step by step it is `look`, `take` for each of `ORDER`, and `restore`."""

    def __init__(self, plan: Plan, folder: Path, clock: Clock, say: Say = _say_on_stderr) -> None:
        self._plan, self._folder, self._clock, self._say = plan, folder, clock, say
        self._changes: dict[str, Change] = {change.name: change for change in plan.changes}
        self._before: dict[str, dict[str, str]] = {}
        self._steps: list[RollbackStep] = []
        self._watches: list[str] = []  # of the step that is being taken
        self._touched: list[Change] = []
        self._left: list[str] = []  # what could not be put back, in words
        self._trouble = ""
        self._began: datetime | None = None  # of the first step
        self._recovered: datetime | None = None
        self._stable_s: float | None = None

    def run(self) -> Rollback:
        """All of it; see `rehearse`."""
        with interruption.armed():
            try:
                self.look()
                for name in ORDER:
                    if self.take(name).state != "pass":
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
        """A dry run: nothing is changed, and nothing can be concluded."""
        now = iso(self._clock.now())
        steps = [
            self._step(
                name, now, "not_run", f"would run `{self._changes[name].lever.in_words[0]}`; {self._changes[name].seen_by}"
            )
            for name in ORDER[:-1]
        ]
        steps.append(self._step("recovery", now, "not_run", f"would watch the lane, and go on for {self._plan.stable_s:g} s"))
        self._steps = steps
        return self._write(self._record(True, None, "not_run", "a dry run: nothing was done, and nothing is shown by it"))

    # --- step by step -------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at everything before anything is changed. Raises `CannotBeginError` where a change could not be seen."""
        for change in self._plan.changes:
            try:
                self._before[change.name] = change.begin()
            except StormgateError as error:
                raise CannotBeginError(f"{change.name}: {error}") from None

    def take(self, name: StepName) -> RollbackStep:
        """One step. Raises `UsageError` for one that is out of order, and `KeyboardInterrupt` when it is interrupted."""
        self._require_next(name)
        print(f"rollback: step {ORDER.index(name) + 1} of {len(ORDER)}, {name}", file=sys.stderr, flush=True)
        began, self._watches = self._clock.now(), []
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
        return step

    def restore(self) -> None:
        """Put everything back in reverse order, and see that it is; nothing interrupts that."""
        with interruption.held_off(lambda: self._say("what the rehearsal changed is being put back; wait until that is done.")):
            while self._touched:
                change = self._touched.pop()
                missing = self._put_back(change)
                self._mark(change, not missing)
                if missing:
                    by_hand = change.lever.in_words[1]
                    self._left.append(f"{change.name} ({missing}); to put it back by hand, run: {by_hand}")
                    self._say(f"THE {change.name.upper()} WAS NOT PUT BACK: {missing}; run: {by_hand}")

    def _restore_for_sure(self) -> None:
        """The same for who is impatient: in the moment before interruptions are held off, one may still come."""
        while True:
            try:
                self.restore()
                return
            except KeyboardInterrupt:
                continue

    def result(self) -> Rollback:
        """What is to be recorded."""
        for name in ORDER[len(self._steps) :]:
            self._steps.append(self._step(name, iso(self._clock.now()), "not_run", "it did not come to that"))
        state, reason = self._verdict()
        return self._record(False, self._seconds, state, reason)

    # --- one step -----------------------------------------------------------------------------------

    def _require_next(self, name: StepName) -> None:
        if not self._before:
            raise UsageError(f"step '{name}' of a rollback comes after a look at what there is before.")
        wanted = ORDER[len(self._steps)] if len(self._steps) < len(ORDER) else "nothing more"
        if name != wanted:
            raise UsageError(f"step '{name}' of a rollback is out of order; the next one is {wanted}, of {', '.join(ORDER)}.")
        if self._steps and self._steps[-1].state != "pass":
            raise UsageError(f"step '{name}' of a rollback is refused, as step '{self._steps[-1].name}' did not pass.")

    def _change(self, change: Change) -> tuple[StepState, str, dict[str, str], str]:
        if change.name == "cohort":
            health = self._watch(None)
            if health.state is not State.PASS:
                reason = f"refused, because the server's gates are not green: {health.reason}"
                return _state(health), reason, {}, ""
        self._touched.append(change)  # from the first moment on: a command that fails may have done half its work
        self._write(self._record(False, None, "error", self._cut_off()))
        change.lever.apply()
        seen = self._until_seen(change.rolled_back)
        if seen.missing:
            return "fail", f"was not seen to be rolled back: {seen.missing}", seen.facts, seen.words
        return "pass", "", seen.facts, seen.words

    def _recovery(self) -> tuple[StepState, str, dict[str, str], str]:
        watched = self._watch(None)
        if watched.state is not State.PASS:
            return _state(watched), f"the lane was not seen to recover: {watched.reason}", {}, ""
        self._recovered = self._clock.now()
        longer = self._watch(self._plan.stable_s)
        facts = {"recovered": iso(self._recovered), "auth_failures": longer.auth_failures}
        if longer.state is not State.PASS:
            return _state(longer), f"the lane did not stay well: {longer.reason}", facts, ""
        self._stable_s = self._plan.stable_s
        short = f", not for {STABLE_S:g} s, as the target is a mock" if self._plan.stable_s < STABLE_S else ""
        words = f"{watched.reason}; then watched for {self._plan.stable_s:g} s{short}: {longer.reason}"
        return "pass", "", facts, words

    def _watch(self, length_s: float | None) -> Watched:
        with interruption.kept():
            watched = self._plan.watch(length_s)
        self._watches.append(watched.run)
        return watched

    def _until_seen(self, look: Callable[[], Sighting]) -> Sighting:
        limit = self._clock.now() + timedelta(seconds=self._plan.observed_within_s)
        while (seen := look()).missing and self._clock.now() < limit:
            self._clock.sleep_until(self._clock.now() + timedelta(seconds=_LOOK_EVERY_S))
        return seen

    def _put_back(self, change: Change) -> str:
        """What is missing of it; empty for nothing."""
        try:
            change.lever.restore()
            return self._until_seen(change.restored).missing
        except Exception as error:  # the others must be put back all the same
            return str(error).rstrip(".") or type(error).__name__

    # --- the record ---------------------------------------------------------------------------------

    @property
    def _seconds(self) -> float | None:
        if self._began is None or self._recovered is None:
            return None
        return round((self._recovered - self._began).total_seconds(), 3)

    def _verdict(self) -> tuple[StepState, str]:
        if self._left:
            return "error", f"what was changed was not put back: {'; '.join(self._left)}"
        if self._trouble:
            return "error", self._trouble
        for state in ("fail", "error", "not_run"):
            for step in self._steps:
                if step.state == state:
                    return step.state, f"step {step.n}, {step.name}: {step.reason}"
        if self._seconds is None or self._seconds > self._plan.limit_s:
            return "fail", f"it took {self._seconds} s to recover, and {self._plan.limit_s:g} s are allowed"
        counted = "from the begin of step 1 until clients saw recovery"
        return (
            "pass",
            f"recovered within {self._seconds:.1f} s ({counted}), stable for another {self._stable_s:g} s, and put back",
        )

    def _cut_off(self) -> str:
        hand = "; ".join(change.lever.in_words[1] for change in reversed(self._touched))
        return f"the rehearsal was cut off before anything was put back; run: {hand}"

    def _mark(self, change: Change, restored: bool) -> None:
        """Enter into a step's record that what it changed was put back, or was not."""
        for index, step in enumerate(self._steps):
            if step.name == change.name:
                self._steps[index] = msgspec.structs.replace(
                    step, restored=restored, evidence=(*step.evidence, *change.evidence)
                )

    def _step(
        self,
        name: StepName,
        began: str,
        state: StepState,
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
            evidence=tuple(self._watches) if state != "not_run" else (),
        )

    def _record(self, dry_run: bool, seconds: float | None, state: StepState, reason: str) -> Rollback:
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
            raise StorageError(f"{self._folder}: cannot be created ({error.strerror}).") from None
        write_whole(self._folder / records.ROLLBACK, msgspec.json.format(msgspec.json.encode(rollback), indent=2) + b"\n")
        return rollback


def _state(watched: Watched) -> StepState:
    return "fail" if watched.state is State.FAIL else "error"
