"""Check the five preconditions of a rollout on the target itself."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from drills.rollout.setup import commands, records
from drills.rollout.setup.evidence import append
from drills.rollout.setup.records import CommandDone, Outcome, Precondition, Revisions
from drills.rollout.setup.stages import Command
from drills.targets import check as target_check
from drills.targets import listener
from drills.targets.asking import FailedError
from drills.targets.asking import ask as ask_service
from sim.base.clocks import Clock, iso
from sim.base.redaction import Redactor
from sim.client.actions import Token
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.http import ServiceHttp
from sim.service.tokens import wrong_claims

Answer = tuple[Outcome, str]  # state and reason


def ask(
    endpoints: Endpoints,
    builds: Sequence[str],
    rules: Sequence[Command],
    done: Mapping[str, CommandDone],
    found: Revisions,
    good: Revisions | None,
) -> dict[str, Answer]:
    """Check each of `PRECONDITION_NAMES`; return state and reason. Failures of the target raise no exception.

    `found`: the deployed revisions; `good`: those that a rollback leads to, None on a mock, which knows its own.
    """
    return {
        **{name: commands.precondition(rules, done, name) for name in records.COMMAND_PRECONDITIONS},
        **of_service(endpoints, builds, found, good),
    }


def of_service(endpoints: Endpoints, builds: Sequence[str], found: Revisions, good: Revisions | None) -> dict[str, Answer]:
    """Check those preconditions that the target itself answers; see `ask`."""
    token, minted = mint(endpoints)
    joined: Answer = joins(endpoints, token, builds) if token else ("not_run", "without a token no client can join")
    if token and joined[0] == "fail" and (code := listener.run(target_check.refusal(endpoints, token, ""))):
        minted = "fail", f"{minted[1]}, but no client could join with it: {code}"
    return {"token_issuance": minted, "builds_deployed": joined, "rollback_revisions": _captured(found, good)}


def keep(answers: Mapping[str, Answer], folder: Path, clock: Clock, is_mock: bool) -> list[Precondition]:
    """Write `preconditions.jsonl`. On a mock, those that depend on operators' commands are optional. Raises `StorageError`."""
    lines = [
        Precondition(
            at=iso(clock.now()),
            name=name,
            state=state,
            reason=reason,
            evidence=records.COMMANDS if name in records.COMMAND_PRECONDITIONS else "",
            required=not (is_mock and name in records.COMMAND_PRECONDITIONS),
        )
        for name, (state, reason) in answers.items()
    ]
    for line in lines:
        append(folder / records.PRECONDITIONS, line)
    return lines


def mint(endpoints: Endpoints) -> tuple[Token | None, Answer]:
    """Request a token. Returns it (None without one), and whether the control service issues tokens correctly."""

    async def run() -> Token:
        async with ServiceHttp(endpoints) as http:
            return (await ask_service(http, service_api.any_token(endpoints), "[token]"))[2]

    began = time.monotonic()
    try:
        token = asyncio.run(run())
    except FailedError as error:
        return None, ("fail", Redactor(endpoints.secrets).text(f"{error.sent} gave {error.answer}"))
    took_ms, lives_s = (time.monotonic() - began) * 1000, token.expires_at - time.time()
    if lives_s <= 0:
        return None, ("fail", f"the control service issued a token that lives for {lives_s:.0f} s")
    claims, issued = endpoints.forms.token.claim_types, f"a token for {lives_s:.0f} s was issued in {took_ms:.0f} ms"
    if wrong := wrong_claims(token.text, claims):
        return None, ("fail", f"the runtime cannot use the token: {'; '.join(wrong)}")
    if not endpoints.has_socket and not claims:
        unseen = "target has no socket, so nobody saw whether the runtime takes it"
        return token, ("not_run", f"{issued}, but the {unseen}; name the claims that it needs in [token] claim_types")
    return token, ("pass", issued)


def joins(endpoints: Endpoints, token: Token, builds: Sequence[str]) -> Answer:
    """Check whether the runtime lets a client of each build join with the usual protocol version."""
    if not endpoints.has_socket:
        return "not_run", f"target {endpoints.name} has no socket"
    for build in builds:
        refused = listener.run(target_check.refusal(endpoints, token, build))
        if refused:
            return "fail", f"a client of build {build} cannot join: {refused}"
    usual = endpoints.service
    with_what = f"{usual.protocol_version}, schema {usual.schema_version}"
    return "pass", f"clients of {', '.join(builds)} may join ({with_what})"


def _captured(found: Revisions, good: Revisions | None) -> Answer:
    if not found.known:
        missing = [name for name in ("control", "runtime") if not getattr(found, name)]
        return "fail", f"the deployed revision of {' and '.join(missing)} could not be found out"
    if good is None:
        return "pass", f"deployed: {found}"
    if not good.known:
        return "fail", "the revisions to roll back to are not configured: [targets.NAME.rollback.traffic] is missing"
    if good == found:
        return "fail", f"the revisions to roll back to ({good}) are the deployed ones"
    return "pass", f"deployed: {found}; to roll back to: {good}"
