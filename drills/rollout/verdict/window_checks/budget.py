"""Decide about the error budget: the share of requests that end in errors, and how fast errors burn the budget.

The requests are token requests, connects and each try of a publish. Servers count them; clients of the canary checks are the
second source.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from drills.judging.checks.base import NAN, Answer, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data import clients, names
from drills.rollout.verdict.window_data.base import Source, doubted, from_clients, trusted, unserved
from drills.rollout.verdict.window_data.clients import share_of, total
from drills.rollout.verdict.window_data.counters import Counted, counted, promised
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import statistics
from sim.analysis.samples import Share
from sim.record.history import Floats

KINDS = (
    ("publishes", names.PUBLISH_FAILED, names.PUBLISH_TRIES),
    ("tokens", names.TOKEN_FAILURES, names.TOKEN_TRIES),
    ("connects", names.AUTH_FAILURES, names.CONNECTS),
)
_Pairs = Mapping[str, tuple[Counted, Counted]]  # kind -> errors and tries
SHARES = {"tokens": clients.tokens, "connects": clients.connects, "publishes": clients.publish_tries}


class _Tally(NamedTuple):
    """Errors and tries of one kind of request, as steps from `since` to `until`, both ascending."""

    since: Floats
    until: Floats
    errors: Floats
    tries: Floats

    def before(self, ends: Floats, span_s: float) -> tuple[Floats, Floats]:
        """Errors and tries of the steps that lie completely in the span before each of these moments."""
        first = np.searchsorted(self.since, ends - span_s, side="left")
        last = np.maximum(np.searchsorted(self.until, ends, side="right"), first)
        errors, tries = (np.concatenate(([0.0], np.cumsum(steps))) for steps in (self.errors, self.tries))
        return errors[last] - errors[first], tries[last] - tries[first]


def _by_servers(judge: Callable[[StageWindow, _Pairs, Threshold], Answer]) -> Source:
    """Decide by all kinds of requests for which servers count errors and tries."""

    def decide(window: StageWindow, threshold: Threshold | None) -> Answer | None:
        pairs = _pairs(window)
        if not pairs:
            return unserved(window, names.PUBLISH_TRIES)
        return trusted(window, doubted(judge(window, pairs, needed(threshold)), _doubt(window, pairs)))

    return Source("server", decide, tuple(dict.fromkeys(name for _, errors, tries in KINDS for name in (*errors, *tries))))


def _ratio_by_servers(window: StageWindow, pairs: _Pairs, limit: Threshold) -> Answer:
    share = Share(sum(errors.total for errors, _ in pairs.values()), sum(tries.total for _, tries in pairs.values()))
    return by_ratio(share, limit, f"{' and '.join(pairs)} failed")


def _ratio_by_clients(window: StageWindow, limit: Threshold) -> Answer:
    return by_ratio(client_errors(window), limit, f"{' and '.join(SHARES)} failed")


def client_errors(window: StageWindow) -> Share:
    """Errors among all requests of the canary checks' clients."""
    return total(share_of(check, name, of) for check in window.canary_checks for name, of in SHARES.items())


def _burn_by_servers(window: StageWindow, pairs: _Pairs, limit: Threshold) -> Answer:
    tallies = [tally for errors, tries in pairs.values() if (tally := _tally(errors, tries)) is not None]
    ends = np.unique(np.concatenate([np.zeros(0), *(tally.until for tally in tallies)]))
    return _burn(tallies, ends, window.began_s, limit)


def _burn_by_clients(window: StageWindow, limit: Threshold) -> Answer:
    checks = sorted(window.canary_checks, key=lambda check: check.ended_s)
    until = np.array([check.ended_s for check in checks])  # the counts of a canary check are known at its end
    shares = [[share_of(check, name, of) for check in checks] for name, of in SHARES.items()]
    tallies = [
        _Tally(until, until, np.array([s.hits for s in kind], np.float64), np.array([s.n for s in kind], np.float64))
        for kind in shares
    ]
    return _burn(tallies, until, window.began_s, limit)


def _pairs(window: StageWindow) -> _Pairs:
    """Errors and tries of each kind, both from the same source."""
    found = {}
    for kind, errors, tries in KINDS:
        by_source = {each.source: each for each in counted(window, errors)}
        both = [(by_source[each.source], each) for each in counted(window, tries) if each.source in by_source]
        if both:
            found[kind] = both[0]
    return found


def _doubt(window: StageWindow, pairs: _Pairs) -> str:
    """Why the pairs are doubtful: a promised kind is missing, or a counter is doubtful. Empty if they are not."""
    missing = [kind for kind, _, tries in KINDS if kind not in pairs and promised(window, tries)]
    if missing:
        return f"errors of {' and '.join(missing)} are promised, but were not served"
    return next((each.doubt for pair in pairs.values() for each in pair if each.doubt), "")


def _tally(errors: Counted, tries: Counted) -> _Tally | None:
    """Combine two counters; None if they were not served together and so cannot be compared."""
    if not np.array_equal(errors.t, tries.t):
        return None
    clean = tries.clean
    return _Tally(tries.t[:-1][clean], tries.t[1:][clean], errors.steps[clean], tries.steps[clean])


def _burn(tallies: Sequence[_Tally], ends: Floats, began_s: float, limit: Threshold) -> Answer:
    """Decide by the fastest burn over both spans at once. Only the lower bounds of the ratios can fail it."""
    long_s, short_s, budget = limit.long_s or 0.0, limit.window_s or 0.0, limit.budget or 1.0
    ends = ends[ends >= began_s + short_s]
    errors, tries = np.moveaxis(np.array([_sums(tallies, ends, span_s) for span_s in (long_s, short_s)]), 1, 0)
    asked = np.all(tries > 0, axis=0)
    if not asked.any():
        return Answer(State.NO_DATA, NAN, 0, f"there was no request within {short_s:g} s")
    errors, tries = np.minimum(errors, tries)[:, asked], tries[:, asked]
    burns = np.min(errors / tries, axis=0) / budget
    plain, n = float(burns.max()), int(tries[0].max())
    over = np.flatnonzero(burns > limit.threshold)  # a lower bound is never over the plain ratio
    sure = max((_lower_bound(errors[:, at], tries[:, at]) / budget for at in over), default=0.0)
    state = State.FAIL if sure > limit.threshold else State.PASS if plain <= limit.threshold else State.INCONCLUSIVE
    reason = f"the budget of {budget:g} burns at {plain:.3g} times its rate, over {long_s:g} s and {short_s:g} s at once"
    return Answer(state, plain, n, reason, (sure, plain))


def _sums(tallies: Sequence[_Tally], ends: Floats, span_s: float) -> Floats:
    """Errors and tries of all kinds in the span before each of these moments."""
    total: Floats = np.zeros((2, len(ends)))
    for tally in tallies:
        total += np.array(tally.before(ends, span_s))
    return total


def _lower_bound(errors: Floats, tries: Floats) -> float:
    """The smaller of the lower bounds of two ratios."""
    return min(statistics.ratio(round(hits), round(n)).lower for hits, n in zip(errors.tolist(), tries.tolist(), strict=True))


RATIO = (_by_servers(_ratio_by_servers), from_clients(_ratio_by_clients))
BURN = (_by_servers(_burn_by_servers), from_clients(_burn_by_clients))
