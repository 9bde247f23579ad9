"""What a replica does by another policy: as the desktop, or with a defect."""

from typing import Any

import pytest

from sim.protocols.events import Batch, Hash, Head, Item, Position, PositionUnknown, Stale
from sim.protocols.payloads import payload_hash
from tests.client.replica_driver import Client, Note, batch, item, pos, taken

# --- the desktop ----------------------------------------------------------------------------------------


def test_desktop_skips_what_is_missing():
    client = Client(policy="desktop", watermark=4, checkpoint=4)
    assert not taken(client, batch(4, 5, 7), batch(1, stream="c"), batch())
    assert client.notes == [
        ("received", 4.0),
        *[("applied", 5, "aa"), ("duplicate_dropped", 4, "aa"), ("gap", 7, 4.0, "live"), ("checkpoint_written", 6)],
        ("ungranted", "c", 1),
    ]
    assert client.a.watermark == 6


def test_desktop_begins_at_0_and_counts_its_replay():
    client = Client(policy="desktop", asked_from=1)
    assert not taken(client, batch(1), replaying=("a",), first=True)
    assert client.notes == [
        *[("received", 1.0), ("replay_below_cursor", 1, 1.0), ("rebootstrapped", 0, "fresh"), ("applied", 1, "aa")],
        ("checkpoint_written", 1),
    ]
    assert (client.a.replayed, client.replica.end_replay(("a",), diverged=True)) == (1, False)


@pytest.mark.parametrize(
    ("fields", "after", "notes"),
    [
        ({}, None, [("replay_started",)]),
        ({"head": 3}, pos(3), [("rebootstrapped", 3, "fresh"), ("replay_started", 3)]),
        ({"start": 0, "watermark": 9}, pos(0), [("replay_started", 0)]),
        ({"watermark": 9, "head": 12}, pos(9), [("replay_started", 9)]),
    ],
)
def test_desktop_resumes_from_its_checkpoint_or_a_known_head(fields: dict[str, Any], after: Position | None, notes: list[Note]):
    client = Client(policy="desktop", **fields)
    assert client.replica.begin_replay(("a",)) == {"a": after}
    assert client.notes == notes


def test_desktop_goes_back_to_the_beginning_after_a_stale_cursor():
    client = Client(policy="desktop", watermark=9)
    assert client.replica.take_stale((Stale("a"),), 0)
    assert [cursor.start for cursor in client.replica.cursors.values()] == [0, None]


# --- policies with a defect -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "event", "note", "watermark"),
    [
        ("wrong_ignores_hashes", item(5, check=Hash.BAD), ("applied", 5, payload_hash(b"{}")[7:19]), 5),
        ("wrong_applies_duplicates", item(4), ("applied", 4, "aa"), 4),
        ("wrong_applies_past_holes", item(7), ("applied", 7, "aa"), 7),
        ("wrong_ignores_hashes", item(4, check=Hash.BAD), ("duplicate_dropped", 4, "aa"), 4),
    ],
)
def test_wrong_policy_applies_what_it_must_not(policy: str, event: Item, note: Note, watermark: int):
    client = Client(policy=policy, watermark=4, checkpoint=4)
    assert not taken(client, Batch("a", (event,)))
    assert client.notes[1] == note
    assert client.a.watermark == watermark


def test_wrong_policy_trusts_a_checkpoint_above_the_head():
    client = Client(policy="wrong_trusts_future_checkpoints", watermark=4)
    assert not client.replica.learn_heads((Head("a", pos(3)),))
    assert (client.a.watermark, client.notes) == (4, [])


def test_wrong_policy_stays_in_any_log():
    client = Client(policy="wrong_ignores_epochs", watermark=4, checkpoint=4, epoch="e1", noted_epoch="e1")
    assert not taken(client, Batch("a", (item(5, "e2"),)))
    assert client.notes[1] == ("epoch_learned", 4, "e2")
    assert not client.replica.take_unknown(PositionUnknown("b"))
    assert client.replica.take_unknown(PositionUnknown("a", head=pos(9, "e3")))
    assert client.notes[-1] == ("epoch_learned", 5, "e3")
    assert client.a.watermark == 5
