"""Patterns of cuts for the fault phase, which replace the drill's own `drop_sockets` faults.

Each pattern runs twice: only a second cut shows whether a client that was live again had reset its backoff.
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
    """Cut the whole share at once."""
    return [DropSockets(at_s=0.0, share=share)]


def _waves(half_s: float, share: float) -> list[DropSockets]:
    """Cut the share in four disjoint parts, one after the other."""
    return [DropSockets(at_s=n * half_s / _WAVES, share=share, wave=n + 1, waves=_WAVES) for n in range(_WAVES)]


def _sawtooth(half_s: float, share: float) -> list[DropSockets]:
    """Cut several times, each time more clients than before."""
    return [DropSockets(at_s=n * half_s / len(_TEETH), share=tooth * share) for n, tooth in enumerate(_TEETH)]


def _spike(half_s: float, share: float) -> list[DropSockets]:
    """Cut the share and keep it offline, so that all clients reconnect at one moment."""
    return [DropSockets(at_s=0.0, share=share, offline_s=min(_SPIKE_OFFLINE_S, half_s / 2))]


PATTERNS: dict[str, Callable[[float, float], list[DropSockets]]] = {
    "storm": _storm,
    "waves": _waves,
    "sawtooth": _sawtooth,
    "spike": _spike,
}
AS_THE_DRILL = "drill"


def with_pattern(drill: Drill, name: str, share: float) -> Drill:
    """Return the drill with its cuts in another pattern and its other faults unchanged. Raises `UsageError`."""
    if name == AS_THE_DRILL:
        return drill
    others = tuple(fault for fault in drill.faults if not isinstance(fault, DropSockets))
    if len(others) == len(drill.faults):
        raise UsageError(f"drill '{drill.name}' drops no sockets, so pattern '{name}' does not apply; use 'drill'.")
    half_s = drill.phases.fault_s / 2
    once = PATTERNS[name](half_s, share)
    again = [msgspec.structs.replace(cut, at_s=cut.at_s + half_s) for cut in once]
    changed = msgspec.structs.replace(drill, faults=(*others, *once, *again))
    drills.check(changed, f"drill '{drill.name}' in the pattern '{name}'")
    return changed
