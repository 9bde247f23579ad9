"""A fault proxy between a test's client and a server of the test's own."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

import pytest
import uvloop

from sim.drill.fault_schedule import Way
from sim.engines.sockets.proxy import FaultProxy, Group

LIMIT_S = 20.0  # for what happens at once on any machine
STALLED = Way(stalled=True)
P = ParamSpec("P")
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream:
    """Stands for the service: hands out the connections it accepted."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Stream] = asyncio.Queue()
        self._open: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Upstream":
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        await self.accepted.put((reader, writer))


@contextlib.asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Group, Callable[[], Awaitable[tuple[Stream, Stream]]]]]:
    """A proxy with one group, and a function that opens a connection through it; checks that nothing of it is left."""
    clients: list[asyncio.StreamWriter] = []
    async with Upstream() as upstream:
        proxy = FaultProxy("127.0.0.1", upstream.port, seed=1)
        group = await proxy.open_group()

        async def connect() -> tuple[Stream, Stream]:
            reader, writer = await asyncio.open_connection("127.0.0.1", group.port, limit=2**20)
            clients.append(writer)
            return (reader, writer), await asyncio.wait_for(upstream.accepted.get(), LIMIT_S)

        try:
            yield proxy, group, connect
        finally:
            await proxy.close()
            assert proxy.leftovers() == []
            assert group.connections == {}
            assert group.held == set()
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await asyncio.open_connection("127.0.0.1", group.port)
            for writer in clients:
                writer.transport.abort()


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def soon(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, LIMIT_S)


async def until(is_so: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not is_so():
            await asyncio.sleep(0.01)

    await soon(poll())


async def nothing_comes(reader: asyncio.StreamReader, wait_s: float = 0.2) -> bool:
    try:
        await asyncio.wait_for(reader.readexactly(1), wait_s)
    except TimeoutError:
        return True
    return False


async def is_reset(reader: asyncio.StreamReader) -> bool:
    try:
        return await soon(reader.read(2**20)) != b"" and await is_reset(reader)
    except ConnectionResetError:
        return True
