"""Try every item of a target's description once, and say what was sent, what came back, and what to change."""

import secrets
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec

from drills.runs import catalog
from drills.targets.asking import NO_ANSWER, FailedError, advice, ask, place_of, places
from drills.targets.listener import TIMEOUT_S, Listener, known, run
from sim.base.clocks import WallClock
from sim.base.errors import TargetError
from sim.base.redaction import Redactor
from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.session import Session
from sim.drill.model import load
from sim.engines.shared import client_setup, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.metrics_book import is_asked
from sim.engines.shared.publishing import Stream, streams_of
from sim.engines.shared.service_api import PublishedEvent
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.publisher import ProtocolPublisher
from sim.protocols import markers
from sim.server.tokens import device_id
from sim.service import metrics
from sim.service.forms import PageForm, SignInStep
from sim.service.requests import Answer, Request, request_of
from sim.service.sign_in import NotSignedInError, values_of
from sim.service.templates import NOWHERE, find
from sim.service.tokens import wrong_claims

T = TypeVar("T")
State = Literal["pass", "fail", "missing", "not_run"]
_MAX_SHOWN = 240  # characters of a request or an answer
_MIN_HIDDEN = 8  # characters of a value that is kept out of what is shown, because it may be a secret
_ANY_DRILL = "reconnect_storm"  # only the settings of its clients are used
_CONNECT_ADVICE = "Correct protocol, socket_path, [token], [streams] topic, or protocol_options; the code is the service's."


class Item(msgspec.Struct, frozen=True):
    """What became of one item of a description. `missing`: the service does not have it, and drills do not need it."""

    name: str
    state: State
    sent: str
    answer: str
    change: str = ""


def check(endpoints: Endpoints, build: str = "", say: Callable[[Item], None] = lambda item: None) -> list[Item]:
    """Try every item, in order; call `say` after each. Raises `TargetError` if nothing answers at all."""
    items = run(_Check(endpoints, build, say).run())
    if not any(item.state == "pass" for item in items) and all(
        item.answer.startswith(NO_ANSWER) for item in items if item.sent
    ):
        raise TargetError(
            f"nothing answers at {endpoints.runtime_url} and {endpoints.control_url}; start the service there, or correct the "
            "addresses of the target."
        )
    return items


def settings_of(endpoints: Endpoints, build: str, marker_run: str = "") -> ClientSettings:
    """Return the settings of a client that tries a target."""
    drill = load(catalog.path_of(_ANY_DRILL))
    fleet = msgspec.structs.replace(drill.fleet, client_build=build) if build else drill.fleet
    drill = msgspec.structs.replace(drill, runtime=endpoints.service, fleet=fleet)
    return client_setup.target_settings(drill, 1, marker_run, endpoints)


def any_topics(endpoints: Endpoints) -> list[str]:
    """Return the topics of a client that only joins."""
    named = list(endpoints.streams.names[:1])
    return named or [stream.topic for stream in streams_of(["stormgate"], False, endpoints.protocol)]


async def refusal(endpoints: Endpoints, token: Token, build: str) -> str:
    """Try to join as a client of a build; return why it was refused, empty if it was not."""
    listener = Listener(endpoints, any_topics(endpoints), settings_of(endpoints, build), known(token))
    listener.start()
    try:
        if not await listener.until(lambda: listener.is_joined or bool(listener.refusal)):
            return f"no answer within {TIMEOUT_S:g} s"
        return "" if listener.is_joined else listener.refusal
    finally:
        listener.close()


class _Check:
    """The items of one target. Each method is one item; it returns what was sent and what came back."""

    def __init__(self, endpoints: Endpoints, build: str, say: Callable[[Item], None]) -> None:
        self._endpoints, self._say = endpoints, say
        self._redact = Redactor(endpoints.secrets)
        self._run = secrets.token_hex(6)
        self._settings = settings_of(endpoints, build, self._run)
        self._items: list[Item] = []
        self._stream: Stream | None = None
        self._listener: Listener | None = None
        self._publisher: ProtocolPublisher | None = None
        self._published: list[PublishedEvent] = []
        self._signed_in: dict[str, object] = {}

    async def run(self) -> list[Item]:
        """Try all items that the description has."""
        try:
            async with ServiceHttp(self._endpoints) as self._http:
                for name, needs, attempt in self._plan():
                    await self._try(name, needs, attempt)
        finally:
            for connection in (self._listener, self._publisher):
                if connection is not None:
                    connection.close()
        return self._items

    def _plan(self) -> Iterator[tuple[str, str, Callable[[], Coroutine[Any, Any, tuple[str, str]]]]]:
        """Yield each item, and the item without which it cannot be tried."""
        forms, has_socket = self._endpoints.forms, self._endpoints.has_socket
        yield "ready", "", self._ready
        yield "stream", "", self._find_stream
        steps = [f"sign_in_{number}" for number, _ in enumerate(forms.sign_in, 1)]
        for name, needs, step in zip(steps, ["stream", *steps], forms.sign_in, strict=False):
            yield name, needs, partial(self._sign_in, step)
        yield "token", " ".join(["stream", *steps]), self._mint
        if has_socket and forms.ready.without_token:
            yield "without_token", "", self._without_token
        if has_socket:
            yield "connect", "token stream", self._connect
        yield "publish", "stream", self._publish
        if has_socket:
            yield "delivery", "connect publish", self._delivery
            yield "resume", "delivery", self._resume
        if forms.revoke is not None and not self._endpoints.is_mock:
            yield "revoke", "token", self._revoke
        if forms.read_back is not None:
            yield "read_back", "publish", self._read_back
        if is_asked(self._endpoints):
            yield "metrics", "", self._metrics
        yield "health", "", self._health
        yield "status", "", self._status
        yield "routing", "", self._routing

    async def _try(self, name: str, needs: str, attempt: Callable[[], Coroutine[Any, Any, tuple[str, str]]]) -> None:
        failed = [item.name for item in self._items if item.name in needs.split() and item.state != "pass"]
        if failed:
            item = Item(name, "not_run", "", f"needs {failed[0]}")
        else:
            try:
                item = Item(name, "pass", *map(self._short, await attempt()))
            except FailedError as error:
                state: State = "missing" if self._may_be_missing(name) else "fail"
                item = Item(name, state, self._short(error.sent), self._short(error.answer), error.change)
        self._items.append(item)
        self._say(item)

    def _may_be_missing(self, name: str) -> bool:
        """Whether only stages need an item, and the description says nothing of it."""
        return (
            name in ("health", "status", "routing")
            and getattr(self._endpoints.forms, name) == type(getattr(self._endpoints.forms, name))()
        )

    def _short(self, text: str) -> str:
        text = " ".join(self._redact.text(text).split())
        return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."

    async def _ask(self, request: Request[T], table: str) -> tuple[str, str, T]:
        return await ask(self._http, request, table)

    # --- the items ----------------------------------------------------------------------------------

    async def _ready(self) -> tuple[str, str]:
        form = self._endpoints.forms.ready
        sent, answer, status = await self._ask(self._page(form), "[ready]")
        if status.status_code not in form.statuses:
            raise FailedError(sent, answer, "Set [ready] path to a route that answers 200 when the service can work.")
        return sent, answer

    def _new_session(self, number: int) -> Session:
        assert self._stream is not None
        return Session(number, [self._stream.topic], policies.get("reference"), self._settings)

    async def _sign_in(self, step: SignInStep) -> tuple[str, str]:
        known = {**self._endpoints.values(), **service_api.client_values(self._new_session(0)), **self._signed_in}
        asked: Request[Answer] = request_of(step, self._endpoints.base_url(step.service), known, lambda answer: answer)
        sent, said, answer = await self._ask(asked, "[[sign_in]]")
        sent = self._redact.text(sent)
        try:
            found = values_of(step, answer, known)
        except NotSignedInError as error:
            if error.missing:  # the answer is not shown, because it may hold the session of a client
                pointers = ", ".join(places(answer.value)) or "nothing that a pointer could lead to"
                raise FailedError(
                    sent, f"{answer.status_code} with {pointers}", f"Correct the pointer of '{error.missing}' in [[sign_in]]."
                ) from None
            raise FailedError(sent, said, advice("[[sign_in]]", answer)) from None
        self._signed_in |= found
        hidden = (str(value) for value in self._signed_in.values() if len(str(value)) >= _MIN_HIDDEN)
        self._redact = Redactor((*self._endpoints.secrets, *hidden))
        return sent, f"{answer.status_code} with {', '.join(found)}"

    async def _revoke(self) -> tuple[str, str]:
        """Revoke the session of a client of its own, whose token must then be refused."""
        assert self._stream is not None
        asked = service_api.mint(self._endpoints, self._new_session(1))
        token = (await self._ask(asked, "[token]"))[2]
        if not token.session_id:
            where = "'session_id' in [token], or a value of that name in [[sign_in]]"
            raise FailedError("", "nothing states the session of a token", f"Set {where}.")
        sent, answer, count = await self._ask(service_api.revoke(self._endpoints, [token]), "[revoke]")
        if count < 1:
            raise FailedError(sent, answer, "The service says that it revoked nothing: correct [revoke], or 'session_id'.")
        if not self._endpoints.has_socket:
            return sent, f"{answer}; without a socket nobody can see whether the token is refused"
        code = await refusal(self._endpoints, token, self._settings.compatibility.client_build_id)
        if not code:
            raise FailedError(
                sent, f"{answer}, but a token of that session is still accepted", "The runtime ignores revocations."
            )
        return sent, f"{answer}; its token is then refused: {code}"

    async def _mint(self) -> tuple[str, str]:
        assert self._stream is not None
        session = self._new_session(0)
        if self._signed_in:  # by the items before, which are not repeated
            session.token = Token("", 0.0, 0.0, account=session.token_request.account, signed_in=self._signed_in)
        sent, _, token = await self._ask(service_api.mint(self._endpoints, session), "[token]")
        if wrong := wrong_claims(token.text, self._endpoints.forms.token.claim_types):
            change = "The runtime needs the claims of [token.claim_types]: correct the control service, or that table."
            raise FailedError(sent, f"a token, but {'; '.join(wrong)}", change)
        return sent, f"a token of {len(token.text)} characters for device {device_id(session.client)}"

    async def _without_token(self) -> tuple[str, str]:
        upgrade = service_api.checks(self._endpoints)[-1]
        sent, answer, _ = await self._ask(
            upgrade, "socket_path, or [ready] without_token, the expected statuses of an upgrade without a token"
        )
        return sent, answer

    async def _find_stream(self) -> tuple[str, str]:
        names = self._endpoints.streams.names
        if names:
            run_id, sent, answer = names[0], "", f"the stream {names[0]} is given by name"
        else:
            sent, answer, run_id = await self._ask(service_api.create_run(self._endpoints, "stormgate-check"), "[create]")
        self._stream = streams_of([run_id], False, self._endpoints.protocol, self._endpoints.streams)[0]
        return sent, f"{answer}: topic {self._stream.topic}"

    async def _connect(self) -> tuple[str, str]:
        assert self._stream is not None
        listener = self._listener = Listener(
            self._endpoints, [self._stream.topic], self._settings, lambda session: self._http.ask(service_api.mint, session)
        )
        sent = f"connect to {self._endpoints.socket_url}, join, and subscribe to {self._stream.topic}"
        listener.start()
        await listener.until(lambda: listener.session.is_live or bool(listener.refusal))
        if not listener.session.is_live:
            code = listener.refusal or f"no answer within {TIMEOUT_S:g} s, state {listener.session.state.name.lower()}"
            raise FailedError(sent, code, _CONNECT_ADVICE)
        return sent, "live"

    async def _publish(self) -> tuple[str, str]:
        assert self._stream is not None
        payload = markers.marked({"text": "target check"}, self._run, self._stream.stream, len(self._published) + 1)
        key = f"{self._run}-{len(self._published)}"
        if self._endpoints.forms.publish.over == "protocol":
            sent, answer, published = await self._publish_over_protocol(self._stream.topic, payload, key)
        else:
            request = service_api.publish(self._endpoints, self._stream.run_id, self._stream.event_type, payload, key)
            sent, answer, published = await self._ask(request, "[publish]")
        self._published.append(published)
        said = f"position {published.seq}" if published.seq >= 0 else "no position in the stream"
        return sent, f"{answer}: {said}"

    async def _publish_over_protocol(self, topic: str, payload: object, key: str) -> tuple[str, str, PublishedEvent]:
        sent = f"publish to {topic} over {self._endpoints.protocol}: {msgspec.json.encode(payload).decode()}"
        try:
            if self._publisher is None:
                publisher = ProtocolPublisher(
                    self._endpoints,
                    self._settings,
                    lambda session: self._http.ask(service_api.mint, session),
                    WallClock(),
                )
                await publisher.connect()
                self._publisher = publisher
            return sent, "acknowledged", await self._publisher.publish(topic, payload, key)
        except (TargetError, service_api.PublishFailedError) as error:
            raise FailedError(sent, str(error), _CONNECT_ADVICE) from None

    async def _delivery(self) -> tuple[str, str]:
        return await self._await_event(1, "the published event")

    async def _resume(self) -> tuple[str, str]:
        listener = self._listener
        assert listener is not None
        before = len(listener.payloads())
        listener.cut(0.0)
        await self._publish()
        sent, _ = await self._await_event(2, "the event that was published while the client was away")
        repeated = [number for number in self._numbers(listener.payloads()[before:]) if number == 1]
        if repeated:
            raise FailedError(sent, "the first event came again", "Resuming starts too early: check the protocol's options.")
        return "cut the connection, publish one event, connect again from the last position", "exactly the missed event"

    async def _await_event(self, number: int, what: str) -> tuple[str, str]:
        listener, pointer = self._listener, self._endpoints.payload_pointer
        assert listener is not None
        sent = f"wait for {what}"
        if await listener.until(lambda: number in self._numbers(listener.payloads())):
            return sent, f"it came, with its payload at {pointer or 'the whole event'}"
        payloads = listener.payloads()
        if not payloads:
            raise FailedError(
                sent, f"nothing came within {TIMEOUT_S:g} s", "Compare [streams] topic with the published stream."
            )
        for payload in payloads:
            found = place_of(msgspec.json.decode(payload), f"sg.{self._run}.")
            if found not in (None, pointer):
                raise FailedError(
                    sent, payload.decode(errors="replace"), f'Set payload_at = "{found}", where the published payload stands.'
                )
        if number > 1:
            raise FailedError(
                sent, "it did not come after the reconnect", "Correct how the adapter resumes; or the server loses it."
            )
        change = "Correct the body of [publish]: no delivered event contains the published payload."
        raise FailedError(sent, payloads[-1].decode(errors="replace"), change)

    async def _read_back(self) -> tuple[str, str]:
        assert self._stream is not None
        sent, answer, events = await self._ask(service_api.read_back(self._endpoints, self._stream.run_id), "[read_back]")
        numbers = self._numbers([msgspec.json.encode({"at": event.payload}) for event in events or []], "/at")
        wanted = list(range(1, len(self._published) + 1))
        if [number for number in numbers if number in wanted] != wanted:
            raise FailedError(
                sent,
                answer,
                "The published payloads were not there once each, as sent. Correct [read_back], or the service.",
            )
        return sent, f"{len(events or [])} events, with all {len(wanted)} that were published"

    async def _metrics(self) -> tuple[str, str]:
        form = self._endpoints.forms.metrics
        return await self._page_item(form, lambda body: metrics.read_metrics(body, form).outcome, "[metrics]")

    async def _health(self) -> tuple[str, str]:
        form = self._endpoints.forms.health
        return await self._page_item(
            form, lambda body: metrics.OK if metrics.revision_of(body, form) else "no revision", "[health] revision"
        )

    async def _status(self) -> tuple[str, str]:
        form = self._endpoints.forms.status
        return await self._page_item(form, lambda body: metrics.read_status(body, form).outcome, "[status]")

    async def _routing(self) -> tuple[str, str]:
        form = self._endpoints.forms.routing
        request = service_api.request(self._endpoints, form, lambda answer: answer, {"key": "stormgate-check"})
        sent, answer, found = await self._ask(request, "[routing]")
        cohort = str(find(found.value, form.cohort) or NOWHERE)
        if found.status_code != 200 or cohort not in (*form.canary, *form.control):
            raise FailedError(sent, answer, advice("[routing]", found))
        return sent, answer

    # --- helpers ------------------------------------------------------------------------------------

    async def _page_item(self, form: PageForm, outcome_of: Callable[[bytes], str], table: str) -> tuple[str, str]:
        sent, answer, found = await self._ask(self._page(form), table)
        outcome = outcome_of(found.content) if found.status_code == 200 else f"http_{found.status_code}"
        if outcome != metrics.OK:
            raise FailedError(sent, f"{outcome}: {answer}", advice(table, found))
        return sent, answer

    def _page(self, form: PageForm) -> Request[Answer]:
        return service_api.request(self._endpoints, form, lambda answer: answer)

    def _numbers(self, payloads: list[bytes], pointer: str | None = None) -> list[int]:
        """Return the numbers of our events among payloads, without those that are not what was published."""
        at = self._endpoints.payload_pointer if pointer is None else pointer
        found = [markers.marker_of(payload, at) for payload in payloads]
        return [each[0].number for each in found if each is not None and each[1] and each[0].run == self._run]
