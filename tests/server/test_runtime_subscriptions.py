"""Subscriptions: replays, stale cursors, snapshots, and how a subscription ends."""

import json

import pytest

from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.codec import push_parts
from sim.protocols.spacetime.frames import (
    Body,
    Join,
    Leave,
    Reply,
    Subscribe,
    SyncBeat,
    SyncError,
    Unsubscribe,
    UpdateBatch,
    Watermark,
)
from sim.server.settings import Switches
from tests.client.server_double import COMPATIBILITY
from tests.server.runtime_driver import WORKER, A, B, C, RuntimeDriver, seqs


@pytest.mark.parametrize("frame", [Subscribe("2", (), {}), Subscribe("2", (A,), {}, bad_cursor=True)])
def test_bad_subscription_is_refused(driver, frame):
    (reply,) = driver.ask(driver.joined(), frame)
    assert (reply.ok, reply.body.code) == (False, "bad_subscription")


def test_topic_without_grant_is_forbidden(driver):
    number = driver.open(topics=(A,))
    driver.ask(number, Join("1", COMPATIBILITY))
    (reply,) = driver.ask(number, Subscribe("2", (A, B), {}))
    assert (reply.body.code, reply.body.forbidden_topics) == ("forbidden_topic", (B,))
    assert driver.runtime.counters.auth["forbidden_total"] == 1
    driver.publish(A)
    assert driver.pull(number) == []


def test_replay_batches_precede_reply_and_only_last_is_complete(driver):
    driver.publish(A, 7)
    driver.publish(B, 2)
    frames = driver.ask(driver.joined(), Subscribe("2", (A, B, C), {A: 2, C: 5}, 2))
    *batches, reply = frames
    assert (reply.ref, reply.ok) == ("2", True)
    assert [[u.watermark for u in b.updates] for b in batches] == [[3, 4], [5, 6], [7], [1, 2]]
    assert [b.replay_complete for b in batches] == [False, False, False, True]
    assert batches[0].head_watermarks == (Watermark(A, 7),)
    assert batches[-1].head_watermarks == (Watermark(A, 7), Watermark(B, 2), Watermark(C, 0))


def test_empty_replay_is_one_empty_complete_batch(driver):
    frames = driver.ask(driver.joined(), Subscribe("2", (A,), {}))
    assert frames == [UpdateBatch((), True, (Watermark(A, 0),)), Reply("2", True, frames[1].body)]


def test_cursor_above_head_gets_nothing_until_head_passes_it(driver):
    driver.publish(A, 2)
    number = driver.joined()
    assert seqs(driver.ask(number, Subscribe("2", (A,), {A: 4}))) == []
    driver.publish(A, 2)
    assert driver.pull(number) == []
    driver.publish(A, 1)
    assert seqs(driver.pull(number)) == [5]


def test_batch_size_is_limited_by_runtime_setting():
    driver = RuntimeDriver(replay_batch_size=3)
    driver.publish(A, 5)
    batches = driver.ask(driver.joined(), Subscribe("2", (A,), {}, 1000))[:-1]
    assert [len(batch.updates) for batch in batches] == [3, 2]


@pytest.mark.parametrize(
    ("settings", "switches", "published", "after", "reasons"),
    [
        ({"window_events": 5}, Switches(), 10, 2, ("retention_floor_breach",)),
        ({"replay_budget_events": 3}, Switches(), 10, 2, ("replay_budget_exceeded",)),
        ({}, Switches(shrunk_budget_events=3), 10, 2, ("replay_budget_exceeded",)),
        (
            {"window_events": 5, "replay_budget_events": 3},
            Switches(),
            10,
            2,
            ("retention_floor_breach", "replay_budget_exceeded"),
        ),
    ],
)
def test_stale_cursor_is_pushed_and_replied_with_all_contract_fields(settings, switches, published, after, reasons):
    driver = RuntimeDriver(switches, **settings)
    driver.publish(A, published)
    driver.publish(B, 1)
    number = driver.joined()
    push, reply = driver.ask(number, Subscribe("2", (A, B), {A: after, B: 1}))
    assert isinstance(push, SyncError)
    assert not reply.ok
    assert push.body == reply.body
    body = json.loads(push_parts(push)[1])
    assert set(body) == {"code", "message", "full_resync_required", "reason_codes", "stale_topics", "snapshot_plan"}
    assert (body["code"], body["full_resync_required"], tuple(body["reason_codes"])) == ("stale_cursor", True, reasons)
    budget = settings.get("replay_budget_events") or switches.shrunk_budget_events or 20_000
    floor = max(published - settings.get("window_events", 1024), 0)
    assert body["stale_topics"] == [
        {
            "topic": A,
            "reason": reasons[0],
            "qos_tier": "warm",
            "resume_after": after,
            "retention_floor": floor,
            "head_watermark": published,
            "replay_lag": published - after,
            "replay_budget_events": budget,
        }
    ]
    (planned,) = body["snapshot_plan"]["topics"]
    assert body["snapshot_plan"]["format"] == "openagents.sync.snapshot.v1"
    assert (planned["topic"], planned["head_watermark"]) == (A, published)
    assert planned["snapshot"]["watermark"] == published
    assert driver.runtime.counters.stale_cursors == 1
    driver.publish(B)
    assert driver.pull(number) == []  # a refused subscribe changes nothing


def test_topic_without_snapshots_has_null_snapshot_and_replays_without_cursor():
    driver = RuntimeDriver(window_events=5)
    driver.publish(WORKER, 10)
    number = driver.joined()
    _, reply = driver.ask(number, Subscribe("2", (WORKER,), {WORKER: 2}))
    assert reply.body.snapshot_plan.topics[0].snapshot is None
    assert seqs(driver.ask(number, Subscribe("3", (WORKER,), {}))) == [6, 7, 8, 9, 10]


def test_snapshot_is_reused_until_it_expires_or_falls_below_window():
    driver = RuntimeDriver(window_events=5)
    driver.publish(A, 10)
    number = driver.joined()

    def watermark() -> int:
        _, reply = driver.ask(number, Subscribe("2", (A,), {A: 1}))
        return reply.body.snapshot_plan.topics[0].snapshot["watermark"]

    assert watermark() == 10
    driver.publish(A, 3)
    assert watermark() == 10
    driver.publish(A, 5)
    assert watermark() == 18
    driver.publish(A)
    driver.now += 300.0
    assert watermark() == 19


def test_window_trimmed_below_live_subscriber_is_reported_by_push_only(driver):
    number = driver.live(A, B)
    driver.publish(A, 6)
    driver.publish(B, 1)
    driver.runtime.shrink_window(A, 2)
    frames = driver.pull(number)
    assert seqs(frames) == [1]  # the other topic continues
    (push,) = [frame for frame in frames if isinstance(frame, SyncError)]
    (topic,) = push.body.stale_topics
    assert (topic.topic, topic.resume_after, topic.retention_floor, topic.reason) == (A, 0, 4, "retention_floor_breach")
    driver.publish(A)
    assert driver.pull(number) == []


def test_replay_overtaken_by_window_is_refused_as_stale():
    driver = RuntimeDriver(window_events=10)
    driver.publish(A, 10)
    number = driver.joined()
    driver.send(number, Subscribe("2", (A,), {A: 0}, 3))
    assert driver.next(number).updates[-1].watermark == 3
    driver.publish(A, 10)
    frames = driver.pull(number)
    push, reply = frames
    assert isinstance(push, SyncError)
    assert isinstance(reply, Reply)
    assert (reply.ref, reply.ok, reply.body.code) == ("2", False, "stale_cursor")
    assert reply.body == push.body


def test_replay_without_cursor_starts_at_oldest_retained_event():
    driver = RuntimeDriver(window_events=4)
    driver.publish(A, 4)
    number = driver.joined()
    driver.send(number, Subscribe("2", (A,), {}))
    driver.publish(A, 6)
    frames = driver.pull(number)
    assert seqs(frames) == [7, 8, 9, 10]
    assert not [frame for frame in frames if isinstance(frame, SyncError)]


def test_second_subscribe_replays_from_its_cursor(driver, number):
    driver.publish(A, 3)
    assert seqs(driver.pull(number)) == [1, 2, 3]
    assert seqs(driver.ask(number, Subscribe("3", (A,), {A: 1}))) == [2, 3]
    driver.publish(A)
    assert seqs(driver.pull(number)) == [4]


def test_unsubscribe_leave_and_close_end_delivery(driver):
    number = driver.live(A, B)
    driver.publish(A)
    assert driver.ask(number, Unsubscribe("3", (A, C))) == [Reply("3", True)]
    driver.publish(A)
    driver.publish(B)
    assert seqs(driver.pull(number), B) == [1]
    assert driver.ask(number, Leave("4")) == [Reply("4", True, join_ref="1")]
    driver.publish(B)
    assert driver.pull(number) == []
    assert not driver.runtime.is_closing(number)
    driver.runtime.close(number)
    driver.runtime.close(number)
    assert driver.pull(number) == []
    assert driver.runtime.consumers == 0
    assert driver.runtime.wake_at() > driver.now


def test_client_joins_again_over_same_socket_after_leave(driver, number):
    driver.publish(A, 3)
    driver.pull(number)
    driver.send(number, Subscribe("3", (A,), {A: 0}))  # its replay is abandoned by the leave
    driver.send(number, Leave("4"))
    driver.send(number, Join("5", COMPATIBILITY, join_ref="5"))
    left, joined = driver.pull(number)
    assert (left.ref, left.ok, left.join_ref) == ("4", True, "1")
    assert (joined.ref, joined.ok, joined.join_ref) == ("5", True, "")
    assert driver.runtime.channel(number) == "5"
    driver.publish(A)
    assert driver.pull(number) == []
    assert seqs(driver.ask(number, Subscribe("6", (A,), {A: 3}))) == [4]


def test_second_join_resets_subscriptions(driver, number):
    assert driver.ask(number, Join("9", COMPATIBILITY, join_ref="9"))[0].ok
    driver.publish(A)
    assert driver.pull(number) == []
    assert not driver.ask(number, Join("10", Compatibility(protocol_version="spacetime.sync.v9"), join_ref="10"))[0].ok
    assert driver.ask(number, SyncBeat("11"))[0].body == Body(code="not_joined", message="join the channel first")


def test_recreated_log_closes_the_connections_that_follow_it():
    driver = RuntimeDriver()
    driver.publish(A, 3)
    follower, other = driver.live(A), driver.live(B, device="e")
    assert driver.runtime.recreate_log(A) == 3
    assert driver.runtime.is_closing(follower)
    assert not driver.runtime.is_closing(other)
