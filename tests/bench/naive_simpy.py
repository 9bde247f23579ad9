"""The reconnect storm as one would first write it with SimPy: a generator process and a Store for each client.

It connects, replays from its watermark, applies with a check against it and records what it applied, as the virtual engine's
clients do. It knows no tokens, heartbeats, holes, hashes, stale cursors or queues, so it does much less for a delivery than
the engine's real sessions. `run_callbacks` is the same toy driven as the engine drives its clients: that work is equal.
"""

from collections.abc import Generator

import simpy

from sim.base.randomness import draw
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.virtual.client import one_way_delay_s
from sim.engines.virtual.clock import VirtualClock
from sim.record.observations import NAN, Row
from sim.record.parquet import Recorder

Steps = Generator[simpy.Event, object, None]
FIRST_STEP_S = 0.25  # of the reference client's backoff, full jitter


class NaiveService:
    """Logs, and a Store for each subscriber. `heads[i]` is the last seq of stream i."""

    def __init__(self, env: simpy.Environment, streams: int) -> None:
        self.env = env
        self.heads = [0] * streams
        self.callbacks: list[dict[int, CallbackClient]] = [{} for _ in range(streams)]
        self.subscribers: list[dict[int, simpy.Store]] = [{} for _ in range(streams)]

    def publish(self, events_per_s: float, until_s: float) -> Steps:
        """Events on all streams in turn, each put into every subscriber's Store."""
        number = 0
        while self.env.now < until_s:
            stream = number % len(self.heads)
            self.heads[stream] += 1
            for store in self.subscribers[stream].values():
                store.put(self.heads[stream])
            for client in self.callbacks[stream].values():
                client.sends(self.heads[stream])
            number += 1
            yield self.env.timeout(number / events_per_s - self.env.now)


class NaiveClient:
    """One process that connects, replays, and applies what its Store holds, until it is interrupted, and again."""

    def __init__(
        self, env: simpy.Environment, service: NaiveService, number: int, recorder: Recorder | None, delay_s: float
    ) -> None:
        self._env = env
        self._service = service
        self._number = number
        self._recorder = recorder
        self.delay_s = delay_s
        self._stream = number % len(service.heads)
        self._name = f"runtime.run.r{self._stream + 1}.events"
        self._watermark = 0
        self.applied = 0

    def run(self, arrives_s: float) -> Steps:
        """Its whole life."""
        yield self._env.timeout(arrives_s + 2 * self.delay_s)  # a token
        disconnects = 0
        while True:
            try:
                yield from self._be_connected()
            except simpy.Interrupt:
                self._service.subscribers[self._stream].pop(self._number, None)
                disconnects += 1
                yield self._env.timeout(FIRST_STEP_S * draw(1, "backoff", self._number, disconnects))

    def _be_connected(self) -> Steps:
        yield self._env.timeout(4 * self.delay_s)  # SYN, SYN-ACK, upgrade, answer
        yield self._env.timeout(2 * self.delay_s)  # join
        yield self._env.timeout(self.delay_s)  # subscribe
        store = self._service.subscribers[self._stream][self._number] = simpy.Store(self._env)
        head = self._service.heads[self._stream]
        yield self._env.timeout(self.delay_s)  # the replay
        self._apply(range(self._watermark + 1, head + 1))
        while True:
            seq = yield store.get()
            yield self._env.timeout(self.delay_s)
            self._apply((seq,))  # type: ignore[arg-type]

    def _apply(self, seqs: "range | tuple[int]") -> None:
        rows: list[Row] = [("received", "", -1, 0, float(len(seqs)), "", -1)]
        for seq in seqs:
            if seq <= self._watermark:
                rows.append(("duplicate_dropped", self._name, seq, 0, NAN, "", -1))
            elif seq == self._watermark + 1:
                self._watermark = seq
                self.applied += 1
                rows.append(("applied", self._name, seq, 0, NAN, "0123456789ab", -1))
        rows.append(("checkpoint_written", self._name, self._watermark, 0, NAN, "", -1))
        if self._recorder is not None:
            self._recorder.extend(self._env.now, self._number, rows)


class CallbackClient(NaiveClient):
    """The same toy without a process: each step is a call at its moment. `life` counts connections."""

    life = disconnects = 0
    clock: VirtualClock

    def connect(self, life: int) -> None:
        """Seven delays until its subscribe is there, one more for the replay."""
        at = self._env.now + 7 * self.delay_s
        self.clock.call_at(at, self._subscribe, life)

    def _subscribe(self, life: int) -> None:
        if life == self.life:
            self._service.callbacks[self._stream][self._number] = self
            head = self._service.heads[self._stream]
            self.clock.call_at(self._env.now + self.delay_s, self._replayed, head, life)

    def _replayed(self, head: int, life: int) -> None:
        if life == self.life:
            self._apply(range(self._watermark + 1, head + 1))

    def sends(self, seq: int) -> None:
        """The service sends an event."""
        self.clock.call_at(self._env.now + self.delay_s, self._arrives, seq, self.life)

    def _arrives(self, seq: int, life: int) -> None:
        if life == self.life:
            self._apply((seq,))

    def cut(self) -> None:
        """Lose the connection, and come back after a backoff."""
        self._service.callbacks[self._stream].pop(self._number, None)
        self.life += 1
        self.disconnects += 1
        back_at = self._env.now + FIRST_STEP_S * draw(1, "backoff", self._number, self.disconnects)
        self.clock.call_at(back_at, self.connect, self.life)


def run_callbacks(drill: Drill, recorder: Recorder | None, cuts_s: list[float], ends_s: float) -> tuple[int, int]:
    """As `run`, driven by calls."""
    clock = VirtualClock(0.0)
    service = NaiveService(clock, drill.load.run_streams)
    model = SystemModel()
    clients = [CallbackClient(clock, service, n, recorder, one_way_delay_s(model, 1, n)) for n in range(drill.fleet.clients)]
    for number, client in enumerate(clients):
        client.clock = clock
        clock.call_at(number * drill.fleet.arrival_s / drill.fleet.clients + 2 * client.delay_s, client.connect, 0)
        for moment in cuts_s:
            clock.call_at(moment, client.cut)
    clock.process(service.publish(drill.load.events_per_s, ends_s))
    clock.run(until=ends_s)
    return sum(client.applied for client in clients), next(clock._eid)


def cut(env: simpy.Environment, processes: list[simpy.Process], moments: list[float]) -> Steps:
    """Interrupt all processes at each of these moments."""
    for moment in moments:
        yield env.timeout(moment - env.now)
        for process in processes:
            process.interrupt()


def run(drill: Drill, recorder: Recorder | None, cuts_s: list[float], ends_s: float) -> tuple[int, int]:
    """The drill's storm with these moments of cutting everyone; returns deliveries and SimPy's events."""
    env = simpy.Environment()
    service = NaiveService(env, drill.load.run_streams)
    env.process(service.publish(drill.load.events_per_s, ends_s))
    model = SystemModel()
    clients = [NaiveClient(env, service, n, recorder, one_way_delay_s(model, 1, n)) for n in range(drill.fleet.clients)]
    processes = [env.process(client.run(n * drill.fleet.arrival_s / drill.fleet.clients)) for n, client in enumerate(clients)]
    env.process(cut(env, processes, cuts_s))
    env.run(until=ends_s)
    return sum(client.applied for client in clients), next(env._eid)
