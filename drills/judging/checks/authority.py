"""Checks of tokens, refusals and the HTTP authority: only invalid requests are refused, each with the right code."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, Decide, by_count, needed, soonest_renewal_s
from drills.judging.checks.registry import MISUSES
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import samples
from sim.client.negative.malformed import MalformedFrames
from sim.client.negative.registry import EXPECTED
from sim.drill.fault_kinds import AnyFault, FailPublishes
from sim.record.history import Floats, History
from sim.record.observations import Kind
from sim.server.admission import is_final

# Codes that mean that there was no answer.
_UNANSWERED = ("", "silence", "timeout", "network")
_ANSWER_S = 1.0  # [ours] time limit for an acknowledgement
_CUT_WITHIN_S = 2.0  # [ours] time limit for disconnecting a live client after its session was revoked
_NOT_FOUND = 404
_PHASES = ("before", "during", "after")
_MALFORMED = MalformedFrames.name
_CUT = "refused:closed"  # without a reason
_MAY_BE_CUT = "huge"  # its client may still be sending when the server closes; the reset then hides the reason
_BARE = ("forbidden", "unauthorized", "network", "protocol")  # what clients note for a refusal without a code
_GIVEN_UP_MS = 10_000.0  # [ours] the publisher gives up after 20 s; a refusal for good ends its tries at once
_LATE_PUBLISHES = 0.01  # [ours] share of the publishes that may take longer


def _negative_clients(case: Case, threshold: Threshold | None) -> Answer:
    """Check that every negative client was refused, with the code of the contract if it defines one."""
    answers = case.history.detail_counts(case.history.of(Kind.PROBED))
    n = sum(answers.values())
    granted = [text for text in answers if text.endswith(":accepted")]
    if granted:
        return Answer(State.FAIL, len(granted), n, f"requests that must be refused were granted: {', '.join(granted)}")
    refused = [text for text in answers if text.rpartition(":")[2] not in _UNANSWERED]
    if wrong := [why for text in refused if (why := _wrong_code(text, case))]:
        return Answer(State.FAIL, len(wrong), n, f"refused with a wrong code: {', '.join(wrong)}")
    answered = {text.partition(":")[0] for text in refused}
    unasked = case.history.header.unasked
    silent = [kind for kind in case.drill.expect.negative_clients if kind not in answered and kind not in unasked]
    if silent:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"no answer to the negative clients {', '.join(silent)}")
    return Answer(State.PASS, 0, n, f"all refused: {', '.join(answers)}")


def _wrong_code(text: str, case: Case) -> str:
    """Why the code of a refusal is wrong; empty if it is right, or if the contract has none for it, or the protocol its own."""
    kind, code = text.partition(":")[0], text.rpartition(":")[2]
    right = EXPECTED.get(kind, ())
    if case.has_own_codes or (not case.states_codes and code in _BARE):
        return ""
    return "" if not right or code in right else f"{kind} ({code} instead of {' or '.join(right)})"


def _misusers_served(case: Case, threshold: Threshold | None) -> Answer:
    """Check that clients that misused a socket are served afterwards and reach the head of their streams."""
    history = case.history
    misusers = [int(client) for client, kind in history.header.negative_clients.items() if kind in MISUSES]
    settled = set(history.of(Kind.SETTLED).client.tolist())
    answered = set(history.of(Kind.PROBED).client.tolist())
    lost = [client for client in misusers if client not in settled]
    if not misusers or not answered.intersection(misusers):
        return Answer(State.NO_DATA, NAN, 0, "no client misused a socket")
    if lost:
        return Answer(State.FAIL, len(lost), len(misusers), f"{len(lost)} clients were not served after the refusal")
    return Answer(State.PASS, 0, len(misusers), "all clients that were refused were served afterwards")


def _malformed_frames(case: Case, threshold: Threshold | None) -> Answer:
    """Check that every kind of malformed frame was answered, and that a socket closed because of one got a reason."""
    answers: dict[str, set[str]] = defaultdict(set)
    n, kinds = 0, case.history.header.malformed_kinds
    for text, count in case.history.detail_counts(case.history.of(Kind.PROBED)).items():
        client, _, rest = text.partition(":")
        what, _, answer = rest.partition(":")
        if client == _MALFORMED and answer not in ("", "silence"):
            answers[what].add(answer)
            n += count
    if cut := [what for what in kinds if what != _MAY_BE_CUT and _CUT in answers[what]]:
        return Answer(State.FAIL, len(cut), n, f"the socket was closed without a reason after {', '.join(cut)}")
    if unanswered := [what for what in kinds if not answers[what]]:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"no answer to {', '.join(unanswered)}")
    said = sorted({answer.removeprefix("refused:") for each in answers.values() for answer in each})
    return Answer(State.PASS, 0, n, f"{len(kinds)} kinds of malformed frames were answered: {', '.join(said)}")


def _too_old(case: Case, threshold: Threshold | None) -> Answer:
    """Count the connects refused because the control service granted the token for longer than the runtime accepts."""
    refused = case.history.fleet(Kind.CONNECT_FAILED)
    too_old = int(case.history.detail_is(refused, ["token_too_old"]).sum())
    attempts = len(case.history.fleet(Kind.CONNECT_ATTEMPTED))
    return by_count(too_old, attempts, needed(threshold), "connects refused as token_too_old", "connects attempted")


def _publish_failures(case: Case, threshold: Threshold | None) -> Answer:
    """Check that only publishes with a final refusal failed, and that clients retried all other refused publishes."""
    history = case.history
    for_good = [index for index, fault in enumerate(case.drill.faults) if _refuses_for_good(fault)]
    if any(history.parameters(index).get("by") == "hook" for index in for_good):
        return _refused_by_hook(history, for_good)
    seen = history.of(Kind.FAULT_OBSERVED)
    refused = int(seen.value[np.isin(seen.attempt, for_good)].sum())
    failed, tried = len(history.of(Kind.PUBLISH_FAILED)), samples.failed_publishes(history).n
    said = f"{failed} of {tried} publishes failed, and {refused} were refused for good"
    if tried == 0:
        return Answer(State.NO_DATA, NAN, 0, "nothing was published")
    return Answer(State.PASS if failed == refused else State.FAIL, abs(failed - refused), tried, said)


def _refused_by_hook(history: History, for_good: Sequence[int]) -> Answer:
    """The same where a hook refuses publishes, and nobody counts them: each must fail soon, and while the fault lasts."""
    failed, tried = history.of(Kind.PUBLISH_FAILED), samples.failed_publishes(history).n
    spans = [(fault.start_t, fault.end_t + _ANSWER_S) for fault in history.faults if fault.index in for_good]
    is_refused = np.zeros(len(failed), np.bool_)
    for start_t, end_t in spans:
        is_refused |= (failed.t >= start_t) & (failed.t <= end_t) & (failed.value < _GIVEN_UP_MS)
    others = int((~is_refused).sum())
    if others:
        return Answer(State.FAIL, others, tried, f"{others} publishes failed that were not refused for good")
    if not len(failed):
        return Answer(
            State.INCONCLUSIVE, NAN, tried, f"none of {tried} publishes failed, though some were to be refused for good"
        )
    return Answer(State.PASS, 0, tried, f"{len(failed)} of {tried} publishes failed, all while they were refused for good")


def _streams_alive(case: Case, threshold: Threshold | None) -> Answer:
    """Check that each stream acknowledged an event that was due after its appends had overlapped."""
    history = case.history
    _, end_t = _span(history, "concurrent_appends")
    rows = history.of(Kind.PUBLISHED, Kind.PUBLISH_FAILED)
    rows = rows.take(rows.t - rows.value / 1000 > end_t)  # by when they were due
    stream = history.base_stream[rows.stream]
    streams, alive = np.unique(stream), np.unique(stream[rows.is_kind(Kind.PUBLISHED)])
    if len(streams) == 0:
        return Answer(State.NO_DATA, NAN, 0, "no event was due after the appends had overlapped")
    stalled = [history.streams[code] for code in np.setdiff1d(streams, alive)]
    if stalled:
        return Answer(State.FAIL, len(stalled), len(streams), f"no event was acknowledged any more on {', '.join(stalled)}")
    return Answer(State.PASS, 0, len(streams), f"each of {len(streams)} streams acknowledged events afterwards")


def _refuses_for_good(fault: AnyFault) -> bool:
    return isinstance(fault, FailPublishes) and is_final(fault.status)


def _token_holders(case: Case, threshold: Threshold | None) -> Answer:
    """Check that clients with a valid token that were disconnected during the outage returned before its end."""
    history = case.history
    outage_t, reverted_t = _span(history, "mint_outage")
    clients = history.header.clients
    holds = np.ones(clients, np.bool_)
    holds[history.fleet(Kind.TOKEN_FORGOTTEN).client] = False
    cut = history.fleet(Kind.DISCONNECTED)
    cut = cut.take(holds[cut.client] & (cut.t >= outage_t) & (cut.t < reverted_t))
    last_cut_t, last_live_t = np.full(clients, -np.inf), np.full(clients, -np.inf)
    np.maximum.at(last_cut_t, cut.client, cut.t)
    live = history.fleet(Kind.SUBSCRIBED)
    live = live.take(live.t < reverted_t)
    np.maximum.at(last_live_t, live.client, live.t)
    n, out = int(np.isfinite(last_cut_t).sum()), int((last_cut_t > last_live_t).sum())
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no client with a token was disconnected during the outage of minting")
    said = f"{out} of {n} clients with a token did not return during the outage of minting"
    return Answer(State.FAIL if out else State.PASS, out, n, said)


def _span(history: History, kind: str) -> tuple[float, float]:
    """The first start and the last end of faults of a kind; (inf, -inf) without one."""
    injected, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    injected, ended = (rows.take(history.detail_is(rows, [kind])) for rows in (injected, ended))
    return float(injected.t.min(initial=np.inf)), float(ended.t.max(initial=-np.inf))


def _revocation(case: Case, threshold: Threshold | None) -> Answer:
    """Check that revoked clients, and only those, were disconnected at once and stayed out until they signed in again."""
    history = case.history
    out_t = _moments(history, Kind.SESSION_REVOKED)
    back_t = _moments(history, Kind.SIGNED_IN)
    revoked = np.isfinite(out_t)
    n = int(revoked.sum())
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no client's session was revoked")
    cut = history.fleet(Kind.DISCONNECTED)
    ended = cut.take(history.detail_is(cut, ["unauthorized"]) & (cut.t >= out_t[cut.client]) & (cut.t <= back_t[cut.client]))
    ended_t = np.full(len(out_t), np.inf)
    np.minimum.at(ended_t, ended.client, ended.t)
    live = history.fleet(Kind.SUBSCRIBED)
    live = live.take((live.t > ended_t[live.client]) & (live.t <= back_t[live.client]))
    unrevoked = cut.take(~revoked[cut.client] & ~history.detail_is(cut, ["token_refresh_due"]))
    unrevoked = unrevoked.take((unrevoked.t >= out_t.min()) & (unrevoked.t <= back_t[revoked].max()))
    counts = (
        (int((revoked & np.isinf(ended_t)).sum()), "revoked clients were not disconnected"),
        (
            int((np.isfinite(ended_t) & (ended_t > out_t + _took_s(history) + _CUT_WITHIN_S)).sum()),
            f"were disconnected later than {_CUT_WITHIN_S:g} s",
        ),
        (len(np.unique(live.client)), "were let in before they signed in again"),
        (len(np.unique(unrevoked.client)), "clients with a valid session were disconnected"),
    )
    said = (
        ", ".join(f"{count} {what}" for count, what in counts if count)
        or "all were disconnected and stayed out, no other client was"
    )
    wrong = sum(count for count, _ in counts)
    return Answer(State.FAIL if wrong else State.PASS, wrong, n, f"of {n} revoked clients: {said}")


def _key_rotation(case: Case, threshold: Threshold | None) -> Answer:
    """Check that tokens minted after the rotation are signed with the new key, and that no signature was refused."""
    history = case.history
    rotated = history.of(Kind.KEYS_ROTATED)
    if len(rotated) == 0:
        return Answer(State.NO_DATA, NAN, 0, "the keys were not rotated")
    minted = history.fleet(Kind.TOKEN_MINTED)
    minted = minted.take(minted.t - minted.value / 1000 > rotated.t[-1])
    old = int((minted.detail != rotated.detail[-1]).sum())
    failed = history.fleet(Kind.CONNECT_FAILED)
    refused = int(history.detail_is(failed, ["invalid_token"]).sum())
    n, said = (
        len(minted),
        f"{old} of {len(minted)} later tokens lack the new key, {refused} connects refused for their key",
    )
    if old or refused:
        return Answer(State.FAIL, old + refused, n, said)
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no token was minted after the rotation of the keys")
    return Answer(State.PASS, 0, n, said)


def _authority_served(case: Case, threshold: Threshold | None) -> Answer:
    """Check that publishes due while delivery was down were acknowledged before delivery was back."""
    history = case.history
    down_t, up_t = _span(history, "stop_delivery")
    tried = history.of(Kind.PUBLISHED, Kind.PUBLISH_FAILED)
    due_t = tried.t - tried.value / 1000
    tried = tried.take((due_t > down_t) & (due_t < up_t - _ANSWER_S))
    served = tried.take(tried.is_kind(Kind.PUBLISHED) & (tried.t < up_t))
    n, late = len(tried), len(tried) - len(served)
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no publish was due while delivery was down")
    state = State.FAIL if late > _LATE_PUBLISHES * n else State.PASS
    return Answer(state, late, n, f"{late} of {n} publishes were not acknowledged while delivery was down")


def _clocks(case: Case, threshold: Threshold | None) -> Answer:
    """Check that no client renews a token long before it is due, as a client that trusts a fast clock would."""
    history = case.history
    soonest_s = soonest_renewal_s(case)
    early = int((samples.renewals(history)[1] < soonest_s).sum())
    since_t, until_t = _span(history, "skew_clocks")
    minted = history.fleet(Kind.TOKEN_MINTED)
    n = int(((minted.t >= since_t) & (minted.t <= until_t)).sum())
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no token was minted while clocks were skewed")
    said = f"{early} tokens were renewed within {soonest_s:g} s; {n} were minted while clocks were skewed"
    return Answer(State.FAIL if early else State.PASS, early, n, said)


def _retired_routes(case: Case, threshold: Threshold | None) -> Answer:
    """Check that each retired route answers 404 before, during and after the faults."""
    history = case.history
    rows = history.of(Kind.ROUTE_ANSWERED)
    n, served = len(rows), rows.take(rows.value != _NOT_FOUND)
    if len(served):
        said = ", ".join(f"{route} ({count})" for route, count in history.detail_counts(served).items())
        return Answer(State.FAIL, len(served), n, f"answers other than 404: {said}; first {served.value[0]:.0f}")
    phase = (rows.t >= history.phases.get("fault", np.inf)).astype(np.int64) + (
        rows.t >= history.phases.get("recovery", np.inf)
    )
    answered = {(int(when), history.details[code]) for when, code in zip(phase, rows.detail, strict=True)}
    routes = {*history.header.retired_routes}
    wanted = {(when, route) for when in range(len(_PHASES)) for route in routes}
    if not wanted or wanted - answered:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        said = f"{len(wanted & answered)} of {len(wanted)} requests were answered, per route {', '.join(_PHASES)}"
        return Answer(state, NAN, n, said)
    return Answer(State.PASS, 0, n, f"{len(routes)} routes answered 404 each time, {', '.join(_PHASES)}")


def _took_s(history: History) -> Floats:
    """How long it took until a revocation was said to be done, per client of the fleet; 0 where that is unknown."""
    rows = history.fleet(Kind.SESSION_REVOKED)
    took_s = np.zeros(history.header.clients)
    np.maximum.at(took_s, rows.client, np.nan_to_num(rows.value))
    return took_s


def _moments(history: History, kind: Kind) -> Floats:
    """The time of the first observation of a kind, per client of the fleet; infinity without one."""
    rows = history.fleet(kind)
    moments = np.full(history.header.clients, np.inf)
    np.minimum.at(moments, rows.client, rows.t)
    return moments


DECISIONS: Mapping[str, Decide] = {
    "error.tokens_too_old": _too_old,
    "drill.token_holders": _token_holders,
    "drill.revocation": _revocation,
    "drill.key_rotation": _key_rotation,
    "drill.authority_served": _authority_served,
    "drill.clocks": _clocks,
    "drill.retired_routes": _retired_routes,
    "drill.publish_failures": _publish_failures,
    "drill.streams_alive": _streams_alive,
    "drill.negative_clients": _negative_clients,
    "drill.misusers_served": _misusers_served,
    "drill.malformed_frames": _malformed_frames,
}
