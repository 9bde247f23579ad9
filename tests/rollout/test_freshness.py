"""Whether an answer is of now: by the moment it was made, by its own Date, by caches on the way, and by our clock."""

from datetime import UTC, datetime, timedelta

import pytest

from drills.rollout.servers import snapshots
from sim.engines.shared.metrics_book import Fetched

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def judged(made_s: float | None, date_s: float | None, age_s: float = 0.0) -> tuple[str, tuple[str, ...]]:
    """An answer made and sent so many seconds after now."""
    date = None if date_s is None else NOW + timedelta(seconds=date_s)
    made = None if made_s is None else NOW + timedelta(seconds=made_s)
    return snapshots.freshness(made, Fetched("ok", b"{}", 200, date, age_s), NOW)


@pytest.mark.parametrize(
    ("made_s", "date_s", "age_s", "outcome"),
    [
        (0, 0, 0, "ok"),
        (-59, 0, 0, "ok"),
        (-61, 0, 0, "stale_body"),
        (-59, None, 0, "ok"),
        (-61, None, 0, "stale_body"),  # without a Date, our clock says it
        (-600, -600, 0, "ok"),  # their clock is ten minutes late, and they are right by it
        (-600, 0, 0, "stale_body"),
        (-86_400, -86_400, 0, "stale_body"),  # a cache repeats yesterday's headers, too
        (-3_601, -3_601, 0, "stale_body"),
        (0, 0, 61, "stale_body"),  # a cache says for how long it had it
        (61, 0, 0, "future_body"),
        (59, 0, 0, "ok"),
        (61, None, 0, "future_body"),
        (3_601, 3_601, 0, "future_body"),
        (None, 0, 0, "ok"),  # a status without a moment: its headers must do
        (None, None, 0, "ok"),
        (None, -3_601, 0, "stale_body"),
        (None, 0, 61, "stale_body"),
    ],
)
def test_an_answer_is_of_now_or_says_why_not(made_s: float | None, date_s: float | None, age_s: float, outcome: str) -> None:
    assert judged(made_s, date_s, age_s)[0] == outcome


def test_how_old_it_is_is_said() -> None:
    assert judged(-86_400, 0)[1] == ("was made 1 day, 0:00:00 before it came",)
    assert judged(90, 0)[1] == ("has a date that is 0:01:30 after it came",)


def test_clocks_that_do_not_agree_are_noted() -> None:
    assert judged(-12, -12) == ("ok", ("its clock is 0:00:12 behind ours",))
    assert judged(12, 12) == ("ok", ("its clock is 0:00:12 ahead of ours",))
    assert judged(-4, -4) == ("ok", ())


@pytest.mark.parametrize("text", ["", "yesterday", "2026-03-02", "2026-03-02T09:00:00", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_moment_of_a_time_zone_is_none(text: str) -> None:
    assert snapshots.moment(text) is None


@pytest.mark.parametrize("text", ["2026-03-02T09:00:00Z", "2026-03-02T10:00:00.000000000+01:00"])
def test_a_moment_is_read_however_it_is_written(text: str) -> None:
    assert snapshots.moment(text) == NOW


@pytest.mark.parametrize("seconds", [1e300, float("nan"), -1e18])
def test_a_moment_of_no_calendar_is_none(seconds: float) -> None:
    assert snapshots.earliest([seconds]) is None
