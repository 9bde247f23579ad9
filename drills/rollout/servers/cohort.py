"""Is the cohort as large as it is said to be, and are the right keys in it? Asked of the routing service, key by key."""

import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
from scipy import stats

from drills.judging.checks.verdicts import State
from drills.rollout.setup.commands import append
from drills.rollout.setup.records import ROUTING_CHECKS, Requirement, RoutingCheck
from drills.rollout.setup.stages import RoutingChecks
from sim.base.clocks import Clock, iso
from sim.engines.sockets.service import Endpoints
from sim.server.cohorts import cohort_bucket

PATH = "/api/v1/control/runtime-routing/evaluate"
SCOPE = "thread"
CANARY, CONTROL = "canary", "control"
CONFIDENCE = 0.99  # [ours] of the interval that the claimed share must lie in
MINIMUM_N = 100  # [ours] answers; of fewer nothing is concluded
_TIMEOUT_S = 5.0
_GIVE_UP_AFTER = 5  # keys in a row without an answer: the service is not there, and more questions say no more
_THREAD = "stormgate-probe"


class _Routing(msgspec.Struct):
    cohort_key: str
    cohort: str
    bucket: int | None = None
    revision: str = ""


class _Answer(msgspec.Struct):
    data: _Routing


def probe(endpoints: Endpoints, rules: RoutingChecks, folder: Path, clock: Clock) -> list[RoutingCheck]:
    """Ask for every key, not faster than the rules allow; answers go to `routing-checks.jsonl`. Raises `StorageError` alone."""
    began, done, silent = clock.now(), [], 0
    headers = {"Authorization": f"Bearer {endpoints.session}"} if endpoints.session else {}
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, headers=headers) as http:
        for n in range(rules.keys):
            if not endpoints.is_mock:
                clock.sleep_until(began + timedelta(seconds=n / rules.per_s))
            found = _ask(http, endpoints.control_url + PATH, f"{_THREAD}-{n}", iso(clock.now()))
            append(folder / ROUTING_CHECKS, found)
            done.append(found)
            silent = 0 if found.in_cohort is not None else silent + 1
            if silent == _GIVE_UP_AFTER:
                break
    return done


def _ask(http: httpx.Client, url: str, key: str, at: str) -> RoutingCheck:
    bucket = cohort_bucket(SCOPE, key)
    outcome, in_cohort, revision = "ok", None, ""
    try:
        answer = http.post(url, json={"thread_id": key, "cohort_key": key})
        if answer.status_code != 200:
            outcome = f"http_{answer.status_code}"
        else:
            outcome, in_cohort, revision = _read(answer.content, key)
    except httpx.TimeoutException:
        outcome = "timeout"
    except (httpx.HTTPError, httpx.InvalidURL):
        outcome = "unreachable"
    return RoutingCheck(at=at, key=key, bucket=bucket, in_cohort=in_cohort, outcome=outcome, revision=revision)


def _read(body: bytes, key: str) -> tuple[str, bool | None, str]:
    try:
        data = msgspec.json.decode(body, type=_Answer).data
    except (msgspec.DecodeError, RecursionError):
        return "no_cohort", None, ""
    if data.cohort_key != key:
        return "another_key", None, ""
    if data.cohort not in (CANARY, CONTROL):
        return "no_cohort", None, ""
    return "ok", data.cohort == CANARY, data.revision


def judge(probes: Sequence[RoutingCheck], percent: float) -> Requirement:
    """Whether what the routing service answered fits a cohort of `percent` of all keys."""
    state, reason = _judged(probes, percent)
    return Requirement(name="cohort", state=state, reason=reason, evidence=ROUTING_CHECKS)


def _judged(probes: Sequence[RoutingCheck], percent: float) -> tuple[State, str]:
    if not probes:
        return State.NOT_RUN, "the routing service was not asked"
    told = [probe for probe in probes if probe.in_cohort is not None]
    silent = len(probes) - len(told)
    if not told:
        return State.NO_DATA, f"the routing service told nothing of any of {len(probes)} keys ({probes[0].outcome})"
    if wrong := next(_wrong(told, percent), None):
        return State.FAIL, wrong
    inside = sum(bool(probe.in_cohort) for probe in told)
    least, most = interval(inside, len(told))
    bounds = f"interval {100 * least:.2f} to {100 * most:.2f} %"
    share = f"{inside} of {len(told)} keys are in the cohort ({100 * inside / len(told):.2f} %, {bounds})"
    if not least <= percent / 100 <= most:
        return State.FAIL, f"{share}, but it is said to be {percent:g} %"
    if silent or len(told) < MINIMUM_N:
        return State.INCONCLUSIVE, f"{share}; {silent} more keys got no answer, and at least {MINIMUM_N} must, all of them"
    return State.PASS, f"{share}, as {percent:g} % should be; each key is where its bucket puts it"


def _wrong(told: Sequence[RoutingCheck], percent: float) -> Iterator[str]:
    """Keys whose answer is not what their bucket says."""
    strays = [probe for probe in told if probe.in_cohort != (cohort_bucket(SCOPE, probe.key) < percent)]
    if strays:
        first = strays[0]
        said, should = (CANARY, CONTROL) if first.in_cohort else (CONTROL, CANARY)
        bucket = cohort_bucket(SCOPE, first.key)
        yield (
            f"{len(strays)} of {len(told)} keys are on the wrong side of {percent:g} %, the first {first.key} "
            f"of bucket {bucket}: {said} instead of {should}"
        )


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, two-sided."""
    found = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    least, most = float(found.low), float(found.high)
    return (least if math.isfinite(least) else 0.0, most if math.isfinite(most) else 1.0)
