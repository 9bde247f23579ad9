"""A stranger's locustfile: our users in a shape of their own, which grows and shrinks."""

from collections import Counter
from typing import Any

from locust import LoadTestShape, events

from locustfiles.load.setup import use_drill
from locustfiles.load.users import SyncUser

use_drill("reconnect_storm", clients=30)


heard: Counter[str] = Counter()


@events.request.add_listener
def hear(name: str, exception: Exception | None, **_: Any) -> None:
    """Count what Locust tells everybody."""
    heard[f"{name}: {exception}"] += 1


@events.quit.add_listener
def say(**_: Any) -> None:
    """Print the counts."""
    print("heard", dict(heard))


class Client(SyncUser):
    """A client; nobody declares a publisher."""


class OwnShape(LoadTestShape):
    """Ten users, then sixteen, then twelve, then the end."""

    def tick(self) -> tuple[int, float] | None:
        """See `LoadTestShape`."""
        passed = self.get_run_time()
        return next(((users, 20.0) for until_s, users in ((4, 10), (8, 16), (11, 12)) if passed < until_s), None)
