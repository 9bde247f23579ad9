"""Checks of the gate `reconnect` over a stage's window: rates that are held. What only a fault can show is asked of drills."""

from collections.abc import Callable, Mapping

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data import clients, names, servers
from drills.rollout.verdict.window_data.base import Ask, by_clients
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import statistics
from sim.analysis.statistics import Bounds
from sim.record.observations import Kind


def _reconnects(case: Case) -> int:
    """Connects of clients that had tried before, those that renewed a token aside, as every client must."""
    tries, ended = case.history.fleet(Kind.CONNECT_ATTEMPTED), case.history.fleet(Kind.DISCONNECTED)
    renewals = int(case.history.detail_is(ended, ["token_refresh_due"]).sum())
    return max(len(tries) - len(np.unique(tries.client)) - renewals, 0)


def _timeouts(case: Case) -> int:
    return len(case.history.fleet(Kind.HEARTBEAT_TIMEOUT))


class _Rate:
    """A rate that the watches' clients saw among themselves, or among each so many of them.

    It is never told of the whole lane: a few clients for a few seconds cannot speak for so many.
    """

    def __init__(self, name: str, count: Callable[[Case], int], what: str, per_clients: float = 0.0) -> None:
        self._name, self._count, self._what, self._per_clients = name, count, what, per_clients

    def __call__(self, window: StageWindow, threshold: Threshold | None) -> Answer | None:
        return by_clients(window, lambda: self._judged(window, needed(threshold)))

    def _judged(self, window: StageWindow, limit: Threshold) -> Answer:
        fleet = max((watch.clients for watch in window.canary_checks), default=0)
        scale = self._per_clients or float(fleet)
        stage, lives = self._bounds(window, scale), self._lives(window)
        if lives == 0 or stage.value != stage.value:
            return Answer(State.NO_DATA, NAN, 0, "no client was ever live")
        held = [self._bounds(span, scale) for span in clients.spans(window) if self._is_held(span, scale, limit.threshold)]
        worst = max(held, key=lambda each: each.lower, default=None)
        said = f"{stage.n} {self._what} in the watches, over {lives} live periods, among {scale:g} clients"
        span = (stage.lower, stage.upper)
        if worst is not None:
            state = State.FAIL if worst.lower > limit.threshold else State.INCONCLUSIVE
            return Answer(
                state, worst.value, lives, f"{said}: {worst.value:.4g}/s held for ten minutes", (worst.lower, worst.upper)
            )
        if stage.lower > limit.threshold:
            return Answer(State.FAIL, stage.value, lives, f"{said}: at least {stage.lower:.4g}/s with 95 % confidence", span)
        state = State.PASS if stage.upper <= limit.threshold else State.INCONCLUSIVE
        return Answer(state, stage.value, lives, f"{said}: at most {stage.upper:.4g}/s with 95 % confidence", span)

    def _bounds(self, window: StageWindow, scale: float) -> Bounds:
        """Events a second among `scale` clients, by all seconds of all clients of the watches."""
        return statistics.rate(*self._seen(window, scale))

    def _seen(self, window: StageWindow, scale: float) -> tuple[int, float]:
        """Events, and in how many seconds of so many clients."""
        events = sum(watch.once(f"rate.{self._name}", self._count) for watch in window.canary_checks)
        seconds = sum(watch.duration_s * watch.clients for watch in window.canary_checks)
        return events, seconds / scale if scale else 0.0

    def _lives(self, window: StageWindow) -> int:
        return sum(watch.once("lives", lambda case: len(case.history.fleet(Kind.SUBSCRIBED))) for watch in window.canary_checks)

    def _is_held(self, span: StageWindow, scale: float, limit: float) -> bool:
        """Whether each of two or more watches within ten minutes was over it."""
        each = [self._seen(StageWindow(0.0, 0.0, 1.0, (), (watch,)), scale) for watch in span.canary_checks]
        return len(each) > 1 and all(events > limit * seconds for events, seconds in each)


def _rate(figures: tuple[str, ...], what: str, of_clients: _Rate, per_clients: bool = False) -> tuple[Ask, ...]:
    return Ask("server", servers.held_rate(figures, what, per_clients), figures), Ask("client", of_clients)


ASKS: Mapping[str, tuple[Ask, ...]] = {
    "reconnect.reconnects_per_s": _rate(names.RECONNECTS, "reconnects/s", _Rate("reconnects", _reconnects, "reconnects")),
    "reconnect.reconnects_per_s_per_100": _rate(
        names.RECONNECTS,
        "reconnects/s of 100 clients",
        _Rate("reconnects", _reconnects, "reconnects", 100.0),
        per_clients=True,
    ),
    "reconnect.heartbeat_timeouts_per_s": _rate(
        names.HEARTBEAT_TIMEOUTS, "heartbeat timeouts/s", _Rate("heartbeats", _timeouts, "heartbeat timeouts")
    ),
}
