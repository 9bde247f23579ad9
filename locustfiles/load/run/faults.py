"""Carrying out a drill's fault plan by greenlets: what our own clients do, and what the mock's switches do.

The rest (network faults, killed runtimes, revoked sessions, rotated keys, clocks) is refused by name: `stormgate drill run`
does it.
"""

import time
from collections.abc import Sequence

import msgspec
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from locustfiles.load.clients.client_pool import CLIENT_FAULTS, ClientPool
from locustfiles.load.workers.workers import Workers
from sim.base.clocks import WallClock
from sim.base.errors import UsageError
from sim.drill.fault_kinds import ExpireTokens, Fault, RollingDeploy, ShrinkWindow, SwitchFault
from sim.drill.model import Drill
from sim.drill.schedule import PlannedFault, switches_during
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import service_api
from sim.record.observations import NAN
from sim.record.parquet import Recorder
from sim.server.settings import Switches

POSSIBLE: tuple[type[Fault], ...] = (*CLIENT_FAULTS, ExpireTokens, RollingDeploy, ShrinkWindow, SwitchFault)


def require_possible(drill: Drill) -> None:
    """Raise `UsageError` for a drill with anything that is not done here."""
    wanted = [fault.kind for fault in drill.faults if not isinstance(fault, POSSIBLE)]
    wanted += ["retired routes"] if drill.expect.retired_routes else []
    wanted += ["surfaces to compare"] if drill.variants else []
    wanted += ["a fixed number of events"] if drill.load.events else []
    if "sockets" not in drill.engines:
        raise UsageError(f"drill '{drill.name}' is not for real sockets; its key 'engines' has: {', '.join(drill.engines)}.")
    if wanted:
        raise UsageError(
            f"drill '{drill.name}' has {', '.join(dict.fromkeys(wanted))}, which load tests do not do; "
            f"use `stormgate drill run {drill.name}`."
        )


class Storms:
    """All faults of one run: what is done to clients in this process and in others, and what the runtime does."""

    def __init__(
        self,
        endpoints: GreenletHttp,
        healthy: Switches,
        client_pool: ClientPool,
        others: Workers,
        topics: tuple[Sequence[str], Sequence[str]],
        clock: WallClock,
        recorder: Recorder,
    ) -> None:
        self._endpoints = endpoints
        self._healthy = healthy
        self._client_pool = client_pool
        self._others = others
        self._run_topics, self._other_topics = topics
        self._clock = clock
        self._recorder = recorder
        self._active: dict[int, PlannedFault] = {}
        self._switched = False
        self._switching = BoundedSemaphore()  # two requests under way at once could arrive in the other order
        self._is_over = Event()

    def run(self, planned: PlannedFault) -> None:
        """Carry out one fault now, for as long as it is to last, or until `end`."""
        at = self._clock.now() + self._others.lead_s
        until = at + planned.ends_s - planned.begins_s
        is_clients = isinstance(planned.fault, CLIENT_FAULTS)
        order = self._others.inject(planned, at, until) if is_clients else 0
        self._sleep_until(at)
        self._note("fault_injected", planned, t=at - self._clock.began)
        self._active[planned.index] = planned
        observed = self._strike(planned, until) + self._others.affected(order) if is_clients else self._act(planned, until)
        self._active.pop(planned.index, None)
        if observed:
            self._note("fault_observed", planned, observed)
        self._note("fault_reverted", planned)

    def _strike(self, planned: PlannedFault, ends: float) -> int:
        """What is done to clients where they are; returns on how many it acted."""
        struck = self._client_pool.inject(planned)
        self._sleep_until(ends)
        self._client_pool.revert(struck)
        return len(struck)

    def _act(self, planned: PlannedFault, ends: float) -> int:
        """Break what is the runtime's, keep it broken, mend it; returns how often it was seen to act."""
        match planned.fault:
            case SwitchFault():
                return self._switch(planned, ends)
            case RollingDeploy():
                return self._endpoints.ask(service_api.hang_up, planned.clients)
            case ShrinkWindow() as fault:
                topics = [*self._run_topics[: fault.streams], *(self._other_topics if fault.worker_events else [])]
                return sum(self._endpoints.ask(service_api.shrink_window, topic, fault.keep_events) for topic in topics)
            case ExpireTokens():
                return self._set_switches(tokens_void_before=time.time())
            case _:
                raise UsageError(f"load tests do not do {planned.kind}.")

    def _switch(self, planned: PlannedFault, ends: float) -> int:
        """A fault that is a switch of the mock: on, and at its end off again."""
        before = self._acted(planned)
        self._set_switches()
        self._sleep_until(ends)
        self._set_switches(without=planned)
        return self._acted(planned) - before  # once it is off, so that every time it acted is counted

    def _acted(self, planned: PlannedFault) -> int:
        """How often the mock says that it acted, since it was started."""
        return int(self._endpoints.ask(service_api.mock_state)["acted"].get(planned.kind, 0))

    def _set_switches(self, without: PlannedFault | None = None, **for_good: float) -> int:
        """Put in force what acts now, and what stays; returns how many sockets were told to authenticate again."""
        with self._switching:
            self._switched = True
            self._healthy = msgspec.structs.replace(self._healthy, **for_good)
            active = [planned.fault for planned in self._active.values() if planned is not without]
            return self._endpoints.ask(service_api.set_switches, switches_during(self._healthy, active))

    def end(self) -> None:
        """Faults that act end now, each in good order."""
        self._others.end_faults()
        self._is_over.set()

    def revert(self) -> None:
        """Take back whatever still acts, after all faults or in the middle of them."""
        self._client_pool.revert_all()
        self._others.revert()
        left = list(self._active.values())
        self._active.clear()
        if self._switched:
            self._set_switches()
        for planned in left:
            self._note("fault_reverted", planned)

    def _sleep_until(self, moment: float) -> None:
        while (wait_s := moment - self._clock.now()) > 0 and not self._is_over.wait(wait_s):
            pass

    def _note(self, kind: str, planned: PlannedFault, value: float = NAN, t: float | None = None) -> None:
        t = self._clock.now() - self._clock.began if t is None else t
        self._recorder.add(t, kind, attempt=planned.index, value=value, detail=planned.kind)
