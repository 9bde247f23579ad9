"""A drill on several surfaces: which they are, how each is run, and the one verdict they make.

Every surface is an ordinary run with evidence and verdict of its own; beside them stands the comparison, `replay.parity`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from drills.judging.checks.verdicts import GRAVEST_FIRST, CheckResult, DrillVerdict, State, merged_violations
from sim.analysis import parity
from sim.analysis.metrics import Metric
from sim.analysis.parity import Account
from sim.base.errors import UsageError
from sim.drill.model import DeliveryName, Drill, EngineName, PolicyName
from sim.drill.system_model import SystemModel
from sim.record.run_header import RunHeader
from sim.server.settings import Switches

BASELINE: PolicyName = "reference"
_MAX_NAMED = 5


@dataclass(frozen=True)
class Variant:
    """One world that a drill runs in."""

    engine: EngineName
    delivery: DeliveryName
    policy: PolicyName

    @property
    def name(self) -> str:
        """As folders and sentences have it: `sockets-frame-reference`."""
        return f"{self.engine}-{self.delivery}-{self.policy}"

    def variant(self, drill: Drill) -> Drill:
        """The drill as it runs here."""
        return msgspec.structs.replace(
            drill,
            fleet=msgspec.structs.replace(drill.fleet, policy=self.policy),
            runtime=msgspec.structs.replace(drill.runtime, sync_frames=self.delivery == "frame"),
        )


def variants_of(drill: Drill) -> tuple[Variant, ...]:
    """All surfaces of a drill. With another policy than the reference asked for, that one beside the reference, no more."""
    asked = drill.fleet.policy
    found = (
        Variant(each.engine, delivery, policy)
        for each in drill.variants
        for policy in (each.policies if asked == BASELINE else (BASELINE, asked))
        for delivery in each.deliveries
    )
    return tuple(dict.fromkeys(found))


def on_engine(drill: Drill, engine: str) -> Drill:
    """The drill with the surfaces of one engine alone; raises `UsageError` where there is nothing left to compare."""
    left = msgspec.structs.replace(drill, variants=tuple(each for each in drill.variants if each.engine == engine))
    if drill.variants and len(variants_of(left)) < 2:
        raise UsageError(f"drill '{drill.name}': --engine {engine} leaves {len(variants_of(left))} of its surfaces to compare.")
    return left


def engines_of(drill: Drill) -> tuple[EngineName, ...]:
    """The engines that its surfaces need; none for a drill without surfaces."""
    return tuple(dict.fromkeys(each.engine for each in drill.variants))


# --- running ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """How to run all surfaces of a drill. `folder_of` gives each an existing folder, `switches_of` its runtime's switches."""

    folder_of: Callable[[Variant], Path]
    switches_of: Callable[[Variant], Switches]
    progress: Callable[[str, str], None]
    run_id: str
    seed: int
    model: SystemModel


def run(drill: Drill, options: Options) -> str:
    """Run a drill on all its surfaces, one after the other; returns why they ended early, empty when they did not."""
    all_of_them = variants_of(drill)
    for number, surface in enumerate(all_of_them, 1):
        options.progress(f"surface {number} of {len(all_of_them)}", surface.name)
        header = _run_one(surface.variant(drill), surface, options)
        if not header.complete:
            return f"{header.stopped_because}, on surface {number} of {len(all_of_them)}"
    return ""


def _run_one(variant: Drill, surface: Variant, options: Options) -> RunHeader:
    folder, switches, seed, run_id = options.folder_of(surface), options.switches_of(surface), options.seed, options.run_id
    if surface.engine == "virtual":
        from sim.engines.virtual import engine as virtual

        return virtual.run(variant, virtual.Options(folder, seed, options.model, switches, run_id=run_id))
    from sim.engines.sockets import engine as sockets

    return sockets.run(variant, sockets.Options(folder, seed, None, switches, run_id=run_id))


# --- judging ----------------------------------------------------------------------------------------


def combine(drill: Drill, verdicts: Mapping[str, DrillVerdict], accounts: Mapping[str, Account], evidence: str) -> DrillVerdict:
    """One verdict from those of all surfaces by name, and from comparing what came of all that could be read."""
    compared = parity.compare(accounts, drill.load.events)
    unread = [name for name in verdicts if name not in accounts]
    names = dict.fromkeys(check.name for verdict in verdicts.values() for check in verdict.checks)
    each = [_worst({name: _check_of(verdict, check) for name, verdict in verdicts.items()}) for check in names]
    broken = merged_violations({f"on {name}": verdict for name, verdict in verdicts.items()})
    return DrillVerdict(
        name=drill.name,
        clients=max(verdict.clients for verdict in verdicts.values()),
        duration_s=sum(verdict.duration_s for verdict in verdicts.values()),
        checks=(_same_everywhere(compared, unread, evidence, is_lawful=not broken), *each),
        violations=broken,
        metrics=(
            Metric("parity.surfaces", compared.variants, "variants", compared.variants, "higher"),
            Metric("parity.events", compared.events, "events", compared.variants, "higher"),
            Metric("parity.partings", len(compared.differences), "variants", compared.variants, "lower"),
        ),
        summary=drill.summary,
        policy=", ".join(dict.fromkeys(surface.policy for surface in variants_of(drill))),
        defects=tuple(sorted({defect for verdict in verdicts.values() for defect in verdict.defects})),
    )


def _check_of(verdict: DrillVerdict, name: str) -> CheckResult | None:
    return next((check for check in verdict.checks if check.name == name), None)


def _worst(found: Mapping[str, CheckResult | None]) -> CheckResult:
    """The gravest answer of any surface; what one of them was not asked, its own unread evidence answers."""
    results = {name: result for name, result in found.items() if result is not None}
    state = next(state for state in GRAVEST_FIRST if any(result.state is state for result in results.values()))
    those = {name: result for name, result in results.items() if result.state is state}
    name, result = next(iter(those.items()))
    where = f"on each of {len(results)} surfaces, here {name}"
    if len(those) < len(results):
        where = f"on {len(those)} of {len(results)} surfaces ({_named(list(those))})"
    return replace(result, n=sum(each.n for each in results.values()), reason=f"{where}: {result.reason}")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")


def _same_everywhere(compared: parity.Comparison, unread: Sequence[str], evidence: str, is_lawful: bool) -> CheckResult:
    state, reason = _parity_state(compared, unread, is_lawful)
    return CheckResult(
        gate="replay",
        check="parity",
        state=state,
        value=float(len(compared.differences)),
        unit="variants",
        n=compared.variants,
        interval=None,
        comparator="",
        threshold=None,
        source="law of a drill's course",
        window="whole run",
        method="surfaces whose log, state, checkpoints or order are not the first one's; 0 allowed",
        origin="client",
        reason=reason,
        evidence=evidence,
    )


def _parity_state(compared: parity.Comparison, unread: Sequence[str], is_lawful: bool) -> tuple[State, str]:
    """A history that is not the same can still show that nothing else is to be concluded, but never that all is well.

    Where a surface was never well, what its clients lack may only be late, unless somewhere a law was broken.
    """
    if compared.differences and not compared.unequal and not (compared.unready and is_lawful):
        more = f"; {len(compared.differences)} surfaces part in all" if len(compared.differences) > 1 else ""
        return State.FAIL, f"first at {compared.differences[0]}{more}"
    if unread:
        return State.ERROR, f"there is nothing to compare of {_named(unread)}"
    if compared.unequal:
        return State.ERROR, f"the surfaces had not the same history: {compared.unequal}"
    if compared.unready:
        return State.ERROR, f"not every surface was well before it was broken: {compared.unready}"
    if compared.variants < 2:
        return State.INCONCLUSIVE, f"{compared.variants} surfaces are too few to compare"
    if not compared.events or not compared.sequences:
        return State.NO_DATA, "there were no events, or nobody to read them"
    return State.PASS, (
        f"{compared.variants} surfaces have the same {compared.events} events, and the same of them in each of "
        f"{compared.sequences} clients' streams"
    )
