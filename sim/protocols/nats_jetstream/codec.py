"""The NATS client protocol: lines that end with CRLF, some followed by a payload, in a stream of bytes over frames."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sim.base.errors import MalformedFrameError
from sim.protocols.adapter import MAX_HELD_BYTES

_END = b"\r\n"
_MAX_LINE = 65_536  # bytes; an INFO has about 600
_HEADER_LINE = b"NATS/1.0"
_ACK = "$JS.ACK."


class Delivery(NamedTuple):
    """A message (MSG or HMSG). `header` is its header block, empty without one."""

    subject: str
    sid: int
    reply: str
    header: bytes
    payload: bytes


class Line(NamedTuple):
    """A line without a payload: INFO, PING, PONG, +OK or -ERR. `rest` is what follows the word."""

    word: str
    rest: str


class Place(NamedTuple):
    """Where a delivered message stands: in its stream, in its consumer, and how many are still to come."""

    stream_seq: int
    consumer_seq: int
    pending: int


class Parser:
    """Splits the bytes of a connection into lines and messages. It holds at most one message that is not complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0  # bytes before it is worth another look

    def feed(self, data: bytes) -> Iterator[Delivery | Line]:
        """Yield what is complete. Raises `MalformedFrameError` for anything else; the connection is then of no use."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at = self._needed = 0
        while at < len(data):
            end = data.find(_END, at)
            if end < 0:
                if len(data) - at > _MAX_LINE:
                    raise MalformedFrameError("line_too_long", f"more than {_MAX_LINE} bytes")
                self._keep(data, at, 0)
                return
            word, _, rest = data[at:end].partition(b" ")
            if word in (b"MSG", b"HMSG"):
                found, stop = _delivery(data, end + 2, word == b"HMSG", rest)
                if found is None:
                    self._keep(data, at, stop - at)
                    return
                yield found
                at = stop
                continue
            yield _line(word, rest)
            at = end + 2

    def _keep(self, data: bytes, at: int, needed: int) -> None:
        self._rest += data[at:]
        self._needed = needed


def _delivery(data: bytes, start: int, has_header: bool, rest: bytes) -> tuple[Delivery | None, int]:
    """Return the message whose payload is at `start`, and where it stops; None if some of it is missing."""
    parts = rest.decode("ascii", "replace").split()
    sizes = 2 if has_header else 1
    if not 2 + sizes <= len(parts) <= 3 + sizes:
        raise MalformedFrameError("malformed_message", "wrong number of fields")
    sid, total = _number(parts[1]), _number(parts[-1])
    header_size = _number(parts[-2]) if has_header else 0
    if total > MAX_HELD_BYTES or header_size > total:
        raise MalformedFrameError("malformed_message", f"{total} bytes, {header_size} of them a header")
    stop = start + total + 2
    if len(data) < stop:
        return None, stop
    if data[stop - 2 : stop] != _END:
        raise MalformedFrameError("malformed_message", "its length is wrong")
    middle = start + header_size
    reply = parts[2] if len(parts) == 3 + sizes else ""
    return Delivery(parts[0], sid, reply, data[start:middle], data[middle : stop - 2]), stop


def _line(word: bytes, rest: bytes) -> Line:
    if word not in (b"INFO", b"PING", b"PONG", b"+OK", b"-ERR"):
        raise MalformedFrameError("unknown_operation", word[:20].decode("ascii", "replace"))
    return Line(word.decode(), rest.decode("utf-8", "replace").strip())


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise MalformedFrameError("malformed_message", f"{text[:20]!r} is not a number")
    return int(text)


def place_of(reply: str) -> Place | None:
    """Return the place in the reply subject of a consumer's message; None for another subject.

    `$JS.ACK.STREAM.CONSUMER.TRIES.STREAM_SEQ.CONSUMER_SEQ.NANOSECONDS.PENDING`; in a domain with two more fields after ACK.
    """
    if not reply.startswith(_ACK):
        return None
    fields = reply.split(".")
    first = 5 if len(fields) == 9 else 7
    if len(fields) != 9 and not 11 <= len(fields) <= 12:
        return None
    wanted = fields[first], fields[first + 1], fields[first + 3]
    if not all(field.isascii() and field.isdigit() and len(field) <= 18 for field in wanted):
        return None
    return Place(*map(int, wanted))


def status_of(header: bytes) -> tuple[int, dict[str, str]]:
    """Return the status of a header block (0: it has none), and its fields. Never raises."""
    first, *lines = header.decode("utf-8", "replace").split("\r\n")
    status = first.removeprefix(_HEADER_LINE.decode()).strip()[:3]
    found = (line.partition(":") for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, _, value in found}
    return int(status) if status.isascii() and status.isdigit() else 0, fields


# --- what a client sends --------------------------------------------------------------------------------


def publish(subject: str, reply: str, payload: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a PUB, or with headers an HPUB."""
    to = f"{subject} {reply}" if reply else subject
    if not headers:
        return f"PUB {to} {len(payload)}\r\n".encode() + payload + _END
    block = _HEADER_LINE + _END + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items()) + _END
    return f"HPUB {to} {len(block)} {len(block) + len(payload)}\r\n".encode() + block + payload + _END


def subscribe(subject: str, sid: int) -> bytes:
    """Return a SUB."""
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    """Return an UNSUB."""
    return f"UNSUB {sid}\r\n".encode()
