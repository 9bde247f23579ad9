"""The lane's HTTP as a drill needs it: tokens, runs, events, readiness, and the mock's fault switches."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from sim.contract.actions import Token
from sim.contract.admission import is_final, may_be_taken
from sim.contract.client import ClientSession
from sim.contract.settings import Switches
from sim.contract.stream_log import canonical_json, payload_hash
from sim.contract.tokens import device_id
from sim.engines.client_driver import MintFailedError
from sim.engines.course import unix_s
from sim.engines.http import Answer, Http, NoAnswerError, NothingThereError
from sim.errors import TargetError
from sim.target import SOCKET_PATH, Rules, TargetKind

_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c3Rvcm1nYXRlIGtub2Nrcw==",
}
_MINT_PATH = "/api/spacetime/token"
UNKNOWN_OUTCOME = "unknown_outcome"  # of a publish whose answer never came: the event may have been taken
_MINTS_AT_ONCE = 32
PUBLISHES_AT_ONCE = 32  # for whoever publishes to keep to
_SPARE = 16  # connections for everything else


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a lane's two services are, and what may be done to them. `session` is the bearer session; empty: one of the
    mock's own a client. Without an `admin_token` the metrics endpoint is not asked."""

    name: str
    kind: TargetKind
    runtime_url: str
    control_url: str
    session: str = ""
    admin_token: str = ""
    socket_path: str = SOCKET_PATH
    rules: Rules = field(default_factory=Rules)
    further_secrets: tuple[str, ...] = ()  # not for the lane itself, but to be kept to oneself all the same

    @property
    def is_mock(self) -> bool:
        """Whether it is a mock of ours, whose switches stormgate may set."""
        return self.kind == "mock"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be written anywhere."""
        return tuple(secret for secret in (self.session, self.admin_token, *self.further_secrets) if secret)

    def __repr__(self) -> str:
        return f"Lane({self.name}, {self.kind}, {self.runtime_url}, {self.control_url})"

    @property
    def socket_url(self) -> str:
        """The WebSocket endpoint without its query."""
        return self.runtime_url.replace("http", "ws", 1) + self.socket_path


class PublishFailedError(Exception):
    """An event was not acknowledged; `code` says why, `retry_after_ms` when to try again."""

    def __init__(self, code: str, retry_after_ms: float | None = None, final: bool = False) -> None:
        super().__init__(code)
        self.code, self.retry_after_ms, self.final = code, retry_after_ms, final


class _Minted(msgspec.Struct):
    token: str
    expires_in: float
    refresh_after_in: float
    kid: str = ""
    session_id: str = ""
    refresh_after: str = ""
    expires_at: str = ""


class _MintAnswer(msgspec.Struct):
    data: _Minted


class _Problem(msgspec.Struct):
    code: str = "unknown"
    retry_after_ms: float | None = None


class _ProblemAnswer(msgspec.Struct):
    error: _Problem


class PublishedEvent(msgspec.Struct):
    """An event that the runtime took. `payload_hash` is the runtime's own word, or, on our mock, that of what was sent."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    payload_hash: str = ""


class _EventAnswer(msgspec.Struct):
    event: PublishedEvent


class LaneHttp:
    """One HTTP client for a whole run; `close` it."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        at_once = _MINTS_AT_ONCE + PUBLISHES_AT_ONCE + _SPARE
        self._http = Http(at_once)
        # Limited apart, so that no event waits behind a storm of mints: that wait would be ours, and count as the
        # runtime's. What a drill itself asks (readiness, switches) waits behind neither.
        self._minting = asyncio.Semaphore(_MINTS_AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    # --- what clients need --------------------------------------------------------------------------

    async def mint(self, session: ClientSession) -> Token:
        """A token for this client and its topics; raises `MintFailedError`."""
        wish = session.token_wish
        headers = self._authorization(wish.account)
        body: dict[str, Any] = {"topics": list(wish.topics), "device_id": device_id(session.client)}
        if wish.ttl_s is not None:
            body["ttl_seconds"] = wish.ttl_s
        try:
            async with self._minting:
                answer = await self._http.request("POST", self._lane.control_url + _MINT_PATH, headers=headers, json=body)
        except NoAnswerError:
            raise MintFailedError("network") from None
        if answer.status_code != 200:
            problem = _problem(answer)
            raise MintFailedError(problem.code, problem.retry_after_ms)
        try:
            minted = msgspec.json.decode(answer.content, type=_MintAnswer).data
        except msgspec.DecodeError:
            raise MintFailedError("bad_response") from None
        now = time.time()
        moments = now + minted.refresh_after_in, now + minted.expires_in
        told = unix_s(minted.refresh_after), unix_s(minted.expires_at)
        return Token(minted.token, *moments, minted.kid, minted.session_id, *told)

    async def any_token(self) -> str:
        """A token for no topic in particular. Raises `TargetError`."""
        url = self._lane.control_url + _MINT_PATH
        answer = await self._ask("POST", url, headers=self._authorization("client-0"), json={})
        try:
            return msgspec.json.decode(answer.content, type=_MintAnswer).data.token
        except msgspec.DecodeError:
            raise TargetError(f"{url} answered {_shown(answer)} where a token was expected.") from None

    def _authorization(self, account: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._lane.session or f'session-{account}'}"}

    # --- publishing ---------------------------------------------------------------------------------

    async def create_run(self, worker_id: str) -> str:
        """A new run; returns its id. Raises `TargetError`."""
        url = f"{self._lane.runtime_url}/internal/v1/runs"
        answer = await self._ask("POST", url, json={"worker_id": worker_id, "metadata": {"by": "stormgate"}})
        try:
            return str(answer.json()["run"]["id"])
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"{url} answered {_shown(answer)} where a new run was expected.") from None

    async def publish(self, run_id: str, event_type: str, payload: object, key: str) -> PublishedEvent:
        """Append one event; raises `PublishFailedError`."""
        url = f"{self._lane.runtime_url}/internal/v1/runs/{quote(run_id, safe='')}/events"
        body = {"event_type": event_type, "payload": payload, "idempotency_key": key}
        try:
            answer = await self._http.request("POST", url, json=body)
        except NoAnswerError:
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        if answer.status_code >= 300:
            problem, status = _problem(answer), answer.status_code
            code = UNKNOWN_OUTCOME if may_be_taken(status) else problem.code
            raise PublishFailedError(code, problem.retry_after_ms, final=is_final(status))
        try:
            event = msgspec.json.decode(answer.content, type=_EventAnswer).event
        except msgspec.DecodeError:
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        if self._lane.is_mock:  # whose form of an event is known: what comes out is held against what went in
            content = canonical_json({"run_id": run_id, "event_type": event_type, "payload": payload})
            event.payload_hash = payload_hash(content)
        return event

    async def revoke(self, sessions: list[str]) -> int:
        """Revoke sessions; returns how many the runtime says it revoked. Raises `TargetError`."""
        if self._lane.kind != "mock":  # whose sessions are its users', and the operator's own
            raise TargetError(f"sessions are only ever revoked on stormgate's own mock, not on {self._lane.name}.")
        url = f"{self._lane.runtime_url}/internal/v1/sync/sessions/revoke"
        answer = await self._ask("POST", url, json={"session_ids": sessions})
        try:
            return int(answer.json()["revoked"])
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"{url} answered {_shown(answer)} where sessions were to be revoked.") from None

    # --- is it there, and does it speak the protocol? -----------------------------------------------

    async def check(self) -> None:
        """Raise `TargetError`, one sentence, unless runtime and control service answer as the contract says."""
        ready_url = f"{self._lane.runtime_url}/readyz"
        answer = await self._ask("GET", ready_url)
        if answer.status_code != 200:
            raise TargetError(f"{ready_url} answered {_shown(answer)}, not 200: this is no sync runtime, or it is not ready.")
        token_url = self._lane.control_url + _MINT_PATH
        answer = await self._ask("POST", token_url, headers=self._authorization("client-0"), json={})
        if answer.status_code != 200:
            raise TargetError(
                f"{token_url} answered {_shown(answer)} where a token was expected; "
                "check that it is a control service and that the session may mint."
            )
        try:
            msgspec.json.decode(answer.content, type=_MintAnswer)
        except msgspec.DecodeError:
            raise TargetError(f"{token_url} answered {_shown(answer)} where the token's JSON was expected.") from None
        socket_url = self._lane.socket_url.replace("ws", "http", 1)
        answer = await self._ask("GET", socket_url, headers=_UPGRADE)
        if answer.status_code not in (401, 403):  # some proxies in front of a runtime say 401
            raise TargetError(
                f"{socket_url} answered a WebSocket upgrade without a token with {_shown(answer)}, not 403: "
                "this is no sync runtime's socket."
            )

    async def status_of(self, method: str, path: str) -> int:
        """What the runtime answers to a request without a body: its HTTP status, 0 for nothing."""
        try:
            return (await self._http.request(method, self._lane.runtime_url + path)).status_code
        except NoAnswerError:
            return 0

    async def is_ready(self) -> bool:
        """Whether the runtime answers 200 on /readyz."""
        try:
            return (await self._http.request("GET", f"{self._lane.runtime_url}/readyz")).status_code == 200
        except NoAnswerError:
            return False

    async def _ask(self, method: str, url: str, **options: Any) -> Answer:
        try:
            return await self._http.request(method, url, **options)
        except NothingThereError:
            raise TargetError(f"nothing answers at {url}; start the runtime there, or name another with --target.") from None
        except NoAnswerError as error:
            raise TargetError(f"{url} does not answer as an HTTP server ({error}); is this the runtime's port?") from None

    # --- the mock's own routes ----------------------------------------------------------------------

    async def set_switches(self, switches: Switches) -> int:
        """Put faults in force; returns how many sockets were told to authenticate again."""
        answer = await self._mock("PUT", "switches", content=msgspec.json.encode(switches))
        return int(answer["sockets_told_to_reauthenticate"])

    async def shrink_window(self, topic: str, keep_events: int) -> int:
        """Make the runtime forget; returns how many events it forgot."""
        answer = await self._mock("PUT", "window", json={"topic": topic, "keep_events": keep_events})
        return int(answer["events_forgotten"])

    async def change_keys(self, *, rotate: bool) -> str:
        """Sign with a new key, or let the old ones go; returns the id of the key that signs."""
        return str((await self._mock("PUT", "keys", json={"rotate": rotate}))["kid"])

    async def hang_up(self, clients: Iterable[int]) -> int:
        """Make the runtime close these clients' sockets; returns how many it closed."""
        answer = await self._mock("PUT", "sockets", json={"devices": [device_id(client) for client in clients]})
        return int(answer["sockets_closed"])

    async def change(self, name: str, body: object) -> None:
        """Change something of a mock's rollout: its traffic, throttle or cohort. Raises `TargetError`."""
        await self._mock("PUT", name, json=body)

    async def switches(self) -> Switches:
        """The faults and defects in force."""
        return msgspec.convert((await self.mock_state())["switches"], Switches)

    async def mock_state(self) -> dict[str, Any]:
        """What the mock says of itself."""
        return await self._mock("GET", "state")

    async def _mock(self, method: str, name: str, **options: Any) -> dict[str, Any]:
        url = f"{self._lane.runtime_url}/_mock/{name}"
        answer = await self._ask(method, url, **options)
        if answer.status_code != 200:
            raise TargetError(f"{url} answered {_shown(answer)}: faults of the runtime need stormgate's own mock.")
        body: dict[str, Any] = answer.json()
        return body


def _problem(answer: Answer) -> _Problem:
    try:
        return msgspec.json.decode(answer.content, type=_ProblemAnswer).error
    except msgspec.DecodeError:
        return _Problem(f"http_{answer.status_code}")


def _shown(answer: Answer) -> str:
    return f"{answer.status_code} ({answer.content_type})"
