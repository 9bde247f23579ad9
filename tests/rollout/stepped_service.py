"""A real mock whose day goes by on a stepped clock, met as a stranger: over HTTP and WebSockets, through a targets file.

Only what says what time it is to a rollout follows the clock: `generated_at` of the metrics. Tokens, heartbeats and deliveries
go by real time, and so do the runs that ask for them with POST and read the `Date` of the answers. What is read with GET, by
rollouts and by runs, has no `Date`.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from sim.base.clocks import Clock, iso
from sim.mock.app import Mock, MockOptions
from sim.mock.store import Store
from sim.server.deployment import Deployment
from sim.server.settings import RuntimeSettings, Switches

METRICS = "/internal/v1/spacetime/sync/metrics"
SESSION, ADMIN = "session-stepped", "stepped-adm1n"
VARIABLES = {"STEPPED_SESSION": SESSION, "STEPPED_ADMIN": ADMIN}
CAPS = "caps = { clients = 200, connects_per_s = 200.0, events_per_s = 200.0 }\n"
Message = dict[str, Any]
App = Callable[..., Awaitable[None]]
Send = Callable[[Message], Awaitable[None]]
Alter = Callable[[str, int, bytes], tuple[int, bytes]]  # of path, status and body: the status and body that are sent
_LIMIT_S = 20.0


def unaltered(path: str, status: int, body: bytes) -> tuple[int, bytes]:
    return status, body


@dataclass
class SteppedService:
    """The running service. `alter` may be set while it runs; it changes every HTTP answer."""

    url: str
    folder: Path
    name: str
    alter: Alter = field(default=unaltered)
    control_url: str = "http://127.0.0.1:9"  # where nobody answers

    @property
    def targets(self) -> Path:
        """The targets file, which names it."""
        return self.folder / "stepped-targets.toml"

    def write(self, kind: str = "staging", extra: str = "") -> Path:
        """Write the targets file again."""
        caps = "" if "caps" in extra else CAPS
        self.targets.write_text(
            f'[targets.{self.name}]\nkind = "{kind}"\nruntime_url = "{self.url}"\ncontrol_url = "{self.url}"\n'
            f'session_token_env = "STEPPED_SESSION"\nadmin_token_env = "STEPPED_ADMIN"\nmetrics_every_s = 1.0\n{caps}{extra}'
            f'\n[targets.control]\nkind = "{kind}"\nruntime_url = "{self.control_url}"\ncontrol_url = "{self.control_url}"\n'
            f'session_token_env = "STEPPED_SESSION"\n{CAPS}'
        )
        return self.targets

    def panel(self, name: str, **body: Any) -> Any:
        """Turn one of the mock's own switches, as `/_mock/<name>`."""
        answer = httpx.put(f"{self.url}/_mock/{name}", json=body, timeout=_LIMIT_S, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.contextmanager
def stepped_service(
    folder: Path,
    clock: Clock,
    *,
    kind: str = "staging",
    name: str = "stepped",
    extra: str = "",
    settings: RuntimeSettings | None = None,
    deployment: Deployment | None = None,
    switches: Switches | None = None,
) -> Iterator[SteppedService]:
    """Serve on a free port, with a targets file of `kind` in `folder` and its variables in the environment."""
    options = MockOptions(settings or RuntimeSettings(), switches or Switches(), ADMIN, deployment or Deployment())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        endpoints = SteppedService(f"http://127.0.0.1:{listener.getsockname()[1]}", folder, name)
        endpoints.write(kind, extra)

        def app() -> App:
            return _on_its_clock(Mock(options, Store(folder / "stepped-log.sqlite")).app(), clock, endpoints)

        with _variables(), _served(app, listener):
            yield endpoints


@contextlib.contextmanager
def _variables() -> Iterator[None]:
    before = {variable: os.environ.get(variable) for variable in VARIABLES}
    os.environ.update(VARIABLES)
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable) if value is None else os.environ.update({variable: value})


@contextlib.contextmanager
def _served(app: Callable[[], App], listener: socket.socket) -> Iterator[None]:
    """In a thread of its own, where it is also made, until the body has ended."""
    config = uvicorn.Config(
        app,
        factory=True,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="critical",
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        limit = time.monotonic() + _LIMIT_S
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < limit
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(_LIMIT_S)
        assert not thread.is_alive()


def _on_its_clock(app: App, clock: Clock, endpoints: SteppedService) -> App:
    async def stepped(scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started: Message = {}
        parts: list[bytes] = []

        async def held(message: Message) -> None:
            """Nothing is sent before all of it is there, as its length may change."""
            if message["type"] == "http.response.start":
                started.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            status, body = _told(scope["path"], started["status"], b"".join(parts), clock, endpoints)
            kept = [(key, value) for key, value in started["headers"] if key.lower() not in (b"content-length", b"date")]
            headers = [*kept, (b"content-length", str(len(body)).encode())]
            if scope["method"] != "GET":
                headers.append((b"date", format_datetime(datetime.now(UTC), usegmt=True).encode()))
            await send({**started, "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        await app(scope, receive, held)

    return stepped


def _told(path: str, status: int, body: bytes, clock: Clock, endpoints: SteppedService) -> tuple[int, bytes]:
    if path == METRICS and status == 200:
        said = json.loads(body)
        said["generated_at"] = iso(clock.now())
        body = json.dumps(said).encode()
    return endpoints.alter(path, status, body)
