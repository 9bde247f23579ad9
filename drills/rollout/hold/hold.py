"""Hold a stage: sample the servers, run canary checks, evaluate the window, and restart the hold when something breaks it.

Every event is written to disk at once, so a killed hold resumes where it stopped. The time in between counts as a hole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drills.exports.verdict import CheckNow, HoldNow
from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, State
from drills.rollout.hold import rollouts
from drills.rollout.hold.canary_checks import CanaryCheckRunner
from drills.rollout.hold.rollouts import StageRun
from drills.rollout.hold.watching import Watcher, checks_now
from drills.rollout.servers.sampler import Sampler
from drills.rollout.setup import evidence, records
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import Evaluated, HoldEvent, HoldKind, Revisions, Snapshot
from drills.rollout.setup.stages import MAX_HOLE_INTERVALS
from drills.rollout.verdict import requirements
from sim.base.clocks import from_iso, iso
from sim.base.errors import EvidenceError, UsageError

MAX_RESTARTS = 10  # [ours] more restarts than this are no coincidence
DEAD_INTERVALS = 20  # [ours] intervals without a usable snapshot until the hold aborts: no data to decide on a rollback
_SET_BACK_S = 1.0  # [ours] how far time synchronization may set the clock back
_RED = (State.FAIL, State.ERROR)


@dataclass(frozen=True)
class Evaluation:
    """The checks and the coverage of a hold so far. `abort`: why the hold must stop at once; empty if it need not."""

    checks: tuple[CheckResult, ...]
    coverage: State
    coverage_reason: str = ""
    abort: str = ""

    @property
    def red(self) -> str:
        """The first failed check with its reason; empty without one."""
        return next((f"{check.name} {check.state}: {check.reason}" for check in self.checks if check.state in _RED), "")

    @property
    def worst(self) -> str:
        """The check with the most severe state; that every check passes if it does."""
        late = [each for each in self.checks if each.state is not State.PASS]
        if not late:
            return "every check passes"
        worst = min(late, key=lambda each: GRAVEST_FIRST.index(each.state))
        return f"worst check: {worst.name} {worst.state} ({worst.reason})"

    @property
    def covered(self) -> str:
        """The coverage with its reason."""
        return f"{self.coverage} ({self.coverage_reason})" if self.coverage_reason else str(self.coverage)

    @property
    def missing(self) -> tuple[str, ...]:
        """The checks that do not pass yet, and the coverage if it does not pass."""
        late = [f"coverage ({self.coverage_reason})"] if self.coverage is not State.PASS else []
        return (*(f"{check.name} ({check.state})" for check in self.checks if check.state is not State.PASS), *late)


Judge = Callable[[datetime, datetime], Evaluation]  # judges the window between two times


class Hold:
    """One hold, from its start or from where a killed one stopped.

    `check_routing` runs the routing checks. `find` returns the deployed revisions. `arm` returns why the rollback is not armed
    at a gate, or an empty text. `show` gets the standing of the hold at each evaluation; without it, it is said.
    `watcher` follows the hold.
    """

    def __init__(
        self,
        run: StageRun,
        sampler: Sampler,
        canary_checks: CanaryCheckRunner,
        judge: Judge,
        *,
        calendar: Calendar | None = None,
        check_routing: Callable[[], object] | None = None,
        find: Callable[[], Revisions] | None = None,
        arm: Callable[[float], str] | None = None,
        show: rollouts.Say | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._run, self._sampler, self._canary_checks, self._judge = run, sampler, canary_checks, judge
        self._calendar, self._check_routing, self._find, self._arm = calendar, check_routing, find, arm
        self._watcher = watcher or Watcher(run)
        self._rules = run.stages.stages[run.plan.stage]
        self._clock = run.clock
        self._interval = timedelta(seconds=run.plan.snapshot_interval_s)
        self._required = timedelta(seconds=run.plan.hold_required_s)
        self._extension = timedelta(seconds=run.stages.sampling.extend_up_to_s)
        self._began: datetime | None = None  # None: the hold waits for `_opens`, or for the end of what broke it
        self._opens: datetime | None = None
        self._broken = ""
        self._broken_since: datetime | None = None
        self._restarts = 0
        self._restarted_because = ""
        self._show = show or run.say
        self._gates_passed: set[float] = set()
        self._latest = self._grid = self._last_ok = self._clock.now()
        self._never = datetime.min.replace(tzinfo=self._latest.tzinfo)
        self._judged = self._routing_checked = self._waited = self._never
        self._unarmed = ""
        self._changed: dict[str, str] = {}  # service -> a sentence, if its revision is not the plan's
        self._has_checked = False  # a canary check has ended since the hold began
        self._failed_check = ""
        self._latest_checks: tuple[CheckNow, ...] = ()
        self._missing: tuple[str, ...] = ()
        self._over = False

    def run(self) -> None:
        """Hold until it ends or is aborted. Raises `KeyboardInterrupt`, and `EvidenceError` for a clock that was set back."""
        self._begin()
        try:
            while not self._over:
                self._turn()
        except KeyboardInterrupt:
            self._canary_checks.close()
            self._record("interrupted", "it was interrupted")
            raise
        finally:
            self._canary_checks.close()

    # --- starting and resuming ----------------------------------------------------------------------

    def _begin(self) -> None:
        events = evidence.read_lines(self._run.run_dir / records.HOLD, HoldEvent)
        if not events:
            self._open("started", "")
            return
        if events[-1].kind in ("ended", "aborted"):
            self._over = True
            return
        self._resume(events)
        away_s = (self._clock.now() - self._last_ok).total_seconds()
        now = rollouts.timed(HoldEvent(at=iso(self._clock.now()), kind="resumed"), self._clock)
        self._record("resumed", f"the last usable snapshot is {away_s:.0f} s old")
        if unknown := requirements.unknown_time([events[-1], now]):
            self._restart(unknown)
        elif not self._is_whole():
            self._open("restarted", "")

    def _resume(self, events: Sequence[HoldEvent]) -> None:
        """Restore the state from the end of the file. Raises `EvidenceError` if that is in the future."""
        snapshots = evidence.read_lines(self._run.run_dir / records.SNAPSHOTS, Snapshot)
        self._latest = max([from_iso(events[-1].at), *(from_iso(each.at) for each in snapshots[-1:])])
        self._now()
        for event in events:
            if event.kind in ("started", "restarted"):
                self._began, self._gates_passed = None if event.waits else from_iso(event.at), set()
                self._broken, self._broken_since = (event.reason, from_iso(event.at)) if event.waits else ("", None)
                self._restarts += event.kind == "restarted"
                self._restarted_because = event.reason or self._restarted_because
            elif event.kind == "gate" and event.gate_h is not None and event.state == State.PASS:
                self._gates_passed.add(event.gate_h)
        good = [from_iso(each.at) for each in snapshots if self._is_usable(each)]
        self._last_ok = max([self._began or self._latest, *good])

    def _open(self, kind: HoldKind, reason: str) -> None:
        """Start the hold: at once, or at the start of the next business day."""
        now = self._clock.now()
        if self._rules.business_day is None or (self._opens is not None and now >= self._opens):
            self._begin_at(now)
            self._broken, self._broken_since = "", None
            self._record(kind, reason)
            return
        assert self._calendar is not None
        self._failed_check = ""
        hours = self._calendar.next_hours(now, self._rules.business_day)
        self._began, self._opens = None, hours.begin
        self._required = max(timedelta(seconds=self._run.plan.hold_required_s), hours.end - hours.begin)
        self._show(f"waiting for the next whole business day, which begins on {self._calendar.local(hours.begin)}")

    def _begin_at(self, now: datetime) -> None:
        self._began = self._last_ok = now
        self._opens, self._gates_passed, self._has_checked, self._failed_check = None, set(), False, ""

    def _is_whole(self) -> bool:
        """Whether the hold began at the start of a business day; True if it need not."""
        if self._rules.business_day is None or self._began is None:
            return True
        assert self._calendar is not None
        hours = self._calendar.next_hours(self._began - self._interval, self._rules.business_day)
        return hours.begin <= self._began

    # --- one turn -----------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = self._now()
        if self._opens is not None:
            if now < self._opens:
                self._clock.sleep_until(self._opens)
                return
            is_first = not (self._run.run_dir / records.HOLD).exists()
            self._open("started" if is_first else "restarted", "" if is_first else "the next business day begins")
        silent = now - self._last_ok
        if silent > MAX_HOLE_INTERVALS * self._interval:
            self._break(f"a hole: no usable snapshot for {silent.total_seconds():.0f} s")
        for snapshot in self._sampler.poll("hold"):
            self._compare(snapshot.revisions)
            if self._is_usable(snapshot):
                self._last_ok = max(self._last_ok, from_iso(snapshot.at))
        self._step_canary_checks(now)
        if self._opens is None and not self._over:
            self._evaluate(self._now())
        self._watcher.show(self._state_now())
        if not self._over:
            self._clock.sleep_until(self._next_poll())

    def _state_now(self) -> HoldNow:
        """The state of the hold for those who follow it."""
        began = self._began if not self._broken else None
        return HoldNow(
            is_holding=began is not None,
            held_s=(self._latest - began).total_seconds() if began else 0.0,
            required_s=self._required.total_seconds(),
            restarts=self._restarts,
            missing=self._missing,
            checks=self._latest_checks,
        )

    def _now(self) -> datetime:
        now = self._clock.now()
        if (self._latest - now).total_seconds() > _SET_BACK_S:
            event = HoldEvent(at=iso(self._latest), kind="restarted", reason=f"the clock was set back to {iso(now)}")
            evidence.append(self._run.run_dir / records.HOLD, rollouts.timed(event, self._clock))
            raise EvidenceError(
                f"it is {iso(now)} here, but this hold has seen {iso(self._latest)}; the clock was set back, so the time held "
                "is unknown. Correct the clock; the hold then restarts."
            )
        self._latest = max(self._latest, now)
        return now

    def _compare(self, found: Revisions) -> None:
        """Remember each service whose revision is not the plan's. An unknown revision changes nothing."""
        for service in ("control", "runtime"):
            was, now = getattr(self._run.plan.revisions, service), getattr(found, service)
            if now == was:
                self._changed.pop(service, None)
            elif now:
                self._changed[service] = f"the revision of {service} is {now}, but this stage is for {was or 'an unknown one'}"

    def _is_usable(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot counts for the hold. If the target has a metrics endpoint, only its snapshots count."""
        return snapshot.ok and (snapshot.source == "metrics" or not self._run.target.has_metrics)

    def _step_canary_checks(self, now: datetime) -> None:
        may_begin = self._began is not None and (now <= self._began + self._required or self._is_extended(now))
        done = self._canary_checks.step("hold", may_begin)
        if done is None:
            return
        self._watcher.checked(done)
        if done.status != State.PASS:
            self._run.say(f"a canary check ended as {done.status}: {done.reason}")
        self._has_checked = True
        if done.status == State.FAIL:
            self._failed_check = f"a canary check failed: {done.reason}"
            self._judged = self._never

    def _is_extended(self, now: datetime) -> bool:
        """Whether the hold was judged at its end and continues because it did not pass yet."""
        assert self._began is not None
        end = self._began + self._required
        return self._judged >= end and now < end + self._extension

    def _evaluate(self, now: datetime) -> None:
        """Break, restart or judge the hold, as its state requires."""
        if trouble := next(self._troubles(), ""):
            self._break(trouble)
            self._give_up_if_hopeless(now)
        elif self._broken:
            if self._last_ok >= now - self._interval:
                self._open("restarted", f"that is over: {self._broken}")
            else:
                self._give_up_if_hopeless(now)
        elif self._began is not None and self._is_time_to_judge(now):
            self._check_routing_if_due(now)
            self._judge_now(now)

    def _troubles(self) -> Iterator[str]:
        yield from self._changed.values()
        run, plan = self._run, self._run.plan
        for what, path, wanted in (
            ("thresholds", run.thresholds_path, plan.thresholds_sha256),
            ("stages", run.stages_path, plan.stages_sha256),
        ):
            try:
                if rollouts.sha256(path) != wanted:
                    yield f"the {what} file {path} changed since this stage began"
            except UsageError as error:
                yield str(error)
        if run.target.configuration_now() != plan.configuration_sha256:
            yield "the configuration of the target changed since this stage began"
        now = run.control.configuration_now() if run.control else None
        if now != (plan.control and plan.control.configuration_sha256):
            yield "the configuration of the control changed since this stage began"

    def _break(self, reason: str) -> None:
        """Record what broke the hold. The hold restarts only after that has ended."""
        if self._broken or self._over:
            return
        self._broken, self._broken_since, self._began = reason, self._clock.now(), None
        self._count_restart(reason, waits=True)

    def _restart(self, reason: str) -> None:
        """Restart now, or at the start of the next business day."""
        if self._broken or self._over or self._began is None:
            return
        self._count_restart(reason)
        if self._over:
            return
        if self._rules.business_day is not None:
            self._open("restarted", reason)
        else:
            self._begin_at(self._clock.now())

    def _count_restart(self, reason: str, waits: bool = False) -> None:
        self._restarts += 1
        self._restarted_because = reason
        self._record("restarted", reason, waits=waits)
        self._run.say(f"the hold restarts: {reason}")
        if self._restarts > MAX_RESTARTS:
            self._end("aborted", f"it was broken {self._restarts} times, the last time because {reason}")

    def _give_up_if_hopeless(self, now: datetime) -> None:
        assert self._broken_since is not None
        every = timedelta(seconds=self._run.stages.sampling.judge_every_s)
        if now - self._waited >= every:
            self._waited = now
            gives_up = self._broken_since + self._extension
            self._show(f"waiting to restart since {iso(self._broken_since)}, until {iso(gives_up)} at most: {self._broken}")
        if now - self._last_ok > DEAD_INTERVALS * self._interval:
            self._end("aborted", f"there has been no usable snapshot for too long; {self._broken}")
        elif now - self._broken_since > self._extension:
            self._end("aborted", f"for {self._extension.total_seconds():g} s it could not restart; {self._broken}")

    # --- judging ------------------------------------------------------------------------------------

    def _is_time_to_judge(self, now: datetime) -> bool:
        assert self._began is not None
        every = timedelta(seconds=self._run.stages.sampling.judge_every_s)
        due = [self._began + timedelta(hours=hour) for hour in self._run.plan.gates_at_h] + [self._began + self._required]
        return now - self._judged >= every or any(self._judged < moment <= now for moment in due)

    def _check_routing_if_due(self, now: datetime) -> None:
        every = timedelta(seconds=self._run.stages.routing_check.every_s)
        assert self._began is not None
        is_last = self._routing_checked < self._began + self._required <= now
        if self._check_routing is not None and (now - self._routing_checked >= every or is_last):
            self._routing_checked = now
            self._check_routing()

    def _judge_now(self, now: datetime) -> None:
        assert self._began is not None
        self._judged = now
        if self._find is not None:
            found = self._find()
            self._compare(found)
            if trouble := next(self._troubles(), "" if found.known else "the revisions cannot be found out any more"):
                self._break(trouble)
                return
        found_so_far = self._judge(self._began, now)
        self._keep(now, found_so_far)
        self._latest_checks, self._missing = checks_now(found_so_far.checks), found_so_far.missing
        if found_so_far.abort:
            self._end("aborted", found_so_far.abort)
        elif red := found_so_far.red or self._failed_check:
            self._restart(red)
        else:
            self._pass_gates(now, found_so_far)
            self._end_if_over(now, found_so_far)

    def _keep(self, now: datetime, found: Evaluation) -> None:
        """Write the evaluation down, for `stage status` in another terminal."""
        line = Evaluated(at=iso(now), coverage=found.covered, worst=found.worst, next=iso(self._next_evaluation(now)))
        evidence.append(self._run.run_dir / records.EVALUATIONS, line)

    def _next_evaluation(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._run.stages.sampling.judge_every_s)

    def _pass_gates(self, now: datetime, found: Evaluation) -> None:
        """Pass the due gates within the hold. The gate at its start needs only one finished canary check."""
        assert self._began is not None
        for hour in self._run.plan.gates_at_h:
            is_due = hour not in self._gates_passed and now >= self._began + timedelta(hours=hour)
            if is_due and (self._has_checked if hour == 0 else not found.missing) and self._is_armed(hour):
                self._gates_passed.add(hour)
                said = "nothing is wrong" if hour == 0 else "every gate passes"
                self._record("gate", said, gate_h=hour, state=State.PASS)

    def _is_armed(self, hour: float) -> bool:
        """Whether the rollback is armed. A gate does not pass without it and is checked again at the next evaluation."""
        self._unarmed = self._arm(hour) if self._arm is not None else ""
        return not self._unarmed

    def _end_if_over(self, now: datetime, found: Evaluation) -> None:
        assert self._began is not None
        end = self._began + self._required
        late = [f"the gates at {hour:g} h" for hour in self._run.plan.gates_at_h if hour not in self._gates_passed]
        unarmed = [f"the rollback is not armed ({self._unarmed})"] if late and self._unarmed else []
        missing = (*found.missing, *late, *unarmed)
        self._show(self._standing(now, end, found, missing))
        if now < end or self._canary_checks.is_running:
            return
        if not missing:
            self._end("ended", "held to its end, green throughout")
        elif now >= end + self._extension:
            self._end("ended", f"too few samples, in spite of the longest extension: {', '.join(missing)}")

    def _standing(self, now: datetime, end: datetime, found: Evaluation, missing: Sequence[str]) -> str:
        """The standing of the hold after an evaluation, in one line."""
        assert self._began is not None
        parts = [
            f"held {_hms(now - self._began)} of {_hms(self._required)}",
            f"earliest end {iso(max(end, now))}",
            f"coverage {found.covered}",
            found.worst,
            f"not yet: {', '.join(missing)}" if missing else "all gates pass",
            f"next evaluation {self._next_evaluation(now):%H:%M:%S} UTC",
        ]
        if self._restarts:
            parts.append(f"restarted {self._restarts} times, the last because {self._restarted_because}")
        return "; ".join(parts)

    def _end(self, kind: HoldKind, reason: str) -> None:
        self._record(kind, reason)
        self._run.say(f"the hold {'ended' if kind == 'ended' else 'was stopped'}: {reason}")
        self._over = True

    def _record(self, kind: HoldKind, reason: str, gate_h: float | None = None, state: str = "", waits: bool = False) -> None:
        event = HoldEvent(at=iso(self._clock.now()), kind=kind, reason=reason, gate_h=gate_h, state=state, waits=waits)
        rollouts.record_hold(self._run, event)
        self._watcher.show(self._state_now(), event)

    def _next_poll(self) -> datetime:
        """The time of the next poll. Polls are on a grid, so that delays do not add up; missed polls are skipped."""
        turns = (self._clock.now() - self._grid) // self._interval + 1
        return self._grid + turns * self._interval


def _hms(length: timedelta) -> str:
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
