"""The sockets engine: a drill over real processes and real WebSockets.

The runtime is a process of its own (the embedded mock, or one that is already there); this process is the
load generator, the publisher and the one that breaks things. It measures its own lateness all the time,
because a generator that cannot keep up must not be mistaken for a slow runtime.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from sim.base.clocks import WallClock
from sim.base.errors import StorageError, UsageError
from sim.base.gc_tuning import relaxed_gc
from sim.client import policies
from sim.client.negative.registry import session_class
from sim.drill.fault_kinds import LinkFault
from sim.drill.model import Drill
from sim.drill.schedule import plan
from sim.engines.shared import client_setup, permission, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.publishing import Publishing, Stream
from sim.engines.sockets import target_monitor
from sim.engines.sockets.client import ClientDriver
from sim.engines.sockets.faults import FaultActions
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.lag_monitor import monitor_own_lag, sample_client_lag
from sim.engines.sockets.links import LinkActions
from sim.engines.sockets.publisher import Publisher, create_streams
from sim.engines.sockets.route_monitor import monitor_retired_routes
from sim.engines.sockets.target_monitor import TargetMonitor
from sim.mock.process import MockProcess
from sim.mock.server import ServeOptions, admin_token, raise_descriptor_limit
from sim.record.observations import NAN
from sim.record.run_header import RunHeader, write_header
from sim.server.settings import RuntimeSettings, Switches

SPARE_DESCRIPTORS = 200  # for HTTP, files, pipes
_PROXIED_DESCRIPTORS = 3  # of a client whose link a fault concerns: its own, and the proxy's two
_POLL_S = 0.1


@dataclass(frozen=True)
class Options:
    """How to run. `lane` None: start the embedded mock with these switches."""

    folder: Path
    seed: int = 1
    endpoints: Endpoints | None = None
    switches: Switches = field(default_factory=Switches)
    progress: Callable[[str, str], None] = lambda phase, text: None  # called now and then with what is going on
    run_id: str = ""  # of the run this is a part of


def run(drill: Drill, options: Options) -> RunHeader:
    """Run a drill into `options.folder`; returns the finished header.

    Raises `UsageError`, `TargetError` or `StorageError` when it cannot begin or go on. A run that was cut short (Ctrl-C
    included) still heals, keeps what it observed, and has a header that says so.
    """
    check(drill, options.endpoints)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with relaxed_gc(), _end_signal_given_back(), runner:  # closing the runner gives Ctrl-C back to Python
        return runner.run(_SocketsRun(drill, options).run())


@contextlib.contextmanager
def _end_signal_given_back() -> Iterator[None]:
    """A closed event loop leaves SIGTERM to the system, whatever was done about it before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_service(endpoints: Endpoints) -> None:
    """Raise `TargetError`, one sentence, unless a lane is there and speaks the protocol."""

    async def look() -> None:
        async with ServiceHttp(endpoints) as http:
            await http.check()

    asyncio.run(look())


def check(drill: Drill, endpoints: Endpoints | None) -> None:
    """Raise `UsageError` for what this machine or this target cannot do, before anything is started."""
    limit = raise_descriptor_limit()
    of_each = _PROXIED_DESCRIPTORS if any(isinstance(fault, LinkFault) for fault in drill.faults) else 1
    needed = drill.fleet.clients * of_each + SPARE_DESCRIPTORS
    if needed > limit:
        raise UsageError(
            f"{drill.fleet.clients} clients need about {needed} file descriptors, but this process may open {limit}; "
            f"use at most --clients {(limit - SPARE_DESCRIPTORS) // of_each}, or raise `ulimit -n`."
        )
    if endpoints is not None:
        permission.require_allowed(drill, endpoints)


class _SocketsRun:
    """One run, from the first process started to the last one gone."""

    def __init__(self, drill: Drill, options: Options) -> None:
        self._drill = drill
        self._options = options
        self._faults = plan(drill, options.seed)
        self._clock = WallClock()
        self._recorder = target_monitor.recorder(options.folder, options.endpoints)
        self._process: MockProcess | None = None
        self._stop = asyncio.Event()
        self._defect: Exception | None = None
        self._clients: list[ClientDriver] = []
        self._streams: list[Stream] = []
        self._everyone_came = False
        self._header = self._new_header()

    async def run(self) -> RunHeader:
        """The whole course; see the module's `run`."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._give_up)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # under nohup, a terminal that is closed ends nothing
            loop.add_signal_handler(number, self._stop.set)
        write_header(self._options.folder, self._header)
        try:
            await self._with_lane()
        except Exception as error:
            self._header.stopped_because = str(error) or type(error).__name__
            raise
        finally:
            self._seal()
        return self._header

    def _give_up(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A defect of ours in a callback: what was measured cannot be trusted, so the run ends as one that was cut short."""
        if self._defect is None:
            error = context.get("exception")
            self._defect = error if isinstance(error, Exception) else RuntimeError(str(context.get("message")))
        self._stop.set()

    def _must_not_fail(self, task: asyncio.Task[None]) -> None:
        """For tasks that last as long as the run: nobody awaits them, so an exception would lie in them unseen."""
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

    async def _with_lane(self) -> None:
        """Start what is to be started, run the course, and leave nothing behind."""
        endpoints = self._options.endpoints or await self._start_mock()
        target_monitor.prepare(self._header, self._drill, endpoints)
        http = ServiceHttp(endpoints)
        self._watch = TargetMonitor(endpoints, self._options.folder, self._clock, self._recorder, self._header)
        try:
            self._say("start", f"checking {endpoints.runtime_url}")
            await http.check()
            await self._watch.before()
            healthy = await self._as_found(http, endpoints)
            load = self._drill.load
            self._streams = await create_streams(http, load.run_streams, load.worker_events)
            await self._course(endpoints, http, healthy)
            await self._watch.after()
        finally:
            await http.close()
            await self._watch.close()
            if self._process is not None:
                await self._process.stop()

    async def _start_mock(self) -> Endpoints:
        settings = ServeOptions(self._drill.runtime, self._options.switches)
        self._process = MockProcess(settings, self._options.folder)
        await self._process.start()
        return Endpoints("embedded mock", "mock", self._process.url, self._process.url, admin_token=admin_token())

    async def _as_found(self, http: ServiceHttp, endpoints: Endpoints) -> Switches:
        """The switches to go back to after each fault: a drill must not mend what is wrong with a target.

        Those of a mock that is not ours to start are its own; what is no mock has none.
        """
        if self._options.endpoints is None or not endpoints.is_mock:
            return self._options.switches
        found = await http.ask(service_api.switches)
        self._header.defects = sorted(found.defects)
        usual = Switches(seed=found.seed, defects=found.defects)
        if on := [name for name in Switches.__struct_fields__ if getattr(found, name) != getattr(usual, name)]:
            self._say("found", f"this runtime has faults on already ({', '.join(on)}); a killed run may have left them there")
        return msgspec.structs.replace(found, seed=self._options.seed)

    # --- the course ---------------------------------------------------------------------------------

    async def _course(self, endpoints: Endpoints, http: ServiceHttp, healthy: Switches) -> None:
        publishing = Publishing(self._streams, self._drill.load, self._recorder, self._clock.began)
        publisher = Publisher(http, publishing, self._clock, self._watch.events)
        links = await LinkActions.open(self._faults, endpoints.socket_url, self._options.seed)
        self._make_clients(endpoints, http, links)
        topics = [stream.topic for stream in self._streams]
        actions = FaultActions(
            http,
            self._process,
            healthy,
            self._clients,
            links,
            topics[: self._drill.load.run_streams],
            topics[self._drill.load.run_streams :],
            self._clock,
            self._recorder,
            self._watch.hooks(self._drill, topics),
        )
        watching = [
            asyncio.create_task(monitor_own_lag(self._clock, self._recorder)),
            asyncio.create_task(sample_client_lag(self._fleet, publisher.publishing.heads, self._clock, self._recorder)),
        ]
        if self._drill.expect.retired_routes:
            watching.append(asyncio.create_task(monitor_retired_routes(http, self._clock, self._recorder)))
        for task in watching:
            task.add_done_callback(self._must_not_fail)
        try:
            async with self._watch.during(self._live_share, self._stop_for, self._must_not_fail):
                await self._phases(publisher, actions, endpoints, http)
        finally:
            for task in watching:
                task.cancel()
            self._end_load(publisher)
            await asyncio.sleep(_POLL_S)  # let the goodbyes out
            await links.close()

    def _end_load(self, publisher: Publisher) -> None:
        """Ask nothing more of the target."""
        publisher.cancel()
        for client in self._clients:
            client.stop()

    def _live_share(self) -> float | None:
        """The share of the fleet that is live; None before it was all there once."""
        if not self._everyone_came:
            return None
        return sum(client.session.is_live for client in self._fleet) / len(self._fleet)

    def _stop_for(self, condition: str) -> None:
        """A stop condition of the target is met."""
        self._header.stop_condition = condition
        self._say("stop", condition)
        self._stop.set()

    async def _phases(self, publisher: Publisher, actions: FaultActions, endpoints: Endpoints, http: ServiceHttp) -> None:
        self._phase("steady")
        publisher.start().add_done_callback(self._must_not_fail)
        await self._ramp()
        await self._pause(self._drill.phases.steady_s)
        self._everyone_came = is_steady = await self._reach_steady(publisher)
        try:
            self._phase("fault")
            if is_steady:
                await self._break_things(actions)
        except Exception:
            self._stop.set()
            raise
        finally:
            await self._revert(publisher, actions)
        await self._pause(self._drill.phases.recovery_s)
        self._phase("settle")
        if not self._stop.is_set():
            await publisher.finish()
            self._add_auditor(endpoints, http)
        await self._settle(publisher.publishing.heads)
        self._phase("end")
        if self._defect is not None:
            raise self._defect
        if self._stop.is_set():
            met = self._header.stop_condition
            self._header.stopped_because = f"a stop condition of the target was met, {met}" if met else "it was interrupted"
        else:
            self._header.complete = True

    async def _revert(self, publisher: Publisher, actions: FaultActions) -> None:
        """Take everything back, whatever else goes wrong; a drill that is being aborted asks nothing more meanwhile."""
        try:
            self._phase("recovery")
            if self._stop.is_set():
                self._end_load(publisher)
        finally:
            await actions.revert()

    async def _ramp(self) -> None:
        """Let clients arrive one after the other."""
        period_s = self._drill.fleet.arrival_s / len(self._fleet)
        began = self._clock.now()
        for number, client in enumerate(self._clients):
            while (wait_s := began + number * period_s - self._clock.now()) > 0:
                await asyncio.sleep(min(wait_s, _POLL_S))
                if self._stop.is_set():
                    return
            client.start()

    async def _reach_steady(self, publisher: Publisher) -> bool:
        """The check before anything is broken: everyone live, events acknowledged."""
        limit = self._clock.now() + self._drill.phases.steady_limit_s
        while (unready := self._unready_reason(publisher)) and self._clock.now() < limit and not self._stop.is_set():
            await asyncio.sleep(_POLL_S)
        self._add("steady", value=0.0 if unready else 1.0, detail=unready or "all clients live")
        return not unready and not self._stop.is_set()

    def _unready_reason(self, publisher: Publisher) -> str:
        live = sum(client_setup.is_there(client.session, self._clock.now()) for client in self._fleet)
        if live < len(self._fleet):
            return f"{live} of {len(self._fleet)} clients live"
        return "" if publisher.publishing.acknowledged else "no event acknowledged"

    async def _break_things(self, actions: FaultActions) -> None:
        began = self._clock.now()
        running = asyncio.gather(*(actions.run(fault, began) for fault in self._faults))
        try:
            await self._pause(began + self._drill.phases.fault_s - self._clock.now(), running)
            while not running.done() and not self._stop.is_set():  # a hook may take longer than the phase
                await asyncio.wait([running], timeout=_POLL_S)
            if running.done():
                await running
        finally:
            running.cancel()
            await asyncio.wait([running])  # a fault stopped half-way must not act on while it is healed
            _ = running.cancelled() or running.exception()  # of several troubles the first is told

    async def _settle(self, heads: dict[str, int]) -> None:
        """Wait for everyone to converge; whoever has not when time is up is listed with the reason."""
        limit = self._clock.now() + self._drill.phases.settle_s
        while self._clock.now() < limit and not self._stop.is_set():
            # All at one moment: who had converged may be renewing its token by now.
            if not any(client_setup.behind(client.session, heads, self._clock.now()) for client in self._clients):
                break
            await asyncio.sleep(_POLL_S)
            self._recorder.check()
        for driver in self._clients:
            now, session = self._clock.now(), driver.session
            self._recorder.extend(now - self._clock.began, session.client, client_setup.conclusion(session, heads, now))

    # --- clients ------------------------------------------------------------------------------------

    @property
    def _fleet(self) -> list[ClientDriver]:
        return self._clients[: self._drill.fleet.clients]

    def _make_clients(self, endpoints: Endpoints, http: ServiceHttp, links: LinkActions) -> None:
        """The fleet, then a client for each probe."""
        probes = (None,) * self._drill.fleet.clients + self._drill.expect.negative_clients
        for number, probe in enumerate(probes):
            topics, port = self._topics_of(number), links.port_of(number)
            self._clients.append(self._driver(endpoints, http, number, probe, topics, port))
            if probe is not None:
                self._header.negative_clients[str(number)] = probe
        self._header.subscriptions = {
            str(driver.session.client): [cursor.stream for cursor in driver.session.replica.cursors.values()]
            for driver in self._clients
        }
        write_header(self._options.folder, self._header)

    def _topics_of(self, client: int) -> list[str]:
        topics, runs = [stream.topic for stream in self._streams], self._drill.load.run_streams
        return client_setup.topics_of(client, topics[:runs], topics[runs:], self._drill.fleet.topics_per_client)

    def _driver(
        self,
        endpoints: Endpoints,
        http: ServiceHttp,
        number: int,
        probe: str | None,
        topics: list[str],
        port: int | None = None,
    ) -> ClientDriver:
        is_fleet = number < self._drill.fleet.clients
        policy = policies.get(self._drill.fleet.policy if is_fleet else "reference")
        # What the drill says of the runtime is for our own; any other is met with the lane's defaults.
        drill = self._drill if endpoints.is_mock else msgspec.structs.replace(self._drill, runtime=RuntimeSettings())
        session = session_class(probe)(number, topics, policy, client_setup.client_settings(drill, self._options.seed))
        return ClientDriver(
            session,
            endpoints.socket_url,
            lambda asking: http.ask(service_api.mint, asking),
            self._clock,
            self._recorder,
            port,
            self._watch.connects,
        )

    def _add_auditor(self, endpoints: Endpoints, http: ServiceHttp) -> None:
        """A client without a past, who reads everything that is retained: does the log hold what was acknowledged?"""
        number = len(self._clients)
        auditor = self._driver(endpoints, http, number, None, [stream.topic for stream in self._streams])
        self._header.auditor = number
        self._header.subscriptions[str(number)] = [stream.stream for stream in self._streams]
        self._clients.append(auditor)
        auditor.start()

    # --- small change -------------------------------------------------------------------------------

    async def _pause(self, seconds: float, running: "asyncio.Future[list[None]] | None" = None) -> None:
        """Wait, but not past an interruption, nor past the failure of what is running meanwhile."""
        ends = self._clock.now() + seconds
        while (left_s := ends - self._clock.now()) > 0 and not self._stop.is_set():
            self._recorder.check()
            if running is not None and running.done() and running.exception() is not None:
                return
            await asyncio.sleep(min(left_s, _POLL_S))

    def _phase(self, name: str) -> None:
        self._add("phase", detail=name)
        live = sum(client.session.is_live for client in self._fleet)
        self._say(name, f"{live} of {len(self._fleet)} clients live")

    def _say(self, phase: str, text: str) -> None:
        self._options.progress(phase, text)

    def _add(self, kind: str, value: float = NAN, detail: str = "") -> None:
        self._recorder.add(self._clock.now() - self._clock.began, kind, value=value, detail=detail)

    def _new_header(self) -> RunHeader:
        libraries = ("websockets", "uvloop")
        header = client_setup.new_header(
            self._drill,
            self._faults,
            run_id=self._options.run_id,
            engine="sockets",
            clock="wall",
            seed=self._options.seed,
            libraries=libraries,
        )
        header.defects = sorted(self._options.switches.defects)
        if self._options.endpoints is not None:
            target_monitor.prepare(header, self._drill, self._options.endpoints)
        return header
