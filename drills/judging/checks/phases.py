"""Checks of every drill: it ran as declared, its faults took effect, and the system converged."""

from collections.abc import Mapping

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, Decide, needed, soonest_renewal_s
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import machine, samples, server_metrics
from sim.analysis.disconnects import Owner
from sim.analysis.effects import Effects
from sim.protocols.events import EndedBy
from sim.record.history import PHASES, History, Mask, Rows
from sim.record.observations import Kind
from sim.record.published import SPAN

_LATE_SHARE = 0.05  # share of late samples from which the load generator counts as saturated
_LOAD_SHARE = 0.9  # [ours] share of the events that the drill requests
_CLOCK_HOLE_S = 10.0  # the longest time between two comparisons of clocks
_NOT_SAID = (
    "had all acknowledged events, but the service did not say that the replay is complete; its protocol says so (caught_up)"
)
_HOLE_S = 1.0  # the longest gap between samples of the load generator's lateness


def _phases(case: Case, threshold: Threshold | None) -> Answer:
    rows = case.history.of(Kind.PHASE)
    seen = [case.history.details[code] for code in rows.detail]
    if tuple(seen) == PHASES:
        return Answer(State.PASS, len(seen), len(seen), "all phases in order")
    return Answer(State.ERROR, len(seen), len(seen), f"the phases were {', '.join(seen) or 'none'}, not {', '.join(PHASES)}")


def _steady_state(case: Case, threshold: Threshold | None) -> Answer:
    rows = case.history.of(Kind.STEADY)
    if len(rows) == 0:
        return Answer(State.ERROR, NAN, 0, "the steady state was not checked before the fault")
    unready = rows.take(rows.value != 1.0)
    if len(unready):
        why = case.history.details[unready.detail[0]] or "no reason was given"
        return Answer(State.ERROR, 0.0, len(rows), f"the steady state did not hold before the fault: {why}")
    if case.history.has_no_markers:
        why = (
            "no event that clients applied has a marker of this run, so nobody knows which events arrived: correct "
            "'payload_at' of the target ('stormgate target check' finds it), or the service replaces payloads"
        )
        return Answer(State.ERROR, 0.0, len(rows), why)
    return Answer(State.PASS, 1.0, len(rows), "the steady state held before the fault")


def _faults_observed(case: Case, threshold: Threshold | None) -> Answer:
    plan, effects = case.history.header.plan, Effects(case.history, case.disconnects)
    missing = [
        f"{fault.get('kind', 'fault')} #{index}: {why}" for index, fault in enumerate(plan) if (why := effects.missing(index))
    ]
    wanted = sum(fault.parts for fault in case.drill.faults)
    if len(plan) < wanted:
        missing.append(f"the schedule has {len(plan)} of {wanted} faults")
    if len(plan) > wanted:
        missing.append(f"the schedule has {len(plan)} faults, but the drill has {wanted}")
    if missing:
        return Answer(State.ERROR, len(plan) - len(missing), len(plan), "; ".join(missing))
    if not plan:
        return Answer(State.PASS, 0, len(case.history), "this drill has no faults: it only observes")
    return Answer(State.PASS, len(plan), len(plan), "every fault took effect and was reverted")


def _undisturbed(case: Case, threshold: Threshold | None) -> Answer:
    """Count the connections that the runtime lost, or closed, and that no fault explains."""
    history, early, lost = case.history, _renewed_early(case), _unexcused(case)
    lives = len(history.fleet(Kind.SUBSCRIBED))
    resets = server_metrics.unexplained_resets(history)
    if count := int(lost.sum()) + len(early):
        return Answer(State.FAIL, count, lives, f"connections were lost that no fault explains: {_by_owner(case, early)}")
    if lives == 0:
        return Answer(State.NO_DATA, NAN, 0, "no client was ever live")
    if resets:
        why = f"the runtime's counters restarted at {resets[0]:.1f} s without a fault, so it may have restarted itself"
        return Answer(State.INCONCLUSIVE, len(resets), lives, why)
    return Answer(State.PASS, 0, lives, "no connection was lost that no fault explains")


def _unexcused(case: Case) -> Mask:
    """Which disconnects neither the client decided, nor a fault or a busy machine of ours explains."""
    return case.disconnects.unexcused & ~case.dropped_while_busy


def _by_owner(case: Case, early: Rows) -> str:
    """The owners of unexplained disconnects with their counts, and the first one."""
    ends, lost = case.disconnects, _unexcused(case)
    by_client = np.array([text.startswith(f"{EndedBy.CLIENT}:") for text in ends.said], np.bool_)
    counts = {
        "closed by the server": int((lost & (ends.owner == Owner.SERVER)).sum()),
        "given up by the client, which heard nothing or missed events": int((lost & by_client).sum()),
        "without a word": int((lost & (ends.owner == Owner.UNKNOWN) & ~by_client).sum()),
        "to renew a token long before it was due": len(early),
    }
    first = ends.rows.take(lost).and_then(early)
    first = first.take(np.argsort(first.t, kind="stable"))
    said = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
    return f"{said}; the first by client {first.client[0]} at {first.t[0]:.3f} s"


def _renewed_early(case: Case) -> Rows:
    """The disconnects for tokens that were renewed long before they were due."""
    history = case.history
    renewed, after_s = samples.renewals(history)
    is_foreign_mock = history.header.target_kind == "mock" and "://" in history.header.target  # its token times may differ
    return renewed.take(np.zeros(0, np.int64) if is_foreign_mock else after_s < soonest_renewal_s(case))


def _load(case: Case, threshold: Threshold | None) -> Answer:
    return by_load(case, len(case.history.of(Kind.PUBLISHED)) + len(case.history.of(Kind.PUBLISH_FAILED)))


def by_load(case: Case, tried: int) -> Answer:
    """Decide whether the drill tried the publishes that it requests."""
    load, phases = case.drill.load, case.history.phases
    asked = load.events_per_s * (phases.get("settle", np.nan) - phases.get("steady", np.nan))
    if load.events:
        state = State.PASS if tried == load.events else State.ERROR
        return Answer(state, tried, tried, f"{tried} of {load.events} events were published")
    enough = tried >= int(_LOAD_SHARE * asked) if np.isfinite(asked) else False
    return Answer(
        State.PASS if enough and tried else State.ERROR, tried, tried, f"{tried} of about {asked:.0f} events were published"
    )


def _converged(case: Case, threshold: Threshold | None) -> Answer:
    history = case.history
    clients, pending = history.header.clients, samples.unconverged(history)
    if clients == 0:
        return Answer(State.NO_DATA, NAN, 0, "there were no clients")
    if len(pending) == 0 and (unproven := len(case.ledger.unproven)):
        why = "while all clients started; the service sends nothing of the past, so they may be lost"
        return Answer(State.INCONCLUSIVE, 0, clients, f"no client has {unproven} acknowledged events that were sent {why}")
    if len(pending) == 0:
        return Answer(State.PASS, 0, clients, f"all {clients} clients converged")
    if case.had_no_time("settle", "end"):
        return Answer(State.INCONCLUSIVE, len(pending), clients, "clients had too little time to converge")
    rows = history.fleet(Kind.STILL_PENDING)
    if len(np.unique(rows.client)) == len(pending) and _have_all(case, rows):
        return Answer(State.INCONCLUSIVE, len(pending), clients, f"{len(pending)} of {clients} clients {_NOT_SAID}")
    why = ", ".join(f"{text or 'no reason'} ({count})" for text, count in list(history.detail_counts(rows).items())[:3])
    return Answer(
        State.FAIL,
        len(pending),
        clients,
        f"{len(pending)} of {clients} clients did not converge: {why or 'no reason recorded'}",
    )


def _have_all(case: Case, pending: Rows) -> bool:
    """Whether all that these clients wait for is the service's word that their replay is complete: they had its events."""
    history, ledger = case.history, case.ledger
    applied = history.session_rows(Kind.APPLIED)
    own = applied.take(ledger.published.find(applied) >= 0)
    lacking = np.append(ledger.missing("dropped")[0], history.header.auditor if _auditor_lacks(case, own) else -1)
    has_some = np.isin(history.pair(pending), history.pair(own))
    return bool((history.detail_is(pending, ["replaying"]) & has_some & ~np.isin(pending.client, lacking)).all())


def _auditor_lacks(case: Case, applied: Rows) -> bool:
    """Whether the auditor lacks an acknowledged event after the first one of its stream that it applied."""
    published, had = case.ledger.published, applied.take(applied.client == case.history.header.auditor)
    found = published.find(had)
    first = np.full(len(case.history.streams), SPAN, np.int64)
    np.minimum.at(first, had.stream, published.place[found])
    return bool(np.isin(np.flatnonzero(published.place >= first[published.stream]), found, invert=True).any())


def _wall_clocks(case: Case, threshold: Threshold | None) -> Answer:
    """Decide whether our wall clock and the target's were right the whole time: tokens and windows of time depend on them."""
    if case.history.header.clock == "virtual":
        return Answer(State.PASS, 0, len(case.history), "simulated time has no wall clock")
    ours, theirs = machine.own_clock(case.history), machine.target_clock(case.history)
    if ours.longest_hole_s > _CLOCK_HOLE_S:
        why = f"for {ours.longest_hole_s:.3g} s our wall clock was not compared with the monotonic clock"
        return Answer(State.ERROR, NAN, ours.n, why)
    for which, found in (("our wall clock left the monotonic clock", ours), ("the target's clock left ours", theirs)):
        if abs(found.seconds) > machine.MAX_CLOCK_OFF_S or (found.n and found.seconds != found.seconds):
            why = f"{which} by {found.seconds:+.1f} s at {found.t:.1f} s; at most {machine.MAX_CLOCK_OFF_S:g} s are allowed"
            return Answer(State.ERROR, abs(found.seconds), found.n, why)
    seen = f"the target's {theirs.n} times, at most {theirs.seconds:+.1f} s off" if theirs.n else "the target's not at all"
    return Answer(State.PASS, abs(ours.seconds), ours.n, f"our clock was compared {ours.n} times, {seen}")


def generator_lag(case: Case, threshold: Threshold | None) -> Answer:
    """Decide how late the load generator was. Each process is judged alone: the pooled samples could hide a late one."""
    limit, history = needed(threshold), case.history
    rows = history.of(Kind.GENERATOR_LAG)
    if history.header.clock == "virtual":
        return Answer(State.PASS, 0, len(rows), "simulated time waits for the load generator")
    names = {history.details[code] for code in np.unique(rows.detail)}
    wanted = {str(worker.get("name")) for worker in history.header.workers}
    answers = [
        _lateness(history, rows.take(history.detail_is(rows, [name])), limit, f" of the {name}" if name else "")
        for name in sorted(names | wanted or {""})
    ]
    errors = [answer for answer in answers if answer.state is not State.PASS]
    return errors[0] if errors else max(answers, key=lambda answer: answer.value)


def _lateness(history: History, rows: Rows, limit: Threshold, whose: str) -> Answer:
    lags = np.sort(rows.value)
    n, phases = len(lags), history.phases
    if n < (limit.minimum_n or 1):
        few = f"{n} samples of the load generator's lateness{whose} are too few; {limit.minimum_n} are needed"
        return Answer(State.ERROR, NAN, n, few)
    t = np.concatenate(([phases.get("steady", 0.0)], rows.t, [phases.get("end", history.duration_s)]))
    hole_s = float(np.diff(t).max())
    if hole_s > _HOLE_S + float(lags[-1]) / 1000:
        return Answer(State.ERROR, NAN, n, f"for {hole_s:.3g} s the lateness of the load generator{whose} was not measured")
    # NumPy sorts NaN last, so it counts as late.
    lag = float(lags[n - 1 - int(_LATE_SHARE * n)])
    if lag <= limit.threshold:
        return Answer(State.PASS, lag, n, f"95 % of {n} samples{whose} are at most {lag:.3g} ms late")
    late = f"more than 5 % of {n} samples{whose} are over {limit.threshold:g} ms late"
    return Answer(State.ERROR, lag, n, f"the load generator was saturated: {late}")


def _declared_loss(case: Case, threshold: Threshold | None) -> Answer:
    """Count the forbidden declared losses. A drill that expects losses allows them, but only on streams without snapshots."""
    rows = case.history.fleet(Kind.DECLARED_LOSS)
    if case.drill.expect.declared_loss:
        rows = rows.take(np.array([_has_snapshots(case, code) for code in range(len(case.history.streams))])[rows.stream])
    if len(rows):
        events, unknown = float(np.nansum(rows.value)), int(np.isnan(rows.value).sum())
        more = f" and {unknown} times an unknown number" if unknown else ""
        reason = f"clients declared {events:g} events{more} lost, which this drill does not allow"
        return Answer(State.FAIL, events, len(rows), reason)
    if case.ledger.expected == 0:
        return Answer(State.NO_DATA, NAN, 0, "there were no deliveries to lose")
    return Answer(State.PASS, 0, case.ledger.expected, "no client declared a loss that this drill does not allow")


def _has_snapshots(case: Case, code: int) -> bool:
    """Whether a snapshot can have what is lost. That of a log that was created again has no events of the log before."""
    limits = case.history.header.streams.get(case.history.streams[code])
    is_offered = bool((case.history.of(Kind.SNAPSHOT).stream == code).any()) and code not in case.history.logs
    return is_offered or (limits is not None and limits.has_snapshots)


def _audited_over_http(history: History, published: int) -> Answer:
    """Check that every stream was read over HTTP; what is missing there violates an invariant."""
    streams = history.base_stream[history.of(Kind.PUBLISHED).stream]  # of all their logs, only the newest can be read
    read = history.of(Kind.READ_BACK_COMPLETED).stream
    if len(read) == 0 or not np.isin(streams, read).all():
        return Answer(State.NO_DATA, NAN, 0, "the target has neither socket nor [read_back], so a loss may be unseen")
    return Answer(State.PASS, 1, published, f"{len(np.unique(read))} streams were read back over HTTP")


def _audited(case: Case, threshold: Threshold | None) -> Answer:
    """Check that a new client at the end got every event. This shows a loss that no other client noticed."""
    history = case.history
    auditor = history.header.auditor
    pending, settled = history.of(Kind.STILL_PENDING), history.of(Kind.SETTLED)
    pending = pending.take((pending.client == auditor) & (auditor >= 0))
    n = len(case.ledger.published)
    if len(pending) and case.had_no_time("settle", "end"):
        return Answer(State.INCONCLUSIVE, 0, n, "a fresh client had too little time to read up to the head")
    if len(pending) and _have_all(case, pending):
        return Answer(State.INCONCLUSIVE, 0, n, f"a fresh client {_NOT_SAID}")
    if len(pending):
        why = ", ".join(text or "no reason" for text in history.detail_counts(pending))
        return Answer(State.FAIL, 0, n, f"a fresh client could not read up to the head of {len(pending)} streams: {why}")
    if not history.header.has_socket or (history.starts_from_now_on and len(history.of(Kind.READ_BACK_COMPLETED))):
        return _audited_over_http(history, n)
    if not case.ledger.audited or not bool((settled.client == auditor).any()):
        return Answer(State.NO_DATA, NAN, 0, "no fresh client read the retained events at the end, so a loss may be unseen")
    window = case.window_events
    if withheld := len(case.ledger.withheld(window, _forgotten_until(history))):
        return Answer(State.FAIL, 0, n, f"a fresh client did not get {withheld} events of a window of {window}")
    return Answer(State.PASS, 1, n, "a fresh client read all retained events at the end")


def _forgotten_until(history: History) -> float:
    """The end of the last fault that trims the log."""
    ended = history.of(Kind.FAULT_REVERTED)
    return float(ended.t[history.detail_is(ended, ["shrink_window"])].max(initial=-np.inf))


DECISIONS: Mapping[str, Decide] = {
    "drill.phases": _phases,
    "drill.steady_state": _steady_state,
    "drill.faults_observed": _faults_observed,
    "drill.undisturbed": _undisturbed,
    "drill.load": _load,
    "drill.generator_lag_ms": generator_lag,
    "drill.wall_clocks": _wall_clocks,
    "drill.converged": _converged,
    "drill.audited": _audited,
    "drill.declared_loss": _declared_loss,
}
