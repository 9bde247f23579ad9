"""The mock's WebSocket endpoint: connects the simulated service to ASGI, with one writer task per socket.

A writer pulls a frame only after the socket accepted the previous one. Frames for a client that does not read therefore stay
in the service and count against its outbound queue. Replies do not count there: while more than `MAX_WAITING_FRAMES` wait
for a client, its socket is not read, and TCP slows the client down.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import msgspec

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.mock.process_limits import MAX_CACHED_BATCHES, MAX_WAITING_FRAMES
from sim.mock.revisions import Rollout
from sim.protocols import endings, events
from sim.protocols.adapter import TransportEnd
from sim.protocols.intents import Compatibility
from sim.protocols.profile import WireForms
from sim.server.closing import UpgradeRefusedError
from sim.server.runtime import DeliveryDownError, Runtime
from sim.server.tokens import TokenRefusedError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class _Signals:
    """Signals between a socket's reader and its writer."""

    reader: asyncio.Task[Any] | None
    something_to_send: asyncio.Event = field(default_factory=asyncio.Event)
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False  # nothing more is sent
    is_cut: bool = False  # the connection ends without a close frame

    def cut(self) -> None:
        """End the connection without a close frame: the endpoint returns."""
        self.is_cut = True
        if self.reader is not None:
            self.reader.cancel()

    def end(self) -> None:
        """Mark the end, and wake the reader and the writer for the last time."""
        self.is_over = True
        self.something_to_send.set()
        self.may_read.set()


class Sockets:
    """All open sockets of a mock."""

    def __init__(self, runtime: Runtime, rollout: Rollout, forms: WireForms) -> None:
        self._runtime = runtime
        self._rollout = rollout
        self._forms = forms
        self._lines: dict[int, _Signals] = {}
        self.held_back = 0  # clients whose sockets are not read at the moment
        self._texts: dict[tuple[int, str], tuple[events.Message, str]] = {}

    @property
    def longest_outbox(self) -> int:
        """The maximum number of frames that wait for one client, without its events."""
        return max(map(self._runtime.waiting, self._lines), default=0)

    def kick(self) -> None:
        """Wake the writers of all connections with frames to send."""
        for number in self._runtime.ready():
            if line := self._lines.get(number):
                line.something_to_send.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve the socket's path as an ASGI endpoint."""
        await receive()  # websocket.connect
        self._runtime.counters.upgrades += 1
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        refusal = self._rollout.limits.connect_refusal(time.time()) if "token" in query else None
        if refusal is not None:
            await self._deny(send, refusal.status, refusal.code, refusal.retry_after_ms)
            return
        try:
            number = self._runtime.open(query.get("token"), _compatibility(query), time.time())
        except TokenRefusedError as error:
            await self._deny(send, 403, error.code)
            return
        except DeliveryDownError:
            await self._deny(send, 503)
            return
        except UpgradeRefusedError as error:
            await self._deny(send, error.end.status or 503, retry_after_ms=error.retry_after_ms or None)
            return
        line = self._lines[number] = _Signals(asyncio.current_task())
        writer: asyncio.Task[None] | None = None
        try:
            await send({"type": "websocket.accept"})
            writer = asyncio.create_task(self._write(number, line, send))
            await self._read(number, line, receive, send)
        except OSError:  # the client disconnected; uvicorn's ClientDisconnected is one
            pass
        except asyncio.CancelledError:
            if not line.is_cut:
                raise
        finally:
            self._runtime.close(number)
            del self._lines[number]
            line.end()
            if writer is not None:
                writer.cancel()

    async def _deny(self, send: Send, status: int, code: str = "", retry_after_ms: float | None = None) -> None:
        """Refuse the upgrade. The body contains the code and the hint, if any, unless the protocol's refusals are bare."""
        error: dict[str, object] = {"code": code} if code else {}
        error |= {} if retry_after_ms is None else {"retry_after_ms": retry_after_ms}
        body = msgspec.json.encode({"error": error} if error else {}) if self._runtime.profile.states_refusals else b""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if retry_after_ms is not None:
            headers.append((b"retry-after", str(math.ceil(retry_after_ms / 1000)).encode()))
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})

    async def _read(self, number: int, line: _Signals, receive: Receive, send: Send) -> None:
        max_bytes = self._runtime.settings.longest_frame_kib * 1024
        while (message := await receive())["type"] == "websocket.receive":
            now = time.time()
            text = message.get("text")
            try:
                data = message["bytes"] if text is None else text.encode()
                intent = self._forms.read(data, text is not None, max_bytes)
            except BrokenMessageError as error:  # the message was read completely, so the sender gets the close frame
                await send({"type": "websocket.close", "code": error.status})
                return
            except MalformedFrameError as error:
                self._runtime.malformed(number, error.code, now)
            else:
                self._runtime.received(number, intent, now)
            self.kick()
            if self._runtime.waiting(number) > MAX_WAITING_FRAMES:
                await self._wait_until_drained(number, line)

    async def _wait_until_drained(self, number: int, line: _Signals) -> None:
        self.held_back += 1
        try:
            while self._runtime.waiting(number) > MAX_WAITING_FRAMES and not line.is_over:
                line.may_read.clear()
                await line.may_read.wait()
        finally:
            self.held_back -= 1

    async def _write(self, number: int, line: _Signals, send: Send) -> None:
        try:
            while True:
                await line.something_to_send.wait()
                line.something_to_send.clear()
                while (message := self._runtime.pull(number, time.time())) is not None:
                    await send({"type": "websocket.send", "text": self._text(message, self._runtime.channel(number))})
                    line.may_read.set()
                if self._runtime.is_closing(number):
                    await self._close(self._runtime.closing.end_of(number), line, send)
                    return
        except (OSError, KeyError, RuntimeError):  # the client disconnected
            return
        finally:
            line.end()

    async def _close(self, end: TransportEnd, line: _Signals, send: Send) -> None:
        if end.code is None:
            line.cut()
        else:  # uvicorn sends a close frame without a code for None
            code = None if end.code == endings.NO_CODE else end.code
            await send({"type": "websocket.close", "code": code, "reason": end.reason})

    def _text(self, message: events.Message, channel: str) -> str:
        if not isinstance(message[0], events.Batch):
            return self._forms.write(message, channel)
        kept = self._texts.get((id(message), channel))
        if kept is not None and kept[0] is message:
            return kept[1]
        text = self._forms.write(message, channel)
        if len(self._texts) >= MAX_CACHED_BATCHES:
            self._texts.clear()
        self._texts[id(message), channel] = (message, text)
        return text


def _compatibility(query: dict[str, str]) -> Compatibility:
    return Compatibility(
        client=query.get("client", ""),
        client_build_id=query.get("client_build_id", ""),
        protocol_version=query.get("protocol_version", ""),
        schema_version=query.get("schema_version"),
    )
