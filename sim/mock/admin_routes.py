"""The mock's admin routes for faults, keys, sockets and rollouts. Only its own machine may use them."""

import secrets
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sim.mock.requests import RequestRefusedError, body, require_local
from sim.server.closing import CloseOrder
from sim.server.deployment import Percent, Throttle, unknown_revision
from sim.server.settings import Switches
from sim.server.tokens import Key
from sim.service.paths import MOCK_PATH

if TYPE_CHECKING:
    from sim.mock.app import Mock

T = TypeVar("T")


class _Shrink(msgspec.Struct, forbid_unknown_fields=True):
    topic: str
    keep_events: int


class _Recreate(msgspec.Struct, forbid_unknown_fields=True):
    topic: str


class _Keys(msgspec.Struct, forbid_unknown_fields=True):
    rotate: bool  # false: retire the old keys


class _HangUp(msgspec.Struct, forbid_unknown_fields=True):
    devices: frozenset[str]


class _Serving(msgspec.Struct, forbid_unknown_fields=True):
    revision: str


class _Cohort(msgspec.Struct, forbid_unknown_fields=True):
    percent: Percent


class AdminRoutes:
    """The routes that change a running mock."""

    def __init__(self, mock: "Mock") -> None:
        self._mock = mock

    def routes(self) -> list[Route]:
        """Return all routes. Each refuses requests from other machines."""
        return [
            _put("switches", Switches, self._set_switches),
            _put("sockets", _HangUp, self._hang_up),
            _put("closes", CloseOrder, self._close_connections),
            _put("window", _Shrink, self._shrink_window),
            _put("log", _Recreate, self._recreate_log),
            _put("keys", _Keys, self._set_keys),
            _put("traffic", _Serving, self._set_traffic),
            _put("throttle", Throttle, lambda asked: self._change(throttle=asked)),
            _put("cohort", _Cohort, lambda asked: self._change(cohort_percent=asked.percent)),
            Route(MOCK_PATH.format(name="state"), self._state),
        ]

    # --- faults -------------------------------------------------------------------------------------

    def _set_switches(self, asked: Switches) -> Any:
        return {"sockets_told_to_reauthenticate": self._mock.set_switches(asked)}

    def _shrink_window(self, asked: _Shrink) -> Any:
        return {"events_forgotten": self._mock.runtime.shrink_window(asked.topic, asked.keep_events)}

    def _recreate_log(self, asked: _Recreate) -> Any:
        self._mock.store.forget_stream(asked.topic)
        gone = self._mock.runtime.recreate_log(asked.topic)
        self._mock.sockets.kick()
        return {"events_forgotten": gone}

    def _set_keys(self, asked: _Keys) -> Any:
        """Sign with a new key, or retire the older keys. A restart reverts this, because the file keeps the first key."""
        control = self._mock.control
        if asked.rotate:
            control.rotate(Key(f"mock-{uuid.uuid4()}", secrets.token_bytes(32)))
        else:
            control.retire_old_keys()
        self._mock.runtime.take_keys(control.keyring)
        return {"kid": control.keyring.primary.kid}

    def _hang_up(self, asked: _HangUp) -> Any:
        closed = self._mock.runtime.hang_up(asked.devices)
        self._mock.sockets.kick()
        return {"sockets_closed": closed}

    def _close_connections(self, asked: CloseOrder) -> Any:
        closed = self._mock.runtime.closing.follow(asked)
        self._mock.sockets.kick()
        return {"sockets_closed": closed}

    # --- a rollout ----------------------------------------------------------------------------------

    def _set_traffic(self, asked: _Serving) -> Any:
        """Make another revision serve, with its own defects."""
        rollout = self._mock.rollout
        if wrong := unknown_revision(rollout.deployment, asked.revision):
            raise RequestRefusedError(422, "unknown_revision", wrong)
        return self._change(serving=asked.revision)

    def _change(self, **changed: object) -> Any:
        rollout = self._mock.rollout
        rollout.change(msgspec.structs.replace(rollout.traffic, **changed))
        self._mock.set_switches(rollout.chosen)
        return msgspec.to_builtins(rollout.traffic)

    async def _state(self, request: Request) -> Response:
        require_local(request, "the mock's state is available")
        mock = self._mock
        streams = {topic: {"oldest": log.oldest, "head": log.head} for topic, log in mock.runtime.streams.logs.items()}
        state = {
            "switches": msgspec.to_builtins(mock.rollout.chosen),
            "acted": mock.runtime.counters.acted,
            "consumers": mock.runtime.consumers,
            "held_back": mock.sockets.held_back,
            "longest_outbox": mock.sockets.longest_outbox,
            "streams": streams,
            "deployment": msgspec.to_builtins(mock.rollout.deployment),
            "traffic": msgspec.to_builtins(mock.rollout.traffic),
        }
        return JSONResponse(state)


def _put(name: str, kind: type[T], change: Callable[[T], Any]) -> Route:
    """Return the route `PUT /_mock/NAME` with a body of this kind, for requests from this machine only."""

    async def endpoint(request: Request) -> Response:
        require_local(request, f"{name} of a mock may be changed")
        return JSONResponse(change(await body(request, kind)))

    return Route(MOCK_PATH.format(name=name), endpoint, methods=["PUT"])
