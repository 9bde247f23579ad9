"""The nats_jetstream adapter on recordings of nats-server 2.15.1, against a reader that knows only the recorded lines.

Names that a client chooses (inbox, consumer, sid) are the recorded client's; they are translated. The recorded client asked
STREAM.INFO only where its author wanted to know; the adapter always does, so the recorder's knowledge of the log answers it.
"""

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sim.protocols.adapter import Credentials, TransportEnd, Write
from sim.protocols.events import Position
from sim.protocols.intents import AskHead, Compatibility, Join, Publish, Subscribe, Unsubscribe
from sim.protocols.nats_jetstream.adapter import JetStreamConnection
from sim.protocols.nats_jetstream.options import Options
from sim.protocols.registry import ConnectionOptions
from tests.protocols.nats_reader import Log, Reader, all_written, operations, packed

FOLDER = Path(__file__).parent.parent / "vectors" / "nats"
RECORDINGS = sorted(FOLDER.glob("*.jsonl"))
OPTIONS = {"idle_heartbeat_s": 1.0, "inactive_threshold_s": 300.0}
INFO = 'INFO {"server_id":"S","client_id":1}\r\n'
API = "$JS.API."


@cache
def recorded(path: Path) -> tuple[dict[str, Any], ...]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "text" in line:
            line["text"] = re.sub(r"<(\d+) x (.)>", lambda run: run[2] * int(run[1]), line["text"])
    return tuple(lines)


SENT_LINES = {  # how many requests and publishes of each recording the adapter sends, too
    "defects": 36,
    "message_before_answer": 1,
    "official_client": 0,
    "refusals": 13,
    "restart_drain": 12,
    "revocation": 8,
    "stale_recreated": 19,
    "subscribe_resume": 21,
    "timeouts_slow": 1,
}


# --- replaying a recording ------------------------------------------------------------------------------


class Replay:
    """One recorded connection: what its client sent goes in as intents, what the server sent as bytes."""

    def __init__(self, logs: dict[str, Log], credentials: Credentials, is_known: bool) -> None:
        self.connection = JetStreamConnection(ConnectionOptions("ws://host", OPTIONS))
        self.reader, self.logs = Reader(), logs
        self.connection.connect(credentials)
        assert all_written(self.connection.opened(0, 101, {})) == ["opened"]
        self.sids: dict[str, int] = {}  # recorded sid: the adapter's
        self.keys: dict[str, str] = {}  # recorded reply subject: the adapter's
        self.last_sid = ""
        self.pongs = 0
        self.sent_lines = 0
        self.connection.actions()
        if is_known:  # the handshake was left out
            self.join()
            self.received(INFO)
            self.received("PONG\r\n")

    def use(self, **own: object) -> None:
        """Use other options: a recorded connection may publish and subscribe with different ones."""
        self.connection._options = Options.read({**OPTIONS, **own})

    def join(self) -> None:
        self.connection.send(Join("join", Compatibility()))

    def writes(self) -> list[tuple[list[str], str, str]]:
        data = b"".join(action.data for action in self.connection.actions() if isinstance(action, Write))
        return list(operations(data.decode()))

    def asked(self, subject: str, recorded_reply: str) -> tuple[list[str], str, str]:
        """The adapter's request to a subject that begins so. Its answers are the recorded request's."""
        writes = self.writes()
        (mine,) = [each for each in writes if each[0][1].startswith(subject)]
        self.keys[recorded_reply] = mine[0][2]
        return mine

    # --- what the recorded client sent ---

    def sent(self, text: str, rest: tuple[dict[str, Any], ...]) -> None:
        for words, header, payload in operations(text):
            if words[0] == "PONG":
                self.pongs -= 1
                assert self.pongs == 0
            elif words[0] == "CONNECT":
                self.check_connect(json.loads(words[1]))
            elif words[0] == "SUB":
                self.last_sid = words[2]
            elif words[0] in ("PUB", "HPUB") and words[1].startswith(API):
                self.request(words[1].removeprefix(API), words[2], payload, rest)
            elif words[0] in ("PUB", "HPUB") and words[2].startswith("_INBOX"):
                self.publish(words, header, payload)

    def check_connect(self, recorded_connect: dict[str, Any]) -> None:
        self.join()
        ((words, _, _), ping) = self.writes()
        assert ping[0] == ["PING"]
        assert json.loads(words[1]) == recorded_connect | {"name": "stormgate"}
        self.sent_lines += 1

    def request(self, api: str, reply: str, payload: str, rest: tuple[dict[str, Any], ...]) -> None:
        if api.startswith("CONSUMER.CREATE"):
            body = json.loads(payload)
            if "deliver_subject" in body["config"] and "durable_name" not in body["config"]:
                self.subscribe(body, reply, rest)
        elif api.startswith("STREAM.INFO") and not payload:
            stream = api.rpartition(".")[2]
            self.connection.send(AskHead("head", stream))
            self.asked(f"{API}{api}", reply)
            self.reader.asked[reply] = "head", stream
            self.sent_lines += 1
        elif api.startswith("CONSUMER.DELETE"):
            stream, name = api.split(".")[2:]
            for sid, each in self.reader.subscriptions.items():
                if each["name"] == name and each["stream"] == stream and each["is_latest"] and each["is_answered"]:
                    self.connection.send(Unsubscribe("ignored", (stream,)))
                    delete, unsubscribe = self.writes()
                    assert delete[0][1] == f"{API}{api}"
                    assert unsubscribe[0] == ["UNSUB", str(self.sids[sid])]
                    self.sent_lines += 1

    def subscribe(self, body: dict[str, Any], reply: str, rest: tuple[dict[str, Any], ...]) -> None:
        stream, config = body["stream_name"], body["config"]
        log = self.logs.setdefault(stream, Log())
        epoch = log.created
        learn(log, stream, rest)
        after = config["opt_start_seq"] - 1 if "opt_start_seq" in config else None
        for each in self.reader.subscriptions.values():
            each["is_latest"] &= each["stream"] != stream
        subscription = {
            "ref": reply,
            "stream": stream,
            "log": log,
            "after": after,
            "epoch": epoch,
            "held": [],
            "is_latest": True,
        }
        subscription |= {"name": config["name"], "is_answered": False, "is_caught_up": False}
        self.reader.subscriptions = {  # one subscription a stream: the adapter gives up the earlier one
            sid: each for sid, each in self.reader.subscriptions.items() if each["stream"] != stream
        } | {self.last_sid: subscription}
        self.reader.asked[reply] = "created", subscription
        position = None if after is None else Position(after, epoch)
        self.use(inactive_threshold_s=config["inactive_threshold"] / 1e9)
        self.connection.send(Subscribe(reply, {stream: position}))
        writes = self.writes()
        (sub,) = [each for each in writes if each[0][0] == "SUB"]
        (create,) = [each for each in writes if each[0][1].startswith(f"{API}CONSUMER.CREATE")]
        self.sids[self.last_sid], self.keys[reply] = int(sub[0][2]), create[0][2]
        mine = json.loads(create[2])
        assert mine["config"].pop("deliver_subject") == sub[0][1]
        own = {key: value for key, value in config.items() if key not in ("name", "deliver_subject")}
        assert mine["stream_name"] == stream
        assert own.items() <= mine["config"].items()
        assert own == mine["config"] or "flow_control" not in own  # one recorded client asked for less
        self.sent_lines += 1

    def publish(self, words: list[str], header: str, payload: str) -> None:
        """Check the line that a publisher's adapter sends, and give the recorded answer to the connection."""
        found = re.search(r"Nats-Msg-Id: (\S+)", header)
        if header and not found:
            return  # with another header, which the adapter never sends
        key = found[1] if found else words[2]
        self.use(stream="X", message_ids=bool(found))
        self.connection.send(Publish("ref", words[1], msgspec.Raw(payload.encode()), key))
        self.use()
        ((mine, own_header, own_payload),) = self.writes()
        assert (mine[:2], mine[3:], own_header, own_payload) == (words[:2], words[3:], header, payload)
        self.keys[words[2]] = mine[2]
        self.reader.asked[words[2]] = "published", (key, words[1])
        self.sent_lines += 1

    # --- what the server sent ---

    def received(self, text: str) -> None:
        expected = self.reader.read(text)
        translated = "".join(packed(*self.translated(*operation)) for operation in operations(text))
        message = self.connection.received(0, translated.encode(), False)
        said = [each for each in [*all_written(message), *self.told()] if each != "alive"] or ["alive"]
        assert said == expected

    def translated(self, words: list[str], header: str, payload: str) -> tuple[list[str], str, str]:
        if words[0] not in ("MSG", "HMSG"):
            return words, header, payload
        words = list(words)
        if words[1].startswith("_INBOX"):
            words[1:3] = self.keys.get(words[1], "_INBOX.x.unknown"), "1"
        else:
            words[2] = str(self.sids.get(words[2], 900))
        return words, header, payload

    def told(self) -> list[str]:
        """Answer the adapter's STREAM.INFO, and answer what else it wrote as the recording's client did."""
        said: list[str] = []
        for words, _, _ in self.writes():
            self.pongs += words == ["PONG"]
            if words[0] == "PUB" and words[1].startswith(f"{API}STREAM.INFO."):
                log = self.logs[words[1].rpartition(".")[2]]
                answer = json.dumps({"created": log.created, "state": {"first_seq": 0, "last_seq": log.last_seq}})
                line = packed(["MSG", words[2], "1", str(len(answer))], "", answer)
                said += all_written(self.connection.received(0, line.encode(), False))
        return said


def learn(log: Log, stream: str, rest: tuple[dict[str, Any], ...]) -> None:
    """Learn the state of a log from the next lines of the recording: an INFO, before the next consumer is made."""
    creates = 0
    for line in rest:
        text = line.get("text", "")
        creates += f"{API}CONSUMER.CREATE.{stream}" in text
        if creates > 1 or line.get("event") == "cut":
            return
        if "stream_info_response" in text and f'"name":"{stream}"' in text:
            answer = json.loads(text[text.index("{") :])
            log.created, log.last_seq = answer["created"], answer["state"]["last_seq"]
            return


def note(logs: dict[str, Log], text: str) -> None:
    """Learn from any recorded line of the server how far the logs are."""
    for words, _, payload in operations(text):
        if words[0] not in ("MSG", "HMSG"):
            continue
        if "$JS.ACK" in words[3]:
            place = words[3].split(".")
            log = logs.setdefault(place[2], Log())
            log.last_seq = max(log.last_seq, int(place[5]) + int(place[8]))
        elif payload.startswith('{"stream":'):
            answer = json.loads(payload)
            logs.setdefault(answer["stream"], Log()).last_seq = answer["seq"]
        elif '"created"' in payload and "stream_" in payload[:60]:
            answer = json.loads(payload)
            log = logs.setdefault(answer["config"]["name"], Log())
            log.created, log.last_seq = answer["created"], answer["state"]["last_seq"]


def credentials_of(lines: tuple[dict[str, Any], ...], conn: int) -> tuple[Credentials, dict[str, Any]]:
    """What the recorded client introduced itself with, and the option that says so."""
    for line in lines:
        if line.get("conn") == conn and line.get("event") == "send" and line["text"].startswith("CONNECT "):
            sent = json.loads(line["text"].split("\r\n")[0].removeprefix("CONNECT "))
            if "user" in sent:
                return Credentials(f"{sent['user']}:{sent['pass']}"), {"credentials": "user"}
            if "jwt" in sent:
                signature = base64.urlsafe_b64decode(sent["sig"] + "==")
                return Credentials(sent["jwt"], sign=lambda nonce, signature=signature: signature), {"credentials": "jwt"}
    return Credentials("none"), {}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_events_are_what_a_reader_of_the_recording_writes_down(path: Path) -> None:
    lines = recorded(path)
    logs: dict[str, Log] = {}
    replays: dict[int, Replay] = {}
    for at, line in enumerate(lines):
        kind, conn, text = line.get("event"), line.get("conn"), line.get("text", "")
        if kind == "recv":
            note(logs, text)
        if kind == "ws_open" and line["status"] == 101:
            credentials, own = credentials_of(lines, conn)
            replays[conn] = Replay(logs, credentials, "handshake" in line.get("note", ""))
            replays[conn].use(**own)
        elif kind == "ws_open":
            connection = JetStreamConnection(ConnectionOptions("ws://host"))
            end = TransportEnd(status=line["status"], headers=line["answer_headers"], body=line["answer"].encode())
            assert all_written(connection.closed(0, end)) == [f"refused : status_{line['status']}, terminal"]
        elif conn not in replays:
            continue
        elif kind == "send":
            replays[conn].sent(text, lines[at:])
        elif kind == "recv":
            replays[conn].received(text)
        elif kind == "ws_close" and line["by"] != "client":
            code = None if line["code"] == 1006 else line["code"]
            message = replays[conn].connection.closed(0, TransportEnd(code, line["reason"]))
            assert all_written(message) == [replays[conn].reader.closed(code)]
    assert sum(replay.sent_lines for replay in replays.values()) == SENT_LINES[path.stem]
