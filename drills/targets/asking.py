"""Send one request for a check of a target, and put request, answer and advice into words."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from sim.base.errors import TargetError
from sim.engines.shared.service_api import OperationFailedError
from sim.engines.sockets.http import ServiceHttp
from sim.service.requests import Answer, NoAnswerError, Request

T = TypeVar("T")
_BY_STATUS = {
    400: "the service does not accept the body",
    401: "the service does not accept the credentials in the headers",
    403: "the credentials do not allow this",
    404: "the service does not know the path",
    405: "the service does not know the method",
    413: "the event is too large for the service",
    415: "the service expects another Content-Type",
    422: "the service does not accept the body",
    429: "the service limits the rate; try again later",
}
NO_ANSWER = "no answer"


class FailedError(Exception):
    """An item failed: what was sent, what came back, and what to change."""

    def __init__(self, sent: str, answer: str, change: str) -> None:
        super().__init__(answer)
        self.sent, self.answer, self.change = sent, answer, change


async def ask(http: ServiceHttp, request: Request[T], table: str) -> tuple[str, str, T]:
    """Send a request, and those that follow from it; return the last one, its answer and its result. Raises `FailedError`.

    `table` is the one of the target that describes the request.
    """
    sent, seen = "", list[Answer]()

    def watched(each: Request[T]) -> Request[T]:
        nonlocal sent
        sent = _sent(each)
        seen.clear()

        def read(answer: Answer) -> T | Request[T]:
            seen.append(answer)
            result = each.read(answer)
            return watched(result) if isinstance(result, Request) else result

        return replace(each, read=read, unanswered=unanswered)

    def unanswered(error: NoAnswerError) -> T:
        raise FailedError(
            sent, f"{NO_ANSWER} ({error})", f"Correct the address, or the command of {table}; or start the service."
        )

    try:
        result = await http.send(watched(request))
    except (TargetError, OperationFailedError) as error:
        raise FailedError(sent, shown(seen[0]) if seen else str(error), advice(table, seen[0] if seen else None)) from None
    return sent, shown(seen[0]), result


def _sent(request: Request[T]) -> str:
    """A request in words."""
    text = f"{request.method} {request.url} {(request.body or b'').decode(errors='replace')}".strip()
    return text or (f"command {request.command.argv[0]}" if request.command else "signed here, nothing was sent")


def shown(answer: Answer) -> str:
    """An answer in words."""
    return f"{answer.status_code} {answer.content.decode(errors='replace')}".strip()


def advice(table: str, answer: Answer | None) -> str:
    """What to change after an answer."""
    if answer is not None and answer.status_code in _BY_STATUS:
        return f"Correct {table}: {_BY_STATUS[answer.status_code]}."
    if answer is not None and answer.status_code >= 500:
        return f"The service failed. If it works otherwise, correct {table}."
    return f"Correct the pointers of {table}: the answer does not have the values where they point."


def place_of(document: Any, text: str) -> str | None:
    """Return the pointer to the table that has a text value which begins so; None without one."""
    return next(_places(document, text, ""), None)


def places(document: Any) -> list[str]:
    """Return the pointers to all values of a document that are neither tables nor lists."""
    if not isinstance(document, dict | list):
        return []
    found: list[str] = []
    parts = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in parts:
        step = "/" + str(key).replace("~", "~0").replace("/", "~1")
        found += [step + rest for rest in places(value)] if isinstance(value, dict | list) else [step]
    return found


def _places(document: Any, text: str, at: str) -> Iterator[str]:
    parts = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in parts:
        if isinstance(value, str) and value.startswith(text):
            yield at
        step = str(key).replace("~", "~0").replace("/", "~1")
        yield from _places(value, text, f"{at}/{step}")
