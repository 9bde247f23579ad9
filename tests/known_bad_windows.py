"""A healthy hour with one problem, which makes a check of the window fail or leaves it inconclusive."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window import StageWindow
from sim.record.observations import Kind
from sim.service.metric_names import PROFILES
from tests.histories import STREAM, Row, Story
from tests.windows import CLIENTS, EVENTS, HOUR, canary_series, changed, counters, counting, good, quiet, with_metrics, without

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
LAST = f"h{EVENTS}"


@dataclass(frozen=True)
class KnownBad:
    """A window, and the state that a check must have for it."""

    name: str
    what: str
    state: State
    window: Callable[[], StageWindow]
    origin: str = ""  # the source that must have decided

    def __str__(self) -> str:
        return f"{self.name}-{self.what}"


# --- what clients observe -------------------------------------------------------------------------------


def reported(kind: Kind, clients: int, times: int = 1, **more: Any) -> Callable[[Story], Story]:
    """Add rows of one kind for N clients."""

    def change(story: Story) -> Story:
        for client in range(clients):
            for again in range(times):
                story.tell(5.0 + 0.01 * again, kind, client, **more)
        return story

    return change


def seen(*change: Callable[[Story], Story], only: range = range(HOUR)) -> Callable[[], StageWindow]:
    """A healthy hour, except for what clients observed in the canary checks of these numbers."""

    def window() -> StageWindow:
        story = quiet()
        for each in change:
            story = each(story)
        return good(seen=canary_series(of=lambda n: story if n in only else None))

    return window


def growing(change: Callable[[Story, int], Story]) -> Callable[[], StageWindow]:
    """More and more, from canary check to canary check."""

    def window() -> StageWindow:
        stories = [change(quiet(), n) for n in range(12)]
        return good(seen=canary_series(of=lambda n: stories[n]))

    return window


def values(kind: Kind, change: Callable[[float], float]) -> Callable[[Story], Story]:
    def changed_story(story: Story) -> Story:
        rows = [row._replace(value=change(row.value)) if row.kind is kind else row for row in story.rows]
        return Story(story.clients, rows, story.header)

    return changed_story


def drops(clients: int) -> Callable[[Story], Story]:
    """N clients never receive the last event."""

    def is_dropped(row: Row) -> bool:
        return row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN) and row.seq == EVENTS and 0 <= row.client < clients

    return lambda story: story.without(is_dropped)


def late(story: Story) -> Story:
    """Every event is applied a second late."""
    rows = [row._replace(t=row.t + 1.0) if row.kind is Kind.APPLIED and row.client < CLIENTS else row for row in story.rows]
    return Story(story.clients, rows, story.header)


def evicted(story: Story, n: int) -> Story:
    return reported(Kind.EVICTED, n)(story)


REFUSED = reported(Kind.CONNECT_FAILED, 20, detail="token_expired")
STALE = {"stream": STREAM, "seq": 1, "attempt": 1, "detail": "retention_floor_breach"}


# --- what servers count ---------------------------------------------------------------------------------


def minutely(rate: Callable[[int], float]) -> Callable[[int], float]:
    """A counter that grows by `rate` in each minute."""
    return lambda minute: sum(rate(m) for m in range(minute))


def of_metrics(name: str, reached: Callable[[int], float], minutes: int = HOUR, **more: Any) -> Callable[[], StageWindow]:
    """A healthy window, except for one counter of the metrics endpoint."""
    rest = counting(PROFILES["full"])

    def window() -> StageWindow:
        servers = with_metrics("metrics", lambda minute: {**rest(minute), name: reached(minute)}, minutes=minutes)
        return good(servers, canary_series(minutes), **more)

    return window


def of_monitoring(per_minute: float, name: str, **more: float) -> Callable[[], StageWindow]:
    """A healthy window that a Prometheus monitors, too."""
    metrics = {name: per_minute, **more}

    def window() -> StageWindow:
        return good(with_metrics("prometheus", lambda minute: {each: rate * minute for each, rate in metrics.items()}))

    return window


def rates(**per_minute: float) -> Callable[[], StageWindow]:
    source = "control" if any(name.startswith("sync") for name in per_minute) else "metrics"
    return lambda: good(counters(source, **per_minute))


FAILED = "mirror.failed_total"
UNAUTHORIZED, EXPIRED = "auth_failures.unauthorized_total", "auth_failures.token_expired_total"
AUTH = {name: 0.0 for name in PROFILES["full"] if name.startswith("auth_failures")}
RISE_AND_FALL = (1.0, 2.0, 3.0, 4.0, 5.0, 3.0)


def a_hole() -> StageWindow:
    """No server answers for five minutes."""
    found = good()
    silent = range(60, 70)  # two sources, each asked once a minute
    return changed(found, lambda each: each.n in silent, outcome="timeout", metrics={})


def dated(ahead_s: Callable[[int], float]) -> Callable[[], StageWindow]:
    """The servers' answers say how far their clock is ahead of ours, by the number of the snapshot."""

    def window() -> StageWindow:
        found = good()
        dated = (msgspec.structs.replace(each, clock_skew_s=ahead_s(each.n)) for each in found.snapshots)
        return replace(found, snapshots=tuple(dated))

    return window


def surge(at: int, by: float, usual: float = 0.0) -> Callable[[int], float]:
    return minutely(lambda minute: by if at <= minute < at + 5 else usual)


KNOWN_BAD = (
    KnownBad("window.coverage", "a snapshot was taken out", ERROR, lambda: without(good(), lambda each: each.n == 31)),
    KnownBad("window.coverage", "a hole", INCONCLUSIVE, a_hole),
    KnownBad("window.coverage", "a clock that was set", ERROR, dated(lambda n: -3600.0 if n > 60 else 0.0)),
    KnownBad("window.coverage", "a clock that was set and set back", ERROR, dated(lambda n: 60.0 if 40 < n < 60 else 0.0)),
    KnownBad("window.coverage", "a clock that is too fast", ERROR, dated(lambda n: -n / 4)),
    KnownBad("window.canary_checks", "the steady state did not hold", ERROR, seen(values(Kind.STEADY, lambda _: 0.0))),
    KnownBad("window.canary_checks", "late load generators", INCONCLUSIVE, seen(values(Kind.GENERATOR_LAG, lambda _: 900.0))),
    KnownBad("window.invariants", "a leak", FAIL, seen(reported(Kind.UNGRANTED, 1, stream=STREAM, seq=4), only=range(3, 4))),
    KnownBad("error.websocket_auth_error_ratio", "clients refused", FAIL, seen(REFUSED), "client"),
    KnownBad(
        "error.websocket_auth_error_ratio", "in one canary check", INCONCLUSIVE, seen(REFUSED, only=range(4, 5)), "client"
    ),
    KnownBad(
        *("error.websocket_auth_error_ratio", "monitored", FAIL),
        of_monitoring(50.0, "sockets.connects_total", **{**AUTH, UNAUTHORIZED: 9.0}),
        "server",
    ),
    KnownBad(
        *("error.websocket_auth_error_ratio", "monitored beside the endpoint", FAIL),
        lambda: good(
            replace(
                counters(auth_failures__unauthorized_total=9.0),
                metrics={
                    **counters(auth_failures__unauthorized_total=9.0).metrics,
                    "prometheus": lambda minute: {"sockets.connects_total": 50.0 * minute},
                },
            )
        ),
        "server",
    ),
    KnownBad("error.websocket_auth_error_ratio_10m", "in one canary check", FAIL, seen(REFUSED, only=range(4, 5)), "client"),
    KnownBad(
        *("error.websocket_auth_error_ratio_10m", "a few", INCONCLUSIVE),
        seen(reported(Kind.CONNECT_FAILED, 4, detail="unauthorized"), only=range(4, 5)),
    ),
    KnownBad("error.token_issue_failure_ratio", "refused", FAIL, rates(sync__token__issue__auth_failed=3.0), "server"),
    KnownBad("error.token_issue_failure_ratio", "about 1 %", INCONCLUSIVE, rates(sync__token__issue__failed=0.5), "server"),
    KnownBad(
        *("error.token_issue_failure_ratio", "clients refused", FAIL),
        seen(reported(Kind.TOKEN_REFUSED, 20, detail="forbidden")),
        "client",
    ),
    KnownBad("error.stale_cursors", "5 a minute", FAIL, rates(delivery__stale_cursor_events_total=5.0), "server"),
    KnownBad("error.stale_cursors", "2 a minute", INCONCLUSIVE, rates(delivery__stale_cursor_events_total=2.0), "server"),
    KnownBad("error.stale_cursors", "a warning", PASS, rates(delivery__stale_cursor_events_total=1.2), "server"),
    KnownBad("error.stale_cursors", "clients", FAIL, seen(reported(Kind.STALE, 22, **STALE), only=range(2, 3)), "client"),
    KnownBad(
        *("error.stale_cursors", "a counter that clients contradict", INCONCLUSIVE),
        seen(reported(Kind.STALE, 2, **STALE), only=range(2, 3)),
        "server",
    ),
    KnownBad("error.unauthorized_surge", "against stage 0", FAIL, of_metrics(UNAUTHORIZED, surge(30, 6.0)), "server"),
    KnownBad("error.unauthorized_surge", "of nothing", INCONCLUSIVE, of_metrics(UNAUTHORIZED, surge(30, 6.0), baseline=None)),
    KnownBad("error.unauthorized_surge", "too few", PASS, of_metrics(UNAUTHORIZED, surge(30, 1.0), baseline=None)),
    KnownBad(
        "error.unauthorized_surge", "after an hour", FAIL, of_metrics(UNAUTHORIZED, surge(90, 9.0, 2.0), 120, baseline=None)
    ),
    KnownBad("error.unauthorized_surge", "as usual", PASS, of_metrics(UNAUTHORIZED, surge(90, 3.0, 1.7), 120), "server"),
    KnownBad(
        *("error.unauthorized_surge", "clients", FAIL),
        seen(reported(Kind.CONNECT_FAILED, 15, detail="unauthorized"), only=range(5, 6)),
        "client",
    ),
    KnownBad("error.token_expired_surge", "against stage 0", FAIL, of_metrics(EXPIRED, surge(30, 6.0)), "server"),
    KnownBad("error.error_budget_ratio", "publishes fail", FAIL, rates(mirror__failed_total=30.0), "server"),
    KnownBad("error.error_budget_ratio", "about 2 %", INCONCLUSIVE, rates(mirror__failed_total=7.0), "server"),
    KnownBad(
        "error.error_budget_ratio",
        "clients refused",
        FAIL,
        seen(reported(Kind.TOKEN_REFUSED, 20, detail="forbidden")),
        "client",
    ),
    KnownBad("error.error_budget_burn_fast", "half fails", FAIL, rates(mirror__failed_total=350.0), "server"),
    KnownBad("error.error_budget_burn_fast", "for five minutes", PASS, of_metrics(FAILED, surge(40, 350.0)), "server"),
    KnownBad("error.error_budget_burn_slow", "a fifth fails", FAIL, rates(mirror__failed_total=90.0), "server"),
    KnownBad("replay.bootstrap_ms", "slow", FAIL, seen(values(Kind.REPLAY_COMPLETED, lambda value: value + 700)), "client"),
    KnownBad("replay.bootstrap_vs_baseline", "slower", FAIL, seen(values(Kind.REPLAY_COMPLETED, lambda value: value * 1.5))),
    KnownBad("replay.bootstrap_vs_baseline", "no baseline", INCONCLUSIVE, lambda: good(baseline=None)),
    KnownBad(
        "replay.client_lag_events", "one canary check", FAIL, seen(values(Kind.CLIENT_LAG, lambda _: 300.0), only=range(6, 7))
    ),
    KnownBad("replay.errors", "malformed", FAIL, seen(reported(Kind.MALFORMED, 1), only=range(6, 7)), "client"),
    KnownBad("replay.errors", "refused", FAIL, seen(reported(Kind.SUBSCRIBE_REFUSED, 1, detail="bad_subscription")), "client"),
    KnownBad("replay.errors", "of the token", PASS, seen(reported(Kind.SUBSCRIBE_REFUSED, 1, detail="unauthorized")), "client"),
    KnownBad("replay.errors", "monitored", FAIL, of_monitoring(0.1, "replay.errors_total"), "server"),
    KnownBad("replay.divergence", "a gap", FAIL, seen(reported(Kind.GAP, 1, stream=STREAM, seq=4, detail="replay")), "client"),
    KnownBad("replay.divergence", "monitored", FAIL, of_monitoring(0.1, "replay.divergences_total"), "server"),
    KnownBad("replay.stale_loops", "twice", FAIL, seen(reported(Kind.STALE, 1, 2, **STALE)), "client"),
    KnownBad(
        "reconnect.reconnects_per_s", "every client", FAIL, seen(reported(Kind.CONNECT_ATTEMPTED, CLIENTS, attempt=2)), "client"
    ),
    KnownBad("reconnect.reconnects_per_s", "monitored", FAIL, of_monitoring(120.0, "sockets.reconnects_total"), "server"),
    KnownBad("reconnect.reconnects_per_s", "just under it", PASS, of_monitoring(60.0, "sockets.reconnects_total"), "server"),
    KnownBad(
        "reconnect.reconnects_per_s_per_100", "monitored", FAIL, of_monitoring(30.0, "sockets.reconnects_total"), "server"
    ),
    KnownBad(
        *("reconnect.reconnects_per_s_per_100", "one canary check", INCONCLUSIVE),
        seen(reported(Kind.CONNECT_ATTEMPTED, 3, attempt=2), only=range(6, 7)),
        "client",
    ),
    KnownBad("reconnect.heartbeat_timeouts_per_s", "silence", FAIL, seen(reported(Kind.HEARTBEAT_TIMEOUT, 5)), "client"),
    KnownBad("reconnect.heartbeat_timeouts_per_s", "monitored", FAIL, of_monitoring(6.0, "sockets.heartbeat_timeouts_total")),
    KnownBad("delivery.failed_publish_ratio", "3 %", FAIL, rates(mirror__failed_total=10.0), "server"),
    KnownBad("delivery.failed_publish_ratio", "another runtime's", INCONCLUSIVE, rates(mirror__published_total=5.0), "server"),
    KnownBad("error.stale_cursors", "another runtime's", INCONCLUSIVE, rates(mirror__published_total=5.0), "server"),
    KnownBad(
        "delivery.failed_publish_ratio", "a runtime with little else", PASS, rates(mirror__published_total=31.0), "server"
    ),
    KnownBad("delivery.failed_publish_ratio", "about 1 %", INCONCLUSIVE, rates(mirror__failed_total=3.0), "server"),
    KnownBad(
        *("delivery.failed_publish_ratio", "ours", FAIL),
        seen(reported(Kind.PUBLISH_FAILED, 1, 10, stream=STREAM, detail="timeout")),
        "synthetic",
    ),
    KnownBad(
        "delivery.failed_publish_growth", "more and more", FAIL, of_metrics(FAILED, minutely(lambda m: m // 10)), "server"
    ),
    KnownBad("delivery.failed_publish_growth", "steady", PASS, rates(mirror__failed_total=30.0), "server"),
    KnownBad(
        *("delivery.failed_publish_growth", "by minute alone", INCONCLUSIVE),
        of_metrics(FAILED, minutely(lambda minute: RISE_AND_FALL[minute // 10] + minute / 100)),
    ),
    KnownBad(
        *("delivery.failed_publish_growth", "ours", FAIL),
        growing(lambda story, n: reported(Kind.PUBLISH_FAILED, 1, n, stream=STREAM, detail="timeout")(story)),
        "synthetic",
    ),
    KnownBad("delivery.dropped_deliveries", "one", FAIL, seen(drops(1), only=range(6, 7)), "client"),
    KnownBad("delivery.dropped_growth", "more and more", FAIL, growing(lambda story, n: drops(n)(story)), "client"),
    KnownBad("delivery.slow_consumer_growth", "more and more", FAIL, growing(evicted), "client"),
    KnownBad("delivery.slow_consumer_growth", "steady", PASS, seen(reported(Kind.EVICTED, 1)), "client"),
    KnownBad(
        *("ux.integrity", "applied twice", FAIL),
        seen(reported(Kind.APPLIED, 1, stream=STREAM, seq=EVENTS, detail=LAST), only=range(6, 7)),
    ),
    KnownBad("ux.publish_to_apply_ms", "late", FAIL, seen(late), "client"),
)
