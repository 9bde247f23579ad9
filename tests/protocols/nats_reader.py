"""Reads recorded lines of NATS without the adapter, and writes down what they say, as a person who reads along."""

import json
from collections.abc import Iterator
from typing import Any

from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    CaughtUp,
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
    PublishFailed,
    Refused,
    Resumed,
    StreamEnded,
)

# --- lines of the protocol, read without the adapter's parser -------------------------------------------


def operations(text: str) -> Iterator[tuple[list[str], str, str]]:
    """Yield words, header block and payload of each operation in a text."""
    while text:
        line, _, text = text.partition("\r\n")
        words = line.split(" ", 1) if line.startswith(("INFO", "CONNECT", "-ERR")) else line.split()
        header = payload = ""
        if words[0] in ("MSG", "HMSG", "PUB", "HPUB"):
            size = int(words[-1])
            first = int(words[-2]) if words[0] in ("HMSG", "HPUB") else 0
            header, payload, text = text[:first], text[first:size], text[size + 2 :]
        yield words, header, payload


def packed(words: list[str], header: str, payload: str) -> str:
    block = f"\r\n{header}{payload}" if words[0] in ("MSG", "HMSG", "PUB", "HPUB") else ""
    return f"{' '.join(words)}{block}\r\n"


# --- the events of a message, in a notation of one line each --------------------------------------------


def place(position: Position | None) -> tuple[int | str, str | None]:
    assert position is not None
    return position.offset, position.epoch


def written(event: Event) -> str:
    match event:
        case Batch(stream, items):
            places = [
                (item.position.offset, item.position.epoch, bytes(item.payload).decode()) for item in items if item.position
            ]
            return f"batch {stream} {places}{' after a gap' if event.is_after_gap else ''}"
        case Joined(ref):
            return f"joined {ref}"
        case Resumed(ref, stream, at, head):
            assert at is not None
            assert head is not None
            return f"resumed {ref} {stream} at {at.offset} of {at.epoch}, head {head.offset}"
        case PositionUnknown(stream):
            assert event.asked is not None
            assert event.head is not None
            return f"unknown {event.ref} {stream} {event.asked.offset}: {event.reason}, head {event.head.offset}"
        case CaughtUp(stream):
            return f"caught up {stream}"
        case Refused(ref, code):
            return f"refused {ref}: {code}, {event.next.step}"
        case Published(key, position):
            assert position is not None
            return f"published {key} at {position.offset}{' again' if event.duplicate else ''}"
        case PublishFailed(key, code):
            return f"not published {key}: {code}, {event.next.step}, {event.outcome}"
        case Head(stream, position):
            return f"head {stream} {position.offset} of {position.epoch}"
        case StreamEnded(stream, code):
            return f"ended {stream} {code}, {event.next.step}"
        case Problem(code):
            return f"problem {code}, {event.next.step}"
        case Closed(reason, code):
            return f"closed {code}, {reason}, {event.next.step}"
        case Answer(ref, ok, code):
            return f"{'' if ok else 'no '}answer {ref}: {code}"
        case Opened():
            return "opened"
        case Activity():
            return "alive"
    return str(event)


def all_written(message: Message) -> list[str]:
    return [written(event) for event in message]


# --- the reader -----------------------------------------------------------------------------------------

ERRORS = {  # from the recordings' README: what a client does
    "'Authorization Violation'": ("authorization_violation", "unauthorized", "terminal"),
    "'Authentication Timeout'": ("authentication_timeout", "network", "retry"),
    "'User Authentication Expired'": ("authentication_expired", "unauthorized", "mint"),
    "'User Authentication Revoked'": ("authentication_revoked", "unauthorized", "terminal"),
    "'maximum connections exceeded'": ("connections_exceeded", "network", "wait"),
    "'Stale Connection'": ("stale_connection", "network", "retry"),
    "'Maximum Payload Violation'": ("payload_too_large", "unknown", "terminal"),
}
REFUSED_REQUESTS = {
    10059: ("stream_not_found", "retry"),
    10071: ("wrong_last_sequence", "refetch"),
    10077: ("stream_full", "retry"),
    10054: ("message_too_large", "terminal"),
    10012: ("error_10012", "retry"),
    10098: ("error_10098", "terminal"),
}


class Log:
    """What the recording says about one JetStream stream so far."""

    created, last_seq = "recorded", 0


class Reader:
    """Writes down what recorded lines say, as a person who reads along."""

    def __init__(self) -> None:
        self.error: tuple[str, str, str] | None = None
        self.asked: dict[str, tuple[str, Any]] = {}  # by reply subject
        self.subscriptions: dict[str, dict[str, Any]] = {}  # by recorded sid
        self.is_joined = False

    def read(self, text: str) -> list[str]:
        found = [said for operation in operations(text) for said in self.operation(*operation)]
        return [said for said in found if said != "alive"] or ["alive"]

    def operation(self, words: list[str], header: str, payload: str) -> list[str]:
        if words[0] == "PONG" and not self.is_joined:
            self.is_joined = True
            return ["joined join"]
        if words[0] == "INFO":
            return ["problem lame_duck, retry"] if '"ldm":true' in words[1] else ["alive"]
        if words[0] == "-ERR":
            if "Permissions Violation" in words[1]:
                subject = words[1].split('"')[1]
                lost = [reply for reply, (kind, to) in self.asked.items() if kind == "published" and to[1] == subject]
                failed = [
                    f"not published {self.asked.pop(reply)[1][0]}: permissions_violation, terminal, refused" for reply in lost
                ]
                return ["problem permissions_violation, nothing", *failed]
            self.error = ERRORS[words[1]]
            return [f"problem {self.error[0]}, nothing"]
        if words[0] in ("MSG", "HMSG"):
            return self.message(words, header, payload)
        return ["alive"]

    def message(self, words: list[str], header: str, payload: str) -> list[str]:
        if words[1] in self.asked:
            kind, asked = self.asked.pop(words[1])
            return getattr(self, kind)(asked, header, json.loads(payload) if payload else {})
        subscription = self.subscriptions.get(words[2])
        if subscription is None:
            return ["alive"]
        place = words[3].split(".") if "$JS.ACK" in words[3] else None
        if place is None:
            return ["alive"]
        found = int(place[5]), int(place[8]), payload
        if not subscription["is_answered"]:
            subscription["held"].append(found)
            return ["alive"]
        return self.delivered(subscription, *found)

    @staticmethod
    def delivered(subscription: dict[str, Any], seq: int, pending: int, payload: str) -> list[str]:
        stream, log = subscription["stream"], subscription["log"]
        said = [f"batch {stream} {[(seq, log.created, payload)]}"]
        if pending == 0 and not subscription["is_caught_up"]:
            subscription["is_caught_up"] = True
            said.append(f"caught up {stream}")
        return said

    def created(self, subscription: dict[str, Any], header: str, answer: dict[str, Any]) -> list[str]:
        ref, stream, log = subscription["ref"], subscription["stream"], subscription["log"]
        if "error" in answer:
            code, step = REFUSED_REQUESTS[answer["error"]["err_code"]]
            return [f"refused {ref}: {code}, {step}"]
        asked, epoch = subscription["after"], subscription["epoch"]
        if asked is not None and epoch != log.created:
            return [f"unknown {ref} {stream} {asked}: other_log, head {log.last_seq}"]
        if asked is not None and asked > log.last_seq:
            return [f"unknown {ref} {stream} {asked}: above_head, head {log.last_seq}"]
        subscription["is_answered"] = True
        said = [f"resumed {ref} {stream} at {answer['delivered']['stream_seq']} of {log.created}, head {log.last_seq}"]
        for held in subscription["held"]:
            said += self.delivered(subscription, *held)
        if answer["num_pending"] == 0 and not subscription["is_caught_up"]:
            subscription["is_caught_up"] = True
            said.append(f"caught up {stream}")
        return said

    @staticmethod
    def published(asked: tuple[str, str], header: str, answer: dict[str, Any]) -> list[str]:
        key, _ = asked
        if "503" in header:
            return [f"not published {key}: no_responders, retry, refused"]
        if "error" in answer:
            code, step = REFUSED_REQUESTS[answer["error"]["err_code"]]
            return [f"not published {key}: {code}, {step}, refused"]
        return [f"published {key} at {answer['seq']}{' again' if answer.get('duplicate') else ''}"]

    @staticmethod
    def head(stream: str, header: str, answer: dict[str, Any]) -> list[str]:
        if "error" in answer:
            return [f"no answer head: {REFUSED_REQUESTS[answer['error']['err_code']][0]}"]
        return [f"head {stream} {answer['state']['last_seq']} of {answer['created']}"]

    def closed(self, code: int | None) -> str:
        _, reason, step = self.error or ("", "network", "retry")
        return f"closed {code}, {reason}, {step}"
