"""What a ledger says of a few rows: which events each client should have, which it lacks, and which nobody has."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.record.ledger import Ledger, Shortfall
from sim.record.observations import Kind
from tests.histories import AUDITOR, STREAM, Story

LIVE_T = 0.5


def story(*, baseline: int = 0, lacks: tuple[int, ...] = (), until: int = 6, clients: int = 1) -> Story:
    """Events 1 to 6 at seconds 1 to 6. Client 0 starts after `baseline`, and applies all from there to `until` but some."""
    found = Story(clients)
    for seq in range(1, 7):
        found.publish(seq, t=float(seq))
    found.fresh(0, baseline, LIVE_T)
    for seq in range(baseline + 1, until + 1):
        if seq not in lacks:
            found.apply(0, seq, t=seq + 0.1)
    return found


def marked(told: Story) -> Story:
    return told.marked()


FORMS: list[Callable[[Story], Story]] = [lambda told: told, marked]


@pytest.mark.parametrize("form", FORMS)
def test_client_that_has_all_lacks_nothing(form: Callable[[Story], Story]):
    ledger = form(story()).ledger()
    assert (ledger.expected, ledger.dropped, ledger.silent, ledger.missing_at_rest) == (6, *[Shortfall(0)] * 3)


@pytest.mark.parametrize("form", FORMS)
def test_missing_events_are_silent_below_the_checkpoint_and_at_rest_above_it(form: Callable[[Story], Story]):
    ledger = form(story(lacks=(2, 3), until=5)).ledger()
    assert ledger.expected == 6
    assert ledger.dropped == Shortfall(3, 0, f"{STREAM}, seq 2")
    assert ledger.silent == Shortfall(2, 0, f"{STREAM}, seq 2")
    assert ledger.missing_at_rest == Shortfall(1, 0, f"{STREAM}, seq 6")
    clients, events = ledger.missing("dropped")
    assert (clients.tolist(), events.tolist()) == ([0, 0, 0], [1, 2, 5])
    assert ledger.first_missing("dropped", 2) == [(0, 1), (0, 2)]
    assert ledger.first_missing("at_rest", 9) == [(0, 5)]


def test_client_that_is_under_way_does_not_rest():
    told = story(until=4).tell(9.0, Kind.STILL_PENDING, 0, STREAM, detail="replaying")
    assert (told.ledger().missing_at_rest, told.ledger().missing("behind")[1].tolist()) == (Shortfall(0), [4, 5])
    told = story(until=4).tell(9.0, Kind.STILL_PENDING, 0, STREAM, detail="behind")
    assert told.ledger().missing_at_rest.count == 2


@pytest.mark.parametrize(("live_t", "expected", "dropped"), [(2.0, 4, 0), (1.9, 5, 1), (0.5, 6, 2)])
def test_event_below_a_first_baseline_is_due_if_it_was_sent_while_the_client_was_live(
    live_t: float, expected: int, dropped: int
):
    told = story(baseline=2).changed(lambda row: row.kind is Kind.SUBSCRIBED, t=live_t)
    assert (told.ledger().expected, told.ledger().dropped.count) == (expected, dropped)


def test_snapshot_covers_what_was_due_when_it_was_taken():
    told = story(lacks=(2, 3, 4))
    told.tell(4.5, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=1.0, detail="snapshot")
    assert told.ledger().dropped == Shortfall(0)
    early = story(lacks=(2, 3, 4)).tell(3.5, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=1.0, detail="snapshot")
    assert early.ledger().dropped == Shortfall(1, 0, f"{STREAM}, seq 4")
    other = story(lacks=(2, 3, 4)).tell(4.5, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=1.0, detail="retained")
    assert other.ledger().dropped.count == 3, "a loss must be declared"
    lower = story(lacks=(2, 3, 4)).tell(4.5, Kind.REBOOTSTRAPPED, 0, STREAM, 4, value=2.0, detail="snapshot")
    assert lower.ledger().dropped == Shortfall(1, 0, f"{STREAM}, seq 2")


@pytest.mark.parametrize(("value", "left"), [(3.0, []), (2.0, [2]), (4.0, []), (0.0, [2, 3, 4]), (float("nan"), [])])
def test_declared_loss_ends_with_its_event(value: float, left: list[int]):
    told = story(lacks=(2, 3, 4)).tell(4.5, Kind.DECLARED_LOSS, 0, STREAM, 4, value=value)
    assert [index + 1 for index in told.ledger().missing("dropped")[1].tolist()] == left


def test_which_clients_lack_which_events():
    told = story(lacks=(2,), until=5, clients=3).fresh(1, 3, 3.5).apply(1, 5, 6, t=6.5)
    ledger = told.ledger()
    found = ledger.lacking(np.array([1, 2, 3, 4, 5]))
    rows = sorted(zip(*(each.tolist() for each in found), strict=True))
    assert rows == [(1, 0, True), (3, 1, True), (5, 0, False)]


def test_event_at_a_clients_baseline_is_not_lacked():
    ledger = story(baseline=3).changed(lambda row: row.kind is Kind.SUBSCRIBED, t=3.5).ledger()
    assert [each.tolist() for each in ledger.lacking(np.arange(6))] == [[], [], []]
    late = story(baseline=3).changed(lambda row: row.kind is Kind.SUBSCRIBED, t=2.5).ledger()
    assert [each.tolist() for each in late.lacking(np.arange(6))] == [[2], [0], [True]]


# --- the auditor ----------------------------------------------------------------------------------------


def audited(*found: int, baseline: int = 0, **more: object) -> Ledger:
    return story(**more).audit(*found, baseline=baseline).ledger()  # type: ignore[arg-type]


def lost(ledger: Ledger) -> list[int]:
    return [int(index) + 1 for index in ledger.lost_by_authority]


def test_events_that_the_auditor_did_not_find_are_lost():
    assert lost(audited(*range(1, 7))) == []
    assert lost(audited(1, 2, 4, 5, 6, lacks=(3,))) == [3]
    assert lost(audited(1, 2, 4, 5, 6)) == [], "client 0 has it"
    assert lost(audited(1, 2, 3, 4)) == [5, 6]
    assert lost(audited(3, 4, 5, 6, baseline=2)) == [], "they were trimmed"
    assert lost(story().ledger()) == [], "without an audit, nobody knows"


def test_what_the_auditor_could_not_apply_is_in_the_log():
    for kind in (Kind.GAP, Kind.HASH_MISMATCH):
        told = story(until=5).audit(*range(1, 6)).tell(90.0, kind, AUDITOR, STREAM, 6)
        assert lost(told.ledger()) == []


def test_event_that_was_acknowledged_after_the_audit_is_not_lost():
    for t, numbers in ((89.9, [7]), (90.0, [])):
        told = story().publish(7, t=t).apply(0, 7, t=t).audit(*range(1, 7))
        assert lost(told.ledger()) == numbers


def test_auditor_has_finished_with_its_replay():
    ledger = audited(3, 4, 5, 6, baseline=2)
    assert ledger.audited
    streams = ledger.history.streams
    assert [int(each[streams.index(STREAM)]) for each in ledger.retained] == [2, 6]
    assert [int(each[streams.index("")]) for each in ledger.retained] == [0, -1]
    cut = story().audit(1).without(lambda row: row.kind is Kind.REPLAY_COMPLETED).ledger()
    assert not cut.audited


@pytest.mark.parametrize(
    ("window", "since_t", "found"),
    [(6, 0.0, [1, 2, 3]), (5, 0.0, [2, 3]), (4, 0.0, [3]), (3, 0.0, []), (6, 1.0, [2, 3]), (6, 2.9, [3])],
)
def test_window_must_hold_the_last_events(window: int, since_t: float, found: list[int]):
    ledger = audited(4, 5, 6, baseline=3)
    assert [int(index) + 1 for index in ledger.withheld(window, since_t)] == found


def test_publish_with_the_position_of_another_is_merged():
    told = (
        Story(1)
        .publish(1, t=1.0, marker=1)
        .publish(1, t=2.0, marker=2)
        .publish(2, t=3.0, marker=3)
        .publish(-1, t=3.0, marker=4)
    )
    history = told.history()
    assert Ledger(history).merged(history.of(Kind.PUBLISHED)) == 1
    assert Ledger(story().history()).merged(story().history().of(Kind.PUBLISHED)) == 0


def test_events_of_others_count_as_often_as_one_client_saw_them():
    told = story().marked()
    told.clients = 2
    for client, count in ((0, 2), (1, 3), (5, 9)):
        for place in range(count):
            told.tell(7.0, Kind.APPLIED, client, STREAM, 10 + place)
    assert told.ledger().foreign_events == 3
    assert story().ledger().foreign_events == 0


def test_moves_are_shown_by_places():
    told = Story(1).publish(10, t=1.0).publish(20, t=2.0).apply(0, 10, 15, 20, t=3.0)
    told.tell(4.0, Kind.RESTARTED, 0, STREAM, -1, detail="lost").tell(5.0, Kind.RESTARTED, 0, STREAM, 20, detail="kept")
    history = told.history()
    moves = Ledger(history).by_place(history.of(Kind.APPLIED, Kind.RESTARTED))
    assert moves.seq.tolist() == [1, 1, 2, -1, 2]


# --- services that start clients from now on, and losses without a number -------------------------------


def from_now_on(told: Story) -> Story:
    told.header = {**told.header, "capabilities": {"fresh_start": "from_now_on"}}
    return told


def flight(asked_t: float, sent_ms: float, acknowledged_t: float) -> int:
    """How many events a client lacks that asked at `asked_t`, started at second 5, and got no event 2."""
    told = Story(1).publish(1, t=1.0, value=1000.0).publish(2, t=acknowledged_t, value=sent_ms).publish(3, t=9.0)
    told.tell(asked_t, Kind.REPLAY_STARTED, 0, STREAM, -1).fresh(0, 1, 5.0).apply(0, 3, t=9.1)
    told = told.changed(lambda row: row.kind is Kind.SUBSCRIBED, t=0.1)
    return from_now_on(told.marked()).ledger().dropped.count


@pytest.mark.parametrize(
    ("asked_t", "sent_ms", "acknowledged_t", "lacked"),
    [
        (4.0, 1000.0, 4.5, 0),  # sent before it started, acknowledged after it asked
        (4.6, 1000.0, 4.5, 1),
        (4.5, 1000.0, 4.5, 1),
        (4.0, 1000.0, 5.9, 0),
        (4.0, 1000.0, 6.1, 1),  # sent after it started
        (4.0, 1000.0, 6.0, 0),
    ],
)
def test_event_that_was_in_flight_at_a_start_is_not_owed(asked_t: float, sent_ms: float, acknowledged_t: float, lacked: int):
    assert flight(asked_t, sent_ms, acknowledged_t) == lacked


@pytest.mark.parametrize(("t", "left"), [(4.5, []), (3.5, [4]), (2.9, [3, 4])])
def test_loss_without_a_number_lies_between_the_events_around_it_that_were_sent(t: float, left: list[int]):
    """Client 0 applies 1 and 2, loses 3 and 4, and goes on with 5."""
    told = Story(1, header={"capabilities": {"positions": "opaque"}})
    for seq in range(1, 7):
        told.publish(seq, t=float(seq))
    told.fresh(0, 0, LIVE_T).apply(0, 1, 2, t=2.5).tell(t, Kind.DECLARED_LOSS, 0, STREAM, -1).apply(0, 5, 6, t=6.1)
    told.rows.sort(key=lambda row: row.t)
    told = told.marked().changed(lambda row: row.kind is Kind.APPLIED, seq=-1)
    ledger = told.ledger()
    missing = ledger.published.number[ledger.missing("dropped")[1]]
    assert sorted(missing.tolist()) == left


def test_client_goes_on_at_the_first_event_that_it_applied_where_positions_say_nothing():
    told = Story(1, header={"capabilities": {"positions": "opaque"}}).fresh(0, -1, 2.5)
    for seq in range(1, 5):
        told.publish(seq, t=float(seq))
    told = told.apply(0, 3, 4, t=4.1).audit(1, 2, 3, 4).marked().changed(lambda row: row.kind is Kind.APPLIED, seq=-1)
    assert (told.ledger().expected, told.ledger().dropped.count) == (2, 0)
    assert told.ledger().name_of(1).endswith("marker 2")
    assert [each.tolist() for each in (told.ledger().withheld(9, 0.0), told.ledger().lost_by_authority)] == [[], []]
