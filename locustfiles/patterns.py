"""In which pattern sockets are cut during the fault phase: other storms than the drill's own, made of its own faults."""

from collections.abc import Callable

import msgspec

from sim import drill as drills
from sim.drill import Drill
from sim.errors import UsageError
from sim.fault_kinds import AnyFault, DropSockets

# All numbers of patterns are [ours].
_WAVES = 4
_TEETH = (0.25, 0.5, 0.75, 1.0)
_SPIKE_OFFLINE_S = 2.0


def _storm(fault_s: float, share: float) -> list[AnyFault]:
    """All at once, once."""
    return [DropSockets(at_s=0.0, share=share)]


def _waves(fault_s: float, share: float) -> list[AnyFault]:
    """The share in four parts that have nobody in common, one after the other."""
    return [DropSockets(at_s=n * fault_s / _WAVES, share=share, wave=n + 1, waves=_WAVES) for n in range(_WAVES)]


def _sawtooth(fault_s: float, share: float) -> list[AnyFault]:
    """Each cut larger than the one before, and twice over."""
    sizes = [tooth * share for tooth in (*_TEETH, *_TEETH)]
    return [DropSockets(at_s=n * fault_s / len(sizes), share=size) for n, size in enumerate(sizes)]


def _spike(fault_s: float, share: float) -> list[AnyFault]:
    """Cut and kept away together, so that all come back at one moment."""
    return [DropSockets(at_s=0.0, share=share, offline_s=min(_SPIKE_OFFLINE_S, fault_s / 2))]


PATTERNS: dict[str, Callable[[float, float], list[AnyFault]]] = {
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
    cuts = tuple(PATTERNS[name](drill.phases.fault_s, share))
    changed = msgspec.structs.replace(drill, faults=(*others, *cuts))
    drills.check(changed, f"drill '{drill.name}' in the pattern '{name}'")
    return changed
