"""The mock's serving revision and its defects, stored in the log's file, so that they survive a restart."""

import time

import msgspec

from sim.mock.store import Store
from sim.server import deployment as rules
from sim.server.admission import ServiceLimits
from sim.server.deployment import Deployment, Traffic
from sim.server.settings import Switches

_NOTE = "traffic"


class _Kept(msgspec.Struct, frozen=True):
    """The stored traffic. A mock with another deployment ignores it."""

    deployment: Deployment
    traffic: Traffic


class Rollout:
    """The deployment of a mock, and its settings while it runs."""

    def __init__(self, deployment: Deployment, switches: Switches, store: Store) -> None:
        self.deployment = deployment
        self.chosen = switches  # from the start options, or set by a drill
        self._store = store
        self.traffic = self._kept() or rules.first_traffic(deployment)
        self.limits = ServiceLimits(self.traffic.throttle, time.time())

    def _kept(self) -> Traffic | None:
        note = self._store.note(_NOTE)
        try:
            kept = msgspec.json.decode(note, type=_Kept) if note else None
        except msgspec.DecodeError:  # written by another version of stormgate
            return None
        return kept.traffic if kept and kept.deployment == self.deployment else None

    @property
    def switches(self) -> Switches:
        """The active switches: the chosen ones and the defects of the serving revision."""
        return rules.switches_in_force(self.deployment, self.traffic, self.chosen)

    def change(self, traffic: Traffic) -> None:
        """Apply and store this traffic; raise `StorageError` if it cannot be stored."""
        self._store.keep_note(_NOTE, msgspec.json.encode(_Kept(self.deployment, traffic)))
        if traffic.throttle != self.traffic.throttle:
            self.limits = ServiceLimits(traffic.throttle, time.time())
        self.traffic = traffic
