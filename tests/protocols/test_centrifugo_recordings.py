"""The centrifugo adapter on recordings of Centrifugo 6.9.1: what it sends, and which events a reader writes down."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sim.protocols.adapter import Credentials, TransportEnd, Write
from sim.protocols.centrifugo.adapter import CentrifugoConnection
from sim.protocols.events import (
    Activity,
    Batch,
    Closed,
    Event,
    Head,
    Joined,
    Message,
    Opened,
    Position,
    PositionUnknown,
    Problem,
    Published,
    Refused,
    Renewed,
    Resumed,
    Stale,
    StreamEnded,
)
from sim.protocols.intents import Compatibility, Intent, Join, Publish, Raw, Read, Renew, Subscribe, Unsubscribe
from sim.protocols.shared_decoding import SharedDecoding

FOLDER = Path(__file__).parent.parent / "vectors" / "centrifugo"
RECORDINGS = sorted(FOLDER.glob("*.jsonl"))
NO_HISTORY = ("plain:", "closed:")  # namespaces of the recordings
Json = dict[str, Any]  # a JSON object of a recording


@cache
def recorded(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in path.read_text().splitlines())


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n")]


# --- the events of a message, in a notation of one line each --------------------------------------------


def at(position: Position | None) -> str:
    return "nowhere" if position is None else f"{position.offset}@{position.epoch}"


def written(event: Event) -> str:
    match event:
        case Batch(stream, items):
            return f"batch {stream} {[at(item.position) for item in items]} {[bytes(item.payload).decode() for item in items]}"
        case Resumed(ref, stream, start, head):
            return f"{ref} resumed {stream} at {at(start)}, head {at(head)}"
        case Stale(stream):
            assert event.subscribed_at == event.head
            return f"{event.ref} stale {stream} at {at(event.asked)}, missed {event.lag}, goes on at {at(event.head)}"
        case PositionUnknown(stream, asked, head, reason):
            assert event.subscribed_at == head
            return f"{event.ref} unknown {stream} at {at(asked)}, {reason}, goes on at {at(head)}"
        case Joined(ref):
            return f"{ref} joined, token for {event.token_ttl_s}, ping {event.ping_s}"
        case Renewed(ref, ttl_s):
            return f"{ref} renewed for {ttl_s}"
        case Refused(ref, code):
            return f"{ref} refused {code} {list(event.streams)}, {event.next.step}, {'open' if event.is_open else 'closed'}"
        case Head(stream, position):
            return f"head {stream} {at(position)}"
        case StreamEnded(stream, code, following):
            return f"ended {stream} {code}, {following.step}"
        case Published(key, position):
            return f"published {key} at {at(position)}"
        case Closed(reason, code, following):
            return f"closed {code} {reason}, {following.step}"
        case Problem(code, reason, following):
            return f"problem {code} {reason}, {following.step}"
        case Activity():
            return "alive"
    return str(event)


ERRORS = {
    102: ("unknown_channel", "terminal"),
    103: ("permission_denied", "terminal"),
    105: ("already_subscribed", "terminal"),
    106: ("limit_exceeded", "terminal"),
    109: ("token_expired", "mint"),
}
ENDS = {2000: "terminal", 2500: "resubscribe", 2501: "mint"}
CLOSES = {
    None: "closed None network, retry",
    1009: "closed 1009 forbidden, terminal",
    3001: "closed 3001 network, retry",
    3005: "closed 3005 unauthorized, mint",
    3008: "problem slow_consumer network, retry",
    3012: "closed 3012 network, retry",
    3500: "closed 3500 unauthorized, terminal",
    3501: "closed 3501 forbidden, terminal",
    3502: "closed 3502 network, retry",
    3503: "closed 3503 forbidden, terminal",
    3504: "closed 3504 forbidden, terminal",
    4001: "closed 4001 network, retry",
    4501: "closed 4501 forbidden, terminal",
}
# What an answer says to a client that asked for what it missed: written down by hand from the recordings and their labels.
RECOVERED = {
    ("subscribe_resume", 2): ["resumed ev:a at 4@bcIdJylN, head 7@bcIdJylN"],
    ("subscribe_resume", 3): ["resumed ev:a at 8@bcIdJylN, head 8@bcIdJylN"],
    ("subscribe_resume", 4): ["unknown ev:a at 50@bcIdJylN, above_head, goes on at 8@bcIdJylN"],
    ("subscribe_resume", 5): ["resumed ev:a at 7@bcIdJylN, head 8@bcIdJylN"],
    ("not_recovered", 2): ["stale small:a at 1@tVmrrNaV, missed 9, goes on at 10@tVmrrNaV"],
    ("not_recovered", 4): ["stale short:a at 1@VpqUrbcX, missed 2, goes on at 3@VpqUrbcX"],
    ("not_recovered", 6): ["stale big:a at 1@xhuJTgtw, missed 301, goes on at 302@xhuJTgtw"],
    ("not_recovered", 8): ["unknown ev:b at 1@zzzz, other_log, goes on at 3@ycliqNvz"],
    ("not_recovered", 10): ["resumed ev:c at 1@xaoujWYQ, head 3@xaoujWYQ"],  # the client stated no epoch: any log would do
    ("not_recovered", 11): ["unknown ev:new at 3@abcd, other_log, goes on at 0@UmHnJRII"],
    ("not_recovered", 13): ["stale ev:d at 1@HOywkBex, missed 2, goes on at 3@HOywkBex"],
    ("not_recovered", 15): ["unknown meta:a at 1@NFxdrjcd, other_log, goes on at 0@dZJnVjiN"],
    ("not_recovered", 17): ["stale pos:a at 1@JOdMLaJK, missed 2, goes on at 3@JOdMLaJK"],
    ("not_recovered", 20): ["unknown ev:r at 3@pVFhsfvc, other_log, goes on at 2@hUpekDSx"],
    ("defects", 2): ["resumed plain:x at nowhere, head nowhere"],
    ("defects", 4): ["stale small:x at 1@zTxePDRS, missed 9, goes on at 10@zTxePDRS"],
    ("defects", 6): ["resumed cache:x at 1@ExhJZxrD, head 5@ExhJZxrD"],  # as it says; the events 2 to 4 are missing
    ("defects", 10): ["resumed short:x at 1@ZtNUoBCA, head 1@ZtNUoBCA"],
    ("defects", 11): ["stale short:x at 1@ZtNUoBCA, missed 1, goes on at 2@ZtNUoBCA"],
    ("defects", 14): ["unknown ev:r at 1@ccBhjbYQ, other_log, goes on at 0@MVjQiKEW"],
    ("defects", 15): ["resumed ev:r at 2@MVjQiKEW, head 3@MVjQiKEW"],  # of another log, which only the client could know
}


class Reader:
    """Writes down what a recorded frame says. It knows what was asked under each number, as a person who reads along."""

    def __init__(self, name: str, conn: int) -> None:
        self.place = (name, conn)
        self.asked: dict[int, tuple[str, Json, str]] = {}  # command, its body, the intent's reference
        self.epochs: dict[str, str] = {}

    def read(self, text: str) -> list[str]:
        return [said for each in objects(text) for said in self.line(each)]

    def line(self, line: Json) -> list[str]:
        if not line:
            return ["alive"]
        if push := line.get("push"):
            if "pub" in push:
                return [self.batch(push["channel"], [push["pub"]])]
            code = push["unsubscribe"]["code"]
            self.epochs.pop(push["channel"], None)
            return [f"ended {push['channel']} unsubscribed_{code}, {ENDS[code]}"]
        command, body, ref = self.asked.pop(line["id"])
        if error := line.get("error"):
            code, following = ERRORS[error["code"]]
            return [f"{ref} refused {code} {[body['channel']] if 'channel' in body else []}, {following}, open"]
        return self.answer(command, body, ref, line[command])

    def answer(self, command: str, body: Json, ref: str, said: Json) -> list[str]:
        ttl = float(said["ttl"]) if said.get("expires") else None
        if command == "connect":
            return [f"{ref} joined, token for {ttl}, ping {float(said['ping'])}"]
        if command == "refresh":
            return [f"{ref} renewed for {ttl}"]
        if command == "publish":
            return [f"published {ref} at nowhere"]
        if command == "unsubscribe":
            del self.epochs[body["channel"]]
            return ["alive"]
        pages = [self.batch(body["channel"], said["publications"])] if "publications" in said else []
        if command == "history":
            return [*pages, f"head {body['channel']} {said['offset']}@{said['epoch']}"]
        channel = body["channel"]
        self.epochs[channel] = said.get("epoch", "")
        pages = [self.batch(channel, said["publications"])] if "publications" in said else []
        if said.get("was_recovering"):
            return [*pages, *(f"{ref} {line}" for line in RECOVERED[self.place])]
        head = f"{said.get('offset', 0)}@{said['epoch']}" if "epoch" in said else "nowhere"
        return [*pages, f"{ref} resumed {channel} at {head}, head {head}"]

    def batch(self, channel: str, publications: list[Json]) -> str:
        places = [
            f"{each['offset']}@{each.get('epoch') or self.epochs.get(channel)}" if "offset" in each else "nowhere"
            for each in publications
        ]
        return f"batch {channel} {places} {[json.dumps(each['data'], separators=(',', ':')) for each in publications]}"


# --- replaying a recording ------------------------------------------------------------------------------


class Replay:
    """One recorded connection: what its client sent goes in as intents, what the server sent as bytes."""

    def __init__(self, name: str = "", conn: int = 0, has_history: bool = True) -> None:
        self.connection = CentrifugoConnection("ws://host/connection/websocket", has_history, SharedDecoding())
        self.connection.connect(Credentials("<jwt>"))
        self.connection.actions()
        self.reader = Reader(name, conn)
        self.refs = 0
        self.pongs = 0  # that the recorded client still has to send

    def sent(self, text: str) -> None:
        """Send the same, and compare. A line that no intent of a session means is passed on as it is."""
        if text == "{nope":
            return
        for line in objects(text):
            if line == {}:
                self.pongs -= 1
                continue
            self.refs += 1
            ref = f"r{self.refs}"
            intent = intent_of(line, ref) or Raw(json.dumps(line).encode(), ref)
            if isinstance(intent, Subscribe):  # one recorded client subscribed twice; the adapter would leave the channel first
                self.connection._forget(*intent.after)
            self.connection.send(intent)
            (write,) = self.writes()
            if isinstance(intent, Raw):  # its client counted on
                self.connection._commands = line["id"]
                continue
            ours = json.loads(write)
            if "subscribe" in ours:  # the adapter always asks for positions; most recorded clients had no need to
                assert ours["subscribe"].pop("recoverable")
                assert ours["subscribe"].pop("positioned")
                for flag in ("recoverable", "positioned"):
                    line["subscribe"].pop(flag, None)
            assert ours == line
            name = next(key for key in line if key != "id")
            self.reader.asked[line["id"]] = name, line[name], ref

    def writes(self) -> list[bytes]:
        return [action.data for action in self.connection.actions() if isinstance(action, Write)]

    def received(self, text: str) -> tuple[list[str], Message]:
        events = self.connection.received(0, text.encode(), True)
        pongs = self.writes()
        assert pongs == [b"{}"] * objects(text).count({}), "each ping is answered, and nothing else"
        self.pongs += len(pongs)
        return [written(event) for event in events], events


def intent_of(line: Json, ref: str) -> Intent | None:
    """The intent of a session that means a recorded command; None: no session sends it."""
    (name,) = set(line) - {"id"}
    body = line[name]
    after = Position(body["offset"], body["epoch"]) if "recover" in body else None
    if name == "history":
        since = body.get("since")
        return Read(ref, body["channel"], Position(since["offset"], since["epoch"]) if since else None, body["limit"])
    if name == "publish":
        return Publish(ref, body["channel"], msgspec.Raw(json.dumps(body["data"]).encode()), ref)
    intents: dict[str, Intent] = {
        "connect": Join(ref, Compatibility(), body.get("token", "")),
        "refresh": Renew(ref, body.get("token", "")),
        "subscribe": Subscribe(ref, {body.get("channel", ""): after}),
        "unsubscribe": Unsubscribe(ref, (body.get("channel", ""),)),
    }
    return None if name == "subscribe" and "token" in body else intents.get(name)


def replays(path: Path) -> Iterator[tuple[dict[str, Any], Replay]]:
    """Each line of a recording, with its connection at that moment. What the client sent is sent already."""
    lines = recorded(path)
    texts = [(line["conn"], line["text"]) for line in lines if line.get("event") in ("send", "recv")]
    without = {conn for conn, text in texts if any(f'"{each}' in text for each in NO_HISTORY)}
    open_: dict[int, Replay] = {}
    for line in lines:
        if line.get("event") == "ws_open":
            replay = open_[line["conn"]] = Replay(path.stem, line["conn"], line["conn"] not in without)
            if line["status"] == 101:
                assert replay.connection.opened(0, 101, {}) == (Opened(),)
        elif line.get("event") == "send":
            open_[line["conn"]].sent(line["text"])
        if "conn" in line:
            yield line, open_[line["conn"]]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recorded_frame_gives_the_events_that_a_reader_writes_down(path: Path) -> None:
    """And each recorded command is what the adapter sends for that intent."""
    frames = 0
    for line, replay in replays(path):
        if line["event"] == "recv" and not is_about_a_token(line["text"], replay):
            expected = replay.reader.read(line["text"])
            assert replay.received(line["text"])[0] == expected, line["text"]
            frames += 1
    assert frames > 10, "the recording was read"


def is_about_a_token(text: str, replay: Replay) -> bool:
    """Whether a frame answers a subscribe with a token of its own, which no session sends."""
    return any("id" in each and each["id"] not in replay.reader.asked for each in objects(text))


def test_recorded_clients_answered_each_ping_as_the_adapter_does() -> None:
    path = FOLDER / "timeouts_revocation.jsonl"
    unanswered = {}
    for line, replay in replays(path):
        if line["event"] == "recv":
            replay.received(line["text"])
        unanswered[line["conn"]] = replay.pongs
    assert {conn for conn, pongs in unanswered.items() if pongs} == {1}, "which was silent on purpose, and closed for it"


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_each_recorded_close_says_what_follows(path: Path) -> None:
    seen = 0
    for line, replay in replays(path):
        if line["event"] != "ws_close" or line["by"] == "client":
            continue
        code = line["code"] if line.get("close_frame") else None
        events = [written(event) for event in replay.connection.closed(0, TransportEnd(code=code, reason=line["reason"]))]
        assert events[-1] == CLOSES[code]
        seen += 1
    assert seen or path.stem in ("subscribe_resume", "defects")


@pytest.mark.parametrize(
    ("conn", "code"),
    [(1, "unauthorized"), (2, "invalid_token"), (3, "invalid_token")],
)
def test_close_without_an_answer_to_the_connect_is_its_refusal(conn: int, code: str) -> None:
    """So the refusal counts as one for the token, and not as a lost connection."""
    path = FOLDER / "refusals.jsonl"
    (end,) = [(line, replay) for line, replay in replays(path) if line["event"] == "ws_close" and line["conn"] == conn]
    refused, closed = end[1].connection.closed(0, TransportEnd(code=end[0]["code"], reason=end[0]["reason"]))
    assert written(refused) == f"r1 refused {code} [], nothing, open"
    assert isinstance(closed, Closed)


def test_recorded_upgrades_that_are_refused_have_no_code_but_their_status() -> None:
    refused = {}
    for line in recorded(FOLDER / "refusals.jsonl"):
        if line.get("event") == "ws_open" and line["status"] != 101:
            end = TransportEnd(status=line["status"], headers=line["answer_headers"], body=line["answer"].encode())
            (event,) = Replay().connection.closed(0, end)
            refused[line["status"]] = written(event)
    assert refused == {403: " refused forbidden [], terminal, closed", 503: " refused rate_limited [], retry, closed"}
