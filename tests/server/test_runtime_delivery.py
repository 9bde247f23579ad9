"""The live tail: fairness, shared frames, heartbeats, and eviction of silent and slow clients."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.events import Batch
from sim.protocols.spacetime.codec import push_parts
from sim.protocols.spacetime.frames import Envelope, HeartbeatPush, Subscribe, SyncError, TransportBeat, Unsubscribe, Watermark
from sim.protocols.spacetime.server import frame_of
from sim.server.delivery import fanout
from tests.client.server_double import START
from tests.server.runtime_driver import A, B, C, D, E, RuntimeDriver, seqs


def test_busy_topic_does_not_starve_others():
    driver = RuntimeDriver(topics_per_drain=2, replay_batch_size=3)
    number = driver.live(A, B, C, D, E)
    driver.publish(A, 9)
    for topic in (B, C, D, E):
        driver.publish(topic)
    served = [{u.topic for u in frame.updates} for frame in driver.pull(number)]
    assert served == [{A, B}, {C, D}, {E, A}, {A}]


def test_clients_at_same_position_share_one_frame(driver):
    numbers = [driver.live(A, device=f"d{n}") for n in range(3)]
    driver.publish(A)
    driver.pull(numbers[2])
    driver.publish(A)
    messages = [driver.runtime.pull(number, driver.now) for number in numbers]
    assert messages[0] is messages[1]
    frames = [frame_of(message) for message in messages]
    assert seqs([frames[0]]) == [1, 2]
    assert seqs([frames[2]]) == [2]
    assert frames[0].head_watermarks == (Watermark(A, 2),)


def test_shared_frame_is_rebuilt_when_log_grows(driver):
    one, other = driver.live(A, device="one"), driver.live(A, device="other")
    driver.publish(A)
    assert seqs(driver.pull(one)) == [1]
    driver.publish(A)
    assert seqs(driver.pull(other)) == [1, 2]
    assert seqs(driver.pull(one)) == [2]


def test_replays_from_same_cursor_share_batches_until_log_grows():
    driver = RuntimeDriver(replay_batch_size=3)
    driver.publish(A, 5)

    def replayed(device: str, size: int = 0) -> list:
        number = driver.joined(device)
        driver.send(number, Subscribe("2", (A,), {A: 1}, size))
        messages = iter(lambda: driver.runtime.pull(number, driver.now), None)
        return [event.items for message in messages for event in message if isinstance(event, Batch)]

    one, other, small = replayed("one"), replayed("other"), replayed("small", size=2)
    assert [[item.position.offset for item in items] for items in one] == [[2, 3, 4], [5]]
    assert all(mine is yours for mine, yours in zip(one, other, strict=True))
    assert [[item.position.offset for item in items] for items in small] == [[2, 3], [4, 5]]
    driver.publish(A)
    assert [[item.position.offset for item in items] for items in replayed("late")] == [[2, 3, 4], [5, 6]]


_STEP = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([A, B]), st.integers(1, 5)),
    st.tuples(st.just("pull"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("again"), st.integers(0, 3), st.integers(0, 8)),
)


@given(st.lists(_STEP, max_size=30))
def test_each_subscriber_gets_all_events_above_its_cursor_in_order(steps):
    driver = RuntimeDriver(replay_batch_size=3)
    numbers = [driver.joined(f"d{n}") for n in range(4)]
    got: list[list] = [[] for _ in numbers]
    cursors = [0] * 4
    for number in numbers:
        driver.send(number, Subscribe("2", (A, B), {A: 0, B: 0}))
    for name, who, count in steps:
        if name == "publish":
            driver.publish(who, count)
        elif name == "pull":
            got[who] += filter(None, (driver.next(numbers[who]) for _ in range(count)))
        else:
            driver.pull(numbers[who])
            got[who], cursors[who] = [], count
            driver.send(numbers[who], Subscribe("3", (A, B), {A: count, B: count}))
    for who, number in enumerate(numbers):
        got[who] += driver.pull(number)
        for topic in (A, B):
            assert seqs(got[who], topic) == list(range(cursors[who] + 1, driver.runtime.streams.head(topic) + 1))


def test_envelopes_carry_same_content_and_end_with_batch():
    driver = RuntimeDriver(sync_frames=True)
    driver.publish(A, 3)
    *envelopes, rest, reply = driver.ask(driver.joined(), Subscribe("2", (A,), {A: 0}))
    assert [frame.update.watermark for frame in envelopes] == [1, 2, 3]
    assert all(isinstance(frame, Envelope) for frame in envelopes)
    assert (rest.updates, rest.replay_complete, rest.head_watermarks) == ((), True, (Watermark(A, 3),))
    assert reply.ok
    content = json.loads(base64.b64decode(json.loads(push_parts(envelopes[0])[1])["payload_bytes"]))
    assert content["payload"] == {"n": 1}


def test_heartbeat_reports_heads_every_fifteen_seconds(driver):
    number, unjoined = driver.live(A, B), driver.open("other")
    driver.publish(A, 2)
    driver.pull(number)
    driver.wait(14.9)
    assert driver.pull(number) == []
    driver.wait(15.1)
    assert driver.pull(number) == [HeartbeatPush((Watermark(A, 2), Watermark(B, 0)))] * 2
    assert driver.pull(unjoined) == []


def test_client_silent_for_a_minute_is_dropped(driver):
    silent, beating = driver.live(A, device="silent"), driver.live(A, device="beating")
    for _ in range(6):
        driver.wait(10.0)
        driver.ask(beating, TransportBeat("9"))
        driver.pull(silent)
    driver.wait(0.1)
    assert driver.runtime.is_closing(silent)
    assert not driver.runtime.is_closing(beating)
    assert driver.runtime.counters.silent_clients == 1


def test_client_that_never_reads_is_evicted_with_slow_consumer(driver, number):
    driver.publish(A, 65)
    driver.wait(5.0)
    (push,) = driver.pull(number)  # all other pending frames are dropped
    body = json.loads(push_parts(push)[1])
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
    assert driver.runtime.is_closing(number)
    assert driver.runtime.counters.evicted == 1


def test_slow_client_is_throttled_twice_then_disconnected(driver, number):
    driver.publish(A, 65)
    actions = []
    for _ in range(3):
        driver.wait(0.5)
        frame = driver.next(number)
        actions.append(frame.body.action)
    assert actions == ["throttle", "throttle", "disconnect"]


def test_client_that_drains_is_never_evicted(driver, number):
    for _ in range(40):
        driver.publish(A, 50)
        driver.pull(number)
        driver.publish(A, 70)
        driver.wait(0.6)
    assert not driver.runtime.is_closing(number)
    assert driver.runtime.counters.evicted == 0


def test_long_replay_does_not_count_as_slow(driver):
    driver.publish(A, 1000)
    number = driver.joined()
    driver.send(number, Subscribe("2", (A,), {A: 0}, 10))
    for _ in range(50):
        driver.next(number)
        driver.publish(A)
        driver.wait(0.5)
    assert not driver.runtime.is_closing(number)
    assert not [frame for frame in driver.pull(number) if isinstance(frame, SyncError)]


def test_client_that_reads_too_little_is_evicted():
    driver = RuntimeDriver(replay_batch_size=5)
    number = driver.live(A)
    for _ in range(10):
        driver.publish(A, 100)
        driver.next(number)
        driver.wait(0.5)
    assert driver.runtime.counters.evicted == 1


def test_idle_runtime_wakes_for_heartbeats_only(driver):
    number = driver.live(A, B)
    driver.publish(A)
    driver.pull(number)
    assert driver.runtime.wake_at() == START + 15.0
    driver.publish(B)
    driver.ask(number, Unsubscribe("3", (B,)))
    assert driver.runtime.wake_at() == START + 15.0


def test_ready_returns_each_connection_once(driver):
    one, other = driver.live(A, device="one"), driver.live(B, device="other")
    driver.runtime.ready()
    driver.publish(A, 2)
    assert driver.runtime.ready() == {one}
    assert driver.runtime.ready() == set()
    driver.publish(B)
    driver.runtime.close(other)
    assert driver.runtime.ready() == set()


def test_client_that_got_everything_is_evicted_after_as_many_checks_as_any_other(driver):
    numbers = [driver.live(A, device=name) for name in ("one", "two")]
    driver.publish(A)
    assert [seqs(driver.pull(number)) for number in numbers] == [[1], [1]]  # the second gets the message of the first
    driver.publish(A, 65)
    driver.wait(1.4)
    assert not any(driver.runtime.is_closing(number) for number in numbers)
    driver.wait(0.2)
    assert all(driver.runtime.is_closing(number) for number in numbers)


def test_queue_may_hold_as_many_events_as_the_limit():
    for count, strikes in ((4, 0), (5, 1)):  # of two topics together
        driver = RuntimeDriver(outbound_queue_events=4)
        number = driver.live(A, B)
        driver.publish(A, count - 2)
        driver.publish(B, 2)
        driver.wait(0.5)
        assert driver.runtime._connections[number].strikes == strikes
        warned = [frame for frame in driver.pull(number) if isinstance(frame, SyncError)]
        assert [(each.body.queue_depth, each.body.topic) for each in warned] == [(5, A)] * strikes


def test_client_is_silent_since_its_last_message(driver):
    number = driver.joined()
    driver.wait(59.9)
    assert not driver.runtime.is_closing(number)
    driver.send(number, TransportBeat("9"))
    driver.wait(59.9)
    assert not driver.runtime.is_closing(number)
    driver.wait(0.1)
    assert driver.runtime.is_closing(number)
    assert driver.runtime.counters.silent_clients == 1


def test_runtime_forgets_a_closed_connection(driver):
    number = driver.live(A)
    driver.publish(A)
    driver.runtime.close(number)
    driver.runtime.close(number)
    assert (driver.runtime.consumers, driver.runtime.ready(), driver.runtime.is_closing(number)) == (0, set(), True)
    assert driver.runtime.pull(number, driver.now) is None
    driver.runtime.malformed(number, "x", driver.now)
    driver.send(number, TransportBeat("9"))
    assert driver.runtime.ready() == set()


def test_pulls_and_served_events_are_counted(driver):
    number = driver.live(A)
    driver.runtime.counters.polls = driver.runtime.counters.served = 0
    driver.publish(A, 3)
    driver.publish(B)
    assert seqs(driver.pull(number)) == [1, 2, 3]
    assert (driver.runtime.counters.served, driver.runtime.counters.polls) == (3, 2)


def test_window_that_a_fault_shrinks_counts_as_trimmed(driver):
    driver.publish(A, 5)
    assert driver.runtime.shrink_window(A, 2) == 3
    assert driver.runtime.shrink_window(A, 2) == 0
    assert (driver.runtime.counters.trimmed, driver.runtime.streams.log(A).oldest) == (3, 4)


def test_what_is_kept_of_messages_and_events_is_bounded(monkeypatch, driver):
    monkeypatch.setattr(fanout, "_MAX_KNOWN", 3)
    for _ in range(20):
        message = (Batch(A, ()),)
        assert driver.runtime._fanout.repeated(message)[0].message is message
        assert len(driver.runtime._fanout._repeated) <= 3
    number = driver.live(A)
    for _ in range(20):
        driver.publish(A)
        driver.pull(number)
        assert len(driver.runtime._fanout._built[A]) <= 4
