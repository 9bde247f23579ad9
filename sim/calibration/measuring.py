"""Run the calibration drills on a target, and refuse a target that is unready or changes, or a load generator that lags."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.base.errors import EvidenceError, StormgateError, TargetError
from sim.calibration import drills, estimates
from sim.calibration.drills import Sizes
from sim.drill.model import Drill
from sim.record import run_header
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import RunHeader

RunDrill = Callable[[Drill, Path, int], RunHeader]  # arguments: drill, folder, seed
MAX_GENERATOR_LAG_MS = 50.0  # [ours] above it, the drills would measure the load generator
MAX_CHANGE = 1.0  # [ours] of a latency between the first and the last quiet drill: 1.0 means that it doubled
_MIN_CHANGE_MS = 2.0  # [ours] smaller changes are ignored


class CalibrationCutShortError(StormgateError):
    """A calibration drill was cut short."""


@dataclass(frozen=True)
class Measured:
    """The histories of all calibration drills: one per round, by name of the drill."""

    quiet: tuple[History, ...]
    rounds: Mapping[str, tuple[History, ...]]


def measure(run: RunDrill, folder: Path, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Measured:
    """Run all calibration drills: the quiet one, the rounds, and the quiet one again.

    Raises `TargetError` for a target that was unready or changed, `EvidenceError` for a load generator that lagged, and
    `CalibrationCutShortError`.
    """

    def one(drill: Drill, name: str, seed: int) -> History:
        say(name)
        return _run(run, drill, folder / name, seed)

    before = one(drills.quiet(sizes), "quiet-1", seed)
    found: dict[str, list[History]] = {}
    for number in range(sizes.rounds):
        for drill in drills.one_round(sizes):
            name = drill.name.removeprefix("calibrate_")
            found.setdefault(name, []).append(one(drill, f"{name}-{number + 1}", seed + number))
    after = one(drills.quiet(sizes), "quiet-2", seed)
    require_unchanged(before, after)
    return Measured((before, after), {name: tuple(histories) for name, histories in found.items()})


def _run(run: RunDrill, drill: Drill, folder: Path, seed: int) -> History:
    folder.mkdir(parents=True, exist_ok=True)
    header = run(drill, folder, seed)
    if not header.complete:
        why = header.stopped_because
        raise CalibrationCutShortError(f"the calibration drill {folder.name} was cut short: {why}. Nothing was fitted.")
    history = History(*run_header.read_verified(folder))
    if not estimates.is_ready(history):
        raise TargetError(f"calibration drill {folder.name}: the steady state did not hold (not all clients were live).")
    if (late_ms := estimates.generator_lag_ms(history)) > MAX_GENERATOR_LAG_MS:
        raise EvidenceError(
            f"calibration drill {folder.name}: the load generator lagged by {late_ms:.0f} ms, so it measured this machine, not "
            "the target. Calibrate when the machine has less load."
        )
    return history


_QUIET: Mapping[str, Callable[[History], float]] = {
    "minting a token": lambda history: estimates.median_ms(history, Kind.TOKEN_MINTED),
    "a handshake": lambda history: estimates.median_ms(history, Kind.CONNECT_DONE),
    "publishing an event": estimates.publish_ms,
    "delivering an event": estimates.apply_ms,
}


def require_unchanged(before: History, after: History) -> None:
    """Raise `TargetError` if the target's latencies changed between the quiet drills."""
    for what, of in _QUIET.items():
        one, other = of(before), of(after)
        if not abs(other - one) <= max(MAX_CHANGE * min(one, other), _MIN_CHANGE_MS):
            raise TargetError(
                f"the target changed during the calibration: {what} took {one:.3g} ms before and {other:.3g} ms after. "
                "Nothing was fitted. Calibrate again when the target has no other load."
            )
