"""Ask the services of a target once: metrics, token, builds, revisions, cohort and rollback."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from drills.judging.checks.verdicts import State
from drills.rollout.check.findings import Finding, attempt, fails, note, ok
from drills.rollout.preflight import preconditions
from drills.rollout.rollback import rehearsal_steps
from drills.rollout.servers import revisions, routing_checks
from drills.rollout.servers.sampler import sources_of
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.setup.stages import RoutingChecks
from drills.rollout.verdict import armed
from sim.base.clocks import Clock
from sim.drill.model import CLIENT_BUILD
from sim.drill.target_rules import RollbackRules

_KEYS = 100  # [ours] routing checks before a preflight, which only needs answers
# What to change if an item fails: a table of the target, or of the service itself.
_NAMES = {"metrics": "metrics endpoint", "control": "control service", "prometheus": "Prometheus"}
_TABLES = {
    "metrics": "[targets.{0}] admin_token_env or metrics_profile, or [targets.{0}.metrics]",
    "control": "[targets.{0}.status]",
    "prometheus": "[targets.{0}.prometheus]",
    "token_issuance": "[targets.{0}] session_token_env, or [targets.{0}.token]",
    "builds_deployed": "client_builds in [stages.0], or [targets.{0}] protocol and socket_path",
    "rollback_revisions": "[targets.{0}.rollback.traffic], [targets.{0}.revisions], or [targets.{0}.health] and status",
}


def servers(target: StageTarget, file: str, clock: Clock, name: str = "") -> Iterator[Finding]:
    """Whether each source of snapshots answers; `name` is put before the items of a control."""
    about = target.endpoints
    for source in sources_of(about, target.entry):
        snapshot, _ = source.ask(1, "other", False, clock)
        item, absent = f"{name}{_NAMES[source.name]}", len(snapshot.missing)
        said = f"{snapshot.url} gives {snapshot.outcome}"
        if not snapshot.ok:
            noted = f" ({'; '.join(snapshot.notes)})" if snapshot.notes else ""
            yield fails(item, said + noted, f"start the service, or correct {file}: {_TABLES[source.name].format(about.name)}")
        elif snapshot.notes or absent:
            more = [*snapshot.notes, *([f"it does not serve {absent} of the expected metrics"] if absent else [])]
            yield note(item, f"{said}, but {'; '.join(more)}")
        else:
            yield ok(item, said)
    if not target.has_metrics:
        yield note(
            f"{name}{_NAMES['metrics']}",
            "the metrics endpoint is not sampled, so gates that need the runtime's counters stay without data",
            f"{file}: [targets.{about.name}] admin_token_env",
        )


def accounts(target: StageTarget, builds: Sequence[str], file: str) -> Iterator[Finding]:
    """Whether a token is issued and taken, the builds may join, and the revisions are those of a rollout."""
    about, entry = target.endpoints, target.entry
    found, good = revisions.find(about, entry), armed.last_good(entry.rollback) if entry else None
    for item, (state, reason) in preconditions.of_service(about, builds, found, good).items():
        change = f"{file}: {_TABLES[item].format(about.name)}"
        named = item.replace("_", " ")
        yield ok(named, reason) if state == "pass" else fails(named, reason, change)


def cohort(target: StageTarget, rules: RoutingChecks, percent: float | None, file: str, clock: Clock) -> Iterator[Finding]:
    """Whether the routing service answers and, for a stage with a cohort of `percent`, whether the cohort has its size."""
    asked = rules if percent is not None else msgspec.structs.replace(rules, keys=_KEYS)
    with tempfile.TemporaryDirectory(prefix="stormgate-check-") as folder:
        answers = routing_checks.ask(target.endpoints, asked, Path(folder), clock)
    change = f"{file}: [targets.{target.endpoints.name}.routing]"
    silent = [each for each in answers if each.in_cohort is None]
    if silent:
        yield fails("cohort", f"{len(silent)} of {len(answers)} keys got no answer ({silent[0].outcome})", change)
    elif percent is None:
        yield ok("cohort", f"the routing service answered for {len(answers)} keys")
    else:
        found = routing_checks.judge(answers, percent)
        is_fine = found.state == State.PASS
        yield (
            ok("cohort", found.reason) if is_fine else fails("cohort", found.reason, "move the cohort before the stage begins")
        )


def rehearsal(target: StageTarget, file: str, clock: Clock, limit_s: float) -> Iterator[Finding]:
    """Whether the rollback can be rehearsed."""
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="stormgate-check-") as folder:
        where = f"{file}: [targets.{target.endpoints.name}.rollback]"
        steps = attempt(
            found,
            "rollback",
            lambda: rehearsal_steps.make(target.endpoints, target.entry, Path(folder), clock, limit_s),
            where,
        )
    yield from found
    if steps is not None:
        yield ok("rollback", f"{', '.join(change.name for change in steps.changes)} and recovery can be rehearsed")


def rollback_check(target: StageTarget, file: str) -> Iterator[Finding]:
    """Run the command that checks the last good revisions, which a full rollout needs at each of its gates."""
    rules = target.entry.rollback if target.entry else RollbackRules()
    where, good = f"{file}: [targets.{target.endpoints.name}.rollback] check", armed.last_good(rules)
    if not rules.check:
        if not target.endpoints.is_mock:
            yield note("rollback check", "it is missing, and a full rollout needs it at each of its gates", where)
        return
    why, output = armed.run_check(rules, target.endpoints, "check")
    if why:
        said = " ".join(output.content.decode("utf-8", "replace").split())[-200:]
        yield fails("rollback check", f"the command {why}" + (f": {said}" if said else ""), where)
    else:
        yield ok("rollback check", f"the command finds the last good revisions: {good}")


def before_rollback(target: StageTarget, file: str, clock: Clock) -> Iterator[Finding]:
    """What a rehearsal alone needs of the services."""
    yield from accounts(target, (CLIENT_BUILD,), file)
    yield from cohort(target, RoutingChecks(), None, file, clock)
    yield from rollback_check(target, file)
