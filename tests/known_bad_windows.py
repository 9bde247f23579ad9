"""An hour in which all is well but for one thing, which turns a check of the window red, or leaves it unable to tell."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window import StageWindow
from sim.protocols.spacetime.metric_names import PROFILES
from sim.record.observations import Kind
from tests.histories import STREAM, Row, Story
from tests.windows import CLIENTS, EVENTS, HOUR, changed, counters, counting, good, quiet, watches, with_metrics, without

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
LAST = f"h{EVENTS}"


@dataclass(frozen=True)
class KnownBad:
    """What a window makes a check say."""

    name: str
    what: str
    state: State
    window: Callable[[], StageWindow]
    origin: str = ""  # who must have said it

    def __str__(self) -> str:
        return f"{self.name}-{self.what}"


# --- what clients see -----------------------------------------------------------------------------------


def told(kind: Kind, clients: int, times: int = 1, **more: Any) -> Callable[[Story], Story]:
    """That something is told of so many clients, too."""

    def spoil(story: Story) -> Story:
        for client in range(clients):
            for again in range(times):
                story.tell(5.0 + 0.01 * again, kind, client, **more)
        return story

    return spoil


def seen(*spoil: Callable[[Story], Story], only: range = range(HOUR)) -> Callable[[], StageWindow]:
    """A good hour, but for what clients saw in the watches of these numbers."""

    def window() -> StageWindow:
        story = quiet()
        for each in spoil:
            story = each(story)
        return good(seen=watches(of=lambda n: story if n in only else None))

    return window


def growing(spoil: Callable[[Story, int], Story]) -> Callable[[], StageWindow]:
    """More and more, watch after watch."""

    def window() -> StageWindow:
        stories = [spoil(quiet(), n) for n in range(12)]
        return good(seen=watches(of=lambda n: stories[n]))

    return window


def values(kind: Kind, change: Callable[[float], float]) -> Callable[[Story], Story]:
    def spoil(story: Story) -> Story:
        rows = [replace(row, value=change(row.value)) if row.kind is kind else row for row in story.rows]
        return Story(story.clients, rows, story.header)

    return spoil


def drops(clients: int) -> Callable[[Story], Story]:
    """So many clients never get the last event."""

    def is_dropped(row: Row) -> bool:
        return row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN) and row.seq == EVENTS and 0 <= row.client < clients

    return lambda story: story.without(is_dropped)


def late(story: Story) -> Story:
    """Everything is applied a second late."""
    rows = [replace(row, t=row.t + 1.0) if row.kind is Kind.APPLIED and row.client < CLIENTS else row for row in story.rows]
    return Story(story.clients, rows, story.header)


def evicted(story: Story, n: int) -> Story:
    return told(Kind.EVICTED, n)(story)


REFUSED = told(Kind.CONNECT_FAILED, 20, detail="token_expired")
STALE = {"stream": STREAM, "seq": 1, "attempt": 1, "detail": "retention_floor_breach"}


# --- what servers count ---------------------------------------------------------------------------------


def minutely(rate: Callable[[int], float]) -> Callable[[int], float]:
    """A counter that grows by `rate` in each minute."""
    return lambda minute: sum(rate(m) for m in range(minute))


def of_metrics(name: str, reached: Callable[[int], float], minutes: int = HOUR, **more: Any) -> Callable[[], StageWindow]:
    """A good window, but for one counter of the metrics endpoint."""
    rest = counting(PROFILES["full"])

    def window() -> StageWindow:
        servers = with_metrics("metrics", lambda minute: {**rest(minute), name: reached(minute)}, minutes=minutes)
        return good(servers, watches(minutes), **more)

    return window


def of_monitoring(per_minute: float, name: str, **more: float) -> Callable[[], StageWindow]:
    """A good window that a Prometheus has been watching, too."""
    figures = {name: per_minute, **more}

    def window() -> StageWindow:
        return good(with_metrics("prometheus", lambda minute: {each: rate * minute for each, rate in figures.items()}))

    return window


def rates(**per_minute: float) -> Callable[[], StageWindow]:
    source = "control" if any(name.startswith("sync") for name in per_minute) else "metrics"
    return lambda: good(counters(source, **per_minute))


FAILED = "mirror.failed_total"
UNAUTHORIZED, EXPIRED = "auth_failures.unauthorized_total", "auth_failures.token_expired_total"
AUTH = {name: 0.0 for name in PROFILES["full"] if name.startswith("auth_failures")}
RISE_AND_FALL = (1.0, 2.0, 3.0, 4.0, 5.0, 3.0)


def a_hole() -> StageWindow:
    """Nobody answers for five minutes."""
    found = good()
    silent = range(60, 70)  # two sources, each asked once a minute
    return changed(found, lambda each: each.n in silent, outcome="timeout", metrics={})


def surge(at: int, by: float, usual: float = 0.0) -> Callable[[int], float]:
    return minutely(lambda minute: by if at <= minute < at + 5 else usual)


KNOWN_BAD = (
    KnownBad("window.coverage", "a snapshot was taken out", ERROR, lambda: without(good(), lambda each: each.n == 31)),
    KnownBad("window.coverage", "a hole", INCONCLUSIVE, a_hole),
    KnownBad("window.canary_checks", "the system was sick", ERROR, seen(values(Kind.STEADY, lambda _: 0.0))),
    KnownBad("window.canary_checks", "measured themselves", INCONCLUSIVE, seen(values(Kind.GENERATOR_LAG, lambda _: 900.0))),
    KnownBad("window.invariants", "a leak", FAIL, seen(told(Kind.UNGRANTED, 1, stream=STREAM, seq=4), only=range(3, 4))),
    KnownBad("error.websocket_auth_error_ratio", "clients refused", FAIL, seen(REFUSED), "client"),
    KnownBad("error.websocket_auth_error_ratio", "in one watch", INCONCLUSIVE, seen(REFUSED, only=range(4, 5)), "client"),
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
    KnownBad("error.websocket_auth_error_ratio_10m", "in one watch", FAIL, seen(REFUSED, only=range(4, 5)), "client"),
    KnownBad(
        *("error.websocket_auth_error_ratio_10m", "a few", INCONCLUSIVE),
        seen(told(Kind.CONNECT_FAILED, 4, detail="unauthorized"), only=range(4, 5)),
    ),
    KnownBad("error.token_issue_failure_ratio", "refused", FAIL, rates(sync__token__issue__auth_failed=3.0), "server"),
    KnownBad("error.token_issue_failure_ratio", "about 1 %", INCONCLUSIVE, rates(sync__token__issue__failed=0.5), "server"),
    KnownBad(
        *("error.token_issue_failure_ratio", "clients refused", FAIL),
        seen(told(Kind.TOKEN_REFUSED, 20, detail="forbidden")),
        "client",
    ),
    KnownBad("error.stale_cursors", "5 a minute", FAIL, rates(delivery__stale_cursor_events_total=5.0), "server"),
    KnownBad("error.stale_cursors", "2 a minute", INCONCLUSIVE, rates(delivery__stale_cursor_events_total=2.0), "server"),
    KnownBad("error.stale_cursors", "a warning", PASS, rates(delivery__stale_cursor_events_total=1.2), "server"),
    KnownBad("error.stale_cursors", "clients", FAIL, seen(told(Kind.STALE, 22, **STALE), only=range(2, 3)), "client"),
    KnownBad("error.unauthorized_surge", "against stage 0", FAIL, of_metrics(UNAUTHORIZED, surge(30, 6.0)), "server"),
    KnownBad("error.unauthorized_surge", "of nothing", INCONCLUSIVE, of_metrics(UNAUTHORIZED, surge(30, 6.0), baseline=None)),
    KnownBad("error.unauthorized_surge", "too few", PASS, of_metrics(UNAUTHORIZED, surge(30, 1.0), baseline=None)),
    KnownBad(
        "error.unauthorized_surge", "after an hour", FAIL, of_metrics(UNAUTHORIZED, surge(90, 9.0, 2.0), 120, baseline=None)
    ),
    KnownBad("error.unauthorized_surge", "as usual", PASS, of_metrics(UNAUTHORIZED, surge(90, 3.0, 1.7), 120), "server"),
    KnownBad(
        *("error.unauthorized_surge", "clients", FAIL),
        seen(told(Kind.CONNECT_FAILED, 15, detail="unauthorized"), only=range(5, 6)),
        "client",
    ),
    KnownBad("error.token_expired_surge", "against stage 0", FAIL, of_metrics(EXPIRED, surge(30, 6.0)), "server"),
    KnownBad("error.error_budget_ratio", "publishes fail", FAIL, rates(mirror__failed_total=30.0), "server"),
    KnownBad("error.error_budget_ratio", "about 2 %", INCONCLUSIVE, rates(mirror__failed_total=7.0), "server"),
    KnownBad(
        "error.error_budget_ratio", "clients refused", FAIL, seen(told(Kind.TOKEN_REFUSED, 20, detail="forbidden")), "client"
    ),
    KnownBad("error.error_budget_burn_fast", "half fails", FAIL, rates(mirror__failed_total=350.0), "server"),
    KnownBad("error.error_budget_burn_fast", "for five minutes", PASS, of_metrics(FAILED, surge(40, 350.0)), "server"),
    KnownBad("error.error_budget_burn_slow", "a fifth fails", FAIL, rates(mirror__failed_total=90.0), "server"),
    KnownBad("replay.bootstrap_ms", "slow", FAIL, seen(values(Kind.REPLAY_COMPLETED, lambda value: value + 700)), "client"),
    KnownBad("replay.bootstrap_vs_baseline", "slower", FAIL, seen(values(Kind.REPLAY_COMPLETED, lambda value: value * 1.5))),
    KnownBad("replay.bootstrap_vs_baseline", "no baseline", INCONCLUSIVE, lambda: good(baseline=None)),
    KnownBad("replay.client_lag_events", "one watch", FAIL, seen(values(Kind.CLIENT_LAG, lambda _: 300.0), only=range(6, 7))),
    KnownBad("replay.errors", "malformed", FAIL, seen(told(Kind.MALFORMED, 1), only=range(6, 7)), "client"),
    KnownBad("replay.errors", "refused", FAIL, seen(told(Kind.SUBSCRIBE_REFUSED, 1, detail="bad_subscription")), "client"),
    KnownBad("replay.errors", "of the token", PASS, seen(told(Kind.SUBSCRIBE_REFUSED, 1, detail="unauthorized")), "client"),
    KnownBad("replay.errors", "monitored", FAIL, of_monitoring(0.1, "replay.errors_total"), "server"),
    KnownBad("replay.divergence", "a gap", FAIL, seen(told(Kind.GAP, 1, stream=STREAM, seq=4, detail="replay")), "client"),
    KnownBad("replay.divergence", "monitored", FAIL, of_monitoring(0.1, "replay.divergences_total"), "server"),
    KnownBad("replay.stale_loops", "twice", FAIL, seen(told(Kind.STALE, 1, 2, **STALE)), "client"),
    KnownBad("reconnect.reconnects_per_s", "everybody", FAIL, seen(told(Kind.CONNECT_ATTEMPTED, CLIENTS, attempt=2)), "client"),
    KnownBad("reconnect.reconnects_per_s", "monitored", FAIL, of_monitoring(120.0, "sockets.reconnects_total"), "server"),
    KnownBad("reconnect.reconnects_per_s", "just under it", PASS, of_monitoring(60.0, "sockets.reconnects_total"), "server"),
    KnownBad(
        "reconnect.reconnects_per_s_per_100", "monitored", FAIL, of_monitoring(30.0, "sockets.reconnects_total"), "server"
    ),
    KnownBad(
        *("reconnect.reconnects_per_s_per_100", "one watch", INCONCLUSIVE),
        seen(told(Kind.CONNECT_ATTEMPTED, 3, attempt=2), only=range(6, 7)),
        "client",
    ),
    KnownBad("reconnect.heartbeat_timeouts_per_s", "silence", FAIL, seen(told(Kind.HEARTBEAT_TIMEOUT, 5)), "client"),
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
        seen(told(Kind.PUBLISH_FAILED, 1, 10, stream=STREAM, detail="timeout")),
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
        growing(lambda story, n: told(Kind.PUBLISH_FAILED, 1, n, stream=STREAM, detail="timeout")(story)),
        "synthetic",
    ),
    KnownBad("delivery.dropped_deliveries", "one", FAIL, seen(drops(1), only=range(6, 7)), "client"),
    KnownBad("delivery.dropped_growth", "more and more", FAIL, growing(lambda story, n: drops(n)(story)), "client"),
    KnownBad("delivery.slow_consumer_growth", "more and more", FAIL, growing(evicted), "client"),
    KnownBad("delivery.slow_consumer_growth", "steady", PASS, seen(told(Kind.EVICTED, 1)), "client"),
    KnownBad(
        *("ux.integrity", "applied twice", FAIL),
        seen(told(Kind.APPLIED, 1, stream=STREAM, seq=EVENTS, detail=LAST), only=range(6, 7)),
    ),
    KnownBad("ux.publish_to_apply_ms", "late", FAIL, seen(late), "client"),
)
