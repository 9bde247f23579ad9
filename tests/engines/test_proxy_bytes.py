"""The fault proxy's bytes on real sockets: each condition, changed while it runs, and every byte in order."""

import asyncio
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.drill.fault_schedule import CALM, LinkConditions, Way
from sim.engines.sockets.proxy import MAX_HELD_BYTES
from tests.engines.proxied import STALLED, nothing_comes, on_uvloop, proxied, soon

READ_BYTES = 256 * 1024  # the most that one read brings


def numbered(count: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(count))


@on_uvloop
async def test_bytes_pass_both_ways_and_a_half_closed_connection_continues():
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
@on_uvloop
async def test_all_bytes_arrive_in_order_while_conditions_change(chunks: list[int], changes: list[tuple[Way, Way]]):
    sent = numbered(sum(chunks) // 4 + 1)

    async def send(writer: asyncio.StreamWriter) -> None:
        at = 0
        for size in chunks:
            writer.write(sent[at : at + size])
            at += size
            await asyncio.sleep(0.002)
        writer.write(sent[at:])
        writer.write_eof()

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


@on_uvloop
async def test_latency_and_bandwidth_apply_in_their_direction_only():
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


@on_uvloop
async def test_a_stall_delays_bytes_and_the_end_of_the_stream():
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


@on_uvloop
async def test_a_stalled_link_slows_its_sender_down_and_loses_nothing():
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


@on_uvloop
async def test_a_client_that_does_not_read_slows_its_sender_down_through_the_proxy():
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
