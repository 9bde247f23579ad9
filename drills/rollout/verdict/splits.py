"""A hold's window taken apart: what each client build saw by itself, and the canary held against its control."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CanaryCheckDone, StagePlan
from drills.rollout.setup.stages import minimum
from drills.rollout.verdict.requirements import Found, gravest
from drills.rollout.verdict.window_checks import AGAINST_CONTROL, REGISTRY
from drills.rollout.verdict.window_data.base import WindowCheck, answer
from drills.rollout.verdict.window_data.stage_window import StageWindow

BUILDS, CANARY = "builds", "canary_vs_control"  # the parts
# What can be judged from the watches of one build alone.
BY_BUILD = (
    *("ux.integrity", "replay.divergence", "delivery.dropped_deliveries", "error.websocket_auth_error_ratio"),
    *("replay.bootstrap_ms", "ux.publish_to_apply_ms"),
)


def of(window: StageWindow, thresholds: Thresholds, plan: StagePlan) -> tuple[CheckResult, ...]:
    """Every answer to what a stage's plan and law ask of the window taken apart."""
    found = [*_by_build(window, thresholds, plan.client_builds)] if BUILDS in asked(plan) else []
    if plan.control is not None:
        found += [answer(check, window, thresholds.get(name)) for name, check in AGAINST_CONTROL.items()]
    return tuple(found)


def asked(plan: StagePlan) -> tuple[str, ...]:
    """The parts that a go of this stage needs; the canary is held against every control that is named."""
    named = (CANARY,) if plan.control is not None else ()
    return tuple(dict.fromkeys((*minimum(plan.stage).required, *plan.required, *named)))


def _by_build(window: StageWindow, thresholds: Thresholds, builds: Sequence[str]) -> Iterator[CheckResult]:
    for build in builds:
        seen = tuple(watch for watch in window.canary_checks if watch.build == build)
        alone = replace(window, snapshots=(), canary_checks=seen, baseline=None, control=None, told=None)
        for name in BY_BUILD:
            found = answer(_of_clients(REGISTRY[name]), alone, thresholds.get(name))
            said = found.reason if seen else "no watch had clients of this build"
            yield replace(found, gate=BUILDS, check=f"{build} {name}", window=f"watches of build {build}", reason=said)


def _of_clients(check: WindowCheck) -> WindowCheck:
    """The same check, asked of clients alone: servers do not tell builds apart."""
    return replace(check, asks=tuple(ask for ask in check.asks if ask.origin == "client"))


def builds(plan: StagePlan, found: Sequence[CheckResult]) -> Found:
    """Whether each of the stage's client builds passes by itself."""
    if not plan.client_builds:
        return State.ERROR, "the plan names no client build"
    answers = [each for each in found if each.gate == BUILDS]
    missing = [build for build in plan.client_builds if not any(each.check.startswith(build) for each in answers)]
    if missing:
        return State.NO_DATA, f"nothing was asked of build {missing[0]}"
    return _together(answers, f"{len(plan.client_builds)} builds, each by itself: {', '.join(plan.client_builds)}")


def canary(run_dir: Path, plan: StagePlan, found: Sequence[CheckResult]) -> Found:
    """Whether the new revisions are no worse than those that they replace."""
    if plan.control is None:
        return State.NO_DATA, (
            f'no control is named: write control = "NAME" into [stages.{plan.stage}] of the stages file, a target of the '
            "targets file where the revisions before are still reached"
        )
    if not plan.control.revisions.known:
        return State.NO_DATA, f"the revisions of the control {plan.control.target} cannot be found out"
    if plan.control.revisions == plan.revisions:
        return State.NO_DATA, f"the control {plan.control.target} is of the canary's own revisions, so nothing is compared"
    told = {each.run for each in evidence.read_lines(run_dir / records.CONTROL_LIST, CanaryCheckDone)}
    folder = run_dir / records.CONTROL
    there = sorted(f"{records.CONTROL}/{path.name}" for path in folder.iterdir()) if folder.is_dir() else []
    if strange := sorted(set(there) ^ (told - {""})):
        return State.ERROR, f"{strange[0]}: is either there or told of in {records.CONTROL_LIST}, and not both"
    answers = [each for each in found if each.name in AGAINST_CONTROL]
    if len(answers) != len(AGAINST_CONTROL):
        return State.NO_DATA, "there is no window that could be compared"
    return _together(answers, "; ".join(f"{each.check}: {each.reason}" for each in answers))


def _together(answers: Sequence[CheckResult], passed: str) -> Found:
    wrong = [(each.state, f"{each.check}: {each.reason}") for each in answers if each.state is not State.PASS]
    return gravest(wrong) if wrong else (State.PASS, passed)
