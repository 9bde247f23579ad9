"""A client session applies a replay and the live tail: order, duplicates, gaps and wrong hashes."""

import msgspec
import pytest

from sim.protocols.events import DisconnectReason
from sim.protocols.spacetime.frames import UpdateBatch
from tests.client.session_driver import RUN, WORKER, SessionDriver, batch, heads, update


def test_session_connects_replays_and_goes_live(driver):
    subscribe = driver.begin()
    assert (subscribe.topics, subscribe.resume_after, subscribe.replay_batch_size) == ((RUN,), {}, 200)
    assert driver.seqs("replay_started") == [-1], "without a position"
    driver.receive(batch(1, 2, complete=False, head=3))
    assert not driver.session.is_live
    driver.receive(batch(3))
    assert not driver.session.is_caught_up
    driver.reply(subscribe.ref)
    assert driver.session.is_live
    assert driver.session.is_caught_up
    driver.receive(batch(4))
    assert driver.seqs("applied") == [1, 2, 3, 4]
    assert [notice.kind for notice in driver.notices if notice.kind not in ("applied", "received")] == [
        *("token_minted", "connect_attempted", "connect_done", "joined", "replay_started", "rebootstrapped"),
        *("checkpoint_written", "checkpoint_written", "subscribed", "replayed", "replay_completed", "checkpoint_written"),
    ]
    assert driver.seqs("checkpoint_written") == [2, 3, 4]


def test_durations_start_when_attempt_is_due(driver):
    driver.session.start(driver.now)
    driver.now += 0.5
    driver.mint()
    driver.now += 0.2
    driver.connect()
    driver.now += 0.1
    driver.replay(driver.join(), batch())
    value = {notice.kind: notice.value for notice in driver.notices + driver.of("replay_completed")}
    assert value["token_minted"] == pytest.approx(500)
    assert value["connect_done"] == pytest.approx(200)
    assert value["subscribed"] == value["replay_completed"] == pytest.approx(300)


def test_client_resumes_after_its_checkpoint():
    driver = SessionDriver(checkpoints={RUN: 5}, topics=(RUN, WORKER))
    subscribe = driver.begin()
    assert subscribe.resume_after == {RUN: 5}
    driver.replay(subscribe, batch(6, 7))
    assert driver.seqs("applied") == [6, 7]


def test_client_resumes_from_watermark_with_same_token_after_disconnect():
    driver = SessionDriver().go_live(1, 2, 3)
    driver.lose("connection reset by peer")
    assert driver.of("disconnected")[-1].detail == DisconnectReason.NETWORK
    assert driver.reconnect().resume_after == {RUN: 3}
    assert driver.tokens == 1


def test_live_batch_carries_several_topics_without_complete_flag():
    driver = SessionDriver(topics=(RUN, WORKER)).go_live(1)
    driver.receive(UpdateBatch((update(2), update(1, WORKER), update(3), update(2, WORKER))))
    assert driver.seqs("applied") == [1, 2, 1, 3, 2]
    assert not driver.of("gap")


def test_duplicate_is_dropped():
    driver = SessionDriver().go_live(1, 2)
    driver.receive(batch(2, 3, 3))
    assert driver.seqs("applied") == [1, 2, 3]
    assert driver.seqs("duplicate_dropped") == [2, 3]
    assert driver.actions() == []


def test_copy_with_a_wrong_hash_is_dropped_and_reported():
    driver = SessionDriver().go_live(1, 2)
    driver.receive(UpdateBatch((msgspec.structs.replace(update(2), payload=msgspec.Raw(b'{"n":3}')),)))
    assert driver.seqs("hash_mismatch") == [2]
    assert driver.actions() == [], "nothing is missing"


def test_copy_is_reported_with_its_hash():
    driver = SessionDriver().go_live(1, 2)
    driver.receive(batch(2))
    (copy,), (applied,) = driver.of("duplicate_dropped"), [n for n in driver.of("applied") if n.seq == 2]
    assert copy.detail == applied.detail != ""


def test_gap_stops_applying_and_resubscribes_from_watermark():
    driver = SessionDriver().go_live(1, 2)
    driver.receive(batch(4, 5))
    assert driver.watermark == 2
    subscribe = driver.subscribe()
    assert subscribe.resume_after == {RUN: 2}
    driver.receive(batch(6))  # the live tail continues between the subscribe and its replay
    assert driver.actions() == []
    driver.replay(subscribe, batch(3, 4, 5, 6))
    assert driver.seqs("applied") == [1, 2, 3, 4, 5, 6]
    assert [(n.seq, n.value, n.detail) for n in driver.of("gap")] == [(4, 2.0, "live"), (5, 2.0, "live"), (6, 2.0, "live")]
    assert driver.actions() == []


def test_corrupt_payload_is_not_applied_and_requested_again(live):
    corrupt = msgspec.structs.replace(update(2), payload=msgspec.Raw(b'{"n":3}'))
    live.receive(UpdateBatch((corrupt,)))
    assert live.seqs("hash_mismatch") == [2]
    live.replay(live.subscribe(), batch(2))
    assert live.seqs("applied") == [1, 2]


def test_event_of_unsubscribed_topic_is_reported_and_ignored(live):
    live.receive(batch(9, topic=WORKER))
    assert [(n.stream, n.seq) for n in live.of("ungranted")] == [("runtime.codex.worker.events", 9)]
    assert live.actions() == []


def test_unfilled_gap_is_requested_with_backoff_then_client_reconnects(live):
    live.receive(batch(3))
    asked_at = []
    for _ in range(3):
        live.wait(live.session.wake_at() - live.now if asked_at else 0.0)
        asked_at.append(live.now)
        subscribe = live.subscribe()
        live.replay(subscribe, batch(3))
    live.expect_close()
    assert asked_at[0] < asked_at[1] < asked_at[2]
    assert [n.detail for n in live.of("gap") if n.detail == "replay"] == ["replay", "replay"]
    assert live.reconnect().resume_after == {RUN: 1}


def test_gap_inside_replay_is_reported_as_replay_gap():
    driver = SessionDriver(checkpoints={RUN: 1})
    driver.replay(driver.begin(), batch(2, 4))
    assert [(n.seq, n.value, n.marker) for n in driver.of("gap") if n.detail == "replay"] == [(4, 2.0, -1)]
    driver.wait(1.0)
    assert driver.subscribe().resume_after == {RUN: 2}


def test_replay_below_cursor_is_reported_but_late_duplicate_is_not():
    driver = SessionDriver(checkpoints={RUN: 3})
    driver.replay(driver.begin(), batch(2, 3, 4))
    assert [(n.seq, n.value) for n in driver.of("replay_below_cursor")] == [(2, 3.0), (3, 3.0)]
    driver.receive(batch(6))
    driver.subscribe()
    driver.receive(batch(4))
    assert len(driver.of("replay_below_cursor")) == 2


def test_gap_of_earlier_connection_does_not_trigger_resubscribe(live):
    live.receive(batch(9))
    live.lose("network")
    live.replay(live.reconnect(), batch(2))
    live.receive(heads(2))
    live.receive(heads(2))
    live.wait(1.0)
    assert live.actions() == []


def test_event_zero_is_not_applied():
    driver = SessionDriver().go_live(0, 1)
    assert driver.seqs("applied") == [1]
    assert driver.watermark == 1
