"""What a course asks of the other processes of a run, and what the answer is where there are none."""

from collections.abc import Callable, Mapping

from locustfiles.load.workers.messages import ToWorker
from sim.drill.schedule import PlannedFault
from sim.record.observations import NAN

Send = Callable[[str, ToWorker], None]  # to which worker


def nobody_to_tell(worker: str, said: ToWorker) -> None:
    """Of a run in one process."""


class NoWorkers:
    """Of a run in one process."""

    lead_s = 0.0

    def gather(self, is_over: Callable[[], bool]) -> None:
        """Nobody is to come."""

    def start(self, at: float) -> None:
        """Nobody is told."""

    @property
    def live(self) -> int:
        """Nobody is."""
        return 0

    @property
    def there(self) -> int:
        """Nobody is."""
        return 0

    @property
    def lag_ms(self) -> float:
        """Nobody is late."""
        return 0.0

    def take_worst_lag(self) -> float:
        """Nobody lags."""
        return NAN

    def published(self, stream: str, seq: int, due: float) -> None:
        """Nobody needs to know."""

    def strike(self, planned: PlannedFault, at: float, until: float) -> int:
        """Nobody is concerned."""
        return 0

    def acted(self, order: int) -> int:
        """Nobody was concerned."""
        return 0

    def end_faults(self) -> None:
        """Nothing acts."""

    def revert(self) -> None:
        """Nothing acts."""

    def behind(self, heads: Mapping[str, int]) -> int:
        """Nobody is."""
        return 0

    def conclude(self, heads: Mapping[str, int]) -> None:
        """Nobody is asked."""

    def take_away(self) -> None:
        """Nobody asks anything."""

    def end(self) -> str:
        """Nothing is missing."""
        return ""

    def evidence(self) -> list[dict[str, object]]:
        """Nothing to say."""
        return []
