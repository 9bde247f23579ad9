"""A small server of resumable streams over plain HTTP: SSE or long poll, with opaque positions. It imports nothing of ours.

    GET /streams/NAME?live=sse|poll&after=POSITION     Authorization: Bearer good
    SSE: `id: POSITION`, `data: JSON`; `event: up-to-date` ends what was missed; `: here` shows life.
    poll: 200 {"items": [[POSITION, JSON], ...], "next": POSITION, "upToDate": true}, or 204 after POLL_S.

401 without the token, 404 for an unknown stream, 410 for a position that it does not know.
"""

import asyncio
import hashlib
import json
import threading
from contextlib import suppress
from urllib.parse import parse_qs, unquote, urlsplit

POLL_S = 1.5
BEAT_S = 0.2


class StreamServer:
    """Serves on a free port of this machine, in a thread of its own. Use it as a context manager."""

    def __init__(self, *names, tls=None):
        self.logs = {name: [] for name in names}
        self.requests = []  # stream, form and position of each
        self.open = 0
        self.limit = None  # how many items one answer may hold
        self.keeps_connections = False  # after a poll
        self.hangs_up = False  # after a poll, although it did not say so
        self.connections = 0  # accepted
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)

    async def _stop(self):
        self._server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def append(self, name, payload):
        """Append a JSON value."""

        self.logs[name].append(json.dumps(payload))

    @staticmethod
    def position(name, count):
        return hashlib.sha256(f"{name} {count}".encode()).hexdigest()[:12]

    async def _serve(self, reader, writer):
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._answer(head, reader, writer)
                if not self.keeps_connections or self.hangs_up or "live=sse" in head:
                    break
        writer.close()

    async def _answer(self, head, reader, writer):
        line, *fields = head.split("\r\n")
        url = urlsplit(line.split()[1])
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        name = unquote(url.path.removeprefix("/streams/"))
        self.requests.append((name, query["live"], query.get("after")))
        if "authorization: bearer good" not in [field.lower() for field in fields]:
            return self._whole(writer, "401 Unauthorized", b"who are you?" * 10_000)
        if name not in self.logs:
            return self._whole(writer, "404 Not Found", b"no such stream")
        places = {self.position(name, count): count for count in range(len(self.logs[name]) + 1)}
        if query.get("after", self.position(name, 0)) not in places:
            return self._whole(writer, "410 Gone", b"")
        at = places[query["after"]] if "after" in query else 0
        self.open += 1
        try:
            await (self._stream if query["live"] == "sse" else self._poll)(name, at, reader, writer)
        finally:
            self.open -= 1

    def _whole(self, writer, status, body, kind="text/plain"):
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{self._keeping}\r\n"
        writer.write(head.encode() + body)

    @property
    def _keeping(self):
        return "" if self.keeps_connections else "Connection: close\r\n"

    async def _grows(self, name, at, within_s, reader):
        until = self._loop.time() + within_s
        while len(self.logs[name]) == at and self._loop.time() < until and not self._has_left(reader):
            await asyncio.sleep(0.01)

    @staticmethod
    def _has_left(reader):
        return reader.at_eof() or reader.exception() is not None

    async def _poll(self, name, at, reader, writer):
        if at == len(self.logs[name]) and at:
            await self._grows(name, at, POLL_S, reader)
        log = self.logs[name][: None if self.limit is None else at + self.limit]
        if at and at == len(log):
            writer.write(f"HTTP/1.1 204 No Content\r\n{self._keeping}\r\n".encode())
            return
        items = [[self.position(name, number + 1), json.loads(log[number])] for number in range(at, len(log))]
        up_to_date = len(log) == len(self.logs[name])
        body = {"items": items, "next": self.position(name, len(log)), "upToDate": up_to_date}
        self._whole(writer, "200 OK", json.dumps(body).encode(), "application/json")

    async def _stream(self, name, at, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        is_up_to_date = False
        while not self._has_left(reader):
            text = ""
            for number in range(at, len(self.logs[name])):
                text += f"id: {self.position(name, number + 1)}\ndata: {self.logs[name][number]}\n\n"
            at = len(self.logs[name])
            if not is_up_to_date:
                text, is_up_to_date = text + "event: up-to-date\ndata: {}\n\n", True
            for piece in (text[:7], text[7:]) if text else (": here\n\n",):  # in pieces that end anywhere
                if piece:
                    writer.write(f"{len(piece.encode()):x}\r\n{piece}\r\n".encode())
            await writer.drain()
            await self._grows(name, at, BEAT_S, reader)
