"""One simulated storm from the first arrival to the last client settled, in memory alone."""

import itertools
import math
from collections.abc import Callable

import numpy as np

from sim.drill.fault_kinds import KillRuntime
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.fleet import faults
from sim.engines.fleet.faults import NOTICE_S, FleetFault
from sim.engines.fleet.kernel import entry, world
from sim.engines.fleet.publisher import FleetPublisher
from sim.engines.fleet.setup import make_world
from sim.engines.fleet.tally import tally_of
from sim.engines.shared import client_setup
from sim.engines.shared.publishing import GIVE_UP_S
from sim.record.tally import Tally

_POLL_S = 0.1
_SLICE_S = 0.5  # simulated time between looks at what watches
NAN = math.nan
Note = Callable[[float, str, int, float, str], None]  # t, kind, a fault's index (0: none), value, detail
Watch = Callable[[str, float, int], None]  # phase, seconds simulated, clients live


class Storm:
    """`world` is as it was left; `watch` may raise to end it before its time."""

    def __init__(
        self,
        drill: Drill,
        model: SystemModel,
        seed: int,
        note: Note = lambda *_: None,
        watch: Watch = lambda *_: None,
    ) -> None:
        self._drill = drill
        self._model = model
        self._note = note
        self._watch = watch
        self.faults = faults.plan(drill, seed)
        horizon_s = latest_end_s(drill, model)
        self._publisher = FleetPublisher(drill, model, horizon_s)
        self.world = make_world(drill, model, seed, horizon_s, len(self.faults))
        self._publisher.into(self.world)
        self.phase = ""
        self.unconverged = drill.fleet.clients
        self._done: list[tuple[str, float, float]] = []  # faults, in the order of the world's episodes
        self.observed: dict[int, int] = {}  # by fault, how often it was seen to act
        entry.arrive(self.world.service)
        self._farthest_s = float(self.world["clients"]["delay"].max())

    @property
    def now(self) -> float:
        """Seconds simulated."""
        return float(self.world.service["now"][0])

    def tally(self) -> Tally:
        """What was counted so far."""
        return tally_of(self.world, self._done, self.unconverged, self._publisher.events)

    # --- the course ---------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole course, as the virtual engine's."""
        phases = self._drill.phases
        self._begin_phase("steady")
        self._advance(self._drill.fleet.arrival_s + phases.steady_s)
        is_steady = self._reach_steady()
        self._begin_phase("fault")
        if is_steady:
            self._break(self.now)
        self._begin_phase("recovery")
        self._advance(self.now + phases.recovery_s)
        self._begin_phase("settle")
        self._finish_publishing()
        self._settle()
        self._begin_phase("end")

    def _begin_phase(self, name: str) -> None:
        self.phase = name
        self._note(self.now, "phase", 0, NAN, name)

    def _reach_steady(self) -> bool:
        """The check before anything is broken: everyone live, events acknowledged."""
        limit = self.now + self._drill.phases.steady_limit_s
        while (unready := self._unready_reason()) and self.now < limit:
            self._advance(self.now + _POLL_S)
        self._note(self.now, "steady", 0, 0.0 if unready else 1.0, unready or "all clients live")
        return not unready

    def _unready_reason(self) -> str:
        clients, live = self._drill.fleet.clients, self._there()
        if live < clients:
            return f"{live} of {clients} clients live"
        return "" if self.world.service["announced"][0] > 0 else "no event acknowledged"

    def _there(self) -> int:
        live = int(self.world.service["live"][0])
        is_renewing = live < self._drill.fleet.clients and self.world["reasons"][world.REFRESH_DUE] > 0
        return live if not is_renewing else int(entry.there(self.world.service, client_setup.RENEWAL_S))

    def _break(self, began: float) -> None:
        """All faults, each begun and taken back at its moment; of those that begin together all are known before one acts."""
        begins = [(began + each.begins_s, 1, each) for each in self.faults]
        ends = [(at + each.lasts_s(self._model), 0 if each.lasts_s(self._model) else 2, each) for at, _, each in begins]
        in_order = sorted((*begins, *ends), key=lambda moment: (*moment[:2], moment[2].index))
        for (at, order), together in itertools.groupby(in_order, key=lambda moment: moment[:2]):
            self._advance(at)
            those = [each for _, _, each in together]
            for each in those:
                self._announce(each) if order == 1 else self._end(each)
            for each in those if order == 1 else ():
                self._begin(each)
        self._advance(max(self.now, began + self._drill.phases.fault_s))

    def _announce(self, planned: FleetFault) -> None:
        """From now on, who is disconnected may be so by this fault."""
        service, place, now = self.world.service, len(self._done), self.now
        self._note(now, "fault_injected", planned.index, NAN, planned.kind)
        service["first_fault_t"] = np.minimum(service["first_fault_t"], now)
        ends = now + planned.lasts_s(self._model)
        self.world["episodes"][place] = now, ends + NOTICE_S
        self.world["tries"][place] -= self.world["clients"]["tries"].astype(np.int16)  # these were before
        service["begun"] = place + 1
        self._done.append((planned.kind, now, ends))

    def _begin(self, planned: FleetFault) -> None:
        self.observed[planned.index] = faults.begin(self.world, planned)
        if isinstance(planned.fault, KillRuntime):
            self._publisher.stall(self.now, self.now + planned.lasts_s(self._model))
            self._publisher.into(self.world)

    def _end(self, planned: FleetFault) -> None:
        self.observed[planned.index] += faults.end(self.world, planned)
        if observed := self.observed[planned.index]:
            self._note(self.now, "fault_observed", planned.index, float(observed), planned.kind)
        self._note(self.now, "fault_reverted", planned.index, NAN, planned.kind)

    def _finish_publishing(self) -> None:
        self._publisher.finish(self.now)
        self._publisher.into(self.world)
        limit = self.now + GIVE_UP_S
        while self._publisher.last_s > self.now and self.now < limit:
            self._advance(self.now + _POLL_S)

    def _settle(self) -> None:
        """Wait until everyone is there and has had time to get what was delivered last, or time is up."""
        limit = self.now + self._drill.phases.settle_s
        is_over = False
        while not is_over and self.now < limit:
            self._advance(self.now + _POLL_S)
            delivered = max(self._publisher.last_s, float(self.world.service["delivered_at"][0])) + self._farthest_s
            is_delivered = self.now >= delivered and not self.world["queued"].any()
            is_over = self._there() == self._drill.fleet.clients and is_delivered
        there = self._there()
        self.unconverged = self._drill.fleet.clients - there if is_over or there < self._drill.fleet.clients else there

    def _advance(self, until: float) -> None:
        while self.now < until:
            entry.advance(self.world.service, min(until, self.now + _SLICE_S))
            self._watch(self.phase, self.now, int(self.world.service["live"][0]))


def latest_end_s(drill: Drill, model: SystemModel) -> float:
    """When a run must have ended, in simulated seconds, whatever goes wrong in it."""
    phases = drill.phases
    limits = (phases.steady_s, phases.steady_limit_s, phases.fault_s, phases.recovery_s, GIVE_UP_S, phases.settle_s)
    starts = sum(isinstance(fault, KillRuntime) for fault in drill.faults)
    return drill.fleet.arrival_s + sum(limits) + starts * model.server.cold_start_s + 1.0
