"""What `Publishing` decides without waiting: due moments, retries, order and outcomes."""

import json
from pathlib import Path

import pytest

from sim.drill.model import Load
from sim.engines.shared.publishing import GIVE_UP_S, RETRY_S, Publishing, Try, streams_of
from sim.engines.shared.service_api import UNKNOWN_OUTCOME, PublishedEvent, PublishFailedError
from sim.protocols.payloads import canonical_json
from sim.record.parquet import Recorder

BEGAN = 100.0


class Rows(Recorder):
    def __init__(self, folder: Path) -> None:
        self.rows: list[tuple[str, int, str]] = []
        self.tries: list[tuple[str, int, str]] = []
        self.markers: list[int] = []

    def add(self, t, kind, client=-1, stream="", seq=-1, attempt=0, value=0.0, detail="", marker=-1):  # type: ignore[no-untyped-def]
        (self.tries if kind == "publish_tried" else self.rows).append((kind, seq, detail))
        self.markers.append(marker)


def publishing(
    folder: Path, events: int = 0, runs: int = 1, in_flight: int = 0
) -> tuple[Publishing, list[tuple[str, int, str]]]:
    recorder = Rows(folder)
    made = Publishing(
        streams_of([f"r{run + 1}" for run in range(runs)], False),
        Load(events_per_s=10.0, events=events, in_flight_per_stream=in_flight),
        recorder,
        BEGAN,
        "5f0c9b1a77d2",
    )
    made.start(BEGAN)
    return made, recorder.rows


def first(made: Publishing) -> Try:
    due = made.next_due
    assert due is not None
    taken = made.take(due)
    assert taken is not None
    made.sent(taken.event, due)
    return taken


def test_each_event_is_due_at_its_own_moment(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path, events=3, runs=3)
    assert [first(made).at for _ in range(3)] == [BEGAN, BEGAN + 0.1, BEGAN + 0.2]
    assert made.next_due is None, "the number of events is fixed"


def test_no_event_is_due_after_a_stop(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path)
    first(made)
    made.stop()
    assert (made.next_due, len(made.under_way)) == (None, 1)


@pytest.mark.parametrize(("hint_ms", "wait_s"), [(None, RETRY_S), (50.0, RETRY_S), (1500.0, 1.5)])
def test_a_retry_waits_as_long_as_the_service_asks_and_no_less_than_the_default(
    tmp_path: Path, hint_ms: float | None, wait_s: float
) -> None:
    made, rows = publishing(tmp_path)
    tried = first(made)
    again = made.failed(tried.event, PublishFailedError("busy", hint_ms), BEGAN + 1)
    assert again == Try(tried.event, BEGAN + 1 + wait_s)
    assert rows == []


def test_an_event_fails_with_its_gravest_code_once_no_retry_is_in_time(tmp_path: Path) -> None:
    made, rows = publishing(tmp_path)
    event = first(made).event
    assert made.failed(event, PublishFailedError(UNKNOWN_OUTCOME), BEGAN + GIVE_UP_S - RETRY_S) is not None
    made.sent(event, BEGAN + GIVE_UP_S)
    assert made.failed(event, PublishFailedError("busy"), BEGAN + GIVE_UP_S) is None
    assert rows == [("publish_failed", -1, UNKNOWN_OUTCOME)]
    assert not made.under_way


def test_a_final_refusal_is_not_tried_again(tmp_path: Path) -> None:
    made, rows = publishing(tmp_path)
    assert made.failed(first(made).event, PublishFailedError("too_large", is_final=True), BEGAN) is None
    assert rows == [("publish_failed", -1, "too_large")]


@pytest.mark.parametrize(("late_s", "kind"), [(GIVE_UP_S, "published"), (GIVE_UP_S + 0.1, "publish_failed")])
def test_an_acknowledgement_after_the_limit_is_an_unknown_outcome(tmp_path: Path, late_s: float, kind: str) -> None:
    made, rows = publishing(tmp_path)
    event = first(made).event
    assert made.succeeded(event, PublishedEvent(7), BEGAN + late_s) is None
    assert [row[0] for row in rows] == [kind]
    head = made.heads[event.stream.topic]
    assert (head.number, head.position, head.sent_at) == ((1, 7, BEGAN) if kind == "published" else (0, 0, 0.0))


def test_event_whose_first_answer_is_lost_is_sent_again_and_acknowledged_once(tmp_path: Path) -> None:
    made, rows = publishing(tmp_path)
    made.answer_loss_share = 1.0
    event = first(made).event
    again = made.succeeded(event, PublishedEvent(7), BEGAN + 1)
    assert again == Try(event, BEGAN + 1 + RETRY_S)
    assert (rows, made.acknowledged, made.lost_answers) == ([], 0, 1)
    made.sent(event, again.at)
    assert made.succeeded(event, PublishedEvent(7), BEGAN + 2) is None, "only the answer to the first try is lost"
    assert rows == [("published", 7, rows[0][2])]
    assert made.recorder.tries == [("publish_tried", -1, "answer_lost"), ("publish_tried", -1, "acknowledged")]  # type: ignore[attr-defined]


def test_a_share_of_the_first_answers_is_lost(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path, runs=2)
    made.answer_loss_share = 0.3
    for number in range(400):
        made.succeeded(first(made).event, PublishedEvent(number + 1), BEGAN + 1)
    assert 0.2 < made.lost_answers / 400 < 0.4
    of_each = [sum(event.stream.run_id == run for event in made.under_way) for run in ("r1", "r2")]
    assert min(of_each) > 0.3 * made.lost_answers, "no stream is spared"


def test_with_a_fixed_number_of_events_a_stream_publishes_in_order(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path, events=2)
    one = first(made)
    assert made.take(BEGAN + 0.1) is None, "it waits for the first of its stream"
    two = made.succeeded(one.event, PublishedEvent(1), BEGAN + 5)
    assert two is not None
    assert (two.at, two.event.key) == (BEGAN + 5, "r1-5f0c9b1a77d2-1")
    assert made.drop(two.event, BEGAN + 6) is None


def test_at_most_so_many_publishes_of_a_stream_are_in_flight(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path, runs=2, in_flight=2)
    flying = [first(made).event for _ in range(4)]
    assert [event.stream.run_id for event in flying] == ["r1", "r2", "r1", "r2"]
    assert made.take(BEGAN + 0.4) is None, "two events of its stream are in flight"
    following = made.succeeded(flying[2], PublishedEvent(1), BEGAN + 1)
    assert following is not None
    assert (following.event.number, following.event.stream.run_id) == (3, "r1")
    assert made.failed(flying[1], PublishFailedError("too_large", is_final=True), BEGAN + 1) is None, "none of r2 waits"
    made.give_up_all(BEGAN + 2)
    assert not made.under_way


@pytest.mark.parametrize("is_late_answer", [True, False])
def test_a_try_that_ends_after_all_were_given_up_changes_nothing(tmp_path: Path, is_late_answer: bool) -> None:
    made, rows = publishing(tmp_path)
    event = first(made).event
    made.give_up_all(BEGAN + 1)
    before = list(rows)
    if is_late_answer:
        assert made.succeeded(event, PublishedEvent(1), BEGAN + 2) is None
    else:
        assert made.failed(event, PublishFailedError(UNKNOWN_OUTCOME), BEGAN + 2) is None
    assert rows == before == [("publish_failed", -1, UNKNOWN_OUTCOME)]


def test_a_group_is_due_at_once_on_one_stream_at_the_same_rate(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path, runs=2)
    before = first(made)
    made.at_once = 3
    grouped = [first(made) for _ in range(6)]
    made.at_once = 1
    after = first(made)
    assert [round((due.at - BEGAN) * 10) for due in (before, *grouped, after)] == [0, 1, 1, 1, 4, 4, 4, 7]
    assert [due.event.stream.run_id for due in (before, *grouped, after)] == ["r1", *["r2"] * 3, *["r1"] * 3, "r2"]
    assert made.overlapped == 2 + 3, "only the first group found its stream idle"


def test_a_group_whose_events_wait_for_one_another_does_not_overlap(tmp_path: Path) -> None:
    made, _ = publishing(tmp_path, in_flight=1)
    made.at_once = 3
    one = first(made)
    assert [made.take(BEGAN), made.take(BEGAN)] == [None, None]
    assert made.succeeded(one.event, PublishedEvent(1), BEGAN + 1) is not None
    assert made.overlapped == 0


def test_every_try_is_recorded_with_its_outcome_and_sends_the_same_marker(tmp_path: Path) -> None:
    made, rows = publishing(tmp_path, runs=2)
    recorder = made.recorder
    assert isinstance(recorder, Rows)
    one, other, third = (first(made).event for _ in range(3))
    assert [event.number for event in (one, other, third)] == [1, 1, 2], "numbers count the events of a stream"
    sent = json.dumps(one.payload)
    made.failed(one, PublishFailedError("busy"), BEGAN + 1)
    made.sent(one, BEGAN + 2)
    made.failed(one, PublishFailedError(UNKNOWN_OUTCOME), BEGAN + 3)
    made.sent(one, BEGAN + 4)
    made.succeeded(one, PublishedEvent(9), BEGAN + 5)
    made.give_up_all(BEGAN + 6)
    assert json.dumps(one.payload) == sent
    assert [row[2] for row in recorder.tries] == ["refused", "unknown", "acknowledged", "unknown", "unknown"]
    assert [row[0] for row in rows] == ["published", "publish_failed", "publish_failed"]
    assert recorder.markers == [1, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("payload_bytes", [64, 300])
def test_a_marker_counts_within_the_size_of_a_payload(tmp_path: Path, payload_bytes: int) -> None:
    made, _ = publishing(tmp_path)
    made.load = Load(events_per_s=1.0, payload_bytes=payload_bytes)
    plain = {"number": 0, "text": "x" * payload_bytes}
    assert len(canonical_json(first(made).event.payload)) == len(canonical_json(plain))
