"""Copies of an event where only the client can compare positions: a copy with another event of the run is no duplicate."""

import msgspec

from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.session import Session
from sim.protocols.events import Batch, Item, Position, Resumed
from sim.protocols.intents import Compatibility
from sim.protocols.markers import marked
from tests.client.peer import SOCKETIO, Peer

RUN = "5f0c9b1a77d2"


def item(position: str, number: int, run: str = RUN) -> Item:
    return Item(Position(position), msgspec.Raw(msgspec.json.encode({"payload": marked({"n": number}, run, "a", number)})))


def noted(*items: Item) -> list[tuple[str, str, int]]:
    """What a client notes of these live events: kind, detail without hashes, and marker."""
    peer = Peer(SOCKETIO)
    peer.session = Session(
        0, ("a",), policies.get("reference"), ClientSettings(1, Compatibility("test"), SOCKETIO, marker_run=RUN)
    )
    asked = peer.join(session="s")
    peer.tell(Resumed(asked.ref, "a"))
    for each in items:
        peer.tell(Batch("a", (each,)))
    kinds = ("applied", "duplicate_dropped", "altered")
    found = [notice for notice in peer.session.notices() if notice.kind in kinds]
    return [(notice.kind, notice.detail if notice.kind == "altered" else "", notice.marker) for notice in found]


def test_copy_of_an_event_is_a_duplicate():
    assert noted(item("x", 1), item("y", 2), item("x", 1)) == [
        ("applied", "", 1),
        ("applied", "", 2),
        ("duplicate_dropped", "", 1),
    ]


def test_another_event_at_the_position_of_an_applied_one_is_altered():
    for other in (2, 3):
        assert noted(item("x", 1), item("y", 2), item("x", other))[2:] == [
            ("altered", "position", other),
            ("duplicate_dropped", "", other),
        ]


def test_events_of_others_are_not_compared():
    assert [kind for kind, *_ in noted(item("x", 1), item("x", 7, run="0123456789ab"))] == [
        "applied",
        "altered",
        "duplicate_dropped",
    ]
    assert ("altered", "position", 7) not in noted(item("x", 1), item("x", 7, run="0123456789ab"))
