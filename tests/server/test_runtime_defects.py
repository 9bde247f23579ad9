"""Each configurable defect of the runtime, next to what a healthy runtime does."""

import msgspec
import pytest

from sim.protocols.payloads import hash_matches
from sim.protocols.spacetime.frames import (
    Reply,
    Request,
    Subscribe,
    SyncBeat,
    SyncError,
    TransportBeat,
    UpdateBatch,
)
from sim.server.settings import DEFECTS, Switches
from sim.server.tokens import TokenRefusedError
from tests.client import test_negative_tokens
from tests.client.server_double import COMPATIBILITY, START
from tests.server import test_admission
from tests.server.runtime_driver import A, B, Desk, is_intact, seqs, token

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
