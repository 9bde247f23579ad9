"""The mock's HTTP routes: control service, sync service and metrics."""

import asyncio
import contextlib
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sim.base.errors import StorageError
from sim.mock.admin_routes import AdminRoutes
from sim.mock.process_limits import TICK_S
from sim.mock.publishing import Authority
from sim.mock.requests import RequestRefusedError, body, problem
from sim.mock.revisions import Rollout
from sim.mock.sockets import Message, Receive, Send, Sockets
from sim.mock.store import Store
from sim.mock.worker_routes import WorkerRoutes
from sim.protocols import registry
from sim.protocols.payloads import canonical_json
from sim.protocols.profile import Publication
from sim.server.control import Control, ControlRefusedError, TokenRequest
from sim.server.counters import metrics
from sim.server.deployment import Deployment, routing_answer
from sim.server.runtime import Runtime
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import Keyring
from sim.service import paths

DEFAULT_ADMIN_TOKEN = "mock-admin"


class _NewRun(msgspec.Struct):
    worker_id: str
    metadata: dict[str, Any] | None = None


class _NewEvent(msgspec.Struct):
    event_type: str
    payload: Any = None
    idempotency_key: str | None = None
    expected_next_seq: int | None = None


class _Revocation(msgspec.Struct):
    session_ids: list[str]


class _SignIn(msgspec.Struct):
    account: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]


class _RoutingQuestion(msgspec.Struct):
    thread_id: str
    cohort_key: str


@dataclass(frozen=True)
class MockOptions:
    """Settings of an embedded mock."""

    settings: RuntimeSettings
    switches: Switches
    admin_token: str = DEFAULT_ADMIN_TOKEN
    deployment: Deployment = field(default_factory=Deployment)
    protocol: str = registry.DEFAULT


class Mock:
    """A mock with its events in one store."""

    def __init__(self, options: MockOptions, store: Store) -> None:
        keyring = Keyring(store.signing_key())
        wire = registry.wire_forms(options.protocol)
        self.options = options
        self.socket_path = wire.socket_path
        self.has_workers = wire.has_workers
        self.profile = registry.server_forms(options.protocol).profile
        self.store = store
        self.rollout = Rollout(options.deployment, options.switches, store)
        self.runtime = Runtime(options.settings, keyring, self.profile, self.rollout.switches)
        if "lose_log_on_restart" in self.switches.defects:
            store.forget_events()
        self.runtime.streams.logs.update(store.load(options.settings.window_events, self.profile))
        self.control = Control(options.settings, keyring, self.profile)
        self.authority = Authority(self.runtime, store, self.rollout)
        self.sockets = Sockets(self.runtime, self.rollout, wire)
        self.authority.committed = self.sockets.kick
        self._minting: asyncio.Semaphore | None = None
        self._minting_limit = 0

    @property
    def switches(self) -> Switches:
        """The active faults and defects."""
        return self.runtime.switches

    def app(self) -> Callable[[Message, Receive, Send], Awaitable[None]]:
        """Return the ASGI application."""
        refusals = {RequestRefusedError: _refused, ControlRefusedError: _refused, StorageError: _log_unavailable}
        http = Starlette(routes=self._routes(), lifespan=self._lifespan, exception_handlers=refusals)

        async def route(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket" and scope["path"] == self.socket_path:
                await self.sockets(scope, receive, send)
            else:
                await http(scope, receive, send)

        return route

    def _routes(self) -> list[Route]:
        return [
            Route(paths.TOKEN_PATH, self._token, methods=["POST"]),
            Route("/api/sync/token", self._token, methods=["POST"]),
            Route(paths.SIGN_IN_PATH, self._sign_in, methods=["POST"]),
            Route(paths.STATUS_PATH, self._status),
            Route(paths.ROUTING_PATH, self._evaluate, methods=["POST"]),
            *(WorkerRoutes(self).routes(paths.REVOKE_PATH) if self.has_workers else self._run_routes()),
            Route(paths.METRICS_PATH, self._metrics),
            Route("/metrics", self._prometheus),
            Route("/internal/v1/spacetime/fanout/metrics", self._retired_metrics),
            *AdminRoutes(self).routes(),
        ]

    def _run_routes(self) -> list[Route]:
        """Return the routes of a runtime whose events belong to runs."""
        return [
            Route(paths.HEALTH_PATH, self._healthz),
            Route(paths.READY_PATH, self._readyz),
            Route(paths.RUNS_PATH, self._new_run, methods=["POST"]),
            Route(paths.EVENTS_PATH, self._new_event, methods=["POST"]),
            Route(paths.REVOKE_PATH, self._revoke, methods=["POST"]),
        ]

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick())
        yield
        ticking.cancel()
        self.store.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.runtime.wake(time.time())
            while self.runtime.mutations:  # the defect accept_mutation: a client publishes over its socket
                topic = next(iter(self.runtime.streams.logs), self.profile.topics.of_event("r1", "run.progress"))
                with contextlib.suppress(RequestRefusedError, ValueError):
                    payload = canonical_json(msgspec.json.decode(self.runtime.mutations.pop()))
                    await self.authority.publish(topic, f"socket-{uuid.uuid4()}", payload, None)
            self.sockets.kick()

    # --- control service ----------------------------------------------------------------------------

    async def _sign_in(self, request: Request) -> Response:
        """Begin a new session of an account, which can be revoked without ending those that the account gets later."""
        asked = await body(request, _SignIn)
        return JSONResponse({"session": f"session-{asked.account}.{uuid.uuid4().hex}"})

    async def _token(self, request: Request) -> Response:
        try:
            asked = TokenRequest.parse(request.headers.get("authorization"), await request.body())
        except ControlRefusedError as error:
            self.control.refused(error)
            raise
        await self._take_minting_time()
        switches = self.switches
        if switches.mint_outage:
            self.runtime.counters.act("mint_outage")
        if switches.mint_ahead_s:
            self.runtime.counters.act("skew_control")
        moment = time.time() + switches.mint_ahead_s
        return JSONResponse(self.control.issue(asked, moment, outage=switches.mint_outage, defects=switches.defects))

    async def _take_minting_time(self) -> None:
        """Apply the fault slow_mint: each token takes time, and only a limited number is minted at once."""
        switches = self.switches
        if switches.mint_delay_ms <= 0:
            return
        if self._minting is None or self._minting_limit != switches.mint_concurrency:
            self._minting_limit = switches.mint_concurrency
            self._minting = asyncio.Semaphore(switches.mint_concurrency or 1_000_000)
        self.runtime.counters.act("slow_mint")
        async with self._minting:
            await asyncio.sleep(self.switches.mint_delay_ms / 1000)

    async def _status(self, _: Request) -> Response:
        revision = self.rollout.traffic.serving
        return JSONResponse({"data": {"status": "ok", "revision": revision, "counters": self.control.counters}})

    async def _evaluate(self, request: Request) -> Response:
        asked = await body(request, _RoutingQuestion)
        rollout = self.rollout
        return JSONResponse({"data": routing_answer(rollout.deployment, rollout.traffic, asked.thread_id, asked.cohort_key)})

    # --- runtime ------------------------------------------------------------------------------------

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "revision": self.rollout.traffic.serving})

    async def _readyz(self, _: Request) -> Response:
        if self.authority.failure:
            raise RequestRefusedError(503, "log_unavailable", self.authority.failure)
        return JSONResponse({"status": "ready"})

    async def _new_run(self, request: Request) -> Response:
        asked = await body(request, _NewRun)
        return JSONResponse({"run": {"id": self.store.add_run(asked.worker_id), "worker_id": asked.worker_id}}, 201)

    async def _new_event(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        asked = await body(request, _NewEvent)
        if not self.store.has_run(run_id):
            raise RequestRefusedError(404, "unknown_run", f"there is no run {run_id}")
        topics = self.profile.topics
        topic = topics.of_event(run_id, asked.event_type)
        try:
            content = canonical_json(self.profile.content(Publication(run_id, asked.event_type, asked.payload, 0, time.time())))
            key = asked.idempotency_key or str(uuid.uuid4())
            done = await self.authority.publish(topic, key, content, asked.expected_next_seq)
        except ValueError as error:
            raise RequestRefusedError(422, "invalid_payload", str(error)) from None
        event = {
            "run_id": run_id,
            "seq": done.entry.seq,
            "topic": topic,
            "stream_id": topics.stream_id(topic),
            "payload_hash": done.entry.payload_hash,
            "duplicate": done.duplicate,
        }
        return JSONResponse({"event": event}, 200 if done.duplicate else 201)

    async def _revoke(self, request: Request) -> Response:
        asked = await body(request, _Revocation)
        closed = self.runtime.revoke(asked.session_ids)
        self.sockets.kick()
        return JSONResponse({"revoked": len(asked.session_ids), "sockets_closed": closed})

    async def _metrics(self, request: Request) -> Response:
        self._require_admin(request)
        runtime = self.runtime
        logs = runtime.streams.logs.values()
        return JSONResponse(
            metrics(
                runtime.counters, logs, runtime.consumers, self.options.settings.profile, time.time(), self.profile.transport
            )
        )

    async def _prometheus(self, request: Request) -> Response:
        """Answer with the same metrics and more in the format of Prometheus. Requires the same bearer token."""
        from sim.mock import prometheus_page  # imported late: its import takes longer than a mock takes to start

        self._require_admin(request)
        return Response(prometheus_page.text(self.runtime, self.control), media_type=prometheus_page.MEDIA_TYPE)

    def _require_admin(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.options.admin_token}".encode()):
            raise RequestRefusedError(401, "unauthorized", "the admin token is missing or wrong")

    async def _retired_metrics(self, _: Request) -> Response:
        if "serve_retired_route" in self.switches.defects:
            return JSONResponse({"subscribers": self.runtime.consumers})
        return JSONResponse({"detail": "Not Found"}, 404)

    def set_switches(self, chosen: Switches) -> int:
        """Activate faults and defects besides those of the revision; return how many sockets must authenticate again."""
        self.rollout.chosen = chosen
        expelled = self.runtime.set_switches(self.rollout.switches)
        self.sockets.kick()
        return expelled


async def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestRefusedError):
        return problem(error.status, error.code, str(error), error.retry_after_ms)
    assert isinstance(error, ControlRefusedError)
    return problem(error.status, error.code, error.message)


async def _log_unavailable(_: Request, error: Exception) -> Response:
    return problem(503, "log_unavailable", str(error))
