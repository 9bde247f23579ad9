"""A server that answers every request with bytes made to harm its reader. It sends until the reader hangs up."""

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_MOST_BYTES = 1 << 30  # sent in one answer, should nobody hang up


def _endless_body(send: Callable[[bytes], None]) -> None:
    send(_OK + b"Connection: close\r\n\r\n")
    while True:
        send(b"x" * 65_536)


def _endless_chunks(send: Callable[[bytes], None]) -> None:
    send(_OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")


def _large_length(send: Callable[[bytes], None]) -> None:
    send(_OK + b"Content-Length: 9999999999999\r\n\r\n")
    while True:
        send(b"x" * 65_536)


def _endless_header(send: Callable[[bytes], None]) -> None:
    send(_OK + b"X-Header: ")
    while True:
        send(b"x" * 65_536)


def _endless_headers(send: Callable[[bytes], None]) -> None:
    send(_OK)
    while True:
        send(b"X-Header: x\r\n" * 5_000)


def _inflated(send: Callable[[bytes], None]) -> None:
    """One MiB of zeros again and again, about a kilobyte each on the wire."""
    packed = zlib.compressobj(wbits=31)
    send(_OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n")
    while True:
        send(packed.compress(bytes(1 << 20)) + packed.flush(zlib.Z_SYNC_FLUSH))


def _trickle(send: Callable[[bytes], None]) -> None:
    send(_OK + b"Content-Length: 1000000\r\n\r\n")
    while True:
        send(b"x")
        time.sleep(0.05)


def _elsewhere(send: Callable[[bytes], None]) -> None:
    send(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/elsewhere\r\nContent-Length: 0\r\n\r\n")


def _small(send: Callable[[bytes], None]) -> None:
    body = gzip.compress(b"{}")
    send(_OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


ANSWERS: dict[str, Callable[[Callable[[bytes], None]], None]] = {
    "endless_body": _endless_body,
    "endless_chunks": _endless_chunks,
    "large_length": _large_length,
    "endless_header": _endless_header,
    "endless_headers": _endless_headers,
    "inflated": _inflated,
    "trickle": _trickle,
    "elsewhere": _elsewhere,
    "small": _small,
}


@dataclass
class Hostile:
    """A running server and how many bytes it has sent."""

    url: str
    sent: int = 0
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(answer: str) -> Iterator[Hostile]:
    """Serve one of `ANSWERS` on a free port until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = Hostile(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threading.Thread(target=_accept, args=(listener, answer, found), daemon=True).start()
    try:
        yield found
    finally:
        found.ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, answer: str, found: Hostile) -> None:
    while not found.ended.is_set():
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(peer, answer, found), daemon=True).start()


def _answer(peer: socket.socket, answer: str, found: Hostile) -> None:
    def send(data: bytes) -> None:
        if found.ended.is_set() or found.sent > _MOST_BYTES:
            raise OSError
        peer.sendall(data)
        found.sent += len(data)

    with peer:
        try:
            while peer.recv(65_536):
                ANSWERS[answer](send)
        except OSError:
            return
