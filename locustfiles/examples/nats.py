"""Cut every connection to NATS at once, twice: do all clients come back soon, spread out, and without losing a message?

stormgate target up nats --targets targets.toml                    # or describe your own in that file
locust -f locustfiles/examples/nats.py --headless --targets targets.toml
"""

from locustfiles.load.setup import use_drill
from locustfiles.load.users import DrillShape, PublisherUser, SyncUser

use_drill("reconnect_storm", target="nats", clients=40)


class Client(SyncUser):
    """One client: connects, subscribes, keeps its position, reconnects."""


class Publisher(PublisherUser):
    """Publishes the drill's events."""


class Shape(DrillShape):
    """As many users as the drill has clients, for as long as the drill lasts."""
