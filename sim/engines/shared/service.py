"""Where a lane is, and the forms of its HTTP: what is asked, and what an answer means. Who asks is each engine's own matter."""

import time
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from sim.base.errors import TargetError
from sim.client.actions import Token
from sim.client.session import ClientSession
from sim.drill.target_rules import SOCKET_PATH, Rules, TargetKind
from sim.engines.shared.client_setup import unix_s
from sim.server.admission import is_final, may_be_taken
from sim.server.stream_log import canonical_json, payload_hash
from sim.server.tokens import device_id

UNKNOWN_OUTCOME = "unknown_outcome"  # of a publish whose answer never came: the event may have been taken
MINTS_AT_ONCE = 32
PUBLISHES_AT_ONCE = 32  # for whoever publishes to keep to
_MINT_PATH = "/api/spacetime/token"
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c3Rvcm1nYXRlIGtub2Nrcw==",
}


@dataclass(frozen=True, slots=True)
class Endpoints:
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


class NoAnswerError(Exception):
    """A request that got no HTTP answer; the text says why."""


class NothingThereError(NoAnswerError):
    """Nobody listens there."""


class UntrustedError(NoAnswerError):
    """Nobody that is believed vouches for its certificate."""


class MintFailedError(Exception):
    """No token: the refusal's code, and when to try again."""

    def __init__(self, code: str, retry_after_ms: float | None = None) -> None:
        super().__init__(code)
        self.code, self.retry_after_ms = code, retry_after_ms


class PublishFailedError(Exception):
    """An event was not acknowledged; `code` says why, `retry_after_ms` when to try again."""

    def __init__(self, code: str, retry_after_ms: float | None = None, final: bool = False) -> None:
        super().__init__(code)
        self.code, self.retry_after_ms, self.final = code, retry_after_ms, final


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; of `json` and `content` at most one is its body."""

    method: str
    url: str
    json: object = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status_code: int
    content_type: str
    content: bytes

    def json(self) -> Any:
        """The body; raises `ValueError`."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None


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


# --- tokens -----------------------------------------------------------------------------------------


def mint(endpoints: Endpoints, session: ClientSession) -> Request:
    """Ask for a token for this client and its topics."""
    request = session.token_request
    body: dict[str, Any] = {"topics": list(request.topics), "device_id": device_id(session.client)}
    if request.ttl_s is not None:
        body["ttl_seconds"] = request.ttl_s
    return Request("POST", endpoints.control_url + _MINT_PATH, body, headers=_authorization(endpoints, request.account))


def minted(answer: Answer) -> Token:
    """The token in an answer; raises `MintFailedError`."""
    if answer.status_code != 200:
        problem = _problem(answer)
        raise MintFailedError(problem.code, problem.retry_after_ms)
    try:
        data = msgspec.json.decode(answer.content, type=_MintAnswer).data
    except msgspec.DecodeError:
        raise MintFailedError("bad_response") from None
    now = time.time()
    moments = now + data.refresh_after_in, now + data.expires_in
    told = unix_s(data.refresh_after), unix_s(data.expires_at)
    return Token(data.token, *moments, data.kid, data.session_id, *told)


def _authorization(endpoints: Endpoints, account: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoints.session or f'session-{account}'}"}


# --- publishing -------------------------------------------------------------------------------------


def create_run(endpoints: Endpoints, worker_id: str) -> Request:
    """Ask for a new run."""
    body = {"worker_id": worker_id, "metadata": {"by": "stormgate"}}
    return Request("POST", f"{endpoints.runtime_url}/internal/v1/runs", body)


def created_run(endpoints: Endpoints, answer: Answer) -> str:
    """The new run's id; raises `TargetError`."""
    try:
        return str(answer.json()["run"]["id"])
    except (ValueError, KeyError, TypeError):
        url = f"{endpoints.runtime_url}/internal/v1/runs"
        raise TargetError(f"{url} answered {shown(answer)} where a new run was expected.") from None


def publish(endpoints: Endpoints, run_id: str, event_type: str, payload: object, key: str) -> Request:
    """Ask for one event to be appended."""
    url = f"{endpoints.runtime_url}/internal/v1/runs/{quote(run_id, safe='')}/events"
    return Request("POST", url, {"event_type": event_type, "payload": payload, "idempotency_key": key})


def published(endpoints: Endpoints, answer: Answer, run_id: str, event_type: str, payload: object) -> PublishedEvent:
    """The event that was appended; raises `PublishFailedError`."""
    if answer.status_code >= 300:
        problem, status = _problem(answer), answer.status_code
        code = UNKNOWN_OUTCOME if may_be_taken(status) else problem.code
        raise PublishFailedError(code, problem.retry_after_ms, final=is_final(status))
    try:
        event = msgspec.json.decode(answer.content, type=_EventAnswer).event
    except msgspec.DecodeError:
        raise PublishFailedError(UNKNOWN_OUTCOME) from None
    if endpoints.is_mock:  # whose form of an event is known: what comes out is held against what went in
        content = canonical_json({"run_id": run_id, "event_type": event_type, "payload": payload})
        event.payload_hash = payload_hash(content)
    return event


# --- is it there, and does it speak the protocol? ---------------------------------------------------


def ready(endpoints: Endpoints) -> Request:
    """Ask whether the runtime is ready."""
    return Request("GET", f"{endpoints.runtime_url}/readyz")


def any_token(endpoints: Endpoints) -> Request:
    """Ask for a token for no topic in particular."""
    return Request("POST", endpoints.control_url + _MINT_PATH, {}, headers=_authorization(endpoints, "client-0"))


def token_in(url: str, answer: Answer) -> str:
    """The token in an answer to `any_token`; raises `TargetError`."""
    try:
        return msgspec.json.decode(answer.content, type=_MintAnswer).data.token
    except msgspec.DecodeError:
        raise TargetError(f"{url} answered {shown(answer)} where a token was expected.") from None


def checks(endpoints: Endpoints) -> tuple[Request, ...]:
    """What to ask to know that runtime and control service are there; `require_checked` reads each answer."""
    return (
        ready(endpoints),
        any_token(endpoints),
        Request("GET", endpoints.socket_url.replace("ws", "http", 1), headers=_UPGRADE),
    )


def require_checked(number: int, url: str, answer: Answer) -> None:
    """Raise `TargetError`, one sentence, unless the answer to one of `checks` is as the contract says."""
    if number == 0:
        if answer.status_code != 200:
            raise TargetError(f"{url} answered {shown(answer)}, not 200: this is no sync runtime, or it is not ready.")
    elif number == 1:
        _require_token(url, answer)
    elif answer.status_code not in (401, 403):  # some proxies in front of a runtime say 401
        raise TargetError(
            f"{url} answered a WebSocket upgrade without a token with {shown(answer)}, not 403: "
            "this is no sync runtime's socket."
        )


def _require_token(url: str, answer: Answer) -> None:
    if answer.status_code != 200:
        raise TargetError(
            f"{url} answered {shown(answer)} where a token was expected; "
            "check that it is a control service and that the session may mint."
        )
    try:
        msgspec.json.decode(answer.content, type=_MintAnswer)
    except msgspec.DecodeError:
        raise TargetError(f"{url} answered {shown(answer)} where the token's JSON was expected.") from None


def no_answer(url: str, error: NoAnswerError) -> TargetError:
    """What to say of a request that got no answer."""
    if isinstance(error, NothingThereError):
        return TargetError(f"nothing answers at {url}; start the runtime there, or name another with --target.")
    if isinstance(error, UntrustedError):
        return TargetError(
            f"{url} shows a certificate that is not believed ({error}); mend the address, or name the file of its authority "
            "in SSL_CERT_FILE."
        )
    return TargetError(f"{url} does not answer as an HTTP server ({error}); is this the runtime's port?")


# --- the mock's own routes --------------------------------------------------------------------------


def mock_route(endpoints: Endpoints, method: str, name: str, json: object = None, content: bytes | None = None) -> Request:
    """Ask something of the mock itself."""
    return Request(method, f"{endpoints.runtime_url}/_mock/{name}", json, content)


def mock_said(url: str, answer: Answer) -> dict[str, Any]:
    """What the mock answered; raises `TargetError` where there is none."""
    if answer.status_code != 200:
        raise TargetError(f"{url} answered {shown(answer)}: faults of the runtime need stormgate's own mock.")
    body: dict[str, Any] = answer.json()
    return body


def shown(answer: Answer) -> str:
    """An answer for people, without what stands in it."""
    return f"{answer.status_code} ({answer.content_type})"


def _problem(answer: Answer) -> _Problem:
    try:
        return msgspec.json.decode(answer.content, type=_ProblemAnswer).error
    except msgspec.DecodeError:
        return _Problem(f"http_{answer.status_code}")
