"""The sources of the checks of the gate reconnect: sustained rates. Drills decide the checks that need a fault."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data import clients, names, servers
from drills.rollout.verdict.window_data.base import Source, from_clients
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from sim.analysis import statistics
from sim.record.observations import Kind


def _reconnects(case: Case) -> int:
    """Connects of clients that had connected before, except after a token renewal."""
    tries, ended = case.history.fleet(Kind.CONNECT_ATTEMPTED), case.history.fleet(Kind.DISCONNECTED)
    renewals = int(case.history.detail_is(ended, ["token_refresh_due"]).sum())
    return max(len(tries) - len(np.unique(tries.client)) - renewals, 0)


def _timeouts(case: Case) -> int:
    return int((~case.busy.may_drop(case.history.fleet(Kind.HEARTBEAT_TIMEOUT).t)).sum())


@dataclass(frozen=True)
class _Rate:
    """A rate among the canary checks' clients, or per `per_clients` of them.

    It is not scaled to the whole service, which a few clients for a few seconds cannot represent.
    """

    name: str
    count: Callable[[Case], int]
    what: str
    per_clients: float = 0.0

    def judge(self, window: StageWindow, limit: Threshold) -> Answer:
        """Fail if the rate was too high for ten minutes, or over the whole stage by its lower bound."""
        scale = self.per_clients or float(max((check.clients for check in window.canary_checks), default=0))
        stage, lives = statistics.rate(*self._seen(window.canary_checks, scale)), _live_periods(window)
        if lives == 0 or stage.value != stage.value:
            return Answer(State.NO_DATA, NAN, 0, "no client was ever live")
        facts = f"{stage.n} {self.what} in the canary checks, over {lives} live periods, among {scale:g} clients"
        held = [
            statistics.rate(*self._seen(span.canary_checks, scale))
            for span in clients.spans(window)
            if self._is_held(span, scale, limit.threshold)
        ]
        if held:
            worst = max(held, key=lambda each: each.lower)
            state = State.FAIL if worst.lower > limit.threshold else State.INCONCLUSIVE
            reason = f"{facts}: {worst.value:.4g}/s held for ten minutes"
            return Answer(state, worst.value, lives, reason, (worst.lower, worst.upper))
        bounds = (stage.lower, stage.upper)
        if stage.lower > limit.threshold:
            reason = f"{facts}: at least {stage.lower:.4g}/s with 95 % confidence"
            return Answer(State.FAIL, stage.value, lives, reason, bounds)
        state = State.PASS if stage.upper <= limit.threshold else State.INCONCLUSIVE
        return Answer(state, stage.value, lives, f"{facts}: at most {stage.upper:.4g}/s with 95 % confidence", bounds)

    def _seen(self, checks: tuple[CanaryCheck, ...], scale: float) -> tuple[int, float]:
        """Events, and the seconds in which `scale` clients were observed."""
        events = sum(check.once(f"rate.{self.name}", self.count) for check in checks)
        seconds = sum(check.duration_s * check.clients for check in checks)
        return events, seconds / scale if scale else 0.0

    def _is_held(self, span: StageWindow, scale: float, limit: float) -> bool:
        """Whether at least two canary checks within ten minutes were all over the limit."""
        each = [self._seen((check,), scale) for check in span.canary_checks]
        return len(each) > 1 and all(events > limit * seconds for events, seconds in each)


def _live_periods(window: StageWindow) -> int:
    return sum(check.once("lives", lambda case: len(case.history.fleet(Kind.SUBSCRIBED))) for check in window.canary_checks)


def _rate(metrics: tuple[str, ...], what: str, of_clients: _Rate) -> tuple[Source, ...]:
    return servers.held_rate(metrics, what, per_clients=bool(of_clients.per_clients)), from_clients(of_clients.judge)


_PER_100 = _Rate("reconnects", _reconnects, "reconnects", 100.0)
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "reconnect.reconnects_per_s": _rate(names.RECONNECTS, "reconnects/s", _Rate("reconnects", _reconnects, "reconnects")),
    "reconnect.reconnects_per_s_per_100": _rate(names.RECONNECTS, "reconnects/s of 100 clients", _PER_100),
    "reconnect.heartbeat_timeouts_per_s": _rate(
        names.HEARTBEAT_TIMEOUTS, "heartbeat timeouts/s", _Rate("heartbeats", _timeouts, "heartbeat timeouts")
    ),
}
