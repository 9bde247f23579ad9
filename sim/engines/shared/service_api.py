"""The service's HTTP API without I/O: each operation is a function that returns a `Request`, which also parses the answer.

`sockets/http.py` (asyncio) and `greenlets/http.py` (gevent) send these requests.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, Literal, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from sim.base.errors import TargetError
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.shared.client_setup import unix_s
from sim.engines.shared.endpoints import Endpoints
from sim.protocols.payloads import canonical_json, payload_hash
from sim.server.admission import is_final, may_be_taken
from sim.server.settings import Switches
from sim.server.tokens import device_id
from sim.service.paths import EVENTS_PATH, MOCK_PATH, READY_PATH, REVOKE_PATH, RUNS_PATH, TOKEN_PATH

T = TypeVar("T")
Pool = Literal["mint", "publish", "other"]

REQUEST_TIMEOUT_S: Final = 10.0
# Connections in each pool. The pools are separate, so that no event waits behind a storm of mints. The load generator would
# cause that wait, but it would count as the service's. The drill's own requests (readiness, switches) use a third pool.
MAX_CONNECTIONS: Final[dict[Pool, int]] = {"mint": 32, "publish": 32, "other": 16}
UNKNOWN_OUTCOME = "unknown_outcome"  # code of a publish without an answer: the event may have been appended
_JSON = {"Content-Type": "application/json"}
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c3Rvcm1nYXRlIGtub2Nrcw==",
}


# --- requests and answers ---------------------------------------------------------------------------


class NoAnswerError(Exception):
    """A request got no HTTP answer. The text is the reason."""


class RefusedError(NoAnswerError):
    """No process listens at the address."""


class UntrustedError(NoAnswerError):
    """Certificate verification failed."""


class OperationFailedError(Exception):
    """An operation failed: `code` of the refusal, delay of a retry in ms. `is_final`: a retry would fail, too."""

    def __init__(self, code: str, retry_after_ms: float | None = None, *, is_final: bool = False) -> None:
        super().__init__(code)
        self.code, self.retry_after_ms, self.is_final = code, retry_after_ms, is_final


class MintFailedError(OperationFailedError):
    """No token was issued."""


class PublishFailedError(OperationFailedError):
    """An event was not acknowledged."""

    @classmethod
    def by_status(cls, status: int, code: str, retry_after_ms: float | None) -> "PublishFailedError":
        """Return the error for an HTTP status other than 2xx."""
        code = UNKNOWN_OUTCOME if may_be_taken(status) else code
        return cls(code, retry_after_ms, is_final=is_final(status))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status_code: int
    content_type: str
    content: bytes

    def json(self) -> Any:
        """Decode the body; raise `ValueError` if it is not JSON."""
        try:
            return msgspec.json.decode(self.content)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        return f"{self.status_code} ({self.content_type})"  # without the body, which may hold secrets


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One HTTP request. `read` converts the answer to a result or raises; `unanswered` does so if no answer came."""

    method: str
    url: str
    read: Callable[[Answer], T]
    body: bytes | None = None  # JSON
    headers: dict[str, str] = field(default_factory=dict)
    pool: Pool = "other"
    unanswered: Callable[[NoAnswerError], T] | None = None  # None: raise the `TargetError` of `no_answer`

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers to send."""
        return self.headers if self.body is None else {**_JSON, **self.headers}

    def without_answer(self, error: NoAnswerError) -> T:
        """Return the result of a request without an answer, or raise its exception."""
        if self.unanswered is not None:
            return self.unanswered(error)
        raise no_answer(self.url, error) from None


def no_answer(url: str, error: NoAnswerError) -> TargetError:
    """Return the error to report for a request without an answer."""
    if isinstance(error, RefusedError):
        return TargetError(f"nothing answers at {url}. Start the service there, or name another target with --target.")
    if isinstance(error, UntrustedError):
        return TargetError(
            f"{url}: certificate verification failed ({error}). Correct the address, or set SSL_CERT_FILE to its issuer."
        )
    return TargetError(f"{url} does not answer as an HTTP server ({error}). Check that this is the service's port.")


class _Problem(msgspec.Struct):
    code: str = "unknown"
    retry_after_ms: float | None = None


class _ProblemAnswer(msgspec.Struct):
    error: _Problem


def _problem(answer: Answer) -> _Problem:
    try:
        return msgspec.json.decode(answer.content, type=_ProblemAnswer).error
    except msgspec.DecodeError:
        return _Problem(f"http_{answer.status_code}")


# --- tokens -----------------------------------------------------------------------------------------


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


def mint(endpoints: Endpoints, session: Session) -> Request[Token]:
    """Issue a token for this client and its topics. The request raises `MintFailedError`."""
    request = session.token_request
    body: dict[str, Any] = {"topics": list(request.topics), "device_id": device_id(session.client)}
    if request.ttl_s is not None:
        body["ttl_seconds"] = request.ttl_s
    return _token_request(endpoints, request.account, body, _token, _mint_unanswered)


def any_token(endpoints: Endpoints) -> Request[str]:
    """Issue a token without naming topics. The request raises `TargetError`."""

    def read(answer: Answer) -> str:
        if answer.status_code != 200:
            raise TargetError(
                f"{request.url} answered {answer} where a token was expected. "
                "Check that it is a control service and that the session may mint."
            )
        try:
            return msgspec.json.decode(answer.content, type=_MintAnswer).data.token
        except msgspec.DecodeError:
            raise TargetError(f"{request.url} answered {answer} where the token's JSON was expected.") from None

    request = _token_request(endpoints, "client-0", {}, read)
    return request


def _token_request(
    endpoints: Endpoints,
    account: str,
    body: dict[str, Any],
    read: Callable[[Answer], T],
    unanswered: Callable[[NoAnswerError], T] | None = None,
) -> Request[T]:
    headers = {"Authorization": f"Bearer {endpoints.session or f'session-{account}'}"}
    content = msgspec.json.encode(body)
    return Request("POST", endpoints.control_url + TOKEN_PATH, read, content, headers, "mint", unanswered)


def _token(answer: Answer) -> Token:
    if answer.status_code != 200:
        problem = _problem(answer)
        raise MintFailedError(problem.code, problem.retry_after_ms)
    try:
        data = msgspec.json.decode(answer.content, type=_MintAnswer).data
    except msgspec.DecodeError:
        raise MintFailedError("bad_response") from None
    now = time.time()
    moments = now + data.refresh_after_in, now + data.expires_in
    return Token(data.token, *moments, data.kid, data.session_id, unix_s(data.refresh_after), unix_s(data.expires_at))


def _mint_unanswered(error: NoAnswerError) -> NoReturn:
    raise MintFailedError("network") from None


# --- runs, events and sessions ----------------------------------------------------------------------


class PublishedEvent(msgspec.Struct):
    """An acknowledged event. `payload_hash` comes from the service; with our mock it is the hash of the sent content."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    payload_hash: str = ""


class _EventAnswer(msgspec.Struct):
    event: PublishedEvent


def create_run(endpoints: Endpoints, worker_id: str) -> Request[str]:
    """Create a run and return its id. The request raises `TargetError`."""
    body = {"worker_id": worker_id, "metadata": {"by": "stormgate"}}
    return _runtime_post(endpoints, RUNS_PATH, body, lambda answer: str(answer["run"]["id"]), "a new run was expected")


def publish(endpoints: Endpoints, run_id: str, event_type: str, payload: object, key: str) -> Request[PublishedEvent]:
    """Append one event with an idempotency key. The request raises `PublishFailedError`."""

    def read(answer: Answer) -> PublishedEvent:
        if answer.status_code >= 300:
            problem = _problem(answer)
            raise PublishFailedError.by_status(answer.status_code, problem.code, problem.retry_after_ms)
        try:
            event = msgspec.json.decode(answer.content, type=_EventAnswer).event
        except msgspec.DecodeError:
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        if endpoints.is_mock:  # we know how the mock stores an event, so deliveries are compared with the sent content
            event.payload_hash = sent_hash(run_id, event_type, payload)
        return event

    url = endpoints.runtime_url + EVENTS_PATH.format(run_id=quote(run_id, safe=""))
    body = msgspec.json.encode({"event_type": event_type, "payload": payload, "idempotency_key": key})
    return Request("POST", url, read, body, pool="publish", unanswered=_publish_unanswered)


def sent_hash(run_id: str, event_type: str, payload: object) -> str:
    """Return the hash of an event's content, as the mock and the simulated service store it."""
    return payload_hash(canonical_json({"run_id": run_id, "event_type": event_type, "payload": payload}))


def _publish_unanswered(error: NoAnswerError) -> NoReturn:
    raise PublishFailedError(UNKNOWN_OUTCOME) from None


def revoke(endpoints: Endpoints, sessions: list[str]) -> Request[int]:
    """Revoke sessions; return how many the service reports as revoked. The request raises `TargetError`."""
    if not endpoints.is_mock:  # on a real target they belong to its users, or to the operator
        raise TargetError(f"sessions are only ever revoked on stormgate's own mock, not on {endpoints.name}.")
    body = {"session_ids": sessions}
    return _runtime_post(endpoints, REVOKE_PATH, body, lambda answer: int(answer["revoked"]), "sessions were to be revoked")


def _runtime_post(endpoints: Endpoints, path: str, body: object, result: Callable[[Any], T], expected: str) -> Request[T]:
    url = endpoints.runtime_url + path

    def read(answer: Answer) -> T:
        try:
            return result(answer.json())
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"{url} answered {answer} where {expected}.") from None

    return Request("POST", url, read, msgspec.json.encode(body))


# --- readiness --------------------------------------------------------------------------------------


def status(endpoints: Endpoints, method: str, path: str) -> Request[int]:
    """Send a request without a body; return the HTTP status, or 0 for no answer."""
    return Request(method, endpoints.runtime_url + path, lambda answer: answer.status_code, unanswered=lambda error: 0)


def is_ready(endpoints: Endpoints) -> Request[bool]:
    """Return whether the service answers 200 at its readiness path."""
    url = endpoints.runtime_url + READY_PATH
    return Request("GET", url, lambda answer: answer.status_code == 200, unanswered=lambda error: False)


def checks(endpoints: Endpoints) -> tuple[Request[Any], ...]:
    """Check that both services answer and use the expected protocol. Each request raises `TargetError` otherwise."""
    ready = endpoints.runtime_url + READY_PATH
    socket = endpoints.socket_url.replace("ws", "http", 1)
    is_runtime = _expect(ready, (200,), "{url} answered {answer}, not 200: this is not a sync service, or it is not ready.")
    refuses = _expect(
        socket,
        (401, 403),  # some reverse proxies answer 401
        "{url} answered a WebSocket upgrade without a token with {answer}, not 403: this is not a sync service's socket.",
    )
    return Request("GET", ready, is_runtime), any_token(endpoints), Request("GET", socket, refuses, headers=_UPGRADE)


def _expect(url: str, statuses: tuple[int, ...], otherwise: str) -> Callable[[Answer], None]:
    def read(answer: Answer) -> None:
        if answer.status_code not in statuses:
            raise TargetError(otherwise.format(url=url, answer=answer))

    return read


# --- stormgate's own mock ---------------------------------------------------------------------------


def set_switches(endpoints: Endpoints, switches: Switches) -> Request[int]:
    """Activate these switches; return how many clients must authenticate again."""
    return _mock(endpoints, "switches", lambda answer: int(answer["sockets_told_to_reauthenticate"]), switches)


def shrink_window(endpoints: Endpoints, topic: str, keep_events: int) -> Request[int]:
    """Make the service drop retained events; return how many it dropped."""
    body = {"topic": topic, "keep_events": keep_events}
    return _mock(endpoints, "window", lambda answer: int(answer["events_forgotten"]), body)


def change_keys(endpoints: Endpoints, *, rotate: bool) -> Request[str]:
    """Sign with a new key, or else retire the old keys; return the id of the signing key."""
    return _mock(endpoints, "keys", lambda answer: str(answer["kid"]), {"rotate": rotate})


def hang_up(endpoints: Endpoints, clients: Iterable[int]) -> Request[int]:
    """Make the service close these clients' sockets; return how many it closed."""
    body = {"devices": [device_id(client) for client in clients]}
    return _mock(endpoints, "sockets", lambda answer: int(answer["sockets_closed"]), body)


def change(endpoints: Endpoints, name: str, body: object) -> Request[None]:
    """Change a mock's rollout: its traffic, throttle or cohort. The request raises `TargetError`."""
    return _mock(endpoints, name, lambda answer: None, body)


def mock_state(endpoints: Endpoints) -> Request[dict[str, Any]]:
    """Return the state that the mock reports."""
    return _mock(endpoints, "state", lambda answer: answer)


def acted(endpoints: Endpoints, kind: str) -> Request[int]:
    """Return how often a kind of fault has taken effect since the mock started."""
    return _mock(endpoints, "state", lambda answer: int(answer["acted"].get(kind, 0)))


def switches(endpoints: Endpoints) -> Request[Switches]:
    """Return the active faults and defects."""
    return _mock(endpoints, "state", lambda answer: msgspec.convert(answer["switches"], Switches))


def _mock(endpoints: Endpoints, name: str, result: Callable[[dict[str, Any]], T], body: object = None) -> Request[T]:
    url = endpoints.runtime_url + MOCK_PATH.format(name=name)

    def read(answer: Answer) -> T:
        if answer.status_code != 200:
            raise TargetError(f"{url} answered {answer}: faults of the service need stormgate's own mock.")
        return result(answer.json())

    return Request("GET", url, read) if body is None else Request("PUT", url, read, msgspec.json.encode(body))
