"""Whether a target's caps, stop conditions and hooks let the drills of a stage run and be decided."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from drills.judging.checks.registry import OF_RUNS
from drills.judging.gates import PACED_SHARE
from drills.rollout.check.findings import Finding, fails, note, ok
from drills.runs import checking
from drills.runs.request import Request
from sim.base.errors import UsageError
from sim.drill import target_limits
from sim.drill.model import Drill
from sim.drill.target_rules import Caps
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints

_SHOWN = 4  # drills that a sentence names
_DRILLS = "[stages.0.drills]"
Needs = Callable[[Drill], float]


def of(drills: Mapping[str, Drill], endpoints: Endpoints, thresholds: Path, file: str) -> Iterator[Finding]:
    """Check all drills of a stage against a target. `file` is the targets file, as text."""
    where = f"{file}: [targets.{endpoints.name}]"
    refused = dict(_refused(drills.values(), endpoints, thresholds))
    hooks = {name: permission.missing_hooks(drills[name], endpoints) for name in refused}
    yield from _unhooked({name: kinds for name, kinds in hooks.items() if kinds}, where)
    yield from _grouped({name: reason for name, reason in refused.items() if not hooks[name]})
    able = [drill for name, drill in drills.items() if name not in refused]
    yield ok("drills", f"{len(able)} of {len(drills)} drills can run on {endpoints.name}")
    if endpoints.rules.caps is not None:
        yield from _capped(able, endpoints, endpoints.rules.caps, where)
    for drill in able:
        for sentence in target_limits.stops(drill, endpoints.rules):
            key = sentence.split()[0]
            yield fails("stop", f"{sentence}, so the run ends early", f"{where} remove '{key}', or set a higher limit")


def _refused(drills: Iterable[Drill], endpoints: Endpoints, thresholds: Path) -> Iterator[tuple[str, str]]:
    """The drills that the target cannot run whatever its caps are, each with the reason."""
    unlimited = replace(endpoints, rules=msgspec.structs.replace(endpoints.rules, caps=None))
    for drill in drills:
        try:
            not_run = checking.check(Request.of_target(drill, unlimited, thresholds, Path())).not_run
        except UsageError as error:
            not_run = {drill.name: str(error)}
        yield from not_run.items()


def _unhooked(hooks: Mapping[str, Sequence[str]], where: str) -> Iterator[Finding]:
    """One item for all drills whose faults need hooks that the target does not have."""
    if hooks:
        kinds = sorted({kind for missing in hooks.values() for kind in missing})
        change = f"{where[:-1]}.hooks.KIND] inject and revert, for: {', '.join(kinds)}; or leave these drills out of {_DRILLS}"
        yield fails("hooks", f"{len(hooks)} drills have faults that only a hook can inject: {', '.join(hooks)}", change)


def _grouped(refused: Mapping[str, str]) -> Iterator[Finding]:
    """One item for all drills with the same reason."""
    groups: dict[str, list[str]] = {}
    for name, reason in refused.items():
        groups.setdefault(reason.replace(f"drill '{name}'", "it", 1), []).append(name)
    for reason, names in groups.items():
        sentence, _, change = reason.partition(". ")
        yield fails("drills", f"{_listed(names)} will not be run: {sentence}", f"leave it out of {_DRILLS}; or: {change}")


def _capped(drills: Sequence[Drill], endpoints: Endpoints, caps: Caps, where: str) -> Iterator[Finding]:
    asked: tuple[tuple[str, str, Needs], ...] = (
        ("events_per_s", "publish up to", lambda drill: drill.load.events_per_s),
        ("clients", "open up to", lambda drill: permission.connections(drill, endpoints)),
        ("connects_per_s", "first connect at up to", lambda drill: permission.arrivals_per_s(drill, endpoints)),
    )
    for key, what, needs in asked if endpoints.has_socket else asked[:1]:
        limit, unit = getattr(caps, key), "connections" if key == "clients" else "per second"
        over = [drill.name for drill in drills if needs(drill) > limit * (1 + 1e-9)]
        most = max(map(needs, drills), default=0.0)
        if over:
            reason = f"caps.{key} is {limit:g}, but {_listed(over)} {what} {most:g} {unit}"
            yield fails("caps", reason, f"{where} caps.{key} = {_up(most):g}, or leave these drills out of {_DRILLS}")
        else:
            yield ok("caps", f"caps.{key} is {limit:g}; the drills {what} {most:g} {unit}")
    if endpoints.has_socket:
        yield from _paced(drills, caps, where)


def _paced(drills: Sequence[Drill], caps: Caps, where: str) -> Iterator[Finding]:
    """The drills whose storms the connect rate slows down so much that no check of times is decided."""
    slowed = {drill.name: target_limits.paced_share(drill, caps) for drill in drills}
    most = max((n for drill in drills for n in target_limits.returning(drill)), default=0)
    undecided = [drill.name for drill in drills if slowed[drill.name] > PACED_SHARE and _has_times(drill)]
    change = f"{where} caps.connects_per_s = {_up(most):g}"
    if undecided:
        reason = f"caps.connects_per_s is {caps.connects_per_s:g}, which paces the up to {most} clients that reconnect at once"
        yield fails("caps", f"{reason} in {_listed(undecided)}: their checks of times stay inconclusive", change)
    elif paced := [name for name, share in slowed.items() if share]:
        yield note("caps", f"caps.connects_per_s paces a few of the clients that reconnect at once in {_listed(paced)}", change)


def _has_times(drill: Drill) -> bool:
    return any(OF_RUNS[check].is_timed for check in drill.checks)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _up(value: float) -> float:
    return float(-(-value // 1))
