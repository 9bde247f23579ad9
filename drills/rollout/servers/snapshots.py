"""Asking a lane's servers what they say of themselves, one answer a snapshot, and whether that answer tells anything.

Nothing that the other side does is an exception here: it is the snapshot's `outcome`. An answer is believed only when it has
figures, when none of them is impossible, and when it was made just now; a cache that repeats yesterday's tells nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from drills.rollout.servers import freshness
from drills.rollout.servers.prometheus import PrometheusSource
from drills.rollout.servers.revisions import Finder
from drills.rollout.setup.records import Phase, Revisions, Snapshot
from drills.runs.target_file import Target
from sim.base.clocks import Clock, iso
from sim.base.redaction import Redactor
from sim.engines.shared.fetch import FIGURES, fetch_now
from sim.engines.sockets.service import Endpoints
from sim.protocols.spacetime.metric_names import METRICS_PATH, PROFILES, STATUS_COUNTERS, STATUS_PATH
from sim.protocols.spacetime.service_metrics import OK, Reading, read_metrics, read_status

LIMIT_S = 5.0  # [ours] of one request, from connecting to the last byte
_TAKEN_APART = (OK, "no_metrics", "bad_numbers")  # outcomes of bodies that are what they should be, but for their numbers


class Source(Protocol):
    """A server that can be asked."""

    def ask(self, n: int, phase: Phase, fault: bool, clock: Clock) -> tuple[Snapshot, bytes]:
        """One snapshot and its body, both without secrets; never raises for what the other side does."""
        ...


def sources_of(endpoints: Endpoints, entry: Target | None) -> list[Source]:
    """What a target has, in the order in which it is asked: its metrics endpoint, its control service, its Prometheus."""
    sources: list[Source] = [_status(endpoints, entry)]
    if endpoints.admin_token and endpoints.rules.metrics_profile != "none":
        sources.insert(0, _metrics(endpoints, entry))
    if entry is not None and entry.prometheus is not None:
        sources.append(PrometheusSource(entry.prometheus, Redactor(endpoints.secrets)))
    return sources


def _metrics(endpoints: Endpoints, entry: Target | None) -> "ServiceSource":
    """The runtime's metrics endpoint; the revision that its snapshots have is the runtime's."""
    finder = Finder(endpoints, entry)
    return ServiceSource(
        name="metrics",
        url=endpoints.runtime_url + METRICS_PATH,
        headers={"Authorization": f"Bearer {endpoints.admin_token}", **FIGURES},
        read=read_metrics,
        profile=endpoints.rules.metrics_profile,
        revisions=lambda reading: Revisions(runtime=finder.runtime()),
        redact=Redactor(endpoints.secrets),
    )


def _status(endpoints: Endpoints, entry: Target | None) -> "ServiceSource":
    """The control service's counters; the revision that its snapshots have is the control service's."""
    finder = Finder(endpoints, entry)
    return ServiceSource(
        name="control",
        url=endpoints.control_url + STATUS_PATH,
        headers=FIGURES,
        read=read_status,
        profile="",
        revisions=lambda reading: Revisions(control=finder.control(reading.revision)),
        redact=Redactor(endpoints.secrets),
    )


@dataclass(frozen=True)
class ServiceSource:
    """One of the lane's own two endpoints. `profile` is the one that the target's entry promises, empty where there is none."""

    name: Literal["metrics", "control"]
    url: str
    headers: Mapping[str, str] = field(repr=False)
    read: Callable[[bytes], Reading]
    profile: str
    revisions: Callable[[Reading], Revisions]
    redact: Redactor

    def ask(self, n: int, phase: Phase, fault: bool, clock: Clock) -> tuple[Snapshot, bytes]:
        """See `Source`."""
        asked_at = clock.now()
        fetched = fetch_now(self.url, self.headers, LIMIT_S)
        now = clock.now()
        body = self.redact(fetched.body)
        reading = self.read(body) if fetched.outcome == OK else Reading(fetched.outcome)
        made = freshness.moment(reading.generated_at)
        outcome, notes = reading.outcome, reading.notes
        if outcome == OK:
            outcome, more = freshness.judged(made, fetched, now)
            notes += more
        if outcome == OK and made is None and self.name == "metrics":  # whose profiles promise it: without, it may be old
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
            clock_skew_s=freshness.skew_s(fetched, now),
            revisions=self.revisions(reading),
            missing=self._missing(reading),
            figures=reading.figures,
            notes=(*notes, *self._mismatch(reading)),
        )
        return snapshot, body

    def _missing(self, reading: Reading) -> tuple[str, ...]:
        if reading.outcome not in _TAKEN_APART:
            return ()
        promised = PROFILES[reading.profile or self.profile] if self.name == "metrics" else STATUS_COUNTERS
        return tuple(name for name in promised if name not in reading.figures)

    def _mismatch(self, reading: Reading) -> tuple[str, ...]:
        if self.name != "metrics" or reading.profile in ("", self.profile):
            return ()
        return (f"it serves the {reading.profile} profile, but the target's entry says {self.profile}",)
