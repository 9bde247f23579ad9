"""The error budget: how much of everything that clients ask a lane for ends in an error, and how fast that burns.

Asked for are tokens, connects and publishes. What servers count of them is one origin, what the watches' clients saw another.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from drills import statistics
from drills.checks.base import NAN, Answer, by_ratio, needed
from drills.rollout.counted import Counted, counted, promised
from drills.rollout.stage_window import StageWindow
from drills.rollout.window_checks import names
from drills.rollout.window_checks.base import Decide, by_clients, doubted, trusted, unserved
from drills.rollout.window_checks.clients import share_of
from drills.thresholds import Threshold
from drills.verdicts import State
from sim import samples
from sim.history import Floats
from sim.samples import Share

WHAT = "tokens, connects and publishes failed"
PIECES = (
    (names.PUBLISH_FAILED, names.PUBLISH_TRIES),
    (names.TOKEN_FAILURES, names.TOKEN_TRIES),
    (names.AUTH_FAILURES, names.CONNECTS),
)
_SHARES = {
    "tokens": samples.token_refusals,
    "connects": samples.auth_refusals,
    "publishes": samples.failed_publishes,
}


class _Tally(NamedTuple):
    """Errors and tries of one kind, as steps between moments: of `t[i]` to `t[i + 1]`."""

    since: Floats
    until: Floats
    errors: Floats
    tries: Floats

    def between(self, since_s: float, until_s: float) -> tuple[int, int]:
        """What surely lies between two moments."""
        inside = (self.since >= since_s) & (self.until <= until_s)
        return round(float(self.errors[inside].sum())), round(float(self.tries[inside].sum()))


def ratio_by_servers(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """All pieces that servers count both sides of; publishes, at the least."""
    pairs = list(_pairs(window))
    if not pairs:
        return unserved(window, names.PUBLISH_TRIES)
    share = Share(sum(errors.total for errors, _ in pairs), sum(tries.total for _, tries in pairs))
    found = by_ratio(share, needed(threshold), WHAT)
    return trusted(window, doubted(found, _doubt(window, pairs)))


def ratio_by_clients(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """All that the watches' clients asked for."""

    def judged() -> Answer:
        shares = [share_of(watch, name, of) for watch in window.watches for name, of in _SHARES.items()]
        return by_ratio(Share(sum(s.hits for s in shares), sum(s.n for s in shares)), needed(threshold), WHAT)

    return by_clients(window, judged)


def burn_by_servers(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """How fast the servers' counters burn the budget."""
    pairs = list(_pairs(window))
    if not pairs:
        return unserved(window, names.PUBLISH_TRIES)
    tallies = [tally for errors, tries in pairs if (tally := _tally(errors, tries)) is not None]
    ends = np.unique(np.concatenate([np.zeros(0), *(tally.until for tally in tallies)]))
    found = _burn(tallies, ends, window.began_s, needed(threshold))
    return trusted(window, doubted(found, _doubt(window, pairs)))


def burn_by_clients(window: StageWindow, threshold: Threshold | None) -> Answer | None:
    """How fast what the watches' clients saw burns it."""

    def judged() -> Answer:
        watches = sorted(window.watches, key=lambda watch: watch.ended_s)
        since, until = np.array([watch.began_s for watch in watches]), np.array([watch.ended_s for watch in watches])
        shares = [[share_of(watch, name, of) for watch in watches] for name, of in _SHARES.items()]
        tallies = [
            _Tally(since, until, np.array([s.hits for s in kind], np.float64), np.array([s.n for s in kind], np.float64))
            for kind in shares
        ]
        return _burn(tallies, until, window.began_s, needed(threshold))

    return by_clients(window, judged)


def _pairs(window: StageWindow) -> Iterator[tuple[Counted, Counted]]:
    for errors, tries in PIECES:
        by_source = {each.source: each for each in counted(window, errors)}
        for all_of_it in counted(window, tries):
            if all_of_it.source in by_source:
                yield by_source[all_of_it.source], all_of_it
                break


def _doubt(window: StageWindow, pairs: Sequence[tuple[Counted, Counted]]) -> str:
    """Pieces that are promised must be there, too."""
    found = len(pairs)
    wanted = sum(promised(window, tries) for _, tries in PIECES)
    if found < wanted:
        return f"{found} of {wanted} kinds of errors that are promised were served"
    return next((each.doubt for pair in pairs for each in pair if each.doubt), "")


def _tally(errors: Counted, tries: Counted) -> _Tally | None:
    """None where the two were not served together, so that there is no telling what belongs to what."""
    if not np.array_equal(errors.t, tries.t):
        return None
    clean = tries.clean
    return _Tally(tries.t[:-1][clean], tries.t[1:][clean], errors.steps[clean], tries.steps[clean])


def _burn(tallies: Sequence[_Tally], ends: Floats, began_s: float, limit: Threshold) -> Answer:
    """The fastest burn of both spans at once; sure only by the lower bounds of their ratios."""
    long_s, short_s, budget = limit.long_s or 0.0, limit.window_s or 0.0, limit.budget or 1.0
    plain, sure, n = NAN, 0.0, 0
    for end in ends[ends >= began_s + short_s]:
        bounds = [_ratio(tallies, end - span_s, end) for span_s in (long_s, short_s)]
        if min(each.n for each in bounds) == 0:
            continue
        plain = max(min(each.value for each in bounds) / budget, 0.0 if plain != plain else plain)
        sure = max(min(each.lower for each in bounds) / budget, sure)
        n = max(n, bounds[0].n)
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, f"nothing was asked for within {short_s:g} s")
    state = State.FAIL if sure > limit.threshold else State.PASS if plain <= limit.threshold else State.INCONCLUSIVE
    reason = f"the budget of {budget:g} burnt at most {plain:.3g} times too fast, over {long_s:g} s and {short_s:g} s at once"
    return Answer(state, plain, n, reason, (sure, plain))


def _ratio(tallies: Sequence[_Tally], since_s: float, until_s: float) -> statistics.Bounds:
    found = [tally.between(since_s, until_s) for tally in tallies]
    errors, tries = sum(each[0] for each in found), sum(each[1] for each in found)
    return statistics.ratio(min(errors, tries), tries)


BY_SERVERS: tuple[str, ...] = tuple(dict.fromkeys(name for errors, tries in PIECES for name in (*errors, *tries)))
RATIO: tuple[Decide, Decide] = (ratio_by_servers, ratio_by_clients)
BURN: tuple[Decide, Decide] = (burn_by_servers, burn_by_clients)
