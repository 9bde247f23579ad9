"""The mock's HTTP routes for a runtime whose events belong to workers and go to shared topics (`phoenix_sync`).

There is no `/readyz` and no `/healthz`. The operators' runtime also requires a signed header on each publish; the mock does not
check it.
"""

import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sim.mock.requests import RequestRefusedError, body
from sim.protocols.payloads import canonical_json
from sim.protocols.profile import Publication

if TYPE_CHECKING:
    from sim.mock.app import Mock

WORKERS_PATH = "/internal/v1/codex/workers"
_NUMBER = msgspec.json.Decoder(dict[str, Any])


class _NewWorker(msgspec.Struct):
    worker_id: str


class _NewEvent(msgspec.Struct):
    event_type: str
    payload: Any = None
    idempotency_key: str | None = None  # [ours] so that a publish whose answer was lost can be tried again


class _Revocation(msgspec.Struct):
    session_ids: list[str] = []
    device_ids: list[str] = []
    reason: str = "user_requested"


class WorkerRoutes:
    """The routes of one mock. Each worker counts its own events; the answer to a publish states that number."""

    def __init__(self, mock: "Mock") -> None:
        self._mock = mock
        self._numbers: dict[str, int] = {}  # of the latest event, by worker

    def routes(self, revoke_path: str) -> list[Route]:
        """Return all routes."""
        return [
            Route(WORKERS_PATH, self._new_worker, methods=["POST"]),
            Route(WORKERS_PATH + "/{worker_id}/events", self._new_event, methods=["POST"]),
            Route(revoke_path, self._revoke, methods=["POST"]),
        ]

    async def _new_worker(self, request: Request) -> Response:
        asked = await body(request, _NewWorker)
        worker, store = asked.worker_id, self._mock.store
        is_known = store.has_worker(worker)
        if not is_known:
            store.add_run(worker)
            kind, payload = self._mock.profile.first_event or ("", None)
            await self._publish(worker, kind, payload, f"{worker}-{kind}")
        answer = {
            "idempotentReplay": is_known,
            "latestSeq": self._latest(worker) if is_known else 0,
            "status": "running",
            "workerId": worker,
        }
        return JSONResponse({"data": answer}, 202)

    async def _new_event(self, request: Request) -> Response:
        worker = request.path_params["worker_id"]
        asked = await body(request, _NewEvent)
        if not self._mock.store.has_worker(worker):
            raise RequestRefusedError(404, "not_found", f"there is no worker {worker}")
        content = await self._publish(worker, asked.event_type, asked.payload, asked.idempotency_key or str(uuid.uuid4()))
        answer = {name: content[name] for name in ("event_type", "occurred_at", "payload", "seq", "worker_id")}
        return JSONResponse({"data": answer}, 202)

    def _latest(self, worker: str) -> int:
        return self._numbers.get(worker) or self._mock.store.events_of(worker)

    async def _publish(self, worker: str, event_type: str, payload: object, key: str) -> dict[str, Any]:
        """Append an event, and return its content: of a known key, that of the first try, if it is still retained."""
        profile = self._mock.profile
        number = self._numbers[worker] = self._latest(worker) + 1
        topic = profile.topics.of_event(worker, event_type)
        try:
            content = canonical_json(profile.content(Publication(worker, event_type, payload, number, time.time())))
            done = await self._mock.authority.publish(topic, key, content, None)
        except ValueError as error:
            raise RequestRefusedError(422, "invalid_payload", str(error)) from None
        return _NUMBER.decode(done.entry.payload or content)

    async def _revoke(self, request: Request) -> Response:
        asked = await body(request, _Revocation)
        self._mock.runtime.revoke((*asked.session_ids, *asked.device_ids))
        self._mock.sockets.kick()
        answer = {
            "reason": asked.reason,
            "revoked_at": int(time.time()),
            "revoked_device_ids": asked.device_ids,
            "revoked_session_ids": asked.session_ids,
        }
        return JSONResponse({"data": answer})
