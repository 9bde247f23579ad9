"""A third-party sync service, written from the protocol alone, in another way, with the quirks of real servers.

Nothing here imports stormgate. HTTP is read by hand from asyncio streams, sockets are `websockets`' sans-I/O protocol. It
batches events, answers a subscribe before the replay, adds fields wherever it can, refuses numbers that are strings, sends
pings and no heartbeats, issues tokens that are no JWT, and refuses whatever else is asked over the socket. Control service and
runtime are on ports of their own.

    python thirdparty.py [--lose EVERY] [--metrics pinned|full|none|strings] [--log FILE] [--tls FILE]

SIGUSR1 cuts all sockets and shuts the door (503) until SIGUSR2. The log has a line for every upgrade and publish.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import signal
import ssl
import time
from collections import defaultdict
from typing import Any
from urllib.parse import parse_qs, unquote

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

SESSION, ADMIN = os.environ.get("THEIR_SESSION", "their-session"), os.environ.get("THEIR_ADMIN", "their-admin")
BATCH_S, PING_S = 0.03, 0.7


def parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    return method, target, headers


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Theirs:
    """The whole service."""

    def __init__(self, lose: int, metrics: str, log: str) -> None:
        self.lose, self.metrics = lose, metrics
        self.log = open(log, "a", buffering=1) if log else None  # noqa: SIM115 - it lives as long as the process
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.keys: dict[tuple[str, str], int] = {}
        self.tokens: dict[str, list[str]] = {}
        self.numbers = itertools.count(1)
        self.sockets: set[Socket] = set()
        self.is_shut = False
        self.totals: dict[str, int] = defaultdict(int)

    def note(self, what: str) -> None:
        if self.log:
            self.log.write(f"{what} {time.time():.6f}\n")

    def shut(self) -> None:
        self.is_shut = True
        for socket in list(self.sockets):
            socket.writer.transport.abort()

    def open(self) -> None:
        self.is_shut = False

    # --- HTTP ---------------------------------------------------------------------------------------

    def why(self, token: str) -> str:
        """The code for a token that is refused."""
        return "invalid_token"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, headers = parse(head[:-4])
                if headers.get("upgrade", "").lower() == "websocket":
                    await Socket(self, reader, writer).live(head, target)
                    return
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = self.answer(method, target.partition("?")[0], headers, body)
                reply(writer, status, answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        try:
            return self.route(method, path, headers.get("authorization", ""), body)
        except RefusedError as refusal:
            return refusal.status, {"error": {"code": refusal.code, "hint": None}, "request_id": "r-1"}

    def route(self, method: str, path: str, authorization: str, body: bytes) -> tuple[int, Any]:
        if self.is_shut:
            raise RefusedError(503, "shut")
        if path == "/readyz":
            return 200, {"ok": True}
        if path == "/api/spacetime/token" and method == "POST":
            return self.mint(authorization, json.loads(body))
        if path == "/internal/v1/spacetime/sync/metrics":
            return self.show_metrics(authorization)
        if path == "/internal/v1/runs" and method == "POST":
            run = f"R {next(self.numbers)}/ö"
            self.logs[f"run:{run}:events"] = []
            return 200, {"run": {"id": run, "state": "created", "labels": []}, "links": {}}
        if path.startswith("/internal/v1/runs/") and path.endswith("/events") and method == "POST":
            return self.append(unquote(path.split("/")[4]), json.loads(body))
        raise RefusedError(404, "not_found")

    def mint(self, authorization: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if authorization != f"Bearer {SESSION}":
            self.totals["auth_failures.unauthorized_total"] += 1
            raise RefusedError(401, "unauthorized")
        token = f"opaque.{next(self.numbers)}.{hashlib.sha256(os.urandom(8)).hexdigest()}/+="
        self.tokens[token] = asked.get("topics", [])
        return 200, {
            "data": {"token": token, "token_type": "Bearer", "expires_in": 300, "refresh_after_in": 270, "x": {}},
            "v": 2,
        }

    def append(self, run: str, asked: dict[str, Any]) -> tuple[int, Any]:
        self.note("publish")
        topic = f"run:{run}:events"
        if topic not in self.logs:
            raise RefusedError(404, "unknown_run")
        log, key = self.logs[topic], (topic, asked["idempotency_key"])
        if key not in self.keys:
            payload = {"äußeres": asked["payload"], "type": asked["event_type"]}
            digest = "sha256:" + hashlib.sha256(canonical(payload).encode()).hexdigest()
            log.append({"payload": payload, "payload_hash": digest})
            self.keys[key] = len(log)
            self.totals["mirror.published_total"] += 1
            for socket in self.sockets:
                socket.fresh(topic, len(log))
        return 202, {"event": {"seq": self.keys[key], "at": "now", "shard": 3}, "took_ms": 0.1}

    def show_metrics(self, authorization: str) -> tuple[int, Any]:
        if authorization != f"Bearer {ADMIN}":
            raise RefusedError(401, "unauthorized")
        if self.metrics == "none":
            raise RefusedError(404, "not_found")
        mirror = {"published_total": self.totals["mirror.published_total"], "duplicate_suppressed_total": 0}
        if self.metrics == "strings":
            mirror = {name: str(value) for name, value in mirror.items()}
        if self.metrics != "full":
            delivery = {"stream_count": len(self.logs), "event_count": sum(map(len, self.logs.values())), "region": "eu"}
            return 200, {"transport": "spacetime_ws", "mirror": mirror, "delivery": delivery, "leaked": f"Bearer {ADMIN}"}
        delivery = {"active_consumers": len(self.sockets), "max_replay_lag": max(map(len, self.logs.values()), default=0)}
        return 200, {"transport": "spacetime_ws", "mirror": mirror, "delivery": delivery}

    def update(self, topic: str, seq: int) -> dict[str, Any]:
        return {
            "topic": topic,
            "doc_key": f"{topic}#{seq}",
            "doc_version": f"v{seq}",
            "watermark": seq,
            "hydration_required": False,
            "producer": {"pod": "a-1"},
            **self.logs[topic][seq - 1],
        }


def reply(writer: asyncio.StreamWriter, status: int, answer: Any) -> None:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


class Socket:
    """One connection."""

    def __init__(self, endpoints: Theirs, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.endpoints, self.reader, self.writer = endpoints, reader, writer
        self.ws = ServerProtocol()
        self.joined = False
        self.topics: set[str] = set()
        self.waiting: list[tuple[str, int]] = []

    async def live(self, head: bytes, target: str) -> None:
        token = self.token_of(target)
        if self.endpoints.is_shut or token not in self.endpoints.tokens:
            self.endpoints.note("refused")
            reply(
                self.writer,
                503 if self.endpoints.is_shut else 403,
                {"error": {"code": "shut" if self.endpoints.is_shut else self.endpoints.why(token)}},
            )
            return
        self.endpoints.note("upgrade")
        self.token = token
        self.granted = self.endpoints.tokens[token]
        self.ws.receive_data(head)
        (request,) = self.ws.events_received()
        assert isinstance(request, Request)
        self.ws.send_response(self.ws.accept(request))
        self.flush()
        self.endpoints.sockets.add(self)
        helpers = [asyncio.create_task(self.tail()), asyncio.create_task(self.ping())]
        try:
            while data := await self.reader.read(65536):
                self.ws.receive_data(data)
                for frame in self.ws.events_received():
                    if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                        self.take(json.loads(frame.data))
                self.flush()
                if self.ws.close_expected():
                    return
        except ConnectionError:
            pass
        finally:
            self.endpoints.sockets.discard(self)
            for helper in helpers:
                helper.cancel()

    @staticmethod
    def token_of(target: str) -> str:
        return parse_qs(target.partition("?")[2]).get("token", [""])[0]

    def flush(self) -> None:
        for data in self.ws.data_to_send():
            if data and not self.writer.transport.is_closing():
                self.writer.write(data)

    def push(self, event: str, payload: object, ref: str | None = None) -> None:
        self.ws.send_text(json.dumps(["1", ref, "sync:v1", event, payload]).encode())

    def ok(self, ref: str, **response: Any) -> None:
        self.push("phx_reply", {"status": "ok", "response": {**response, "server": "theirs/9"}, "trace": "t"}, ref)

    def error(self, ref: str, code: str) -> None:
        self.push("phx_reply", {"status": "error", "response": {"code": code, "message": "no", "docs": "https://x"}}, ref)

    def take(self, message: list[Any]) -> None:
        _, ref, channel, event, payload = message
        if (channel, event) == ("phoenix", "heartbeat"):
            self.ws.send_text(json.dumps([None, ref, "phoenix", "phx_reply", {"status": "ok", "response": {}}]).encode())
        elif event == "phx_join":
            if not isinstance(payload.get("schema_version", 1), int):
                return self.error(ref, "unsupported_schema_version")
            self.joined = True
            self.ok(ref, subscription_id="s", allowed_topics=self.granted, current_watermarks=[], motd="hi")
        elif event == "sync:subscribe" and self.joined:
            self.subscribe(ref, payload)
        else:
            self.error(ref, "mutation_not_allowed")
        return None

    def subscribe(self, ref: str, payload: dict[str, Any]) -> None:
        after = payload.get("resume_after", {})
        numbers = [*after.values(), payload.get("replay_batch_size", 1)]
        if not payload.get("topics") or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
            return self.error(ref, "bad_subscription")
        if set(payload["topics"]) - set(self.granted):
            return self.error(ref, "forbidden_topic")
        self.topics = set(payload["topics"])
        self.waiting.clear()
        self.ok(ref)
        heads = {topic: len(self.endpoints.logs[topic]) for topic in self.topics}
        found = [(topic, seq) for topic in sorted(self.topics) for seq in range(after.get(topic, 0) + 1, heads[topic] + 1)]
        self.batch(found, replay_complete=True, heads=heads)
        return None

    def fresh(self, topic: str, seq: int) -> None:
        if topic in self.topics:
            self.waiting.append((topic, seq))

    def batch(self, events: list[tuple[str, int]], replay_complete: bool, heads: dict[str, int]) -> None:
        lose = self.endpoints.lose
        kept = [event for event in events if not lose or event[1] % lose]
        updates = [self.endpoints.update(*event) for event in kept]
        marks = [{"topic": topic, "watermark": head, "epoch": 1} for topic, head in heads.items()]
        self.push(
            "sync:update_batch",
            {"updates": updates, "replay_complete": replay_complete, "head_watermarks": marks, "batch_id": 1},
        )

    async def tail(self) -> None:
        while True:
            await asyncio.sleep(BATCH_S)
            if self.waiting:
                events, self.waiting = self.waiting, []
                heads = {topic: max(seq for name, seq in events if name == topic) for topic, _ in events}
                self.batch(events, replay_complete=False, heads=heads)
                self.flush()

    async def ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self.ws.send_ping(b"?")
            self.flush()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lose", type=int, default=0)
    parser.add_argument("--metrics", default="pinned")
    parser.add_argument("--log", default="")
    parser.add_argument("--tls", default="")  # a file with a key and its certificate
    given = parser.parse_args()
    endpoints = Theirs(given.lose, given.metrics, given.log)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, endpoints.shut)
    loop.add_signal_handler(signal.SIGUSR2, endpoints.open)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if given.tls else None
    if tls:
        tls.load_cert_chain(given.tls)
    runtime, control = [await asyncio.start_server(endpoints.serve, "127.0.0.1", 0, backlog=1024, ssl=tls) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in (runtime, control)]
    print(*ports, flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
