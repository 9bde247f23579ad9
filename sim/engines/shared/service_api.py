"""The service's HTTP API without I/O: each operation is a function that returns a `Request`, which also parses the answer.

`sockets/http.py` (asyncio) and `greenlets/http.py` (gevent) send these requests.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from sim.base.errors import TargetError
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.shared.client_setup import unix_s
from sim.engines.shared.endpoints import Endpoints
from sim.protocols.payloads import canonical_json, payload_hash
from sim.server.admission import is_final, may_be_taken
from sim.server.closing import CloseOrder
from sim.server.settings import Switches
from sim.server.tokens import device_id
from sim.service import templates
from sim.service.forms import CreateForm, PageForm, RequestForm, TokenForm
from sim.service.paths import MOCK_PATH
from sim.service.requests import Answer, Command, NoAnswerError, Pool, Request, request_of
from sim.service.sign_in import NotSignedInError, sign_in
from sim.service.templates import find
from sim.service.tokens import read_token, signed_token

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 10.0
# Connections in each pool. The pools are separate, so that no event waits behind a storm of mints. The load generator would
# cause that wait, but it would count as the service's. The drill's own requests (readiness, switches) use a third pool.
MAX_CONNECTIONS: Final[dict[Pool, int]] = {"mint": 32, "publish": 32, "other": 16}
UNKNOWN_OUTCOME = "unknown_outcome"  # code of a publish without an answer: the event may have been appended
_MAX_CODE_CHARS, _MAX_RETRY_AFTER_MS = 200, 86_400_000.0  # more counts as malformed
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c3Rvcm1nYXRlIGtub2Nrcw==",
}


# --- failures -----------------------------------------------------------------------------------------


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
class _Problem:
    code: str
    retry_after_ms: float | None


def _problem(endpoints: Endpoints, answer: Answer) -> _Problem:
    form = endpoints.forms.error
    said = answer.value
    code, retry_after_ms = find(said, form.code), find(said, form.retry_after_ms)
    has_delay = isinstance(retry_after_ms, int | float) and 0 <= retry_after_ms <= _MAX_RETRY_AFTER_MS
    return _Problem(
        code if isinstance(code, str) and 0 < len(code) <= _MAX_CODE_CHARS else f"http_{answer.status_code}",
        float(retry_after_ms) if has_delay else None,
    )


def request(
    endpoints: Endpoints,
    form: PageForm,
    read: Callable[[Answer], T | Request[T]],
    values: Mapping[str, object] | None = None,
    pool: Pool = "other",
    unanswered: Callable[[NoAnswerError], T] | None = None,
) -> Request[T]:
    """Return the request of a form; `values` are those of the form's own names."""
    return request_of(form, endpoints.base_url(form.service), {**endpoints.values(), **(values or {})}, read, pool, unanswered)


# --- tokens -----------------------------------------------------------------------------------------


def mint(endpoints: Endpoints, session: Session) -> Request[Token]:
    """Issue a token for this client and its topics. The request raises `MintFailedError`.

    A client whose account has not signed in yet does so first, where the target has steps for that.
    """
    asked = session.token_request
    values = client_values(session)
    before = session.token.signed_in if session.token is not None and session.token.account == asked.account else None

    def read(answer: Answer, signed_in: Mapping[str, object]) -> Token:
        if not 200 <= answer.status_code < 300:
            raise _mint_failed(endpoints, answer)
        return replace(_token(endpoints.forms.token, answer, signed_in), account=asked.account)

    def not_signed_in(error: NotSignedInError) -> NoReturn:
        raise MintFailedError("bad_response") if error.missing else _mint_failed(endpoints, error.answer)

    def then(signed_in: Mapping[str, object]) -> Request[Token]:
        return _token_request(endpoints, {**values, **signed_in}, lambda answer: read(answer, signed_in), _mint_unanswered)

    return then(before) if before is not None else _sign_in(endpoints, values, then, not_signed_in, _mint_unanswered)


def client_values(session: Session) -> dict[str, object]:
    """Return the values of the names that stand for a client, in templates of its sign-in and its token."""
    asked = session.token_request
    values: dict[str, object] = {"account": asked.account, "client": session.client, "device": device_id(session.client)}
    return values | {"topics": list(asked.topics), "ttl_s": asked.ttl_s, "unique": str(uuid.uuid4())}


def _mint_failed(endpoints: Endpoints, answer: Answer) -> MintFailedError:
    problem = _problem(endpoints, answer)
    return MintFailedError(problem.code, problem.retry_after_ms)


def any_token(endpoints: Endpoints) -> Request[Token]:
    """Issue a token without naming topics. The request raises `TargetError`."""
    values = dict.fromkeys(TokenForm.NAMES) | {"account": "client-0", "client": 0, "unique": str(uuid.uuid4())}
    if endpoints.forms.token.source == "signing_key":  # a claim without a value would be missing, not left to the service
        values |= {"device": device_id(0), "topics": []}

    def then(signed_in: Mapping[str, object]) -> Request[Token]:
        def read(answer: Answer) -> Token:
            if not 200 <= answer.status_code < 300:
                raise TargetError(
                    f"{asked.url} answered {answer} where a token was expected. "
                    "Check that it is a control service and that the session may mint."
                )
            try:
                return _token(endpoints.forms.token, answer, signed_in)
            except MintFailedError:
                raise TargetError(f"{asked.url} answered {answer} where the token's JSON was expected.") from None

        asked = _token_request(endpoints, {**values, **signed_in}, read)
        return asked

    def not_signed_in(error: NotSignedInError) -> NoReturn:
        what = f"without the value '{error.missing}'" if error.missing else "which is a refusal"
        raise TargetError(f"a client cannot sign in: a step of [[sign_in]] was answered with {error.answer}, {what}.") from None

    return _sign_in(endpoints, values, then, not_signed_in)


def _sign_in(
    endpoints: Endpoints,
    values: Mapping[str, object],
    then: Callable[[Mapping[str, object]], Request[T]],
    refused: Callable[[NotSignedInError], T],
    unanswered: Callable[[NoAnswerError], T] | None = None,
) -> Request[T]:
    return sign_in(endpoints.forms.sign_in, endpoints.base_url, {**endpoints.values(), **values}, then, refused, unanswered)


def _token_request(
    endpoints: Endpoints,
    values: dict[str, object],
    read: Callable[[Answer], T],
    unanswered: Callable[[NoAnswerError], T] | None = None,
) -> Request[T]:
    """Return the request for a token. A token that is signed here, or none, is an answer without a request."""
    form = endpoints.forms.token
    values.setdefault("session", endpoints.session or f"session-{values['account']}")
    if form.source == "http":
        return request(endpoints, form, read, values, "mint", unanswered)
    if form.source == "command":
        topics = values["topics"] if isinstance(values["topics"], list) else []
        names = ("account", "device", "ttl_s", *endpoints.forms.signed_in_names)
        variables = {name.upper(): templates.text(f"{{{name}}}", values) for name in names}
        command = Command(form.command, {**variables, "TOPICS": ",".join(topics)})
        return Request("", "", read, pool="mint", unanswered=unanswered, command=command)
    is_signed = form.source == "signing_key"
    token = signed_token(form, {**endpoints.values(), **values}, endpoints.signing_key) if is_signed else "none"
    return Request("", "", lambda _: read(Answer(200, "text/plain", token.encode())), pool="mint")


def _token(form: TokenForm, answer: Answer, signed_in: Mapping[str, object]) -> Token:
    """Return the token of an answer. Raises `MintFailedError` without one."""
    now = time.time()
    found = read_token(form, answer.content if form.source != "http" else answer.value, now)
    if found is None:
        raise MintFailedError("bad_response")
    moments = now + found.refresh_in_s, now + found.expires_in_s
    stated = unix_s(found.refresh_at), unix_s(found.expires_at)
    session_id = found.session_id or str(signed_in.get("session_id", ""))
    return Token(found.text, *moments, found.key_id, session_id, *stated, signed_in=signed_in)


def _mint_unanswered(error: NoAnswerError) -> NoReturn:
    raise MintFailedError("network") from None


# --- runs, events and sessions ----------------------------------------------------------------------


@dataclass(slots=True)
class PublishedEvent:
    """An acknowledged event. `seq` is -1 if the answer has no position in the stream, or one that is no number.

    `payload_hash` comes from the service; with our mock it is the hash of the sent content.
    """

    seq: int
    payload_hash: str = ""


def create_run(endpoints: Endpoints, name: str) -> Request[str]:
    """Create a stream and return its id. The request raises `TargetError`; where events create streams, nothing is sent."""
    if endpoints.streams.created_by_publish:
        return Request("", "", lambda _: f"{name}-{uuid.uuid4().hex[:12]}")
    form = endpoints.forms.create or CreateForm()
    if form.run_id == templates.NOWHERE:  # the service takes our name, and a stream of an earlier run may have the usual one
        unique = f"{name}-{uuid.uuid4().hex[:12]}"
        return _wanted(endpoints, form, {"name": unique}, lambda answer: unique, "a new stream was expected")
    return _wanted(endpoints, form, {"name": name}, lambda answer: find(answer, form.run_id), "a new run was expected")


def publish(endpoints: Endpoints, run_id: str, event_type: str, payload: object, key: str) -> Request[PublishedEvent]:
    """Append one event with an idempotency key. The request raises `PublishFailedError`."""
    form = endpoints.forms.publish
    values = {"run_id": run_id, "event_type": event_type, "payload": payload, "key": key}

    def read(answer: Answer) -> PublishedEvent:
        if answer.status_code >= 300:
            problem = _problem(endpoints, answer)
            raise PublishFailedError.by_status(answer.status_code, problem.code, problem.retry_after_ms)
        said, seq = answer.value, -1
        if form.position_of == "stream" and form.position_header:
            seq = form.number_of(answer.headers.get(form.position_header.lower(), ""))
        elif form.position_of == "stream" and form.position != templates.NOWHERE:
            found = find(said, form.position, values)
            if found is None or (isinstance(found, int) and found < 1):
                raise PublishFailedError(UNKNOWN_OUTCOME)
            seq = form.number_of(found)
        stored = find(said, form.payload_hash, values)
        if endpoints.is_mock:  # we know how the mock stores an event, so deliveries are compared with the sent content
            stored = sent_hash(run_id, event_type, payload)
        return PublishedEvent(seq, stored if isinstance(stored, str) else "")

    return request(endpoints, form, read, values, "publish", _publish_unanswered)


def sent_hash(run_id: str, event_type: str, payload: object) -> str:
    """Return the hash of an event's content, as the mock and the simulated service store it."""
    return payload_hash(canonical_json({"run_id": run_id, "event_type": event_type, "payload": payload}))


def _publish_unanswered(error: NoAnswerError) -> NoReturn:
    raise PublishFailedError(UNKNOWN_OUTCOME) from None


def revoke(endpoints: Endpoints, tokens: Sequence[Token]) -> Request[int]:
    """Revoke the sessions of tokens: of all, or of one where the form is for one. The request raises `TargetError`.

    It returns how many the service reports as revoked.
    """
    form = endpoints.forms.revoke
    if form is None:  # nothing on a live target is ours to revoke unless its description says how
        raise TargetError(f"target {endpoints.name} has no [revoke] request. Add it to the targets file.")
    ids = [token.session_id for token in tokens]
    values: dict[str, object] = {**(tokens[0].signed_in or {}), "session_id": ids[0]} if form.is_for_one else {}

    def count(answer: Any) -> int | None:
        found = find(answer, form.count)
        return len(ids) if form.count == templates.NOWHERE else len(found) if isinstance(found, list) else found

    return _wanted(endpoints, form, {"session_ids": ids, **values}, count, "sessions were to be revoked")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event that the service returned over HTTP: its position (None: not stated), payload and hash."""

    position: int | str | None
    payload: Any
    payload_hash: str = ""


def read_back(endpoints: Endpoints, run_id: str) -> Request[list[StoredEvent] | None]:
    """Read all events of a stream; None if the service does not know it. The request raises `TargetError`."""
    form = endpoints.forms.read_back
    if form is None:
        raise TargetError(f"target {endpoints.name} has no [read_back] request. Add it to the targets file.")

    def read(answer: Answer) -> list[StoredEvent] | None:
        events = find(answer.value, form.events)
        if answer.status_code == 404:
            return None
        if answer.status_code != 200 or not isinstance(events, list):
            raise TargetError(f"{asked.url} answered {answer} where a list of events was expected.")
        pointers = form.position, form.payload, form.payload_hash
        found = [[find(event, pointer) for pointer in pointers] for event in events]
        return [StoredEvent(position, payload, stored or "") for position, payload, stored in found]

    asked = request(endpoints, form, read, {"run_id": run_id})
    return asked


def _wanted(
    endpoints: Endpoints, form: RequestForm, values: Mapping[str, object], result: Callable[[Any], T | None], expected: str
) -> Request[T]:
    """Return a request whose answer must have a result. The request raises `TargetError`."""

    def read(answer: Answer) -> T:
        found = result(answer.value) if answer.status_code < 300 else None
        if found is None:
            raise TargetError(f"{asked.url} answered {answer} where {expected}.")
        return found

    asked = request(endpoints, form, read, values)
    return asked


# --- readiness --------------------------------------------------------------------------------------


def status(endpoints: Endpoints, method: str, path: str) -> Request[int]:
    """Send a request without a body; return the HTTP status, or 0 for no answer."""
    return Request(method, endpoints.runtime_url + path, lambda answer: answer.status_code, unanswered=lambda error: 0)


def is_ready(endpoints: Endpoints) -> Request[bool]:
    """Return whether the service is ready."""
    form = endpoints.forms.ready
    return request(endpoints, form, lambda answer: answer.status_code in form.statuses, unanswered=lambda error: False)


def ready(endpoints: Endpoints) -> Request[None]:
    """Ask whether the runtime is ready. Raises `TargetError` otherwise."""
    form = endpoints.forms.ready
    url, wanted = endpoints.base_url(form.service) + form.path, _listed(form.statuses)
    says = f"{{url}} answered {{answer}}, not {wanted}: this is not a sync service, or it is not ready."
    return request(endpoints, form, _expect(url, form.statuses, says))


def checks(endpoints: Endpoints, *, with_refusal: bool = True) -> tuple[Request[Any], ...]:
    """Check that both services answer and use the expected protocol. Each request raises `TargetError` otherwise.

    `with_refusal`: also ask for an upgrade that must be refused. The service counts it among its refusals.
    """
    form = endpoints.forms.ready
    asked: list[Request[Any]] = [ready(endpoints), any_token(endpoints)]
    if with_refusal and form.without_token and endpoints.has_socket:
        socket = endpoints.socket_url.replace("ws", "http", 1)
        refuses = _expect(
            socket,
            form.without_token,
            "{url} answered a WebSocket upgrade without a token with {answer}, not "
            f"{_listed(form.without_token[-1:])}: this is not a sync service's socket.",
        )
        asked.append(Request("GET", socket, refuses, headers=_UPGRADE))
    return tuple(asked)


def _listed(statuses: Iterable[int]) -> str:
    return " or ".join(map(str, statuses))


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


def recreate_log(endpoints: Endpoints, topic: str) -> Request[int]:
    """Make the service create a topic's log again; return how many events are gone."""
    return _mock(endpoints, "log", lambda answer: int(answer["events_forgotten"]), {"topic": topic})


def change_keys(endpoints: Endpoints, *, rotate: bool) -> Request[str]:
    """Sign with a new key, or else retire the old keys; return the id of the signing key."""
    return _mock(endpoints, "keys", lambda answer: str(answer["kid"]), {"rotate": rotate})


def hang_up(endpoints: Endpoints, clients: Iterable[int]) -> Request[int]:
    """Make the service close these clients' sockets; return how many it closed."""
    body = {"devices": [device_id(client) for client in clients]}
    return _mock(endpoints, "sockets", lambda answer: int(answer["sockets_closed"]), body)


def close_connections(endpoints: Endpoints, order: CloseOrder) -> Request[int]:
    """Make the service close connections, or refuse upgrades, as ordered; return how many it closed."""
    return _mock(endpoints, "closes", lambda answer: int(answer["sockets_closed"]), order)


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
        return result(answer.value)

    return Request("GET", url, read) if body is None else Request("PUT", url, read, msgspec.json.encode(body))
