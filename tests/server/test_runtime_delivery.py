"""The live tail: fairness, shared frames, heartbeats, and eviction of silent and slow clients."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.events import Batch
from sim.protocols.spacetime.codec import push_parts
from sim.protocols.spacetime.frames import (
    Envelope,
    HeartbeatPush,
    Subscribe,
    SyncError,
    TransportBeat,
    Unsubscribe,
    Watermark,
)
from sim.protocols.spacetime.server import frame_of
from tests.client.server_double import START
from tests.server.runtime_driver import A, B, C, D, Desk, E, seqs


def test_no_busy_topic_starves_another():
    desk = Desk(topics_per_drain=2, replay_batch_size=3)
    number = desk.live(A, B, C, D, E)
    desk.publish(A, 9)
    for topic in (B, C, D, E):
        desk.publish(topic)
    served = [{u.topic for u in frame.updates} for frame in desk.pull(number)]
    assert served == [{A, B}, {C, D}, {E, A}, {A}]


def test_those_at_one_position_share_one_frame_and_others_get_their_own():
    desk = Desk()
    numbers = [desk.live(A, device=f"d{n}") for n in range(3)]
    desk.publish(A)
    desk.pull(numbers[2])
    desk.publish(A)
    messages = [desk.runtime.pull(number, desk.now) for number in numbers]
    assert messages[0] is messages[1]
    frames = [frame_of(message) for message in messages]
    assert seqs([frames[0]]) == [1, 2]
    assert seqs([frames[2]]) == [2]
    assert frames[0].head_watermarks == (Watermark(A, 2),)


def test_a_shared_frame_is_forgotten_when_the_log_moves_on():
    desk = Desk()
    one, other = desk.live(A, device="one"), desk.live(A, device="other")
    desk.publish(A)
    assert seqs(desk.pull(one)) == [1]
    desk.publish(A)
    assert seqs(desk.pull(other)) == [1, 2]
    assert seqs(desk.pull(one)) == [2]


def test_those_who_come_back_from_one_place_are_replayed_the_same_objects_until_the_log_moves_on():
    desk = Desk(replay_batch_size=3)
    desk.publish(A, 5)

    def replayed(device: str, size: int = 0) -> list:
        number = desk.joined(device)
        desk.say(number, Subscribe("2", (A,), {A: 1}, size))
        messages = iter(lambda: desk.runtime.pull(number, desk.now), None)
        return [event.items for message in messages for event in message if isinstance(event, Batch)]

    one, other, small = replayed("one"), replayed("other"), replayed("small", size=2)
    assert [[item.position.offset for item in items] for items in one] == [[2, 3, 4], [5]]
    assert all(mine is yours for mine, yours in zip(one, other, strict=True))
    assert [[item.position.offset for item in items] for items in small] == [[2, 3], [4, 5]]
    desk.publish(A)
    assert [[item.position.offset for item in items] for items in replayed("late")] == [[2, 3, 4], [5, 6]]


_STEP = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([A, B]), st.integers(1, 5)),
    st.tuples(st.just("pull"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("again"), st.integers(0, 3), st.integers(0, 8)),
)


@given(st.lists(_STEP, max_size=30))
def test_each_subscriber_gets_all_above_its_cursor_in_order_whatever_the_others_do(steps):
    desk = Desk(replay_batch_size=3)
    numbers = [desk.joined(f"d{n}") for n in range(4)]
    got: list[list] = [[] for _ in numbers]
    cursors = [0] * 4
    for number in numbers:
        desk.say(number, Subscribe("2", (A, B), {A: 0, B: 0}))
    for name, who, count in steps:
        if name == "publish":
            desk.publish(who, count)
        elif name == "pull":
            got[who] += filter(None, (desk.next(numbers[who]) for _ in range(count)))
        else:
            desk.pull(numbers[who])
            got[who], cursors[who] = [], count
            desk.say(numbers[who], Subscribe("3", (A, B), {A: count, B: count}))
    for who, number in enumerate(numbers):
        got[who] += desk.pull(number)
        for topic in (A, B):
            assert seqs(got[who], topic) == list(range(cursors[who] + 1, desk.runtime.streams.head(topic) + 1))


def test_envelopes_carry_the_same_content_and_a_batch_still_ends_them():
    desk = Desk(sync_frames=True)
    desk.publish(A, 3)
    *envelopes, rest, reply = desk.tell(desk.joined(), Subscribe("2", (A,), {A: 0}))
    assert [frame.update.watermark for frame in envelopes] == [1, 2, 3]
    assert all(isinstance(frame, Envelope) for frame in envelopes)
    assert (rest.updates, rest.replay_complete, rest.head_watermarks) == ((), True, (Watermark(A, 3),))
    assert reply.ok
    content = json.loads(base64.b64decode(json.loads(push_parts(envelopes[0])[1])["payload_bytes"]))
    assert content["payload"] == {"n": 1}


def test_heartbeats_tell_the_heads_every_fifteen_seconds():
    desk = Desk()
    number, unjoined = desk.live(A, B), desk.open("other")
    desk.publish(A, 2)
    desk.pull(number)
    desk.wait(14.9)
    assert desk.pull(number) == []
    desk.wait(15.1)
    assert desk.pull(number) == [HeartbeatPush((Watermark(A, 2), Watermark(B, 0)))] * 2
    assert desk.pull(unjoined) == []


def test_a_client_silent_for_a_minute_is_dropped():
    desk = Desk()
    silent, beating = desk.live(A, device="silent"), desk.live(A, device="beating")
    for _ in range(6):
        desk.wait(10.0)
        desk.tell(beating, TransportBeat("9"))
        desk.pull(silent)
    desk.wait(0.1)
    assert desk.runtime.is_closing(silent)
    assert not desk.runtime.is_closing(beating)
    assert desk.runtime.counters.silent_clients == 1


def test_a_reader_that_does_not_read_gets_two_warnings_and_is_evicted():
    desk = Desk()
    number = desk.live(A)
    desk.publish(A, 65)
    desk.wait(5.0)
    (told,) = desk.pull(number)  # what else was to be said is dropped with it
    body = json.loads(push_parts(told)[1])
    assert body["message"]
    assert {**body, "message": ""} == {
        "code": "slow_consumer",
        "message": "",
        "full_resync_required": False,
        "action": "disconnect",
        "topic": A,
        "queue_depth": 65,
        "queue_limit": 64,
        "reconnect_after_ms": 2000.0,
    }
    assert desk.runtime.is_closing(number)
    assert desk.runtime.counters.evicted == 1


def test_strikes_come_one_a_tick_and_warn_first():
    desk = Desk()
    number = desk.live(A)
    desk.publish(A, 65)
    actions = []
    for _ in range(3):
        desk.wait(0.5)
        frame = desk.next(number)
        actions.append(frame.body.action)
    assert actions == ["throttle", "throttle", "disconnect"]


def test_a_reader_that_drains_is_never_evicted_however_much_comes():
    desk = Desk()
    number = desk.live(A)
    for _ in range(40):
        desk.publish(A, 50)
        desk.pull(number)
        desk.publish(A, 70)
        desk.wait(0.6)
    assert not desk.runtime.is_closing(number)
    assert desk.runtime.counters.evicted == 0


def test_a_long_replay_is_no_slow_reader():
    desk = Desk()
    desk.publish(A, 1000)
    number = desk.joined()
    desk.say(number, Subscribe("2", (A,), {A: 0}, 10))
    for _ in range(50):
        desk.next(number)
        desk.publish(A)
        desk.wait(0.5)
    assert not desk.runtime.is_closing(number)
    assert not [frame for frame in desk.pull(number) if isinstance(frame, SyncError)]


def test_one_reader_that_reads_a_little_is_still_slow():
    desk = Desk(replay_batch_size=5)
    number = desk.live(A)
    for _ in range(10):
        desk.publish(A, 100)
        desk.next(number)
        desk.wait(0.5)
    assert desk.runtime.counters.evicted == 1


def test_an_idle_runtime_asks_to_be_woken_for_heartbeats_only():
    desk = Desk()
    number = desk.live(A, B)
    desk.publish(A)
    desk.pull(number)
    assert desk.runtime.wake_at() == START + 15.0
    desk.publish(B)
    desk.tell(number, Unsubscribe("3", (B,)))
    assert desk.runtime.wake_at() == START + 15.0


def test_ready_names_each_connection_once():
    desk = Desk()
    one, other = desk.live(A, device="one"), desk.live(B, device="other")
    desk.runtime.ready()
    desk.publish(A, 2)
    assert desk.runtime.ready() == {one}
    assert desk.runtime.ready() == set()
    desk.publish(B)
    desk.runtime.close(other)
    assert desk.runtime.ready() == set()
