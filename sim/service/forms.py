"""The forms of a service's HTTP requests and answers, as data. The defaults are those of the mock.

A form has a template of the request and pointers into the answer; `sim.service.templates` says how they are written.
Each table of a target in `targets.toml` is one of these structs.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from sim.base.errors import UsageError
from sim.service import paths, templates
from sim.service.templates import NOWHERE, Pointer

Service = Literal["runtime", "control"]
Path = Annotated[str, msgspec.Meta(pattern=r"^/[!-~]*$", max_length=2000)]
Pattern = Annotated[str, msgspec.Meta(max_length=200)]
Lifetime = Annotated[float, msgspec.Meta(gt=0)]
Command = list[str]  # a program and its arguments; runs without a shell
ClaimType = Literal["text", "number", "boolean", "list", "table"]
_MAX_DIGITS = 18  # of a position that is a number
COMMON_NAMES = ("session", "admin_token", "now", "now_iso")
_CLIENT_NAMES = ("account", "client", "device", "topics", "ttl_s", "unique")  # of the client that wants a token
_BEARER = {"Authorization": "Bearer {session}"}


class PageForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GET request without a body."""

    path: Path  # template of the path, possibly with a query
    service: Service = "runtime"  # the service that is asked
    headers: dict[str, str] = {}  # templates; a header with a name that has no value is left out
    NAMES: ClassVar[tuple[str, ...]] = ()  # those that templates may contain besides `COMMON_NAMES`

    def templates(self) -> Iterator[tuple[str, object]]:
        """Yield the templates of the request by key, and the pointers into its answer."""
        for key in self.__struct_fields__:
            yield key, getattr(self, key)

    def check(self, where: str, further: Iterable[str] = ()) -> None:
        """Raise `UsageError` for an unknown name in a template. `further` are names that this target adds."""
        for key, template in self.templates():
            templates.check(template, (*COMMON_NAMES, *self.NAMES, *further), f"{where}: key '{key}'")


class RequestForm(PageForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request, possibly with a body."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"  # of the request
    body: Any = None  # template of a JSON value; a text is sent as it is
    # Prints further headers for each request, one `Name: value` per line. It gets STORMGATE_METHOD and STORMGATE_PATH, and the
    # body as its input.
    signing_command: Command = []


class CreateForm(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a stream."""

    path: Path = paths.RUNS_PATH
    body: Any = msgspec.field(default_factory=lambda: {"worker_id": "{name}", "metadata": {"by": "stormgate"}})
    run_id: Pointer = "/run/id"  # the id of the new stream in the answer; none: it is {name}, which is new in every run
    NAMES: ClassVar = ("name",)


class PublishForm(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Append one event: by a request, or over the protocol that the clients speak. The other keys are those of the request."""

    over: Literal["http", "protocol"] = "http"  # protocol: on a connection of the publisher's own; the payload is sent as it is
    path: Path = paths.EVENTS_PATH
    body: Any = msgspec.field(
        default_factory=lambda: {"event_type": "{event_type}", "payload": "{payload}", "idempotency_key": "{key}"}
    )
    position: Pointer = "/event/seq"  # the event's position in the answer
    position_header: str = ""  # the header with it, in place of `position`; a duplicate may be acknowledged without one
    position_pattern: Pattern = ""  # regular expression for a position that is text: its group is a number that grows with it
    position_of: Literal["stream", "publisher"] = "stream"  # whose position it is; a publisher's says nothing of the stream
    payload_hash: Pointer = "/event/payload_hash"  # the hash in the answer
    NAMES: ClassVar = ("run_id", "stream", "event_type", "payload", "key")

    def check(self, where: str, further: Iterable[str] = ()) -> None:
        """See `PageForm`."""
        super().check(where, further)
        try:
            has_group = re.compile(self.position_pattern).groups == 1 or not self.position_pattern
        except re.error as error:
            raise UsageError(f"{where}: key 'position_pattern' is not a regular expression: {error}.") from None
        if not has_group:
            raise UsageError(f"{where}: key 'position_pattern' needs one group, such as '([0-9]+)$'.")

    def number_of(self, position: object) -> int:
        """Return a position as a number; -1 without one, or for one that only the service can read."""
        if isinstance(position, int):
            return position
        found = re.search(self.position_pattern, str(position)) if self.position_pattern and position else None
        digits = found[1] if found else str(position or "")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS else -1


class ErrorForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer of a refused request."""

    code: Pointer = "/error/code"  # the reason; without it, the status is reported
    retry_after_ms: Pointer = "/error/retry_after_ms"  # wait that the service asks for


class SignInStep(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request of a client that signs in, before its first token. Its values go to later steps and to [token]."""

    service: Service = "control"
    values: dict[str, Pointer]  # names, and where their values stand in the answer; `session` and `session_id` as in [token]
    NAMES: ClassVar = _CLIENT_NAMES

    def check_values(self, where: str) -> None:
        """Raise `UsageError` for a value whose name no template could use, or that replaces a value which is not its own."""
        for name in self.values:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in {*_CLIENT_NAMES, *COMMON_NAMES} - {"session"}:
                raise UsageError(f"{where}: key 'values' has the name {name!r}; use small letters and _, and no name of ours.")


class TokenForm(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where tokens come from: an HTTP request, a command that prints one, a signing key (JWT), or nowhere.

    In a token that a command printed or that is signed here, the pointers lead into its claims.
    """

    source: Literal["http", "command", "signing_key", "none"] = "http"  # where tokens come from
    service: Service = "control"
    path: Path = paths.TOKEN_PATH
    headers: dict[str, str] = msgspec.field(default_factory=lambda: dict(_BEARER))
    body: Any = msgspec.field(default_factory=lambda: {"topics": "{topics}", "device_id": "{device}", "ttl_seconds": "{ttl_s}"})
    token: Pointer = "/data/token"  # the token in the answer
    expires_in_s: Pointer = "/data/expires_in"  # its lifetime in seconds, or its end since 1970 (s or ms) or in ISO 8601
    refresh_in_s: Pointer = "/data/refresh_after_in"  # seconds until a client should renew it, or when, as above
    expires_at: Pointer = "/data/expires_at"  # its end by the service's clock, RFC 3339
    refresh_at: Pointer = "/data/refresh_after"  # when to renew it by the service's clock, RFC 3339
    key_id: Pointer = "/data/kid"  # id of the signing key
    session_id: Pointer = "/data/session_id"  # id of the session, by which it is revoked
    lifetime_s: Lifetime = 300.0  # of a token whose answer states none and which is no JWT with an end
    command: Command = []  # gets STORMGATE_ACCOUNT, _DEVICE, _TOPICS, _TTL_S, and prints the token as its first word
    signing_key_env: str = ""  # variable with the signing key: a secret or, for EdDSA, the text between the lines of a PEM file
    algorithm: Literal["HS256", "EdDSA"] = "HS256"  # of the signature; the header's `alg` may be another name for it
    claims: dict[str, Any] = {}  # template of a signed token's claims
    header: dict[str, Any] = {}  # template of a signed token's header
    claim_types: dict[str, ClaimType] = {}  # types of claims that the runtime requires; `target check` compares
    NAMES: ClassVar = (*_CLIENT_NAMES, "expires_at")


class RevokeForm(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Revoke sessions: all at once with {session_ids}, or else one by one, with {session_id} and what its sign-in returned."""

    path: Path = paths.REVOKE_PATH
    body: Any = msgspec.field(default_factory=lambda: {"session_ids": "{session_ids}"})
    count: Pointer = "/revoked"  # how many were revoked: a number, or a list; none: as many as were named
    NAMES: ClassVar = ("session_ids", "session_id")

    @property
    def is_for_one(self) -> bool:
        """Whether one request revokes one session only."""
        return all("session_ids" not in templates.names_in(template) for _, template in self.templates())


class ReadyForm(PageForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a service shows that it is ready."""

    path: Path = paths.READY_PATH
    statuses: tuple[int, ...] = (200,)  # of a service that is ready
    without_token: tuple[int, ...] = (401, 403)  # answers to a WebSocket upgrade without a token; empty: it is not tried


class HealthForm(PageForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runtime's health route, which names the deployed revision."""

    path: Path = paths.HEALTH_PATH
    revision: Pointer = "/revision"  # one word


class StatusForm(PageForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control service's status, with its revision and counters of tokens."""

    service: Service = "control"
    path: Path = paths.STATUS_PATH
    revision: Pointer = "/data/revision"  # of the control service, one word
    counters: Pointer = "/data/counters"  # a table of numbers by the names of the contract
    generated_at: Pointer = "/data/generated_at"  # when the answer was made, RFC 3339
    command: Command = []  # prints the same JSON, in place of the request


class MetricsForm(PageForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runtime's metrics."""

    path: Path = paths.METRICS_PATH
    headers: dict[str, str] = msgspec.field(default_factory=lambda: {"Authorization": "Bearer {admin_token}"})
    generated_at: Pointer = "/generated_at"  # when the answer was made, RFC 3339
    metrics: dict[str, Pointer] = {}  # where each metric stands; empty: the service has the names of the contract


class RoutingForm(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask which cohort a key is routed to."""

    service: Service = "control"
    path: Path = paths.ROUTING_PATH
    headers: dict[str, str] = msgspec.field(default_factory=lambda: dict(_BEARER))
    body: Any = msgspec.field(default_factory=lambda: {"thread_id": "{key}", "cohort_key": "{key}"})
    # How keys get into the cohort. hash: by the contract's buckets, so each key is checked; own: in the service's own way, so
    # only the share of keys is checked, and that none changes sides.
    buckets: Literal["hash", "own"] = "hash"
    scope: str = "thread"  # part of what the bucket of a key is computed from
    key: Pointer = "/data/cohort_key"  # the key in the answer, which must be the asked one; none: not compared
    cohort: Pointer = "/data/cohort"  # the cohort in the answer
    canary: tuple[str, ...] = ("canary",)  # values of `cohort` for keys inside; none: it is missing
    control: tuple[str, ...] = ("control",)  # values of `cohort` for keys outside; none: it is missing
    revision: Pointer = "/data/revision"  # to which the key is routed
    NAMES: ClassVar = ("key",)


class ReadBackForm(RequestForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read a stream's events over HTTP."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    events: Pointer = "/events"  # the list of events in the answer, in order
    position: Pointer = "/seq"  # in an event: its position
    payload: Pointer = "/payload"  # in an event: the published payload
    payload_hash: Pointer = NOWHERE  # in an event: its hash
    NAMES: ClassVar = ("run_id", "stream")


class ServiceForms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All forms of a service."""

    create: CreateForm | None = CreateForm()  # None: streams are given by name
    publish: PublishForm = PublishForm()
    error: ErrorForm = ErrorForm()
    sign_in: tuple[SignInStep, ...] = ()  # of each client, before its first token
    token: TokenForm = TokenForm()
    revoke: RevokeForm | None = RevokeForm()  # None: the service has no such request
    ready: ReadyForm = ReadyForm()
    health: HealthForm = HealthForm()
    status: StatusForm = StatusForm()
    metrics: MetricsForm = MetricsForm()
    routing: RoutingForm = RoutingForm()
    read_back: ReadBackForm | None = None  # None: the service has no such request

    @property
    def pages(self) -> dict[str, PageForm]:
        """The forms with a request, by table."""
        steps = {f"sign_in.{number}": step for number, step in enumerate(self.sign_in)}
        return {key: form for key in self.__struct_fields__ if isinstance(form := getattr(self, key), PageForm)} | steps

    @property
    def shares_session(self) -> bool:
        """Whether the tokens of all clients are asked for with the target's own session, because none of them signs in."""
        used = {name for _, template in self.token.templates() for name in templates.names_in(template)}
        return self.token.source == "http" and "session" in used - self.signed_in_names

    @property
    def signed_in_names(self) -> frozenset[str]:
        """The names of all values that signing in returns."""
        return frozenset(name for step in self.sign_in for name in step.values)
