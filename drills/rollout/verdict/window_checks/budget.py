"""The error budget: how much of everything that clients ask a lane for ends in an error, and how fast that burns.

Asked for are tokens, connects and publishes. What servers count of them is one origin, what the watches' clients saw another.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from drills.judging.checks.base import NAN, Answer, by_ratio, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.rollout.verdict.window_data import names
from drills.rollout.verdict.window_data.base import Decide, by_clients, doubted, trusted, unserved
from drills.rollout.verdict.window_data.clients import share_of
from drills.rollout.verdict.window_data.counters import Counted, counted, promised
from drills.rollout.verdict.window_data.stage_window import StageWindow
from sim.analysis import samples, statistics
from sim.analysis.samples import Share
from sim.record.history import Floats

PIECES = (
    ("publishes", names.PUBLISH_FAILED, names.PUBLISH_TRIES),
    ("tokens", names.TOKEN_FAILURES, names.TOKEN_TRIES),
    ("connects", names.AUTH_FAILURES, names.CONNECTS),
)
SHARES = {
    "tokens": samples.token_refusals,
    "connects": samples.auth_refusals,
    "publishes": samples.failed_publishes,
}


class _Tally(NamedTuple):
    """Errors and tries of one kind, as steps from `since` to `until`, both ascending."""

    since: Floats
    until: Floats
    errors: Floats
    tries: Floats

    def before(self, ends: Floats, span_s: float) -> tuple[Floats, Floats]:
        """What surely lies in the span before each of these moments."""
        first = np.searchsorted(self.since, ends - span_s, side="left")
        last = np.maximum(np.searchsorted(self.until, ends, side="right"), first)
        errors, tries = (np.concatenate(([0.0], np.cumsum(steps))) for steps in (self.errors, self.tries))
        return errors[last] - errors[first], tries[last] - tries[first]


def ratio_by_servers(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """All pieces that servers count both sides of; publishes, at the least."""
    pairs = _pairs(window)
    if not pairs:
        return unserved(window, names.PUBLISH_TRIES)
    share = Share(sum(errors.total for errors, _ in pairs.values()), sum(tries.total for _, tries in pairs.values()))
    found = by_ratio(share, needed(threshold), f"{' and '.join(pairs)} failed")
    return trusted(window, doubted(found, _doubt(window, pairs)))


def ratio_by_clients(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """All that the watches' clients asked for."""

    def judged() -> Answer:
        shares = [share_of(watch, name, of) for watch in window.canary_checks for name, of in SHARES.items()]
        share = Share(sum(each.hits for each in shares), sum(each.n for each in shares))
        return by_ratio(share, needed(threshold), f"{' and '.join(SHARES)} failed")

    return by_clients(window, judged)


def burn_by_servers(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """How fast the servers' counters burn the budget."""
    pairs = _pairs(window)
    if not pairs:
        return unserved(window, names.PUBLISH_TRIES)
    tallies = [tally for errors, tries in pairs.values() if (tally := _tally(errors, tries)) is not None]
    ends = np.unique(np.concatenate([np.zeros(0), *(tally.until for tally in tallies)]))
    found = _burn(tallies, ends, window.began_s, needed(threshold))
    return trusted(window, doubted(found, _doubt(window, pairs)))


def burn_by_clients(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """How fast what the watches' clients saw burns it."""

    def judged() -> Answer:
        watches = sorted(window.canary_checks, key=lambda watch: watch.ended_s)
        until = np.array([watch.ended_s for watch in watches])  # a watch's counts are told when it is over
        shares = [[share_of(watch, name, of) for watch in watches] for name, of in SHARES.items()]
        tallies = [
            _Tally(until, until, np.array([s.hits for s in kind], np.float64), np.array([s.n for s in kind], np.float64))
            for kind in shares
        ]
        return _burn(tallies, until, window.began_s, needed(threshold))

    return by_clients(window, judged)


def _pairs(window: StageWindow) -> dict[str, tuple[Counted, Counted]]:
    """By kind, its errors and its tries, both by one source."""
    found = {}
    for kind, errors, tries in PIECES:
        by_source = {each.source: each for each in counted(window, errors)}
        both = [(by_source[each.source], each) for each in counted(window, tries) if each.source in by_source]
        if both:
            found[kind] = both[0]
    return found


def _doubt(window: StageWindow, pairs: Mapping[str, tuple[Counted, Counted]]) -> str:
    """Kinds that are promised must be there, too."""
    missing = [kind for kind, _, tries in PIECES if kind not in pairs and promised(window, tries)]
    if missing:
        return f"errors of {' and '.join(missing)} are promised and were not served"
    return next((each.doubt for pair in pairs.values() for each in pair if each.doubt), "")


def _tally(errors: Counted, tries: Counted) -> _Tally | None:
    """None where the two were not served together, so that there is no telling what belongs to what."""
    if not np.array_equal(errors.t, tries.t):
        return None
    clean = tries.clean
    return _Tally(tries.t[:-1][clean], tries.t[1:][clean], errors.steps[clean], tries.steps[clean])


def _burn(tallies: Sequence[_Tally], ends: Floats, began_s: float, limit: Threshold) -> Answer:
    """The fastest burn of both spans at once; sure only by the lower bounds of their ratios."""
    long_s, short_s, budget = limit.long_s or 0.0, limit.window_s or 0.0, limit.budget or 1.0
    ends = ends[ends >= began_s + short_s]
    errors, tries = np.moveaxis(np.array([_sums(tallies, ends, span_s) for span_s in (long_s, short_s)]), 1, 0)
    asked = np.all(tries > 0, axis=0)
    if not asked.any():
        return Answer(State.NO_DATA, NAN, 0, f"nothing was asked for within {short_s:g} s")
    errors, tries = np.minimum(errors, tries)[:, asked], tries[:, asked]
    burns = np.min(errors / tries, axis=0) / budget
    plain, n = float(burns.max()), int(tries[0].max())
    over = np.flatnonzero(burns > limit.threshold)  # elsewhere no lower bound can be over it
    sure = max((_least(errors[:, at], tries[:, at]) / budget for at in over), default=0.0)
    state = State.FAIL if sure > limit.threshold else State.PASS if plain <= limit.threshold else State.INCONCLUSIVE
    reason = f"the budget of {budget:g} burnt at most {plain:.3g} times too fast, over {long_s:g} s and {short_s:g} s at once"
    return Answer(state, plain, n, reason, (sure, plain))


def _sums(tallies: Sequence[_Tally], ends: Floats, span_s: float) -> Floats:
    """Errors and tries of all kinds in the span before each moment."""
    total: Floats = np.zeros((2, len(ends)))
    for tally in tallies:
        total += np.array(tally.before(ends, span_s))
    return total


def _least(errors: Floats, tries: Floats) -> float:
    """The least that the lower of two ratios surely is."""
    return min(statistics.ratio(round(hits), round(n)).lower for hits, n in zip(errors.tolist(), tries.tolist(), strict=True))


BY_SERVERS: tuple[str, ...] = tuple(dict.fromkeys(name for _, errors, tries in PIECES for name in (*errors, *tries)))
RATIO: tuple[Decide, Decide] = (ratio_by_servers, ratio_by_clients)
BURN: tuple[Decide, Decide] = (burn_by_servers, burn_by_clients)
