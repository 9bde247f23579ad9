"""In which pattern sockets are cut during the fault phase: other storms than the drill's own, made of its own faults.

Each pattern comes twice: only a second cut shows whether a client that was live again began its backoff anew.
"""

from collections.abc import Callable

import msgspec

from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.drill.fault_kinds import DropSockets
from sim.drill.model import Drill

# All numbers of patterns are [ours].
_WAVES = 4
_TEETH = (0.25, 0.5, 0.75, 1.0)
_SPIKE_OFFLINE_S = 2.0


def _storm(half_s: float, share: float) -> list[DropSockets]:
    """All at once."""
    return [DropSockets(at_s=0.0, share=share)]


def _waves(half_s: float, share: float) -> list[DropSockets]:
    """The share in four parts that have nobody in common, one after the other."""
    return [DropSockets(at_s=n * half_s / _WAVES, share=share, wave=n + 1, waves=_WAVES) for n in range(_WAVES)]


def _sawtooth(half_s: float, share: float) -> list[DropSockets]:
    """Each cut larger than the one before."""
    return [DropSockets(at_s=n * half_s / len(_TEETH), share=tooth * share) for n, tooth in enumerate(_TEETH)]


def _spike(half_s: float, share: float) -> list[DropSockets]:
    """Cut and kept away together, so that all come back at one moment."""
    return [DropSockets(at_s=0.0, share=share, offline_s=min(_SPIKE_OFFLINE_S, half_s / 2))]


PATTERNS: dict[str, Callable[[float, float], list[DropSockets]]] = {
    "storm": _storm,
    "waves": _waves,
    "sawtooth": _sawtooth,
    "spike": _spike,
}
AS_THE_DRILL = "drill"


def with_pattern(drill: Drill, name: str, share: float) -> Drill:
    """The drill with its cuts in another pattern, whatever else it does left as it is; raises `UsageError`."""
    if name == AS_THE_DRILL:
        return drill
    others = tuple(fault for fault in drill.faults if not isinstance(fault, DropSockets))
    if len(others) == len(drill.faults):
        raise UsageError(f"drill '{drill.name}' cuts no sockets, so they cannot be cut in the pattern '{name}'.")
    half_s = drill.phases.fault_s / 2
    once = PATTERNS[name](half_s, share)
    again = [msgspec.structs.replace(cut, at_s=cut.at_s + half_s) for cut in once]
    changed = msgspec.structs.replace(drill, faults=(*others, *once, *again))
    drills.check(changed, f"drill '{drill.name}' in the pattern '{name}'")
    return changed
