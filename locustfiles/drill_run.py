"""One drill's run by greenlets: the course that `sim.engines.sockets` has, with Locust's users as its clients."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import gevent
import msgspec
from gevent.event import Event
from gevent.pool import Group

from locustfiles.collecting import GreenRecorder, LiveFigures, Report
from locustfiles.embedded import EmbeddedMock
from locustfiles.event_publisher import EventPublisher, WatchedPublished
from locustfiles.lane import LaneRequests
from locustfiles.options import Plan
from locustfiles.storms import Storms
from locustfiles.wire_client import WireClient
from sim.contract import policies
from sim.contract.client import ClientSession
from sim.contract.notices import Notice
from sim.contract.probes import session_class
from sim.contract.settings import Switches
from sim.engines import course, permission
from sim.engines.garbage import relaxed_garbage_collection
from sim.engines.lane import Lane
from sim.engines.publishing import streams_of
from sim.engines.session_driver import NEVER, WallClock
from sim.errors import StorageError, StormgateError, UsageError
from sim.faults import PlannedFault
from sim.faults import plan as fault_plan
from sim.mock.server import ServeOptions, admin_token, raise_descriptor_limit
from sim.observations import NAN, RunHeader, write_header

_POLL_S = 0.1
_LAG_PERIOD_S = 0.05
_SAMPLE_PERIOD_S = 0.5
_LAG_SAMPLES = 500  # clients whose lag is sampled each time; more would be load of its own


class DrillRun:
    """One run into `folder`: `prepare`, then `follow_course` in a greenlet of its own while users `be_a_client`."""

    def __init__(self, plan: Plan, folder: Path, run_id: str, report: Report, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.phase = "start"
        self.live = LiveFigures(report)
        self.clock = WallClock()
        self.clients: dict[int, WireClient] = {}
        self._folder = folder
        self._say = say
        self._faults = fault_plan(plan.drill, plan.seed)
        self._recorder = GreenRecorder(folder)
        self._stop = Event()
        self._because = ""
        self._storm_asked = Event()
        self._heal_asked = Event()
        self._cues = {planned.index: Event() for planned in self._faults}  # set once a fault has begun, or is to at once
        self._free: deque[int] = deque()
        self._helpers = Group()
        self._mock: EmbeddedMock | None = None
        self._lag_ms = 0.0
        self.began = NEVER  # when the first client is to arrive
        self.replaced = Event()  # another run has begun
        self.header = self._new_header(run_id)

    # --- before -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find or start the runtime, make the streams and the fleet. Raises as the target does."""
        raise_descriptor_limit()
        write_header(self._folder, self.header)
        lane = self.plan.lane or self._start_mock()
        self.header.target, self.header.target_kind = lane.name, lane.kind
        self.header.remarks = permission.remarks(self.plan.drill, lane)
        self._lane = LaneRequests(lane)
        self._lane.check()
        healthy = self._as_found(lane)
        load = self.plan.drill.load
        runs = [self._lane.create_run(f"stormgate-{number}") for number in range(load.run_streams)]
        self._streams = streams_of(runs, load.worker_events)
        self._book = WatchedPublished(self._streams, load.payload_bytes, self.clock, self._recorder, self.live)
        self.publisher = EventPublisher(self._lane, self._book, load.events_per_s, self.clock)
        self._make_fleet()
        topics = [stream.topic for stream in self._streams]
        by_class = topics[: load.run_streams], topics[load.run_streams :]
        self._storms = Storms(self._lane, healthy, self.clients, by_class, self.clock, self._recorder)

    def _start_mock(self) -> Lane:
        self._mock = EmbeddedMock(ServeOptions(self.plan.drill.runtime, self.plan.switches), self._folder)
        return Lane("embedded mock", "mock", self._mock.url, self._mock.url, admin_token=admin_token())

    def _as_found(self, lane: Lane) -> Switches:
        """The switches to go back to after each fault: a drill must not mend what is wrong with a target."""
        if self._mock is not None:
            return self.plan.switches
        found = self._lane.switches()
        self.header.defects = sorted(found.defects)
        return msgspec.structs.replace(found, seed=self.plan.seed)

    def _make_fleet(self) -> None:
        """The clients that users will be, then one for each probe."""
        drill = self.plan.drill
        for number in range(drill.fleet.clients + len(drill.expect.probes)):
            probe = None if number < drill.fleet.clients else drill.expect.probes[number - drill.fleet.clients]
            self.clients[number] = self._client(number, self._topics_of(number), probe)
            if probe is None:
                self._free.append(number)
            else:
                self.header.probes[str(number)] = probe
        self.header.subscriptions = {
            str(number): [cursor.stream for cursor in client.session.replica.cursors.values()]
            for number, client in self.clients.items()
        }
        write_header(self._folder, self.header)

    def _topics_of(self, client: int) -> list[str]:
        topics, runs = [stream.topic for stream in self._streams], self.plan.drill.load.run_streams
        return course.topics_of(client, topics[:runs], topics[runs:], self.plan.drill.fleet.topics_per_client)

    def _client(self, number: int, topics: list[str], probe: str | None = None) -> WireClient:
        drill = self.plan.drill
        policy = policies.get(drill.fleet.policy if number < drill.fleet.clients else "reference")
        session = session_class(probe)(number, topics, policy, course.client_settings(drill, self.plan.seed))
        listener = self.live.noticed if number in range(drill.fleet.clients) else _nobody  # what is watched is the fleet
        return WireClient(session, self._lane, self.clock, self._recorder, listener)

    # --- what users do ------------------------------------------------------------------------------

    def take_client(self) -> int | None:
        """The next client of the fleet that no user is yet."""
        return self._free.popleft() if self._free else None

    def be_a_client(self, number: int) -> None:
        """A user's greenlet is that client until the run ends."""
        with self._must_not_fail():
            self._live(number)

    def _live(self, number: int) -> None:
        """One client's whole life; it arrives at its own moment, as in every engine."""
        fleet = self.plan.drill.fleet
        self.clients[number].run(self.began + number * fleet.arrival_s / fleet.clients)

    def publish(self) -> None:
        """A user's greenlet publishes until the run wants no more."""
        with self._must_not_fail():
            self.publisher.run()

    def _must_not_fail(self) -> "_EndsTheRun":
        return _EndsTheRun(self)

    def stop(self, because: str) -> None:
        """End before its time: heal, keep what was observed, and say that it is not complete."""
        self._because = self._because or because
        self._stop.set()

    # --- by hand ------------------------------------------------------------------------------------

    def storm_now(self) -> str:
        """The next fault does not wait for its time any more; says which. Raises `UsageError` if there is none to begin."""
        if self.phase not in ("steady", "fault"):
            raise UsageError(f"the run is in its phase '{self.phase}': a storm can begin in 'steady' and in 'fault' only.")
        waiting = [planned for planned in self._faults if not self._cues[planned.index].is_set()]
        if not waiting or self._heal_asked.is_set():
            raise UsageError("every fault of this drill has begun already, or it breaks nothing; start another run.")
        planned = min(waiting, key=lambda each: each.begins_s)
        self._by_hand(f"{planned.kind} began by hand, before its time")
        self._cues[planned.index].set()
        self._storm_asked.set()
        return planned.kind

    def heal_now(self) -> None:
        """Take everything back now; faults that have not begun never will. Raises `UsageError` if nothing is being broken."""
        if self.phase != "fault":
            raise UsageError(
                f"the run is in its phase '{self.phase}': there is nothing to heal; it is in 'fault' that things break."
            )
        self._by_hand("healed by hand")
        self._heal_asked.set()
        self._storms.end()

    def _by_hand(self, what: str) -> None:
        """Whoever reads the verdict must know of it."""
        at_s = self.clock.now() - self.clock.began
        self.header.remarks = [*self.header.remarks, f"{what}, {at_s:.1f} s into the run, in the phase '{self.phase}'"]

    # --- the course ---------------------------------------------------------------------------------

    def follow_course(self) -> RunHeader:
        """From the first client to the sealed record; never raises, the header says what went wrong."""
        try:
            with relaxed_garbage_collection():
                self._phases()
        except Exception as error:
            self.stop(str(error) or type(error).__name__)
        finally:
            self.close()
        return self.header

    def _phases(self) -> None:
        phases = self.plan.drill.phases
        self.began = self.clock.now()
        self._help(self._watch_own_lag)
        self._help(self._sample)
        self._enter("steady")
        for number in map(int, self.header.probes):
            self._help(partial(self._live, number))
        self._pause(self.plan.drill.fleet.arrival_s + phases.steady_s, or_until=self._storm_asked)
        is_steady = self._reach_steady()
        try:
            self._enter("fault")
            if is_steady:
                self._break_things()
        finally:
            self._enter("heal")
            if self._stop.is_set():
                self._end_load()
            self._storms.heal()
            if self._mock is not None and self._mock.has_died:
                self._add("runtime_died")
        self._pause(phases.heal_s)
        self._enter("settle")
        if not self._stop.is_set():
            self.publisher.finish()
            self._add_auditor()
        self._settle()
        self._enter("end")
        self.header.complete = not self._stop.is_set()

    def _reach_steady(self) -> bool:
        """The check before anything is broken: everyone live, events acknowledged."""
        limit = self.clock.now() + self.plan.drill.phases.steady_limit_s
        while (sick := self._sickness()) and self.clock.now() < limit and not self._stop.is_set():
            self._stop.wait(_POLL_S)
        self._add("steady", value=0.0 if sick else 1.0, detail=sick or "all clients live")
        return not sick and not self._stop.is_set()

    def _sickness(self) -> str:
        if (live := self.live_clients) < (wanted := self.plan.drill.fleet.clients):
            return f"{live} of {wanted} clients live"
        return "" if self._book.acknowledged else "no event acknowledged"

    @property
    def live_clients(self) -> int:
        """How many of the fleet are live."""
        fleet = self.plan.drill.fleet.clients
        return sum(client.session.is_live for number, client in self.clients.items() if number < fleet)

    def _break_things(self) -> None:
        began = self.clock.now()
        acting = Group()
        for planned in self._faults:
            acting.start(gevent.Greenlet(self._act, planned, began))
        try:
            self._pause(began + self.plan.drill.phases.fault_s - self.clock.now(), or_until=self._heal_asked)
            while len(acting) and not self._stop.is_set():
                acting.join(_POLL_S)
        finally:
            acting.kill()  # a fault stopped half-way must not act on while it is healed

    def _act(self, planned: PlannedFault, began: float) -> None:
        """One fault at its time, or when it is asked for."""
        cue = self._cues[planned.index]
        gevent.wait([cue, self._heal_asked], max(began + planned.begins_s - self.clock.now(), 0), count=1)
        if not self._heal_asked.is_set():
            cue.set()
            with self._must_not_fail():
                self._storms.run(planned)

    def _add_auditor(self) -> None:
        """A client without a past, who reads everything that is retained: does the log hold what was acknowledged?"""
        number = len(self.clients)
        auditor = self._client(number, [stream.topic for stream in self._streams])
        self.header.auditor = number
        self.header.subscriptions[str(number)] = [stream.stream for stream in self._streams]
        self.clients[number] = auditor
        self._help(lambda: auditor.run(0.0))

    def _settle(self) -> None:
        """Wait for everyone to converge; whoever has not when time is up is listed with the reason."""
        limit, heads = self.clock.now() + self.plan.drill.phases.settle_s, self._book.heads
        while self.clock.now() < limit and not self._stop.is_set():
            # All at one moment: who had converged may be renewing its token by now.
            if not any(course.behind(client.session, heads, self.clock.now()) for client in self.clients.values()):
                break
            self._stop.wait(_POLL_S)
        for client in self.clients.values():
            self._conclude(client.session, heads)

    def _conclude(self, session: ClientSession, heads: dict[str, int]) -> None:
        behind = course.behind(session, heads, self.clock.now())
        if not behind:
            self._add("settled", session.client)
        for topic in behind:
            cursor = session.replica.cursors[topic]
            at = -1 if cursor.watermark is None else cursor.watermark
            self._add("still_pending", session.client, cursor.stream, at, float(heads[topic]), session.why_pending())

    # --- watching -----------------------------------------------------------------------------------

    def _watch_own_lag(self) -> None:
        """How late this process's own timers are: its load generator's honesty. A long stall is many late ticks, not one."""
        due = self.clock.now() + _LAG_PERIOD_S
        while True:
            gevent.sleep(max(due - self.clock.now(), 0))
            while (late_s := self.clock.now() - due) >= 0:
                self._lag_ms = late_s * 1000
                self._add("generator_lag", value=self._lag_ms)
                due += _LAG_PERIOD_S

    def _sample(self) -> None:
        """Every client's distance from the head, in events, some clients at a time when there are many."""
        first, fleet = 0, self.plan.drill.fleet.clients
        while True:
            gevent.sleep(_SAMPLE_PERIOD_S)
            self._recorder.flush()
            self._recorder.check()
            step, worst = min(fleet, _LAG_SAMPLES), NAN
            for number in range(first, first + step):
                session = self.clients[number % fleet].session
                if (lag := course.lag_events(session, self._book.heads)) is not None:
                    self._add("client_lag", session.client, value=lag)
                    worst = lag if worst != worst else max(worst, lag)  # NaN until there is one
            first = (first + step) % fleet
            self.live.sample(self.clock.now() - self.clock.began, self.live_clients, fleet, self._lag_ms, worst)

    # --- ending -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave nothing behind: clients gone, record sealed, header written, mock stopped."""
        self._end_load()
        self._helpers.kill()
        self._lane.close() if hasattr(self, "_lane") else None
        self.header.stopped_because = self._because
        self.header.duration_s = self.clock.now() - self.clock.began
        try:
            self.header.observations_sha256, self.header.observations_rows = self._recorder.seal()
        except StorageError as error:
            self.header.complete, self.header.stopped_because = False, str(error)
        if self._mock is not None:
            self._mock.stop()
        with suppress(StormgateError):  # an older header says that the run is not complete
            write_header(self._folder, self.header)

    def _end_load(self) -> None:
        """Ask nothing more of the target."""
        if hasattr(self, "publisher"):
            self.publisher.cancel()
        for client in self.clients.values():
            client.stop()

    # --- small change -------------------------------------------------------------------------------

    def _help(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            with self._must_not_fail():
                work()

        self._helpers.spawn(guarded)

    def _pause(self, seconds: float, or_until: Event | None = None) -> None:
        """Wait so long, or until the run is to stop, or until that happens."""
        gevent.wait([self._stop, *([or_until] if or_until else [])], max(seconds, 0), count=1)
        self._recorder.check()

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.live.phases[phase] = self.clock.now() - self.clock.began
        self._add("phase", detail=phase)
        self._say(f"{phase}: {self.live_clients} of {self.plan.drill.fleet.clients} clients live")

    def _add(self, kind: str, client: int = -1, stream: str = "", seq: int = -1, value: float = NAN, detail: str = "") -> None:
        self._recorder.add(self.clock.now() - self.clock.began, kind, client, stream, seq, value=value, detail=detail)

    def _new_header(self, run_id: str) -> RunHeader:
        header = course.new_header(
            self.plan.drill,
            self._faults,
            run_id=run_id,
            engine="locust",
            clock="wall",
            seed=self.plan.seed,
            libraries=("locust", "gevent", "websockets"),
        )
        header.defects = sorted(self.plan.switches.defects)
        header.target, header.target_kind = self.plan.target
        return header


def _nobody(now: float, session: ClientSession, notices: Sequence[Notice]) -> None:
    """Hears nothing."""


class _EndsTheRun:
    """A defect of ours in any greenlet: what was measured cannot be trusted, so the run ends as one that was cut short."""

    def __init__(self, run: DrillRun) -> None:
        self._run = run

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):  # a greenlet that is killed ends as it should
            return False
        self._run.stop(str(error) or type(error).__name__)
        return True
