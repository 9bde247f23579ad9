"""What stands in the way of a go, each with its cause, what to do about it and how to see that it is done.

Causes are a table that operators may edit, `causes.toml`. Where something failed in a stage that serves people, the first
step is always the runbook's own: back to what was good, with the smallest blast radius first.
"""

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


class Way(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cause, and what to do about it."""

    cause: Text
    steps: Steps


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is behind one check or part. `measured_by`: what has to be there for it to be told at all."""

    cause: Text
    steps: Steps
    measured_by: Text
    owner: str = ""
    retest: str = ""


class Causes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole table. In its texts `{stage}`, `{target}`, `{rollout}` and `{run}` are the stage's own."""

    owner: Text
    retest: Text
    rollback: Steps  # in the runbook's order
    before_serving: Text  # the first step where nobody is served by what is judged
    expired: Way
    states: dict[State, Way]
    checks: dict[str, Cause]
    requirements: dict[str, Cause]


@lru_cache(maxsize=1)
def table() -> Causes:
    """The causes. Raises `UsageError` for a mistake in them."""
    return to_struct(read_toml(PATH), Causes, str(PATH))


def of(report: StageReport) -> tuple[Blocker, ...]:
    """Everything that stands in the way, the gravest first; nothing for a go."""
    found = [*_of_requirements(report), *_of_checks(report)]
    return tuple(blocker for _, blocker in sorted(found, key=lambda each: GRAVEST_FIRST.index(each[0])))


def _of_checks(report: StageReport) -> Iterator[tuple[State, Blocker]]:
    for gate in report.gates:
        for check in gate.checks:
            if check.required and check.state != State.PASS:
                name = f"{check.gate}.{check.check}"
                yield State(check.state), _blocker(report, gate.name, name, State(check.state), check.reason)


def _of_requirements(report: StageReport) -> Iterator[tuple[State, Blocker]]:
    for part in report.requirements:
        if part.state != State.PASS:
            yield State(part.state), _blocker(report, "stage", part.name, State(part.state), part.reason)


def _blocker(report: StageReport, gate: str, name: str, state: State, reason: str) -> Blocker:
    causes, plan = table(), report.plan
    known = (causes.requirements if gate == "stage" else causes.checks).get(name) or _unknown(name)
    way = _way(causes, known, state, reason)
    begun_with = "run" if plan.stage == "0" else "hold"
    target = "mock" if plan.target_kind == "mock" else plan.target  # a mock's name is no word for a command line
    words = {"stage": plan.stage, "target": target, "rollout": plan.rollout, "run": begun_with}
    steps = [*_first(causes, report, state), *way.steps]
    if state is State.FAIL and plan.stage != "0":
        steps.append(f"If that was not enough: {'; then '.join(_lowered(step) for step in causes.rollback[1:])}")
    elif state is not State.FAIL:
        steps.append(f"It is told by {known.measured_by}.")
    return Blocker(
        id=f"{plan.run_id}/{name}",
        gate=gate,
        check=name,
        severity="blocker" if state in (State.FAIL, State.ERROR) else "major",
        cause=f"{way.cause} Seen: {reason.rstrip('.')}.",
        remediation=tuple(_filled(step, words) for step in steps),
        retest=_filled(known.retest or causes.retest, words),
        owner=known.owner or causes.owner,
        due=f"before stage {plan.stage} is run again",
    )


def _way(causes: Causes, known: Cause, state: State, reason: str) -> Way:
    if reason.startswith(chain.EXPIRED):
        return causes.expired
    return Way(cause=known.cause, steps=known.steps) if state is State.FAIL else causes.states[state]


def _first(causes: Causes, report: StageReport, state: State) -> tuple[str, ...]:
    """The runbook's next step, for a failure."""
    if state is not State.FAIL:
        return ()
    return (causes.before_serving,) if report.plan.stage == "0" else causes.rollback[:1]


def _unknown(name: str) -> Cause:
    nothing = f"{name} is not in the table of causes ({PATH.name}), so its cause must be looked for."
    return Cause(cause=nothing, steps=("Read its reason and its evidence in the stage's report.",), measured_by="its evidence")


def _filled(text: str, words: dict[str, str]) -> str:
    for key, value in words.items():
        text = text.replace(f"{{{key}}}", value)
    return text


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")
