"""Client policies that are wrong on purpose, so that a drill can prove its checks."""

from pathlib import Path

import msgspec

from sim.client.actions import Close
from sim.client.notices import short_hash
from sim.protocols.payloads import payload_hash
from sim.protocols.spacetime.frames import UpdateBatch
from tests.client.hand import RUN, Hand, batch, heads, update

ROOT = Path(__file__).parents[2]


def test_one_wrong_client_applies_duplicates():
    hand = Hand("wrong_applies_duplicates").go_live(1, 2)
    hand.receive(batch(2, 3))
    assert hand.seqs("applied") == [1, 2, 2, 3]
    assert hand.watermark == 3


def test_one_wrong_client_applies_whatever_the_hash_says():
    hand = Hand("wrong_ignores_hashes").go_live(1)
    jumbled = msgspec.structs.replace(update(2), payload=msgspec.Raw(b'{"n":3}'))
    hand.receive(UpdateBatch((jumbled,), True))
    applied = hand.of("applied")[-1]
    assert applied.seq == 2
    assert applied.detail == short_hash(payload_hash(b'{"n":3}')) != short_hash(jumbled.payload_hash)
    assert not hand.of("hash_mismatch")


def test_one_wrong_client_takes_any_checkpoint_for_its_own():
    hand = Hand("wrong_trusts_future_checkpoints", checkpoints={RUN: 90})
    ask = hand.begin()
    hand.receive(batch(head=3))
    hand.reply(ask.ref)
    hand.receive(heads(4))
    hand.receive(batch(4))
    assert hand.watermark == 90
    assert not hand.of("clamped", "applied")


def test_no_drill_of_the_catalogue_asks_for_a_wrong_client():
    paths = [path for folder in ("catalog", "examples") for path in (ROOT / "drills" / folder).glob("*.toml")]
    assert paths
    assert not [path.name for path in paths if "wrong_" in path.read_text()]


def test_a_client_that_trusts_silence_believes_a_silent_server_for_ever():
    hand = Hand(policy="wrong_trusts_silence").go_live(1)
    hand.wait(600.0)
    assert Close() not in hand.actions()
    assert hand.session.is_live
