"""The sockets engine: runs a drill over real processes and real WebSockets.

The runtime is a separate process: the embedded mock, or a target that already runs. This process generates the load,
publishes, and injects faults. It also measures the lag of its own timers, so that a slow load generator is not mistaken
for a slow runtime.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import uvloop

from sim.base.clocks import WallClock
from sim.base.errors import AdapterError, StorageError, TargetError, UsageError
from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.negative.registry import session_class
from sim.drill.fault_kinds import AnyFault, LinkFault
from sim.drill.fault_lifecycle import Record
from sim.drill.fault_schedule import plan
from sim.drill.model import Drill
from sim.drill.phase_runner import PhaseRunner
from sim.engines.shared import client_setup, permission, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fault_actions import ClientFaults, PublishFaults, WholeServiceFaults
from sim.engines.shared.publishing import Publishing, Stream, own_streams
from sim.engines.shared.withholding import is_withheld
from sim.engines.sockets import target_monitor
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.driver import AsyncioDriver
from sim.engines.sockets.faults import ServiceProcess, SocketsFaultActions
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.lag_and_routes import monitor_own_lag, monitor_retired_routes, sample_client_lag
from sim.engines.sockets.links import LinkActions
from sim.engines.sockets.publisher import ProtocolPublisher, Publisher, create_streams
from sim.engines.sockets.read_back import read_back
from sim.engines.sockets.target_monitor import TargetMonitor
from sim.machine.gc_tuning import relaxed_gc
from sim.machine.monitor import MachineMonitor
from sim.machine.processes import LocalTarget
from sim.mock.process import MockProcess
from sim.mock.server import ServeOptions, admin_token, raise_descriptor_limit
from sim.protocols import registry
from sim.record.run_header import RunHeader, write_header
from sim.server.settings import Switches

SPARE_DESCRIPTORS = 200  # for HTTP, files, pipes
_PROXIED_DESCRIPTORS = 3  # per client with a link fault: its own, and two in the proxy
_OBSERVED_EVERY_S = 1.0  # [ours]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that end a run
_GOODBYE_S = 0.1  # for sending the last frames


@dataclass(frozen=True)
class Options:
    """The options of one run. If `endpoints` is None, the engine starts the embedded mock with these switches."""

    folder: Path
    seed: int = 1
    endpoints: Endpoints | None = None
    switches: Switches = field(default_factory=Switches)
    progress: Callable[[str, str], None] = lambda phase, text: None  # called with the phase and a progress text
    run_id: str = ""  # id of the run
    protocol: str = registry.DEFAULT  # of the embedded mock
    # Called with the header and the rows that were recorded since the last call, in another thread. It must not raise.
    observe: Callable[[RunHeader, pa.Table], None] | None = None


def run(drill: Drill, options: Options) -> RunHeader:
    """Run a drill with its results in `options.folder`; return the finished header.

    Raise `UsageError`, `TargetError` or `StorageError` if the run cannot start or continue. A run that was stopped early
    (also by Ctrl-C) still reverts its faults and keeps its observations. Its header marks it as incomplete.
    """
    check(drill, options.endpoints)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with relaxed_gc(), _signals_given_back(), runner:
        return runner.run(_SocketsRun(drill, options).run())


@contextlib.contextmanager
def _signals_given_back() -> Iterator[None]:
    """Restore the handlers of these signals at the end: a closing event loop leaves its own, or sets the system's default."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_service(endpoints: Endpoints, *, with_refusal: bool = True) -> None:
    """Raise `TargetError` unless a service answers there and uses the expected protocol; see `service_api.checks`."""

    async def look() -> None:
        async with ServiceHttp(endpoints) as http:
            await http.check(with_refusal=with_refusal)

    asyncio.run(look())


def check(drill: Drill, endpoints: Endpoints | None) -> None:
    """Raise `UsageError` if this machine or this target cannot run the drill. Nothing is started before this check."""
    limit = raise_descriptor_limit()
    of_each = _PROXIED_DESCRIPTORS if any(isinstance(fault, LinkFault) for fault in drill.faults) else 1
    needed = drill.fleet.clients * of_each + SPARE_DESCRIPTORS
    if needed > limit:
        raise UsageError(
            f"{drill.fleet.clients} clients need about {needed} file descriptors, but this process may open {limit}; "
            f"use at most --clients {(limit - SPARE_DESCRIPTORS) // of_each}, or raise `ulimit -n`."
        )
    permission.require_no_polls(drill)
    if endpoints is not None:
        permission.require_allowed(drill, endpoints)


class _SocketsRun:
    """One run, from starting the first process to stopping the last one."""

    def __init__(self, drill: Drill, options: Options) -> None:
        self._has_socket = options.endpoints is None or options.endpoints.has_socket
        self._asked = drill
        if not self._has_socket:  # only publishes, and reads the streams back over HTTP
            drill = msgspec.structs.replace(drill, fleet=msgspec.structs.replace(drill.fleet, clients=0))
        self._drill = drill
        self._options = options
        self._faults = plan(drill, options.seed)
        self._clock = WallClock()
        self._recorder = target_monitor.recorder(options.folder, options.endpoints, self._observe)
        self.record = Record(self._recorder.add, self._clock.now, self._clock.began)
        self._process: MockProcess | None = None
        self._driver = AsyncioDriver(self._clock, self._recorder.check)
        self._defect: Exception | None = None
        self._clients: dict[int, ClientDriver] = {}
        self._fleet: list[ClientDriver] = []
        self._streams: list[Stream] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._arrival: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None  # that requests retired routes
        self._header = self._new_header()

    async def run(self) -> RunHeader:
        """Carry out the whole run; see the module's `run`."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._give_up)
        for number in _SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # under nohup, a closed terminal must not end the run
            loop.add_signal_handler(number, self._driver.stop)
        write_header(self._options.folder, self._header)
        try:
            await self._with_service()
        except Exception as error:
            cause = self._defect or error  # what failed because of a defect says nothing
            self._header.complete, self._header.stopped_because = False, str(cause) or type(cause).__name__
            if not isinstance(cause, AdapterError):  # what was observed until then is judged as incomplete
                raise cause from None
        finally:
            self._seal()
        return self._header

    def _give_up(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the run as incomplete. After an error in one of our own callbacks, its metrics are unreliable."""
        if self._defect is None:
            error = context.get("exception")
            self._defect = error if isinstance(error, Exception) else RuntimeError(str(context.get("message")))
        self._driver.stop()

    def _must_not_fail(self, task: asyncio.Task[None]) -> None:
        """End the run if this background task has failed. Nothing awaits the task, so its error would stay unseen."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._give_up(task.get_loop(), {"exception": error})

    def _seal(self) -> None:
        self._header.duration_s = self._clock.now() - self._clock.began
        try:
            self._header.observations_sha256, self._header.observations_rows = self._recorder.seal()
        except StorageError as error:
            self._header.complete, self._header.stopped_because = False, str(error)
            raise
        finally:
            write_header(self._options.folder, self._header)

    async def _with_service(self) -> None:
        """Start the embedded mock unless there is a target, run all phases, and stop and close everything."""
        endpoints = self._options.endpoints or await self._start_mock()
        target_monitor.prepare(self._header, self._drill, endpoints)
        http = self._http = ServiceHttp(endpoints)
        self._watch = TargetMonitor(endpoints, self._options.folder, self._clock, self._recorder, self._header)
        try:
            self._options.progress("start", f"checking {endpoints.runtime_url}")
            await http.check(with_refusal=False)  # of a target, it was asked before anything started
            await self._watch.before()
            healthy = await self._as_found(http, endpoints)
            load = self._drill.load
            self._streams = await create_streams(http, load.run_streams, load.worker_events)
            self._header.own_streams = own_streams(self._streams, endpoints.streams)
            client_setup.describe_streams(self._header, [stream.topic for stream in self._streams])
            await self._run_phases(endpoints, http, healthy)
            await self._require_able_mock(http)
            await self._watch.after()
        finally:
            await http.close()
            await self._watch.close()
            if self._process is not None:
                await self._process.stop()

    async def _start_mock(self) -> Endpoints:
        settings = ServeOptions(self._drill.runtime, self._options.switches, protocol=self._options.protocol)
        self._process = MockProcess(settings, self._options.folder)
        await self._process.start()
        return Endpoints.of_embedded_mock(self._process.url, admin_token(), self._options.protocol)

    async def _require_able_mock(self, http: ServiceHttp) -> None:
        """Raise `ShortageError` or `StorageError` if the embedded mock lacked descriptors or room on the disk."""
        if self._process is None:
            return
        self._process.require_descriptors()
        if not self._process.pid:
            return
        try:
            await http.ask(service_api.ready)
        except TargetError:
            raise StorageError(
                "the embedded mock could not write its log, so not all events were stored; free some space in the folder of "
                "temporary files."
            ) from None

    async def _as_found(self, http: ServiceHttp, endpoints: Endpoints) -> Switches:
        """Return the switches to restore after each fault. A drill must not repair the defects of its target.

        A mock that was already running keeps its own switches. Targets other than mocks have none.
        """
        if self._options.endpoints is None or not endpoints.is_mock:
            return self._options.switches
        found = await http.ask(service_api.switches)
        self._header.defects = sorted(found.defects)
        usual = Switches(seed=found.seed, defects=found.defects)
        if on := [name for name in Switches.__struct_fields__ if getattr(found, name) != getattr(usual, name)]:
            self._options.progress(
                "found", f"this runtime has faults on already ({', '.join(on)}); a killed run may have left them there"
            )
        return msgspec.structs.replace(found, seed=self._options.seed)

    # --- phases -------------------------------------------------------------------------------------

    async def _run_phases(self, endpoints: Endpoints, http: ServiceHttp, healthy: Switches) -> None:
        self._publishing = Publishing(
            self._streams, self._drill.load, self._recorder, self._clock.began, self._header.marker_run
        )
        over = await self._protocol_publisher(http)
        self._publisher = Publisher(http, self._publishing, self._clock, self._watch.events, over)
        links = await LinkActions.open(self._faults, endpoints.socket_url, self._options.seed, self._clients, self.record)
        self._make_clients(links)
        self.actions = self._fault_actions(http, healthy, links)
        self._phases = PhaseRunner(self._drill, self._faults, self)
        target = LocalTarget(self._options.endpoints.urls if self._options.endpoints else ())
        machine = MachineMonitor(self._recorder, self._server_pid, http.target_clock.take, target=target)
        self._keep_on(monitor_own_lag(self._clock, self.record, machine))
        if self._options.observe is not None:
            self._keep_on(self._flush_often())
        if self._fleet:
            self._keep_on(sample_client_lag(self._fleet, self._publishing.heads, self._recorder, self.record))
        if self._drill.expect.retired_routes:
            self._probe = self._keep_on(monitor_retired_routes(http, self.record))
        try:
            async with self._watch.during(self._live_share, self._stop_for, self._must_not_fail):
                await self._driver.drive(self._phases.run())
            if http.endpoints.forms.read_back is not None and not self._driver.signals.is_stopped:
                await read_back(http, self._streams, self._header.marker_run, self._recorder, self._clock)
            self._conclude_run()
        finally:
            self.end_load()
            for task in self._tasks:
                task.cancel()
            if over is not None:
                over.close()
            await asyncio.sleep(_GOODBYE_S)
            await links.close()

    def _server_pid(self) -> int:
        """The process id of the mock that this run started; 0 without one."""
        return self._process.pid if self._process is not None else 0

    async def _protocol_publisher(self, http: ServiceHttp) -> ProtocolPublisher | None:
        """Connect the publisher, where the target wants events published over the protocol."""
        endpoints = http.endpoints
        if endpoints.forms.publish.over != "protocol":
            return None
        over = ProtocolPublisher(
            endpoints,
            self._client_settings,
            lambda asking: http.ask(service_api.mint, asking),
            self._clock,
            self._watch.connects,
        )
        await over.connect()
        return over

    def _fault_actions(self, http: ServiceHttp, healthy: Switches, links: LinkActions) -> SocketsFaultActions:
        topics, runs = [stream.topic for stream in self._streams], self._drill.load.run_streams
        service = ServiceProcess(http, self._process, self._clock, self.record)
        faults = WholeServiceFaults(service, healthy, (topics[:runs], topics[runs:]), self._clients, self.record)
        hooks = self._watch.hooks(self._drill, topics)
        clients, publishing = ClientFaults(self._clients, self.record), PublishFaults(self._publishing)
        return SocketsFaultActions(clients, links, publishing, faults, self._driver, hooks, self._is_withheld)

    def _is_withheld(self, fault: AnyFault) -> bool:
        return is_withheld(fault, self._client_settings.capabilities, self._http.endpoints)

    def _observe(self, chunk: pa.Table) -> None:
        if self._options.observe is not None:
            self._options.observe(self._header, chunk)

    async def _flush_often(self) -> None:
        """Pass on what was recorded once a second, for an observer."""
        while True:
            await asyncio.sleep(_OBSERVED_EVERY_S)
            self._recorder.flush()

    def _keep_on(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a background task until the run ends. Its failure ends the run."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._must_not_fail)
        self._tasks.append(task)
        return task

    def _live_share(self) -> float | None:
        """Return the share of the clients that are live; None before the steady state was reached."""
        return self._live / len(self._fleet) if self._fleet and self._phases.is_steady else None

    @property
    def _live(self) -> int:
        return sum(client.session.is_live for client in self._fleet)

    def _stop_for(self, condition: str) -> None:
        """Stop the run because this stop condition of the target is met."""
        self._header.stop_condition = condition
        self._options.progress("stop", condition)
        self._driver.stop()

    def _conclude_run(self) -> None:
        if self._defect is not None:
            raise self._defect
        self._header.complete = not self._driver.signals.is_stopped
        if self._driver.signals.is_stopped:
            met = self._header.stop_condition
            self._header.stopped_because = f"a stop condition of the target was met, {met}" if met else "it was interrupted"

    # --- the world of the phase runner --------------------------------------------------------------

    def now(self) -> float:
        """See `World`."""
        return self._clock.now()

    def entered(self, phase: str) -> None:
        """See `World`. Until convergence is judged, clients recover by themselves: no request of ours may help them."""
        self._options.progress(phase, f"{self._live} of {len(self._fleet)} clients live")
        self._watch.is_quiet = phase == "settle"
        if self._watch.is_quiet and self._probe is not None:
            self._probe.cancel()

    def start(self) -> None:
        """See `World`."""
        self._publisher.start().add_done_callback(self._must_not_fail)
        self._arrival = self._keep_on(self._arrive(self._clock.now()))

    async def _arrive(self, began: float) -> None:
        period_s = self._drill.fleet.arrival_s / max(len(self._fleet), 1)
        for number, client in list(self._clients.items()):
            await asyncio.sleep(began + number * period_s - self._clock.now())
            client.start()

    def unready_reason(self) -> str:
        """See `World`."""
        now = self._clock.now()
        live = sum(client_setup.is_there(client.session, now) for client in self._fleet)
        return client_setup.unready_reason(live, len(self._fleet), is_publishing=self._publishing.acknowledged > 0)

    def end_load(self) -> None:
        """See `World`."""
        if self._arrival is not None:
            self._arrival.cancel()
        self._publisher.cancel()
        for client in self._clients.values():
            client.stop()

    def finish_publishing(self) -> None:
        """See `World`."""
        self._publishing.stop()

    def is_publishing(self) -> bool:
        """See `World`."""
        return bool(self._publishing.under_way)

    def abandon_publishing(self) -> None:
        """See `World`."""
        self._publisher.cancel()
        self._publishing.give_up_all(self._clock.now())

    def add_auditor(self) -> None:
        """See `World`. The auditor checks that the log holds every acknowledged event."""
        self._watch.is_quiet = False
        if not self._has_socket:
            return
        number = len(self._clients)
        self._header.auditor = number
        self._header.subscriptions[str(number)] = [stream.stream for stream in self._streams]
        self._clients[number] = self._driver_of(number, None, [stream.topic for stream in self._streams])
        self._clients[number].start()

    def is_settled(self) -> bool:
        """See `World`. Check all clients at one moment, because a converged client may soon renew its token."""
        return not any(self._behind(client) for client in self._clients.values())

    def _behind(self, client: ClientDriver) -> list[str]:
        return client_setup.behind(client.session, self._publishing.heads, self._clock.now())

    def is_audited(self) -> bool:
        """See `World`."""
        return not self._has_socket or not self._behind(self._clients[self._header.auditor])

    def conclude(self) -> None:
        """See `World`."""
        for client in self._clients.values():
            self._conclude(client)

    def conclude_audit(self) -> None:
        """See `World`."""
        if self._has_socket:
            self._conclude(self._clients[self._header.auditor])

    def _conclude(self, client: ClientDriver) -> None:
        now, session = self._clock.now(), client.session
        rows = client_setup.conclusion(session, self._publishing.heads, now)
        self._recorder.extend(now - self._clock.began, session.client, rows)

    # --- clients ------------------------------------------------------------------------------------

    @cached_property
    def _client_settings(self) -> ClientSettings:
        endpoints = self._http.endpoints
        return client_setup.target_settings(self._drill, self._options.seed, self._header.marker_run, endpoints)

    def _make_clients(self, links: LinkActions) -> None:
        """Create the fleet, then the negative clients."""
        fleet = self._drill.fleet
        negative = client_setup.negative_clients(self._drill, self._header, self._http.endpoints)
        topics, runs = [stream.topic for stream in self._streams], self._drill.load.run_streams
        for number, name in enumerate((None,) * fleet.clients + negative):
            own = client_setup.topics_of(number, topics[:runs], topics[runs:], fleet.topics_per_client)
            client = self._clients[number] = self._driver_of(number, name, own, links.port_of(number))
            if name is not None:
                self._header.negative_clients[str(number)] = name
            cursors = client.session.replica.cursors.values()
            self._header.subscriptions[str(number)] = [cursor.stream for cursor in cursors]
        self._fleet = list(self._clients.values())[: fleet.clients]
        write_header(self._options.folder, self._header)

    def _driver_of(self, number: int, negative: str | None, topics: list[str], port: int | None = None) -> ClientDriver:
        is_fleet = number < self._drill.fleet.clients
        policy = policies.get(self._drill.fleet.policy if is_fleet else "reference")
        http, endpoints = self._http, self._http.endpoints
        session = session_class(negative)(number, topics, policy, self._client_settings)
        return ClientDriver(
            session,
            endpoints.socket_url,
            lambda asking: http.ask(service_api.mint, asking),
            self._clock,
            self._recorder,
            port,
            self._watch.connects,
        )

    def _new_header(self) -> RunHeader:
        libraries = ("websockets", "uvloop")
        header = client_setup.new_header(
            self._asked,
            self._faults,
            run_id=self._options.run_id,
            engine="sockets",
            clock="wall",
            seed=self._options.seed,
            libraries=libraries,
            protocol=endpoints.protocol if (endpoints := self._options.endpoints) else self._options.protocol,
        )
        header.defects = sorted(self._options.switches.defects)
        header.has_socket, header.clients = self._has_socket, self._drill.fleet.clients
        if self._options.endpoints is not None:
            target_monitor.prepare(header, self._drill, self._options.endpoints)
        return header
