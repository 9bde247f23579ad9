"""A hostile server cannot fill our memory: whatever it repeats, a connection holds little, or ends with a named code."""

import gc
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.protocols import registry, sse
from sim.protocols.adapter import Connection, Credentials, Open
from sim.protocols.durable_streams import adapter as durable_streams
from sim.protocols.events import Closed, Problem, StreamEnded
from sim.protocols.intents import Compatibility, Join, Subscribe
from sim.protocols.nats_jetstream import adapter as nats
from sim.protocols.nats_jetstream import codec
from sim.protocols.registry import ConnectionOptions
from sim.protocols.shared_decoding import BoundedCache

LIMIT_BYTES = 20_000  # in place of the adapters' own
TIMES = 1000
# What a server may send again and again, with another number each time.
SSE = ("event: data\ndata:\n\n", "event: data\ndata: []\n\n", "data:\n", "data: {n}\n", "data", "id: {n}\n\n", ": {n}\n",
       "event: other{n}\ndata: 1\n\n", "retry: {n}\n", '{{"a": ')  # fmt: skip
FLOW_CONTROL = "NATS/1.0 100 FlowControl Request\r\n\r\n"
NATS = ("MSG d 2 $JS.ACK.s.c.1.{n}.{n}.1.9 0\r\n\r\n", "MSG other.{n} 9 0\r\n\r\n", "MSG _INBOX.x.{n} 1 2\r\n{{}}\r\n",
        "PONG\r\n", "PING\r\n", "+OK\r\n", "PIN", "INFO {{}}\r\n",
        f"HMSG d 2 $JS.FC.s.c.{{n}} {len(FLOW_CONTROL)} {len(FLOW_CONTROL)}\r\n{FLOW_CONTROL}\r\n")  # fmt: skip
CENTRIFUGO = ('{{"push":{{"channel":"x{n}","pub":{{"data":1,"offset":1,"epoch":"e{n}"}}}}}}',
              '{{"push":{{"channel":"x{n}","subscribe":{{"epoch":"e"}}}}}}', '{{"push":{{"channel":"x{n}","join":{{}}}}}}',
              '{{"id":{n},"subscribe":{{"epoch":"e{n}"}}}}', "{{}}")  # fmt: skip
SOCKETIO = ('42["message",{{"stream":"x{n}"}},"{n}"]', '43{n}[{{}}]',
            '451-["x",{{"_placeholder":true,"num":0}}]', "2", "3", "6",
            '40/x{n},{{"sid":"{n}"}}')  # fmt: skip
PHOENIX = ('[null,null,"sync:x{n}","event",{{"seq":1}}]',
           '[null,"{n}","sync:x{n}","phx_reply",{{"status":"ok","response":{{}}}}]',
           '["{n}","{n}","x{n}","phx_error",{{}}]', '[null,null,"x{n}","sync:batch",{{"events":[]}}]')  # fmt: skip
SENT = {
    "durable_streams": SSE,
    "nats_jetstream": NATS,
    "centrifugo": CENTRIFUGO,
    "socketio": SOCKETIO,
    "spacetime": PHOENIX,
    "phoenix_sync": PHOENIX,
}


@pytest.fixture(autouse=True, scope="module")
def small_limits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((durable_streams, "MAX_HELD_BYTES"), (nats, "MAX_HELD_BYTES"), (codec, "MAX_HELD_BYTES")):
            patch.setattr(module, name, LIMIT_BYTES)
        patch.setattr(codec, "_MAX_LINE", LIMIT_BYTES)
        patch.setattr(sse, "MAX_EVENT_BYTES", LIMIT_BYTES)
        yield


def connected(protocol: str) -> tuple[Connection, int]:
    """A connection that waits for the answer to its first subscribe, and the id of its transport."""
    connection = registry.get(protocol).new_connection(ConnectionOptions("ws://peer/", {}))
    connection.connect(Credentials("token"))
    opened = [each for each in connection.actions() if isinstance(each, Open)]
    if opened:
        connection.opened(opened[0].id, 101, {})
    if protocol == "nats_jetstream":
        connection.received(opened[0].id, b'INFO {"server_id":"S","headers":true}\r\n', False)
    connection.send(Join("1", Compatibility(), "token"))
    if protocol == "nats_jetstream":
        connection.received(opened[0].id, b"PONG\r\n", False)
    connection.send(Subscribe("2", {"s": None}))
    opened += [each for each in connection.actions() if isinstance(each, Open)]
    connection.opened(opened[-1].id, 200, {})
    return connection, opened[-1].id


def held_bytes(connection: Connection) -> int:
    """The memory of a connection's own attributes, and of what is in them; without caches, which have a limit of their own."""
    seen: dict[int, object] = {}
    waiting = [each for each in vars(connection).values() if not isinstance(each, type)]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, type | BoundedCache) and not callable(each):
            seen[id(each)] = each
            waiting += gc.get_referents(each)
    return sum(map(sys.getsizeof, seen.values()))


@pytest.mark.parametrize("protocol", SENT)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_a_server_repeats_fills_no_memory(protocol: str, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from(SENT[protocol]), min_size=1, max_size=3))
    connection, id = connected(protocol)
    before = held_bytes(connection)
    for n in range(TIMES):
        events = [event for piece in pieces for event in connection.received(id, piece.format(n=n).encode(), True)]
        connection.actions()
        if any(isinstance(event, Problem | StreamEnded | Closed) for event in events):
            break
    assert held_bytes(connection) - before < 4 * LIMIT_BYTES


@pytest.mark.parametrize(("protocol", "piece"), [("durable_streams", "event: data\ndata:\n\n"), ("nats_jetstream", NATS[-1])])
def test_what_has_no_content_counts_too(protocol: str, piece: str) -> None:
    connection, id = connected(protocol)
    events = [event for n in range(TIMES) for event in connection.received(id, piece.format(n=n).encode(), True)]
    assert "held_too_much" in [event.code for event in events if isinstance(event, Problem | StreamEnded)]
