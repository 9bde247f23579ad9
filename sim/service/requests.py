"""Requests and answers as values, and how a form becomes a request.

`sockets/http.py` (asyncio) and `greenlets/http.py` (gevent) send them.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from sim.base.errors import TargetError
from sim.service import templates
from sim.service.forms import PageForm, RequestForm, StatusForm

T = TypeVar("T")
Pool = Literal["mint", "publish", "other"]

_SOON_S = 1.0  # [ours] an answer that took longer is no measure of a clock
_HALF_SECOND = 0.5  # a `Date` has whole seconds
_JSON = {"Content-Type": "application/json"}


class NoAnswerError(Exception):
    """A request got no HTTP answer. The text is the reason."""


class RefusedError(NoAnswerError):
    """No process listens at the address."""


class UntrustedError(NoAnswerError):
    """Certificate verification failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status_code: int
    content_type: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case

    @property
    def value(self) -> Any:
        """The decoded body: JSON, or else its text."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.DecodeError, RecursionError):
            return self.content.decode("utf-8", "replace")

    def __str__(self) -> str:
        return f"{self.status_code} ({self.content_type})"  # without the body, which may hold secrets


class TargetClock:
    """How far the clock of a target is ahead of ours, by the `Date` of its answers.

    Of several answers, the one that is furthest off counts: a service of several machines may have one wrong clock among them.
    """

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def note(self, headers: Mapping[str, str], sent_s: float, received_s: float) -> None:
        """Note an answer, sent and received at these unix times.

        One that took long, or that comes from a cache, does not say when it was made.
        """
        if received_s - sent_s >= _SOON_S or "date" not in headers or "age" in headers:
            return
        with contextlib.suppress(ValueError, TypeError):
            date_s = parsedate_to_datetime(headers["date"]).timestamp() + _HALF_SECOND
            ahead_s = date_s - (sent_s + received_s) / 2
            self._ahead_s = max(self._ahead_s or ahead_s, ahead_s, key=abs)

    def take(self) -> float | None:
        """The largest difference in seconds, once; None if no answer came since."""
        found, self._ahead_s = self._ahead_s, None
        return found


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's command that is run for a request. It gets `body` as its input, and the variables beside ours."""

    argv: list[str]
    variables: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One HTTP request. `read` converts the answer to a result or raises; `unanswered` does so if no answer came.

    The result may be a further request, which is sent next: its result is then the result of both.

    The output of `command` are further headers. Without a `url` nothing is sent, and `read` gets that output as the answer.
    """

    method: str
    url: str
    read: Callable[[Answer], "T | Request[T]"]
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    pool: Pool = "other"
    unanswered: Callable[[NoAnswerError], T] | None = None  # None: raise the `TargetError` of `no_answer`
    command: Command | None = None

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers to send."""
        return self.headers if self.body is None else {**_JSON, **self.headers}

    def with_headers(self, output: bytes) -> "Request[T]":
        """Return the request with the headers that its command printed, one `Name: value` per line."""
        if self.command is None:
            return self
        lines = [line.partition(":") for line in output.decode("utf-8", "replace").splitlines()]
        further = {name.strip(): value.strip() for name, separator, value in lines if separator}
        return replace(self, headers={**self.headers, **further}, command=None)

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


def request_of(
    form: PageForm,
    base_url: str,
    values: Mapping[str, object],
    read: Callable[[Answer], T | Request[T]],
    pool: Pool = "other",
    unanswered: Callable[[NoAnswerError], T] | None = None,
) -> Request[T]:
    """Return the request of a form; `values` has all names of its templates. A header without a value is left out."""
    if isinstance(form, StatusForm) and form.command:
        return Request("", "", read, pool=pool, unanswered=unanswered, command=Command(form.command, {}))
    method, body, command = "GET", None, None
    path = templates.path(form.path, values)
    if isinstance(form, RequestForm):
        method, content = form.method, templates.render(form.body, values)
        if content is not None:
            body = content.encode() if isinstance(content, str) else msgspec.json.encode(content)
        if form.signing_command:
            command = Command(form.signing_command, {"METHOD": method, "PATH": path}, body or b"")
    headers = {
        name: templates.text(text, values)
        for name, text in form.headers.items()
        if all(values[each] not in ("", None) for each in templates.names_in(text))
    }
    return Request(method, base_url + path, read, body, headers, pool, unanswered, command)
