"""How the mock reads requests and words refusals."""

import ipaddress
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse

T = TypeVar("T")


def problem(status: int, code: str, message: str, retry_after_ms: int | None = None) -> JSONResponse:
    """A refusal, in the lane's form."""
    error: dict[str, object] = {"code": code, "message": message}
    if retry_after_ms is not None:
        error["retry_after_ms"] = retry_after_ms
    return JSONResponse({"error": error}, status)


async def body(request: Request, kind: type[T]) -> T | JSONResponse:
    """The request's JSON body as `kind`, or the 422 that says what is wrong with it."""
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        return problem(422, "malformed_request", str(error))


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine."""
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
