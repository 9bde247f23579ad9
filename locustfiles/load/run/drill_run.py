"""A run of one drill by greenlets, with Locust's users as its clients."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import gevent
import msgspec
from gevent.event import Event

from locustfiles.load.clients.client_pool import ClientPool
from locustfiles.load.clients.crowd import Crowd
from locustfiles.load.clients.recording import LiveMetrics, Report
from locustfiles.load.run import target_monitor
from locustfiles.load.run.faults import LoadTestFaultActions, MockService
from locustfiles.load.run.options import Plan
from locustfiles.load.run.publisher import LivePublishing, Publisher
from locustfiles.load.workers.messages import AnyFromWorker, Send
from locustfiles.load.workers.workers import Workers
from sim.base.clocks import WallClock
from sim.base.errors import ShortageError, StorageError, StormgateError, UsageError
from sim.drill.fault_lifecycle import Record
from sim.drill.fault_schedule import plan as fault_plan
from sim.drill.phase_runner import PhaseRunner
from sim.engines.greenlets.background import BackgroundGreenlets, LagMonitor
from sim.engines.greenlets.driver import GreenletDriver
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.greenlets.protocol_publisher import GreenletPublisher
from sim.engines.shared import client_setup, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fault_actions import PublishFaults, ServiceFaults
from sim.engines.shared.publishing import own_streams, streams_of
from sim.machine.gc_tuning import relaxed_gc
from sim.mock.process import LOG_NAME, BlockingMockProcess
from sim.mock.server import ServeOptions, admin_token, raise_descriptor_limit
from sim.protocols import registry
from sim.record.observations import NAN
from sim.record.run_header import RunHeader, write_header
from sim.server.settings import Switches

_SAMPLE_PERIOD_S = 0.5


class DrillRun:
    """One run with its results in `folder`. Call `prepare`, then `run_phases` in one greenlet and `be_a_client` in users."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        run_id: str,
        report: Report,
        say: Callable[[str], None],
        workers: Sequence[str],
        send: Send,
    ) -> None:
        """Plan a run. `workers` are the ids of the Locust workers that run the clients; without any, this process does."""
        self.plan = plan
        self.phase = "start"
        self.live = LiveMetrics(report)
        self.clock = WallClock()
        self._folder = folder
        self._say = say
        self._faults = fault_plan(plan.drill, plan.seed)
        self._recorder = target_monitor.recorder(folder, plan.endpoints)
        self.record = Record(self._recorder.add, self.clock.now, self.clock.began)
        self._driver = GreenletDriver(self.clock, self._recorder.check)
        self._because = ""
        self._free: deque[int] = deque()
        self._background = BackgroundGreenlets(self.stop)
        self._mock: BlockingMockProcess | None = None
        self._workers = tuple(workers)
        self._lag = LagMonitor(
            self.clock,
            self._recorder,
            "master" if workers else "",
            self._server_pid,
            lambda: self._endpoints.target_clock.take(),
            plan.endpoints.urls if plan.endpoints else (),
        )
        self._crowd = Crowd(plan.drill.fleet.clients) if plan.follows_locust else None
        whose = self._come if self._crowd else plan.drill.fleet.clients
        self._others = Workers(workers, whose, send, self.clock, self._recorder, self.live, self.stop)
        self.replaced = Event()  # set when another run has started
        self.header = self._new_header(run_id)

    # --- before -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Connect to the target or start the mock, then create the streams and the clients. Raise the target's errors."""
        raise_descriptor_limit()
        write_header(self._folder, self.header)
        endpoints = self.plan.endpoints or self._start_mock()
        parts = self._folder, self.clock, self._recorder, self.header
        self._guard = target_monitor.TargetGuard(self.plan.drill, endpoints, *parts, len(self._workers))
        self._endpoints = GreenletHttp(endpoints)
        self._endpoints.check()
        self._guard.before()
        healthy = self._as_found(endpoints)
        load = self.plan.drill.load
        names = [f"stormgate-{number}" for number in range(load.run_streams)]
        runs = list(endpoints.streams.names[: load.run_streams])
        runs = runs or [self._endpoints.ask(service_api.create_run, name) for name in names]
        self._streams = streams_of(runs, load.worker_events, endpoints.protocol, endpoints.streams)
        self.header.own_streams = own_streams(self._streams, endpoints.streams)
        client_setup.describe_streams(self.header, [stream.topic for stream in self._streams])
        self._publishing = LivePublishing(
            self._streams, load, self._recorder, self.clock.began, self.header.marker_run, self.live, self._others
        )
        over = self._protocol_publisher()
        self.publisher = Publisher(self._endpoints, self._publishing, self.clock, self._background, self._guard.events, over)
        topics = [stream.topic for stream in self._streams]
        self._client_pool = ClientPool(
            self.plan.drill,
            self.plan.seed,
            self.header.marker_run,
            self._endpoints,
            topics,
            self.clock,
            self._recorder,
            self.live.noticed,
            self._guard.connects,
        )
        self._make_fleet()
        service = ServiceFaults(
            MockService(self._endpoints, self.clock), healthy, (topics[: load.run_streams], topics[load.run_streams :])
        )
        publishing = PublishFaults(self._publishing)
        self.actions = LoadTestFaultActions(
            self._client_pool, self._others, publishing, service, self._driver.carry_out, self._note_death
        )
        self._phases = PhaseRunner(self.plan.drill, self._faults, self, is_open_ended=self.plan.follows_locust)
        self._prepare_workers(topics)

    def _protocol_publisher(self) -> GreenletPublisher | None:
        """Connect the publisher, where the target wants events published over the protocol."""
        endpoints = self._endpoints.endpoints
        if endpoints.forms.publish.over != "protocol":
            return None
        settings = client_setup.target_settings(self.plan.drill, self.plan.seed, self.header.marker_run, endpoints)
        over = GreenletPublisher(self._endpoints, settings, self.clock, self._guard.connects)
        over.connect()
        return over

    def _note_death(self) -> None:
        if self._mock is not None and self._mock.has_died:
            self.record("runtime_died")

    def _server_pid(self) -> int:
        """The process id of the mock that this run started; 0 without one."""
        return self._mock.pid if self._mock is not None else 0

    def _start_mock(self) -> Endpoints:
        options = ServeOptions(self.plan.drill.runtime, self.plan.switches)
        self._mock = BlockingMockProcess(options, self._folder / LOG_NAME)
        return Endpoints.of_embedded_mock(self._mock.url, admin_token())

    def _as_found(self, endpoints: Endpoints) -> Switches:
        """Return the switches to restore after each fault. A drill must not repair the defects of a target."""
        if self._mock is not None or not endpoints.is_mock:
            return self.plan.switches
        found = self._endpoints.ask(service_api.switches)
        self.header.defects = sorted(found.defects)
        return msgspec.structs.replace(found, seed=self.plan.seed)

    def _make_fleet(self) -> None:
        """Create the clients for the users of this process, and the negative clients."""
        drill, fleet = self.plan.drill, self.clients
        negative = client_setup.negative_clients(drill, self.header, self._endpoints.endpoints)
        for number in range(fleet + len(negative)):
            if number >= fleet:
                self.header.negative_clients[str(number)] = negative[number - fleet]
                self._client_pool.add(number, negative[number - fleet])
            elif not self._workers:
                self._free.append(number)
                self._client_pool.add(number)
            self.header.subscriptions[str(number)] = self._client_pool.streams_of(number)
        write_header(self._folder, self.header)

    def _prepare_workers(self, topics: list[str]) -> None:
        """Prepare the workers. Raise `TargetError` for a worker that cannot take part."""
        if self._workers:
            target = self._mock.url if self._mock is not None else self._endpoints.endpoints.name
            pace = self._guard.worker_connects_per_s
            self._others.prepare(self.plan.drill, self.plan.seed, self.header.marker_run, target, topics, pace)

    def receive(self, worker: str, said: AnyFromWorker) -> None:
        """Handle a message from a worker."""
        self._others.receive(worker, said)

    # --- what users do ------------------------------------------------------------------------------

    @property
    def clients(self) -> int:
        """Number of clients that should be live now."""
        return self._crowd.here if self._crowd else self.plan.drill.fleet.clients

    def take_client(self) -> int | None:
        """Return the next client without a user; None if every client has one."""
        if self._crowd is None:
            return self._free.popleft() if self._free else None
        if (number := self._come()) is not None:
            self._client_pool.add(number)
        return number

    def _come(self) -> int | None:
        """Return the number of a client that Locust wants; if there may be no more of them, stop the run and return None."""
        assert self._crowd is not None
        if (number := self._crowd.come()) is None:
            self.stop(f"Locust wanted more than {self._crowd.most} clients; raise that limit with --clients")
        return number

    def be_a_client(self, number: int) -> None:
        """Run one client in a user's greenlet until the run ends. Which user is which client matters to the drill only."""
        if self._crowd:
            self._background.spawn(partial(self._client_pool.live_on, number))
            return
        with self._background.must_not_fail():
            self._client_pool.live_on(number)

    def leave(self, number: int) -> None:
        """Stop a client, because Locust removed a user, and a drill's run as well: the drill needs all its clients."""
        if self._crowd:
            self._client_pool.remove(self._crowd.leave())
            return
        self._client_pool.clients[number].stop()
        self.stop(f"Locust took the user of client {number} away")

    def publish(self) -> None:
        """Publish in a user's greenlet until the run ends publishing."""
        with self._background.must_not_fail():
            self.publisher.run()

    @property
    def steady_for_s(self) -> float:
        """How long the steady state has lasted; infinite after it."""
        return self.clock.now() - self.clock.began - self.live.phases["steady"] if self.phase == "steady" else math.inf

    def finish(self) -> None:
        """End a run whose length Locust decides: all clients must catch up, then it is judged."""
        assert self._crowd is not None
        if why := self._crowd.why_not_judged():
            self.stop(why)
        self._phases.end_steady_state()
        self._driver.look()

    def stop(self, because: str) -> None:
        """Stop the run early: revert the faults, keep the observations, and mark the record as incomplete."""
        self._because = self._because or because
        self._driver.stop()

    # --- by hand ------------------------------------------------------------------------------------

    def storm_now(self) -> str:
        """Inject the next fault now and return its kind. Raise `UsageError` if that is not possible now."""
        if why_not := self.why_no_storm():
            raise UsageError(why_not)
        planned = self._phases.bring_forward()
        self._add_remark(f"{planned.kind} began by hand, before its time")
        self._driver.look()
        return planned.kind

    def revert_now(self) -> None:
        """Revert all faults now and drop those that have not started. Raise `UsageError` if that is not possible now."""
        if why_not := self.why_no_revert():
            raise UsageError(why_not)
        self._add_remark("reverted by hand")
        self._phases.revert_by_hand()
        self._driver.look()

    def why_no_storm(self) -> str:
        """Return why no storm can start now, in a sentence; empty if one can."""
        if self.phase not in ("steady", "fault"):
            return f"the run is in its phase '{self.phase}': a storm can begin in 'steady' and in 'fault' only."
        if not self._faults:
            return "this drill breaks nothing: it only observes."
        return "" if self._phases.faults.waiting else "every fault of this drill has begun already."

    def why_no_revert(self) -> str:
        """Return why nothing can be reverted now, in a sentence; empty if it can."""
        if self.phase != "fault":
            return f"the run is in its phase '{self.phase}': there is something to revert in 'fault' only."
        return "faults are being reverted already." if self._phases.faults.is_ended_by_hand else ""

    def _add_remark(self, what: str) -> None:
        """Add a remark to the header, for the readers of the verdict."""
        at_s = self.clock.now() - self.clock.began
        self.header.remarks = [*self.header.remarks, f"{what}, {at_s:.1f} s into the run, in the phase '{self.phase}'"]

    # --- phases -------------------------------------------------------------------------------------

    def run_phases(self) -> RunHeader:
        """Run all phases and seal the record. Never raises: the header has the reason of a failure."""
        try:
            with relaxed_gc():
                self._background.spawn(self._lag.run)
                self._background.spawn(self._sample)
                self._background.spawn(self._guard.poll)
                self._background.spawn(partial(self._guard.evaluate, self._live_share, self.stop))
                self._others.gather(lambda: self._driver.signals.is_stopped)
                self._driver.drive(self._phases.run())
                self.header.complete = not self._driver.signals.is_stopped
        except Exception as error:
            self.stop(str(error) or type(error).__name__)
        finally:
            self.close()
        return self.header

    def _live_share(self) -> float | None:
        """Return the share of the clients that are live; None before the steady state was reached."""
        return self.live_clients / max(self.clients, 1) if self._phases.is_steady else None

    @property
    def live_clients(self) -> int:
        """Number of live clients, here and on workers."""
        return self._client_pool.live + self._others.live

    # --- the world of the phase runner --------------------------------------------------------------

    def now(self) -> float:
        """See `World`."""
        return self.clock.now()

    def entered(self, phase: str) -> None:
        """See `World`."""
        self.phase = phase
        self._guard.is_quiet = phase == "settle"  # until convergence is judged, no request of ours may help
        self.live.phases[phase] = self.clock.now() - self.clock.began
        self._say(f"{phase}: {self.live_clients} of {self.clients} clients live")

    def start(self) -> None:
        """See `World`. Clients arrive from the same moment on, here and on workers."""
        self._client_pool.began = self.clock.now() + self._others.lead_s
        self._others.start(self._client_pool.began)
        for number in map(int, self.header.negative_clients):
            self._background.spawn(partial(self._client_pool.live_on, number))
        if self.plan.publishes_itself or self._workers:  # otherwise a user publishes
            self._background.spawn(self.publisher.run)

    def unready_reason(self) -> str:
        """See `World`."""
        there = self._client_pool.there + self._others.there
        is_publishing = self._publishing.acknowledged > 0
        return client_setup.unready_reason(there, self.clients, is_publishing=is_publishing)

    def end_load(self) -> None:
        """See `World`."""
        self._end_load()
        self._others.end_load()

    def finish_publishing(self) -> None:
        """See `World`."""
        self._publishing.stop()

    def is_publishing(self) -> bool:
        """See `World`."""
        return bool(self._publishing.under_way)

    def abandon_publishing(self) -> None:
        """See `World`."""
        self.publisher.cancel()
        self._publishing.give_up_all(self.clock.now())

    def add_auditor(self) -> None:
        """See `World`."""
        self._guard.is_quiet = False
        number = self.plan.drill.fleet.clients + len(self.header.negative_clients)
        self._count_crowd()
        self._client_pool.add_auditor(number)
        self.header.auditor = number
        self.header.subscriptions[str(number)] = [stream.stream for stream in self._streams]
        self._background.spawn(partial(self._client_pool.clients[number].run, 0.0))

    def _count_crowd(self) -> None:
        """Note who is judged of the clients that came."""
        if self._crowd:
            self.header.clients = self._crowd.stayed
            fleet = msgspec.structs.replace(self.plan.drill.fleet, clients=self._crowd.stayed)
            self.plan = replace(self.plan, drill=msgspec.structs.replace(self.plan.drill, fleet=fleet))
            self.header.drill_sha256 = self.plan.drill.digest()
            self.header.subscriptions |= {str(each): self._client_pool.streams_of(each) for each in range(self._crowd.stayed)}
            self.header.remarks = [*self.header.remarks, *filter(None, [self._crowd.in_words()])]

    def is_settled(self) -> bool:
        """See `World`."""
        heads = self._publishing.heads
        return not self._others.behind(heads) + self._client_pool.behind(heads)

    def is_audited(self) -> bool:
        """See `World`."""
        return not self._client_pool.is_behind(self.header.auditor, self._publishing.heads)

    def conclude_audit(self) -> None:
        """See `World`."""
        self._client_pool.conclude_one(self.header.auditor, self._publishing.heads)

    def conclude(self) -> None:
        """See `World`."""
        self._client_pool.conclude(self._publishing.heads)
        self._others.conclude(self._publishing.heads)

    # --- monitoring ---------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Record the clients' lag behind the head and a point of the recovery curve, once per sample period."""
        while True:
            gevent.sleep(_SAMPLE_PERIOD_S)
            self._recorder.flush()
            self._recorder.check()
            lags = [
                lag
                for lag in (self._client_pool.sample_lag(self._publishing.heads), self._others.take_worst_lag())
                if lag == lag
            ]
            t, late_ms = self.clock.now() - self.clock.began, max(self._lag.ms, self._others.lag_ms)
            self.live.sample(t, self.live_clients, self.clients, late_ms, max(lags, default=NAN))

    # --- ending -------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the run: stop the clients and the mock, seal the record, write the header."""
        self._end_load()
        if wrong := self._others.end():
            self.header.complete = False
            self._because = f"{self._because}; {wrong}" if self._because else wrong
        self.header.workers = self._others.evidence()
        self._background.kill()
        self._close_guard()
        if hasattr(self, "_endpoints"):
            self._endpoints.close()
        if self._mock is not None:
            self._end_mock(self._mock)
        self.header.stopped_because = self._because
        self.header.duration_s = self.clock.now() - self.clock.began
        try:
            self.header.observations_sha256, self.header.observations_rows = self._recorder.seal()
        except StorageError as error:
            self.header.complete, self.header.stopped_because = False, str(error)
        with suppress(StormgateError):  # the header on disk already marks the run as incomplete
            write_header(self._folder, self.header)

    def _end_mock(self, mock: BlockingMockProcess) -> None:
        mock.stop()
        try:
            mock.require_descriptors()
        except ShortageError as error:
            self.header.complete, self._because = False, str(error)

    def _close_guard(self) -> None:
        try:
            if hasattr(self, "_guard"):
                self._guard.close()
        except StormgateError as error:
            self.header.complete, self._because = False, self._because or str(error)

    def _end_load(self) -> None:
        """Send nothing more to the target."""
        if hasattr(self, "publisher"):
            self.publisher.cancel()
        if hasattr(self, "_client_pool"):
            self._client_pool.stop()

    def _new_header(self, run_id: str) -> RunHeader:
        endpoints = self.plan.endpoints
        header = client_setup.new_header(
            self.plan.drill,
            self._faults,
            run_id=run_id,
            engine="locust",
            clock="wall",
            seed=self.plan.seed,
            libraries=("locust", "gevent", "websockets"),
            protocol=endpoints.protocol if endpoints else registry.DEFAULT,
            protocol_options=endpoints.protocol_options if endpoints else None,
        )
        header.defects = sorted(self.plan.switches.defects)
        header.target, header.target_kind = self.plan.target
        return header
