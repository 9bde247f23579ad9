"""Checks of the gate `reconnect`: clients recover in time, and their backoff is bounded, jittered and reset."""

from collections.abc import Mapping, Sequence

from drills.judging.checks.base import NAN, Answer, Case, Decide, by_count, needed
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import reconnects, statistics
from sim.record.observations import Kind
from sim.record.tally import Herd

MIN_HERD = 20  # delays; a smaller group cannot prove a herd
_WINDOWS = 20  # ten windows fit into a step, and the fullest window may overlap two of them
_CHANCE = 0.05


def _live_again(case: Case, threshold: Threshold | None) -> Answer:
    episodes = reconnects.episodes(case.history, case.busy)
    if not episodes:
        return Answer(State.NOT_RUN, NAN, 0, "no fault disconnected a client")
    found = [(reconnects.time_until(0.99, episode.live_s), episode.fault, episode.clients) for episode in episodes]
    return by_recovery(*max(found), needed(threshold))


def by_recovery(seconds: float, fault: str, n: int, threshold: Threshold) -> Answer:
    """Decide whether 99 % of the clients that the worst fault disconnected were live again in time."""
    limit = threshold.threshold
    reason = f"99 % of the {n} clients that {fault} disconnected were live again after {seconds:.3g} s"
    if seconds == float("inf"):
        reason = f"fewer than 99 % of the {n} clients that {fault} disconnected were ever live again"
    return Answer(State.PASS if seconds <= limit else State.FAIL, seconds, n, reason)


def _bounded(case: Case, threshold: Threshold | None) -> Answer:
    delays = reconnects.chosen_backoffs(case.history).value
    if len(delays) == 0:
        return Answer(State.NO_DATA, NAN, 0, "no client chose a backoff itself")
    longest = float(delays.max())
    state = State.PASS if longest <= needed(threshold).threshold else State.FAIL
    if longest != longest:
        state = State.ERROR
    return Answer(state, longest, len(delays), f"the longest of {len(delays)} delays is {longest:.4g} ms")


def _unjittered(case: Case, threshold: Threshold | None) -> Answer:
    return by_herds(reconnects.herds(case.history), needed(threshold))


def by_herds(herds: Sequence[Herd], limit: Threshold) -> Answer:
    """Decide by the worst group of delays. Under `minimum_n` it cannot pass, but it fails if chance cannot explain it."""
    proven = [herd for herd in herds if herd.n < (limit.minimum_n or 0) and _is_herd(herd, limit.threshold)]
    judged = [herd for herd in herds if herd.n >= (limit.minimum_n or 0)] + proven
    if not judged:
        largest = max((herd.n for herd in herds), default=0)
        state = State.INCONCLUSIVE if largest else State.NO_DATA
        return Answer(state, NAN, largest, f"at most {largest} delays are comparable; {limit.minimum_n} are needed")
    worst = max(judged, key=lambda herd: herd.share)
    which = f"of attempt {worst.attempt}" if worst.attempt else "of all attempts, in steps,"
    reason = f"{worst.together} of {worst.n} delays {which} lie within a tenth of their step"
    return Answer(State.PASS if worst.share <= limit.threshold else State.FAIL, worst.share, worst.n, reason)


def _is_herd(herd: Herd, allowed: float) -> bool:
    """Whether chance cannot explain the number of delays in one window, if each window may have the allowed share."""
    enough = herd.n >= MIN_HERD and herd.share > allowed
    return enough and _WINDOWS * statistics.binomial_tail(herd.together, herd.n, allowed) < _CHANCE


def _never_resets(case: Case, threshold: Threshold | None) -> Answer:
    limit = needed(threshold)
    resets = reconnects.backoff_resets(case.history, limit.live_for_s or 0.0)
    return by_count(len(resets.missed), resets.n, limit, "backoffs were not reset", "backoffs after a live period")


def _heartbeat_timeouts(case: Case, threshold: Threshold | None) -> Answer:
    limit, history = needed(threshold), case.history
    lives, seconds = len(history.fleet(Kind.SUBSCRIBED)), history.duration_s
    if lives == 0 or seconds <= 0:
        return Answer(State.NO_DATA, NAN, 0, "no client was ever live")
    timeouts = int((~case.busy.may_drop(history.fleet(Kind.HEARTBEAT_TIMEOUT).t)).sum())
    rate = timeouts / seconds
    state = State.PASS if rate <= limit.threshold else State.FAIL
    return Answer(state, rate, lives, f"{timeouts} heartbeat timeouts in {seconds:.0f} s, over {lives} live periods")


DECISIONS: Mapping[str, Decide] = {
    "reconnect.live_again_99_s": _live_again,
    "reconnect.backoff_bounded": _bounded,
    "reconnect.backoff_unjittered": _unjittered,
    "reconnect.backoff_never_resets": _never_resets,
    "reconnect.heartbeat_timeouts_per_s": _heartbeat_timeouts,
}
