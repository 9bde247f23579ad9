"""A live event that was left out is a loss of the service, unless anything else may explain the gap."""

from collections.abc import Callable

import pytest

from sim.analysis import live_gaps
from sim.base.randomness import draw
from sim.record.observations import Kind
from sim.server.delivery.disorder import client_key
from sim.server.tokens import device_id
from tests.histories import STREAM, Story

CLIENT = 1
LATER = range(4, 40)  # events that come live after the replay, until 5.9 s


def story(**more: object) -> Story:
    """Event 2 of 40 is not delivered live. Client 1 notices with event 3, asks again, and then stays live."""
    found = Story(2, header=dict(more))
    for seq in range(1, 41):
        found.publish(seq, t=2.0 + 0.1 * seq)
    found.apply(CLIENT, 1, t=2.1)
    found.tell(2.31, Kind.GAP, CLIENT, STREAM, 3, value=1.0, detail="live")
    found.tell(2.31, Kind.REPLAY_STARTED, CLIENT, STREAM, 1)
    found.apply(CLIENT, 2, 3, t=2.34).tell(2.35, Kind.REPLAYED, CLIENT, STREAM, 2, value=2.0)
    for seq in LATER:
        found.apply(CLIENT, seq, t=2.0 + 0.1 * seq + 0.01)
    return found


def found(told: Story) -> list[tuple[int, int]]:
    """Client and seq of each event that was left out."""
    told.rows.sort(key=lambda row: row.t)
    history = told.history()
    rows = live_gaps.unexplained(history, told.ledger().published)
    return list(zip(rows.client.tolist(), rows.seq.tolist(), strict=True))


def test_event_that_only_a_replay_brought_is_a_loss_of_the_service() -> None:
    assert found(story()) == [(CLIENT, 2)]


def test_each_missing_event_counts_once_for_each_client() -> None:
    told = story()
    told.tell(2.315, Kind.GAP, CLIENT, STREAM, 3, value=1.0, detail="live")
    assert found(told) == [(CLIENT, 2)]
    other = [row._replace(client=0) for row in told.rows if row.client == CLIENT]
    told.rows += other
    assert sorted(found(told)) == [(0, 2), (CLIENT, 2)]


def fault(kind: str, start_t: float, end_t: float) -> Callable[[Story], Story]:
    return lambda told: told.tell(start_t, Kind.FAULT_INJECTED, detail=kind).tell(end_t, Kind.FAULT_REVERTED, detail=kind)


def without(kind: Kind, *seqs: int) -> Callable[[Story], Story]:
    return lambda told: told.without(lambda row: row.kind is kind and (not seqs or row.seq in seqs))


def late(told: Story, t: float = 4.0, kind: Kind = Kind.DUPLICATE_DROPPED) -> Story:
    return told.tell(t, kind, CLIENT, STREAM, 2)


EXCUSES: dict[str, Callable[[Story], Story]] = {
    "it came late": late,
    "it came late, while the replay was under way": lambda told: late(told, 2.345),
    "it had come before, behind another gap": lambda told: late(told, 2.25, Kind.GAP),
    "it came with a wrong hash": lambda told: late(told, 2.25, Kind.HASH_MISMATCH),
    "it came live after all, and no replay had it": lambda told: told.without(
        lambda row: row.kind in (Kind.REPLAY_STARTED, Kind.REPLAYED)
    ),
    "a replay was under way": lambda told: told.tell(2.30, Kind.REPLAY_STARTED, CLIENT, STREAM, 1),
    "the connection was cut before the replay": lambda told: told.tell(2.32, Kind.DISCONNECTED, CLIENT, detail="network"),
    "the connection was cut soon after it": lambda told: told.tell(2.9, Kind.DISCONNECTED, CLIENT, detail="network"),
    "no replay brought it": without(Kind.APPLIED, 2),
    "both were published at the same time": lambda told: told.changed(
        lambda row: row.kind is Kind.PUBLISHED and row.seq == 2, t=2.305
    ),
    "the later event is somebody else's": without(Kind.PUBLISHED, 3),
    "nobody acknowledged it": without(Kind.PUBLISHED, 2),
    "a fault skipped deliveries": fault("skip_deliveries", 2.15, 2.25),
    "a fault skipped deliveries shortly before": fault("skip_deliveries", 1.0, 1.9),
    "a fault delayed deliveries": fault("delay_deliveries", 1.0, 9.0),
    "a fault trimmed the log": fault("shrink_window", 2.2, 2.2),
    "it was withheld": lambda told: fault("skip_deliveries", 2.0, 3.0)(told).tell(2.2, Kind.WITHHELD, CLIENT, STREAM, 2),
    "a frame was malformed": lambda told: told.tell(2.2, Kind.MALFORMED, CLIENT, detail="no_json"),
}


@pytest.mark.parametrize("why", EXCUSES)
def test_gap_that_something_else_may_explain_is_not_blamed_on_the_service(why: str) -> None:
    assert found(EXCUSES[why](story())) == []


BLAMED: dict[str, Callable[[Story], Story]] = {
    "a fault that ended long before": fault("skip_deliveries", 0.1, 0.5),
    "a fault that began later": fault("skip_deliveries", 2.4, 3.0),
    "a fault of connections": fault("drop_sockets", 2.0, 3.0),
    "another event was withheld": lambda told: fault("skip_deliveries", 2.0, 3.0)(told).tell(
        2.2, Kind.WITHHELD, CLIENT, STREAM, 1
    ),
    "it was withheld from another client": lambda told: fault("skip_deliveries", 2.0, 3.0)(told).tell(
        2.2, Kind.WITHHELD, 0, STREAM, 2
    ),
    "another client had a malformed frame": lambda told: told.tell(2.2, Kind.MALFORMED, 0, detail="no_json"),
    "the connection was cut much later": lambda told: told.tell(4.5, Kind.DISCONNECTED, CLIENT, detail="network"),
}


@pytest.mark.parametrize("why", BLAMED)
def test_what_does_not_explain_a_gap_is_no_excuse(why: str) -> None:
    assert found(BLAMED[why](story())) == [(CLIENT, 2)]


def test_fault_explains_the_gaps_of_its_own_clients_only() -> None:
    """The service draws these clients by the seed, so the record knows them."""
    key = client_key(device_id(CLIENT))
    drawn = draw(story().history().header.seed, "skip_live", key)

    def skipping(share: float) -> Story:
        told = fault("skip_deliveries", 2.15, 2.25)(story())
        told.header["plan"] = [{"kind": "skip_deliveries", "clients_share": share, "events_share": 1.0}]
        return told

    assert found(skipping(drawn + 0.01)) == []
    assert found(skipping(drawn - 0.01)) == [(CLIENT, 2)]
    hooked = skipping(drawn - 0.01)
    hooked.header["plan"][0]["by"] = "hook"
    assert found(hooked) == []


@pytest.mark.parametrize("positions", ["ordered", "opaque"])
def test_positions_that_do_not_show_gaps_blame_nobody(positions: str) -> None:
    assert found(story(capabilities={"positions": positions})) == []


def test_event_that_no_client_saw_is_blamed_on_nobody_where_only_clients_know_positions() -> None:
    """It lies somewhere: nothing says that it is the one which the gap left out."""
    told = story().marked().changed(lambda row: row.kind is Kind.PUBLISHED, seq=-1)
    assert found(told) == [(CLIENT, 2)]
    unseen = told.without(lambda row: row.kind is Kind.APPLIED and row.seq == 2)
    assert found(unseen) == []
