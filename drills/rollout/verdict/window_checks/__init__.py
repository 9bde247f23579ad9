"""The checks of a stage's window, each with its sources. `drills.judging.checks.registry` declares them.

The other modules of `verdict`, `report` and the tests import it.
"""

from collections.abc import Mapping

from drills.judging.checks import registry
from drills.rollout.verdict.window_checks import canary, coverage, reconnect, service
from drills.rollout.verdict.window_data.base import WindowCheck, attach

REGISTRY: Mapping[str, WindowCheck] = attach(registry.OF_WINDOWS, {**coverage.SOURCES, **service.SOURCES, **reconnect.SOURCES})
AGAINST_CONTROL: Mapping[str, WindowCheck] = attach(registry.AGAINST_CONTROL, canary.SOURCES)
"""The checks that compare a canary with its control."""
