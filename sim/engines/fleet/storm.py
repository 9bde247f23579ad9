"""One simulated storm, from the first arrival until the last client has settled, in memory only."""

from collections.abc import Callable, Sequence

import numpy as np

from sim.drill.fault_kinds import KillRuntime
from sim.drill.fault_lifecycle import Done, Record
from sim.drill.fault_schedule import PlannedFault, Timing
from sim.drill.model import Drill
from sim.drill.phase_runner import PhaseRunner, latest_end_s
from sim.drill.system_model import SystemModel
from sim.engines.fleet import faults
from sim.engines.fleet.driver import KernelDriver
from sim.engines.fleet.faults import NOTICE_S, FleetFault
from sim.engines.fleet.kernel import entry, world
from sim.engines.fleet.publisher import FleetPublisher
from sim.engines.fleet.setup import make_world
from sim.engines.fleet.tally import loads_of, tally_of
from sim.engines.shared import client_setup
from sim.record.stations import StationLoad
from sim.record.tally import Tally

Monitor = Callable[[str, float, int], None]  # phase, simulated seconds, live clients


class Storm:
    """The compiled kernel as the phase runner's world, and its driver. `world` keeps the state of the last step."""

    def __init__(
        self,
        drill: Drill,
        model: SystemModel,
        seed: int,
        add: Callable[..., None] = lambda *_, **__: None,
        monitor: Monitor = lambda *_: None,
    ) -> None:
        self._clients = drill.fleet.clients
        self._model = model
        self.record = Record(add, self.now, 0.0)
        self._monitor = monitor
        self.faults = faults.plan(drill, seed)
        horizon_s = latest_end_s(drill, model)
        self._publisher = FleetPublisher(drill, model, horizon_s)
        self.world = make_world(drill, model, seed, horizon_s, len(self.faults))
        self._publisher.into(self.world)
        self.unconverged = self._clients
        self._is_settled = False
        self.driver = KernelDriver(self.now, self._advance)
        self.actions = FleetFaultActions(self.world, self._publisher, model.server.cold_start_s)
        self._phases = PhaseRunner(drill, self.faults, self)
        self._farthest_s = float(self.world["clients"]["delay"].max())

    @property
    def phase(self) -> str:
        """The current phase."""
        return self._phases.phase

    def now(self) -> float:
        """Return the simulated time, in seconds."""
        return float(self.world.service["now"][0])

    def tally(self) -> Tally:
        """Return the tally so far."""
        return tally_of(self.world, self.actions.begun, self.unconverged, self._publisher.events)

    def loads(self) -> list[StationLoad]:
        """Return the load of each station so far."""
        found = loads_of(self.world, self._model)
        return [*found, self._publisher.load(float(self.world.service["level_s"][0]), self.now(), found[0].since_s)]

    def run(self) -> None:
        """Run all phases."""
        self.driver.drive(self._phases.run())

    def _advance(self, until: float) -> None:
        entry.advance(self.world.service, until)
        self._monitor(self.phase, self.now(), int(self.world.service["live"][0]))

    # --- `World` of the phase runner ----------------------------------------------------------------

    def entered(self, phase: str) -> None:
        """See `World`."""

    def start(self) -> None:
        """See `World`."""
        entry.arrive(self.world.service)

    def unready_reason(self) -> str:
        """See `World`."""
        is_publishing = bool(self.world.service["announced"][0] > 0)
        return client_setup.unready_reason(self._there(), self._clients, is_publishing=is_publishing)

    def _there(self) -> int:
        live = int(self.world.service["live"][0])
        is_renewing = live < self._clients and self.world["reasons"][world.REFRESH_DUE] > 0
        return live if not is_renewing else int(entry.there(self.world.service, client_setup.RENEWAL_S))

    def end_load(self) -> None:
        """See `World`."""

    def finish_publishing(self) -> None:
        """See `World`."""
        self._publisher.finish(self.now())
        self._publisher.into(self.world)

    def is_publishing(self) -> bool:
        """See `World`."""
        return self._publisher.last_s > self.now()

    def abandon_publishing(self) -> None:
        """See `World`."""

    def add_auditor(self) -> None:
        """See `World`. There are no events to read."""

    def is_settled(self) -> bool:
        """See `World`. All clients are there, and have had time to receive the last delivery."""
        delivered = max(self._publisher.last_s, float(self.world.service["delivered_at"][0])) + self._farthest_s
        is_delivered = self.now() >= delivered and not self.world["queued"].any()
        self._is_settled = self._there() == self._clients and is_delivered
        return self._is_settled

    def is_audited(self) -> bool:
        """See `World`. There is no auditor."""
        return True

    def conclude_audit(self) -> None:
        """See `World`."""

    def conclude(self) -> None:
        """See `World`."""
        there = self._there()
        self.unconverged = self._clients - there if self._is_settled or there < self._clients else there


class FleetFaultActions:
    """The injection of faults into the kernel's arrays. `begun` has each fault's kind, start and end."""

    def __init__(self, world: world.World, publisher: FleetPublisher, cold_start_s: float) -> None:
        self._world = world
        self._publisher = publisher
        self._cold_start_s = cold_start_s
        self.begun: list[tuple[str, float, float]] = []
        self.observed: dict[int, float] = {}  # by fault, how often it took effect

    def timing(self, planned: PlannedFault) -> Timing:
        """See `FaultActions`. A killed runtime is up after its cold start, which the schedule does not include."""
        if isinstance(planned.fault, KillRuntime):
            return Timing(planned.fault.down_s + self._cold_start_s)
        return planned.timing

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        """See `FaultActions`. From now on, these faults may be the cause of a disconnect."""
        service = self._world.service
        service["first_fault_t"] = np.minimum(service["first_fault_t"], now)
        for each in planned:
            place, ends = len(self.begun), now + (self.timing(each).lasts_s or 0.0)
            self._world["episodes"][place] = now, ends + NOTICE_S
            self._world["tries"][place] -= self._world["clients"]["tries"].astype(np.int16)  # do not count earlier attempts
            service["begun"] = place + 1
            self.begun.append((each.kind, now, ends))
        return now

    def inject(self, planned: PlannedFault) -> Done:
        """See `FaultActions`."""
        assert isinstance(planned, FleetFault)
        observed = faults.begin(self._world, planned)
        if isinstance(planned.fault, KillRuntime):
            now = float(self._world.service["now"][0])
            self._publisher.stall(now, now + (self.timing(planned).lasts_s or 0.0))
            self._publisher.into(self._world)
        return self._observe(planned, observed)

    def revert(self, planned: PlannedFault) -> Done:
        """See `FaultActions`."""
        return self._observe(planned, faults.end(self._world, planned))

    def _observe(self, planned: PlannedFault, count: int) -> Done:
        self.observed[planned.index] = self.observed.get(planned.index, 0) + count
        return Done(count)

    def end_early(self) -> None:
        """See `FaultActions`."""

    def revert_all(self) -> Done:
        """See `FaultActions`."""
        return Done()
