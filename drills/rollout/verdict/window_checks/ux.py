"""Checks of the gate `ux` over a stage's window: what users would see, as clients saw it."""

from collections.abc import Mapping

from drills.judging.checks.base import Case
from drills.rollout.verdict.window_data import clients
from drills.rollout.verdict.window_data.base import Ask
from sim.analysis import samples
from sim.record.history import Floats

_WRONG = "events doubled, out of order, missing or jumbled"


def _publish_to_apply_ms(case: Case) -> Floats:
    return samples.publish_to_apply_ms(case.history, case.ledger)


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "ux.integrity": (Ask("client", clients.counted("ux.integrity", _WRONG, "applied events")),),
    "ux.publish_to_apply_ms": (Ask("client", clients.p95("publish_to_apply", _publish_to_apply_ms, "deliveries")),),
}
