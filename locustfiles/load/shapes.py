"""How many users there are when. A drill's shape is its course's; a climb asks for more until a gate goes red."""

from typing import Any

import gevent
from locust import LoadTestShape

from locustfiles.load.run.conductor import conductor_of


class DrillShape(LoadTestShape):
    """As many users as the run that goes on has clients, and its publisher; none when it is over."""

    abstract = True

    def reset_time(self) -> None:
        """Locust begins a test; a master says so once more when the first tick has asked for users."""
        super().reset_time()
        if self.runner is not None and gevent.getcurrent() is not self.runner.shape_greenlet:
            conductor_of(self.runner.environment).expect_run()

    def tick(self) -> Any:
        """See `LoadTestShape`."""
        assert self.runner is not None
        return conductor_of(self.runner.environment).tick()
