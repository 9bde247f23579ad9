"""The virtual engine: a whole fleet, its network and its service in simulated time, with the same sessions and server cores.

SimPy's environment is the only clock. Clients are callbacks with one lazily re-armed timer each, not one process per client.
Typed frames pass by reference, and JSON frames are never made. The same seed gives the same bytes of observations on every
machine.
"""

import math
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType

import simpy

from sim.base.errors import AdapterError, NotRunnableError, UsageError
from sim.client import policies
from sim.client.negative.registry import session_class
from sim.drill.fault_kinds import (
    ExpireTokens,
    ForgetTokens,
    MintOutage,
    RecreateLog,
    RevokeSessions,
    RotateKeys,
    ShrinkReplayBudget,
    ShrinkWindow,
    SkewControl,
    SlowMint,
)
from sim.drill.fault_lifecycle import Record
from sim.drill.fault_schedule import plan
from sim.drill.model import Drill, expected_duration_s
from sim.drill.phase_runner import PhaseRunner, latest_end_s
from sim.engines.shared import client_setup
from sim.engines.shared.fault_actions import ClientFaults, PublishFaults, WholeServiceFaults
from sim.engines.shared.options import Options as Options
from sim.engines.shared.permission import require_meaning
from sim.engines.shared.publishing import own_streams, streams_of
from sim.engines.shared.withholding import is_withheld
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.driver import VirtualDriver
from sim.engines.virtual.faults import SIMULATED, SimulatedServiceControl, VirtualFaultActions, completed
from sim.engines.virtual.link_faults import VirtualLinkFaults
from sim.engines.virtual.polling_client import PollingClient
from sim.engines.virtual.publisher import VirtualPublisher
from sim.engines.virtual.service import SimulatedService
from sim.engines.virtual.streams_client import StreamsClient
from sim.machine.gc_tuning import relaxed_gc
from sim.protocols import registry
from sim.protocols.habits import StreamHabits
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader, write_header

EPOCH = 2.0**20  # unix time at which every simulated run starts; small enough for moments that are exact to a nanosecond
_OF_TOKENS = (ExpireTokens, ForgetTokens, MintOutage, RevokeSessions, RotateKeys, SkewControl, SlowMint)
_SLICE_S = 0.5  # simulated time between checks for progress and Ctrl-C
_SAY_EVERY_S = 0.1  # wall-clock time, which is used for nothing else here
_MAX_LAG_SAMPLES = 200_000  # per run; a long run with many clients is sampled less often
Steps = Generator[simpy.Event, object, None]


def run(drill: Drill, options: Options) -> RunHeader:
    """Run a drill into `options.folder`; return the finished header. An interrupted run keeps its record and says so.

    Raises `UsageError` for what has no meaning in simulation and for a simulation that comes to a standstill, and
    `StorageError`.
    """
    check(drill, options.protocol)
    with relaxed_gc():
        return _VirtualRun(drill, options).run()


def check(drill: Drill, protocol: str = registry.DEFAULT) -> None:
    """Raise `UsageError` for a drill that contains something the simulation cannot represent.

    Raises `NotRunnableError` for a fault that the protocol's server cannot have.
    """
    require_meaning(drill, protocol)
    if (habits := registry.server_forms(protocol).profile.streams) is not None:
        _require_habits(drill, protocol, habits)
    for index, fault in enumerate(drill.faults):
        if not isinstance(fault, SIMULATED):
            raise UsageError(
                f"drill '{drill.name}': key 'faults.{index}.kind' is '{fault.kind}', which has no meaning in simulation; "
                "use --engine sockets."
            )
    if drill.expect.retired_routes:
        raise UsageError(
            f"drill '{drill.name}': key 'expect.retired_routes' is true, but simulation has no HTTP; use --engine sockets."
        )


def _require_habits(drill: Drill, protocol: str, habits: StreamHabits) -> None:
    """Raise `NotRunnableError` for a fault that a server with these habits cannot have."""
    for fault in drill.faults:
        match fault:
            case ShrinkReplayBudget():
                lacks = "has no replay budget that could shrink while it runs"
            case ShrinkWindow() if not habits.drops_events:
                lacks = "keeps every event of a stream, so that no position becomes stale"
            case RecreateLog() if habits.sessions is not None:
                lacks = "stores no log that could be created again"
            case _ if isinstance(fault, _OF_TOKENS) and not habits.reads_tokens:
                lacks = f"asks for no token, so that {fault.kind} has no effect"
            case ExpireTokens() if habits.expiry_grace_s is None:
                lacks = "looks at a token once, when a client joins: no connection ends with its token"
            case _:
                continue
        raise NotRunnableError(f"drill '{drill.name}': a server of protocol '{protocol}' {lacks}.")


class _VirtualRun:
    """One run, from the first arrival to the last client that converges."""

    def __init__(self, drill: Drill, options: Options) -> None:
        self._drill = drill
        self._options = options
        self._faults = plan(drill, options.seed)
        self._env = VirtualClock(EPOCH)
        self._recorder = Recorder(options.folder, at_will=True)
        self._service = SimulatedService(
            self._env, registry.server_forms(options.protocol), drill.runtime, options.switches, options.model
        )
        self._header = client_setup.new_header(
            drill,
            self._faults,
            run_id=options.run_id,
            engine="virtual",
            clock="virtual",
            seed=options.seed,
            libraries=("simpy",),
            protocol=options.protocol,
        )
        runs = [f"r{number + 1}" for number in range(drill.load.run_streams)]
        streams = streams_of(runs, drill.load.worker_events, options.protocol)
        parts = self._env, self._service, streams, drill.load, self._recorder
        self._header.own_streams = own_streams(streams)
        client_setup.describe_streams(self._header, [stream.topic for stream in streams])
        self._publisher = VirtualPublisher(*parts, EPOCH, self._header.marker_run)
        self._heads = self._publisher.heads
        topics = [stream.topic for stream in streams]
        self._run_topics, self._other_topics = topics[: drill.load.run_streams], topics[drill.load.run_streams :]
        self.record = Record(self._recorder.add, self.now, EPOCH)
        self._clients: list[VirtualClient] = []
        self._client_settings = client_setup.client_settings(drill, options.seed, self._header.marker_run, options.protocol)
        self._interrupted = False
        self._said_at = -math.inf
        self._header.defects = sorted(options.switches.defects)

    # --- the run ------------------------------------------------------------------------------------

    def run(self) -> RunHeader:
        """Run all phases, from the first arrival to the sealed record."""
        write_header(self._options.folder, self._header)
        # Only the main thread receives signals; any other thread needs no handler.
        heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._interrupt) for number in heard}
        try:
            self._make_clients()
            self.actions = self._fault_actions()
            self._phases = PhaseRunner(self._drill, self._faults, self)
            self._driver = VirtualDriver(self._env, self._phases.run())
            self._simulate()
        except Exception as error:
            self._header.complete, self._header.stopped_because = False, str(error) or type(error).__name__
            if not isinstance(error, AdapterError):  # what was observed until then is judged as incomplete
                raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._header.duration_s = self._since_start_s
            if hasattr(self, "actions"):
                self._header.stations = self._service.loads(max(self.actions.first_fault_t - EPOCH, 0.0))
            self._header.observations_sha256, self._header.observations_rows = self._recorder.seal()
            write_header(self._options.folder, self._header)
        return self._header

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        self._interrupted = True

    def _simulate(self) -> None:
        self._env.call_at(EPOCH, self._driver.start)
        while not self._driver.is_over.processed:
            self._refuse_standstill()
            self._env.run(until=self._env.any_of([self._driver.is_over, self._env.timeout(_SLICE_S)]))
            self._catch_up()
            self._recorder.check()
            if time.monotonic() >= self._said_at + _SAY_EVERY_S:
                self._say()
            if self._interrupted and not self._driver.signals.is_stopped:
                self._header.stopped_because = (
                    f"it was interrupted in the {self._phases.phase} phase, {self._since_start_s:.1f} s simulated"
                )
                self._driver.stop()
        self._header.complete = not self._driver.signals.is_stopped

    @property
    def _since_start_s(self) -> float:
        return self._env.now - EPOCH

    def _refuse_standstill(self) -> None:
        """Raise `UsageError` for a run that waits for something that never happens."""
        at_s = self._since_start_s
        if self._env.peek() == math.inf or at_s > latest_end_s(self._drill, self._options.model):
            raise UsageError(
                f"drill '{self._drill.name}': the simulation came to a standstill in the {self._phases.phase} phase, "
                f"{at_s:.1f} s simulated: nothing that is still to happen can end it; look at the system model."
            )

    # --- `World` of the phase runner ----------------------------------------------------------------

    def now(self) -> float:
        """See `World`."""
        return self._env.now

    def entered(self, _: str) -> None:
        """See `World`."""
        self._say()

    def start(self) -> None:
        """See `World`."""
        for stream in self._publisher.publishing.streams:
            self._service.create_run(stream.run_id)
        self._publisher.start()
        self._env.process(self._sample_lag())
        period_s = self._drill.fleet.arrival_s / self._drill.fleet.clients
        for number, client in enumerate(self._clients):
            self._env.call_at(EPOCH + number * period_s, client.start)

    def unready_reason(self) -> str:
        """See `World`."""
        sessions = [client.session for client in self._clients[: self._drill.fleet.clients]]
        live = sum(client_setup.is_there(session, self._env.now) for session in sessions)
        return client_setup.unready_reason(live, len(sessions), is_publishing=self._publisher.publishing.acknowledged > 0)

    def end_load(self) -> None:
        """See `World`. Unfinished work adds no load in simulation."""

    def finish_publishing(self) -> None:
        """See `World`."""
        self._publisher.publishing.stop()

    def is_publishing(self) -> bool:
        """See `World`."""
        return bool(self._publisher.publishing.under_way)

    def abandon_publishing(self) -> None:
        """See `World`."""
        self._publisher.publishing.give_up_all(self._env.now)

    def add_auditor(self) -> None:
        """See `World`. The auditor is a new client that reads everything that is retained."""
        number = len(self._clients)
        self._header.auditor = number
        self._clients.append(self._client(number, None, list(self._heads)))
        self._clients[-1].start()

    def is_settled(self) -> bool:
        """See `World`. Checks all clients at one moment: one that converged earlier may be renewing its token now."""
        return not any(self._behind(client) for client in self._clients)

    def is_audited(self) -> bool:
        """See `World`."""
        return not self._behind(self._clients[-1])

    def _behind(self, client: VirtualClient) -> list[str]:
        client.catch_up()
        return client_setup.behind(client.session, self._heads, self._env.now)

    def conclude(self) -> None:
        """See `World`."""
        for client in self._clients:
            self._conclude(client)

    def conclude_audit(self) -> None:
        """See `World`."""
        self._conclude(self._clients[-1])

    def _conclude(self, client: VirtualClient) -> None:
        client.catch_up()
        now, session = self._env.now, client.session
        self._recorder.extend(now - EPOCH, session.client, client_setup.conclusion(session, self._heads, now))

    # --- clients ------------------------------------------------------------------------------------

    def _make_clients(self) -> None:
        """Create the fleet, then the negative clients."""
        fleet, negative = self._drill.fleet, client_setup.negative_clients(self._drill, self._header, None)
        for number, name in enumerate((None,) * fleet.clients + negative):
            topics = client_setup.topics_of(number, self._run_topics, self._other_topics, fleet.topics_per_client)
            self._clients.append(self._client(number, name, topics))
            if name is not None:
                self._header.negative_clients[str(number)] = name
        write_header(self._options.folder, self._header)

    def _client(self, number: int, negative: str | None, topics: list[str]) -> VirtualClient:
        policy = policies.get(self._drill.fleet.policy if number < self._drill.fleet.clients else "reference")
        session = session_class(negative)(number, topics, policy, self._client_settings)
        self._header.subscriptions[str(number)] = [cursor.stream for cursor in session.replica.cursors.values()]
        separate = PollingClient if self._drill.runtime.long_polls else StreamsClient
        kind = VirtualClient if self._client_settings.capabilities.is_one_connection else separate
        return kind(self._env, session, self._service, self._options.model, self._recorder, EPOCH)

    def _fault_actions(self) -> VirtualFaultActions:
        model, env, service = self._options.model, self._env, self._service
        clients = {client.session.client: client for client in self._clients}
        links = VirtualLinkFaults(env, service, self._clients, model.network.buffer_kib, self.record)
        topics = (self._run_topics, self._other_topics)
        control = SimulatedServiceControl(env, service)
        faults = WholeServiceFaults(control, service.switches, topics, clients, self.record)
        publishing = PublishFaults(self._publisher.publishing)
        able = self._client_settings.capabilities
        actions = VirtualFaultActions(
            ClientFaults(clients, self.record),
            links,
            publishing,
            faults,
            completed,
            lambda fault: is_withheld(fault, able, None),
        )
        actions.cold_start_s = model.server.cold_start_s
        return actions

    # --- monitoring ---------------------------------------------------------------------------------

    def _sample_lag(self) -> Steps:
        samples_per_s = _MAX_LAG_SAMPLES / self._drill.fleet.clients / expected_duration_s(self._drill)
        period_s = max(self._options.model.sample_period_s, 1 / samples_per_s)
        while True:
            yield self._env.timeout(period_s)
            for client in self._clients[: self._drill.fleet.clients]:
                client.catch_up()
                lag = client_setup.lag_events(client.session, self._heads)
                if lag is not None:
                    self.record("client_lag", client.session.client, value=lag)

    def _catch_up(self) -> None:
        """Let every client take what has arrived: the observations up to now are then complete, and may be written."""
        for client in self._clients:
            client.catch_up()
        self._recorder.flush_if_full()

    def _live(self) -> int:
        return sum(client.session.is_live for client in self._clients[: self._drill.fleet.clients])

    def _say(self) -> None:
        self._said_at = time.monotonic()
        simulated_s = self._since_start_s
        live = f"{self._live()} of {self._drill.fleet.clients} clients live"
        self._options.progress(self._phases.phase, f"{simulated_s:.1f} s simulated, {live}", simulated_s)
