"""Check the five preconditions of a rollout on the target itself."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from drills.rollout.setup import commands, records
from drills.rollout.setup.evidence import append
from drills.rollout.setup.records import CommandDone, Outcome, Precondition, Revisions
from drills.rollout.setup.stages import Command
from sim.base.clocks import Clock, iso
from sim.base.errors import MalformedFrameError
from sim.engines.shared.endpoints import Endpoints
from sim.protocols.intents import Compatibility
from sim.protocols.spacetime import codec
from sim.protocols.spacetime.frames import Join, Reply
from sim.server.settings import RuntimeSettings
from sim.service.paths import TOKEN_PATH

_TIMEOUT_S = 10.0
_MOCK_SESSION = "session-stormgate-preflight"  # the mock issues tokens for any session ID of this form
_VERSION = "2.0.0"
Answer = tuple[Outcome, str]  # state and reason


class _Minted(msgspec.Struct):
    token: str
    expires_in: float


class _MintAnswer(msgspec.Struct):
    data: _Minted


def ask(
    endpoints: Endpoints, builds: Sequence[str], rules: Sequence[Command], done: Mapping[str, CommandDone], found: Revisions
) -> dict[str, Answer]:
    """Check each of `PRECONDITION_NAMES`; return state and reason. Failures of the target raise no exception."""
    token, minted = mint(endpoints)
    return {
        **{name: commands.precondition(rules, done, name) for name in records.COMMAND_PRECONDITIONS},
        "token_issuance": minted,
        "builds_deployed": joins(endpoints, token, builds) if token else ("not_run", "without a token no client can join"),
        "rollback_revisions": _captured(found),
    }


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


def mint(endpoints: Endpoints) -> tuple[str, Answer]:
    """Request a token. Returns it (empty without one), and whether the control service issues tokens correctly."""
    began = time.monotonic()
    try:
        answer = httpx.post(
            endpoints.control_url + TOKEN_PATH,
            headers={"Authorization": f"Bearer {endpoints.session or _MOCK_SESSION}"},
            json={},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return "", ("fail", f"{endpoints.control_url}{TOKEN_PATH} gave no answer ({type(error).__name__})")
    if answer.status_code != 200:
        return "", ("fail", f"{endpoints.control_url}{TOKEN_PATH} answered {answer.status_code} where a token was expected")
    try:
        minted = msgspec.json.decode(answer.content, type=_MintAnswer).data
    except (msgspec.DecodeError, RecursionError):
        return "", ("fail", f"{endpoints.control_url}{TOKEN_PATH} answered 200, but without a token")
    took_ms = (time.monotonic() - began) * 1000
    if not minted.token or minted.expires_in <= 0:
        return "", ("fail", f"the control service issued a token that lives for {minted.expires_in:g} s")
    return minted.token, ("pass", f"a token for {minted.expires_in:g} s was issued in {took_ms:.0f} ms")


def joins(endpoints: Endpoints, token: str, builds: Sequence[str]) -> Answer:
    """Check whether the runtime lets a client of each build join with the usual protocol version."""
    for build in builds:
        refused = _refused(endpoints, token, build)
        if refused:
            return "fail", f"a client of build {build} cannot join: {refused}"
    usual = RuntimeSettings()
    with_what = f"{usual.protocol_version}, schema {usual.schema_version}"
    return "pass", f"clients of {', '.join(builds)} may join ({with_what})"


def _refused(endpoints: Endpoints, token: str, build: str) -> str:
    """Try to join. Returns why it was refused; empty if it was not."""
    url = f"{endpoints.socket_url}?token={quote(token, safe='')}&vsn={_VERSION}"
    try:
        with connect(url, open_timeout=_TIMEOUT_S, close_timeout=1.0, ping_interval=None, proxy=None, max_size=None) as socket:
            return _join(socket, build)
    except TimeoutError:
        return f"no answer within {_TIMEOUT_S:g} s"
    except (OSError, WebSocketException, ValueError) as error:
        return type(error).__name__  # not the error's text, because the address in it contains the token


def _join(socket: ClientConnection, build: str) -> str:
    usual = RuntimeSettings()
    socket.send(codec.encode_client(Join("1", Compatibility("stormgate", build, usual.protocol_version, usual.schema_version))))
    limit = time.monotonic() + _TIMEOUT_S
    while (left_s := limit - time.monotonic()) > 0:
        try:
            frame = codec.decode_server(socket.recv(timeout=left_s))
        except MalformedFrameError:
            continue
        if isinstance(frame, Reply) and frame.ref == "1":
            return "" if frame.ok else frame.body.code or "it was refused without a reason"
    return f"no answer within {_TIMEOUT_S:g} s"


def _captured(found: Revisions) -> Answer:
    if found.known:
        return "pass", f"control {found.control}, runtime {found.runtime}"
    missing = [name for name in ("control", "runtime") if not getattr(found, name)]
    return "fail", f"the revision of {' and '.join(missing)} could not be found out, so it is unknown what to roll back to"
