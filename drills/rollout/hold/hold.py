"""Holding a stage: look at the servers, let clients watch, judge what there is, and begin anew whenever something broke it.

Everything is on disk as it happens, so a hold that was killed goes on where it was; the time in between is a hole like any
other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.hold import rollouts
from drills.rollout.hold.rollouts import StageRun
from drills.rollout.setup import evidence, records
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import CanaryCheckDone, HoldEvent, HoldKind, Phase, Revisions, Snapshot
from drills.rollout.setup.stages import MAX_HOLE_INTERVALS
from sim.base.clocks import from_iso, iso
from sim.base.errors import EvidenceError, UsageError

MAX_RESTARTS = 10  # [ours] what breaks so often is no accident
DEAD_INTERVALS = 20  # [ours] without a word from the servers: nobody would know whether to go back
_SET_BACK_S = 1.0  # [ours] by which a clock that is being disciplined may go back
_RED = (State.FAIL, State.ERROR)


class Poller(Protocol):
    """See `drills.rollout.servers.sampler.Sampler`."""

    def poll(self, phase: Phase, fault: bool = False) -> list[Snapshot]:
        """Ask every source once."""
        ...


class CanaryChecks(Protocol):
    """See `drills.rollout.hold.canary_checks.Watcher`."""

    @property
    def is_running(self) -> bool:
        """Whether a watch is under way."""
        ...

    def step(self, phase: Phase, may_begin: bool = True) -> CanaryCheckDone | None:
        """Begin a watch if one is due, and take one that has ended."""
        ...

    def close(self) -> None:
        """End what is under way."""
        ...


@dataclass(frozen=True)
class Look:
    """What can be said of a hold so far. `abort`: why it must not go on at all, empty for nothing."""

    checks: tuple[CheckResult, ...]
    coverage: State
    coverage_reason: str = ""
    abort: str = ""

    @property
    def red(self) -> str:
        """The first check that says that something is wrong; empty for none."""
        return next((f"{check.name} {check.state}: {check.reason}" for check in self.checks if check.state in _RED), "")

    @property
    def missing(self) -> tuple[str, ...]:
        """What does not pass yet, by name."""
        late = [f"coverage ({self.coverage_reason})"] if self.coverage is not State.PASS else []
        return (*(f"{check.name} ({check.state})" for check in self.checks if check.state is not State.PASS), *late)


Judge = Callable[[datetime, datetime], Look]  # of the window between two moments


class Hold:
    """One hold, from its beginning or from where a killed one stopped."""

    def __init__(
        self,
        run: StageRun,
        poller: Poller,
        watching: CanaryChecks,
        judge: Judge,
        *,
        calendar: Calendar | None = None,
        probe: Callable[[], object] | None = None,
        find: Callable[[], Revisions] | None = None,
        arm: Callable[[float], str] | None = None,
    ) -> None:
        self._run, self._poller, self._watching, self._judge = run, poller, watching, judge
        self._calendar, self._probe = calendar, probe
        self._rules = run.stages.stages[run.plan.stage]
        self._clock = run.clock
        self._interval = timedelta(seconds=run.plan.snapshot_interval_s)
        self._required = timedelta(seconds=run.plan.hold_required_s)
        self._began: datetime | None = None  # None: it waits for `_opens`, or for what broke it to end
        self._opens: datetime | None = None
        self._broken = ""
        self._broken_since: datetime | None = None
        self._restarts = 0
        self._gates_passed: set[float] = set()
        self._latest = self._grid = self._last_ok = self._clock.now()
        self._never = datetime.min.replace(tzinfo=self._latest.tzinfo)
        self._judged = self._probed = self._never
        self._find, self._arm = find, arm  # `arm`: why the way back is not open at a gate; empty where it is
        self._unarmed = ""
        self._changed: dict[str, str] = {}  # services whose revision is not the plan's, and what it is
        self._has_watched = False  # since the hold began
        self._watch_failed = ""
        self._over = False

    def run(self) -> None:
        """Hold to the end, good or bad. Ctrl-C is told and passed on; `EvidenceError` for a clock that was set back."""
        self._begin()
        try:
            while not self._over:
                self._turn()
        except KeyboardInterrupt:
            self._watching.close()
            self._tell("interrupted", "it was interrupted")
            raise
        finally:
            self._watching.close()

    # --- beginning, and going on --------------------------------------------------------------------

    def _begin(self) -> None:
        events = evidence.read_lines(self._run.run_dir / records.HOLD, HoldEvent)
        if not events:
            self._open("started", "")
            return
        if events[-1].kind in ("ended", "aborted"):
            self._over = True
            return
        self._restore(events)
        away_s = (self._clock.now() - self._last_ok).total_seconds()
        self._tell("resumed", f"the last snapshot that told anything is {away_s:.0f} s old")
        if not self._is_whole():
            self._open("restarted", "")

    def _restore(self, events: Sequence[HoldEvent]) -> None:
        """Take up where the file ends. Raises `EvidenceError` when that is still to come."""
        snapshots = evidence.read_lines(self._run.run_dir / records.SNAPSHOTS, Snapshot)
        self._latest = max([from_iso(events[-1].at), *(from_iso(each.at) for each in snapshots[-1:])])
        self._now()
        for event in events:
            if event.kind in ("started", "restarted"):
                self._began, self._gates_passed = None if event.waits else from_iso(event.at), set()
                self._broken, self._broken_since = (event.reason, from_iso(event.at)) if event.waits else ("", None)
                self._restarts += event.kind == "restarted"
            elif event.kind == "gate" and event.gate_h is not None and event.state == State.PASS:
                self._gates_passed.add(event.gate_h)
        good = [from_iso(each.at) for each in snapshots if self._tells(each)]
        self._last_ok = max([self._began or self._latest, *good])

    def _open(self, kind: HoldKind, reason: str) -> None:
        """Begin to hold: at once, or with the next business day."""
        now = self._clock.now()
        if self._rules.business_day is None or (self._opens is not None and now >= self._opens):
            self._begin_at(now)
            self._broken, self._broken_since = "", None
            self._tell(kind, reason)
            return
        assert self._calendar is not None
        self._watch_failed = ""
        hours = self._calendar.next_hours(now, self._rules.business_day)
        self._began, self._opens = None, hours.begin
        self._required = max(timedelta(seconds=self._run.plan.hold_required_s), hours.end - hours.begin)
        self._run.say(f"waiting for the next whole business day, which begins on {self._calendar.local(hours.begin)}")

    def _begin_at(self, now: datetime) -> None:
        self._began = self._last_ok = now
        self._opens, self._gates_passed, self._has_watched, self._watch_failed = None, set(), False, ""

    def _is_whole(self) -> bool:
        """Whether what was begun began with a business day's hours, where it must."""
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
        self._look_for_a_hole(now)
        self._take(self._poller.poll("hold"))
        self._watch(now)
        if self._opens is None and not self._over:
            self._weigh(self._now())
        if not self._over:
            self._clock.sleep_until(self._next_poll())

    def _now(self) -> datetime:
        now = self._clock.now()
        if (self._latest - now).total_seconds() > _SET_BACK_S:
            event = HoldEvent(at=iso(self._latest), kind="restarted", reason=f"the clock was set back to {iso(now)}")
            rollouts.write_hold(self._run, event)
            raise EvidenceError(
                f"it is {iso(now)} here, but this hold has seen {iso(self._latest)}; the clock was set back, so no time "
                "that was held can be believed. Mend the clock; the hold then begins anew."
            )
        self._latest = max(self._latest, now)
        return now

    def _look_for_a_hole(self, now: datetime) -> None:
        silent = now - self._last_ok
        if silent > MAX_HOLE_INTERVALS * self._interval:
            self._break(f"a hole: for {silent.total_seconds():.0f} s no snapshot told anything")

    def _take(self, snapshots: Sequence[Snapshot]) -> None:
        for each in snapshots:
            self._compare(each.revisions)
            if self._tells(each):
                self._last_ok = max(self._last_ok, from_iso(each.at))

    def _compare(self, told: Revisions) -> None:
        """Remember which service is not of the plan's revision; who says nothing changes nothing."""
        for service in ("control", "runtime"):
            was, now = getattr(self._run.plan.revisions, service), getattr(told, service)
            if now == was:
                self._changed.pop(service, None)
            elif now:
                self._changed[service] = (
                    f"the revision of {service} is {now}, and this stage is about {was or 'an unknown one'}"
                )

    def _tells(self, snapshot: Snapshot) -> bool:
        """Whether it is one of those that a hold is watched by: of the metrics, where a target has them."""
        return snapshot.ok and (snapshot.source == "metrics" or not self._run.target.has_metrics)

    def _watch(self, now: datetime) -> None:
        extended = self._required + timedelta(seconds=self._run.stages.sampling.extend_up_to_s)
        may_begin = self._began is not None and (now <= self._began + self._required or self._is_extended(now, extended))
        done = self._watching.step("hold", may_begin)
        if done is None:
            return
        if done.status != State.PASS:
            self._run.say(f"a watch ended as {done.status}: {done.reason}")
        self._has_watched = True
        if done.status == State.FAIL:
            self._watch_failed = f"a watch failed: {done.reason}"
            self._judged = self._never

    def _is_extended(self, now: datetime, extended: timedelta) -> bool:
        """Whether the hold has been judged at its end, and goes on because too little was seen."""
        assert self._began is not None
        return self._judged >= self._began + self._required and now < self._began + extended

    def _weigh(self, now: datetime) -> None:
        """Whether it is broken, mended, red, or over."""
        if trouble := next(self._troubles(), ""):
            self._break(trouble)
            self._give_up_if_hopeless(now)
        elif self._broken:
            if self._last_ok >= now - self._interval:
                self._open("restarted", f"that is over: {self._broken}")
            else:
                self._give_up_if_hopeless(now)
        elif self._began is not None and self._is_time_to_judge(now):
            self._probe_if_due(now)
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
                    yield f"the {what} file {path} is not what it was when this stage began"
            except UsageError as error:
                yield str(error)
        if run.target.configuration_now() != plan.configuration_sha256:
            yield "what is configured of the target is not what it was when this stage began"
        control = (
            run.control.configuration_now() if run.control else None,
            plan.control and plan.control.configuration_sha256,
        )
        if control[0] != control[1]:
            yield "what is configured of the control is not what it was when this stage began"

    def _break(self, reason: str) -> None:
        """Something is wrong that a new beginning must wait for."""
        if self._broken or self._over:
            return
        self._broken, self._broken_since, self._began = reason, self._clock.now(), None
        self._count_restart(reason, waits=True)

    def _restart(self, reason: str) -> None:
        """Begin anew, now or with the next business day."""
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
        self._tell("restarted", reason, waits=waits)
        self._run.say(f"the hold begins anew: {reason}")
        if self._restarts > MAX_RESTARTS:
            self._end("aborted", f"it was broken {self._restarts} times, the last time because {reason}")

    def _give_up_if_hopeless(self, now: datetime) -> None:
        assert self._broken_since is not None
        patience = timedelta(seconds=self._run.stages.sampling.extend_up_to_s)
        if now - self._last_ok > DEAD_INTERVALS * self._interval:
            self._end("aborted", f"nothing can be seen of the servers any more; {self._broken}")
        elif now - self._broken_since > patience:
            self._end("aborted", f"for {patience.total_seconds():g} s it could not begin anew; {self._broken}")

    # --- judging ------------------------------------------------------------------------------------

    def _is_time_to_judge(self, now: datetime) -> bool:
        assert self._began is not None
        every = timedelta(seconds=self._run.stages.sampling.judge_every_s)
        due = [self._began + timedelta(hours=hour) for hour in self._run.plan.gates_at_h] + [self._began + self._required]
        return now - self._judged >= every or any(self._judged < moment <= now for moment in due)

    def _probe_if_due(self, now: datetime) -> None:
        every = timedelta(seconds=self._run.stages.routing_check.every_s)
        assert self._began is not None
        is_last = self._probed < self._began + self._required <= now
        if self._probe is not None and (now - self._probed >= every or is_last):
            self._probed = now
            self._probe()

    def _judge_now(self, now: datetime) -> None:
        assert self._began is not None
        self._judged = now
        if self._find is not None:
            found = self._find()
            self._compare(found)
            if trouble := next(self._troubles(), "" if found.known else "the revisions cannot be found out any more"):
                self._break(trouble)
                return
        look = self._judge(self._began, now)
        if look.abort:
            self._end("aborted", look.abort)
        elif red := look.red or self._watch_failed:
            self._restart(red)
        else:
            self._pass_gates(now, look)
            self._end_if_over(now, look)

    def _pass_gates(self, now: datetime, look: Look) -> None:
        """Gates within the hold. The one at its beginning asks only that nothing is wrong: nothing has been counted yet."""
        assert self._began is not None
        for hour in self._run.plan.gates_at_h:
            is_due = hour not in self._gates_passed and now >= self._began + timedelta(hours=hour)
            if is_due and (self._has_watched if hour == 0 else not look.missing) and self._is_armed(hour):
                self._gates_passed.add(hour)
                said = "nothing is wrong" if hour == 0 else "every gate passes"
                self._tell("gate", said, gate_h=hour, state=State.PASS)

    def _is_armed(self, hour: float) -> bool:
        """Whether the way back is open; it is looked at again until it is, and without it no gate passes."""
        self._unarmed = self._arm(hour) if self._arm is not None else ""
        return not self._unarmed

    def _end_if_over(self, now: datetime, look: Look) -> None:
        assert self._began is not None
        end = self._began + self._required
        late = [f"the gates at {hour:g} h" for hour in self._run.plan.gates_at_h if hour not in self._gates_passed]
        unarmed = [f"the rollback is not armed ({self._unarmed})"] if late and self._unarmed else []
        missing = (*look.missing, *late, *unarmed)
        self._say_where(now, end, missing)
        if now < end or self._watching.is_running:
            return
        if not missing:
            self._end("ended", "held to its end, green throughout")
        elif now >= end + timedelta(seconds=self._run.stages.sampling.extend_up_to_s):
            self._end("ended", f"too little was seen, however long it was extended: {', '.join(missing)}")

    def _say_where(self, now: datetime, end: datetime, missing: Sequence[str]) -> None:
        assert self._began is not None
        held, needed = now - self._began, end - self._began
        left = f"not yet: {', '.join(missing)}" if missing else "all gates pass"
        self._run.say(f"held {_hms(held)} of {_hms(needed)}; earliest end {iso(max(end, now))}; {left}")

    def _end(self, kind: HoldKind, reason: str) -> None:
        self._tell(kind, reason)
        self._run.say(f"the hold {'ended' if kind == 'ended' else 'was stopped'}: {reason}")
        self._over = True

    def _tell(self, kind: HoldKind, reason: str, gate_h: float | None = None, state: str = "", waits: bool = False) -> None:
        event = HoldEvent(at=iso(self._clock.now()), kind=kind, reason=reason, gate_h=gate_h, state=state, waits=waits)
        rollouts.record_hold(self._run, event)

    def _next_poll(self) -> datetime:
        """On a grid, so that slow turns do not add up; polls that were missed are not made up for."""
        turns = (self._clock.now() - self._grid) // self._interval + 1
        return self._grid + turns * self._interval


def _hms(length: timedelta) -> str:
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
