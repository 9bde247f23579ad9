"""Checks of tokens and of who says no: are the right ones refused, with the right words?"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from drills.judging.checks.base import NAN, Answer, Case, Decide, by_count, needed, soonest_renewal_s
from drills.judging.checks.registry import MISUSES
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis import samples
from sim.client.negative.malformed import KINDS, MalformedFramesProbe
from sim.client.negative.registry import EXPECTED
from sim.drill.fault_kinds import AnyFault, FailPublishes
from sim.protocols.spacetime.retired_routes import RETIRED
from sim.record.history import Floats, History
from sim.record.observations import Kind
from sim.server.admission import is_final

# Codes of an answer that is none: nobody said no.
_UNANSWERED = ("", "silence", "timeout", "network")
_ANSWER_S = 1.0  # [ours] so long an acknowledgement may take
_TOLD_S = 2.0  # [ours] so long after its session was revoked a live client may go unaware of it
_NOT_FOUND = 404
_PHASES = ("before", "during", "after")
_MALFORMED = MalformedFramesProbe.name
_CUT = "refused:closed"  # and nothing says why
_MAY_BE_CUT = "huge"  # who is still sending when the other side closes is reset, and cannot hear the reason
_LATE_PUBLISHES = 0.01  # [ours] share of the publishes that may take longer


def _negative_clients(case: Case, threshold: Threshold | None) -> Answer:
    """Every probe was refused, and in the contract's words where it has any."""
    answers = case.history.detail_counts(case.history.of(Kind.PROBED))
    n = sum(answers.values())
    granted = [text for text in answers if text.endswith(":accepted")]
    if granted:
        return Answer(State.FAIL, len(granted), n, f"what must be refused was granted: {', '.join(granted)}")
    refused = [text for text in answers if text.rpartition(":")[2] not in _UNANSWERED]
    if wrong := [complaint for text in refused if (complaint := _wrong_word(text))]:
        return Answer(State.FAIL, len(wrong), n, f"refused with a wrong code: {', '.join(wrong)}")
    heard = {text.partition(":")[0] for text in refused}
    silent = [probe for probe in case.drill.expect.negative_clients if probe not in heard]
    if silent:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"no answer to the probe {', '.join(silent)}")
    return Answer(State.PASS, 0, n, f"refused, as it must be: {', '.join(answers)}")


def _wrong_word(text: str) -> str:
    """What is wrong with the code of a refusal; empty when it is right, or the contract has none for it."""
    probe, code = text.partition(":")[0], text.rpartition(":")[2]
    right = EXPECTED.get(probe, ())
    return "" if not right or code in right else f"{probe} ({code} instead of {' or '.join(right)})"


def _misusers_served(case: Case, threshold: Threshold | None) -> Answer:
    """Whoever asked a socket for what it must refuse is a client like any other, and ends at the head of its streams."""
    history = case.history
    misusers = [int(client) for client, probe in history.header.negative_clients.items() if probe in MISUSES]
    settled = set(history.of(Kind.SETTLED).client.tolist())
    probed = set(history.of(Kind.PROBED).client.tolist())
    lost = [client for client in misusers if client not in settled]
    if not misusers or not probed.intersection(misusers):
        return Answer(State.NO_DATA, NAN, 0, "nobody asked a socket for what it must refuse")
    if lost:
        return Answer(State.FAIL, len(lost), len(misusers), f"{len(lost)} clients were not served after they were refused")
    return Answer(State.PASS, 0, len(misusers), "those who were refused went on being served")


def _malformed_frames(case: Case, threshold: Threshold | None) -> Answer:
    """Everything was tried and got an answer, and where that was the end of the socket, it said why."""
    answers: dict[str, set[str]] = defaultdict(set)
    n = 0
    for text, count in case.history.detail_counts(case.history.of(Kind.PROBED)).items():
        probe, _, rest = text.partition(":")
        what, _, answer = rest.partition(":")
        if probe == _MALFORMED and answer not in ("", "silence"):
            answers[what].add(answer)
            n += count
    if cut := [what for what in KINDS if what != _MAY_BE_CUT and _CUT in answers[what]]:
        return Answer(State.FAIL, len(cut), n, f"the socket was closed and nothing said why, after {', '.join(cut)}")
    if untold := [what for what in KINDS if not answers[what]]:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"nothing tells what became of {', '.join(untold)}")
    said = sorted({answer.removeprefix("refused:") for each in answers.values() for answer in each})
    return Answer(State.PASS, 0, n, f"{len(KINDS)} things that are no frame were answered: {', '.join(said)}")


def _too_old(case: Case, threshold: Threshold | None) -> Answer:
    """Tokens that the control service granted for longer than the runtime takes them."""
    refused = case.history.fleet(Kind.CONNECT_FAILED)
    too_old = int(case.history.detail_is(refused, ["token_too_old"]).sum())
    attempts = len(case.history.fleet(Kind.CONNECT_ATTEMPTED))
    return by_count(too_old, attempts, needed(threshold), "connects refused as token_too_old", "connects attempted")


def _publish_failures(case: Case, threshold: Threshold | None) -> Answer:
    """The publishes that failed are those that were refused for good, no more and no fewer; the others were tried again."""
    history = case.history
    for_good = [index for index, fault in enumerate(case.drill.faults) if _refuses_for_good(fault)]
    seen = history.of(Kind.FAULT_OBSERVED)
    refused = int(seen.value[np.isin(seen.attempt, for_good)].sum())
    failed, tried = len(history.of(Kind.PUBLISH_FAILED)), samples.failed_publishes(history).n
    said = f"{failed} of {tried} publishes failed, and {refused} were refused for good"
    if tried == 0:
        return Answer(State.NO_DATA, NAN, 0, "nothing was published")
    return Answer(State.PASS if failed == refused else State.FAIL, abs(failed - refused), tried, said)


def _refuses_for_good(fault: AnyFault) -> bool:
    return isinstance(fault, FailPublishes) and is_final(fault.status)


def _token_holders(case: Case, threshold: Threshold | None) -> Answer:
    """Clients that were cut while nothing was minted, but had a good token, came back before minting was mended."""
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
        return Answer(State.NO_DATA, NAN, 0, "no client with a token was cut while nothing was minted")
    said = f"{out} of {n} clients with a token were not back while nothing was minted"
    return Answer(State.FAIL if out else State.PASS, out, n, said)


def _span(history: History, kind: str) -> tuple[float, float]:
    """When faults of a kind began first and ended last; nothing lies between where there were none."""
    begun, ended = history.of(Kind.FAULT_INJECTED), history.of(Kind.FAULT_REVERTED)
    begun, ended = (rows.take(history.detail_is(rows, [kind])) for rows in (begun, ended))
    return float(begun.t.min(initial=np.inf)), float(ended.t.max(initial=-np.inf))


def _revocation(case: Case, threshold: Threshold | None) -> Answer:
    """Whose session was revoked was told so at once and stayed out until it signed in anew; nobody else noticed."""
    history = case.history
    out_t = _moments(history, Kind.SESSION_REVOKED)
    back_t = _moments(history, Kind.SIGNED_IN)
    revoked = np.isfinite(out_t)
    n = int(revoked.sum())
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "no client's session was revoked")
    cut = history.fleet(Kind.DISCONNECTED)
    told = cut.take(history.detail_is(cut, ["unauthorized"]) & (cut.t >= out_t[cut.client]) & (cut.t <= back_t[cut.client]))
    told_t = np.full(len(out_t), np.inf)
    np.minimum.at(told_t, told.client, told.t)
    live = history.fleet(Kind.SUBSCRIBED)
    live = live.take((live.t > told_t[live.client]) & (live.t <= back_t[live.client]))
    others = cut.take(~revoked[cut.client] & ~history.detail_is(cut, ["token_refresh_due"]))
    others = others.take((others.t >= out_t.min()) & (others.t <= back_t[revoked].max()))
    counts = (
        (int((revoked & np.isinf(told_t)).sum()), "revoked clients were not told so"),
        (int((np.isfinite(told_t) & (told_t > out_t + _TOLD_S)).sum()), f"were told later than after {_TOLD_S:g} s"),
        (len(np.unique(live.client)), "were let in before they signed in anew"),
        (len(np.unique(others.client)), "others were disconnected"),
    )
    said = (
        ", ".join(f"{count} {what}" for count, what in counts if count) or "all were told, stayed out, and nobody else noticed"
    )
    wrong = sum(count for count, _ in counts)
    return Answer(State.FAIL if wrong else State.PASS, wrong, n, f"of {n} revoked clients: {said}")


def _key_rotation(case: Case, threshold: Threshold | None) -> Answer:
    """Tokens asked for since the keys were rotated are signed with the new one, and no token was refused for its signature."""
    history = case.history
    rotated = history.of(Kind.KEYS_ROTATED)
    if len(rotated) == 0:
        return Answer(State.NO_DATA, NAN, 0, "the keys were not rotated")
    minted = history.fleet(Kind.TOKEN_MINTED)
    minted = minted.take(minted.t - minted.value / 1000 > rotated.t[-1])
    old = int((minted.detail != rotated.detail[-1]).sum())
    failed = history.fleet(Kind.CONNECT_FAILED)
    refused = int(history.detail_is(failed, ["invalid_token"]).sum())
    n, said = len(minted), f"{old} of {len(minted)} later tokens have not the new key, {refused} connects refused for their key"
    if old or refused:
        return Answer(State.FAIL, old + refused, n, said)
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "nobody asked for a token since the keys were rotated")
    return Answer(State.PASS, 0, n, said)


def _authority_served(case: Case, threshold: Threshold | None) -> Answer:
    """What was due while delivery was down was acknowledged meanwhile, not when it was up again."""
    history = case.history
    down_t, up_t = _span(history, "stop_delivery")
    tried = history.of(Kind.PUBLISHED, Kind.PUBLISH_FAILED)
    due_t = tried.t - tried.value / 1000
    tried = tried.take((due_t > down_t) & (due_t < up_t - _ANSWER_S))
    served = tried.take(tried.is_kind(Kind.PUBLISHED) & (tried.t < up_t))
    n, late = len(tried), len(tried) - len(served)
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "nothing was to be published while delivery was down")
    state = State.FAIL if late > _LATE_PUBLISHES * n else State.PASS
    return Answer(state, late, n, f"{late} of {n} publishes were not acknowledged while delivery was down")


def _clocks(case: Case, threshold: Threshold | None) -> Answer:
    """Nobody renews a token long before it is time, as a client does whose own clock it believes is ahead."""
    history = case.history
    soonest_s = soonest_renewal_s(case)
    early = int((samples.renewals(history)[1] < soonest_s).sum())
    begun_t, ended_t = _span(history, "skew_clocks")
    minted = history.fleet(Kind.TOKEN_MINTED)
    n = int(((minted.t >= begun_t) & (minted.t <= ended_t)).sum())
    if n == 0:
        return Answer(State.NO_DATA, NAN, 0, "nobody got a token while clocks were off")
    said = f"{early} tokens were given up within {soonest_s:g} s, and {n} were got while clocks were off"
    return Answer(State.FAIL if early else State.PASS, early, n, said)


def _retired_routes(case: Case, threshold: Threshold | None) -> Answer:
    """The routes that are gone answer 404, each of them before, during and after what the drill breaks."""
    history = case.history
    rows = history.of(Kind.ROUTE_ANSWERED)
    n, served = len(rows), rows.take(rows.value != _NOT_FOUND)
    if len(served):
        said = ", ".join(f"{route} ({count})" for route, count in history.detail_counts(served).items())
        return Answer(State.FAIL, len(served), n, f"answered other than 404: {said}; first {served.value[0]:.0f}")
    phase = (rows.t >= history.phases.get("fault", np.inf)).astype(np.int64) + (
        rows.t >= history.phases.get("recovery", np.inf)
    )
    heard = {(int(when), history.details[code]) for when, code in zip(phase, rows.detail, strict=True)}
    wanted = len(_PHASES) * len(RETIRED)
    if len(heard) < wanted:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"{len(heard)} of {wanted} questions, each route {', '.join(_PHASES)}, were answered")
    return Answer(State.PASS, 0, n, f"{len(RETIRED)} routes answered 404 each time, {', '.join(_PHASES)}")


def _moments(history: History, kind: Kind) -> Floats:
    """By client of the fleet, when something first happened to it; infinity for never."""
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
    "drill.negative_clients": _negative_clients,
    "drill.misusers_served": _misusers_served,
    "drill.malformed_frames": _malformed_frames,
}
