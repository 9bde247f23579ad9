"""Server-sent events without I/O, for adapters (HTML Living Standard, 9.2.6)."""

import re
from typing import NamedTuple

from sim.base.errors import MalformedFrameError

MAX_EVENT_BYTES = 2**20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One event. `id` is the last id that the stream named, empty before the first."""

    kind: str
    data: str
    id: str


class SseParser:
    """Reads one stream, in any pieces. It holds at most `MAX_EVENT_BYTES` of an unfinished event."""

    def __init__(self) -> None:
        self._rest = bytearray()  # an unfinished line
        self._ends_with_cr = False  # the next piece may begin with its \n
        self._is_first = True
        self._kind, self._id = "", ""
        self._data: list[str] = []
        self._held_bytes = 0  # of `_data`
        self.retry_ms: int | None = None  # the last delay before a reconnect that the server asked for

    def feed(self, data: bytes) -> list[SseEvent]:
        """Return the events that are now complete. Raises `MalformedFrameError` if one is too long."""
        if self._ends_with_cr:
            data = data.removeprefix(b"\n")
        self._ends_with_cr = data.endswith(b"\r")
        self._rest += data
        events: list[SseEvent] = []
        if b"\n" in data or b"\r" in data:
            *lines, rest = _LINE_END.split(bytes(self._rest))
            self._rest = bytearray(rest)
            events = [event for line in lines if (event := self._take(line)) is not None]
        if len(self._rest) + self._held_bytes > MAX_EVENT_BYTES:
            raise MalformedFrameError("sse_event_too_long", f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, line: bytes) -> SseEvent | None:
        if self._is_first:
            self._is_first, line = False, line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
            self._held_bytes += len(line)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value[:9])
        return None

    def _dispatch(self) -> SseEvent | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data, self._held_bytes = "", [], 0
        return SseEvent(kind, "\n".join(data), self._id) if data else None
