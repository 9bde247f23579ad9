"""The policy `desktop` reproduces the quirks of the shipped desktop client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.client.cursor import apply_as_desktop
from sim.protocols.spacetime.frames import HeartbeatPush, SyncError, Watermark
from tests.client.server_double import InMemoryService, RuntimeSettings
from tests.client.session_driver import RUN, SessionDriver, batch, stale


@given(st.integers(0, 30), st.lists(st.integers(1, 40)))
def test_every_event_of_a_batch_has_one_outcome(watermark, seqs):
    batch = apply_as_desktop(watermark, seqs)
    assert sorted(batch.applied + batch.duplicate + batch.gap) == sorted(seqs)
    assert batch.checkpoint >= watermark


def test_desktop_session_moves_checkpoint_like_shipped_client(vectors):
    for line in vectors("desktop_apply"):
        driver = SessionDriver("desktop", checkpoints={RUN: line["start"]}).go_live()
        for step in line["steps"]:
            driver.notices.clear()
            driver.receive(batch(*step["batch"]))
            assert driver.seqs("applied") == step["applied"]
            assert driver.seqs("duplicate_dropped") == step["duplicate"]
            assert driver.seqs("gap") == step["gap"]
            cursor = driver.session.replica.cursors[RUN]
            assert cursor.watermark == cursor.checkpoint == step["checkpoint"]
            assert driver.actions() == []


def disconnect(driver: SessionDriver, reason: str) -> None:
    if reason == "stale_cursor":
        driver.receive(SyncError(stale()))
        driver.expect_close()
    else:
        driver.lose(reason)


def test_desktop_session_follows_history_of_shipped_client(vectors):
    for history in vectors("desktop_lifecycle"):
        driver = SessionDriver("desktop", checkpoints={RUN: 5})
        subscribe, head, expected_cursor = driver.begin(), 5, 5
        for step in history:
            if "live" in step:
                head = expected_cursor = head + 1
                driver.replay(subscribe, batch(head))
                continue
            disconnect(driver, step["disconnect"])
            assert driver.delay_ms() == step["delay_ms"], history
            expected_cursor = 0 if step["reset_cursor"] else expected_cursor
            tokens = driver.tokens
            subscribe = driver.reconnect()
            assert subscribe.resume_after == {RUN: expected_cursor}
            assert (driver.tokens > tokens) == step["refresh_token"]


def test_desktop_never_resets_attempts_and_has_no_jitter():
    delays = []
    for client in (0, 1):
        driver = SessionDriver("desktop", client=client).go_live(1)
        for _ in range(8):
            driver.wait(14.0)
            driver.lose("network")
            subscribe = driver.reconnect()
            driver.replay(subscribe, batch(head=1))
        delays.append([notice.value for notice in driver.of("backoff")])
    assert delays[0] == delays[1] == [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]


def test_desktop_ignores_hints():
    driver = SessionDriver("desktop").go_live(1)
    driver.error("slow_consumer", action="disconnect", reconnect_after_ms=2000.0)
    assert driver.delay_ms() == 250


def test_desktop_without_checkpoint_starts_at_known_head():
    driver = SessionDriver("desktop")
    subscribe = driver.begin()
    assert subscribe.resume_after == {}
    driver.replay(subscribe, batch(head=40))
    driver.lose("network")
    assert driver.reconnect().resume_after == {RUN: 40}


def test_desktop_does_not_resubscribe_after_heartbeats():
    driver = SessionDriver("desktop").go_live(1)
    for _ in range(3):
        driver.receive(HeartbeatPush((Watermark(RUN, 5),)))
    assert driver.actions() == []


def test_desktop_loses_later_events_silently_after_missed_event():
    service = InMemoryService(1, "desktop", topics=(RUN,))
    service.publish(RUN, 2)
    service.carry(0)
    service.switch(skip_live_clients=1.0, skip_live_events=1.0)
    service.publish(RUN)
    service.carry(0)
    service.switch()
    for _ in range(4):
        service.publish(RUN)
        service.carry(0)
    assert service.applied(0, RUN) == [1, 2]
    assert service.sessions[0].replica.cursors[RUN].checkpoint == 6  # far above what it applied
    assert service.silently_lost(0, RUN) == {3, 4, 5, 6, 7}
    assert not service.of(0, "declared_loss")


@pytest.mark.parametrize("policy", ["desktop", "reference"])
def test_stale_cursor_loops_on_desktop_and_recovers_on_reference(policy):
    service = InMemoryService(1, policy, topics=(RUN,), settings=RuntimeSettings(window_events=8))
    service.publish(RUN, 2)
    service.carry(0)
    service.cut(0)
    service.publish(RUN, 20)
    service.advance(120.0, carrying=True)
    stale_answers = [(notice.seq, notice.detail) for notice in service.of(0, "stale")]
    if policy == "reference":
        assert stale_answers == [(2, "retention_floor_breach")]
        assert service.sessions[0].is_live
        return
    assert stale_answers[0] == (2, "retention_floor_breach")
    assert set(stale_answers[1:]) == {(0, "retention_floor_breach")}
    assert len(stale_answers) > 10
    assert not service.sessions[0].is_live
