"""A Locust worker: runs its share of the fleet in each run that the master starts; the master judges the run."""

import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import Empty, Queue

from drills.runs import targets
from locustfiles.load.clients.client_pool import ClientPool
from locustfiles.load.clients.recording import LiveMetrics, Report
from locustfiles.load.clients.user_roster import Users
from locustfiles.load.workers import messages
from locustfiles.load.workers.clocks import SharedClock
from locustfiles.load.workers.messages import AnyToWorker, Channel, FromWorker, PrepareRun
from locustfiles.load.workers.observation_transport import OutgoingObservations
from sim.base.errors import StormgateError
from sim.client.marks import Acknowledged
from sim.engines.greenlets.background import BackgroundGreenlets, LagMonitor
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import permission
from sim.engines.shared.pacer import Pacer
from sim.mock.server import raise_descriptor_limit

log = logging.getLogger("stormgate")
# All numbers are [ours].
_STATUS_S = 0.25
_SEND_S = 0.5
_SAMPLE_S = 0.5
_SKETCHES_S = 1.0
_REQUEST_S = 0.05
_PING_S = 1.0
_FIRST_PINGS, _PING_APART_S = 10, 0.02
SILENCE_S = 5.0  # the master answers every second; after this long without an answer it is lost
_CLOCK_LIMIT_S = 5.0  # for the first answers


class WorkerRun:
    """One run: `begin`, then `receive` the master's messages while users run clients."""

    def __init__(self, what: PrepareRun, targets_file: Path | None, report: Report, send: Callable[[FromWorker], None]) -> None:
        self.replaced = Event()  # another run has begun
        self.is_over = False
        self._what = what
        self._targets_file = targets_file
        self._send = send
        self._clock = SharedClock()
        self._outgoing = OutgoingObservations()
        self._live = LiveMetrics(report)
        self._lag = LagMonitor(self._clock, self._outgoing, what.worker)
        self._background = BackgroundGreenlets(self.stop)
        self._users = self._requested = 0
        self._numbers: Queue[int] = Queue()
        self._started = Event()
        self._faults_over = Event()
        self._heads: dict[str, Acknowledged] | None = None
        self._endpoints: GreenletHttp | None = None
        self._client_pool: ClientPool | None = None
        self._last_reply_at = 0.0  # time of the master's last answer
        self._ending: gevent.Greenlet[..., None] | None = None

    def begin(self) -> None:
        """Prepare in a background greenlet and send `Ready` or `Refused`."""
        gevent.spawn(self._begin)

    def _begin(self) -> None:
        try:
            ahead_s = self._find_clock()
            self._make_clients()
        except StormgateError as error:
            self._send(messages.Refused(str(error)))
        except Exception as error:  # the master must not wait for this worker
            self._send(messages.Refused(f"a defect of stormgate itself ({type(error).__name__}: {error})."))
        else:
            self._clock.began = self._what.clock_began
            within_ms = self._within_s * 1000
            here = socket.gethostname(), os.getpid(), version("stormgate")
            self._background.spawn(self._lag.run)
            self._background.spawn(self._ping)
            for period_s, work in self._periodic():
                self._background.spawn(partial(_repeat, period_s, work))
            self._send(messages.Ready(*here, ahead_s * 1000, within_ms))

    def _find_clock(self) -> float:
        """Ask for the master's time until it is known well; returns how far its clock is ahead, in s."""
        for _ in range(round(_CLOCK_LIMIT_S / _PING_APART_S)):
            self._send(messages.Ping(self._clock.now()))
            gevent.sleep(_PING_APART_S)
            if self._clock.answers >= _FIRST_PINGS:
                break
        self._within_s = self._clock.within_s
        return self._clock.follow()

    def _make_clients(self) -> None:
        """Check the target and create the client pool. Raises what the target's check raises."""
        raise_descriptor_limit()
        what = self._what
        endpoints = targets.resolve(what.target, self._targets_file)
        assert endpoints is not None  # the master started the mock
        permission.require_allowed(what.drill, endpoints)  # by this machine's own targets file
        self._endpoints = GreenletHttp(endpoints)
        self._endpoints.check()
        pacer = Pacer(what.connects_per_s) if what.connects_per_s else None
        self._client_pool = ClientPool(
            what.drill,
            what.seed,
            what.marker_run,
            self._endpoints,
            what.topics,
            self._clock,
            self._outgoing,
            self._live.noticed,
            pacer,
        )

    # --- what users do ------------------------------------------------------------------------------

    def take_client(self) -> int | None:
        """The next client of the fleet for a user; None when the run is over before there is one."""
        self._users += 1
        while not self.is_over:
            try:
                return self._numbers.get(timeout=1.0)
            except Empty:
                continue
        return None

    def be_a_client(self, number: int) -> None:
        """A user's greenlet is that client until the run ends."""
        with self._background.must_not_fail():
            self._started.wait()
            if not self.is_over:
                assert self._client_pool is not None
                self._client_pool.live_on(number)

    def leave(self, number: int) -> None:
        """Stop the run because Locust removed a user: a fleet that shrinks is not the drill's load."""
        self.stop(f"Locust took the user of client {number} away, as it does when a worker comes late")

    def publish(self) -> None:
        """Do nothing: the master publishes."""

    def stop(self, because: str) -> None:
        """End early: disconnect the clients, send the remaining observations and the reason."""
        if self._ending is None:
            self.is_over = True
            self._ending = gevent.spawn(self._end, because)

    def join(self) -> None:
        """Wait until `stop` has finished."""
        if self._ending is not None:
            self._ending.join()

    # --- messages from the master -------------------------------------------------------------------

    def receive(self, message: AnyToWorker) -> None:
        """Handle a message of the master; work that takes time runs in a background greenlet."""
        if isinstance(message, messages.Pong):
            self._clock.answered(message.sent, message.at)
            self._last_reply_at = self._clock.now()
        elif self._client_pool is not None and not self.is_over:
            with self._background.must_not_fail():
                self._follow(message, self._client_pool)

    def _follow(self, message: AnyToWorker, client_pool: ClientPool) -> None:
        match message:
            case messages.Clients(numbers=numbers):
                for number in numbers:
                    client_pool.add(number)
                    self._numbers.put(number)
            case messages.Start(at=at):
                client_pool.began = at
                self._started.set()
            case messages.Published(events=events):
                for stream, number, due in events:
                    self._live.deliveries.published(stream, number, due)
            case messages.InjectFault():
                self._background.spawn(lambda: self._inject(message, client_pool))
            case messages.EndFaults():
                self._faults_over.set()
            case messages.Revert():
                self._faults_over.set()
                client_pool.faults.revert_all()
                self._send(messages.Reverted())
            case messages.CountLagging(heads=heads):
                self._heads = heads
            case messages.RecordConvergence(heads=heads):
                client_pool.conclude(heads)
            case messages.End():
                self.stop("")

    def _inject(self, order: messages.InjectFault, client_pool: ClientPool) -> None:
        while (wait_s := order.at - self._clock.now()) > 0:
            gevent.sleep(wait_s)
        late_ms = (self._clock.now() - order.at) * 1000
        affected = client_pool.faults.inject(order.planned)
        while (wait_s := order.until - self._clock.now()) > 0 and not self._faults_over.wait(wait_s):
            pass
        affected += client_pool.faults.revert(order.planned)
        self._send(messages.FaultDone(order.number, affected, late_ms))

    # --- messages to the master ---------------------------------------------------------------------

    def _periodic(self) -> list[tuple[float, Callable[[], None]]]:
        """Return the periodic work with its periods in s."""
        assert self._client_pool is not None
        return [
            (_REQUEST_S, self._request_clients),
            (_STATUS_S, self._send_status),
            (_SKETCHES_S, lambda: self._send(messages.Sketches(self._live.own_values()))),
            (_SEND_S, lambda: self._outgoing.send_all(self._send)),
            (_SAMPLE_S, self._client_pool.sample_positions),
        ]

    def _request_clients(self) -> None:
        if self._users > self._requested:
            self._requested = self._users
            self._send(messages.UsersSpawned(self._users))

    def _send_status(self) -> None:
        assert self._client_pool is not None
        client_pool, heads = self._client_pool, self._heads
        behind = -1 if heads is None else client_pool.behind(heads)
        counted = self._live.own_counts(), self._live.take_worst()
        self._send(messages.Status(client_pool.live, client_pool.there, behind, self._lag.ms, *counted))

    def _ping(self) -> None:
        """Keep the clock estimate fresh, and end the load when the master is lost."""
        self._last_reply_at = self._clock.now()
        while self._clock.now() - self._last_reply_at < SILENCE_S:
            self._send(messages.Ping(self._clock.now()))
            gevent.sleep(_PING_S)
        log.error("no answer from the master for %g s; this worker's clients disconnect", SILENCE_S)
        self.stop("the master did not answer")

    def _end(self, left: str) -> None:
        """Disconnect the clients, send the remaining observations, then `Done`."""
        self._background.kill()
        self._started.set()
        clients = 0
        if self._client_pool is not None:
            self._client_pool.stop()
            clients = len(self._client_pool.clients)
        self._outgoing.send_all(self._send)
        clock = self._clock.ahead_s * 1000, self._clock.within_s * 1000
        self._send(messages.Done(self._outgoing.messages, self._outgoing.rows, clients, *clock, left))
        if self._endpoints is not None:
            self._endpoints.close()


def _repeat(period_s: float, work: Callable[[], None]) -> None:
    while True:
        gevent.sleep(period_s)
        work()


class Worker(Users[WorkerRun]):
    """The runs of one Locust worker, one after another."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._channel = Channel(environment.runner, self._receive, is_master=False)
        # Keep the worker's own targets file: the master's options replace its parsed options later.
        self._targets_file = Path(environment.parsed_options.targets) if environment.parsed_options.targets else None
        environment.process_exit_code = 0  # the verdict is the master's

    def begin_test(self) -> None:
        """Do nothing: the master starts runs."""

    def finish(self) -> None:
        """End this worker, as `interrupt` does."""
        self.stop("it was interrupted")

    interrupt = finish

    def stop(self, because: str) -> None:
        """End this worker: tell the master and send the remaining observations."""
        if self.run is not None:
            self.run.stop(because)
            self.run.join()

    def _receive(self, master: str, run_id: str, message: AnyToWorker) -> None:
        if isinstance(message, PrepareRun):
            self._begin(run_id, message)
        elif self.run is not None and run_id == self._run_id:
            self.run.receive(message)

    def _begin(self, run_id: str, what: PrepareRun) -> None:
        before, self._run_id = self.run, run_id
        self._clients.clear()
        log.info("run %s begins here as %s (process %d)", run_id, what.worker, os.getpid())
        self.run = WorkerRun(what, self._targets_file, self._report, lambda message: self._channel.send(run_id, message))
        self.run.begin()
        if before is not None:
            before.stop("another run began")
            before.replaced.set()
