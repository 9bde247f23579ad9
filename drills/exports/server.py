"""Serves the metrics and the verdict of a running drill or hold over HTTP.

/metrics       for Prometheus, as OpenMetrics or in its text format
/verdict.json  the state of the verdict, always with status 200
/go            the same with status 200 for a go, else 409: for tools that only read the status
/no-go         the same with status 200 for a no-go, else 409
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from drills.exports.live import Live
from sim.base.errors import UsageError

LOOPBACK = "127.0.0.1"
_MAX_BODY_BYTES = 64 * 1024  # of a request; webhooks send some, and it is not read


@contextlib.contextmanager
def serving(live: Live, host: str, port: int) -> Iterator[str]:
    """Serve until the end of the block; yields the address. Port 0 is any free port. Raises `UsageError` for a taken port."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(live)
    handler = type("_Handler", (_Handler,), {"live": live, "registry": registry})
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--metrics-port {port}: cannot listen on {host}:{port} ({why}); give another port.") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def linger(seconds: float) -> None:
    """Go on serving for so long, or until Ctrl-C. The verdict is known, so an interruption changes nothing."""
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(seconds)


class _Handler(BaseHTTPRequestHandler):
    live: Live
    registry: CollectorRegistry
    timeout = 10.0  # for a client that sends nothing

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        state = self.live.verdict.state
        if path == "/metrics":
            encoder, media_type = choose_encoder(self.headers.get("Accept") or "")
            self._answer(200, media_type, encoder(self.registry))
        elif path == "/verdict.json":
            self._answer(200, "application/json", self.live.json())
        elif path in ("/go", "/no-go"):
            self._answer(200 if state == path[1:].replace("-", "_") else 409, "application/json", self.live.json())
        else:
            self._answer(404, "text/plain; charset=utf-8", b"there are /metrics, /verdict.json, /go and /no-go\n")

    def do_POST(self) -> None:
        """Answer like GET: webhooks of Flagger are POST requests."""
        length = self.headers.get("Content-Length") or "0"
        if length.isdigit() and int(length) <= _MAX_BODY_BYTES:
            self.rfile.read(int(length))
        self.do_GET()

    def _answer(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is for the run."""
