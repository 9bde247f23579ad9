"""The logs and snapshots of one runtime, and what it says of cursors that cannot be resumed."""

import pytest

from sim.protocols.events import Position, Stale
from sim.protocols.intents import Subscribe
from sim.protocols.spacetime.profile import PROFILE
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import REPLAY_BUDGET_EXCEEDED, RETENTION_FLOOR_BREACH
from sim.server.streams import Streams, answering
from tests.server.runtime_driver import WORKER, A, B

NOW = 1000.0


def streams(count: int = 10, keep: int = 10, **settings: int) -> Streams:
    """Streams of which A has so many events, and retains the newest."""
    found = Streams(RuntimeSettings(**settings), PROFILE)  # type: ignore[arg-type]
    for number in range(1, count + 1):
        found.log(A).append(str(number), b"{}", NOW)
    found.log(A).keep_newest(keep)
    return found


def refused(found: Streams, after: int | None, topic: str = A, **switches: int) -> tuple[Stale, ...]:
    position = None if after is None else Position(after)
    return found.refusal(Subscribe("1", {topic: position}), Switches(**switches), NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "reasons"),
    [
        (None, None),
        (10, None),
        (11, None),
        (6, None),
        (5, (REPLAY_BUDGET_EXCEEDED,)),
        (2, (REPLAY_BUDGET_EXCEEDED,)),
        (1, (RETENTION_FLOOR_BREACH, REPLAY_BUDGET_EXCEEDED)),
    ],
)
def test_cursor_is_stale_below_what_is_retained_or_far_behind(after: int | None, reasons: tuple[str, ...] | None):
    stale = refused(streams(keep=8, replay_budget_events=4), after)
    assert [each.reasons for each in stale] == ([] if reasons is None else [reasons])
    for each in stale:
        assert each.snapshot is not None
        places = (each.stream, each.asked, each.floor, each.head, each.lag, each.budget, each.snapshot.at)
        assert places == (A, Position(after or 0), Position(2), Position(10), 10 - (after or 0), 4, Position(10))


def test_budget_is_the_faults_or_the_settings_or_the_topics_own():
    own = PROFILE.topics.topic_class(A).replay_budget_events
    for settings, switches, budget in (
        ({}, {}, own),
        ({"replay_budget_events": 7}, {}, 7),
        ({"replay_budget_events": 7}, {"shrunk_budget_events": 3}, 3),
    ):
        (stale,) = streams(keep=1, **settings).fell_off(A, 1, Switches(**switches), NOW)  # type: ignore[arg-type]
        assert (stale.budget, stale.reasons, stale.asked) == (budget, (RETENTION_FLOOR_BREACH,), Position(1))


def test_topic_without_events_refuses_no_cursor_and_has_no_head():
    found = streams()
    assert (found.head(B), found.head(A), refused(found, 5, B)) == (0, 10, ())
    assert found.log(B) is found.log(B)


def test_topic_without_snapshots_offers_none():
    found = streams()
    found.log(WORKER).append("k", b"{}", NOW)
    (stale,) = found.fell_off(WORKER, 0, Switches(), NOW)
    assert stale.snapshot is None


@pytest.mark.parametrize(("later_s", "is_new"), [(0.0, False), (-0.1, False), (1.0, True)])
def test_snapshot_is_kept_until_it_is_due(later_s: float, is_new: bool):
    found, every_s = streams(), PROFILE.topics.topic_class(A).snapshot_every_s
    assert every_s is not None
    found.fell_off(A, 0, Switches(), NOW)
    found.log(A).append("more", b"{}", NOW)
    moment = NOW + later_s if later_s <= 0 else NOW + every_s
    (stale,) = found.fell_off(A, 0, Switches(), moment)
    assert stale.snapshot is not None
    assert stale.snapshot.at == Position(11 if is_new else 10)


def test_snapshot_that_ends_before_the_window_is_taken_again():
    for keep, at in ((1, 10), (0, 11)):
        found = streams()
        found.fell_off(A, 0, Switches(), NOW)
        found.log(A).append("more", b"{}", NOW)
        found.log(A).keep_newest(keep)
        (stale,) = found.fell_off(A, 0, Switches(), NOW)
        assert stale.snapshot is not None
        assert stale.snapshot.at == Position(at)


def test_recreated_log_is_empty_and_has_another_epoch():
    found = streams()
    found.fell_off(A, 0, Switches(), NOW)
    before = found.epoch(A)
    assert [found.recreate(A), found.recreate(A), found.recreate(B)] == [10, 0, 0]
    assert (found.head(A), found.epoch(A) != before, found.epoch(A)) == (0, True, "log-1.2")
    found.log(A).append("k", b"{}", NOW)
    (stale,) = found.fell_off(A, 0, Switches(), NOW)
    assert stale.snapshot is not None
    assert stale.snapshot.at == Position(1), "the old snapshot is gone, too"


def test_answer_has_the_reference_of_its_subscribe():
    (stale,) = answering(streams(keep=1).fell_off(A, 1, Switches(), NOW), "7")
    assert (stale.ref, stale.stream) == ("7", A)  # type: ignore[union-attr]
