"""The checks that are asked of a stage's window, by name."""

from collections.abc import Mapping

from drills.rollout.window_checks import canary, course, delivery, error, reconnect, replay, ux
from drills.rollout.window_checks.base import WindowCheck

CHECKS: tuple[WindowCheck, ...] = (
    *(*course.CHECKS, *error.CHECKS, *replay.CHECKS),
    *(*reconnect.CHECKS, *delivery.CHECKS, *ux.CHECKS),
)
REGISTRY: Mapping[str, WindowCheck] = {check.full_name: check for check in CHECKS}
AGAINST_CONTROL: Mapping[str, WindowCheck] = {check.full_name: check for check in canary.CHECKS}  # where there is one
