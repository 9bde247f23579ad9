"""The fault proxy on real sockets: each condition, changed while it runs; every byte in order; and nothing left of it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.base.clocks import WallClock
from sim.base.errors import IllegalMoveError
from sim.drill.fault_kinds import HalfOpenLinks, StallLinks
from sim.drill.schedule import CALM, LinkConditions, PlannedFault, Way
from sim.engines.sockets import proxy as proxies
from sim.engines.sockets.links import LinkActions
from sim.engines.sockets.proxy import MAX_HELD_BYTES, FaultProxy, Group

LIMIT_S = 20.0  # for what happens at once on any machine
READ_BYTES = 256 * 1024  # the most that one read brings
STALLED = Way(stalled=True)
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream:
    """Stands for the runtime: hands out the connections that came."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Stream] = asyncio.Queue()
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
        await self.came.put((reader, writer))


@contextlib.asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Group, Callable[[], Awaitable[tuple[Stream, Stream]]]]]:
    """A proxy with one group, and a way to open a connection through it; afterwards nothing of it must be left."""
    clients: list[asyncio.StreamWriter] = []
    async with Upstream() as upstream:
        proxy = FaultProxy("127.0.0.1", upstream.port, seed=1)
        group = await proxy.open_group()

        async def connect() -> tuple[Stream, Stream]:
            reader, writer = await asyncio.open_connection("127.0.0.1", group.port, limit=2**20)
            clients.append(writer)
            return (reader, writer), await asyncio.wait_for(upstream.came.get(), LIMIT_S)

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


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


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


def numbered(count: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(count))


# --- bytes --------------------------------------------------------------------------------------------


def test_bytes_pass_both_ways_and_a_half_closed_connection_goes_on():
    async def course() -> None:
        async with proxied() as (_, _, connect):
            (reader, writer), (up_reader, up_writer) = await connect()
            writer.write(b"question")
            writer.write_eof()
            assert await soon(up_reader.read()) == b"question"
            up_writer.write(b"answer")
            await asyncio.sleep(0.05)
            up_writer.write(b"s")
            up_writer.close()
            assert await soon(reader.read()) == b"answers"

    run(course())


WAYS = st.builds(
    Way,
    latency_s=st.sampled_from([0.0, 0.005]),
    jitter_s=st.sampled_from([0.0, 0.02]),
    bytes_per_s=st.sampled_from([float("inf"), 200_000.0]),
    stalled=st.booleans(),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    chunks=st.lists(st.integers(1, 9000), min_size=1, max_size=12),
    changes=st.lists(st.tuples(WAYS, WAYS), max_size=6),
)
def test_however_bytes_are_cut_and_conditions_change_they_arrive_in_order_and_all(
    chunks: list[int], changes: list[tuple[Way, Way]]
):
    sent = numbered(sum(chunks) // 4 + 1)

    async def send(writer: asyncio.StreamWriter) -> None:
        at = 0
        for size in chunks:
            writer.write(sent[at : at + size])
            at += size
            await asyncio.sleep(0.002)
        writer.write(sent[at:])
        writer.write_eof()

    async def course() -> None:
        async with proxied() as (_, group, connect):
            (reader, writer), (up_reader, up_writer) = await connect()
            sending = asyncio.gather(send(writer), send(up_writer))
            for up, down in changes:
                group.change(LinkConditions(up, down))
                await asyncio.sleep(0.005)
            group.change(CALM)
            assert await soon(up_reader.read()) == sent
            assert await soon(reader.read()) == sent
            await sending

    run(course())


def test_latency_and_narrowness_are_as_asked_in_their_direction_alone():
    async def course() -> None:
        loop = asyncio.get_running_loop()
        async with proxied() as (_, group, connect):
            (reader, writer), (up_reader, up_writer) = await connect()
            with group.observing("slowed") as slowed:
                group.change(LinkConditions(to_client=Way(latency_s=0.3)))
                writer.write(b"up")
                assert await soon(up_reader.readexactly(2)) == b"up"
                assert slowed == set()
                began = loop.time()
                up_writer.write(b"down")
                assert await soon(reader.readexactly(4)) == b"down"
                assert loop.time() - began >= 0.29
                assert slowed == {1}
            group.change(LinkConditions(to_client=Way(bytes_per_s=10_000)))
            began = loop.time()
            up_writer.write(b"x" * 5000)
            await soon(reader.readexactly(5000))
            assert loop.time() - began >= 0.39

    run(course())


def test_a_stall_holds_bytes_and_the_end_back_and_then_passes_them_on():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            (reader, writer), (up_reader, up_writer) = await connect()
            with group.observing("stalled") as stalled:
                group.change(LinkConditions(to_client=STALLED))
                writer.write(b"up")
                assert await soon(up_reader.readexactly(2)) == b"up"
                up_writer.write(b"down")
                up_writer.write_eof()
                assert await nothing_comes(reader)
                assert stalled == {1}
            group.change(CALM)
            assert await soon(reader.read()) == b"down"

    run(course())


def test_a_stalled_link_slows_its_sender_down_and_loses_nothing():
    async def course() -> None:
        loop = asyncio.get_running_loop()
        async with proxied() as (_, group, connect):
            (_, writer), (up_reader, _) = await connect()
            group.change(LinkConditions(to_runtime=STALLED))
            raw = writer.transport.get_extra_info("socket")
            other = socket.socket(fileno=socket.dup(raw.fileno()))
            other.setblocking(False)
            sent, block = 0, numbered(64 * 1024)
            quiet_since = loop.time()
            while loop.time() - quiet_since < 0.5:  # nothing more is taken for a while
                try:
                    sent += other.send(block[sent % len(block) :])
                    quiet_since = loop.time()
                except BlockingIOError:
                    pass
                await asyncio.sleep(0.001)
            assert 0 < group.connections[1].up.held_bytes < MAX_HELD_BYTES + READ_BYTES
            assert sent < 64 * 2**20
            group.change(CALM)
            got = await soon(up_reader.readexactly(sent))
            assert got == (block * (sent // len(block) + 1))[:sent]
            other.close()

    run(course())


def test_a_client_that_does_not_read_slows_its_sender_down_through_the_proxy():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            (reader, _), (_, up_writer) = await connect()
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            total = 32 * 2**20
            up_writer.write(b"x" * total)
            await asyncio.sleep(0.3)
            assert group.connections[1].down.held_bytes < MAX_HELD_BYTES + READ_BYTES
            assert up_writer.transport.get_write_buffer_size() > 0
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await soon(reader.readexactly(total))) == total

    run(course())


# --- connections --------------------------------------------------------------------------------------


def test_a_reset_reaches_both_sides_and_only_open_connections_count():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            (reader, _), (up_reader, _) = await connect()
            assert group.reset() == 1
            assert await is_reset(reader)
            assert await is_reset(up_reader)
            await until(lambda: not group.connections)
            assert group.reset() == 0

    run(course())


def test_a_connection_that_is_being_reset_may_be_reset_again():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            await connect()
            (connection,) = group.connections.values()
            connection.reset()
            connection.reset()
            await until(lambda: not group.connections)

    run(course())


def test_a_side_whose_descriptor_is_already_closed_is_reset():
    """The loop closes it a moment before it says so."""

    class Gone(asyncio.Transport):
        aborted = False

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return socket.socket(fileno=-1)  # "negative file descriptor"

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def abort(self) -> None:
            self.aborted = True

    async def course() -> None:
        group = Group(("127.0.0.1", 9), 1)
        side, transport = proxies.Connection(group, 1).client, Gone()
        group.change(LinkConditions(refuses=True))
        side.connection_made(transport)  # refused: reset
        assert transport.aborted

    run(course())


@pytest.mark.parametrize("gone", ["client", "runtime"])
def test_a_half_open_connection_keeps_one_side_until_that_closes(gone: str):
    async def course() -> None:
        async with proxied() as (_, group, connect):
            client, runtime = await connect()
            (left, left_writer), (missing, _) = (runtime, client) if gone == "client" else (client, runtime)
            (connection,) = group.half_open(gone)
            assert await is_reset(missing)
            left_writer.write(b"is anybody there?" * 10_000)
            assert await nothing_comes(left)
            assert connection.is_held
            left_writer.close()
            await until(lambda: not connection.is_held)
            await until(lambda: not group.connections)
            (reader, writer), (up_reader, _) = await connect()  # a new one is whole
            writer.write(b"hello")
            assert await soon(up_reader.readexactly(5)) == b"hello"
            assert not reader.at_eof()

    run(course())


def test_unnoticed_half_open_connections_are_reset_by_the_revert():
    async def course() -> None:
        async with proxied() as (proxy, group, connect):
            (reader, _), _ = await connect()
            (connection,) = group.half_open("runtime")
            assert proxy.leftovers() == [f"1 connections on port {group.port}", f"port {group.port} open"]
            proxy.revert()
            assert await is_reset(reader)
            assert not connection.is_held

    run(course())


def test_connects_are_refused_while_open_connections_continue():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            (_, writer), (up_reader, _) = await connect()
            with group.observing("refused") as refused:
                group.change(LinkConditions(refuses=True))
                try:
                    reader, _ = await asyncio.open_connection("127.0.0.1", group.port)
                    assert await is_reset(reader)
                except ConnectionResetError:
                    pass
                assert len(refused) == 1
            writer.write(b"still here")
            assert await soon(up_reader.readexactly(10)) == b"still here"
            group.change(CALM)
            await connect()

    run(course())


def test_a_connection_is_cut_after_its_bytes_and_another_is_not():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            first, other = await connect(), await connect()
            with group.observing("cut") as cut:
                group.change(LinkConditions(to_client=Way(cut_after_bytes=1000)))
                first[1][1].write(b"x" * 600)
                assert await soon(first[0][0].readexactly(600)) == b"x" * 600
                first[1][1].write(b"x" * 600)
                assert await is_reset(first[0][0])
                assert await is_reset(first[1][0])
                other[1][1].write(b"y" * 1000)
                assert await soon(other[0][0].readexactly(1000)) == b"y" * 1000
                assert cut == {1}

    run(course())


def test_a_close_is_delayed_and_bytes_are_not():
    async def course() -> None:
        loop = asyncio.get_running_loop()
        async with proxied() as (_, group, connect):
            (_, writer), (up_reader, _) = await connect()
            with group.observing("closed_late") as late:
                group.change(LinkConditions(to_runtime=Way(close_delay_s=0.4)))
                began = loop.time()
                writer.write(b"bye")
                writer.close()
                assert await soon(up_reader.readexactly(3)) == b"bye"
                assert await soon(up_reader.read()) == b""
                assert loop.time() - began >= 0.39
                assert late == {1}

    run(course())


def test_a_client_that_resets_is_a_reset_for_the_runtime():
    async def course() -> None:
        async with proxied() as (_, group, connect):
            (_, writer), (up_reader, _) = await connect()
            raw = writer.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, proxies._NO_WAIT_ON_CLOSE)
            writer.transport.abort()
            assert await is_reset(up_reader)
            await until(lambda: not group.connections)

    run(course())


def test_the_end_of_a_connection_takes_as_long_as_its_bytes_and_comes_behind_them():
    async def course() -> None:
        loop = asyncio.get_running_loop()
        async with proxied() as (_, group, connect):
            (_, writer), (up_reader, _) = await connect()
            (_, other_writer), (other_reader, _) = await connect()
            group.change(LinkConditions(to_runtime=Way(latency_s=0.3)))
            began = loop.time()
            other_writer.write_eof()
            writer.write(b"last words")
            await asyncio.sleep(0.1)
            raw = writer.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, proxies._NO_WAIT_ON_CLOSE)
            writer.transport.abort()
            assert await soon(up_reader.readexactly(10)) == b"last words"
            assert await is_reset(up_reader)
            assert await soon(other_reader.read()) == b""
            assert loop.time() - began >= 0.39

    run(course())


def test_an_unreachable_service_is_a_reset_for_the_client():
    async def course() -> None:
        async with Upstream() as upstream:
            proxy = FaultProxy("127.0.0.1", upstream.port, seed=1)
        group = await proxy.open_group()
        reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
        assert await is_reset(reader)
        writer.close()
        await proxy.close()

    run(course())


# --- nothing is left ----------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["connect", "close", "abort", "stall", "calm", "reset", "half", "late", "eof"]), max_size=25))
def test_closing_leaves_nothing_open_in_any_state(doings: list[str]):
    async def course() -> None:
        async with proxied() as (_, group, connect):
            streams: list[Stream] = []
            for doing in doings:
                if doing == "connect":
                    streams += await connect()
                elif doing in ("close", "abort", "eof") and streams:
                    _, writer = streams.pop(len(streams) // 2)
                    if writer.transport.is_closing():
                        continue
                    writer.write(b"last words")
                    if doing == "eof":
                        with contextlib.suppress(OSError):
                            writer.write_eof()
                    else:
                        writer.close() if doing == "close" else writer.transport.abort()
                elif doing == "reset":
                    group.reset()
                elif doing == "half":
                    group.half_open("client")
                elif doing in ("stall", "calm", "late"):
                    ways = {"stall": STALLED, "calm": Way(), "late": Way(latency_s=0.05, close_delay_s=5.0)}
                    group.change(LinkConditions(ways[doing], ways[doing]))
                await asyncio.sleep(0.002)

    run(course())


def test_what_a_close_leaves_open_is_reported_as_a_defect_of_ours(monkeypatch: pytest.MonkeyPatch):
    async def course() -> None:
        async with Upstream() as upstream:
            proxy = FaultProxy("127.0.0.1", upstream.port, seed=1)
            group = await proxy.open_group()
            group.change(LinkConditions(to_client=STALLED))
            assert proxy.leftovers() == [f"conditions on port {group.port}", f"port {group.port} open"]
            monkeypatch.setattr(Group, "close", lambda self: asyncio.sleep(0))
            with pytest.raises(IllegalMoveError, match=f"left port {group.port} open"):
                await proxy.close()
            monkeypatch.undo()
            await proxy.close()

    run(course())


def test_an_interrupted_fault_is_reverted():
    async def course() -> None:
        async with Upstream() as upstream:
            faults = (StallLinks(at_s=0.0, for_s=60.0), HalfOpenLinks(at_s=0.0, for_s=60.0, gone="runtime"))
            plan = [PlannedFault(index, fault, 0.0, 60.0, (0, 1)) for index, fault in enumerate(faults)]
            links = await LinkActions.open(plan, f"ws://127.0.0.1:{upstream.port}/sync", 1)
            port = links.port_of(0)
            assert port == links.port_of(1)
            assert links.port_of(2) is None
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await soon(upstream.came.get())
            clock = WallClock()
            acting = [asyncio.ensure_future(links.act(planned, clock.now(), clock)) for planned in plan]
            (group,) = links._groups.values()
            await until(lambda: group.conditions != CALM and bool(group.held))
            for task in acting:
                task.cancel()
            await asyncio.wait(acting)
            links.revert()
            assert group.conditions == CALM
            assert await is_reset(reader)
            writer.close()
            await links.close()

    run(course())


def test_without_a_network_fault_there_is_no_proxy():
    async def course() -> None:
        links = await LinkActions.open((), "ws://127.0.0.1:9/sync", 1)
        assert links._proxy is None
        assert links.port_of(0) is None
        links.revert()
        await links.close()

    run(course())
