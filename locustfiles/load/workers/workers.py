"""A run's workers as the master knows them: what they are told, what they say, and whether all of it arrived.

A worker that is lost, that left, that was late, or whose observations did not all arrive makes a run that is not complete.
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
from locustfiles.load.workers.messages import ToWorker
from locustfiles.load.workers.observation_transport import Arrived, Heads
from locustfiles.load.workers.remote import NoWorkers, Send
from sim.base.clocks import WallClock
from sim.base.errors import TargetError
from sim.drill.model import Drill
from sim.drill.schedule import PlannedFault
from sim.engines.shared.stop_conditions import CountingRecorder
from sim.record.observations import NAN
from sim.record.parquet import Recorder

# All numbers are [ours].
READY_LIMIT_S = 30.0  # for a worker to check the target and its clock
GATHER_LIMIT_S = 20.0  # for all users to be spawned
SILENCE_S = 5.0  # a worker says how it is four times a second; whoever says nothing for so long is lost
LEAD_S = 0.3  # between telling workers of a moment and the moment
LATE_LIMIT_S = 1.0  # a storm begins everywhere within this
LAST_WORD_S = 30.0  # for the observations that are still with the workers
CLOCK_LIMIT_S = 0.1  # how exactly all clocks must be known to be one, when the run begins and when it ends
_POLL_S = 0.05
_NEWS_S = 0.1  # between telling workers what was published


class Workers(NoWorkers):
    """All workers of one run. `hear` is called as messages come and must not wait; all else may."""

    lead_s = LEAD_S

    def __init__(
        self,
        ids: Iterable[str],
        clients: int,
        send: Send,
        clock: WallClock,
        recorder: Recorder,
        live: LiveMetrics,
        stop: Callable[[str], None],
    ) -> None:
        self._all = {each: _Worker(f"worker {number}", clock.now()) for number, each in enumerate(ids, 1)}
        # Every worker has its share of those who arrive early, and of those who arrive late.
        self._free = [deque(range(number, clients, len(self._all))) for number in range(len(self._all))]
        self._send = send
        self._clock = clock
        self._recorder = recorder
        self._live = live
        self._stop = stop
        self._heads = Heads()
        self._orders = self._heals = 0
        self._news: list[tuple[str, int, float]] = []
        self._is_settling = self._is_ending = False
        self._worst_lag = NAN
        self._arrived: Queue[tuple[_Worker, messages.Rows]] = Queue()
        self._trouble = ""
        self._greenlets = [gevent.spawn(work) for work in (self._watch, self._tell_news, self._take_in)]

    def prepare(self, drill: Drill, seed: int, target: str, topics: list[str], connects_per_s: float) -> None:
        """Have all of them make ready; raises `TargetError` for the first that cannot."""
        for each, worker in self._all.items():
            self._send(each, messages.Begin(worker.name, drill, seed, target, topics, self._clock.began, connects_per_s))
        self._wait(
            lambda: any(worker.refusal for worker in self._here) or all(each.ready for each in self._here), READY_LIMIT_S
        )
        for worker in self._all.values():
            if worker.refusal:
                raise TargetError(f"{worker.name}: {worker.refusal}")
            if worker.ready is None:
                raise TargetError(f"{worker.name} did not get ready within {READY_LIMIT_S:g} s; see what it says itself.")
            if worker.ready.version != version("stormgate"):
                theirs, ours = worker.ready.version, version("stormgate")
                raise TargetError(f"{worker.who} has stormgate {theirs}, but the master has {ours}; install the same.")

    def hear(self, sender: str, said: messages.AnyFromWorker) -> None:
        """A worker says something; who is not of this run is not listened to."""
        worker = self._all.get(sender)
        if worker is None:
            return
        worker.heard_at = self._clock.now()
        match said:
            case messages.Ping(sent=sent):
                self._send(sender, messages.Pong(sent, self._clock.now()))
            case messages.Ready():
                worker.ready = said
            case messages.Refused(sentence=sentence):
                worker.refusal = sentence
                self._stop(f"{worker.who}: {sentence}")
            case messages.Wanted(users=users):
                self._grant(sender, worker, users)
            case messages.Rows():
                self._arrived.put((worker, said))
            case messages.Sketches(of=values):
                self._live.worker_measured(worker.name, values)
            case _:
                self._hear_of_course(worker, said)

    def _hear_of_course(self, worker: "_Worker", said: messages.AnyFromWorker) -> None:
        match said:
            case messages.Status():
                self._count(worker, said)
                worker.status = said
                self._live.worker_counted(worker.name, said.counts, said.worst_ms)
            case messages.Acted():
                worker.acted[said.number] = said
                if said.late_ms > LATE_LIMIT_S * 1000:
                    self._stop(f"{worker.who} began a fault {said.late_ms / 1000:.1f} s later than the others")
            case messages.Healed():
                worker.healed += 1
            case messages.Done():
                worker.done = said
                if said.left and not self._is_ending:
                    self._stop(f"{worker.who} left in the middle of the run: {said.left}")

    def _count(self, worker: "_Worker", said: messages.Status) -> None:
        """Stop conditions go by what all processes observe."""
        if isinstance(self._recorder, CountingRecorder):
            before = worker.status.counts if worker.status else {}
            more = {kind: count - before.get(kind, 0) for kind, count in said.counts.items()}
            self._recorder.count_others(self._clock.now() - self._clock.began, more)

    # --- who is there -------------------------------------------------------------------------------

    @property
    def _here(self) -> "list[_Worker]":
        return [worker for worker in self._all.values() if not worker.is_lost]

    def _grant(self, sender: str, worker: "_Worker", users: int) -> None:
        """Give clients to users, the worker's own first; a user too many is none."""
        own = int(worker.name.rpartition(" ")[2]) - 1
        numbers: list[int] = []
        for free in (*self._free[own:], *self._free[:own]):
            while free and worker.granted + len(numbers) < users:
                numbers.append(free.popleft())
        worker.granted += len(numbers)
        if numbers:
            self._send(sender, messages.Clients(numbers))

    def gather(self, is_over: Callable[[], bool]) -> None:
        """Wait for a user for each client of the fleet, up to a limit: who never came is a client that is never live."""
        self._wait(lambda: is_over() or not any(self._free), GATHER_LIMIT_S)

    def _watch(self) -> None:
        """Notice a worker of which nothing is heard any more."""
        while True:
            gevent.sleep(_POLL_S * 10)
            for worker in self._here:
                if worker.ready and not worker.done and self._clock.now() - worker.heard_at > SILENCE_S:
                    worker.is_lost = True
                    self._stop(f"{worker.who} was lost in the middle of the run: nothing was heard of it for {SILENCE_S:g} s")

    # --- how they are -------------------------------------------------------------------------------

    @property
    def _statuses(self) -> list[messages.Status]:
        return [worker.status for worker in self._here if worker.status is not None]

    @property
    def live(self) -> int:
        """How many of their clients are live."""
        return sum(status.live for status in self._statuses)

    @property
    def there(self) -> int:
        """The same with those that are renewing their tokens."""
        return sum(status.there for status in self._statuses)

    @property
    def lag_ms(self) -> float:
        """How late the latest of them is."""
        return max((status.lag_ms for status in self._statuses), default=0.0)

    def take_worst_lag(self) -> float:
        """How far the worst of their clients was from the heads, in events, since this was asked last; NaN for unknown."""
        worst, self._worst_lag = self._worst_lag, NAN
        return worst

    # --- the course ---------------------------------------------------------------------------------

    def start(self, at: float) -> None:
        """The first client of the fleet arrives then."""
        self._tell(messages.Start(at))

    def published(self, stream: str, seq: int, due: float) -> None:
        """An event was acknowledged just now."""
        self._heads.acknowledged(stream, seq, self._clock.now() - self._clock.began)
        self._news.append((stream, seq, due))

    def _tell_news(self) -> None:
        while True:
            gevent.sleep(_NEWS_S)
            if self._news:
                news, self._news = self._news, []
                self._tell(messages.Published(news))

    def strike(self, planned: PlannedFault, at: float, until: float) -> int:
        """Break something for those whom a fault concerns, everywhere at that moment; returns the number of this order."""
        self._orders += 1
        self._tell(messages.Break(self._orders, planned, at, until))
        return self._orders

    def acted(self, order: int) -> int:
        """On how many clients it acted, once it is over everywhere."""
        self._wait(lambda: all(order in worker.acted for worker in self._here), READY_LIMIT_S)
        for worker in self._here:
            if order not in worker.acted:
                self._stop(f"{worker.who} did not say what became of a fault")
        return sum(worker.acted[order].clients for worker in self._here if order in worker.acted)

    def end_faults(self) -> None:
        """Faults that act end now."""
        self._tell(messages.EndFaults())

    def revert(self) -> None:
        """Return when nothing acts on any of their clients."""
        self._heals += 1
        self._tell(messages.Heal())
        self._wait(lambda: all(worker.healed == self._heals or worker.done for worker in self._here), SILENCE_S)
        if any(worker.healed != self._heals and not worker.done for worker in self._here):
            self._stop("a worker did not say that it has healed")

    def behind(self, heads: Mapping[str, int]) -> int:
        """How many of their clients have not come to rest at these heads; who has not answered yet counts as one."""
        if not self._is_settling:
            self._is_settling = True
            self._tell(messages.Settle(dict(heads)))
        said = [worker.status.behind if worker.status else -1 for worker in self._here]
        return sum(behind if behind >= 0 else 1 for behind in said)

    def conclude(self, heads: Mapping[str, int]) -> None:
        """Have them record who has converged."""
        self._tell(messages.Conclude(dict(heads)))

    # --- the end ------------------------------------------------------------------------------------

    def take_away(self) -> None:
        """Have them ask nothing more of the target, and hand over what is left."""
        if not self._is_ending:
            self._is_ending = True
            self._tell(messages.End())

    def end(self) -> str:
        """Have them close everything, and take in what is left; returns what is wrong with what arrived, empty for nothing."""
        self.take_away()
        self._wait(lambda: all(worker.done for worker in self._here) and self._arrived.empty(), LAST_WORD_S)
        gevent.killall(self._greenlets)
        wrong = [self._trouble, *(self._wrong(worker) for worker in self._all.values())]
        return "; ".join(filter(None, wrong))

    def _wrong(self, worker: "_Worker") -> str:
        done = worker.done
        if worker.ready is None:  # the run never began
            return ""
        if done is None:
            return f"{worker.who} never said how much it had observed; {worker.rows} observations of it arrived"
        if (done.rows, done.messages) != (worker.rows, worker.parcels):
            return f"{worker.who} observed {done.rows} rows, of which {worker.rows} arrived"
        unsure_ms = max(worker.ready.clock_within_ms, done.clock_within_ms, abs(done.clock_moved_ms) - done.clock_within_ms)
        if unsure_ms > CLOCK_LIMIT_S * 1000:
            return f"the clock of {worker.who} is known within {unsure_ms:.0f} ms only; {CLOCK_LIMIT_S * 1000:g} are allowed"
        return f"{worker.who} left early: {done.left}" if done.left else ""

    def _take_in(self) -> None:
        """Record what arrives; a native thread unpacks it."""
        while True:
            worker, said = self._arrived.peek()
            try:
                arrived = gevent.get_hub().threadpool.apply(Arrived, (said, self._heads))
            except Exception as error:
                self._trouble = self._trouble or f"what {worker.who} observed cannot be read ({error})"
            else:
                self._recorder.take(arrived)
                self._worst_lag = max((self._worst_lag, arrived.worst_lag), key=lambda lag: -1.0 if math.isnan(lag) else lag)
                worker.rows += said.rows
            worker.parcels += 1
            self._arrived.get()

    def evidence(self) -> list[dict[str, object]]:
        """What is kept of each of them."""
        return [worker.evidence() for worker in self._all.values()]

    # --- small change -------------------------------------------------------------------------------

    def _tell(self, said: ToWorker) -> None:
        for each, worker in self._all.items():
            if not worker.is_lost:
                self._send(each, said)

    def _wait(self, is_so: Callable[[], bool], limit_s: float) -> None:
        limit = self._clock.now() + limit_s
        while not is_so() and self._clock.now() < limit:
            gevent.sleep(_POLL_S)


@dataclass
class _Worker:
    """One worker, and what came from it."""

    name: str
    heard_at: float
    ready: messages.Ready | None = None
    refusal: str = ""
    granted: int = 0
    status: messages.Status | None = None
    acted: dict[int, messages.Acted] = field(default_factory=dict)  # by order
    healed: int = 0
    parcels: int = 0  # of observations, that arrived
    rows: int = 0  # in them
    done: messages.Done | None = None
    is_lost: bool = False

    @property
    def who(self) -> str:
        """For people."""
        return f"{self.name} (process {self.ready.pid} on {self.ready.host})" if self.ready else self.name

    def evidence(self) -> dict[str, object]:
        """For a run's header."""
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
