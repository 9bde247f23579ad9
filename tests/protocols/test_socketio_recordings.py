"""The socketio adapter on recordings of a real server, against a reader that knows only the recorded text."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sim.protocols.adapter import Credentials, Open, TransportEnd, Write
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    Closed,
    Event,
    Joined,
    Opened,
    Refused,
    Resumed,
    StreamEnded,
)
from sim.protocols.intents import Compatibility, Intent, Join, Leave, Subscribe
from sim.protocols.socketio.adapter import SocketIoConnection

RECORDINGS = sorted((Path(__file__).parent.parent / "vectors" / "socketio").glob("*.jsonl"))
URL = "ws://host/socket.io/"


@cache
def recorded(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in path.read_text().splitlines())


# --- the events of a message, in a notation of one line each --------------------------------------------


def written(event: Event) -> str:
    match event:
        case Opened():
            return "open"
        case Joined(ref, session):
            return f"joined {ref}, {'resumed' if event.resumed else 'new'} session {session!r}, pings within {event.ping_s} s"
        case Refused(ref, code):
            return f"refused {ref!r}: {code}, {event.next.step}, {'open' if event.is_open else 'closed'}"
        case Resumed(ref, stream):
            return f"subscribed {ref} {stream}"
        case Batch(stream, items):
            shown = [
                (item.position.offset if item.position else None, json.loads(bytes(item.payload))["seq"]) for item in items
            ]
            return f"batch {stream} {shown} session {event.session!r}"
        case StreamEnded(stream, code, following):
            return f"ended {stream} {code}, {following.step}"
        case Answer(ref, ok):
            return f"answer {ref!r} {ok}"
        case Closed(_, code, following):
            return f"closed {code}, {following.step}"
        case Activity():
            return "alive"
    return str(event)


class Reader:
    """Writes down what each recorded line says, as a person who reads along; it knows what was asked on this connection."""

    def __init__(self) -> None:
        self.ping_s: float | None = None
        self.joins = 0
        self.pid = self.offset = ""
        self.asked: dict[str, str] = {}

    def sent(self, text: str) -> None:
        if text.startswith("40{"):
            self.joins += 1
            asked = json.loads(text[2:])
            self.pid, self.offset = asked.get("pid", ""), asked.get("offset", "")
        elif text.startswith("42") and '"subscribe"' in text:
            number, _, arguments = text[2:].partition("[")
            self.asked[number] = json.loads("[" + arguments)[1]

    def read(self, text: str) -> str:
        what, rest = text[:2], text[2:]
        if text == "2" or rest.startswith("/nope,"):
            return "alive"
        if text.startswith("0{"):
            opening = json.loads(text[1:])
            self.ping_s = (opening["pingInterval"] + opening["pingTimeout"]) / 1000
            return "alive"
        if what == "40":
            pid = json.loads(rest).get("pid", "")  # without recovery, there is no session to resume
            how, self.offset = ("resumed", self.offset) if pid and pid == self.pid else ("new", "")
            self.pid = pid
            return f"joined j{self.joins}, {how} session {self.session!r}, pings within {self.ping_s} s"
        if what == "44":
            code = json.loads(rest)["data"]["code"]
            return f"refused 'j{self.joins}': {code}, {'mint' if code == 401 else 'terminal'}, open"
        if what == "41":
            return "ended None disconnected, terminal"
        if what == "43":
            return f"subscribed s {self.asked[rest.partition('[')[0]]}"
        assert what == "42", text
        name, content, *offset = json.loads(rest)
        assert name == "event"
        self.offset = (offset or [self.offset])[0]
        place = offset[0] if offset else None
        return f"batch {content['stream']} {[(place, content['seq'])]} session {self.session or None!r}"

    @property
    def session(self) -> str:
        return f"{self.pid} {self.offset}" if self.pid else ""

    def ended(self, line: dict[str, Any]) -> str:
        code = line["code"] if line.get("close_frame") else None
        return f"closed {code}, {'terminal' if code == 1009 else 'retry'}"


# --- replaying a recording ------------------------------------------------------------------------------


class Replay:
    """One recorded connection: what its client sent goes in as intents, what the server sent as bytes."""

    def __init__(self) -> None:
        self.connection = SocketIoConnection(URL, {})
        self.connection.connect(Credentials("in the join"))
        (opening,) = self.connection.actions()
        assert isinstance(opening, Open)
        assert opening.url == f"{URL}?EIO=4&transport=websocket"
        self.reader = Reader()

    def sent(self, text: str) -> None:
        """The adapter writes exactly what the recorded client wrote, where a session would send it."""
        self.reader.sent(text)
        intent = self.intent(text)
        if intent is not None:
            self.connection.send(intent)
        for action in self.connection.actions():
            assert isinstance(action, Write)
            assert readable(action.data.decode()) == readable(text)
            return
        assert intent is None, text
        assert text[:1] != "3", "a ping was not answered"

    def intent(self, text: str) -> Intent | None:
        if text.startswith("40{"):
            asked = json.loads(text[2:])
            session = f"{asked['pid']} {asked.get('offset', '')}" if "pid" in asked else None
            return Join(f"j{self.reader.joins}", Compatibility(), asked.get("token", ""), session)
        if text.startswith("42") and '"subscribe"' in text:
            return Subscribe("s", {json.loads(text[3:])[1]: None})
        if text == "41":
            return Leave("l")
        return None  # a pong, which is the adapter's own; or what no session sends

    def received(self, text: str) -> list[str]:
        return [written(event) for event in self.connection.received(0, text.encode(), True)]


def readable(text: str) -> tuple[str, Any]:
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=len(text))
    return text[:start], json.loads(text[start:] or "null")


def replay(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each line of the server, the events of the adapter, and those that the reader writes down."""
    connections: dict[int, Replay] = {}
    for line in recorded(path):
        kind, it = line.get("event"), connections.get(line.get("conn", -1))
        if kind == "ws_open":
            it = connections[line["conn"]] = Replay()
            if line["status"] == 101:
                yield "open", [written(event) for event in it.connection.opened(0, 101, {})], ["open"]
            else:
                end = TransportEnd(status=line["status"], headers=line["answer_headers"], body=line["answer"].encode())
                refused = [f"refused '': status_{line['status']}, terminal, closed"]
                yield "status", [written(event) for event in it.connection.closed(0, end)], refused
        elif kind == "send" and it is not None:
            it.sent(line["text"])
        elif kind == "recv" and it is not None:
            expected = it.reader.read(line["text"])
            yield line["text"], it.received(line["text"]), [expected]
        elif kind == "ws_close" and it is not None and line["by"] in ("server", "transport"):
            end = TransportEnd(line["code"]) if line["close_frame"] else TransportEnd()
            yield "close", [written(event) for event in it.connection.closed(0, end)], [it.reader.ended(line)]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recorded_line_gives_the_events_that_a_reader_writes_down(path: Path) -> None:
    lines = 0
    for text, events, expected in replay(path):
        assert events == expected, text
        lines += 1
    assert lines >= 24, "the recording was read"


def test_recordings_contain_each_kind_of_answer_and_ending() -> None:
    found = {expected[0].partition(" ")[0] for path in RECORDINGS for _, _, expected in replay(path)}
    assert found == {"open", "alive", "joined", "refused", "ended", "subscribed", "batch", "closed"}
    texts = [expected[0] for path in RECORDINGS for _, _, expected in replay(path)]
    for part in ("resumed session", "new session", "closed 1005", "closed 1009", "closed None", "401, mint", "403, terminal"):
        assert any(part in text for text in texts), part
