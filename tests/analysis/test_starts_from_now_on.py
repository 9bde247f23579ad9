"""What is owed to clients that start from now on: nothing that was sent before, even where publishes overlapped."""

import pytest

from drills.judging.checks.verdicts import State
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from tests.analysis.test_invariants import broken
from tests.drills.asking import state
from tests.histories import STREAM, Story

OPAQUE = {"positions": "opaque", "fresh_start": "from_now_on"}


def overlapping(acknowledged: dict[int, float], applied: dict[int, list[int]], *, starts_from_now_on: bool = True) -> Story:
    """Events by number, with the time of their acknowledgement, and what each client applied after its start at 3 s."""
    fresh_start = "from_now_on" if starts_from_now_on else "retained"
    story = Story(len(applied), header={"capabilities": {**OPAQUE, "fresh_start": fresh_start}})
    for number, t in sorted(acknowledged.items(), key=lambda each: each[1]):
        story.tell(t, Kind.PUBLISHED, -1, STREAM, value=0.0, marker=number)
    for client, numbers in applied.items():
        story.tell(3.0, Kind.SUBSCRIBED, client, value=20.0)
        story.tell(3.0, Kind.REBOOTSTRAPPED, client, STREAM, detail="fresh")
        for number in numbers:
            story.tell(max(acknowledged[number], 3.1), Kind.APPLIED, client, STREAM, marker=number)
        story.tell(9.0, Kind.SETTLED, client)
    return story


@pytest.mark.parametrize(
    ("sent_t", "starts_from_now_on", "found"),
    [
        (2.9, True, {}),  # the third event was in flight when the client started, and the second one came after it
        (3.05, True, {"silent_loss": 1}),
        (2.9, False, {"silent_loss": 1}),  # a service that sends what it retains owes it
    ],
)
@pytest.mark.parametrize("acknowledged_t", [2.95, 3.3])
def test_event_that_was_in_flight_at_a_clients_start_is_not_owed(
    sent_t: float, acknowledged_t: float, starts_from_now_on: bool, found: dict[str, int]
) -> None:
    acknowledged = {1: 1.0, 2: 3.2, 3: max(acknowledged_t, sent_t), 4: 4.0}
    story = overlapping(acknowledged, {0: [2, 4]}, starts_from_now_on=starts_from_now_on)
    sent = story.tell(acknowledged[3], Kind.PUBLISH_TRIED, -1, STREAM, value=(acknowledged[3] - sent_t) * 1000, marker=3)
    assert broken(sent) == found


def test_event_that_the_service_sent_while_a_client_asked_to_start_is_not_owed() -> None:
    """The first event that it gets was acknowledged before the answer to its subscribe, too."""
    story = overlapping({1: 2.9, 2: 2.5, 3: 4.0}, {0: [1, 3], 1: [1, 2, 3]})
    assert broken(story)["silent_loss"] == 1
    story.tell(2.4, Kind.REPLAY_STARTED, 0, STREAM).rows.sort(key=lambda row: row.t)
    assert broken(story) == {}


def test_start_of_one_client_excuses_no_other() -> None:
    story = overlapping({1: 1.0, 2: 3.2, 3: 2.9, 4: 4.0}, {0: [2, 4], 1: [2, 4]})
    late = story.changed(lambda row: row.client == 1 and row.t == 3.0, t=2.0)
    assert broken(late)["silent_loss"] == 1


def test_client_is_past_the_loss_that_it_declared() -> None:
    """Its session is unknown after the second event; the third was acknowledged before it came back, and nothing brings it."""

    def story(*, declares: bool) -> Story:
        told = overlapping({1: 3.5, 2: 4.0, 3: 5.0, 4: 7.0}, {0: [1, 2, 4]})
        if declares:
            told.tell(6.0, Kind.STALE, 0, STREAM, detail="session_unknown").tell(
                6.0, Kind.REBOOTSTRAPPED, 0, STREAM, detail="other_log"
            )
            told.tell(6.0, Kind.DECLARED_LOSS, 0, STREAM)
        told.tell(6.1, Kind.REPLAY_COMPLETED, 0, value=200.0)
        told.rows.sort(key=lambda row: row.t)
        return told

    assert broken(story(declares=True)) == {}
    assert broken(story(declares=False)) == {"silent_loss": 1, "early_replay_complete": 1}


@pytest.mark.parametrize(
    ("sent_t", "acknowledged_t", "found"),
    [
        (4.2, 5.5, {}),  # its retry was stored while nobody was there
        (5.0, 6.4, {}),  # so it may have been: only its acknowledgement is later
        (3.6, 3.9, {"silent_loss": 1}),  # acknowledged before the client got an event that was sent later
        (6.1, 6.4, {"silent_loss": 1}),  # sent after the client was back
    ],
)
def test_loss_of_a_client_that_was_away_covers_events_that_nobody_saw(
    sent_t: float, acknowledged_t: float, found: dict[str, int]
) -> None:
    """Retries overtake each other while the service restarts: the fourth event comes late, and the fifth was there before."""
    story = overlapping({1: 3.5, 2: 4.0, 3: 5.4, 4: 6.3, 5: acknowledged_t, 6: 7.0}, {0: [1, 2, 4, 6]})
    for number, first_t, t in ((4, 4.3, 6.3), (5, sent_t, acknowledged_t)):
        story.tell(t, Kind.PUBLISH_TRIED, -1, STREAM, value=(t - first_t) * 1000, marker=number)
    story.tell(6.0, Kind.STALE, 0, STREAM, detail="session_unknown")
    story.tell(6.0, Kind.REBOOTSTRAPPED, 0, STREAM, detail="other_log").tell(6.0, Kind.DECLARED_LOSS, 0, STREAM)
    story.rows.sort(key=lambda row: row.t)
    assert broken(story) == found
    assert unproven(story) == ([5] if sent_t == 5.0 else []), "nothing but its flight says that it may have been stored before"


def unproven(story: Story) -> list[int]:
    """The numbers of events that no reader has, and that may be lost."""
    ledger = Ledger(story.history())
    return ledger.published.number[ledger.unproven].tolist()


@pytest.mark.parametrize(("also_has", "found"), [((), [3]), (("client",), []), (("log",), []), (("fault",), [])])
def test_event_in_flight_at_all_starts_is_unproven_until_a_reader_has_it(also_has: tuple[str, ...], found: list[int]) -> None:
    """Publishing 3 was acknowledged after both clients had started, so they should have it if it was stored then."""
    story = overlapping({1: 3.2, 3: 3.5, 4: 4.0}, {0: [1, 4], 1: [1, 3, 4] if "client" in also_has else [1, 4]})
    story.tell(3.5, Kind.PUBLISH_TRIED, -1, STREAM, value=600.0, marker=3)
    if "log" in also_has:
        story.tell(9.5, Kind.READ_BACK, -1, STREAM, marker=3)
    if "fault" in also_has:  # it withheld the event from somebody, so the service had it
        story.tell(3.6, Kind.WITHHELD, 7, STREAM, marker=3)
    story.rows.sort(key=lambda row: row.t)
    assert broken(story) == {}
    assert unproven(story) == found
    assert state("drill.converged", story) is (State.INCONCLUSIVE if found else State.PASS)


@pytest.mark.parametrize(("starts_from_now_on", "found"), [(True, {}), (False, {"silent_loss": 1, "early_replay_complete": 1})])
def test_client_whose_checkpoint_was_lost_is_owed_what_came_after_its_new_start(
    starts_from_now_on: bool, found: dict[str, int]
) -> None:
    story = overlapping({1: 3.5, 2: 4.0, 3: 5.0, 4: 7.0}, {0: [1, 2, 4]}, starts_from_now_on=starts_from_now_on)
    story.tell(4.5, Kind.RESTARTED, 0, STREAM, detail="lost").tell(6.0, Kind.REBOOTSTRAPPED, 0, STREAM, detail="fresh")
    story.tell(6.1, Kind.REPLAY_COMPLETED, 0, value=200.0).rows.sort(key=lambda row: row.t)
    assert broken(story) == found
    owed = story.changed(lambda row: row.kind == Kind.PUBLISHED and row.marker == 3, t=6.5)
    assert broken(owed)["silent_loss"] == 1


def test_new_start_excuses_no_event_that_was_surely_there_before_it() -> None:
    """A reader had it at 4 s; its publish got no answer until 12 s, and the client that lacked it started anew at 6 s."""
    story = overlapping({1: 3.5, 2: 5.0, 3: 8.0}, {0: [1, 2, 3], 1: [1, 2, 3]})
    story.header = {"capabilities": {"fresh_start": "from_now_on"}, "duration_s": 30.0}
    seqs = {1: 1, 2: 3, 3: 4}
    story.rows = [row._replace(seq=seqs[row.marker]) if row.marker > 0 else row for row in story.rows]
    for t, detail in ((5.5, "fault_injected"), (7.0, "fault_reverted")):
        story.tell(t, Kind(detail), detail="restart_clients")
    story.tell(4.0, Kind.APPLIED, 0, STREAM, 2, marker=9)
    for client in (0, 1):
        story.tell(5.9, Kind.REPLAY_STARTED, client, STREAM)
        story.tell(6.0, Kind.REBOOTSTRAPPED, client, STREAM, 3, detail="fresh")
    story.tell(12.0, Kind.PUBLISH_FAILED, stream=STREAM, value=8100.0, detail="unknown_outcome", marker=9)
    story.tell(30.0, Kind.PHASE, detail="end").rows.sort(key=lambda row: row.t)
    assert broken(story)["partly_delivered"] == 1
