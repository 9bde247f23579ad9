"""A hand-written HTTP server with wrong pages: no Date, an old one, slow, huge, or no HTTP at all."""

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

from tests.commands import serve


@dataclass(frozen=True)
class Page:
    """One answer. `date` None: the present; empty: none. `drip_s` is waited before each of its bytes after the first 20."""

    body: bytes = b"{}"
    status: int = 200
    kind: str = "application/json"
    date: str | None = None
    drip_s: float = 0.0
    more: dict[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        date = format_datetime(datetime.now(UTC), usegmt=True) if self.date is None else self.date
        headers = {"content-type": self.kind, "content-length": str(len(self.body)), "connection": "close", **self.more}
        headers |= {"date": date} if date else {}
        lines = [f"HTTP/1.1 {self.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass
class Asked:
    """One request: its path with the query, and its headers in lower case."""

    path: str
    headers: dict[str, str]


@contextmanager
def pages(answer: Callable[[Asked], Page]) -> Iterator[str]:
    """Serve what `answer` says; returns the address. It ends with the body."""
    over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = []
            while line := self.rfile.readline().strip():
                lines.append(line.decode("latin-1"))
            if not lines:
                return
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            page = answer(Asked(lines[0].split()[1], headers))
            wire = page.wire()
            whole = 20 if page.drip_s else len(wire)
            with contextlib.suppress(OSError):
                self.wfile.write(wire[:whole])
                for at in range(whole, len(wire)):
                    if over.wait(page.drip_s):
                        return
                    self.wfile.write(wire[at : at + 1])

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        try:
            yield from serve(server)
        finally:
            over.set()
