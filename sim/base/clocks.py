"""The one clock of a rollout: everything here that asks for the time, or waits, does it through one of these."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time and waiting."""

    def now(self) -> datetime:
        """The moment, aware, in UTC."""
        ...

    def sleep_until(self, moment: datetime) -> None:
        """Wait until `moment`; at once if it is over."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """See `Clock`."""
        return datetime.now(UTC)

    def sleep_until(self, moment: datetime) -> None:
        """See `Clock`. The clock may be set while it waits, so it never sleeps for long without looking again."""
        while (left_s := (moment - self.now()).total_seconds()) > 0:
            time.sleep(min(left_s, 1.0))


class SteppedClock:
    """A clock that stands still but for waiting, which takes no time: days of a rollout in seconds, for rehearsals."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """See `Clock`."""
        return self._now

    def sleep_until(self, moment: datetime) -> None:
        """See `Clock`."""
        self._now = max(self._now, moment.astimezone(UTC))

    def step(self, by: timedelta) -> None:
        """Set the clock on, or back."""
        self._now += by


def iso(moment: datetime) -> str:
    """A moment as every file has it: ISO 8601 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> datetime:
    """The moment that `iso` wrote. Raises `ValueError` for anything that is none, or has no time zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)
