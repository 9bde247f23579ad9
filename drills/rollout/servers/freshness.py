"""Whether an answer is of now: by the moment it was made, by its own `Date`, and by our clock."""

from datetime import UTC, datetime, timedelta

from sim.base.clocks import from_iso
from sim.engines.shared.fetch import Fetched
from sim.protocols.spacetime.service_metrics import OK

MAX_AGE_S = 60.0  # [ours] from a body's making to its answer's sending; the endpoints make each body when they are asked
MAX_SKEW_S = 3600.0  # [ours] from a body's making to now on our clock: no clock is off by so much, but a cache's headers are
NOTED_SKEW_S = 5.0  # [ours]


def moment(generated_at: str) -> datetime | None:
    """The moment that a body gives, None for none; one without a time zone is none."""
    try:
        return from_iso(generated_at)
    except (ValueError, OverflowError):
        return None


def skew_s(fetched: Fetched, now: datetime) -> float | None:
    """The answer's `Date` minus our clock when it had come, in seconds; a `Date` has whole seconds."""
    return round((fetched.date - now).total_seconds(), 3) if fetched.date else None


def judged(made: datetime | None, fetched: Fetched, now: datetime, max_age_s: float = MAX_AGE_S) -> tuple[str, tuple[str, ...]]:
    """`ok`, `stale_body` or `future_body`, and what is to be said of it. `made` None: only the headers tell.

    Against the answer's own `Date` it may be `max_age_s` old, so that a server whose clock is wrong is still believed of
    itself; against our clock never more than `MAX_SKEW_S`, because a cache may repeat old headers with an old body.
    """
    sent = fetched.date or now
    made = made or sent
    age_s = (sent - made).total_seconds() + fetched.age_s
    off_s = (now - made).total_seconds()
    notes = _on_clocks(skew_s(fetched, now))
    if age_s > max_age_s or off_s > MAX_SKEW_S:
        return "stale_body", (f"was made {_shown(max(age_s, off_s))} before it came", *notes)
    if age_s < -MAX_AGE_S or off_s < -MAX_SKEW_S:
        return "future_body", (f"says that it was made {_shown(-min(age_s, off_s))} after it came", *notes)
    return OK, notes


def _on_clocks(skew: float | None) -> tuple[str, ...]:
    if skew is None or abs(skew) <= NOTED_SKEW_S:
        return ()
    return (f"its clock is {_shown(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours",)


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def earliest(moments_s: list[float]) -> datetime | None:
    """The first of some POSIX moments, None of none, or where no calendar has it."""
    try:
        return datetime.fromtimestamp(min(moments_s), UTC) if moments_s else None
    except (ValueError, OverflowError, OSError):
        return None
