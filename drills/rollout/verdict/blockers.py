"""The blockers of a no-go stage: each with its cause, the steps to take and the command to test again.

Causes come from `causes.toml`, which operators may edit. After a failure in a stage that serves users, the first step is that
of the runbook: roll back, smallest blast radius first.
"""

import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec

from drills.judging.checks.verdicts import GRAVEST_FIRST, State
from drills.rollout.setup.records import Blocker, StageReport
from drills.rollout.verdict import chain
from sim.base.config import read_toml, to_struct

PATH = Path(__file__).with_name("causes.toml")

Text = Annotated[str, msgspec.Meta(min_length=1)]
Steps = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]


class Remedy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cause, and the steps to take."""

    cause: Text
    steps: Steps


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cause for one check or requirement. `measured_by` is the evidence that it needs."""

    cause: Text
    steps: Steps
    measured_by: Text
    owner: str = ""
    retest: str = ""


class Causes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole table. Its texts may use `{stage}`, `{target}`, `{rollout}` and `{run}`."""

    owner: Text
    retest: Text
    rollback: Steps  # steps, in the runbook's order
    before_serving: Text  # the first step while these revisions serve no user
    expired: Remedy
    states: dict[State, Remedy]
    checks: dict[str, Cause]
    requirements: dict[str, Cause]


@lru_cache(maxsize=1)
def table() -> Causes:
    """Read `causes.toml`. Raises `UsageError`."""
    return to_struct(read_toml(PATH), Causes, str(PATH))


def of(report: StageReport) -> tuple[Blocker, ...]:
    """All blockers of a report, the most severe first. A go has none."""
    found = [*_of_requirements(report), *_of_checks(report)]
    return tuple(blocker for _, blocker in sorted(found, key=lambda each: GRAVEST_FIRST.index(each[0])))


def _of_checks(report: StageReport) -> Iterator[tuple[State, Blocker]]:
    for gate in report.gates:
        for check in gate.checks:
            if check.required and check.state != State.PASS:
                name = f"{check.gate}.{check.check}"
                yield State(check.state), _blocker(report, gate.name, name, State(check.state), check.reason)


def _of_requirements(report: StageReport) -> Iterator[tuple[State, Blocker]]:
    for each in report.requirements:
        if each.state != State.PASS:
            yield State(each.state), _blocker(report, "stage", each.name, State(each.state), each.reason)


def _blocker(report: StageReport, gate: str, name: str, state: State, reason: str) -> Blocker:
    causes, plan = table(), report.plan
    known = (causes.requirements if gate == "stage" else causes.checks).get(name) or _unknown(name)
    remedy = _remedy(causes, known, state, reason)
    started_with = "run" if plan.stage == "0" else "hold"
    target = "mock" if plan.target_kind == "mock" else plan.target  # an embedded mock's name cannot be an argument
    target += f" --targets {shlex.quote(plan.targets_file)}" if plan.targets_file else ""
    words = {"stage": plan.stage, "target": target, "rollout": plan.rollout, "run": started_with}
    steps = [*_first(causes, report, state), *remedy.steps]
    if state is State.FAIL and plan.stage != "0":
        steps.append(f"If that was not enough: {'; then '.join(_lowered(step) for step in causes.rollback[1:])}")
    elif state is not State.FAIL:
        steps.append(f"Evidence that it needs: {known.measured_by}.")
    return Blocker(
        id=f"{plan.run_id}/{name}",
        gate=gate,
        check=name,
        severity="blocker" if state in (State.FAIL, State.ERROR) else "major",
        cause=f"{remedy.cause} Reason: {reason.rstrip('.')}.",
        remediation=tuple(filled(step, words) for step in steps),
        retest=filled(known.retest or causes.retest, words),
        owner=known.owner or causes.owner,
        due=f"before stage {plan.stage} runs again",
    )


def _remedy(causes: Causes, known: Cause, state: State, reason: str) -> Remedy:
    if reason.startswith(chain.EXPIRED):
        return causes.expired
    return Remedy(cause=known.cause, steps=known.steps) if state is State.FAIL else causes.states[state]


def _first(causes: Causes, report: StageReport, state: State) -> tuple[str, ...]:
    """The runbook's next step after a failure."""
    if state is not State.FAIL:
        return ()
    return (causes.before_serving,) if report.plan.stage == "0" else causes.rollback[:1]


def _unknown(name: str) -> Cause:
    steps = ("Read its reason and its evidence in the stage's report.",)
    return Cause(cause=f"{name} has no entry in {PATH.name}.", steps=steps, measured_by="its evidence")


def filled(text: str, words: dict[str, str]) -> str:
    """Put words in the place of `{names}`."""
    for key, value in words.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")
