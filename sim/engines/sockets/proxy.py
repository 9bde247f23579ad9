"""A TCP proxy between clients and a service, which injects network faults. It does not parse the data.

Each listening port has one `Group` of connections with the same conditions. Each direction of a connection is a `Pipe`,
which keeps the order of bytes and holds a limited number of them. A full pipe stops reading, so that TCP slows the sender
down as on a real slow or stalled link. Conditions can change at any time.
"""

import asyncio
import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import cast

from sim.base.errors import IllegalMoveError, shortage
from sim.base.randomness import draw
from sim.drill.fault_schedule import CALM, LinkConditions, Way

MAX_HELD_BYTES = 64 * 1024  # per direction of a connection; one more read may exceed it
_HOST = "127.0.0.1"
_BACKLOG = 4096
_PIECES_PER_S = 50  # writes per second of a link with limited bandwidth
_END_LIMIT_S, _END_POLL_S = 5.0, 0.01
_NO_WAIT_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_CALM_WAY = Way()


class FaultProxy:
    """All groups of one run, in front of one address. `seed` is the seed of the jitter."""

    def __init__(self, host: str, port: int, seed: int) -> None:
        self._address = (host, port)
        self._seed = seed
        self._groups: list[Group] = []

    async def open_group(self) -> "Group":
        """Open a group with its own listening port."""
        group = Group(self._address, self._seed)
        self._groups.append(group)
        await group.open()
        return group

    def revert(self) -> None:
        """Revert all conditions. Connections continue, but half-open ones are reset."""
        for group in self._groups:
            group.change(CALM)
            group.end_half_open()

    async def close(self) -> None:
        """Revert, reset every connection and close every port; raise `IllegalMoveError` if anything is left open."""
        self.revert()
        for group in self._groups:
            await group.close()
        if left := self.leftovers():
            raise IllegalMoveError(f"the fault proxy was closed, but it left {', '.join(left)}.")

    def leftovers(self) -> list[str]:
        """Return what is still open or in force, in words; empty after a clean close."""
        return [left for group in self._groups for left in group.leftovers()]


class Group:
    """The connections of one listening port."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address = address
        self.seed = seed
        self.port = 0
        self.conditions = CALM
        self.connections: dict[int, Connection] = {}
        self.held: set[Connection] = set()  # half-open connections whose remaining side is still connected
        self._server: asyncio.Server | None = None
        self._opened = 0
        self._observers: list[tuple[str, set[int]]] = []

    async def open(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, _HOST, 0, backlog=_BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self) -> "Side":
        self._opened += 1
        return Connection(self, self._opened).client

    @contextlib.contextmanager
    def observing(self, effect: str) -> Iterator[set[int]]:
        """Collect the connections with this effect during the body: slowed, stalled, refused, cut or closed_late."""
        observer: tuple[str, set[int]] = (effect, set())
        self._observers.append(observer)
        try:
            yield observer[1]
        finally:
            self._observers = [other for other in self._observers if other is not observer]

    def note(self, effect: str, connection: int) -> None:
        """Report an effect on a connection to its observers."""
        for observed, numbers in self._observers:
            if observed == effect:
                numbers.add(connection)

    def change(self, conditions: LinkConditions) -> None:
        """Apply these conditions to the group's links."""
        self.conditions = conditions
        for connection in list(self.connections.values()):
            connection.up.change(conditions.to_runtime)
            connection.down.change(conditions.to_client)

    def reset(self) -> int:
        """Reset all open connections on both sides; return how many."""
        whole = [connection for connection in self.connections.values() if connection.is_whole]
        for connection in whole:
            connection.reset()
        return len(whole)

    def half_open(self, missing: str) -> "list[Connection]":
        """Remove the client's or the runtime's side of all open connections; return the half-open connections."""
        whole = [connection for connection in self.connections.values() if connection.is_whole]
        for connection in whole:
            connection.half_open(missing)
        return whole

    def end_half_open(self) -> None:
        """Reset the half-open connections."""
        for connection in list(self.held):
            connection.reset()

    async def close(self) -> None:
        """Stop listening, and reset the open connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections.values()):
            connection.reset()
        limit = asyncio.get_running_loop().time() + _END_LIMIT_S
        while self.connections and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(_END_POLL_S)

    def leftovers(self) -> list[str]:
        """See `FaultProxy`."""
        in_force = [f"conditions on port {self.port}"] if self.conditions != CALM else []
        count = len(self.connections)
        still_open = [f"{count} connections on port {self.port}"] if count else []
        listening = [f"port {self.port} open"] if self._server is not None and self._server.is_serving() else []
        return in_force + still_open + listening


class Connection:
    """A client's connection and its connection to the service."""

    def __init__(self, group: Group, number: int) -> None:
        self.group = group
        self.number = number
        self.client, self.runtime = Side(self), Side(self)
        self.up = Pipe(group, number, "to_runtime", self.client, self.runtime)
        self.down = Pipe(group, number, "to_client", self.runtime, self.client)
        self._dialling: asyncio.Task[None] | None = None
        self._missing: Side | None = None  # of a half-open connection
        group.connections[number] = self

    @property
    def is_whole(self) -> bool:
        """Whether the connection is open on both sides."""
        return self.client.is_open and self.runtime.is_open

    @property
    def is_held(self) -> bool:
        """Whether the connection is half-open and its remaining side has not noticed that."""
        return self in self.group.held

    def pipes(self, side: "Side") -> "tuple[Pipe, Pipe]":
        """Return the pipe from this side, and the pipe to it."""
        return (self.up, self.down) if side is self.client else (self.down, self.up)

    def made(self, side: "Side") -> None:
        """Handle a side that has connected. The client's side is the first: refuse it, or connect to the service."""
        if side is self.runtime:
            self.up.pump()
            return
        self.up.change(self.group.conditions.to_runtime)
        self.down.change(self.group.conditions.to_client)
        if self.group.conditions.refuses:
            self.group.note("refused", self.number)
            self.reset()
        else:
            self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.runtime, *self.group.address)
        except OSError as error:
            if (ours := shortage(error)) is not None:
                loop.call_exception_handler({"message": str(ours), "exception": ours})
            self.reset()

    def ended(self, side: "Side") -> None:
        """Handle the end of a side's data."""
        if self._missing is None:
            self.pipes(side)[0].end(reset=False)
        else:
            self.group.held.discard(self)
            side.close()

    def lost(self, side: "Side", error: Exception | None) -> None:
        """Handle the close of a side, a reset if there is an `error`, and pass it on to the other side."""
        out, back = self.pipes(side)
        back.stop()
        if self._missing is not None:
            if side is not self._missing:
                self.group.held.discard(self)
        elif not out.sink.is_open or (error is not None and out.is_done):
            self.reset()
        elif error is not None:
            out.end(reset=True)
        self.forget()

    def forget(self) -> None:
        """Remove the connection once both sides are closed."""
        if self.client.is_closed and self.runtime.is_closed:
            self.up.stop()
            self.down.stop()
            self.group.connections.pop(self.number, None)
            self.group.held.discard(self)

    def half_open(self, missing: str) -> None:
        """Reset one side without closing the other."""
        self._missing = self.client if missing == "client" else self.runtime
        self.group.held.add(self)
        self.up.discard()
        self.down.discard()
        self._missing.reset()

    def reset(self) -> None:
        """Reset both sides."""
        if self._dialling is not None and not self.runtime.is_made:  # uvloop does not report the end of a cancelled connection
            self._dialling.cancel()
        self.group.held.discard(self)
        for pipe in (self.up, self.down):
            pipe.stop()
        for side in (self.client, self.runtime):
            side.reset()
        self.forget()


class Side(asyncio.Protocol):
    """One side of a connection, driven by the event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._reads = True
        self.is_writable = False
        self.is_closed = False

    @property
    def is_made(self) -> bool:
        """Whether the side was connected, even if it is closed by now."""
        return self._transport is not None

    @property
    def is_open(self) -> bool:
        """Whether the side is connected and not closing."""
        return self._transport is not None and not self.is_closed and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        if self.is_closed:  # abandoned while it was connecting
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(MAX_HELD_BYTES)
        self.is_writable = True
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._connection.pipes(self)[0].feed(data)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. The other direction stays open."""
        self._connection.ended(self)
        return True

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.is_writable = True
        self._connection.pipes(self)[1].pump()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.is_closed, self.is_writable = True, False
        self._connection.lost(self, error)

    def write(self, data: bytes) -> None:
        """Write data to this side's peer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def read_more(self, more: bool) -> None:
        """Resume reading, or pause it and leave incoming bytes to TCP."""
        if self._transport is None or more == self._reads or self.is_closed or self._transport.is_closing():
            return
        self._reads = more
        if more:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def finish(self) -> None:
        """Send the end of the stream."""
        if self.is_open and self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close cleanly after everything is written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close at once with a reset. A side that is still connecting never opens."""
        if self._transport is None:
            self.is_closed = True
        if self._transport is None or self.is_closed:
            return
        with contextlib.suppress(OSError, ValueError):  # its descriptor may already be closed
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_WAIT_ON_CLOSE)
        self._transport.abort()


class Pipe:
    """One direction of a connection. It holds data that was read until it may be written."""

    def __init__(self, group: Group, number: int, name: str, source: Side, sink: Side) -> None:
        self._group = group
        self._number = number
        self._name = name
        self._source, self.sink = source, sink
        self._loop = asyncio.get_running_loop()
        self._way = _CALM_WAY
        self._queue: deque[tuple[float, bytes]] = deque()  # (earliest moment to write, data)
        self.held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._free_at = 0.0
        self._last_due = 0.0
        self._passed = 0  # bytes written since the start of the condition `cut_after_bytes`
        self._draws = 0
        self._end_at = math.inf  # when the end of the stream may be passed on
        self.is_done = False  # whether the end of the stream was passed on
        self._is_reset = self._discards = False

    # --- reading ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes that were read."""
        if self._discards or self.is_done:
            return
        if self._way is _CALM_WAY and not self._queue and self.sink.is_writable:
            self.sink.write(data)
            return
        self._queue.append((self._due(), data))
        self.held_bytes += len(data)
        if self.held_bytes >= MAX_HELD_BYTES:
            self._source.read_more(False)
        self.pump()

    def end(self, *, reset: bool) -> None:
        """Pass on the end of the source, clean or a reset, after the data that was sent before."""
        if self._end_at == math.inf:
            way = self._way
            self._end_at = max(self._loop.time() + way.latency_s, self._last_due) + way.close_delay_s
            if way.close_delay_s:
                self._group.note("closed_late", self._number)
        self._is_reset |= reset
        self.pump()

    def _due(self) -> float:
        """Return the moment when bytes read now may be written, never before earlier bytes."""
        way = self._way
        if way.stalled:
            self._group.note("stalled", self._number)
        if way.latency_s or way.jitter_s or way.bytes_per_s < math.inf:
            self._group.note("slowed", self._number)
        due = self._loop.time() + way.latency_s
        if way.jitter_s:
            self._draws += 1
            due += way.jitter_s * draw(self._group.seed, f"jitter:{self._name}", self._number, self._draws)
        self._last_due = max(due, self._last_due)
        return self._last_due

    # --- writing ------------------------------------------------------------------------------------

    def change(self, way: Way) -> None:
        """Apply new conditions. Bytes that are already delayed keep their delay; stalled bytes continue."""
        if way.cut_after_bytes != self._way.cut_after_bytes:
            self._passed = 0
        self._way = _CALM_WAY if way == _CALM_WAY else way
        self.pump()

    def pump(self) -> None:
        """Write the data that may be written now, and set a timer for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_done or self._way.stalled:
            return
        while self._queue and self.sink.is_writable and not self.is_done:
            now = self._loop.time()
            wait_until = max(self._queue[0][0], self._free_at if self._way.bytes_per_s < math.inf else 0.0)
            if wait_until > now:
                self._timer = self._loop.call_at(wait_until, self.pump)
                break
            self._pass_on(now)
        if self.held_bytes < MAX_HELD_BYTES:
            self._source.read_more(True)
        if not self._queue and self._end_at < math.inf:
            self._pass_end()

    def _pass_on(self, now: float) -> None:
        """Write the next bytes, as many as the bandwidth and the byte limit allow."""
        due, data = self._queue.popleft()
        size = len(data)
        if self._way.bytes_per_s < math.inf:
            size = min(size, max(int(self._way.bytes_per_s / _PIECES_PER_S), 1))
        is_cut = self._passed + size > self._way.cut_after_bytes
        if is_cut:
            size = int(self._way.cut_after_bytes) - self._passed
        self.held_bytes -= size
        if size < len(data):
            self._queue.appendleft((due, data[size:]))
        if self._way.bytes_per_s < math.inf:
            self._free_at = now + size / self._way.bytes_per_s
        if self._way.cut_after_bytes < math.inf:
            self._passed += size
        self.sink.write(data[:size])
        if is_cut:
            self._group.note("cut", self._number)
            self._group.connections[self._number].reset()

    def _pass_end(self) -> None:
        now = self._loop.time()
        if self._end_at > now:
            self._timer = self._loop.call_at(self._end_at, self.pump)
            return
        if not self._is_reset and not self.sink.is_writable and not self.sink.is_closed:
            return  # earlier bytes are not written yet, or the sink is not connected yet
        self.is_done = True
        if self._is_reset:
            self.sink.reset()
            return
        self.sink.finish()
        connection = self._group.connections.get(self._number)
        if connection is not None and connection.up.is_done and connection.down.is_done:
            connection.client.close()
            connection.runtime.close()

    def discard(self) -> None:
        """Discard all bytes from now on."""
        self.stop()
        self.is_done, self._discards = False, True
        self._way = _CALM_WAY
        self._source.read_more(True)

    def stop(self) -> None:
        """Stop permanently; drop the waiting bytes and all later ones."""
        self.is_done = True
        self._queue.clear()
        self.held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
