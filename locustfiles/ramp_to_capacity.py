"""Run storms with more and more clients until a gate fails: how many clients can the service take?"""

from locustfiles.load.setup import use_drill
from locustfiles.load.users import DrillShape, PublisherUser, SyncUser

use_drill("reconnect_storm", ramps=True, clients=100, steady_s=3.0)


class Client(SyncUser):
    """One client of the sync service: connects, subscribes, keeps its cursor, reconnects."""


class Publisher(PublisherUser):
    """Publishes the drill's events over HTTP."""


class Shape(DrillShape):
    """One run after another, each with more clients."""
