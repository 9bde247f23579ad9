"""A mock in a process of its own, used as a foreign client would use it: HTTP by httpx, frames written by hand."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from sim.protocols import registry

LIMIT_S = 20.0
BUILD = "20260601T000000Z"
JOIN = {"protocol_version": "spacetime.sync.v1", "schema_version": 1, "client_build_id": BUILD}
ADMIN = {"Authorization": "Bearer mock-admin"}


@dataclass
class Served:
    """A running mock. `log` is its stderr."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=LIMIT_S, trust_env=False)

    def token_response(self, session: str = "session-ann", **body: Any) -> httpx.Response:
        return self.http.post("/api/spacetime/token", headers={"Authorization": f"Bearer {session}"}, json=body)

    def token(self, *topics: str, **body: Any) -> str:
        answer = self.token_response(topics=list(topics), **body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["token"])

    def run(self) -> str:
        return str(self.http.post("/internal/v1/runs", json={"worker_id": "w"}).json()["run"]["id"])

    def publish(self, run: str, payload: object = None, event_type: str = "run.progress", **body: Any) -> httpx.Response:
        body = {"event_type": event_type, "payload": payload, **body}
        return self.http.post(f"/internal/v1/runs/{run}/events", json=body)

    def switch(self, **switches: Any) -> None:
        self.put("switches", **switches)

    def put(self, name: str, **body: Any) -> dict[str, Any]:
        """Change the running mock by one of its admin routes."""
        answer = self.http.put(f"/_mock/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def append(self, run: str, count: int = 1) -> str:
        """Publish this many events with their numbers as payloads; returns the run's topic."""
        for number in range(count):
            assert self.publish(run, number).status_code == 201
        return f"run:{run}:events"

    def state(self) -> dict[str, Any]:
        return dict(self.http.get("/_mock/state").json())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT_S)


@contextmanager
def serving(
    folder: Path,
    settings: dict[str, Any] | None = None,
    before: Callable[[], None] | None = None,
    port: int = 0,
    deployment: dict[str, Any] | None = None,
    protocol: str = registry.DEFAULT,
    **more: Any,
) -> Iterator[Served]:
    """Serve on a free port with its log in `folder`; `more` are switches. The mock ends when its pipe closes."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "settings": settings or {},
        "switches": more,
        "deployment": deployment or {},
        "port": port,
        "protocol": protocol,
        "state": str(folder / "log.sqlite"),
        "exit_with_stdin": True,
    }
    log = folder / "runtime.log"
    command = [sys.executable, "-m", "sim.mock.server", json.dumps(options)]
    pipe = subprocess.PIPE
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, preexec_fn=before)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "listening on http://" in line, log.read_text()
        served = Served(process, line.split("listening on ")[1].split()[0], log)
        with served.http:
            yield served
    finally:
        process.stdin.close()
        try:
            process.wait(LIMIT_S)
        finally:
            process.kill()
            process.stdout.close()


class Raw:
    """One WebSocket, every frame by hand."""

    def __init__(self, served: Served, token: str | None, **options: Any) -> None:
        query = f"?token={token}&vsn=2.0.0" if token is not None else "?vsn=2.0.0"
        url = served.url.replace("http", "ws", 1) + "/sync/socket/websocket" + query
        self.opening = connect(url, ping_interval=None, proxy=None, max_size=None, **options)
        self.refs = 0

    def __enter__(self) -> "Raw":
        self.socket: ClientConnection = self.opening.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, event: str, payload: object, channel: str = "sync:v1") -> str:
        self.refs += 1
        self.socket.send(json.dumps(["1", str(self.refs), channel, event, payload]))
        return str(self.refs)

    def receive(self) -> list[Any]:
        """The next frame: [join_ref, ref, topic, event, payload]."""
        return list(json.loads(self.socket.recv(timeout=LIMIT_S)))

    def until(self, event: str, where: Callable[[Any], bool] = lambda payload: True) -> Any:
        """The payload of the next frame of this event that fits; others are passed over."""
        while True:
            frame = self.receive()
            if frame[3] == event and where(frame[4]):
                return frame[4]

    def ask(self, event: str, payload: object, channel: str = "sync:v1") -> tuple[str, dict[str, Any], list[list[Any]]]:
        """Send and wait for the reply: its status, its response, and the frames that came before it."""
        ref = self.send(event, payload, channel)
        before = []
        while (frame := self.receive())[1] != ref:
            before.append(frame)
        assert frame[3] == "phx_reply"
        return frame[4]["status"], frame[4]["response"], before

    def join(self) -> dict[str, Any]:
        status, response, _ = self.ask("phx_join", JOIN)
        assert status == "ok", response
        return response

    def subscribe(self, *topics: str, **payload: Any) -> tuple[str, dict[str, Any], list[list[Any]]]:
        return self.ask("sync:subscribe", {"topics": list(topics), **payload})

    def updates(self, count: int) -> list[dict[str, Any]]:
        """The next `count` updates."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += self.until("sync:update_batch")["updates"]
        return found

    def to_the_end(self) -> list[list[Any]]:
        """All frames until the server closes."""
        frames = []
        try:
            while True:
                frames.append(self.receive())
        except ConnectionClosed:
            return frames


@contextmanager
def joined(served: Served, *topics: str, **body: Any) -> Iterator[Raw]:
    """A socket that has joined with a new token for these topics."""
    with Raw(served, served.token(*topics, **body)) as raw:
        raw.join()
        yield raw


def updates_in(frames: list[list[Any]]) -> list[dict[str, Any]]:
    return [update for frame in frames if frame[3] == "sync:update_batch" for update in frame[4]["updates"]]


def seqs(updates: list[dict[str, Any]]) -> list[int]:
    return [update["watermark"] for update in updates]
