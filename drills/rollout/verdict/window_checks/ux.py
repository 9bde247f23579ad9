"""Checks of the gate `ux` over a stage's window: what users would see, as clients saw it."""

from drills.judging.checks.base import Case
from drills.judging.checks.service import COUNT, P95
from drills.rollout.verdict.window_data import clients
from drills.rollout.verdict.window_data.base import Ask, WindowCheck
from sim.analysis import samples
from sim.record.history import Floats

_MINIMUM_N = frozenset({"minimum_n"})
_WRONG = "events doubled, out of order, missing or jumbled"


def _publish_to_apply_ms(case: Case) -> Floats:
    return samples.publish_to_apply_ms(case.history, case.ledger)


CHECKS = (
    WindowCheck(
        "ux",
        "integrity",
        "events",
        "applied twice, out of order, holes, hash mismatches",
        COUNT,
        (Ask("client", clients.counted("ux.integrity", _WRONG, "applied events")),),
        window="whole ledger",
        extras=_MINIMUM_N,
    ),
    WindowCheck(
        "ux",
        "publish_to_apply_ms",
        "ms",
        "publish due -> applied",
        P95,
        (Ask("client", clients.p95("publish_to_apply", _publish_to_apply_ms, "deliveries")),),
        extras=_MINIMUM_N,
    ),
)
