"""Business days: the days on which people work, and their hours in the time zone of the calendar."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from drills.rollout.setup import stages
from sim.base.errors import UsageError

_SATURDAY = 5
_MAX_DAYS = 60  # days that are searched for a business day


@dataclass(frozen=True)
class Hours:
    """One business day's hours, in UTC."""

    begin: datetime
    end: datetime

    @property
    def length_s(self) -> float:
        """The elapsed seconds between begin and end, also across a daylight saving change."""
        return (self.end - self.begin).total_seconds()


def zone_of(rules: stages.Calendar) -> ZoneInfo:
    """The time zone of a calendar. Raises `UsageError` for an unknown one."""
    return _zone(rules.zone)


class Calendar:
    """The calendar of a stages file. Raises `UsageError` for an unknown zone, country, subdivision or day."""

    def __init__(self, rules: stages.Calendar) -> None:
        self._zone = _zone(rules.zone)
        self._days_off = frozenset(_day(text) for text in rules.days_off)
        self._rules = rules
        self._holidays = _holidays(rules)

    def is_business_day(self, day: date) -> bool:
        """Whether a day is a business day."""
        return not self.why_free(day)

    def why_free(self, day: date) -> str:
        """Why a day is not a business day; empty for a business day."""
        if day.weekday() >= _SATURDAY:
            return "weekend"
        if day in self._days_off:
            return "a day off"
        return self._holidays.get(day) or ""

    def next_hours(self, moment: datetime, day: stages.BusinessDay) -> Hours:
        """The hours of the first whole business day that begins at `moment` or later. Raises `UsageError` without one."""
        for candidate in self._days_from(moment):
            hours = Hours(self._utc(candidate, day.from_), self._utc(candidate, day.to))
            if hours.begin >= moment and self.is_business_day(candidate):
                return hours
        raise UsageError(
            f"there is no business day within {_MAX_DAYS} days of {moment:%Y-%m-%d}; see 'calendar' of the stages file."
        )

    def free_days(self, begin: datetime, end: datetime) -> list[str]:
        """The days between two times that are no business days, each with the reason."""
        last = self.day_of(end)
        days = [day for day in self._days_from(begin) if day <= last]
        return [f"{day:%a %Y-%m-%d} ({why})" for day in days if (why := self.why_free(day))]

    def day_of(self, moment: datetime) -> date:
        """The calendar's day at a time."""
        return moment.astimezone(self._zone).date()

    def local(self, moment: datetime) -> str:
        """A time as text for people, in the calendar's zone."""
        return f"{moment.astimezone(self._zone):%a %Y-%m-%d %H:%M %Z}"

    def _days_from(self, moment: datetime) -> Iterator[date]:
        first = self.day_of(moment)
        return (first + timedelta(days=n) for n in range(_MAX_DAYS))

    def _utc(self, day: date, text: str) -> datetime:
        """A local time of day in UTC. At a clock change, a skipped time moves forward; a repeated one is the first."""
        return datetime.combine(day, time.fromisoformat(text), self._zone).astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # the type depends on the name
        raise UsageError(
            f"key 'calendar.zone' is {name!r}, an unknown time zone; expected a name of the IANA database, such as "
            "America/Chicago."
        ) from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"key 'calendar.days_off' has {text!r}, which is not a date.") from None


def _holidays(rules: stages.Calendar) -> "dict[date, str]":
    import holidays  # imported late: it is slow, and only a stage with a business day needs it

    try:
        found: dict[date, str] = holidays.country_holidays(rules.country, subdiv=rules.subdivision or None)
    except NotImplementedError as error:
        raise UsageError(
            f"keys 'calendar.country' and 'calendar.subdivision' are {rules.country!r} and {rules.subdivision!r}, of which no "
            f"public holidays are known ({error}); expected an ISO 3166 code, such as US, and one of its subdivisions or none."
        ) from None
    return found
