"""Every metric of one small hand-written drill, of an empty one and of a fleet run: name, value, unit, n and direction."""

import math
from typing import Any

import msgspec
import pytest

from sim.analysis import metrics
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.tally import Recovery, Sizes, Tally
from tests.histories import STREAM, Story

Row = tuple[str, float, str, int, str]
PHASES = ((0.0, "steady"), (10.0, "fault"), (12.0, "recovery"), (20.0, "settle"), (30.0, "end"))


def measured(story: Story) -> list[Row]:
    history = story.history()
    return [(m.name, m.value, m.unit, m.n, m.better) for m in metrics.run_metrics(history, Ledger(history))]


def small_storm() -> Story:
    """Three clients of four are cut at 10.1 s; client n connects n + 1 times, and is live again n + 1 s after the fault."""
    story = Story(4, header={"subscriptions": {str(client): [STREAM] for client in range(4)}})
    for t, phase in PHASES:
        story.tell(t, Kind.PHASE, detail=phase)
    story.publish(1, 2, 3, t=2.0, value=500.0).publish(4, t=21.0).tell(22.0, Kind.PUBLISH_FAILED, -1, STREAM, value=10.0)
    for client in range(3):
        one_client(story, client)
    story.tell(9.9, Kind.REPLAYED, 3, STREAM, 50, value=1.0)  # before the fault
    story.tell(10.0, Kind.REPLAYED, 3, STREAM, 3, value=1.0).tell(10.0, Kind.REPLAYED, 3, STREAM)
    story.tell(10.0, Kind.FAULT_INJECTED, detail="drop_sockets").tell(12.0, Kind.FAULT_REVERTED, detail="drop_sockets")
    for _ in range(2):
        story.tell(14.0, Kind.REBOOTSTRAPPED, 1, STREAM, 3, detail="snapshot")
    story.tell(14.0, Kind.STALE, 1, STREAM, 1, attempt=1)
    story.tell(14.5, Kind.DECLARED_LOSS, 1, STREAM, 3, value=2.0).tell(14.5, Kind.DECLARED_LOSS, 2, STREAM, 3)
    story.tell(15.0, Kind.HEARTBEAT_TIMEOUT, 0).tell(15.0, Kind.EVICTED, 0).tell(15.0, Kind.MALFORMED, 0)
    story.tell(15.0, Kind.DUPLICATE_DROPPED, 0, STREAM, 1).tell(15.0, Kind.GAP, 0, STREAM, 1)
    story.tell(28.0, Kind.SETTLED, 0).tell(28.0, Kind.SETTLED, 1).tell(29.0, Kind.STILL_PENDING, 1)
    for tick in range(100):
        story.tell(tick / 4, Kind.GENERATOR_LAG, value=tick + 1.0)
    story.rows.sort(key=lambda row: row.t)
    return story


def one_client(story: Story, client: int) -> None:
    story.tell(0.5, Kind.CONNECT_ATTEMPTED, client).tell(0.5, Kind.TOKEN_MINTED, client, value=4.0 + client)
    story.fresh(client, t=1.0).tell(1.0, Kind.REPLAY_COMPLETED, client, value=500.0).apply(client, 1, 2, 3, t=2.5 + client)
    story.tell(10.1, Kind.DISCONNECTED, client, detail="network" if client else "heartbeat")
    story.tell(10.1, Kind.BACKOFF, client, attempt=1, value=100.0 * (client + 1))
    for attempt in range(client + 1):
        story.tell(12.5 + attempt, Kind.CONNECT_ATTEMPTED, client, attempt=attempt + 1)
    if client:
        story.tell(13.0, Kind.CONNECT_FAILED, client)
    story.tell(13.0 + client, Kind.SUBSCRIBED, client, value=30.0)
    story.tell(13.5 + client, Kind.REPLAYED, client, STREAM, 2 * client, value=float(client))
    story.tell(13.5 + client, Kind.REPLAY_COMPLETED, client, value=40.0 * (client + 1))
    story.apply(client, 4, t=21.25 + client).tell(25.0, Kind.CLIENT_LAG, client, value=float(client))


SMALL_STORM: list[Row] = [
    ("live_again_50_s", 2.0, "s", 3, "lower"),
    ("live_again_95_s", 3.0, "s", 3, "lower"),
    ("live_again_99_s", 3.0, "s", 3, "lower"),
    ("caught_up_99_s", 3.5, "s", 3, "lower"),
    ("clients_disconnected_by_faults", 3, "clients", 1, "neither"),
    ("attempts_per_client_mean", 2.0, "attempts", 3, "lower"),
    ("attempts_per_client_max", 3.0, "attempts", 3, "lower"),
    ("peak_connects_per_s", 3, "connects/s", 9, "lower"),
    ("connects_attempted", 9, "connects", 9, "neither"),
    ("connects_failed", 2, "count", 2, "lower"),
    ("disconnects", 3, "disconnects", 3, "lower"),
    ("disconnects.network", 2, "disconnects", 3, "lower"),
    ("disconnects.heartbeat", 1, "disconnects", 3, "lower"),
    ("heartbeat_timeouts", 1, "count", 1, "lower"),
    ("slow_consumer_evictions", 1, "count", 1, "lower"),
    ("frames_malformed", 1, "count", 1, "lower"),
    ("backoff_max_ms", 300.0, "ms", 3, "lower"),
    ("replay_amplification", 2.25, "events/event", 5, "lower"),  # 9 events for 4
    ("rebootstrapped_share", 0.25, "ratio", 4, "lower"),
    ("stale_answers", 1, "answers", 7, "lower"),
    ("declared_loss_events", 2.0, "events", 2, "lower"),
    ("unconverged_clients", 3, "clients", 4, "lower"),
    ("published_events", 4, "events", 4, "neither"),
    ("publishes_failed", 1, "publishes", 5, "lower"),
    ("applied_events", 12, "events", 12, "neither"),
    ("dropped_deliveries", 0, "events", 12, "lower"),
    ("duplicates_dropped", 1, "count", 1, "neither"),
    ("gaps", 1, "count", 1, "lower"),
    ("publish_to_apply_p50_ms", 2000.0, "ms", 12, "lower"),
    ("publish_to_apply_p95_ms", 3000.0, "ms", 12, "lower"),
    ("publish_to_apply_p99_ms", 3000.0, "ms", 12, "lower"),
    ("publish_to_apply_max_ms", 3000.0, "ms", 12, "lower"),
    ("bootstrap_p50_ms", 80.0, "ms", 3, "lower"),
    ("bootstrap_p95_ms", 120.0, "ms", 3, "lower"),
    ("bootstrap_p99_ms", 120.0, "ms", 3, "lower"),
    ("bootstrap_max_ms", 120.0, "ms", 3, "lower"),
    ("client_lag_p50_events", 1.0, "events", 3, "lower"),
    ("client_lag_p95_events", 2.0, "events", 3, "lower"),
    ("client_lag_p99_events", 2.0, "events", 3, "lower"),
    ("client_lag_max_events", 2.0, "events", 3, "lower"),
    ("generator_lag_p50_ms", 50.0, "ms", 100, "lower"),
    ("generator_lag_p95_ms", 95.0, "ms", 100, "lower"),
    ("generator_lag_p99_ms", 99.0, "ms", 100, "lower"),
    ("generator_lag_max_ms", 100.0, "ms", 100, "lower"),
    ("token_mint_p50_ms", 5.0, "ms", 3, "lower"),
    ("token_mint_p95_ms", 6.0, "ms", 3, "lower"),
    ("token_mint_p99_ms", 6.0, "ms", 3, "lower"),
    ("token_mint_max_ms", 6.0, "ms", 3, "lower"),
]
COUNTED = {"disconnects", "unconverged_clients", "connects_attempted", "connects_failed", "clients_disconnected_by_faults"} | {
    *("heartbeat_timeouts", "slow_consumer_evictions", "frames_malformed", "stale_answers", "declared_loss_events", "gaps"),
    *("published_events", "publishes_failed", "applied_events", "dropped_deliveries", "duplicates_dropped"),
}


def test_every_metric_of_a_small_storm() -> None:
    assert measured(small_storm()) == SMALL_STORM


def test_empty_drill_has_counts_of_zero_and_no_other_values() -> None:
    for clients in (0, 2):
        values = {name: value for name, value, *_ in measured(Story(clients))}
        expected = dict.fromkeys(name for name, *_ in SMALL_STORM if not name.startswith("disconnects."))
        expected = {name: 0 if name in COUNTED else math.nan for name in expected}
        expected |= {"unconverged_clients": clients, "rebootstrapped_share": 0.0 if clients else math.nan}
        assert values == pytest.approx(expected, nan_ok=True)


def test_disconnect_without_a_reason_and_events_of_others_have_names() -> None:
    story = Story(1).tell(1.0, Kind.DISCONNECTED, 0).publish(1, t=1.0, marker=7)
    story.tell(2.0, Kind.APPLIED, 0, STREAM, 1, marker=7).tell(2.0, Kind.APPLIED, 0, STREAM, 2)
    assert {row for row in measured(story) if row[0] in ("disconnects.unknown", "foreign_events")} == {
        ("disconnects.unknown", 1, "disconnects", 1, "lower"),
        ("foreign_events", 1, "events", 2, "neither"),
    }


FLEET = Tally(
    clients=100,
    events=1000,
    bin_s=10.0,
    series={},
    totals={"connects_attempted": 300, "connects_failed": 7, "backoffs": 90, "rebootstrapped": 20, "stale_answers": 3}
    | {"subscribe_answers": 200, "published": 270},
    disconnects={"server": 5, "heartbeat": 5, "network": 100, "unused": 0},
    peak_connects_per_s=20,
    recoveries=[
        Recovery("drop_sockets", 0, 30.0, 50.0, 60, {"50": 2.0, "95": 5.0, "99": 6.0}, 1.5, 2),
        Recovery("restart", 1, 30.0, 50.0, 40, {"50": 3.0, "95": 4.0, "99": None}, 3.0, 5),
    ],
    bootstrap_ms=Sizes([100.0, 600.0], [95, 5]),
    token_ms=Sizes([4.0], [2]),
    max_backoff_ms=8000.0,
    herds=[],
    lives=[],
    unconverged=4,
    overloaded_at_s=None,
)
OF_FLEET: list[Row] = [
    ("live_again_50_s", 3.0, "s", 100, "lower"),
    ("live_again_95_s", 5.0, "s", 100, "lower"),
    ("live_again_99_s", math.inf, "s", 100, "lower"),
    ("caught_up_99_s", math.inf, "s", 100, "lower"),
    ("clients_disconnected_by_faults", 100, "clients", 2, "neither"),
    ("attempts_per_client_mean", pytest.approx(2.1), "attempts", 100, "lower"),  # (60 * 1.5 + 40 * 3) / 100
    ("attempts_per_client_max", 5.0, "attempts", 100, "lower"),
    ("peak_connects_per_s", 20, "connects/s", 300, "lower"),
    ("connects_attempted", 300, "connects", 300, "neither"),
    ("connects_failed", 7, "count", 7, "lower"),
    ("disconnects", 110, "disconnects", 110, "lower"),
    ("disconnects.network", 100, "disconnects", 110, "lower"),
    ("disconnects.heartbeat", 5, "disconnects", 110, "lower"),
    ("disconnects.server", 5, "disconnects", 110, "lower"),
    ("backoff_max_ms", 8000.0, "ms", 90, "lower"),
    ("rebootstrapped_share", 0.2, "ratio", 100, "lower"),
    ("stale_answers", 3, "answers", 200, "lower"),
    ("unconverged_clients", 4, "clients", 100, "lower"),
    ("published_events", 270, "events", 270, "neither"),
    ("bootstrap_p50_ms", 100.0, "ms", 100, "lower"),
    ("bootstrap_p95_ms", 100.0, "ms", 100, "lower"),
    ("bootstrap_p99_ms", 600.0, "ms", 100, "lower"),
    ("bootstrap_max_ms", 600.0, "ms", 100, "lower"),
    ("token_mint_p50_ms", 4.0, "ms", 2, "lower"),
    ("token_mint_p95_ms", 4.0, "ms", 2, "lower"),
    ("token_mint_p99_ms", 4.0, "ms", 2, "lower"),
    ("token_mint_max_ms", 4.0, "ms", 2, "lower"),
]


def of_fleet(**changes: Any) -> list[Row]:
    return measured(Story(100, header={"tally": msgspec.structs.replace(FLEET, **changes)}))


def test_every_metric_of_a_fleet_run() -> None:
    assert of_fleet() == OF_FLEET


def test_what_a_fleet_run_without_faults_did_not_count_is_no_number() -> None:
    nothing = ("live_again_50_s", "caught_up_99_s", "attempts_per_client_mean", "attempts_per_client_max", "backoff_max_ms")
    values = {name: value for name, value, *_ in of_fleet(recoveries=[], peak_connects_per_s=None, max_backoff_ms=None)}
    assert all(math.isnan(values[name]) for name in (*nothing, "peak_connects_per_s"))
    assert values["clients_disconnected_by_faults"] == 0
