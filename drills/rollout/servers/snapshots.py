"""Snapshots of a target's own two services: one answer each, and whether that answer can be used.

A failure of the target raises no exception; it is the snapshot's `outcome`. An answer is used only if it has metrics, if all
of them are possible values, and if it is fresh: a cache may repeat an old answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from drills.rollout.servers.revisions import LIMIT_S, Finder
from drills.rollout.setup.records import Phase, Revisions, Snapshot
from drills.runs.targets import Target
from sim.base.clocks import Clock, from_iso, iso
from sim.base.redaction import Redactor
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fetch import fetch_now, printed_now
from sim.engines.shared.metrics_book import Fetched, page
from sim.service.metric_names import PROFILES, STATUS_COUNTERS
from sim.service.metrics import OK, Reading, read_metrics, read_status

MAX_AGE_S = 60.0  # [ours] from generating a body to sending its answer; the endpoints generate a body per request
MAX_SKEW_S = 3600.0  # [ours] from generating a body to now on our clock; more means old headers of a cache, not a wrong clock
NOTED_SKEW_S = 5.0  # [ours]
_READABLE = (OK, "no_metrics", "bad_numbers")  # outcomes of well-formed bodies, with valid numbers or without


class Source(Protocol):
    """A server that can be sampled."""

    @property
    def name(self) -> str:
        """What it is: metrics, control or prometheus."""
        ...

    def ask(self, n: int, phase: Phase, fault: bool, clock: Clock) -> tuple[Snapshot, bytes]:
        """Take one snapshot; return it and its body, both without secrets. Failures of the target raise no exception."""
        ...


@dataclass(frozen=True)
class ServiceSource:
    """One of the target's own two endpoints. `profile` is the one that its entry promises, empty for the control service."""

    name: Literal["metrics", "control"]
    url: str
    headers: Mapping[str, str] = field(repr=False)
    read: Callable[[bytes], Reading]
    profile: str
    revisions: Callable[[Reading], Revisions]
    redact: Redactor
    command: Sequence[str] = ()  # prints the answer, in place of a request
    described: Sequence[str] = ()  # the metrics that the target's entry names, in place of a profile's

    def ask(self, n: int, phase: Phase, fault: bool, clock: Clock) -> tuple[Snapshot, bytes]:
        """See `Source`."""
        asked_at = clock.now()
        fetched = printed_now(self.command, LIMIT_S) if self.command else fetch_now(self.url, self.headers, LIMIT_S)
        now = clock.now()
        body = self.redact(fetched.body)
        reading = self.read(body) if fetched.outcome == OK else Reading(fetched.outcome)
        made = moment(reading.generated_at)
        outcome, notes = reading.outcome, reading.notes
        if outcome == OK:
            outcome, more = freshness(made, fetched, now)
            notes += more
        if outcome == OK and made is None and self.name == "metrics":  # every profile has a date; a body without one may be old
            outcome = "undated_body"
        snapshot = Snapshot(
            n=n,
            at=iso(asked_at),
            source=self.name,
            profile=reading.profile,
            phase=phase,
            fault=fault,
            url=self.redact.text(self.url),
            outcome=outcome,
            status=fetched.status,
            latency_ms=round(fetched.latency_ms, 3),
            generated_at=reading.generated_at or None,
            clock_skew_s=skew_s(fetched, now),
            revisions=self.revisions(reading),
            missing=self._missing(reading),
            metrics=reading.figures,
            notes=(*notes, *self._mismatch(reading)),
        )
        return snapshot, body

    def _missing(self, reading: Reading) -> tuple[str, ...]:
        if reading.outcome not in _READABLE:
            return ()
        of_page = self.described or (PROFILES[reading.profile or self.profile] if self.name == "metrics" else STATUS_COUNTERS)
        return tuple(name for name in of_page if name not in reading.figures)

    def _mismatch(self, reading: Reading) -> tuple[str, ...]:
        if self.name != "metrics" or reading.profile in ("", self.profile):
            return ()
        return (f"it serves the {reading.profile} profile, but the target's entry says {self.profile}",)


def metrics_source(endpoints: Endpoints, entry: Target | None) -> ServiceSource:
    """The runtime's metrics endpoint; its snapshots have the runtime's revision."""
    finder, form = Finder(endpoints, entry), endpoints.forms.metrics
    url, headers = page(endpoints, form)
    return ServiceSource(
        name="metrics",
        url=url,
        headers=headers,
        read=lambda body: read_metrics(body, form),
        profile=endpoints.rules.metrics_profile,
        described=tuple(form.metrics),
        revisions=lambda reading: Revisions(runtime=finder.runtime()),
        redact=Redactor(endpoints.secrets),
    )


def control_source(endpoints: Endpoints, entry: Target | None) -> ServiceSource:
    """The control service's counters; its snapshots have the control service's revision."""
    finder, form = Finder(endpoints, entry), endpoints.forms.status
    url, headers = page(endpoints, form)
    return ServiceSource(
        name="control",
        url=url,
        headers=headers,
        read=lambda body: read_status(body, form),
        command=form.command,
        profile="",
        revisions=lambda reading: Revisions(control=finder.control(reading.revision)),
        redact=Redactor(endpoints.secrets),
    )


# --- freshness --------------------------------------------------------------------------------------


def freshness(
    made: datetime | None, fetched: Fetched, now: datetime, max_age_s: float = MAX_AGE_S
) -> tuple[str, tuple[str, ...]]:
    """`ok`, `stale_body` or `future_body`, and notes in words. `made` is None if only the headers give a time.

    Against the answer's own `Date` a body may be `max_age_s` old, so a server with a wrong clock can still be used. Against our
    clock it may be `MAX_SKEW_S` old at most, because a cache may repeat old headers with an old body.
    """
    sent = fetched.date or now
    made = made or sent
    age_s = (sent - made).total_seconds() + fetched.age_s
    off_s = (now - made).total_seconds()
    notes = _clock_notes(skew_s(fetched, now))
    if age_s > max_age_s or off_s > MAX_SKEW_S:
        return "stale_body", (f"was made {_shown(max(age_s, off_s))} before it came", *notes)
    if age_s < -MAX_AGE_S or off_s < -MAX_SKEW_S:
        return "future_body", (f"has a date that is {_shown(-min(age_s, off_s))} after it came", *notes)
    return OK, notes


def moment(generated_at: str) -> datetime | None:
    """Parse the time in a body; None without one or without a time zone."""
    try:
        return from_iso(generated_at)
    except (ValueError, OverflowError):
        return None


def skew_s(fetched: Fetched, now: datetime) -> float | None:
    """The answer's `Date` minus our clock at its arrival, in seconds; a `Date` has whole seconds."""
    return round((fetched.date - now).total_seconds(), 3) if fetched.date else None


def earliest(moments_s: Sequence[float]) -> datetime | None:
    """The first of some POSIX times; None without any, and for a time outside the calendar's range."""
    try:
        return datetime.fromtimestamp(min(moments_s), UTC) if moments_s else None
    except (ValueError, OverflowError, OSError):
        return None


def _clock_notes(skew: float | None) -> tuple[str, ...]:
    if skew is None or abs(skew) <= NOTED_SKEW_S:
        return ()
    return (f"its clock is {_shown(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours",)


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
