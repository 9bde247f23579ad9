"""Routing checks: ask the routing service for each key, and check that the cohort has its claimed size and the right keys."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx

from drills.judging.checks.verdicts import State
from drills.rollout.setup.evidence import append
from drills.rollout.setup.records import ROUTING_CHECKS, Requirement, RoutingCheck
from drills.rollout.setup.stages import RoutingChecks
from sim.analysis import statistics
from sim.base.clocks import Clock, iso
from sim.engines.shared import fetch, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.server.deployment import cohort_bucket
from sim.service.forms import RoutingForm
from sim.service.metrics import OK, word
from sim.service.requests import Answer
from sim.service.templates import NOWHERE, find

CONFIDENCE = 0.99  # [ours] confidence of the interval that must contain the claimed share
MIN_ANSWERS = 100  # [ours] fewer answers are inconclusive
_TIMEOUT_S = 5.0
_MAX_SILENT_KEYS = 5  # keys in a row without an answer, after which the service counts as down
_THREAD = "stormgate-probe"


def ask(endpoints: Endpoints, rules: RoutingChecks, folder: Path, clock: Clock) -> list[RoutingCheck]:
    """Ask for every key at the allowed rate, and write the answers to `routing-checks.jsonl`. Raises only `StorageError`."""
    began, done, silent = clock.now(), [], 0
    with asyncio.Runner() as runner:
        http = fetch.client()
        for n in range(rules.keys):
            if not endpoints.is_mock:
                clock.sleep_until(began + timedelta(seconds=n / rules.per_s))
            found = runner.run(_ask(http, endpoints, f"{_THREAD}-{n}", iso(clock.now())))
            append(folder / ROUTING_CHECKS, found)
            done.append(found)
            silent = 0 if found.in_cohort is not None else silent + 1
            if silent == _MAX_SILENT_KEYS:
                break
        runner.run(http.aclose())
    return done


async def _ask(http: httpx.AsyncClient, endpoints: Endpoints, key: str, at: str) -> RoutingCheck:
    form = endpoints.forms.routing
    asked = service_api.request(endpoints, form, lambda answer: answer, {"key": key})
    fetched = await fetch.fetch(http, asked.url, asked.all_headers, _TIMEOUT_S, method=asked.method, body=asked.body)
    outcome, in_cohort, revision = _read(fetched.body, form, key) if fetched.outcome == OK else (fetched.outcome, None, "")
    bucket = cohort_bucket(form.scope, key) if form.buckets == "hash" else None
    return RoutingCheck(at=at, key=key, bucket=bucket, in_cohort=in_cohort, outcome=outcome, revision=revision)


def _read(body: bytes, form: RoutingForm, key: str) -> tuple[str, bool | None, str]:
    answer = Answer(200, "", body).value
    if form.key != NOWHERE and (said := find(answer, form.key)) != key:
        return "no_cohort" if said is None else "another_key", None, ""
    cohort = str(find(answer, form.cohort) or NOWHERE)
    if cohort not in (*form.canary, *form.control):
        return "no_cohort", None, ""
    return "ok", cohort in form.canary, word(find(answer, form.revision))


def judge(checks: Sequence[RoutingCheck], percent: float) -> Requirement:
    """Decide whether the answers fit a cohort of `percent` of all keys."""
    state, reason = _judged(checks, percent)
    return Requirement(name="cohort", state=state, reason=reason, evidence=ROUTING_CHECKS)


def _judged(checks: Sequence[RoutingCheck], percent: float) -> tuple[State, str]:
    if not checks:
        return State.NOT_RUN, "the routing service was not asked"
    answered = [check for check in checks if check.in_cohort is not None]
    silent = len(checks) - len(answered)
    if not answered:
        return State.NO_DATA, f"the routing service gave no answer for any of {len(checks)} keys ({checks[0].outcome})"
    if misplaced := _misplaced(answered, percent) or _moved(answered):
        return State.FAIL, misplaced
    keys = {check.key: bool(check.in_cohort) for check in answered}  # asking a key again does not enlarge the sample
    inside = sum(keys.values())
    lower, upper = interval(inside, len(keys))
    bounds = f"interval {100 * lower:.2f} to {100 * upper:.2f} %"
    share = f"{inside} of {len(keys)} keys are in the cohort ({100 * inside / len(keys):.2f} %, {bounds})"
    if not lower <= percent / 100 <= upper:
        return State.FAIL, f"{share}, but it should be {percent:g} %"
    if silent or len(keys) < MIN_ANSWERS:
        return (
            State.INCONCLUSIVE,
            f"{share}; {silent} answers are missing, and at least {MIN_ANSWERS} keys must answer every time",
        )
    each = "no key changed sides" if answered[0].bucket is None else "each key is where its bucket puts it"
    return State.PASS, f"{share}, as {percent:g} % should be; {each}"


def _misplaced(answered: Sequence[RoutingCheck], percent: float) -> str:
    """A text about the keys whose answer does not match their bucket; empty if all match, or have none."""
    strays = [check for check in answered if check.bucket is not None and check.in_cohort != (check.bucket < percent)]
    if not strays:
        return ""
    first = strays[0]
    said, should = ("canary", "control") if first.in_cohort else ("control", "canary")
    return (
        f"{len(strays)} of {len(answered)} keys are on the wrong side of {percent:g} %, the first {first.key} "
        f"of bucket {first.bucket}: {said} instead of {should}"
    )


def _moved(answered: Sequence[RoutingCheck]) -> str:
    """A text about the keys that were on both sides of a cohort that should not change; empty without any."""
    sides: dict[str, set[bool | None]] = {}
    for check in answered:
        sides.setdefault(check.key, set()).add(check.in_cohort)
    moved = [key for key, seen in sides.items() if len(seen) > 1]
    return f"{len(moved)} of {len(sides)} keys changed sides, the first {moved[0]}" if moved else ""


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's two-sided interval of a share; `n` is at least 1."""
    return statistics.wilson(hits, n, (1 + CONFIDENCE) / 2)
