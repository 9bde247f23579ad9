"""The checks that are asked of a stage's window, by name."""

from collections.abc import Mapping

from drills.rollout.verdict.window_checks import canary, coverage, delivery, error, reconnect, replay, ux
from drills.rollout.verdict.window_data.base import WindowCheck

CHECKS: tuple[WindowCheck, ...] = (
    *(*coverage.CHECKS, *error.CHECKS, *replay.CHECKS),
    *(*reconnect.CHECKS, *delivery.CHECKS, *ux.CHECKS),
)
REGISTRY: Mapping[str, WindowCheck] = {check.full_name: check for check in CHECKS}
AGAINST_CONTROL: Mapping[str, WindowCheck] = {check.full_name: check for check in canary.CHECKS}  # where there is one
