"""Judge parts of a hold's window: the clients of each build alone, and the canary compared with its control."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from drills.judging.checks.thresholds import Thresholds
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import CanaryCheckDone, StagePlan
from drills.rollout.setup.stages import minimum
from drills.rollout.verdict.requirements import Found, all_passed
from drills.rollout.verdict.window_checks import AGAINST_CONTROL, REGISTRY
from drills.rollout.verdict.window_data.base import WindowCheck, answer
from drills.rollout.verdict.window_data.stage_window import StageWindow

BUILDS, CANARY = "builds", "canary_vs_control"  # names of the requirements
# The checks that the canary checks of one build can decide.
BY_BUILD = (
    *("ux.integrity", "replay.divergence", "delivery.dropped_deliveries", "error.websocket_auth_error_ratio"),
    *("replay.bootstrap_ms", "ux.publish_to_apply_ms"),
)


def of(window: StageWindow, thresholds: Thresholds, plan: StagePlan) -> tuple[CheckResult, ...]:
    """The results for each build and for the canary against the control, as far as the stage requires them."""
    found = [*_by_build(window, thresholds, plan.client_builds)] if BUILDS in asked(plan) else []
    if plan.control is not None:
        found += [answer(check, window, thresholds.get(name)) for name, check in AGAINST_CONTROL.items()]
    return tuple(found)


def asked(plan: StagePlan) -> tuple[str, ...]:
    """The requirements of a go of this stage. If the stage has a control, the comparison with it is required."""
    named = (CANARY,) if plan.control is not None else ()
    return tuple(dict.fromkeys((*minimum(plan.stage).required, *plan.required, *named)))


def _by_build(window: StageWindow, thresholds: Thresholds, builds: Sequence[str]) -> Iterator[CheckResult]:
    for build in builds:
        seen = [check for check in window.canary_checks if check.build == build]
        alone = replace(window.of_checks(seen), snapshots=(), baseline=None, control=None)
        for name in BY_BUILD:
            found = answer(_of_clients(REGISTRY[name]), alone, thresholds.get(name))
            reason = found.reason if seen else "no canary check had clients of this build"
            yield replace(found, gate=BUILDS, check=f"{build} {name}", window=f"canary checks of build {build}", reason=reason)


def _of_clients(check: WindowCheck) -> WindowCheck:
    """The same check with its client sources only, because servers do not distinguish builds."""
    return replace(check, sources=tuple(source for source in check.sources if source.origin == "client"))


def builds(plan: StagePlan, found: Sequence[CheckResult]) -> Found:
    """Decide whether each of the stage's client builds passes alone."""
    if not plan.client_builds:
        return State.ERROR, "the plan names no client build"
    answers = [each for each in found if each.gate == BUILDS]
    missing = [build for build in plan.client_builds if not any(each.check.startswith(build) for each in answers)]
    if missing:
        return State.NO_DATA, f"build {missing[0]} was not judged"
    return _combined(answers, f"{len(plan.client_builds)} builds, each alone: {', '.join(plan.client_builds)}")


def canary(run_dir: Path, plan: StagePlan, found: Sequence[CheckResult]) -> Found:
    """Decide whether the new revisions are no worse than the previous ones."""
    if plan.control is None:
        return State.NO_DATA, (
            f'no control is named: add control = "NAME" to [stages.{plan.stage}] of the stages file, with the name of a target '
            "that still serves the previous revisions"
        )
    if not plan.control.revisions.known:
        return State.NO_DATA, f"the revisions of the control {plan.control.target} are unknown"
    if plan.control.revisions == plan.revisions:
        return State.NO_DATA, f"the control {plan.control.target} has the canary's revisions, so there is nothing to compare"
    recorded = {each.run for each in evidence.read_lines(run_dir / records.CONTROL_LIST, CanaryCheckDone)}
    folder = run_dir / records.CONTROL
    there = sorted(f"{records.CONTROL}/{path.name}" for path in folder.iterdir()) if folder.is_dir() else []
    if strange := sorted(set(there) ^ (recorded - {""})):
        return State.ERROR, f"{strange[0]}: is either missing, or not recorded in {records.CONTROL_LIST}"
    answers = [each for each in found if each.name in AGAINST_CONTROL]
    if len(answers) != len(AGAINST_CONTROL):
        return State.NO_DATA, "there is no window to compare"
    return _combined(answers, "; ".join(f"{each.check}: {each.reason}" for each in answers))


def _combined(answers: Sequence[CheckResult], passed: str) -> Found:
    return all_passed([(each.state, f"{each.check}: {each.reason}") for each in answers], passed)
