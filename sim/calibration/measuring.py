"""Running the probes on a target, and what no model is made of: a target that is not well, or changes, or a late generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.base.errors import EvidenceError, StormgateError, TargetError
from sim.calibration import estimates, probes
from sim.calibration.probes import Sizes
from sim.drill.model import Drill
from sim.record import run_header
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import RunHeader

RunProbe = Callable[[Drill, Path, int], RunHeader]  # into a folder, under a seed
MAX_GENERATOR_LAG_MS = 50.0  # [ours] beyond, the probes measured the load generator
MAX_CHANGE = 1.0  # [ours] of a latency between the first and the last quiet probe: it doubled
_MIN_CHANGE_MS = 2.0  # [ours] a smaller difference is none, whatever its share


class ProbesCutShortError(StormgateError):
    """A probe did not reach its end."""


@dataclass(frozen=True)
class Measured:
    """What all probes left, by probe: one history a round."""

    quiet: tuple[History, ...]
    rounds: Mapping[str, tuple[History, ...]]


def metric(run: RunProbe, folder: Path, sizes: Sizes, seed: int, say: Callable[[str], None]) -> Measured:
    """Run all probes: a quiet one, the rounds, and a quiet one again.

    Raises `TargetError` for a target that was not well or that changed meanwhile, `EvidenceError` where the load generator was
    too late to measure anything, and `ProbesCutShortError`.
    """

    def one(drill: Drill, name: str, seed: int) -> History:
        say(name)
        return _probe(run, drill, folder / name, seed)

    before = one(probes.quiet(sizes), "quiet-1", seed)
    found: dict[str, list[History]] = {}
    for number in range(sizes.rounds):
        for drill in probes.one_round(sizes):
            name = drill.name.removeprefix("calibrate_")
            found.setdefault(name, []).append(one(drill, f"{name}-{number + 1}", seed + number))
    after = one(probes.quiet(sizes), "quiet-2", seed)
    require_unchanged(before, after)
    return Measured((before, after), {name: tuple(histories) for name, histories in found.items()})


def _probe(run: RunProbe, drill: Drill, folder: Path, seed: int) -> History:
    folder.mkdir(parents=True, exist_ok=True)
    header = run(drill, folder, seed)
    if not header.complete:
        raise ProbesCutShortError(f"the probe {folder.name} was cut short: {header.stopped_because}; nothing was fitted.")
    history = History(*run_header.read_verified(folder))
    if not estimates.is_well(history):
        raise TargetError(f"the target was not well during the probe {folder.name} (not everyone got live); mend it first.")
    if (late_ms := estimates.generator_lag_ms(history)) > MAX_GENERATOR_LAG_MS:
        raise EvidenceError(
            f"the load generator itself was {late_ms:.0f} ms late during the probe {folder.name}, so it measured this machine "
            "and not the target; calibrate when the machine is quieter."
        )
    return history


_QUIET: Mapping[str, Callable[[History], float]] = {
    "minting a token": lambda history: estimates.median_ms(history, Kind.TOKEN_MINTED),
    "a handshake": lambda history: estimates.median_ms(history, Kind.CONNECT_DONE),
    "publishing an event": estimates.publish_ms,
    "delivering an event": estimates.apply_ms,
}


def require_unchanged(before: History, after: History) -> None:
    """Raise `TargetError` if the target was another one at the end than at the beginning."""
    for what, of in _QUIET.items():
        one, other = of(before), of(after)
        if not abs(other - one) <= max(MAX_CHANGE * min(one, other), _MIN_CHANGE_MS):
            raise TargetError(
                f"the target changed while it was calibrated: {what} took {one:.3g} ms before and {other:.3g} ms after; "
                "nothing was fitted. Calibrate again when nothing else happens to it."
            )
