"""A TCP proxy between clients and a runtime that breaks the network on purpose; it parses nothing.

One listening port is one `Group` of connections, all alike in what is wrong with them. What happens to bytes is one
`Pipe` each way: it keeps their order and holds a bounded number of them. When it may hold no more it reads no more, so
that whoever sends into a slow or stalled link is held up by TCP as by a real one. Conditions change while it runs.
"""

import asyncio
import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import cast

from sim.base.errors import IllegalMoveError
from sim.base.randomness import draw
from sim.drill.schedule import CALM, LinkConditions, Way

HELD_BYTES = 64 * 1024  # of one direction of one connection, and one read more; then it reads no more
_HOST = "127.0.0.1"
_BACKLOG = 4096
_PIECES_PER_S = 50  # in which a narrow way lets bytes through
_END_LIMIT_S, _END_POLL_S = 5.0, 0.01
_NO_WAIT_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: closing is a reset
_CALM_WAY = Way()


class FaultProxy:
    """All groups of one run, in front of one address. `seed` is that of the jitter."""

    def __init__(self, host: str, port: int, seed: int) -> None:
        self._address = (host, port)
        self._seed = seed
        self._groups: list[Group] = []

    async def open_group(self) -> "Group":
        """A new group with a listening port of its own."""
        group = Group(self._address, self._seed)
        self._groups.append(group)
        await group.open()
        return group

    def revert(self) -> None:
        """Nothing is wrong with any link any more; connections go on, but half-open ones are reset."""
        for group in self._groups:
            group.change(CALM)
            group.end_half_open()

    async def close(self) -> None:
        """Heal, reset every connection, close every port; raises `IllegalMoveError` if anything of ours is left after that."""
        self.revert()
        for group in self._groups:
            await group.close()
        if left := self.leftovers():
            raise IllegalMoveError(f"the fault proxy has ended, but it left {', '.join(left)}.")

    def leftovers(self) -> list[str]:
        """What is still open or wrong, in words; nothing when all is as if it had never been."""
        return [words for group in self._groups for words in group.leftovers()]


class Group:
    """The connections that came over one port."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address = address
        self.seed = seed
        self.port = 0
        self.conditions = CALM
        self.connections: dict[int, Connection] = {}
        self.held: set[Connection] = set()  # half-open ones whose other side is still there
        self._server: asyncio.Server | None = None
        self._opened = 0
        self._watching: list[tuple[str, set[int]]] = []

    async def open(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, _HOST, 0, backlog=_BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self) -> "Side":
        self._opened += 1
        return Connection(self, self._opened).client

    @contextlib.contextmanager
    def watching(self, act: str) -> Iterator[set[int]]:
        """The connections to which something is done meanwhile: slowed, stalled, refused, cut or closed_late."""
        watch: tuple[str, set[int]] = (act, set())
        self._watching.append(watch)
        try:
            yield watch[1]
        finally:
            self._watching = [other for other in self._watching if other is not watch]

    def note(self, act: str, connection: int) -> None:
        """This was done to that connection."""
        for watched, numbers in self._watching:
            if watched == act:
                numbers.add(connection)

    def change(self, conditions: LinkConditions) -> None:
        """What is wrong with the group's links from now on."""
        self.conditions = conditions
        for connection in list(self.connections.values()):
            connection.up.change(conditions.to_runtime)
            connection.down.change(conditions.to_client)

    def reset(self) -> int:
        """Reset all open connections, under both sides; returns how many."""
        whole = [connection for connection in self.connections.values() if connection.is_whole]
        for connection in whole:
            connection.reset()
        return len(whole)

    def half_open(self, gone: str) -> "list[Connection]":
        """Take the client or the runtime away from all open connections; returns those left with one side."""
        whole = [connection for connection in self.connections.values() if connection.is_whole]
        for connection in whole:
            connection.half_open(gone)
        return whole

    def end_half_open(self) -> None:
        """Reset those of which one side is still there."""
        for connection in list(self.held):
            connection.reset()

    async def close(self) -> None:
        """Stop listening, and reset what is open."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections.values()):
            connection.reset()
        limit = asyncio.get_running_loop().time() + _END_LIMIT_S
        while self.connections and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(_END_POLL_S)

    def leftovers(self) -> list[str]:
        """See `FaultProxy`."""
        wrong = [f"conditions on port {self.port}"] if self.conditions != CALM else []
        count = len(self.connections)
        still_open = [f"{count} connections on port {self.port}"] if count else []
        listening = [f"port {self.port} open"] if self._server is not None and self._server.is_serving() else []
        return wrong + still_open + listening


class Connection:
    """One client's connection and the one to the runtime that belongs to it."""

    def __init__(self, group: Group, number: int) -> None:
        self.group = group
        self.number = number
        self.client, self.runtime = Side(self), Side(self)
        self.up = Pipe(group, number, "to_runtime", self.client, self.runtime)
        self.down = Pipe(group, number, "to_client", self.runtime, self.client)
        self._dialling: asyncio.Task[None] | None = None
        self._missing: Side | None = None  # of a half-open one
        group.connections[number] = self

    @property
    def is_whole(self) -> bool:
        """Open on both sides."""
        return self.client.is_open and self.runtime.is_open

    @property
    def is_held(self) -> bool:
        """Whether it is half-open, and its one side has not noticed yet."""
        return self in self.group.held

    def pipes(self, side: "Side") -> "tuple[Pipe, Pipe]":
        """From this side, and to it."""
        return (self.up, self.down) if side is self.client else (self.down, self.up)

    def made(self, side: "Side") -> None:
        """One side is connected. The client's is the first: it is refused, or the runtime is called."""
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
        except OSError:
            self.reset()

    def ended(self, side: "Side") -> None:
        """One side will send no more."""
        if self._missing is None:
            self.pipes(side)[0].end(reset=False)
        else:
            self.group.held.discard(self)
            side.close()

    def lost(self, side: "Side", error: Exception | None) -> None:
        """One side is gone for good, by itself if there was an `error`, and the other is to be told."""
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
        """Once both sides are gone."""
        if self.client.is_gone and self.runtime.is_gone:
            self.up.stop()
            self.down.stop()
            self.group.connections.pop(self.number, None)
            self.group.held.discard(self)

    def half_open(self, gone: str) -> None:
        """One side goes, and the other one hears nothing of it."""
        self._missing = self.client if gone == "client" else self.runtime
        self.group.held.add(self)
        self.up.discard()
        self.down.discard()
        self._missing.reset()

    def reset(self) -> None:
        """Reset both sides, or what there is of them."""
        if self._dialling is not None:
            self._dialling.cancel()
        self.group.held.discard(self)
        for pipe in (self.up, self.down):
            pipe.stop()
        for side in (self.client, self.runtime):
            side.reset()
        self.forget()


class Side(asyncio.Protocol):
    """One end of a connection, as the event loop drives it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._reads = True
        self.is_writable = False
        self.is_gone = False

    @property
    def is_open(self) -> bool:
        """Connected, and not being closed."""
        return self._transport is not None and not self.is_gone and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection is there."""
        self._transport = cast(asyncio.Transport, transport)
        if self.is_gone:  # given up while it was under way
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(HELD_BYTES)
        self.is_writable = True
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes for the other side."""
        self._connection.pipes(self)[0].feed(data)

    def eof_received(self) -> bool:
        """It will send no more; the other direction stays open."""
        self._connection.ended(self)
        return True

    def pause_writing(self) -> None:
        """It takes no more for now."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """It takes more again."""
        self.is_writable = True
        self._connection.pipes(self)[1].pump()

    def connection_lost(self, error: Exception | None) -> None:
        """Gone for good."""
        self.is_gone, self.is_writable = True, False
        self._connection.lost(self, error)

    def write(self, data: bytes) -> None:
        """To whoever is at this end."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def read_more(self, more: bool) -> None:
        """Read, or leave what comes to TCP."""
        if self._transport is None or more == self._reads or self.is_gone or self._transport.is_closing():
            return
        self._reads = more
        if more:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def finish(self) -> None:
        """Nothing more will come for this end."""
        if self.is_open and self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close in order, once everything is written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close at once, by a reset; what is not connected yet never will be."""
        if self._transport is None:
            self.is_gone = True
        if self._transport is None or self.is_gone:
            return
        with contextlib.suppress(OSError, ValueError):  # its descriptor may be closed, and it not know it yet
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_WAIT_ON_CLOSE)
        self._transport.abort()


class Pipe:
    """One direction of one connection: what was read waits here until it may be written."""

    def __init__(self, group: Group, number: int, name: str, source: Side, sink: Side) -> None:
        self._group = group
        self._number = number
        self._name = name
        self._source, self.sink = source, sink
        self._loop = asyncio.get_running_loop()
        self._way = _CALM_WAY
        self._queue: deque[tuple[float, bytes]] = deque()  # when it may go on, and what
        self.held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._free_at = 0.0
        self._last_due = 0.0
        self._passed = 0  # bytes, since the condition that counts them
        self._draws = 0
        self._end_at = math.inf  # when the end that came may be passed on
        self._is_reset = self._is_done = self._discards = False

    # --- what comes in ------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes were read."""
        if self._discards or self._is_done:
            return
        if self._way is _CALM_WAY and not self._queue and self.sink.is_writable:
            self.sink.write(data)
            return
        self._queue.append((self._due(), data))
        self.held_bytes += len(data)
        if self.held_bytes >= HELD_BYTES:
            self._source.read_more(False)
        self.pump()

    def end(self, *, reset: bool) -> None:
        """The source will send no more, in order or by a reset; the sink learns it behind what was sent before."""
        if self._end_at == math.inf:
            way = self._way
            self._end_at = max(self._loop.time() + way.latency_s, self._last_due) + way.close_delay_s
            if way.close_delay_s:
                self._group.note("closed_late", self._number)
        self._is_reset |= reset
        self.pump()

    def _due(self) -> float:
        """When bytes that come now may go on: never before those that came earlier."""
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

    # --- what goes on -------------------------------------------------------------------------------

    def change(self, way: Way) -> None:
        """What is wrong from now on. Bytes that are late already stay so; what was held goes on."""
        if way.cut_after_bytes != self._way.cut_after_bytes:
            self._passed = 0
        self._way = _CALM_WAY if way == _CALM_WAY else way
        self.pump()

    def pump(self) -> None:
        """Pass on what may go on now, and see to the rest in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_done or self._way.stalled:
            return
        while self._queue and self.sink.is_writable and not self._is_done:
            now = self._loop.time()
            wait_until = max(self._queue[0][0], self._free_at if self._way.bytes_per_s < math.inf else 0.0)
            if wait_until > now:
                self._timer = self._loop.call_at(wait_until, self.pump)
                break
            self._pass_on(now)
        if self.held_bytes < HELD_BYTES:
            self._source.read_more(True)
        if not self._queue and self._end_at < math.inf:
            self._pass_end()

    def _pass_on(self, now: float) -> None:
        """The next bytes, as many as may go at once."""
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
        if not self._is_reset and not self.sink.is_writable and not self.sink.is_gone:
            return  # what was written before it is not out yet, or nobody is there yet to be told
        self._is_done = True
        if self._is_reset:
            self.sink.reset()
            return
        self.sink.finish()
        connection = self._group.connections.get(self._number)
        if connection is not None and connection.up.is_done and connection.down.is_done:
            connection.client.close()
            connection.runtime.close()

    @property
    def is_done(self) -> bool:
        """Whether the end was passed on."""
        return self._is_done

    def discard(self) -> None:
        """From now on what comes is lost."""
        self.stop()
        self._is_done, self._discards = False, True
        self._way = _CALM_WAY
        self._source.read_more(True)

    def stop(self) -> None:
        """Nothing more will go this way; what waits is lost, and what comes is."""
        self._is_done = True
        self._queue.clear()
        self.held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
