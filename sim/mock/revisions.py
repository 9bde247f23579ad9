"""Which of the mock's revisions serves, and with what wrong: kept in its log's file, so that a restart changes nothing."""

import time

import msgspec

from sim.mock.store import Store
from sim.server import deployment as rules
from sim.server.admission import ServiceLimits
from sim.server.deployment import Deployment, Traffic
from sim.server.settings import Switches

_NOTE = "traffic"


class _Kept(msgspec.Struct, frozen=True):
    """What is in the file; of another deployment, it says nothing about this one."""

    deployment: Deployment
    traffic: Traffic


class Rollout:
    """The deployment of one mock, and what is set of it while it runs."""

    def __init__(self, deployment: Deployment, switches: Switches, store: Store) -> None:
        self.deployment = deployment
        self.chosen = switches  # by whoever started it, or by drills
        self._store = store
        self.traffic = self._kept() or rules.first_traffic(deployment)
        self.limits = ServiceLimits(self.traffic.throttle, time.time())

    def _kept(self) -> Traffic | None:
        note = self._store.note(_NOTE)
        try:
            kept = msgspec.json.decode(note, type=_Kept) if note else None
        except msgspec.DecodeError:  # of another version of stormgate
            return None
        return kept.traffic if kept and kept.deployment == self.deployment else None

    @property
    def switches(self) -> Switches:
        """Those in force: the chosen ones, and the defects of the revision that serves."""
        return rules.switches_in_force(self.deployment, self.traffic, self.chosen)

    def change(self, traffic: Traffic) -> None:
        """Put it in force, durably; raises `StorageError`."""
        self._store.keep_note(_NOTE, msgspec.json.encode(_Kept(self.deployment, traffic)))
        if traffic.throttle != self.traffic.throttle:
            self.limits = ServiceLimits(traffic.throttle, time.time())
        self.traffic = traffic
