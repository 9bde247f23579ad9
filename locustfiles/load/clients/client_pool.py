"""The clients of this process: all clients of a single-process run, or a worker's share of the fleet."""

import math
from collections.abc import Mapping, Sequence

from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.marks import Acknowledged
from sim.client.negative.registry import session_class
from sim.client.notices import Notice
from sim.client.session import Session
from sim.drill.fault_bases import Fault
from sim.drill.fault_kinds import DropSockets, ForgetTokens, RestartClients
from sim.drill.fault_lifecycle import Record
from sim.drill.model import Drill
from sim.engines.greenlets.client import Listener, WireClient
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import client_setup
from sim.engines.shared.fault_actions import ClientFaults
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.session_driver import NEVER
from sim.engines.shared.withholding import is_withheld
from sim.record.observations import NAN
from sim.record.parquet import Collector

_LAG_SAMPLES = 500  # clients whose lag is sampled each time; more would load the generator
CLIENT_FAULTS = (DropSockets, RestartClients, ForgetTokens)  # done to clients in their own process


class ClientPool:
    """Clients of one run by number. Numbers below the drill's `fleet.clients` are the fleet; `listener` gets their notices."""

    def __init__(
        self,
        drill: Drill,
        seed: int,
        marker_run: str,
        endpoints: GreenletHttp,
        topics: Sequence[str],
        clock: WallClock,
        recorder: Collector,
        listener: Listener,
        pacer: Pacer | None = None,
    ) -> None:
        self.clients: dict[int, WireClient] = {}
        self.faults = ClientFaults(self.clients, Record(recorder.add, clock.now, clock.began))
        self.began = NEVER  # when the first client of the fleet connects
        self._drill = drill
        self._endpoints = endpoints
        self._topics = topics
        self._clock = clock
        self._recorder = recorder
        self._listener = listener
        self._pacer = pacer
        self._settings = client_setup.target_settings(drill, seed, marker_run, endpoints.endpoints)
        self._next_sample = 0

    def topics_of(self, number: int) -> list[str]:
        """Return the topics that a fleet client or negative client subscribes to."""
        runs = self._drill.load.run_streams
        return client_setup.topics_of(number, self._topics[:runs], self._topics[runs:], self._drill.fleet.topics_per_client)

    def streams_of(self, number: int) -> list[str]:
        """Return the same as stream ids."""
        return [self._settings.stream_id(topic) for topic in self.topics_of(number)]

    def withholds(self, fault: Fault) -> bool:
        """Return whether the clients withhold a fault's deliveries themselves."""
        return is_withheld(fault, self._settings.capabilities, self._endpoints.endpoints)

    def add(self, number: int, probe: str | None = None) -> None:
        """Add a client that has not connected yet."""
        self._add(number, self.topics_of(number), probe)

    def add_auditor(self, number: int) -> None:
        """Add the auditor: a client without a cursor that reads every retained event of every stream."""
        self._add(number, self._topics, None)

    def _add(self, number: int, topics: Sequence[str], probe: str | None) -> None:
        is_fleet = number < self._drill.fleet.clients
        policy = policies.get(self._drill.fleet.policy if is_fleet else "reference")
        session = session_class(probe)(number, list(topics), policy, self._settings)
        listener = self._listener if is_fleet else _nobody  # only the fleet is reported live
        self.clients[number] = WireClient(session, self._endpoints, self._clock, self._recorder, listener, self._pacer)

    def live_on(self, number: int) -> None:
        """Run one client until the run ends. It connects at its own time, as in every engine."""
        fleet = self._drill.fleet
        self.clients[number].run(self.began + number * fleet.arrival_s / fleet.clients)

    def remove(self, number: int) -> None:
        """Disconnect one client for good; nothing is expected of it any more."""
        self.clients.pop(number).stop()

    def stop(self) -> None:
        """Disconnect all clients for good."""
        for client in self.clients.values():
            client.stop()

    # --- state --------------------------------------------------------------------------------------

    @property
    def _fleet(self) -> list[Session]:
        return [client.session for number, client in self.clients.items() if number < self._drill.fleet.clients]

    @property
    def live(self) -> int:
        """Number of live clients of the fleet."""
        return sum(session.is_live for session in self._fleet)

    @property
    def there(self) -> int:
        """Number of fleet clients that are live or renewing their token."""
        now = self._clock.now()
        return sum(client_setup.is_there(session, now) for session in self._fleet)

    def behind(self, heads: Mapping[str, Acknowledged]) -> int:
        """Return how many clients have not converged to these heads, all checked at one moment."""
        return sum(self.is_behind(number, heads) for number in self.clients)

    def is_behind(self, number: int, heads: Mapping[str, Acknowledged]) -> bool:
        """Return whether one client has not converged to these heads."""
        return bool(client_setup.behind(self.clients[number].session, heads, self._clock.now()))

    def conclude(self, heads: Mapping[str, Acknowledged]) -> None:
        """Record for each client that it has converged, or why not."""
        for number in self.clients:
            self.conclude_one(number, heads)

    def conclude_one(self, number: int, heads: Mapping[str, Acknowledged]) -> None:
        """Record the same for one client."""
        now, session = self._clock.now(), self.clients[number].session
        self._recorder.extend(now - self._clock.began, session.client, client_setup.conclusion(session, heads, now))

    def sample_lag(self, heads: Mapping[str, Acknowledged]) -> float:
        """Record the lag of some clients in events; returns the largest, NaN without any."""
        worst = NAN
        for session in self._some():
            if (lag := client_setup.lag_events(session, heads)) is not None:
                self._add_row("client_lag", session.client, value=lag)
                worst = lag if math.isnan(worst) else max(worst, lag)
        return worst

    def sample_positions(self) -> None:
        """Record the latest events of some clients; the master, which knows the heads, turns them into lags."""
        for session in self._some():
            cursors = session.replica.cursors.values()
            rows = [("client_lag", each.stream, -1, 0, NAN, "", each.marks.high) for each in cursors if each.marks.high]
            self._recorder.extend(self._clock.now() - self._clock.began, session.client, rows)

    def _some(self) -> list[Session]:
        fleet = self._fleet
        first, step = self._next_sample, min(len(fleet), _LAG_SAMPLES)
        self._next_sample = (first + step) % max(len(fleet), 1)
        return [fleet[number % len(fleet)] for number in range(first, first + step)]

    def _add_row(self, kind: str, client: int, value: float = NAN) -> None:
        self._recorder.add(self._clock.now() - self._clock.began, kind, client, value=value)


def _nobody(now: float, session: Session, notices: Sequence[Notice]) -> None:
    """Ignore the notices of a client outside the fleet."""
