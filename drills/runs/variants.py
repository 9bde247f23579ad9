"""The variants of a drill: engine, delivery form and client policy. Run each, compare them, and combine their verdicts.

Every variant is an ordinary run with its own evidence and verdict; the check `replay.parity` compares them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from drills.judging.checks.base import Answer, result
from drills.judging.checks.registry import OF_RUNS, PARITY
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
    """An engine, a delivery form and a client policy."""

    engine: EngineName
    delivery: DeliveryName
    policy: PolicyName

    @property
    def name(self) -> str:
        """The name in folders and sentences, such as `sockets-frame-reference`."""
        return f"{self.engine}-{self.delivery}-{self.policy}"

    def variant(self, drill: Drill) -> Drill:
        """The drill of this variant."""
        return msgspec.structs.replace(
            drill,
            fleet=msgspec.structs.replace(drill.fleet, policy=self.policy),
            runtime=msgspec.structs.replace(drill.runtime, sync_frames=self.delivery == "frame"),
        )


def variants_of(drill: Drill) -> tuple[Variant, ...]:
    """All variants of a drill. If `fleet.policy` is not the reference, only with that policy and with the reference."""
    asked = drill.fleet.policy
    found = (
        Variant(each.engine, delivery, policy)
        for each in drill.variants
        for policy in (each.policies if asked == BASELINE else (BASELINE, asked))
        for delivery in each.deliveries
    )
    return tuple(dict.fromkeys(found))


def on_engine(drill: Drill, engine: str) -> Drill:
    """The drill limited to the variants of one engine. Raises `UsageError` if fewer than two are left."""
    left = msgspec.structs.replace(drill, variants=tuple(each for each in drill.variants if each.engine == engine))
    if drill.variants and len(variants_of(left)) < 2:
        raise UsageError(
            f"drill '{drill.name}': --engine {engine} leaves {len(variants_of(left))} of its variants to compare; it needs 2."
        )
    return left


def engines_of(drill: Drill) -> tuple[EngineName, ...]:
    """The engines of its variants; empty for a drill without variants."""
    return tuple(dict.fromkeys(each.engine for each in drill.variants))


# --- running ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """How to run all variants. `folder_of` gives each an existing folder, `switches_of` its runtime's switches."""

    folder_of: Callable[[Variant], Path]
    switches_of: Callable[[Variant], Switches]
    progress: Callable[[str, str], None]
    run_id: str
    seed: int
    model: SystemModel
    protocol: str


def run(drill: Drill, options: Options) -> str:
    """Run all variants one after the other; return why they ended early, or an empty text."""
    variants = variants_of(drill)
    for number, variant in enumerate(variants, 1):
        options.progress(f"variant {number} of {len(variants)}", variant.name)
        header = _run_one(variant.variant(drill), variant, options)
        if not header.complete:
            return f"{header.stopped_because}, in variant {number} of {len(variants)}"
    return ""


def _run_one(drill: Drill, variant: Variant, options: Options) -> RunHeader:
    folder, switches, seed, run_id = options.folder_of(variant), options.switches_of(variant), options.seed, options.run_id
    if variant.engine == "virtual":
        from sim.engines.virtual import engine as virtual

        return virtual.run(
            drill, virtual.Options(folder, seed, options.model, switches, run_id=run_id, protocol=options.protocol)
        )
    from sim.engines.sockets import engine as sockets

    return sockets.run(drill, sockets.Options(folder, seed, None, switches, run_id=run_id, protocol=options.protocol))


# --- judging ----------------------------------------------------------------------------------------


def combine(drill: Drill, verdicts: Mapping[str, DrillVerdict], accounts: Mapping[str, Account], evidence: str) -> DrillVerdict:
    """Combine the verdicts of all variants, by name, with the comparison of the readable ones."""
    compared = parity.compare(accounts, drill.load.events)
    unread = [name for name in verdicts if name not in accounts]
    names = dict.fromkeys(check.name for verdict in verdicts.values() for check in verdict.checks)
    each = [_worst({name: _check_of(verdict, check) for name, verdict in verdicts.items()}) for check in names]
    violated = merged_violations({f"on {name}": verdict for name, verdict in verdicts.items()})
    return DrillVerdict(
        name=drill.name,
        clients=max(verdict.clients for verdict in verdicts.values()),
        duration_s=sum(verdict.duration_s for verdict in verdicts.values()),
        checks=(_same_everywhere(compared, unread, evidence, has_violations=bool(violated)), *each),
        violations=violated,
        metrics=(
            Metric("parity.variants", compared.variants, "variants", compared.variants, "higher"),
            Metric("parity.events", compared.events, "events", compared.variants, "higher"),
            Metric("parity.partings", len(compared.differences), "variants", compared.variants, "lower"),
        ),
        summary=drill.summary,
        policy=", ".join(dict.fromkeys(each.policy for each in variants_of(drill))),
        defects=tuple(sorted({defect for verdict in verdicts.values() for defect in verdict.defects})),
    )


def _check_of(verdict: DrillVerdict, name: str) -> CheckResult | None:
    return next((check for check in verdict.checks if check.name == name), None)


def _worst(found: Mapping[str, CheckResult | None]) -> CheckResult:
    """The worst result of all variants. A variant without this check has an error in its evidence check instead."""
    results = {name: result for name, result in found.items() if result is not None}
    state = next(state for state in GRAVEST_FIRST if any(result.state is state for result in results.values()))
    those = {name: result for name, result in results.items() if result.state is state}
    name, result = next(iter(those.items()))
    where = f"in each of {len(results)} variants, here {name}"
    if len(those) < len(results):
        where = f"in {len(those)} of {len(results)} variants ({_named(list(those))})"
    return replace(result, n=sum(each.n for each in results.values()), reason=f"{where}: {result.reason}")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")


def _same_everywhere(compared: parity.Comparison, unread: Sequence[str], evidence: str, has_violations: bool) -> CheckResult:
    state, reason = _parity_state(compared, unread, has_violations)
    found = Answer(state, len(compared.differences), compared.variants, reason)
    return result(OF_RUNS[PARITY], found, evidence)


def _parity_state(compared: parity.Comparison, unread: Sequence[str], has_violations: bool) -> tuple[State, str]:
    """The state of the comparison. Different histories, unread variants and a missing steady state never pass.

    Without a steady state, missing events may only be late, unless a variant violated an invariant.
    """
    if compared.differences and not compared.unequal and not (compared.unready and not has_violations):
        more = f"; {len(compared.differences)} variants differ in total" if len(compared.differences) > 1 else ""
        return State.FAIL, f"first at {compared.differences[0]}{more}"
    if unread:
        return State.ERROR, f"no evidence to compare for {_named(unread)}"
    if compared.unequal:
        return State.ERROR, f"the variants did not have the same history: {compared.unequal}"
    if compared.unready:
        return State.ERROR, f"the steady state did not hold in every variant: {compared.unready}"
    if compared.variants < 2:
        return State.INCONCLUSIVE, f"{compared.variants} variants are too few to compare"
    if not compared.events or not compared.sequences:
        return State.NO_DATA, "there were no events, or no clients to read them"
    return State.PASS, (
        f"{compared.variants} variants have the same {compared.events} events, and each client applied the same ones in "
        f"{compared.sequences} client streams"
    )
