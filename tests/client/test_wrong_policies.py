"""Client policies that are wrong on purpose, so that a drill can prove its checks."""

from pathlib import Path

import msgspec

from sim.client.actions import Close
from sim.client.notices import short_hash
from sim.protocols.events import Closed, Joined, Position, PositionUnknown, Resumed
from sim.protocols.intents import Subscribe
from sim.protocols.payloads import payload_hash
from sim.protocols.spacetime.frames import UpdateBatch
from tests.client.peer import CENTRIFUGO, NATS, Peer, dense
from tests.client.session_driver import RUN, SessionDriver, batch, heads, update

ROOT = Path(__file__).parents[2]


def test_wrong_applies_duplicates_applies_event_twice():
    driver = SessionDriver("wrong_applies_duplicates").go_live(1, 2)
    driver.receive(batch(2, 3))
    assert driver.seqs("applied") == [1, 2, 2, 3]
    assert driver.watermark == 3


def test_wrong_ignores_hashes_applies_corrupt_payload():
    driver = SessionDriver("wrong_ignores_hashes").go_live(1)
    corrupt = msgspec.structs.replace(update(2), payload=msgspec.Raw(b'{"n":3}'))
    driver.receive(UpdateBatch((corrupt,), True))
    applied = driver.of("applied")[-1]
    assert applied.seq == 2
    assert applied.detail == short_hash(payload_hash(b'{"n":3}')) != short_hash(corrupt.payload_hash)
    assert not driver.of("hash_mismatch")


def test_wrong_trusts_future_checkpoints_keeps_cursor_above_head():
    driver = SessionDriver("wrong_trusts_future_checkpoints", checkpoints={RUN: 90})
    driver.replay(driver.begin(), batch(head=3))
    driver.receive(heads(4))
    driver.receive(batch(4))
    assert driver.watermark == 90
    assert not driver.of("clamped", "applied")


def test_no_catalog_drill_uses_a_wrong_policy():
    paths = [path for folder in ("catalog", "examples") for path in (ROOT / "drills" / folder).glob("*.toml")]
    assert paths
    assert not [path.name for path in paths if "wrong_" in path.read_text()]


def test_wrong_trusts_silence_never_leaves_silent_server():
    driver = SessionDriver(policy="wrong_trusts_silence").go_live(1)
    driver.wait(600.0)
    assert Close() not in driver.actions()
    assert driver.session.is_live


def test_wrong_ignores_epochs_goes_on_at_its_position_in_a_new_log():
    peer = Peer(CENTRIFUGO, policy="wrong_ignores_epochs")
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0, "e1")), dense(1, 2, 3, epoch="e1"), Closed())
    again = resubscribed(peer)
    assert again.after == {"a": Position(3, "e1")}
    at = Position(5, "e2")
    peer.tell(PositionUnknown("a", again.after["a"], at, "", at, again.ref), dense(6, epoch="e2"))
    assert peer.of("declared_loss") == [("a", 5, 2.0)], "not the first three of the new log"
    assert (peer.details("epoch_learned"), peer.details("rebootstrapped")) == (["e1", "e2"], ["fresh", "retained"])


def test_wrong_ignores_epochs_asks_a_new_log_for_what_follows_its_position():
    peer = Peer(NATS, policy="wrong_ignores_epochs")
    fresh = peer.join()
    peer.tell(dense(1, 2, 3, epoch="c1"), Resumed(fresh.ref, "a", Position(0, "c1"), Position(3, "c1")), Closed())
    again = resubscribed(peer)
    peer.tell(PositionUnknown("a", again.after["a"], Position(9, "c2"), "other_log", ref=again.ref))
    assert peer.subscribe().after == {"a": Position(3, "c2")}
    assert (peer.details("epoch_learned"), peer.details("rebootstrapped")) == (["c1", "c2"], ["fresh"])


def test_wrong_ignores_epochs_resumes_with_an_empty_one_where_a_server_takes_that_for_any_log():
    careless = msgspec.structs.replace(CENTRIFUGO, resumes_without_epoch=True)
    for policy, epoch in (("wrong_ignores_epochs", ""), ("reference", "e1")):
        peer = Peer(careless, policy=policy)
        fresh = peer.join()
        peer.tell(Resumed(fresh.ref, "a", Position(0, "e1")), dense(1, 2, 3, epoch="e1"), Closed())
        assert resubscribed(peer).after == {"a": Position(3, epoch)}
    peer = Peer(careless, policy="wrong_ignores_epochs")
    assert peer.join().after == {"a": None}, "it has no position yet"


def resubscribed(peer: Peer) -> Subscribe:
    return peer.tell(Joined(peer.reconnect().ref)).subscribe()


def test_wrong_applies_past_holes_applies_the_event_after_a_missing_one():
    driver = SessionDriver("wrong_applies_past_holes").go_live(1, 2)
    driver.receive(batch(4))
    assert driver.seqs("applied") == [1, 2, 4]
    assert not driver.of("gap")
