"""The workers of a run as the master sees them: orders, answers, and whether every observation arrived.

A worker that was lost, left early or was late, or whose observations are incomplete, makes the run incomplete.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import gevent
from gevent.queue import Queue

from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.workers import messages
from locustfiles.load.workers.messages import Send, ToWorker
from locustfiles.load.workers.observation_transport import Heads, ReceivedObservations
from sim.base.clocks import WallClock
from sim.base.errors import TargetError
from sim.client.marks import Acknowledged
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill
from sim.engines.shared.stop_conditions import CountingRecorder
from sim.record.observations import NAN
from sim.record.parquet import Recorder

# All numbers are [ours].
READY_LIMIT_S = 30.0  # for a worker to check the target and its clock
GATHER_LIMIT_S = 20.0  # for all users to be spawned
SILENCE_S = 5.0  # workers send their status four times a second; one that is silent for this long is lost
LEAD_S = 0.3  # lead time of an order
LATE_LIMIT_S = 1.0  # a fault starts on all workers within this
FINAL_OBSERVATIONS_S = 30.0  # for the last observations to arrive
CLOCK_LIMIT_S = 0.1  # largest allowed uncertainty of a worker's clock, at the start and the end of the run
_POLL_S = 0.05
_PUBLISHED_S = 0.1  # between messages with published events


class Workers:
    """All workers of one run; a run in a single process has none.

    `receive` is called for each message and must not block; everything else may.
    """

    def __init__(
        self,
        ids: Iterable[str],
        clients: int | Callable[[], int | None],
        send: Send,
        clock: WallClock,
        recorder: Recorder,
        live: LiveMetrics,
        stop: Callable[[str], None],
    ) -> None:
        """`clients`: how many, or what gives the number of one more."""
        self._all = {each: _Worker(f"worker {number}", clock.now()) for number, each in enumerate(ids, 1)}
        # Every worker gets clients that connect early and clients that connect late.
        self._next = clients if callable(clients) else None
        fleet = 0 if callable(clients) else clients
        self._free = [deque(range(number, fleet, len(self._all))) for number in range(len(self._all))]
        self._send = send
        self._clock = clock
        self._recorder = recorder
        self._live = live
        self._stop = stop
        self._heads = Heads()
        self._orders = self._reverts = 0
        self._published: list[tuple[str, int, float]] = []
        self._is_settling = self._is_ending = False
        self._worst_lag = NAN
        self._arrived: Queue[tuple[_Worker, messages.Rows]] = Queue()
        self._unreadable = ""
        self.lead_s = LEAD_S if self._all else 0.0  # from an order to its execution
        background = (self._detect_silence, self._send_published, self._record_received) if self._all else ()
        self._greenlets = [gevent.spawn(work) for work in background]

    def prepare(self, drill: Drill, seed: int, marker_run: str, target: str, topics: list[str], connects_per_s: float) -> None:
        """Prepare all workers. Raises `TargetError` for the first that cannot take part."""
        for each, worker in self._all.items():
            what = messages.PrepareRun(worker.name, drill, seed, marker_run, target, topics, self._clock.began, connects_per_s)
            self._send(each, what)
        self._wait(
            lambda: any(worker.refusal for worker in self._here) or all(each.ready for each in self._here), READY_LIMIT_S
        )
        for worker in self._all.values():
            if worker.refusal:
                raise TargetError(f"{worker.name}: {worker.refusal}")
            if worker.ready is None:
                raise TargetError(f"{worker.name} was not ready within {READY_LIMIT_S:g} s; see that worker's log.")
            if worker.ready.version != version("stormgate"):
                theirs, ours = worker.ready.version, version("stormgate")
                raise TargetError(f"{worker.who} has stormgate {theirs}, but the master has {ours}; install the same.")

    def receive(self, sender: str, message: messages.AnyFromWorker) -> None:
        """Handle a worker's message; messages from other workers are ignored."""
        worker = self._all.get(sender)
        if worker is None:
            return
        worker.last_message_at = self._clock.now()
        match message:
            case messages.Ping(sent=sent):
                self._send(sender, messages.Pong(sent, self._clock.now()))
            case messages.Ready():
                worker.ready = message
            case messages.Refused(sentence=sentence):
                worker.refusal = sentence
                self._stop(f"{worker.who}: {sentence}")
            case messages.UsersSpawned(users=users):
                self._grant(sender, worker, users)
            case messages.Rows():
                self._arrived.put((worker, message))
            case messages.Sketches(of=values):
                self._live.worker_measured(worker.name, values)
            case _:
                self._on_run_message(worker, message)

    def _on_run_message(self, worker: "_Worker", message: messages.AnyFromWorker) -> None:
        match message:
            case messages.Status():
                self._count(worker, message)
                worker.status = message
                self._live.worker_counted(worker.name, message.counts, message.worst_ms)
            case messages.FaultDone():
                worker.acted[message.number] = message
                if message.late_ms > LATE_LIMIT_S * 1000:
                    self._stop(f"{worker.who} began a fault {message.late_ms / 1000:.1f} s later than the others")
            case messages.Reverted():
                worker.reverted += 1
            case messages.Done():
                worker.done = message
                if message.left and not self._is_ending:
                    self._stop(f"{worker.who} left during the run: {message.left}")

    def _count(self, worker: "_Worker", message: messages.Status) -> None:
        """Count a worker's observations for the stop conditions."""
        if isinstance(self._recorder, CountingRecorder):
            before = worker.status.counts if worker.status else {}
            more = {kind: count - before.get(kind, 0) for kind, count in message.counts.items()}
            self._recorder.count_others(self._clock.now() - self._clock.began, more)

    # --- membership ---------------------------------------------------------------------------------

    @property
    def _here(self) -> "list[_Worker]":
        return [worker for worker in self._all.values() if not worker.is_lost]

    def _grant(self, sender: str, worker: "_Worker", users: int) -> None:
        """Assign clients to a worker's new users, its own share first; surplus users get none."""
        own = int(worker.name.rpartition(" ")[2]) - 1
        numbers: list[int] = []
        for free in (*self._free[own:], *self._free[:own]):
            while free and worker.granted + len(numbers) < users:
                numbers.append(free.popleft())
        while self._next and worker.granted + len(numbers) < users and (number := self._next()) is not None:
            numbers.append(number)
        worker.granted += len(numbers)
        if numbers:
            self._send(sender, messages.Clients(numbers))

    def gather(self, is_over: Callable[[], bool]) -> None:
        """Wait, up to a limit, until each client of the fleet has a user; a client without one is never live."""
        self._wait(lambda: is_over() or not any(self._free), GATHER_LIMIT_S)

    def _detect_silence(self) -> None:
        """Detect a worker that has gone silent."""
        while True:
            gevent.sleep(_POLL_S * 10)
            for worker in self._here:
                if worker.ready and not worker.done and self._clock.now() - worker.last_message_at > SILENCE_S:
                    worker.is_lost = True
                    self._stop(f"{worker.who} was lost during the run: no message for {SILENCE_S:g} s")

    # --- state --------------------------------------------------------------------------------------

    @property
    def _statuses(self) -> list[messages.Status]:
        return [worker.status for worker in self._here if worker.status is not None]

    @property
    def live(self) -> int:
        """Live clients on workers."""
        return sum(status.live for status in self._statuses)

    @property
    def there(self) -> int:
        """Clients on workers that are live or renewing their token."""
        return sum(status.there for status in self._statuses)

    @property
    def lag_ms(self) -> float:
        """Largest timer lateness of the workers, in ms."""
        return max((status.lag_ms for status in self._statuses), default=0.0)

    def take_worst_lag(self) -> float:
        """Return the largest client lag in events since the last call; NaN if unknown."""
        worst, self._worst_lag = self._worst_lag, NAN
        return worst

    # --- orders -------------------------------------------------------------------------------------

    def start(self, at: float) -> None:
        """Let the first client of the fleet connect at `at`."""
        self._send_all(messages.Start(at))

    def published(self, stream: str, number: int, due: float) -> None:
        """Take an event that was acknowledged just now."""
        if self._all:
            self._heads.acknowledged(stream, number, self._clock.now() - self._clock.began)
            self._published.append((stream, number, due))

    def _send_published(self) -> None:
        while True:
            gevent.sleep(_PUBLISHED_S)
            if self._published:
                news, self._published = self._published, []
                self._send_all(messages.Published(news))

    def inject(self, planned: PlannedFault, at: float, until: float) -> int:
        """Inject a client fault on all workers at `at`; returns the order's number."""
        self._orders += 1
        self._send_all(messages.InjectFault(self._orders, planned, at, until))
        return self._orders

    def affected(self, order: int) -> int:
        """Wait until the fault has ended everywhere; returns on how many clients it took effect."""
        self._wait(lambda: all(order in worker.acted for worker in self._here), READY_LIMIT_S)
        for worker in self._here:
            if order not in worker.acted:
                self._stop(f"{worker.who} did not report the end of a fault")
        return sum(worker.acted[order].clients for worker in self._here if order in worker.acted)

    def end_faults(self) -> None:
        """End the active faults now."""
        self._send_all(messages.EndFaults())

    def revert(self) -> None:
        """Revert all faults; returns when no fault is active on any worker."""
        self._reverts += 1
        self._send_all(messages.Revert())
        self._wait(lambda: all(worker.reverted == self._reverts or worker.done for worker in self._here), SILENCE_S)
        if any(worker.reverted != self._reverts and not worker.done for worker in self._here):
            self._stop("a worker did not confirm that its faults are reverted")

    def behind(self, heads: Mapping[str, Acknowledged]) -> int:
        """Return how many clients have not converged to these heads; a worker without an answer counts as one."""
        if not self._is_settling:
            self._is_settling = True
            self._send_all(messages.CountLagging(dict(heads)))
        behind = [worker.status.behind if worker.status else -1 for worker in self._here]
        return sum(count if count >= 0 else 1 for count in behind)

    def conclude(self, heads: Mapping[str, Acknowledged]) -> None:
        """Let the workers record which clients have converged."""
        self._send_all(messages.RecordConvergence(dict(heads)))

    # --- end ----------------------------------------------------------------------------------------

    def end_load(self) -> None:
        """Let the workers stop their load and send their last observations."""
        if not self._is_ending:
            self._is_ending = True
            self._send_all(messages.End())

    def end(self) -> str:
        """End the workers and take their last observations; returns what is wrong with them, empty if nothing."""
        self.end_load()
        self._wait(lambda: all(worker.done for worker in self._here) and self._arrived.empty(), FINAL_OBSERVATIONS_S)
        gevent.killall(self._greenlets)
        wrong = [self._unreadable, *(self._problem(worker) for worker in self._all.values())]
        return "; ".join(filter(None, wrong))

    def _problem(self, worker: "_Worker") -> str:
        done = worker.done
        if worker.ready is None:  # the run never began
            return ""
        if done is None:
            return f"{worker.who} did not report its number of observations; {worker.rows} arrived"
        if (done.rows, done.messages) != (worker.rows, worker.messages_received):
            return f"{worker.who} observed {done.rows} rows; {worker.rows} arrived"
        unsure_ms = max(worker.ready.clock_within_ms, done.clock_within_ms, abs(done.clock_moved_ms) - done.clock_within_ms)
        if unsure_ms > CLOCK_LIMIT_S * 1000:
            return f"the clock of {worker.who} is known within {unsure_ms:.0f} ms (allowed: {CLOCK_LIMIT_S * 1000:g} ms)"
        return f"{worker.who} left early: {done.left}" if done.left else ""

    def _record_received(self) -> None:
        """Record received observations; a native thread unpacks them."""
        while True:
            worker, message = self._arrived.peek()
            try:
                arrived = gevent.get_hub().threadpool.apply(ReceivedObservations, (message, self._heads))
            except Exception as error:
                self._unreadable = self._unreadable or f"observations of {worker.who} cannot be read ({error})"
            else:
                self._recorder.take(arrived)
                self._worst_lag = max((self._worst_lag, arrived.worst_lag), key=lambda lag: -1.0 if math.isnan(lag) else lag)
                worker.rows += message.rows
            worker.messages_received += 1
            self._arrived.get()

    def evidence(self) -> list[dict[str, object]]:
        """Return what `run.json` keeps about each worker."""
        return [worker.evidence() for worker in self._all.values()]

    # --- internal -----------------------------------------------------------------------------------

    def _send_all(self, message: ToWorker) -> None:
        for each, worker in self._all.items():
            if not worker.is_lost:
                self._send(each, message)

    def _wait(self, is_so: Callable[[], bool], limit_s: float) -> None:
        limit = self._clock.now() + limit_s
        while not is_so() and self._clock.now() < limit:
            gevent.sleep(_POLL_S)


@dataclass
class _Worker:
    """One worker and its messages so far."""

    name: str
    last_message_at: float
    ready: messages.Ready | None = None
    refusal: str = ""
    granted: int = 0
    status: messages.Status | None = None
    acted: dict[int, messages.FaultDone] = field(default_factory=dict)  # by number of the order
    reverted: int = 0
    messages_received: int = 0  # messages with observations
    rows: int = 0  # observations in them
    done: messages.Done | None = None
    is_lost: bool = False

    @property
    def who(self) -> str:
        """Name, process and host."""
        return f"{self.name} (process {self.ready.pid} on {self.ready.host})" if self.ready else self.name

    def evidence(self) -> dict[str, object]:
        """Return the worker's entry in `run.json`."""
        ready, done = self.ready, self.done
        return {
            "name": self.name,
            "host": ready.host if ready else "",
            "process": ready.pid if ready else 0,
            "clients": self.granted,
            "rows_observed": done.rows if done else -1,
            "rows_arrived": self.rows,
            "clock_ahead_ms": ready.clock_ahead_ms if ready else None,
            "clock_within_ms": ready.clock_within_ms if ready else None,
            "clock_moved_ms": done.clock_moved_ms if done else None,
            "latest_fault_ms": max((acted.late_ms for acted in self.acted.values()), default=None),
            "lost": self.is_lost,
        }
