"""The policy `desktop` inside a session answers as the shipped client did, and costs what it cost."""

import pytest

from sim.protocols.spacetime.frames import HeartbeatPush, SyncError, Watermark
from tests.client.hand import RUN, Hand, batch, stale
from tests.client.server_double import Endpoints, RuntimeSettings


def test_batches_do_to_the_checkpoint_what_they_did_to_the_shipped_clients(vectors):
    for line in vectors("desktop_apply"):
        hand = Hand("desktop", checkpoints={RUN: line["start"]}).go_live()
        for step in line["steps"]:
            hand.notices.clear()
            hand.receive(batch(*step["batch"]))
            assert hand.seqs("applied") == step["applied"]
            assert hand.seqs("duplicate_dropped") == step["duplicate"]
            assert hand.seqs("gap") == step["gap"]
            cursor = hand.session.replica.cursors[RUN]
            assert cursor.watermark == cursor.checkpoint == step["checkpoint"]
            assert hand.actions() == []


def disconnect(hand: Hand, reason: str) -> None:
    if reason == "stale_cursor":
        hand.receive(SyncError(stale()))
        hand.closes()
    else:
        hand.lose(reason)


def test_delays_cursors_and_tokens_follow_the_shipped_clients_history(vectors):
    for history in vectors("desktop_lifecycle"):
        hand = Hand("desktop", checkpoints={RUN: 5})
        ask, head, expected_cursor = hand.begin(), 5, 5
        for step in history:
            if "live" in step:
                head = expected_cursor = head + 1
                hand.receive(batch(head))
                hand.reply(ask.ref)
                continue
            disconnect(hand, step["disconnect"])
            assert hand.delay_ms() == step["delay_ms"], history
            expected_cursor = 0 if step["reset_cursor"] else expected_cursor
            tokens = hand.tokens
            ask = hand.come_back()
            assert ask.resume_after == {RUN: expected_cursor}
            assert (hand.tokens > tokens) == step["refresh_token"]


def test_going_live_does_not_reset_its_count_and_it_draws_no_jitter():
    delays = []
    for client in (0, 1):
        hand = Hand("desktop", client=client).go_live(1)
        for _ in range(7):
            hand.wait(14.0)
            hand.lose("network")
            ask = hand.come_back()
            hand.receive(batch(head=1))
            hand.reply(ask.ref)
        delays.append([notice.value for notice in hand.of("backoff")])
    assert delays[0] == delays[1] == [250, 500, 1000, 2000, 4000, 8000, 8000]


def test_it_ignores_hints():
    hand = Hand("desktop").go_live(1)
    hand.error("slow_consumer", action="disconnect", reconnect_after_ms=2000.0)
    assert hand.delay_ms() == 250


def test_without_a_checkpoint_but_with_a_known_head_it_starts_at_the_head():
    hand = Hand("desktop")
    ask = hand.begin()
    assert ask.resume_after == {}
    hand.receive(batch(head=40))
    hand.reply(ask.ref)
    hand.lose("network")
    assert hand.come_back().resume_after == {RUN: 40}


def test_heartbeats_do_not_make_it_ask_for_what_it_missed():
    hand = Hand("desktop").go_live(1)
    for _ in range(3):
        hand.receive(HeartbeatPush((Watermark(RUN, 5),)))
    assert hand.actions() == []


def test_after_one_missed_event_it_loses_the_rest_in_silence():
    service = Endpoints(1, "desktop", topics=(RUN,))
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
def test_a_stale_cursor_is_a_loop_for_the_desktop_and_a_detour_for_the_reference(policy):
    service = Endpoints(1, policy, topics=(RUN,), settings=RuntimeSettings(window_events=8))
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
