"""Subscriptions: replays, stale cursors, snapshots, and how a subscription ends."""

import json

import pytest

from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.codec import push_parts
from sim.protocols.spacetime.frames import (
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
from tests.server.runtime_driver import WORKER, A, B, C, Desk, seqs


@pytest.mark.parametrize("frame", [Subscribe("2", (), {}), Subscribe("2", (A,), {}, bad_cursor=True)])
def test_a_bad_subscription_is_refused(frame):
    desk = Desk()
    (reply,) = desk.tell(desk.joined(), frame)
    assert (reply.ok, reply.body.code) == (False, "bad_subscription")


def test_a_topic_that_was_not_granted_is_forbidden():
    desk = Desk()
    number = desk.open(topics=(A,))
    desk.tell(number, Join("1", COMPATIBILITY))
    (reply,) = desk.tell(number, Subscribe("2", (A, B), {}))
    assert (reply.body.code, reply.body.forbidden_topics) == ("forbidden_topic", (B,))
    assert desk.runtime.counters.auth["forbidden_total"] == 1
    desk.publish(A)
    assert desk.pull(number) == []


def test_a_replay_comes_in_batches_before_the_reply_and_only_its_last_is_complete():
    desk = Desk()
    desk.publish(A, 7)
    desk.publish(B, 2)
    frames = desk.tell(desk.joined(), Subscribe("2", (A, B, C), {A: 2, C: 5}, 2))
    *batches, reply = frames
    assert (reply.ref, reply.ok) == ("2", True)
    assert [[u.watermark for u in b.updates] for b in batches] == [[3, 4], [5, 6], [7], [1, 2]]
    assert [b.replay_complete for b in batches] == [False, False, False, True]
    assert batches[0].head_watermarks == (Watermark(A, 7),)
    assert batches[-1].head_watermarks == (Watermark(A, 7), Watermark(B, 2), Watermark(C, 0))


def test_an_empty_replay_is_one_empty_complete_batch():
    desk = Desk()
    frames = desk.tell(desk.joined(), Subscribe("2", (A,), {}))
    assert frames == [UpdateBatch((), True, (Watermark(A, 0),)), Reply("2", True, frames[1].body)]


def test_a_cursor_above_the_head_gets_nothing_until_the_head_passes_it():
    desk = Desk()
    desk.publish(A, 2)
    number = desk.joined()
    assert seqs(desk.tell(number, Subscribe("2", (A,), {A: 4}))) == []
    desk.publish(A, 2)
    assert desk.pull(number) == []
    desk.publish(A, 1)
    assert seqs(desk.pull(number)) == [5]


def test_a_batch_size_above_the_runtimes_own_is_cut_down():
    desk = Desk(replay_batch_size=3)
    desk.publish(A, 5)
    batches = desk.tell(desk.joined(), Subscribe("2", (A,), {}, 1000))[:-1]
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
def test_a_stale_cursor_is_pushed_and_replied_with_all_the_contract_names(settings, switches, published, after, reasons):
    desk = Desk(switches, **settings)
    desk.publish(A, published)
    desk.publish(B, 1)
    number = desk.joined()
    push, reply = desk.tell(number, Subscribe("2", (A, B), {A: after, B: 1}))
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
    assert desk.runtime.counters.stale_cursors == 1
    desk.publish(B)
    assert desk.pull(number) == []  # a refused subscribe changes nothing


def test_a_topic_without_snapshots_has_none_in_the_plan_and_none_is_stale_without_a_cursor():
    desk = Desk(window_events=5)
    desk.publish(WORKER, 10)
    number = desk.joined()
    _, reply = desk.tell(number, Subscribe("2", (WORKER,), {WORKER: 2}))
    assert reply.body.snapshot_plan.topics[0].snapshot is None
    assert seqs(desk.tell(number, Subscribe("3", (WORKER,), {}))) == [6, 7, 8, 9, 10]


def test_a_snapshot_is_kept_until_it_is_due_or_no_longer_reaches_the_window():
    desk = Desk(window_events=5)
    desk.publish(A, 10)
    number = desk.joined()

    def watermark() -> int:
        _, reply = desk.tell(number, Subscribe("2", (A,), {A: 1}))
        return reply.body.snapshot_plan.topics[0].snapshot["watermark"]

    assert watermark() == 10
    desk.publish(A, 3)
    assert watermark() == 10
    desk.publish(A, 5)
    assert watermark() == 18
    desk.publish(A)
    desk.now += 300.0
    assert watermark() == 19


def test_a_window_trimmed_under_a_live_subscriber_is_told_by_a_push_alone():
    desk = Desk()
    number = desk.live(A, B)
    desk.publish(A, 6)
    desk.publish(B, 1)
    desk.runtime.shrink_window(A, 2)
    frames = desk.pull(number)
    assert seqs(frames) == [1]  # the other topic goes on
    (push,) = [frame for frame in frames if isinstance(frame, SyncError)]
    (topic,) = push.body.stale_topics
    assert (topic.topic, topic.resume_after, topic.retention_floor, topic.reason) == (A, 0, 4, "retention_floor_breach")
    desk.publish(A)
    assert desk.pull(number) == []


def test_a_replay_overtaken_by_the_window_is_refused_as_stale_and_never_called_complete():
    desk = Desk(window_events=10)
    desk.publish(A, 10)
    number = desk.joined()
    desk.say(number, Subscribe("2", (A,), {A: 0}, 3))
    assert desk.next(number).updates[-1].watermark == 3
    desk.publish(A, 10)
    frames = desk.pull(number)
    push, reply = frames
    assert isinstance(push, SyncError)
    assert isinstance(reply, Reply)
    assert (reply.ref, reply.ok, reply.body.code) == ("2", False, "stale_cursor")
    assert reply.body == push.body


def test_a_replay_without_cursor_starts_at_what_is_retained_when_it_starts():
    desk = Desk(window_events=4)
    desk.publish(A, 4)
    number = desk.joined()
    desk.say(number, Subscribe("2", (A,), {}))
    desk.publish(A, 6)
    frames = desk.pull(number)
    assert seqs(frames) == [7, 8, 9, 10]
    assert not [frame for frame in frames if isinstance(frame, SyncError)]


def test_subscribing_again_goes_back_to_the_cursor():
    desk = Desk()
    number = desk.live(A)
    desk.publish(A, 3)
    assert seqs(desk.pull(number)) == [1, 2, 3]
    assert seqs(desk.tell(number, Subscribe("3", (A,), {A: 1}))) == [2, 3]
    desk.publish(A)
    assert seqs(desk.pull(number)) == [4]


def test_unsubscribing_leaving_and_closing_end_delivery():
    desk = Desk()
    number = desk.live(A, B)
    desk.publish(A)
    assert desk.tell(number, Unsubscribe("3", (A, C))) == [Reply("3", True)]
    desk.publish(A)
    desk.publish(B)
    assert seqs(desk.pull(number), B) == [1]
    assert desk.tell(number, Leave("4")) == [Reply("4", True, join_ref="1")]
    desk.publish(B)
    assert desk.pull(number) == []
    assert not desk.runtime.is_closing(number)
    desk.runtime.close(number)
    desk.runtime.close(number)
    assert desk.pull(number) == []
    assert desk.runtime.consumers == 0
    assert desk.runtime.wake_at() > desk.now


def test_whoever_leaves_may_join_again_over_the_same_socket():
    desk = Desk()
    number = desk.live(A)
    desk.publish(A, 3)
    desk.pull(number)
    desk.say(number, Subscribe("3", (A,), {A: 0}))  # whose replay nobody waits for any more
    desk.say(number, Leave("4"))
    desk.say(number, Join("5", COMPATIBILITY, join_ref="5"))
    left, joined = desk.pull(number)
    assert (left.ref, left.ok, left.join_ref) == ("4", True, "1")
    assert (joined.ref, joined.ok, joined.join_ref) == ("5", True, "")
    assert desk.runtime.channel(number) == "5"
    desk.publish(A)
    assert desk.pull(number) == []
    assert seqs(desk.tell(number, Subscribe("6", (A,), {A: 3}))) == [4]


def test_a_second_join_begins_anew():
    desk = Desk()
    number = desk.live(A)
    assert desk.tell(number, Join("9", COMPATIBILITY, join_ref="9"))[0].ok
    desk.publish(A)
    assert desk.pull(number) == []
    assert not desk.tell(number, Join("10", Compatibility(protocol_version="spacetime.sync.v9"), join_ref="10"))[0].ok
    assert desk.tell(number, SyncBeat("11"))[0].body.code == "not_joined"
