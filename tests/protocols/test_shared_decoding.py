"""Shared decoding: equal bytes give one object, and never another result than decoding each message by itself."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.events import Batch, Hash, Malformed, Message
from sim.protocols.payloads import canonical_json, payload_hash
from sim.protocols.shared_decoding import BoundedCache, SharedDecoding
from sim.protocols.spacetime.adapter import SpacetimeConnection
from sim.protocols.spacetime.codec import encode_server
from sim.protocols.spacetime.frames import Body, Envelope, HeartbeatPush, Reply, ServerFrame, Update, UpdateBatch, Watermark

RUN = "run:1:events"


def update(number: int) -> Update:
    payload = canonical_json({"number": number})
    return Update(RUN, msgspec.Raw(payload), number, payload_hash(payload))


def batch(number: int, join_ref: str = "1") -> bytes:
    return encode_server(UpdateBatch((update(number),), True, (Watermark(RUN, number),)), join_ref).encode()


FRAMES: list[ServerFrame] = [
    UpdateBatch((update(1),), True, (Watermark(RUN, 1),)),
    UpdateBatch((update(1), update(2)), False),
    Envelope(update(3)),
    HeartbeatPush((Watermark(RUN, 3),)),
    HeartbeatPush(),
    Reply("1", True, Body(subscription_id="s")),
    Reply("2", False, Body(code="forbidden")),
]


def test_cache_keeps_its_bounds_and_forgets_the_oldest():
    cache: BoundedCache[int, str] = BoundedCache(max_entries=8, max_bytes=80)
    for key in range(100):
        cache.put(key, "x", 1)
        assert cache.get(key) == "x"
        assert sum(cache.get(each) is not None for each in range(key + 1)) <= 8
    assert [key for key in range(100) if cache.get(key)][-4:] == [96, 97, 98, 99]
    for key in range(100, 200):
        cache.put(key, "x", 30)
        assert cache.get(key) == "x"
        assert sum(30 for each in range(100, key + 1) if cache.get(each)) <= 80
    cache.put(200, "x", 41)  # it alone would displace half of the cache
    assert cache.get(200) is None


def test_empty_cache_keeps_nothing():
    cache: BoundedCache[int, str] = BoundedCache(max_entries=0)
    cache.put(1, "x", 0)
    assert cache.get(1) is None


@st.composite
def scripts(draw: st.DrawFn) -> list[bytes]:
    """Frames that repeat, some with one byte changed, and some in another client's envelope."""
    out = []
    for _ in range(draw(st.integers(1, 12))):
        data = bytearray(encode_server(draw(st.sampled_from(FRAMES)), draw(st.sampled_from(("1", "2")))).encode())
        if draw(st.integers(0, 3)) == 0:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        out.append(bytes(data))
    return out


@given(scripts())
def test_shared_decoding_gives_what_each_message_means_by_itself(script: list[bytes]):
    shared = SharedDecoding()
    clients = [SpacetimeConnection("", shared), SpacetimeConnection("", shared)]
    alone = SpacetimeConnection("", SharedDecoding(max_entries=0))
    for data in script:
        expected = alone.received(0, data, True)
        for client in clients:
            assert client.received(0, data, True) == expected


def test_equal_messages_are_decoded_once():
    shared = SharedDecoding()
    one, other = (SpacetimeConnection("", shared).received(0, batch(1), True) for _ in range(2))
    assert one is other
    assert SpacetimeConnection("", shared).received(0, batch(2), True) is not one


def test_equal_payloads_in_different_envelopes_are_decoded_once():
    shared = SharedDecoding()
    messages = [SpacetimeConnection("", shared).received(0, batch(1, join_ref), True) for join_ref in "123123"]
    assert all(message is messages[0] for message in messages)


@pytest.mark.parametrize("place", [b'"number":1', b'"topic":"run', b'"payload_hash":"sha256:', b"sync:update_batch", b"]"])
def test_damaged_copy_is_never_taken_for_the_intact_message(place: bytes):
    shared, intact = SharedDecoding(), batch(1)
    good = SpacetimeConnection("", shared).received(0, intact, True)
    damaged = intact[: (at := intact.rindex(place) + len(place) - 1)] + b"9" + intact[at + 1 :]
    for _ in range(2):
        got: Message = SpacetimeConnection("", shared).received(0, damaged, True)
        assert got != good
        assert SpacetimeConnection("", shared).received(0, intact, True) is good
    if place == b'"number":1':
        (items,) = (event.items for event in got if isinstance(event, Batch))
        assert items[0].check is Hash.BAD
    if place == b"]":
        assert got == (Malformed("malformed_frame"),)


def test_an_answer_is_not_shared():
    """What an answer means depends on what its client asked."""
    shared = SharedDecoding()
    reply = encode_server(Reply("1", True, Body(subscription_id="s")), "1").encode()
    first = SpacetimeConnection("", shared).received(0, reply, True)
    assert SpacetimeConnection("", shared).received(0, reply, True) is not first
