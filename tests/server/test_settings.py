"""Settings: the real service's defaults, and the bounds that files are checked against."""

from typing import Any

import msgspec
import pytest

from sim.server import deployment, settings
from sim.server.settings import RuntimeSettings

# What operators rely on; the other defaults are ours.
OF_THE_SERVICE = {
    "window_events": 1024,
    "replay_batch_size": 200,
    "outbound_queue_events": 64,
    "topics_per_drain": 2,
    "slow_consumer_strikes": 3,
    "slow_consumer_reconnect_after_ms": 2000,
    "heartbeat_interval_s": 15.0,
    "client_timeout_s": 60.0,
    "token_ttl_s": 300,
    "token_ttl_min_s": 60,
    "token_ttl_max_s": 900,
    "token_refresh_margin_s": 30,
    "token_leeway_s": 30,
    "token_max_age_s": 300,
    "sync_frames": False,
    "protocol_version": "spacetime.sync.v1",
    "schema_version": 1,
}


def test_defaults_are_those_of_the_real_service():
    found = RuntimeSettings()
    assert {name: getattr(found, name) for name in OF_THE_SERVICE} == OF_THE_SERVICE


@pytest.mark.parametrize(
    ("kind", "lowest", "below", "above"),
    [
        (settings.NotNegative, 0.0, -0.1, None),
        (settings.ShareOrZero, 0.0, -0.1, 1.1),
        (settings.Count, 1, 0, None),
        (settings.CountOrZero, 0, -1, None),
        (settings.Positive, 0.01, 0.0, None),
        (settings.Share, 0.01, 0.0, 1.1),
        (deployment.Percent, 0, -1, 101),
    ],
)
def test_values_out_of_bounds_are_refused(kind: Any, lowest: float, below: float, above: float | None):
    assert msgspec.convert(lowest, kind) == lowest
    assert msgspec.convert(1, kind) == 1
    for value in (below, above):
        if value is not None:
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(value, kind)
