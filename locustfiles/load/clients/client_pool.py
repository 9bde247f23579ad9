"""The clients that live in this process: all of a run that has only one, a part of the fleet in a worker."""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.negative.registry import session_class
from sim.client.notices import Notice
from sim.client.session import ClientSession
from sim.drill.fault_kinds import DropSockets, ForgetTokens, RestartClients
from sim.drill.model import Drill
from sim.drill.schedule import PlannedFault
from sim.engines.greenlets.client import Listener, WireClient
from sim.engines.greenlets.service import ServiceRequests
from sim.engines.shared import client_setup
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.session_driver import NEVER
from sim.protocols.spacetime.streams import stream_id
from sim.record.observations import NAN
from sim.record.parquet import Collector
from sim.server.settings import RuntimeSettings

_LAG_SAMPLES = 500  # clients whose lag is sampled each time; more would be load of its own
CLIENT_FAULTS = (DropSockets, RestartClients, ForgetTokens)  # what is done to clients where they are


class ClientPool:
    """Clients of one run, by number; those up to the drill's number of clients are of the fleet, and `listener` hears them."""

    def __init__(
        self,
        drill: Drill,
        seed: int,
        endpoints: ServiceRequests,
        topics: Sequence[str],
        clock: WallClock,
        recorder: Collector,
        listener: Listener,
        pacer: Pacer | None = None,
    ) -> None:
        self.clients: dict[int, WireClient] = {}
        self.began = NEVER  # when the first client of the fleet is to arrive
        self._drill = drill
        self._endpoints = endpoints
        self._topics = topics
        self._clock = clock
        self._recorder = recorder
        self._listener = listener
        self._pacer = pacer
        # What the drill says of the runtime is for our own; any other is met with the lane's defaults.
        met = drill if endpoints.endpoints.is_mock else msgspec.structs.replace(drill, runtime=RuntimeSettings())
        self._settings = client_setup.client_settings(met, seed)
        self._next_sample = 0

    def topics_of(self, number: int) -> list[str]:
        """What a client of the fleet, or a probe, reads."""
        runs = self._drill.load.run_streams
        return client_setup.topics_of(number, self._topics[:runs], self._topics[runs:], self._drill.fleet.topics_per_client)

    def streams_of(self, number: int) -> list[str]:
        """The same as stream ids."""
        return [stream_id(topic) for topic in self.topics_of(number)]

    def add(self, number: int, probe: str | None = None) -> None:
        """One more client, who has not arrived yet."""
        self._add(number, self.topics_of(number), probe)

    def add_auditor(self, number: int) -> None:
        """A client without a past, who reads everything that is retained: does the log hold what was acknowledged?"""
        self._add(number, self._topics, None)

    def _add(self, number: int, topics: Sequence[str], probe: str | None) -> None:
        is_fleet = number < self._drill.fleet.clients
        policy = policies.get(self._drill.fleet.policy if is_fleet else "reference")
        session = session_class(probe)(number, list(topics), policy, self._settings)
        listener = self._listener if is_fleet else _nobody  # what is watched is the fleet
        self.clients[number] = WireClient(session, self._endpoints, self._clock, self._recorder, listener, self._pacer)

    def live_on(self, number: int) -> None:
        """One client's whole life; it arrives at its own moment, as in every engine."""
        fleet = self._drill.fleet
        self.clients[number].run(self.began + number * fleet.arrival_s / fleet.clients)

    def stop(self) -> None:
        """Everyone goes for good."""
        for client in self.clients.values():
            client.stop()

    # --- what is broken -----------------------------------------------------------------------------

    def strike(self, planned: PlannedFault) -> list[int]:
        """Break something for those whom a fault concerns; returns on whom it acted."""
        mine = [number for number in planned.clients if number in self.clients]
        match planned.fault:
            case DropSockets(offline_s=offline_s):
                return [number for number in mine if self.clients[number].cut(offline_s)]
            case RestartClients() as fault:
                return [number for number in mine if self.clients[number].die(fault)]
            case _:
                for number in mine:
                    client_setup.forget_token(self.clients[number].session)
                    self._add_row("token_forgotten", number)
                return mine

    def revert(self, struck: Iterable[int]) -> None:
        """The fault is over for them."""
        for number in struck:
            self.clients[number].revive()

    def revert_all(self) -> None:
        """Nothing acts on anyone any more."""
        for client in self.clients.values():
            client.come_online()

    # --- how they are -------------------------------------------------------------------------------

    @property
    def _fleet(self) -> list[ClientSession]:
        return [client.session for number, client in self.clients.items() if number < self._drill.fleet.clients]

    @property
    def live(self) -> int:
        """How many of the fleet are live."""
        return sum(session.is_live for session in self._fleet)

    @property
    def there(self) -> int:
        """How many of the fleet are live, or renewing their tokens."""
        now = self._clock.now()
        return sum(client_setup.is_there(session, now) for session in self._fleet)

    def behind(self, heads: Mapping[str, int]) -> int:
        """How many have not come to rest at these heads. All at one moment: who had may be renewing its token by now."""
        now = self._clock.now()
        return sum(bool(client_setup.behind(client.session, heads, now)) for client in self.clients.values())

    def conclude(self, heads: Mapping[str, int]) -> None:
        """Record who has converged, and who has not, with the reason."""
        for client in self.clients.values():
            now, session = self._clock.now(), client.session
            self._recorder.extend(now - self._clock.began, session.client, client_setup.conclusion(session, heads, now))

    def sample_lag(self, heads: Mapping[str, int]) -> float:
        """Record how far clients are from the heads, in events, some each time; returns the worst, NaN for nobody."""
        worst = NAN
        for session in self._some():
            if (lag := client_setup.lag_events(session, heads)) is not None:
                self._add_row("client_lag", session.client, value=lag)
                worst = lag if math.isnan(worst) else max(worst, lag)
        return worst

    def sample_positions(self) -> None:
        """Record where clients are, some each time, for whoever knows the heads to say how far that is from them."""
        for session in self._some():
            cursors = session.replica.cursors.values()
            rows = [("client_lag", each.stream, each.watermark, 0, NAN, "") for each in cursors if each.watermark is not None]
            self._recorder.extend(self._clock.now() - self._clock.began, session.client, rows)

    def _some(self) -> list[ClientSession]:
        fleet = self._fleet
        first, step = self._next_sample, min(len(fleet), _LAG_SAMPLES)
        self._next_sample = (first + step) % max(len(fleet), 1)
        return [fleet[number % len(fleet)] for number in range(first, first + step)]

    def _add_row(self, kind: str, client: int, value: float = NAN) -> None:
        self._recorder.add(self._clock.now() - self._clock.began, kind, client, value=value)


def _nobody(now: float, session: ClientSession, notices: Sequence[Notice]) -> None:
    """Hears nothing."""
