"""Reads a request's JSON body, and refuses requests in the service's error format."""

import ipaddress
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse

T = TypeVar("T")


class RequestRefusedError(Exception):
    """A refused request, with an HTTP status, a code, and the delay of a retry in ms."""

    def __init__(self, status: int, code: str, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_ms = status, code, retry_after_ms


def problem(status: int, code: str, message: str, retry_after_ms: int | None = None) -> JSONResponse:
    """Return a refusal in the service's error format."""
    hint = {} if retry_after_ms is None else {"retry_after_ms": retry_after_ms}
    return JSONResponse({"error": {"code": code, "message": message, **hint}}, status)


async def body(request: Request, kind: type[T]) -> T:
    """Decode the request's JSON body as `kind`; raise `RequestRefusedError` with status 422 if it is malformed."""
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestRefusedError(422, "malformed_request", str(error)) from None


def require_local(request: Request, what: str) -> None:
    """Raise `RequestRefusedError` for a request from another machine."""
    try:
        is_local = request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise RequestRefusedError(403, "loopback_only", f"{what} from its own machine only")
