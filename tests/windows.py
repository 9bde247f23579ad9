"""Hand-written windows of a stage: a healthy hour of servers and clients, and ways to change it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec

from drills.judging import gates
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.setup.records import Phase, Revisions, Snapshot
from drills.rollout.verdict import window
from drills.rollout.verdict.window import CanaryCheck, StageWindow
from sim.base.clocks import iso
from sim.drill.model import Drill, Fleet, Load, Phases
from sim.record.observations import Kind
from sim.server.control import COUNTERS
from sim.service.metric_names import PROFILES, is_counter
from tests.histories import STREAM, Story

BEGAN = datetime(2026, 3, 2, 9, tzinfo=UTC)
BEGAN_S = BEGAN.timestamp()
INTERVAL_S = 60.0
HOUR = 60  # of intervals
EVERY_S = 300.0  # a canary check
CLIENTS, EVENTS = 60, 30
THRESHOLDS = gates.load_thresholds()
DRILL = Drill(
    name="observation",
    summary="Does everybody get every event?",
    checks=("ux.integrity", "delivery.dropped_deliveries"),
    fleet=Fleet(clients=CLIENTS),
    load=Load(events_per_s=5.0),
    phases=Phases(steady_s=2.0, fault_s=4.0),
    faults=(),
)
# What a healthy service counts per minute; other counters do not change.
PER_MINUTE = {"mirror.published_total": 300.0, "sync.token.issued": 50.0, "delivery.served_messages": 9000.0}
Metrics = Callable[[int], dict[str, float]]


def snapshot(n: int, minute: float, source: str, metrics: dict[str, float], **more: Any) -> Snapshot:
    about: dict[str, Any] = {
        "profile": "full" if source == "metrics" else "",
        "phase": "hold",
        "url": f"http://127.0.0.1/{source}",
        "outcome": "ok",
        "revisions": Revisions(runtime="r1") if source == "metrics" else Revisions(),
    }
    at = iso(BEGAN + timedelta(seconds=minute * INTERVAL_S))
    return Snapshot(n=n, at=at, source=source, metrics=metrics, **{**about, **more})  # type: ignore[arg-type]


def counting(names: Iterable[str], **per_minute: float) -> Metrics:
    """Counters that grow evenly; other metrics stay at 4."""
    rates = {name: PER_MINUTE.get(name, 0.0) for name in names} | {name.replace("__", "."): v for name, v in per_minute.items()}
    return lambda minute: {name: 7.0 + rate * minute if _grows(name) else 4.0 for name, rate in rates.items()}


def _grows(name: str) -> bool:
    return is_counter(name) or name in COUNTERS


@dataclass(frozen=True)
class Servers:
    """The servers' metrics, minute by minute."""

    metrics: dict[str, Metrics] = field(
        default_factory=lambda: {"metrics": counting(PROFILES["full"]), "control": counting(COUNTERS)}
    )
    minutes: int = HOUR
    profile: str = "full"
    phase: Phase = "hold"

    def snapshots(self) -> tuple[Snapshot, ...]:
        asked = [(minute, source) for minute in range(self.minutes + 1) for source in self.metrics]
        return tuple(
            snapshot(
                n,
                minute,
                source,
                self.metrics[source](minute),
                phase=self.phase,
                profile=self.profile if source == "metrics" else "",
            )
            for n, (minute, source) in enumerate(asked, 1)
        )


def quiet(clients: int = CLIENTS, events: int = EVENTS) -> Story:
    """A healthy canary check: ten seconds, every client live at once, every event applied by every client."""
    story = Story(clients, header={"subscriptions": {str(client): [STREAM] for client in range(clients)}, "plan": []})
    for t, phase in ((0.0, "steady"), (2.0, "fault"), (6.0, "recovery"), (6.1, "settle"), (10.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    story.tell(1.9, Kind.STEADY, value=1.0)
    for tick in range(100):
        story.tell(tick * 0.1, Kind.GENERATOR_LAG, value=1.0 + tick % 7)
    for client in range(clients):
        _one_client(story, client, events)
    for seq in range(1, events + 1):
        story.publish(seq, t=0.9 + seq * 5.0 / events, value=2.0)
    story.audit(*range(1, events + 1), t=9.0).clocks(10.0)
    story.rows.sort(key=lambda row: row.t)
    return story


def _one_client(story: Story, client: int, events: int) -> None:
    begin = 0.005 * client
    story.tell(begin, Kind.TOKEN_MINTED, client, value=4.0)
    story.tell(begin, Kind.CONNECT_ATTEMPTED, client, attempt=1)
    story.tell(begin + 0.02, Kind.CONNECT_DONE, client, value=20.0)
    story.tell(begin + 0.03, Kind.SUBSCRIBED, client, value=30.0)
    story.tell(begin + 0.03, Kind.REBOOTSTRAPPED, client, STREAM, 0, detail="fresh")
    story.tell(begin + 0.04, Kind.REPLAYED, client, STREAM, 0, value=0.0)
    story.tell(begin + 0.05, Kind.REPLAY_COMPLETED, client, value=50.0 + client % 20)
    for seq in range(1, events + 1):
        story.apply(client, seq, t=0.92 + seq * 5.0 / events)
    for tick in range(1, 9):
        story.tell(tick + 0.001 * client, Kind.CLIENT_LAG, client, value=float(tick % 3))
    story.tell(8.5, Kind.SETTLED, client)


@cache
def _quiet() -> Story:
    return quiet()


def canary_check(began_s: float, story: Story | None = None) -> CanaryCheck:
    """A canary check with complete evidence. `began_s` counts from the start of the window."""
    found = story or _quiet()
    whole = Story(found.clients, found.rows, {**found.header, "observations_rows": len(found.rows)})
    return CanaryCheck(BEGAN_S + began_s, whole.history(), DRILL, f"canary-checks/{began_s:g}")


def canary_series(minutes: int = HOUR, of: Callable[[int], Story | None] = lambda n: None) -> tuple[CanaryCheck, ...]:
    """One every five minutes; `of` gives the n-th story. Those of one story share its computed values."""
    found: dict[int, CanaryCheck] = {}
    every: list[CanaryCheck] = []
    for n in range(int(minutes * INTERVAL_S / EVERY_S)):
        story = of(n) or _quiet()
        alike = found.get(id(story)) or canary_check(0.0, story)
        found[id(story)] = alike
        every.append(replace(alike, began_s=BEGAN_S + 10.0 + n * EVERY_S, path=f"canary-checks/{n}"))
    return tuple(every)


def good(servers: Servers | None = None, seen: tuple[CanaryCheck, ...] | None = None, **more: Any) -> StageWindow:
    """A healthy window."""
    servers = servers or Servers()
    seen = _canary_checks() if seen is None else seen
    about: dict[str, Any] = {"clients": 400, "baseline": _baseline(), "expected_canary_checks": len(seen)}
    ended_s = BEGAN_S + servers.minutes * INTERVAL_S
    return StageWindow(BEGAN_S, ended_s, INTERVAL_S, servers.snapshots(), seen, **{**about, **more})


@cache
def _canary_checks() -> tuple[CanaryCheck, ...]:
    return canary_series()


@cache
def _baseline() -> StageWindow:
    return StageWindow(BEGAN_S, BEGAN_S + 3600, INTERVAL_S, Servers(phase="baseline").snapshots(), _canary_checks())


def counters(source: str = "metrics", **per_minute: float) -> Servers:
    """A healthy hour, except for counters of one source that grow this much per minute."""
    return with_metrics(source, counting(PROFILES["full"] if source == "metrics" else COUNTERS, **per_minute))


def with_metrics(source: str, metrics: Metrics, **more: Any) -> Servers:
    servers = Servers(**more)
    return replace(servers, metrics={**servers.metrics, source: metrics})


def changed(found: StageWindow, which: Callable[[Snapshot], bool], **fields: Any) -> StageWindow:
    """The window with other fields in some snapshots."""
    return replace(
        found, snapshots=tuple(msgspec.structs.replace(each, **fields) if which(each) else each for each in found.snapshots)
    )


def without(found: StageWindow, which: Callable[[Snapshot], bool]) -> StageWindow:
    """The window without some snapshots."""
    return replace(found, snapshots=tuple(each for each in found.snapshots if not which(each)))


def judged(found: StageWindow) -> dict[str, CheckResult]:
    return {result.name: result for result in window.judge(found, THRESHOLDS)}


def states(found: StageWindow) -> dict[str, State]:
    return {name: result.state for name, result in judged(found).items()}
