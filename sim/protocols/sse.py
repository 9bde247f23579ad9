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
        self._data = bytearray()  # of an unfinished event, each line with its end
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
        if len(self._rest) + len(self._data) > MAX_EVENT_BYTES:
            raise MalformedFrameError("sse_event_too_long", f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, line: bytes) -> SseEvent | None:
        if self._is_first:
            self._is_first, line = False, line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, content = line.partition(b":")
        content = content.removeprefix(b" ")
        if field == b"data":
            self._data += content + b"\n"
            return None
        name, value = field.decode("utf-8", "replace"), content.decode("utf-8", "replace")
        if name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value[:9])
        return None

    def _dispatch(self) -> SseEvent | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data = "", bytearray()
        return SseEvent(kind, data[:-1].decode("utf-8", "replace"), self._id) if data else None
