"""What a client lacks of the acknowledged events, by markers alone, against sets of numbers."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.client.cursor import Cursor, OpaqueCursor, OrderedCursor
from sim.client.marks import Acknowledged, MarkRange, Marks, mark_range
from sim.client.notices import no_run
from sim.engines.shared import client_setup
from sim.protocols.events import Batch, CaughtUp, Head, Item, Position
from sim.protocols.markers import marked
from sim.protocols.payloads import canonical_json, payload_hash
from tests.client.session_driver import RUN, SessionDriver

NUMBERS = st.lists(st.integers(1, 30), unique=True)
MARKER_RUN = "5f0c9b1a77d2"


@given(NUMBERS, NUMBERS)
def test_lacked_is_what_was_acknowledged_since_the_first_event_and_not_taken(acked: list[int], taken: list[int]) -> None:
    acknowledged, marks = Acknowledged(), Marks()
    for number in acked:
        acknowledged.add(number, -1, float(number), 0.0)
    for number in taken:
        marks.take((number,))
    start = taken[0] if taken else 0
    assert marks.lacked(acknowledged) == len({number for number in acked if number > start} - set(taken))
    assert acknowledged.number == max(acked, default=0)
    assert acknowledged.sent_at == max(acked, default=0)


@given(st.lists(st.floats(0.0, 5.0), min_size=3, max_size=12), st.integers(0, 11), st.data())
def test_events_that_were_in_flight_when_a_client_started_are_not_lacked(
    delays: list[float], start: int, data: st.DataObject
) -> None:
    """Event n is sent at second n and acknowledged after its delay. A client gets only what comes after its start."""
    acknowledged, marks, since = Acknowledged(), Marks(), start + 0.5
    numbers = range(1, len(delays) + 1)
    for number in sorted(numbers, key=lambda number: number + delays[number - 1]):
        acknowledged.add(number, -1, float(number), number + delays[number - 1])
    marks.restart(since=since)
    in_flight = [number for number in numbers if number <= since < number + delays[number - 1]]
    owed = [number for number in numbers if number > since]
    taken = [*data.draw(st.lists(st.sampled_from(in_flight), unique=True) if in_flight else st.just([])), *owed]
    assume(taken)  # without an event, its start is unknown here
    marks.take(taken)
    assert marks.lacked(acknowledged) == marks.lacked(acknowledged) == 0
    if len(owed) > 1 and (lost := data.draw(st.sampled_from(owed[1:]))):
        marks.restart(since=since)
        marks.take([number for number in taken if number != lost])
        assert marks.lacked(acknowledged) == 1


@given(st.lists(NUMBERS, max_size=4), NUMBERS)
def test_ranges_are_the_same_as_single_events(messages: list[list[int]], acked: list[int]) -> None:
    one, other, acknowledged = Marks(), Marks(), Acknowledged()
    for number in acked:
        acknowledged.add(number, number, 0.0, 0.0)
    for numbers in messages:
        one.take(numbers)
        if (found := mark_range("t", numbers)) is not None:
            other.take(found.numbers or range(found.first, found.last + 1))
    assert (one.high, one.lacked(acknowledged)) == (other.high, other.lacked(acknowledged))


def test_a_range_has_numbers_only_if_it_is_not_dense() -> None:
    assert mark_range("t", [-1, -1]) is None
    assert mark_range("t", [3, 4, -1, 5]) == MarkRange("t", 3, 5)
    assert mark_range("t", [3, 5]) == MarkRange("t", 3, 5, (3, 5))


def test_a_restart_excuses_what_lies_before_the_next_event() -> None:
    marks, acknowledged = Marks(), Acknowledged(number=9)
    marks.take((1, 3))
    assert marks.lacked(acknowledged) == 7
    marks.restart()
    marks.take((8,))
    assert marks.lacked(acknowledged) == 1


def test_events_before_the_first_of_a_client_that_resumed_are_not_lacked() -> None:
    marks = Marks()
    marks.take((5,))
    assert marks.lacked(Acknowledged(number=5)) == 0


# --- clients ----------------------------------------------------------------------------------------


def item(driver: SessionDriver, seq: int, marker: int) -> Item:
    stream = driver.session.settings.stream_id(RUN)
    payload = {"payload": marked({"n": 1}, MARKER_RUN, stream, marker)} if marker > 0 else {"payload": {"n": 1}}
    raw = canonical_json(payload)
    return Item(Position(seq), msgspec.Raw(raw), payload_hash(raw))


def client(*, is_sharing: bool = False) -> SessionDriver:
    """A live client that reads markers, with no event."""
    driver = SessionDriver()
    settings = replace(driver.session.settings, marker_run=MARKER_RUN)
    if not is_sharing:
        object.__setattr__(settings, "run_of", no_run)
    driver.session.settings = settings
    driver.session.replica._markers = settings.markers
    driver.go_live()
    return driver


def receive(driver: SessionDriver, *events: tuple[int, int]) -> None:
    items = tuple(item(driver, *each) for each in events)
    driver.session.received((Batch(RUN, items), Head(RUN, Position(events[-1][0])), CaughtUp()), driver.now)


def behind(driver: SessionDriver, head: Acknowledged) -> bool:
    return client_setup.behind(driver.session, {RUN: head}, driver.now) == [RUN]


@pytest.mark.parametrize("is_sharing", [False, True])
@pytest.mark.parametrize("position", [0, 4])
def test_a_server_with_right_positions_cannot_hide_a_dropped_event(is_sharing: bool, position: int) -> None:
    driver = client(is_sharing=is_sharing)
    head = Acknowledged(number=4, position=position, sent_at=math.inf)
    assert behind(driver, head)
    receive(driver, (1, 1), (2, 2))
    assert behind(driver, head)
    assert client_setup.lag_events(driver.session, {RUN: head}) == 2.0
    receive(driver, (3, 2), (4, 4))  # in place of number 3
    assert behind(driver, head)
    assert client_setup.lag_events(driver.session, {RUN: head}) == 1.0
    (row,) = client_setup.conclusion(driver.session, {RUN: head}, driver.now)
    assert (row[0], row[2], row[4], row[6]) == ("still_pending", 4, 4.0, 4)
    receive(driver, (5, 3))
    assert not behind(driver, head)


@pytest.mark.parametrize("is_sharing", [False, True])
def test_events_of_others_count_for_nothing(is_sharing: bool) -> None:
    driver = client(is_sharing=is_sharing)
    receive(driver, (1, -1), (2, 1), (3, -1))
    assert not behind(driver, Acknowledged(number=1))
    receive(driver, (4, -1))
    assert behind(driver, Acknowledged(number=2))


def test_a_client_without_an_event_lacks_only_what_was_sent_after_it_was_live() -> None:
    driver = client()
    live_at = driver.session.live_since
    assert not behind(driver, Acknowledged(number=7, sent_at=live_at - 0.1))
    assert behind(driver, Acknowledged(number=7, sent_at=live_at + 0.1))
    assert not behind(driver, Acknowledged())
    assert client_setup.lag_events(driver.session, {RUN: Acknowledged(number=7)}) is None, "it is unknown"


@given(st.permutations(range(1, 9)), st.permutations(range(1, 9)), st.integers(0, 7), st.data())
def test_events_that_overtook_others_before_a_clients_start_are_not_lacked(
    log: list[int], acks: list[int], start: int, data: st.DataObject
) -> None:
    """`log` is the order of the numbers in the log, `acks` that of their acknowledgements."""
    acknowledged, marks = Acknowledged(), Marks()
    for number in acks:
        acknowledged.add(number, log.index(number) + 1, 0.0, 0.0)
    marks.restart(start)
    marks.take(log[start:])
    assert marks.lacked(acknowledged) == 0
    lost = data.draw(st.sampled_from(log[start:]))
    if kept := [number for number in log[start:] if number != lost]:
        marks.restart(start)
        marks.take(kept)
        assert marks.lacked(acknowledged) == (lost > kept[0])


@given(st.lists(st.floats(0.0, 5.0), min_size=3, max_size=12), st.data())
def test_events_that_overtook_others_before_a_clients_start_are_not_lacked_without_positions(
    delays: list[float], data: st.DataObject
) -> None:
    """Event n is sent at second n, stored at some time within its delay, and acknowledged after it, without its position."""
    numbers = range(1, len(delays) + 1)
    stored_at = {n: n + data.draw(st.floats(0.0, delays[n - 1])) for n in numbers}
    log = sorted(numbers, key=lambda n: (stored_at[n], n))
    acknowledged, marks = Acknowledged(), Marks()
    for number in sorted(numbers, key=lambda n: n + delays[n - 1]):
        acknowledged.add(number, -1, float(number), number + delays[number - 1])
    start = data.draw(st.integers(1, len(log) - 1))
    marks.restart(start)
    marks.take(log[start:])
    assert marks.lacked(acknowledged) == 0
    marks.restart()
    marks.take(log[start:])
    lacked = sum(number > log[start] for number in log[:start])
    assert marks.lacked(acknowledged) == lacked, "a client that started at the beginning has lost them"


@pytest.mark.parametrize(
    ("kind", "has_positions"),  # opaque positions are no numbers, in acknowledgements either
    [(Cursor, True), (Cursor, False), (OrderedCursor, True), (OrderedCursor, False), (OpaqueCursor, False)],
)
def test_what_overtook_others_before_a_checkpoint_is_not_lacked_by_the_next_process(
    kind: type[Cursor], has_positions: bool
) -> None:
    """In the log, numbers 3 and 4 are behind 5 and 6, with which they were in flight, and the checkpoint is after number 6."""
    acknowledged, log = Acknowledged(), [1, 2, 5, 6, 3, 4, 7, 8]
    for number in (1, 2, 5, 6, 3, 4, 7, 8):
        acknowledged.add(number, log.index(number) + 1 if has_positions else -1, 0.0 if number < 7 else 3.0, min(number, 6) / 3)
    stored = Position("opaque") if kind is OpaqueCursor else Position(4)
    marks = kind.at(RUN, RUN, stored).marks
    marks.take(log[4:])
    assert marks.lacked(acknowledged) == 0
    marks = kind.at(RUN, RUN, stored).marks
    marks.take([3, 4, 8])
    assert marks.lacked(acknowledged) == 1, "number 7 was in flight alone"
    marks = kind.at(RUN, RUN, None).marks
    marks.take(log[4:])
    assert marks.lacked(acknowledged) == 2, "a client without a checkpoint has lost them"


def test_an_event_that_was_in_flight_alone_or_long_after_the_start_is_lacked_without_positions() -> None:
    acknowledged, marks = Acknowledged(), Marks()
    for number in range(1, 6):
        acknowledged.add(number, -1, float(number), number + 0.5)
    marks.restart(2)
    marks.take((3, 5))
    assert marks.lacked(acknowledged) == 1
    for number in (301, 300):
        acknowledged.add(number, -1, 6.0, 7.0)
    for number in range(6, 300):
        acknowledged.add(number, -1, 6.0, 6.5)
    marks.restart(2)
    marks.take((*range(3, 300), 301))
    assert marks.lacked(acknowledged) == 1


def test_positions_of_a_log_that_has_started_again_replace_those_before() -> None:
    head = Acknowledged()
    for number, position, sent_at, now in ((1, 2, 0.0, 0.2), (2, 1, 0.1, 0.3), (3, 3, 0.4, 0.5)):
        head.add(number, position, sent_at, now)
    assert (head.number, head.position) == (3, 3), "numbers 1 and 2 were under way together"
    head.add(4, 1, 0.6, 0.7)
    assert (head.number, head.position) == (4, 1), "sent after position 3 was acknowledged, and yet below it"


def test_events_of_a_new_log_that_were_in_flight_together_are_not_taken_for_a_further_log() -> None:
    head = Acknowledged()
    head.add(1, 90, 0.0, 0.1)
    for number, position, sent_at, now in ((2, 1, 0.05, 2.0), (3, 4, 0.05, 2.0), (4, 3, 1.9, 2.1), (5, 2, 1.9, 2.2)):
        head.add(number, position, sent_at, now)
        assert head.position == {2: 90, 3: 90}.get(number, 4), (
            "number 4 is the first that was sent after number 1 was acknowledged"
        )
    assert head.overtaking == {4: 3, 5: 2}
    head.add(6, 1, 2.3, 2.4)
    assert head.position == 1


def test_a_client_that_has_the_events_of_a_new_log_is_not_behind_the_old_one() -> None:
    driver = client()
    head = Acknowledged(number=4, position=9)
    receive(driver, (1, 3), (2, 4))
    assert not behind(driver, head)
    assert behind(driver, Acknowledged(number=5, position=9))


def test_events_that_overtook_others_in_a_new_log_are_known_although_that_log_was_noticed_late() -> None:
    """Retries after a restart were first sent before it, so only an event that is first sent later shows the new log."""
    head = Acknowledged()
    head.add(1, 90, 0.0, 0.1)
    for number, position in ((4, 1), (2, 2), (3, 3)):  # retried together
        head.add(number, position, 0.05, 2.0)
    head.add(5, 4, 2.1, 2.2)
    assert (head.position, head.overtaking) == (4, {4: 1})
    marks = Marks()
    marks.restart(2)
    marks.take((3, 5))
    assert marks.lacked(head) == 0


@pytest.mark.parametrize("is_sharing", [False, True])
def test_events_that_are_left_out_between_two_runs_are_lacked(is_sharing: bool) -> None:
    driver = client(is_sharing=is_sharing)
    receive(driver, (1, 1), (2, 2))
    receive(driver, (3, 5), (4, 6))
    (row,) = client_setup.conclusion(driver.session, {RUN: Acknowledged(number=6)}, driver.now)
    assert (row[0], row[4]) == ("still_pending", 6.0)
    assert client_setup.lag_events(driver.session, {RUN: Acknowledged(number=6)}) == 2.0


def test_event_acknowledged_twice_says_nothing_new_about_when_its_log_had_it() -> None:
    acknowledged = Acknowledged()
    acknowledged.add(1, 5, 0.0, 1.0)
    acknowledged.add(1, 5, 0.5, 3.0)
    acknowledged.add(2, 3, 2.0, 4.0)  # sent after the first answer, so of a new log
    assert (acknowledged.position, acknowledged.number) == (3, 2)
