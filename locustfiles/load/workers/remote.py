"""What a run asks of its workers, and the answers of a run in a single process."""

from collections.abc import Callable, Mapping

from locustfiles.load.workers.messages import ToWorker
from sim.drill.schedule import PlannedFault
from sim.record.observations import NAN

Send = Callable[[str, ToWorker], None]  # to which worker


def no_workers_to_tell(worker: str, said: ToWorker) -> None:
    """Send nothing: a run in one process has no workers."""


class NoWorkers:
    """The workers of a run in one process: there are none."""

    lead_s = 0.0

    def gather(self, is_over: Callable[[], bool]) -> None:
        """Wait for the workers' users."""

    def start(self, at: float) -> None:
        """Let the workers' clients connect from `at` on."""

    @property
    def live(self) -> int:
        """Live clients on workers."""
        return 0

    @property
    def there(self) -> int:
        """Clients on workers that are live or renewing their token."""
        return 0

    @property
    def lag_ms(self) -> float:
        """Largest timer lateness of the workers, in ms."""
        return 0.0

    def take_worst_lag(self) -> float:
        """Return the largest client lag in events since the last call."""
        return NAN

    def published(self, stream: str, seq: int, due: float) -> None:
        """Tell the workers about an acknowledged event."""

    def strike(self, planned: PlannedFault, at: float, until: float) -> int:
        """Inject a client fault on all workers at `at`; returns the order's number."""
        return 0

    def acted(self, order: int) -> int:
        """Return on how many clients of workers it took effect."""
        return 0

    def end_faults(self) -> None:
        """End the workers' active faults now."""

    def revert(self) -> None:
        """Revert every fault on the workers."""

    def behind(self, heads: Mapping[str, int]) -> int:
        """Return how many of the workers' clients have not converged."""
        return 0

    def conclude(self, heads: Mapping[str, int]) -> None:
        """Record whether the workers' clients have converged."""

    def take_away(self) -> None:
        """Stop the workers' load."""

    def end(self) -> str:
        """End the workers; returns what is missing of their observations."""
        return ""

    def evidence(self) -> list[dict[str, object]]:
        """Return what `run.json` keeps about the workers."""
        return []
