"""Business days: weekends, holidays, days off, and the two days on which clocks change."""

from datetime import UTC, date, datetime

import pytest

from drills.rollout.setup import stages
from drills.rollout.setup.calendar import Calendar
from sim.base.errors import UsageError

DAY = stages.BusinessDay(from_="09:00", to="17:00")


def calendar(
    zone: str = "America/Chicago", country: str = "US", subdivision: str = "", days_off: tuple[str, ...] = ()
) -> Calendar:
    return Calendar(stages.Calendar(zone=zone, country=country, subdivision=subdivision, days_off=days_off))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("moment", "begins", "ends"),
    [
        ("2026-11-23T08:00:00-06:00", "2026-11-23T15:00:00Z", "2026-11-23T23:00:00Z"),  # before its hours: today
        ("2026-11-23T09:00:00-06:00", "2026-11-23T15:00:00Z", "2026-11-23T23:00:00Z"),  # on the dot
        ("2026-11-23T09:00:01-06:00", "2026-11-24T15:00:00Z", "2026-11-24T23:00:00Z"),  # no whole one any more
        ("2026-11-27T10:00:00-06:00", "2026-11-30T15:00:00Z", "2026-11-30T23:00:00Z"),  # Friday: over the weekend
        ("2026-11-25T17:00:00-06:00", "2026-11-27T15:00:00Z", "2026-11-27T23:00:00Z"),  # over Thanksgiving
        ("2026-03-06T18:00:00-06:00", "2026-03-09T14:00:00Z", "2026-03-09T22:00:00Z"),  # over a change to summer time
        ("2026-10-30T18:00:00-05:00", "2026-11-02T15:00:00Z", "2026-11-02T23:00:00Z"),  # and over the one back
    ],
)
def test_finds_the_next_whole_business_day(moment: str, begins: str, ends: str):
    hours = calendar().next_hours(at(moment), DAY)
    assert (hours.begin, hours.end) == (at(begins), at(ends))
    assert hours.length_s == 8 * 3600


def test_hours_across_a_daylight_saving_change_count_in_real_time():
    night = stages.BusinessDay(from_="01:00", to="09:00")
    cairo = calendar("Africa/Cairo", "EG")  # where the clocks change on a Friday, at midnight
    assert cairo.next_hours(at("2026-04-23T00:00:00+02:00"), night).length_s == 8 * 3600
    jerusalem = calendar("Asia/Jerusalem", "IL")  # on a Friday, at two
    assert jerusalem.next_hours(at("2026-03-27T00:00:00+02:00"), night).length_s == 7 * 3600


def test_free_day_has_its_reason():
    found = calendar(days_off=("2026-11-30",))
    assert found.why_free(date(2026, 11, 26)) == "Thanksgiving Day"
    assert found.why_free(date(2026, 11, 28)) == "weekend"
    assert found.why_free(date(2026, 11, 30)) == "a day off"
    assert found.is_business_day(date(2026, 11, 24))
    assert not calendar("Europe/Berlin", "DE", "BY").is_business_day(date(2026, 1, 6))
    assert calendar("Europe/Berlin", "DE", "BE").is_business_day(date(2026, 1, 6))


def test_day_off_is_skipped():
    found = calendar(days_off=("2026-11-24",)).next_hours(at("2026-11-23T18:00:00-06:00"), DAY)
    assert found.begin == at("2026-11-25T15:00:00Z")


def test_calendar_without_a_business_day_is_refused():
    every_day = tuple(f"2026-{month:02d}-{day:02d}" for month in (1, 2, 3) for day in range(1, 29))
    with pytest.raises(UsageError, match="no business day"):
        calendar(days_off=(*every_day, "2026-01-29", "2026-01-30", "2026-03-30", "2026-03-31")).next_hours(
            at("2026-01-01T00:00:00Z"), DAY
        )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"zone": "America/Chikago"}, "America/Chikago"),
        ({"zone": "../etc/passwd"}, "unknown time zone"),
        ({"country": "ZZ"}, "ZZ"),
        ({"subdivision": "XX"}, "XX"),
        ({"days_off": ("2026-02-30",)}, "2026-02-30"),
    ],
)
def test_unknown_calendar_value_is_reported(wrong: dict[str, object], words: str):
    with pytest.raises(UsageError, match=words):
        calendar(**wrong)  # type: ignore[arg-type]


def test_times_are_shown_in_the_calendars_zone():
    assert calendar().local(at("2026-11-23T15:00:00Z")) == "Mon 2026-11-23 09:00 CST"
