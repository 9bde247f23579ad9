"""The runtime core, driven by hand: what it lets in, what it delivers to whom, and what its defects look like."""

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.events import Batch
from sim.protocols.intents import Compatibility
from sim.protocols.payloads import canonical_json, hash_matches
from sim.protocols.spacetime.codec import push_parts
from sim.protocols.spacetime.frames import (
    ClientFrame,
    Envelope,
    HeartbeatPush,
    Join,
    Leave,
    Reply,
    Request,
    ServerFrame,
    Subscribe,
    SyncBeat,
    SyncError,
    TransportBeat,
    Unsubscribe,
    Update,
    UpdateBatch,
    Watermark,
)
from sim.protocols.spacetime.server import frame_of, intent_of
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events
from sim.server.counters import metrics
from sim.server.runtime import Runtime
from sim.server.settings import DEFECTS, RuntimeSettings, Switches
from sim.server.tokens import AUDIENCE, ISSUER, Claims, TokenRefusedError, mint, required_scope
from tests.client import test_negative_tokens
from tests.client.server_double import COMPATIBILITY, KEYRING, START
from tests.server import test_admission

A, B, C, D, E = (run_events(name) for name in "abcde")
WORKER = CODEX_WORKER_EVENTS
ALL = (A, B, C, D, E, WORKER)


def token(device: str = "d", topics: tuple[str, ...] = ALL, at: float = START, **changes: object) -> str:
    claims = Claims(
        *(ISSUER, AUDIENCE, "user:u", at, at, at + 300.0, f"token-{device}", "u", "org", f"session-{device}", device),
        scopes=tuple(dict.fromkeys(required_scope(topic) for topic in ALL)),
        topics=topics,
    )
    return mint(claims, KEYRING.primary)


class Desk:
    """A runtime and its clock."""

    def __init__(self, switches: Switches | None = None, **changes: object) -> None:
        self.runtime = Runtime(RuntimeSettings(**changes), KEYRING, switches)  # type: ignore[arg-type]
        self.now = START

    def publish(self, topic: str, count: int = 1) -> None:
        for _ in range(count):
            log = self.runtime.streams.log(topic)
            log.append(f"{topic}{log.next_seq}", canonical_json({"n": log.next_seq}), self.now)
            self.runtime.announce(topic, self.now)

    def open(self, device: str = "d", topics: tuple[str, ...] = ALL) -> int:
        return self.runtime.open(token(device, topics, self.now), COMPATIBILITY, self.now)

    def joined(self, device: str = "d") -> int:
        number = self.open(device)
        (reply,) = self.tell(number, Join("1", COMPATIBILITY))
        assert reply.ok
        return number

    def live(self, *topics: str, device: str = "d", **after: int) -> int:
        """A joined connection with its replay pulled."""
        number = self.joined(device)
        self.tell(number, Subscribe("2", topics, after))
        return number

    def tell(self, number: int, frame: ClientFrame) -> list:
        """Hand in a frame and pull all answers."""
        self.say(number, frame)
        return self.pull(number)

    def say(self, number: int, frame: ClientFrame) -> None:
        """Hand in a frame."""
        self.runtime.received(number, intent_of(frame), self.now)

    def next(self, number: int) -> ServerFrame | None:
        """Pull a frame."""
        message = self.runtime.pull(number, self.now)
        return None if message is None else frame_of(message)

    def pull(self, number: int) -> list:
        frames = []
        while (frame := self.next(number)) is not None:
            frames.append(frame)
        return frames

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.runtime.wake_at() <= until:
            self.now = max(self.now, self.runtime.wake_at())
            self.runtime.wake(self.now)
        self.now = until


def is_intact(update: Update) -> bool:
    return hash_matches(bytes(update.payload), update.payload_hash)


def seqs(frames: list, topic: str | None = None) -> list[int]:
    batches = [frame for frame in frames if isinstance(frame, UpdateBatch)]
    return [u.watermark for b in batches for u in b.updates if topic in (None, u.topic)]


# --- who is let in --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "counter"), [(None, "unauthorized_total"), ("x.y.z", "invalid_token_total")])
def test_a_bad_token_is_refused_and_counted(text, counter):
    desk = Desk()
    with pytest.raises(TokenRefusedError):
        desk.runtime.open(text, COMPATIBILITY, desk.now)
    assert desk.runtime.counters.auth[counter] == 1
    assert desk.runtime.consumers == 0


def test_tokens_issued_before_a_moment_can_be_made_void():
    desk = Desk()
    number, old = desk.live(A), token("d")
    desk.now += 5.0
    assert desk.runtime.set_switches(Switches(tokens_void_before=desk.now)) == 1
    (told,) = desk.pull(number)
    assert told.body.code == "reauth_required"
    assert desk.runtime.is_closing(number)
    with pytest.raises(TokenRefusedError) as caught:
        desk.runtime.open(old, COMPATIBILITY, desk.now)
    assert caught.value.code == "token_expired"
    desk.open()


def test_a_revoked_session_is_told_closed_and_let_in_no_more():
    desk = Desk()
    one, other = desk.live(A, device="one"), desk.live(A, device="other")
    assert desk.runtime.revoke(["session-one"]) == 1
    desk.publish(A)
    assert [frame.body.code for frame in desk.pull(one)] == ["reauth_required"]
    assert seqs(desk.pull(other)) == [1]
    assert not desk.runtime.is_closing(other)
    with pytest.raises(TokenRefusedError) as caught:
        desk.open("one")
    assert caught.value.code == "token_revoked"
    assert desk.runtime.counters.auth["token_revoked_total"] == 1


def compatibility(**changes: object) -> Compatibility:
    return msgspec.structs.replace(COMPATIBILITY, **changes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"protocol_version": "spacetime.sync.v2"}, "unsupported_protocol_version"),
        ({"schema_version": 2}, "unsupported_schema_version"),
        ({"client_build_id": "latest"}, "invalid_client_build"),
        ({"client_build_id": "20260201-000000Z"}, "invalid_client_build"),
        ({"client_build_id": "20200101T000000Z"}, "upgrade_required"),
        ({"client_build_id": "21000101T000000Z"}, "unsupported_client_build"),
    ],
)
def test_an_incompatible_client_is_refused_by_name(changes, code):
    desk = Desk()
    number = desk.open()
    (reply,) = desk.tell(number, Join("1", compatibility(**changes)))
    assert (reply.ref, reply.ok, reply.body.code) == ("1", False, code)
    (reply,) = desk.tell(number, Subscribe("2", (A,), {}))
    assert reply.body.code == "not_joined"


def test_what_a_join_leaves_out_the_query_may_say():
    desk = Desk()
    number = desk.runtime.open(token(), compatibility(schema_version="1"), desk.now)
    (reply,) = desk.tell(number, Join("1", Compatibility()))
    assert reply.ok


def test_a_join_returns_the_granted_topics():
    desk = Desk()
    (reply,) = desk.tell(desk.open(topics=(A, WORKER)), Join("j", COMPATIBILITY, "jr"))
    assert (reply.ref, reply.body.allowed_topics, reply.body.current_watermarks) == ("j", (A, WORKER), ())
    assert reply.body.subscription_id
    assert desk.runtime.channel(1) == "jr"


# --- subscribing ----------------------------------------------------------------------------------------


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


def test_a_mutation_over_the_socket_is_refused_and_changes_nothing():
    desk = Desk()
    number = desk.live(A)
    (reply,) = desk.tell(number, Request("9", "sync:publish", msgspec.Raw(b'{"topic":"x"}')))
    assert (reply.ref, reply.ok, reply.body.code) == ("9", False, "mutation_refused")
    assert desk.runtime.mutations == []
    desk.publish(A)
    assert seqs(desk.pull(number)) == [1]


def test_beats_are_answered_even_before_the_join():
    desk = Desk()
    number = desk.open()
    assert desk.tell(number, TransportBeat("1")) == [Reply("1", True, channel="phoenix")]
    assert desk.tell(number, SyncBeat("2"))[0].body.code == "not_joined"
    number = desk.joined()
    assert desk.tell(number, SyncBeat("2")) == [Reply("2", True)]


def test_what_is_no_frame_is_answered_and_changes_nothing():
    desk = Desk()
    number = desk.live(A)
    desk.runtime.malformed(number, "malformed_frame", desk.now)
    (push,) = desk.pull(number)
    assert push.body.code == "malformed_frame"
    desk.runtime.malformed(99, "malformed_frame", desk.now)
    desk.runtime.hang_up({"d"})
    desk.runtime.malformed(number, "malformed_frame", desk.now)  # whoever is sent away gets no more words
    assert desk.pull(number) == []


# --- the live tail --------------------------------------------------------------------------------------


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


# --- time -----------------------------------------------------------------------------------------------


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


# --- faults and defects ---------------------------------------------------------------------------------

CLIENTS, EVENTS = 40, 60


def fleet_with(defect: str | None, live: bool) -> tuple[Desk, list[list]]:
    """Many clients, and what each got of many events, as a live tail or as a replay."""
    desk = Desk(Switches(defects={defect} if defect else set()))
    numbers = [desk.joined(f"d{n}") for n in range(CLIENTS)]
    frames: list[list] = [[] for _ in numbers]
    if not live:
        desk.publish(A, EVENTS)
    for n, number in enumerate(numbers):
        got = desk.tell(number, Subscribe("2", (A,), {A: 2}, 10))
        frames[n] += [] if live else got
    for _ in range(EVENTS if live else 0):
        desk.publish(A)
        for n, number in enumerate(numbers):
            frames[n] += desk.pull(number)
    return desk, frames


@pytest.mark.parametrize("live", [True, False])
def test_the_healthy_runtime_gives_everyone_everything_once(live):
    _, frames = fleet_with(None, live)
    assert all(seqs(got) == list(range(3, EVENTS + 1)) for got in frames)
    assert all(hash_matches(bytes(u.payload), u.payload_hash) for got in frames for f in got[:-1] for u in f.updates)


@pytest.mark.parametrize("live", [True, False])
def test_skip_delivery_leaves_some_events_out_for_some_clients_for_good(live):
    desk, frames = fleet_with("skip_delivery", live)
    missing = [set(range(3, EVENTS + 1)) - set(seqs(got)) for got in frames]
    assert 0 < sum(map(bool, missing)) < CLIENTS
    assert desk.runtime.counters.acted["skip_deliveries"] >= sum(map(len, missing))
    assert [set(range(3, EVENTS + 1)) - set(seqs(got)) for got in fleet_with("skip_delivery", not live)[1]] == missing


def test_duplicate_delivery_sends_some_live_updates_twice():
    _, frames = fleet_with("duplicate_delivery", True)
    assert len(seqs(frames[0])) > EVENTS - 2
    assert sorted(set(seqs(frames[0]))) == list(range(3, EVENTS + 1))


def test_replay_off_by_one_begins_one_too_late():
    assert all(seqs(got) == list(range(4, EVENTS + 1)) for got in fleet_with("replay_off_by_one", False)[1])


def test_ignore_cursor_begins_at_the_oldest():
    assert all(seqs(got) == list(range(1, EVENTS + 1)) for got in fleet_with("ignore_cursor", False)[1])


def test_reorder_replay_changes_two_events_about():
    assert all(seqs(got)[:3] == [4, 3, 5] for got in fleet_with("reorder_replay", False)[1])


@pytest.mark.parametrize("live", [True, False])
def test_wrong_payload_hash_spoils_some_updates(live):
    _, frames = fleet_with("wrong_payload_hash", live)
    updates = [u for frame in frames[0] if isinstance(frame, UpdateBatch) for u in frame.updates]
    wrong = [u for u in updates if not hash_matches(bytes(u.payload), u.payload_hash)]
    assert 0 < len(wrong) < len(updates)


def test_no_stale_signal_lets_a_stale_cursor_resume_without_a_word():
    desk = Desk(Switches(defects={"no_stale_signal"}), window_events=5)
    desk.publish(A, 10)
    number = desk.joined()
    assert seqs(desk.tell(number, Subscribe("2", (A,), {A: 1}))) == [6, 7, 8, 9, 10]
    desk.publish(A, 7)
    assert seqs(desk.pull(number)) == [13, 14, 15, 16, 17]


def test_old_snapshots_end_before_what_is_retained():
    desk = Desk(Switches(defects={"old_snapshots"}), window_events=5)
    desk.publish(A, 10)
    reply = desk.tell(desk.joined(), Subscribe("2", (A,), {A: 1}))[-1]
    assert reply.body.snapshot_plan.topics[0].snapshot["watermark"] < 5


def test_stale_too_early_refuses_what_the_budget_covers():
    healthy, unready = (Desk(Switches(defects=defects), replay_budget_events=20) for defects in (set(), {"stale_too_early"}))
    for desk, is_ok in ((healthy, True), (unready, False)):
        desk.publish(A, 10)
        assert desk.tell(desk.joined(), Subscribe("2", (A,), {A: 7}))[-1].ok is is_ok


def test_wrong_stale_reason_blames_retention():
    desk = Desk(Switches(defects={"wrong_stale_reason"}), replay_budget_events=3)
    desk.publish(A, 10)
    reply = desk.tell(desk.joined(), Subscribe("2", (A,), {A: 2}))[-1]
    assert reply.body.reason_codes == ("retention_floor_breach",)
    assert desk.tell(desk.joined(), Subscribe("2", (A,), {A: 9}))[-1].ok


def test_two_versions_hands_some_clients_payloads_of_their_own():
    desk = Desk(Switches(defects={"two_versions"}))
    numbers = [desk.live(A, device=f"d{n}") for n in range(CLIENTS)]
    desk.publish(A, 100)
    live = [[u for f in desk.pull(number) for u in f.updates] for number in numbers]
    assert all(is_intact(update) for updates in live for update in updates)
    versions = {tuple(update.payload_hash for update in updates) for updates in live}
    assert len(versions) == 2
    for number, updates in zip(numbers, live, strict=True):  # and a replay says the same
        again = [u for f in desk.tell(number, Subscribe("5", (A,), {A: 0}))[:-1] for u in f.updates]
        assert [u.payload_hash for u in again] == [u.payload_hash for u in updates]


@pytest.mark.parametrize(("defects", "closed"), [(set(), {"d1", "d3"}), ({"deploy_cuts_everyone"}, {"d0", "d1", "d2", "d3"})])
def test_deploy_cuts_everyone_where_a_healthy_one_closes_the_sockets_of_one_instance(defects, closed):
    desk = Desk(Switches(defects=defects))
    numbers = {f"d{n}": desk.live(A, device=f"d{n}") for n in range(4)}
    assert desk.runtime.hang_up({"d1", "d3", "nobody"}) == len(closed)
    assert {device for device, number in numbers.items() if desk.runtime.is_closing(number)} == closed
    assert all(desk.pull(number) == [] for number in numbers.values())
    assert desk.runtime.hang_up({"d1", "d3"}) == 0


def test_accept_expired_token_opens_with_one():
    desk = Desk(Switches(defects={"accept_expired_token"}))
    desk.runtime.open(token(at=START - 1e6), COMPATIBILITY, desk.now)
    with pytest.raises(TokenRefusedError):
        Desk().runtime.open(token(at=START - 1e6), COMPATIBILITY, START)


def test_accept_mutation_carries_one_out():
    desk = Desk(Switches(defects={"accept_mutation"}))
    (reply,) = desk.tell(desk.live(A), Request("9", "sync:publish", msgspec.Raw(b'{"x":1}')))
    assert reply.ok
    assert desk.runtime.mutations == [msgspec.Raw(b'{"x":1}')]


def test_accept_hidden_mutation_carries_out_what_a_heartbeat_hides():
    hidden = msgspec.Raw(b'{"x":1}')
    for defects, done in ((set(), []), ({"accept_hidden_mutation"}, [hidden])):
        desk = Desk(Switches(defects=defects))
        number = desk.joined()
        assert desk.tell(number, SyncBeat("5", hidden))[-1].ok
        assert desk.tell(number, SyncBeat("6"))[-1].ok
        assert desk.runtime.mutations == done


def test_accept_malformed_answers_what_is_no_frame_as_carried_out():
    desk = Desk(Switches(defects={"accept_malformed"}))
    number = desk.live(A)
    desk.runtime.malformed(number, "malformed_frame", desk.now)
    (reply,) = desk.pull(number)
    assert reply.ok


def test_cross_topic_leak_sends_some_events_to_who_never_asked():
    desk = Desk(Switches(defects={"cross_topic_leak"}))
    subscriber, stranger = desk.live(A, device="one"), desk.live(B, device="other")
    desk.publish(A, 200)
    assert 0 < len(seqs(desk.pull(stranger), A)) < 200
    assert seqs(desk.pull(subscriber)) == list(range(1, 201))


@pytest.mark.parametrize("defect", ["keep_slow_consumers", "skip_for_slow_consumers"])
def test_keep_slow_consumers_neither_tells_nor_evicts(defect):
    desk = Desk(Switches(defects={defect}))
    number = desk.live(A)
    desk.publish(A, 100)
    desk.wait(5.0)
    frames = desk.pull(number)
    assert not [frame for frame in frames if isinstance(frame, SyncError)]
    assert seqs(frames) == (list(range(1, 101)) if defect == "keep_slow_consumers" else [])
    assert not desk.runtime.is_closing(number)
    assert desk.runtime.counters.evicted == 0


def test_skip_for_slow_consumers_leaves_a_hole_in_the_live_tail():
    desk = Desk(Switches(defects={"skip_for_slow_consumers"}))
    number = desk.live(A)
    desk.publish(A, 100)
    desk.wait(0.6)
    desk.publish(A)
    assert seqs(desk.pull(number)) == [101]


def test_keep_silent_clients_never_drops_one():
    desk = Desk(Switches(defects={"keep_silent_clients"}))
    silent = desk.live(A)
    desk.wait(600.0)
    assert not desk.runtime.is_closing(silent)


def test_drop_late_heartbeats_drops_who_is_a_little_late():
    desk = Desk(Switches(defects={"drop_late_heartbeats"}))
    late, punctual = desk.live(A, device="late"), desk.live(A, device="punctual")
    desk.wait(15.0)
    desk.tell(punctual, TransportBeat("9"))
    desk.wait(3.1)
    assert desk.runtime.is_closing(late)
    assert not desk.runtime.is_closing(punctual)


def test_accept_malformed_says_ok_to_what_is_no_frame():
    desk = Desk(Switches(defects={"accept_malformed"}))
    number = desk.live(A)
    desk.runtime.malformed(number, "malformed_frame", desk.now)
    assert desk.pull(number) == [Reply("", True)]


def test_malformed_cuts_everyone_closes_all_sockets():
    desk = Desk(Switches(defects={"malformed_cuts_everyone"}))
    number, other = desk.live(A), desk.live(A, device="other")
    desk.runtime.malformed(number, "malformed_frame", desk.now)
    assert desk.runtime.is_closing(number)
    assert desk.runtime.is_closing(other)


OUTSIDE = {"lose_log_on_restart", "forget_idempotency_keys", "serve_retired_route"}


def test_every_defect_has_its_test():
    """The core knows nothing of some: logs live and die outside it, and so does what becomes of a publish."""
    tested = {name.removeprefix("test_") for name in (*globals(), *vars(test_negative_tokens), *vars(test_admission))}
    assert {d for d in DEFECTS if not any(name.startswith(d) for name in tested)} == OUTSIDE


def test_skipped_live_events_still_come_by_a_replay():
    desk = Desk(Switches(skip_live_clients=0.5, skip_live_events=0.5))
    numbers = [desk.live(A, device=f"d{n}") for n in range(CLIENTS)]
    got: list[list[int]] = [[] for _ in numbers]
    for _ in range(20):
        desk.publish(A)
        got = [have + seqs(desk.pull(number)) for have, number in zip(got, numbers, strict=True)]
    hit = [have for have in got if have != list(range(1, 21))]
    assert CLIENTS / 4 < len(hit) < CLIENTS * 3 / 4
    assert all(seqs(desk.tell(number, Subscribe("3", (A,), {A: 0}))) == list(range(1, 21)) for number in numbers)


# --- metrics --------------------------------------------------------------------------------------------


def shown(profile: str) -> dict:
    desk = Desk(window_events=5)
    number = desk.live(A)
    desk.publish(A, 8)
    desk.publish(B, 2)
    desk.pull(number)
    with pytest.raises(TokenRefusedError):
        desk.runtime.open(None, COMPATIBILITY, desk.now)
    desk.runtime.counters.published = 9
    desk.runtime.counters.duplicates_suppressed = 1
    return metrics(desk.runtime.counters, desk.runtime.streams.logs.values(), desk.runtime.consumers, profile, START)


def test_the_full_profile_has_exactly_the_contracts_fields():
    body = shown("full")
    assert set(body) == {"transport", "mirror", "delivery", "auth_failures", "generated_at"}
    assert body["transport"] == "spacetime_ws"
    assert body["mirror"] == {
        "published_total": 9,
        "duplicate_suppressed_total": 1,
        "failed_total": 0,
        "duplicate_suppression_rate_pct": 10.0,
    }
    assert set(body["delivery"]) == {
        *("active_consumers", "total_polls", "served_messages", "max_replay_lag"),
        *("dropped_messages_total", "stale_cursor_events_total"),
    }
    assert body["delivery"]["active_consumers"] == 1
    assert body["delivery"]["max_replay_lag"] == 5
    assert body["delivery"]["dropped_messages_total"] == 3
    assert body["auth_failures"] == {
        "unauthorized_total": 1,
        "forbidden_total": 0,
        "invalid_token_total": 0,
        "token_expired_total": 0,
        "token_not_yet_valid_total": 0,
        "token_revoked_total": 0,
    }
    assert body["generated_at"] == "2023-11-14T22:13:20Z"


def test_the_pinned_profile_has_nothing_but_what_it_really_serves():
    body = shown("pinned")
    assert set(body) == {"transport", "mirror", "delivery", "generated_at"}
    assert body["delivery"] == {"stream_count": 2, "event_count": 7}
