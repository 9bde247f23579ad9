"""The checks of a stage's window, each with its sources. `drills.judging.checks.registry` declares them."""

from collections.abc import Mapping

from drills.judging.checks import registry
from drills.rollout.verdict.window_checks import canary, coverage, delivery, error, reconnect, replay, ux
from drills.rollout.verdict.window_data.base import WindowCheck, attach

REGISTRY: Mapping[str, WindowCheck] = attach(
    registry.OF_WINDOWS, {**coverage.ASKS, **error.ASKS, **replay.ASKS, **reconnect.ASKS, **delivery.ASKS, **ux.ASKS}
)
AGAINST_CONTROL: Mapping[str, WindowCheck] = attach(registry.AGAINST_CONTROL, canary.ASKS)
"""The checks that compare a canary with its control."""
