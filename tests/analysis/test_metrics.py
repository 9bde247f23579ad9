"""Metrics, samples and recovery of hand-written histories."""

import math

import numpy as np
import pyarrow as pa
import pytest

from sim.analysis import metrics, reconnects, samples
from sim.base.errors import EvidenceError
from sim.record.columns import Columns
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import SCHEMA, Kind
from tests.histories import STREAM, Row, Story, good_storm, run_header

INF = float("inf")


def storm(*back_after_s: float, ended_t: float = 12.0) -> Story:
    """A fault from 10 s to `ended_t` disconnects all clients at 10.1 s; `back_after_s` is each recovery time (inf: never)."""
    story = Story(len(back_after_s)).tell(10.0, Kind.FAULT_INJECTED, detail="drop_sockets")
    for client, back_s in enumerate(back_after_s):
        story.tell(1.0, Kind.SUBSCRIBED, client).tell(10.1, Kind.DISCONNECTED, client, detail="network")
        story.tell(11.0, Kind.CONNECT_ATTEMPTED, client, attempt=2)
        if back_s < INF:
            t = ended_t + back_s
            story.tell(t - 0.1, Kind.CONNECT_ATTEMPTED, client).tell(t, Kind.SUBSCRIBED, client)
            story.tell(t + 1.0, Kind.REPLAY_COMPLETED, client, value=60.0)
    return story.tell(ended_t, Kind.FAULT_REVERTED, detail="drop_sockets")


def measured(story: Story) -> dict[str, metrics.Metric]:
    history = story.history()
    return {metric.name: metric for metric in metrics.run_metrics(history, Ledger(history))}


# --- recovery ---------------------------------------------------------------------------------------


def test_recovery_counts_from_the_end_of_the_fault() -> None:
    (episode,) = reconnects.episodes(storm(1.0, 2.0, 3.0, 4.0).history())
    assert episode.live_s.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert episode.caught_up_s.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert episode.attempts.tolist() == [2, 2, 2, 2]


def test_recovery_before_the_end_of_the_fault_takes_no_time() -> None:
    assert reconnects.episodes(storm(-1.5, 1.0).history())[0].live_s.tolist() == [0.0, 1.0]


def test_client_that_never_recovers_is_infinite() -> None:
    found = measured(storm(1.0, 2.0, INF))
    assert found["live_again_50_s"].value == 2.0
    assert found["live_again_99_s"].value == INF
    assert found["caught_up_99_s"].value == INF
    assert found["live_again_99_s"].n == 3


def test_recovery_counts_from_the_last_disconnect() -> None:
    story = storm(5.0).tell(10.5, Kind.SUBSCRIBED, 0).tell(11.5, Kind.DISCONNECTED, 0)
    assert reconnects.episodes(story.history())[0].live_s.tolist() == [5.0]


def test_disconnects_within_a_second_after_the_fault_count() -> None:
    (episode,) = reconnects.episodes(storm(1.0, ended_t=10.0).history())
    assert episode.clients == 1


def test_fault_without_disconnects_is_not_an_episode() -> None:
    story = Story(1).tell(1.0, Kind.SUBSCRIBED, 0).tell(10.0, Kind.FAULT_INJECTED).tell(11.0, Kind.FAULT_REVERTED)
    assert reconnects.episodes(story.tell(20.0, Kind.DISCONNECTED, 0).history()) == []


def test_no_client_recovers_from_a_fault_that_never_ends() -> None:
    story = storm(1.0).without(lambda row: row.kind == Kind.FAULT_REVERTED)
    assert reconnects.episodes(story.history())[0].live_s.tolist() == [INF]


def test_worst_of_two_faults_counts() -> None:
    story = storm(1.0).tell(30.0, Kind.FAULT_INJECTED, attempt=1, detail="kill_runtime").tell(30.1, Kind.DISCONNECTED, 0)
    story.tell(31.0, Kind.FAULT_REVERTED, attempt=1).tell(38.0, Kind.SUBSCRIBED, 0)
    assert measured(story)["live_again_99_s"].value == 7.0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.75, 3.0), (0.95, 4.0), (1.0, 4.0), (0.01, 1.0)])
def test_time_until_a_share(share: float, expected: float) -> None:
    assert reconnects.time_until(share, np.array([1.0, 2.0, 3.0, 4.0])) == expected


def test_time_until_without_clients_is_nan() -> None:
    assert math.isnan(reconnects.time_until(0.99, np.array([])))


def test_peak_second_slides() -> None:
    story = Story(1).tell(5.0, Kind.FAULT_INJECTED)
    for t in (1.0, 1.1, 1.2, 1.3, 6.9, 7.0, 7.1, 7.95):  # the first four are before the fault
        story.tell(t, Kind.CONNECT_ATTEMPTED, 0)
    assert reconnects.peak_connects_per_s(story.history()) == 3


def test_peak_without_a_fault_is_nan() -> None:
    story = Story(1).tell(1.0, Kind.CONNECT_ATTEMPTED, 0)
    assert math.isnan(reconnects.peak_connects_per_s(story.history()))


def test_amplification() -> None:
    story = Story(1).tell(1.0, Kind.REPLAYED, 0, STREAM, 500, value=500.0).tell(5.0, Kind.FAULT_INJECTED)
    story.tell(6.0, Kind.REPLAYED, 0, STREAM, 30, value=10.0).tell(7.0, Kind.REPLAYED, 0, STREAM, 10, value=10.0)
    assert metrics.replay_amplification(story.history()).value == 2.0


def test_amplification_without_missed_events_is_nan() -> None:
    story = Story(1).tell(5.0, Kind.FAULT_INJECTED).tell(6.0, Kind.REPLAYED, 0, STREAM, 30, value=0.0)
    assert math.isnan(metrics.replay_amplification(story.history()).value)


# --- backoff ----------------------------------------------------------------------------------------


def test_herd_is_found_at_every_attempt() -> None:
    story = Story(40)
    for client in range(40):
        story.tell(1.0, Kind.BACKOFF, client, attempt=1, value=250.0 * client / 40)
        story.tell(2.0, Kind.BACKOFF, client, attempt=2, value=500.0)
    shares = {herd.attempt: herd.share for herd in reconnects.herds(story.history())}
    assert shares[1] == pytest.approx(0.1, abs=0.03)
    assert shares[2] == 1.0
    assert shares[0] >= 0.5


def test_token_refreshes_and_hints_are_not_a_herd() -> None:
    story = Story(1)
    for detail in ("token_refresh_due", "network:hint"):
        story.tell(1.0, Kind.BACKOFF, 0, attempt=1, value=100.0, detail=detail)
    assert reconnects.herds(story.history()) == []


def test_nominal_steps_end_at_the_cap() -> None:
    attempts = np.array([1, 2, 5, 6, 7, 1_000_000])
    assert reconnects.nominal_step_ms(attempts).tolist() == [250, 500, 4000, 8000, 8000, 8000]


def lives(*spells: tuple[float, float, int]) -> Story:
    """One client: live from, live until, and the attempt of the backoff after it."""
    story = Story(1)
    for begin, end, attempt in spells:
        story.tell(begin, Kind.SUBSCRIBED, 0).tell(end, Kind.DISCONNECTED, 0).tell(
            end, Kind.BACKOFF, 0, attempt=attempt, value=1.0
        )
    return story


@pytest.mark.parametrize(
    ("story", "n", "missed"),
    [
        (lives((0, 10, 1)), 0, 0),  # nothing came before
        (lives((0, 10, 1), (11, 20, 1)), 1, 0),
        (lives((0, 10, 1), (11, 20, 2)), 1, 1),
        (lives((0, 10, 1), (11, 13, 2)), 0, 0),  # live too short for a reset
        (lives((0, 10, 1), (11, 13, 2), (14, 30, 3)), 1, 1),
        (lives((0, 10, 1)).tell(12, Kind.BACKOFF, 0, attempt=2, value=1.0), 0, 0),  # was not live in between
    ],
)
def test_backoff_resets_after_a_live_period(story: Story, n: int, missed: int) -> None:
    found = reconnects.backoff_resets(story.history(), 5.0)
    assert (found.n, len(found.missed)) == (n, missed)


# --- samples ----------------------------------------------------------------------------------------


def test_latency_counts_from_the_due_moment_and_only_for_live_clients() -> None:
    story = (
        Story(2)
        .tell(0.0, Kind.PHASE, detail="steady")
        .tell(10.0, Kind.PHASE, detail="fault")
        .tell(20.0, Kind.PHASE, detail="recovery")
    )
    story.fresh(0, t=0.5).fresh(1, t=5.0)
    story.publish(1, t=2.0, value=100.0).publish(2, t=12.0).publish(3, t=21.0)
    for client in (0, 1):
        story.apply(client, 1, t=6.0).apply(client, 2, t=15.0).apply(client, 3, t=21.5)
    history = story.history()
    found = samples.publish_to_apply_ms(history, Ledger(history))
    assert sorted(found.round(3).tolist()) == [500.0, 500.0, 4100.0]


def test_event_applied_again_after_a_restart_has_no_latency() -> None:
    story = Story(1).publish(1, 2, t=2.0).fresh(0).apply(0, 1, 2, t=2.5)
    story.tell(5.0, Kind.RESTARTED, 0, STREAM, 0, detail="old").apply(0, 1, 2, t=6.0)
    history = story.history()
    assert samples.publish_to_apply_ms(history, Ledger(history)).round(3).tolist() == [500.0, 500.0]


def test_bootstraps_after_the_first_fault_count_if_there_are_any() -> None:
    story = Story(1).tell(1.0, Kind.REPLAY_COMPLETED, 0, value=10.0).tell(2.0, Kind.REPLAY_COMPLETED, 0)
    assert samples.bootstrap_ms(story.history()).tolist() == [10.0]
    story.tell(3.0, Kind.FAULT_INJECTED).tell(4.0, Kind.REPLAY_COMPLETED, 0, value=20.0)
    assert samples.bootstrap_ms(story.history()).tolist() == [20.0]


def test_lag_in_the_fault_phase_is_left_out() -> None:
    story = Story(1).tell(10.0, Kind.PHASE, detail="fault").tell(20.0, Kind.PHASE, detail="recovery")
    for t in (5.0, 15.0, 25.0):
        story.tell(t, Kind.CLIENT_LAG, 0, value=t)
    assert samples.client_lag_events(story.history()).tolist() == [5.0, 25.0]


def test_expected_and_dropped_deliveries() -> None:
    story = Story(2).publish(1, 2, 3, 4).fresh(0).fresh(1, baseline=2).apply(0, 1, 2).apply(1, 3, 4).audit(1, 2, 3, 4)
    story = story.changed(lambda row: row.kind == Kind.PUBLISHED, t=0.2)
    ledger = story.ledger()
    assert (ledger.expected, ledger.dropped.count, ledger.silent.count) == (6, 2, 0)


def test_client_that_got_nothing_is_known_from_the_header() -> None:
    story = Story(1, header={"subscriptions": {"0": [STREAM]}}).publish(1, 2).tell(0.5, Kind.SUBSCRIBED, 0)
    assert (story.ledger().expected, story.ledger().dropped.count) == (2, 2)


def test_metrics_of_an_empty_history_are_nan() -> None:
    found = measured(Story())
    assert found["publish_to_apply_p95_ms"].n == 0
    assert math.isnan(found["publish_to_apply_p95_ms"].value)
    assert math.isnan(found["live_again_99_s"].value)


def test_metrics_of_a_healthy_storm() -> None:
    found = measured(good_storm(40))
    assert found["clients_disconnected_by_faults"].value == 40
    assert found["published_events"].value == 330
    assert found["dropped_deliveries"].value == 0
    assert found["replay_amplification"].value == 1.0
    assert found["disconnects.network"].value == 40


# --- what is no evidence ----------------------------------------------------------------------------


def table(*rows: Row) -> pa.Table:
    columns = Columns()
    for row in rows:
        columns.add(row.t, str(row.kind), row.client, row.stream, row.seq, row.attempt, row.value, row.detail)
    return columns.table()


def test_unknown_kind_is_refused() -> None:
    columns = Columns()
    columns.add(1.0, "wishful")
    with pytest.raises(EvidenceError, match="wishful"):
        History(run_header(1), columns.table())


@pytest.mark.parametrize("t", [float("nan"), INF])
def test_time_that_is_not_finite_is_refused(t: float) -> None:
    with pytest.raises(EvidenceError, match="time"):
        History(run_header(1), table(Row(t, Kind.APPLIED)))


def test_empty_cells_are_refused() -> None:
    good = table(Row(1.0, Kind.APPLIED))
    holed = good.set_column(2, SCHEMA.field("client"), pa.array([None], pa.int32()))
    with pytest.raises(EvidenceError, match="client"):
        History(run_header(1), holed)


def test_dictionaries_of_several_chunks_are_unified() -> None:
    parts = [table(Row(1.0, Kind.APPLIED, 0, "b", 1)), table(Row(2.0, Kind.GAP, 0, "a", 2), Row(3.0, Kind.APPLIED, 0, "b", 3))]
    history = History(run_header(1), pa.concat_tables(parts))
    rows = history.of(Kind.APPLIED)
    assert [history.streams[code] for code in rows.stream] == ["b", "b"]
    assert rows.seq.tolist() == [1, 3]


def test_stale_answer_for_two_streams_counts_once() -> None:
    story = Story(1).tell(1.0, Kind.STALE, 0, STREAM, 1, attempt=1).tell(1.0, Kind.STALE, 0, "other", 1, attempt=1)
    assert len(samples.stale_answers(story.history())) == 1
    assert samples.subscribe_answers(story.history()) == 1


def test_window_excludes_its_end() -> None:
    assert samples.fullest_window(np.array([0.0, 1.0, 2.0]), 1.0) == 1
    assert samples.fullest_window(np.array([0.0, 0.5, 1.0]), 1.0) == 2
    assert samples.fullest_window(np.array([]), 1.0) == 0
