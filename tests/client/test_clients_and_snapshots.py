"""What is wrong with a snapshot that a stale client is offered."""

from typing import Any

import pytest

from sim.protocols.events import Closed, Joined, Position, Resumed, Snapshot, Stale
from tests.client.peer import CENTRIFUGO, Peer, dense

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("at", "content", "problem"),
    [
        (9, {"events": 9}, ""),
        (9, {"text": "without a count"}, ""),
        (20, {"events": 20}, ""),
        (None, {"events": 9}, "empty"),
        (9, {}, "empty"),
        (9, {"events": 0}, "empty"),
        (8, {"events": 8}, "below_floor"),
        (21, {"events": 21}, "above_head"),
        (9, {"events": 8}, "unfit"),
    ],
)
def test_problem_of_a_snapshot_is_recorded(at: int | None, content: dict[str, Any], problem: str):
    assert _offered(at, content, Stale("a", floor=Position(9), head=Position(20))) == (-1 if at is None else at, problem)


@pytest.mark.parametrize(("at", "problem"), [(0, ""), (3, "unfit")])
def test_snapshot_without_a_stated_floor_or_head_is_judged_by_its_content(at: int, problem: str):
    assert _offered(at, {"events": at and at + 1}, Stale("a")) == (at, problem)


@pytest.mark.parametrize(("at", "events", "problem"), [(0, 0, ""), (1, 1, "above_head"), (1, 0, "empty")])
def test_snapshot_of_an_empty_stream_has_nothing(at: int, events: int, problem: str):
    assert _offered(at, {"events": events}, Stale("a", floor=Position(0), head=Position(0))) == (at, problem)


@pytest.mark.parametrize(
    ("content", "recorded"),
    [
        ({"events": 9, "digest": DIGEST}, DIGEST[-12:]),
        ({"events": 9, "digest": 12}, ""),
        ({"text": "not of events", "digest": DIGEST}, ""),
        ({"events": 8, "digest": DIGEST}, "unfit"),
    ],
)
def test_digest_of_a_snapshot_without_a_problem_is_recorded(content: dict[str, Any], recorded: str):
    assert _offered(9, content, Stale("a", floor=Position(9), head=Position(20))) == (9, recorded)


def _offered(at: int | None, content: dict[str, Any], stale: Stale) -> tuple[int, str]:
    """The position and the problem that a client records of a snapshot."""
    peer = Peer(CENTRIFUGO)
    fresh = peer.join()
    peer.tell(Resumed(fresh.ref, "a", Position(0))).tell(dense(1), Closed())
    again = peer.tell(Joined(peer.reconnect().ref)).subscribe()
    snapshot = Snapshot(None if at is None else Position(at), content)
    peer.tell(Stale("a", again.after["a"], stale.floor, stale.head, snapshot=snapshot, ref=again.ref))
    ((_, seq, _),) = peer.of("snapshot")
    return seq, peer.details("snapshot")[0]
