"""The conditions of runs: what must be equal for a comparison to mean anything, and what a reader should know of.

The drill, the engine and its clock, the protocol, the kind of target, and for real time the machine must be equal. `--accept`
takes a difference as intended, such as the client policy that is to be compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from drills.comparison.records import Difference
from sim.base.errors import UsageError
from sim.drill.model import Drill
from sim.record.run_header import RunHeader

if TYPE_CHECKING:
    from drills.comparison.sides import Measured

DRILL = "drill"
_BLOCKING = ("engine", "clock", "protocol", "target kind")
_MACHINE = "machine"
NAMES = (
    *_BLOCKING,
    *("target", "target configuration", "mock's defects", "thresholds", _MACHINE, "stormgate", "libraries", "seeds"),
)
_MANY = 6  # seeds that are listed


def of_run(header: RunHeader) -> dict[str, str]:
    """The conditions that a run's header states."""
    versions = dict(header.versions)
    return {
        "engine": header.engine,
        "clock": header.clock,
        "protocol": header.protocol,
        "target kind": header.target_kind,
        "target": header.target,
        "mock's defects": ", ".join(header.defects) or "none",
        _MACHINE: header.machine,
        "stormgate": versions.pop("stormgate", ""),
        "libraries": ", ".join(f"{name} {number}" for name, number in sorted(versions.items())),
    }


def of_drill(drill: Drill) -> dict[str, str]:
    """The keys of a drill, as `fleet.clients`, with their values."""
    return dict(_flat(msgspec.to_builtins(drill)))


def _flat(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{above}.{key}" if above else str(key))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for number, each in enumerate(value, 1):
            yield from _flat(each, f"{above}.{number}")
    else:
        yield above, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def differences(one: Sequence["Measured"], other: Sequence["Measured"], accepted: Iterable[str] = ()) -> tuple[Difference, ...]:
    """The conditions in which two sides, or the runs of one side, differ; those that make a comparison meaningless first."""
    accepted = set(accepted)
    found = [*_of_drill(one, other, accepted), *_of_runs(one, other, accepted)]
    return tuple(sorted(found, key=lambda each: not each.blocks))


def _of_drill(one: Sequence["Measured"], other: Sequence["Measured"], accepted: set[str]) -> Iterator[Difference]:
    keys = dict.fromkeys(key for run in (*one, *other) for key in run.drill)
    for key in keys:
        was, now = (_values(run.drill.get(key, "-") for run in runs) for runs in (one, other))
        if was != now or len(was) > 1:
            blocks = not accepted & {DRILL, key, f"{DRILL}.{key}"}
            yield Difference(f"{DRILL}.{key}", ", ".join(was), ", ".join(now), blocks)


def _of_runs(one: Sequence["Measured"], other: Sequence["Measured"], accepted: set[str]) -> Iterator[Difference]:
    for name in NAMES:
        was, now = (_values(_of(run, name) for run in runs) for runs in (one, other))
        if was != now or (len(was) > 1 and name != "seeds"):
            is_real = name == _MACHINE and any(run.clock == "wall" for run in (*one, *other)) and "" not in (*was, *now)
            blocks = (name in _BLOCKING or is_real) and name not in accepted
            yield Difference(name, _shown(was), _shown(now), blocks)


def _of(run: "Measured", name: str) -> str:
    return str(run.seed) if name == "seeds" else run.conditions.get(name, "")


def _values(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _shown(values: Sequence[str]) -> str:
    short = [_short(value) for value in values[:_MANY]]
    return ", ".join([*short, *(["..."] if len(values) > _MANY else [])])


def _short(value: str) -> str:
    """A value for people: of a hash its first digits."""
    is_hash = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
    return value[:12] if is_hash else value or "unknown"


def require_known(accepted: Iterable[str], drills: Iterable[Mapping[str, str]]) -> None:
    """Raise `UsageError` for a name in `--accept` that is neither a condition nor a key of a compared drill."""
    keys = {key for drill in drills for key in drill}
    for name in accepted:
        if name not in (DRILL, *NAMES) and name.removeprefix(f"{DRILL}.") not in keys:
            raise UsageError(
                f"--accept {name}: there is no such condition; expected {DRILL}, a key of the drill such as fleet.policy, "
                f"or one of: {', '.join(NAMES)}."
            )
