"""The fault proxy's connections on real sockets: reset, refused, cut, half-open and closed late; and nothing is left open."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.base.errors import IllegalMoveError
from sim.drill.fault_kinds import HalfOpenLinks, StallLinks
from sim.drill.fault_schedule import CALM, LinkConditions, PlannedFault, Way
from sim.engines.sockets import proxy as proxies
from sim.engines.sockets.links import LinkActions
from sim.engines.sockets.proxy import FaultProxy, Group
from tests.engines.proxied import STALLED, Stream, Upstream, is_reset, nothing_comes, on_uvloop, proxied, soon, until


@on_uvloop
async def test_a_reset_reaches_both_sides_and_only_open_connections_count():
    async with proxied() as (_, group, connect):
        (reader, _), (up_reader, _) = await connect()
        assert group.reset() == 1
        assert await is_reset(reader)
        assert await is_reset(up_reader)
        await until(lambda: not group.connections)
        assert group.reset() == 0


@on_uvloop
async def test_a_connection_that_is_being_reset_may_be_reset_again():
    async with proxied() as (_, group, connect):
        await connect()
        (connection,) = group.connections.values()
        connection.reset()
        connection.reset()
        await until(lambda: not group.connections)


@on_uvloop
async def test_a_reset_in_the_moment_when_the_service_is_reached_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    """The loop still has to tell the task that dials that it has connected."""
    made = proxies.Connection.made

    def reset_at_once(connection: proxies.Connection, side: proxies.Side) -> None:
        made(connection, side)
        if side is connection.runtime:
            connection.reset()

    async with proxied() as (_, group, connect):
        with monkeypatch.context() as patch:
            patch.setattr(proxies.Connection, "made", reset_at_once)
            (reader, _), _ = await connect()
            assert await is_reset(reader)
            await until(lambda: not group.connections)


@on_uvloop
async def test_a_side_whose_descriptor_is_already_closed_is_reset():
    """The loop closes it a moment before it says so."""

    class Gone(asyncio.Transport):
        aborted = False

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return socket.socket(fileno=-1)  # "negative file descriptor"

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            pass

        def abort(self) -> None:
            self.aborted = True

    group = Group(("127.0.0.1", 9), 1)
    side, transport = proxies.Connection(group, 1).client, Gone()
    group.change(LinkConditions(refuses=True))
    side.connection_made(transport)  # refused: reset
    assert transport.aborted


@pytest.mark.parametrize("gone", ["client", "runtime"])
@on_uvloop
async def test_a_half_open_connection_keeps_one_side_until_that_closes(gone: str):
    async with proxied() as (_, group, connect):
        client, runtime = await connect()
        (left, left_writer), (missing, _) = (runtime, client) if gone == "client" else (client, runtime)
        (connection,) = group.half_open(gone)
        assert await is_reset(missing)
        left_writer.write(b"are you there?" * 10_000)
        assert await nothing_comes(left)
        assert connection.is_held
        left_writer.close()
        await until(lambda: not connection.is_held)
        await until(lambda: not group.connections)
        (reader, writer), (up_reader, _) = await connect()  # a new one is whole
        writer.write(b"hello")
        assert await soon(up_reader.readexactly(5)) == b"hello"
        assert not reader.at_eof()


@on_uvloop
async def test_unnoticed_half_open_connections_are_reset_by_the_revert():
    async with proxied() as (proxy, group, connect):
        (reader, _), _ = await connect()
        (connection,) = group.half_open("runtime")
        assert proxy.leftovers() == [f"1 connections on port {group.port}", f"port {group.port} open"]
        proxy.revert()
        assert await is_reset(reader)
        assert not connection.is_held


@on_uvloop
async def test_connects_are_refused_while_open_connections_continue():
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


@on_uvloop
async def test_a_connection_is_cut_after_its_bytes_and_another_is_not():
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


@on_uvloop
async def test_a_close_is_delayed_and_bytes_are_not():
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


@on_uvloop
async def test_a_client_that_resets_is_a_reset_for_the_runtime():
    async with proxied() as (_, group, connect):
        (_, writer), (up_reader, _) = await connect()
        raw = writer.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, proxies._NO_WAIT_ON_CLOSE)
        writer.transport.abort()
        assert await is_reset(up_reader)
        await until(lambda: not group.connections)


@on_uvloop
async def test_the_end_of_a_connection_is_delayed_and_comes_after_its_bytes():
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


@on_uvloop
async def test_an_unreachable_service_is_a_reset_for_the_client():
    async with Upstream() as upstream:
        proxy = FaultProxy("127.0.0.1", upstream.port, seed=1)
    group = await proxy.open_group()
    reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
    assert await is_reset(reader)
    writer.close()
    await proxy.close()


# --- nothing is left ----------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["connect", "close", "abort", "stall", "calm", "reset", "half", "late", "eof"]), max_size=25))
@on_uvloop
async def test_closing_leaves_nothing_open_in_any_state(actions: list[str]):
    async with proxied() as (_, group, connect):
        streams: list[Stream] = []
        for action in actions:
            if action == "connect":
                streams += await connect()
            elif action in ("close", "abort", "eof") and streams:
                _, writer = streams.pop(len(streams) // 2)
                if writer.transport.is_closing():
                    continue
                writer.write(b"last words")
                if action == "eof":
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                else:
                    writer.close() if action == "close" else writer.transport.abort()
            elif action == "reset":
                group.reset()
            elif action == "half":
                group.half_open("client")
            elif action in ("stall", "calm", "late"):
                ways = {"stall": STALLED, "calm": Way(), "late": Way(latency_s=0.05, close_delay_s=5.0)}
                group.change(LinkConditions(ways[action], ways[action]))
            await asyncio.sleep(0.002)


@on_uvloop
async def test_a_close_reports_what_it_left_open(monkeypatch: pytest.MonkeyPatch):
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


def ignore(kind: str, attempt: int = 0, value: float = 0.0, detail: str = "") -> None:
    pass


@on_uvloop
async def test_an_interrupted_fault_is_reverted():
    async with Upstream() as upstream:
        faults = (StallLinks(at_s=0.0, for_s=60.0), HalfOpenLinks(at_s=0.0, for_s=60.0, gone="runtime"))
        plan = [PlannedFault(index, fault, 0.0, 60.0, (0, 1)) for index, fault in enumerate(faults)]
        links = await LinkActions.open(plan, f"ws://127.0.0.1:{upstream.port}/sync", 1, {}, ignore)
        port = links.port_of(0)
        assert port == links.port_of(1)
        assert links.port_of(2) is None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await soon(upstream.accepted.get())
        (group,) = links._groups.values()
        await until(lambda: all(connection.is_whole for connection in group.connections.values()))
        for planned in plan:
            links.inject(planned)
        assert group.conditions != CALM
        assert len(group.held) == 1
        links.revert_all()
        assert group.conditions == CALM
        assert await is_reset(reader)
        writer.close()
        await links.close()


@on_uvloop
async def test_without_a_network_fault_there_is_no_proxy():
    links = await LinkActions.open((), "ws://127.0.0.1:9/sync", 1, {}, ignore)
    assert links._proxy is None
    assert links.port_of(0) is None
    links.revert_all()
    await links.close()
