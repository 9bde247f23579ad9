"""Each configurable defect of the runtime, next to what a healthy runtime does."""

import json
from collections.abc import Callable

import msgspec
import pytest

from sim.protocols import intents
from sim.protocols.events import Item, Position
from sim.protocols.payloads import canonical_json, hash_matches, payload_hash
from sim.protocols.spacetime.frames import Reply, Request, Subscribe, SyncBeat, SyncError, TransportBeat, UpdateBatch
from sim.server import misbehaviours
from sim.server.admission import failure
from sim.server.counters import Counters
from sim.server.settings import DEFECTS, Switches
from sim.server.tokens import TokenRefusedError
from tests.client import test_negative_tokens
from tests.client.server_double import COMPATIBILITY, START
from tests.server import test_admission, test_phoenix_sync, test_stream_runtime
from tests.server.runtime_driver import A, B, RuntimeDriver, is_intact, seqs, token

CLIENTS, EVENTS = 40, 60


def live_with(defect: str) -> tuple[RuntimeDriver, int]:
    """A runtime with one defect, and a connection that is subscribed to topic A."""
    driver = RuntimeDriver(Switches(defects={defect}))
    return driver, driver.live(A)


def fleet_with(defect: str | None, live: bool) -> tuple[RuntimeDriver, list[list]]:
    """Many clients, and the frames each received of many events, live or as a replay."""
    driver = RuntimeDriver(Switches(defects={defect} if defect else set()))
    numbers = [driver.joined(f"d{n}") for n in range(CLIENTS)]
    frames: list[list] = [[] for _ in numbers]
    if not live:
        driver.publish(A, EVENTS)
    for n, number in enumerate(numbers):
        got = driver.ask(number, Subscribe("2", (A,), {A: 2}, 10))
        frames[n] += [] if live else got
    for _ in range(EVENTS if live else 0):
        driver.publish(A)
        for n, number in enumerate(numbers):
            frames[n] += driver.pull(number)
    return driver, frames


@pytest.mark.parametrize("live", [True, False])
def test_healthy_runtime_delivers_every_event_once(live):
    _, frames = fleet_with(None, live)
    assert all(seqs(got) == list(range(3, EVENTS + 1)) for got in frames)
    assert all(hash_matches(bytes(u.payload), u.payload_hash) for got in frames for f in got[:-1] for u in f.updates)


@pytest.mark.parametrize("live", [True, False])
def test_skip_delivery_omits_some_events_for_some_clients_permanently(live):
    driver, frames = fleet_with("skip_delivery", live)
    missing = [set(range(3, EVENTS + 1)) - set(seqs(got)) for got in frames]
    assert 0 < sum(map(bool, missing)) < CLIENTS
    assert driver.runtime.counters.acted["skip_deliveries"] >= sum(map(len, missing))
    assert [set(range(3, EVENTS + 1)) - set(seqs(got)) for got in fleet_with("skip_delivery", not live)[1]] == missing


def test_duplicate_delivery_sends_some_live_updates_twice():
    _, frames = fleet_with("duplicate_delivery", True)
    assert len(seqs(frames[0])) > EVENTS - 2
    assert sorted(set(seqs(frames[0]))) == list(range(3, EVENTS + 1))


def test_alter_copies_sends_some_live_updates_again_with_another_payload():
    driver, number = live_with("alter_copies")
    log, sent = driver.runtime.streams.log(A), []
    for n in range(1, EVENTS + 1):
        log.append(f"key{n}", canonical_json({"payload": {"n": n}}), driver.now)
        driver.runtime.announce(A, driver.now)
        frames = driver.pull(number)
        sent += zip(seqs(frames), (bytes(update.payload) for frame in frames for update in frame.updates), strict=True)
    first = dict(reversed(sent))
    copies = [seq for seq, payload in sent if payload != first[seq]]
    assert sorted(first) == list(range(1, EVENTS + 1))
    assert len(copies) == len(sent) - len(first) > 0


def test_wait_for_company_delivers_most_events_with_the_next_one_or_when_a_client_comes():
    driver, number = live_with("wait_for_company")
    seen: list[list[int]] = []
    while not seen or seen[-1]:  # until an event waits
        driver.publish(A)
        seen.append(seqs(driver.pull(number)))
    driver.live(A, device="other")
    assert seqs(driver.pull(number)) == [len(seen)]
    for _ in range(10):
        driver.publish(A)
        seen.append(seqs(driver.pull(number)))
    assert any(len(each) > 1 for each in seen), "an event brings the one that waited"


def test_refuse_every_other_publish_takes_the_second_try():
    switches, counters = Switches(defects={"refuse_every_other_publish"}), Counters()
    assert [failure(switches, counters) is not None for _ in range(4)] == [True, False, True, False]


WRONG_REPLAYS = {"replay_off_by_one": [4, 5, 6], "ignore_cursor": [1, 2, 3], "reorder_replay": [4, 3, 5]}


@pytest.mark.parametrize("defect", WRONG_REPLAYS)
def test_wrong_replay_starts_with_wrong_events(defect: str):
    for got in (seqs(got) for got in fleet_with(defect, False)[1]):
        assert got[:3] == WRONG_REPLAYS[defect]
        assert sorted(got) == list(range(min(got), EVENTS + 1))


@pytest.mark.parametrize("live", [True, False])
def test_wrong_payload_hash_corrupts_some_hashes(live):
    _, frames = fleet_with("wrong_payload_hash", live)
    updates = [u for frame in frames[0] if isinstance(frame, UpdateBatch) for u in frame.updates]
    wrong = [u for u in updates if not hash_matches(bytes(u.payload), u.payload_hash)]
    assert 0 < len(wrong) < len(updates)


def test_no_stale_signal_resumes_stale_cursor_silently():
    driver = RuntimeDriver(Switches(defects={"no_stale_signal"}), window_events=5)
    driver.publish(A, 10)
    number = driver.joined()
    assert seqs(driver.ask(number, Subscribe("2", (A,), {A: 1}))) == [6, 7, 8, 9, 10]
    driver.publish(A, 7)
    assert seqs(driver.pull(number)) == [13, 14, 15, 16, 17]


def test_old_snapshots_end_below_retention_floor():
    driver = RuntimeDriver(Switches(defects={"old_snapshots"}), window_events=5)
    driver.publish(A, 10)
    reply = driver.ask(driver.joined(), Subscribe("2", (A,), {A: 1}))[-1]
    assert reply.body.snapshot_plan.topics[0].snapshot["watermark"] < 5


def test_hollow_snapshots_claim_the_head_and_contain_nothing():
    driver = RuntimeDriver(Switches(defects={"hollow_snapshots"}), window_events=5)
    driver.publish(A, 10)
    snapshot = driver.ask(driver.joined(), Subscribe("2", (A,), {A: 1}))[-1].body.snapshot_plan.topics[0].snapshot
    assert (snapshot["watermark"], snapshot["events"]) == (10, 0)


def test_unsteady_digests_change_with_each_answer():
    for defects, count in ((set(), 1), ({"unsteady_digests"}, 3)):
        driver = RuntimeDriver(Switches(defects=defects), window_events=5)
        driver.publish(A, 10)
        replies = [driver.ask(driver.joined(), Subscribe("2", (A,), {A: 1}))[-1] for _ in range(3)]
        assert len({reply.body.snapshot_plan.topics[0].snapshot["digest"] for reply in replies}) == count


def test_stale_too_early_refuses_cursor_within_budget():
    for defects, is_ok in ((set(), True), ({"stale_too_early"}, False)):
        driver = RuntimeDriver(Switches(defects=defects), replay_budget_events=20)
        driver.publish(A, 10)
        assert driver.ask(driver.joined(), Subscribe("2", (A,), {A: 7}))[-1].ok is is_ok


def test_wrong_stale_reason_blames_retention():
    driver = RuntimeDriver(Switches(defects={"wrong_stale_reason"}), replay_budget_events=3)
    driver.publish(A, 10)
    reply = driver.ask(driver.joined(), Subscribe("2", (A,), {A: 2}))[-1]
    assert reply.body.reason_codes == ("retention_floor_breach",)
    assert driver.ask(driver.joined(), Subscribe("2", (A,), {A: 9}))[-1].ok


def test_two_versions_sends_some_clients_different_payloads():
    driver = RuntimeDriver(Switches(defects={"two_versions"}))
    numbers = [driver.live(A, device=f"d{n}") for n in range(CLIENTS)]
    driver.publish(A, 100)
    live = [[u for f in driver.pull(number) for u in f.updates] for number in numbers]
    assert all(is_intact(update) for updates in live for update in updates)
    versions = {tuple(update.payload_hash for update in updates) for updates in live}
    assert len(versions) == 2
    for number, updates in zip(numbers, live, strict=True):  # a replay has the same version
        again = [u for f in driver.ask(number, Subscribe("5", (A,), {A: 0}))[:-1] for u in f.updates]
        assert [u.payload_hash for u in again] == [u.payload_hash for u in updates]


LIES = {
    "swap_payloads": lambda sent, got: [sent[1], sent[0], *sent[2:]] == got,
    "repeat_payloads": lambda sent, got: sent != got and all(each in sent for each in got),
    "alter_payloads": lambda sent, got: sent != got and sent == [{"n": each["n"]} for each in got],
}


@pytest.mark.parametrize("defect", LIES)
def test_lies_keep_positions_and_hashes_right(defect: str):
    driver, number = live_with(defect)
    sent = [{"n": n} for n in range(EVENTS)]
    for payload in sent:
        driver.runtime.streams.log(A).append(f"key {payload}", canonical_json({"payload": payload}), driver.now)
    driver.runtime.announce(A, driver.now)
    got = [update for frame in driver.pull(number) for update in frame.updates]
    assert all(is_intact(update) for update in got)
    assert [update.watermark for update in got] == list(range(1, EVENTS + 1))
    assert LIES[defect](sent, [json.loads(bytes(update.payload))["payload"] for update in got])


SHARES = {
    "duplicate_delivery": 0.2,
    "alter_copies": 0.2,
    "repeat_payloads": 0.2,
    "alter_payloads": 0.05,
    "wrong_payload_hash": 0.05,
    "two_versions": 0.05,
}


@pytest.mark.parametrize("defect", SHARES)
def test_defects_affect_their_share_of_events(defect: str):
    sent = [Item(Position(seq), msgspec.Raw(b'{"payload":{"n":%d}}' % seq), "right") for seq in range(1, 2001)]
    switches = Switches(defects={defect})
    client = next(key for key in range(100) if misbehaviours.has_own_version(switches, key) or defect != "two_versions")
    got = misbehaviours.disfigure(switches, client, "a", sent, False, payload_hash)
    right = {(each.position.offset, bytes(each.payload), each.payload_hash) for each in sent}
    changed = sum((each.position.offset, bytes(each.payload), each.payload_hash) not in right for each in got)
    assert 0.8 * SHARES[defect] < max(changed, len(got) - len(sent)) / len(sent) < 1.2 * SHARES[defect]


@pytest.mark.parametrize(
    ("defect", "is_hit", "share"),
    [
        ("cross_topic_leak", misbehaviours.leaks, 0.05),
        ("unanswered_to_some", misbehaviours.is_unanswered, 0.05),
        ("wait_for_company", lambda switches, seq: misbehaviours.waits(switches, "a", seq), 0.9),
        ("announce_before_commit", lambda switches, seq: misbehaviours.is_skipped(switches, 1, seq, True), 0.05),
    ],
)
def test_choices_of_events_have_their_share(defect: str, is_hit: Callable[[Switches, int], bool], share: float):
    hits = sum(is_hit(Switches(defects={defect}), seq) for seq in range(2000))
    assert 0.8 * share < hits / 2000 < min(1.2 * share, 0.95)
    assert not any(is_hit(Switches(), seq) for seq in range(100))


@pytest.mark.parametrize("defect", ["repeat_payloads", "swap_payloads"])
def test_single_event_of_a_message_has_no_other_to_swap_with_or_repeat(defect: str):
    switches = Switches(defects={defect})
    for seq in range(1, 100):
        item = Item(Position(seq), msgspec.Raw(b"1"), "right")
        assert misbehaviours.disfigure(switches, 1, "a", [item], False, payload_hash) == (item,)


@pytest.mark.parametrize(("defects", "closed"), [(set(), {"d1", "d3"}), ({"deploy_cuts_everyone"}, {"d0", "d1", "d2", "d3"})])
def test_deploy_cuts_everyone_closes_sockets_of_all_instances(defects, closed):
    driver = RuntimeDriver(Switches(defects=defects))
    numbers = {f"d{n}": driver.live(A, device=f"d{n}") for n in range(4)}
    assert driver.runtime.hang_up({"d1", "d3", "unknown"}) == len(closed)
    assert {device for device, number in numbers.items() if driver.runtime.is_closing(number)} == closed
    assert all(driver.pull(number) == [] for number in numbers.values())
    assert driver.runtime.hang_up({"d1", "d3"}) == 0


def test_accept_expired_token_opens_connection():
    driver = RuntimeDriver(Switches(defects={"accept_expired_token"}))
    driver.runtime.open(token(at=START - 1e6), COMPATIBILITY, driver.now)
    with pytest.raises(TokenRefusedError):
        RuntimeDriver().runtime.open(token(at=START - 1e6), COMPATIBILITY, START)


def test_accept_mutation_executes_mutation():
    driver = RuntimeDriver(Switches(defects={"accept_mutation"}))
    (reply,) = driver.ask(driver.live(A), Request("9", "sync:publish", msgspec.Raw(b'{"x":1}')))
    assert reply.ok
    assert driver.runtime.mutations == [msgspec.Raw(b'{"x":1}')]


def test_accept_hidden_mutation_executes_payload_of_heartbeat():
    hidden = msgspec.Raw(b'{"x":1}')
    for defects, done in ((set(), []), ({"accept_hidden_mutation"}, [hidden])):
        driver = RuntimeDriver(Switches(defects=defects))
        number = driver.joined()
        assert driver.ask(number, SyncBeat("5", hidden))[-1].ok
        assert driver.ask(number, SyncBeat("6"))[-1].ok
        assert driver.runtime.mutations == done


def test_cross_topic_leak_sends_some_events_without_subscription():
    driver = RuntimeDriver(Switches(defects={"cross_topic_leak"}))
    subscribed, unsubscribed = driver.live(A, device="one"), driver.live(B, device="other")
    driver.publish(A, 200)
    assert 0 < len(seqs(driver.pull(unsubscribed), A)) < 200
    assert seqs(driver.pull(subscribed)) == list(range(1, 201))


@pytest.mark.parametrize("defect", ["keep_slow_consumers", "skip_for_slow_consumers"])
def test_keep_slow_consumers_neither_warns_nor_evicts(defect):
    driver, number = live_with(defect)
    driver.publish(A, 100)
    driver.wait(5.0)
    frames = driver.pull(number)
    assert not [frame for frame in frames if isinstance(frame, SyncError)]
    assert seqs(frames) == (list(range(1, 101)) if defect == "keep_slow_consumers" else [])
    assert not driver.runtime.is_closing(number)
    assert driver.runtime.counters.evicted == 0


def test_skip_for_slow_consumers_leaves_gap_in_live_tail():
    driver, number = live_with("skip_for_slow_consumers")
    driver.publish(A, 100)
    driver.wait(0.6)
    driver.publish(A)
    assert seqs(driver.pull(number)) == [101]


def test_skip_for_slow_consumers_skips_no_stream_that_has_nothing_waiting():
    driver = RuntimeDriver(Switches(defects={"skip_for_slow_consumers"}))
    number = driver.live(A, B)
    driver.publish(A, 100)
    driver.wait(0.6)
    assert driver.pull(number) == []
    driver.publish(B, 2)
    driver.publish(A)
    frames = driver.pull(number)
    assert (seqs(frames, A), seqs(frames, B)) == ([101], [1, 2])
    assert seqs(driver.ask(number, Subscribe("3", (A,), {A: 98}))) == [99, 100, 101], "they are in the log"


def test_keep_silent_clients_never_drops_silent_client():
    driver, silent = live_with("keep_silent_clients")
    driver.wait(600.0)
    assert not driver.runtime.is_closing(silent)


def test_drop_late_heartbeats_drops_slightly_late_client():
    driver = RuntimeDriver(Switches(defects={"drop_late_heartbeats"}))
    late, punctual = driver.live(A, device="late"), driver.live(A, device="punctual")
    driver.wait(15.0)
    driver.ask(punctual, TransportBeat("9"))
    driver.wait(3.1)
    assert driver.runtime.is_closing(late)
    assert not driver.runtime.is_closing(punctual)


def test_accept_malformed_replies_ok_to_malformed_frame():
    driver, number = live_with("accept_malformed")
    driver.runtime.malformed(number, "malformed_frame", driver.now)
    assert driver.pull(number) == [Reply("", True)]


def test_malformed_cuts_everyone_closes_all_sockets():
    driver = RuntimeDriver(Switches(defects={"malformed_cuts_everyone"}))
    number, other = driver.live(A), driver.live(A, device="other")
    driver.runtime.malformed(number, "malformed_frame", driver.now)
    assert driver.runtime.is_closing(number)
    assert driver.runtime.is_closing(other)


def test_announce_before_commit_drops_some_live_events_for_all_clients():
    driver, number = live_with("announce_before_commit")
    other = driver.live(A, device="other")
    got: list[int] = []
    for _ in range(100):
        driver.publish(A)
        live = seqs(driver.pull(number))
        assert live == seqs(driver.pull(other))
        got += live
    assert 85 <= len(got) < 100
    assert seqs(driver.ask(number, Subscribe("3", (A,), {A: 0}))) == list(range(1, 101)), "a replay has them"


def test_forget_revocations_admits_the_session_after_its_sockets_are_closed():
    driver, number = live_with("forget_revocations")
    assert driver.runtime.revoke(["session-d"]) == 1
    with pytest.raises(TokenRefusedError):
        driver.open()
    driver.runtime.close(number)
    assert driver.open()


OUTSIDE = {"lose_log_on_restart", "forget_idempotency_keys", "serve_retired_route", "stall_on_concurrent_appends"}


def test_every_defect_has_a_test():
    """Defects of the log store and of publishing are outside the runtime."""
    functions = (
        name.removeprefix("test_")
        for name in (*globals(), *vars(test_negative_tokens), *vars(test_admission), *vars(test_phoenix_sync))
    )
    publishes = (defect for switches, *_ in test_admission.PUBLISHES for defect in switches.get("defects", ()))
    tested = {*functions, *WRONG_REPLAYS, *LIES, *publishes, *(defect for defect, _ in test_negative_tokens.ACCEPTED)}
    assert {d for d in DEFECTS if not any(name.startswith(d) for name in tested)} == OUTSIDE


def test_replay_delivers_skipped_live_events():
    driver = RuntimeDriver(Switches(skip_live_clients=0.5, skip_live_events=0.5))
    numbers = [driver.live(A, device=f"d{n}") for n in range(CLIENTS)]
    got: list[list[int]] = [[] for _ in numbers]
    for _ in range(20):
        driver.publish(A)
        got = [have + seqs(driver.pull(number)) for have, number in zip(got, numbers, strict=True)]
    hit = [have for have in got if have != list(range(1, 21))]
    assert CLIENTS / 4 < len(hit) < CLIENTS * 3 / 4
    assert all(seqs(driver.ask(number, Subscribe("3", (A,), {A: 0}))) == list(range(1, 21)) for number in numbers)


@pytest.mark.parametrize(("defect", "resumed"), [("ignore_cursor", [1, 2, 3, 4, 5]), ("replay_off_by_one", [4, 5])])
def test_defects_of_cursors_change_where_a_stream_resumes_but_not_where_a_new_client_starts(defect: str, resumed: list[int]):
    driver = test_stream_runtime.Driver("centrifugo", Switches(defects={defect}))
    driver.publish("a", 5)
    asked = intents.Subscribe("2", {"a": driver.position("a", 2)})
    assert test_stream_runtime.numbers(driver.ask(driver.joined(), asked)) == resumed
    assert test_stream_runtime.numbers(driver.ask(driver.joined(), intents.Subscribe("2", {"a": None}))) == []


def test_unanswered_to_some_withholds_the_same_events_from_some_clients_for_good():
    missing = [set(range(3, EVENTS + 1)) - set(seqs(got)) for got in fleet_with("unanswered_to_some", True)[1]]
    chosen = Switches(defects={"unanswered_to_some"})
    unanswered = {seq for seq in range(3, EVENTS + 1) if misbehaviours.is_unanswered(chosen, seq)}
    assert 0 < len(unanswered) < EVENTS / 2
    assert {frozenset(each) for each in missing} == {frozenset(), frozenset(unanswered)}
    assert [set(range(3, EVENTS + 1)) - set(seqs(got)) for got in fleet_with("unanswered_to_some", False)[1]] == missing
    assert not misbehaviours.is_unanswered(Switches(), min(unanswered))


@pytest.mark.parametrize("topics", [(A,), (A, B)])
def test_switched_defects_affect_events_that_other_clients_got_before(topics: tuple[str, ...]):
    driver = RuntimeDriver()
    first, second = driver.live(*topics, device="first"), driver.live(*topics, device="second")
    for topic in topics:
        driver.publish(topic, EVENTS)
    assert len(seqs(driver.pull(first))) == EVENTS * len(topics)
    driver.runtime.set_switches(Switches(defects={"duplicate_delivery"}))
    assert len(seqs(driver.pull(second))) > EVENTS * len(topics)
