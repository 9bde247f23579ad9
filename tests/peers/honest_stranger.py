"""The service of `deceiving_server`, in other forms than ours: one switch for each. None of them is a defect.

    python -m tests.peers.honest_stranger --forms FORM,FORM [--lie LIE] [--retain EVENTS]      prints its port

To add a form: name it in `FORMS`, and change the frames or answers in `Stranger` or `publish`.
"""

import base64
import hashlib
import itertools
import json
import socket

import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from tests.peers import deceiving_server as service
from tests.peers.deceiving_lies import arguments, configure, options
from tests.peers.deceiving_streams import canonical

FORMS = {
    # Hashes of payloads.
    "hash_base64": "the hash is in Base64",
    "hash_capitals": "the hash is in capital hex digits",
    "hash_other": "the hash is of another function",
    "hash_absent": "events have no hash",
    "hash_null": "the hash of each event is null",
    # Deliveries.
    "one_by_one": "a replay is one message for each event",
    "second_form": "each event comes again, as an envelope",
    "only_envelopes": "each event comes as an envelope only",
    "batch_twice": "each batch comes twice",
    "no_end": "no message says that a replay is complete",
    "times": "events state when they were sent in seconds, in milliseconds and in ISO 8601",
    "no_heads": "no message states a head",
    "extras": "messages have fields that nobody knows, and there are messages of kinds that nobody knows",
    "text_numbers": "positions are text",
    # Answers.
    "bare_answers": "the answers to a join and a subscribe are empty",
    "no_answers_to_beats": "the heartbeats of clients are not answered",
    "upgrade_403": "some upgrades are refused once, with status 403 and nothing else",
    # Signs of life.
    "no_beats": "the server sends no heartbeats",
    "pings": "the server's heartbeats are pings of the WebSocket",
    "other_beats": "the server's heartbeats are messages of another kind",
    # Answers to publishes.
    "publish_201": "status 201",
    "publish_202": "status 202",
    "publish_204": "status 204, without a body",
    "publish_bare": "status 200, without a body",
    "publish_text": "the position is text",
    "publish_without_position": "the answer has no position",
    "publish_without_hash": "the answer has no hash",
}
SENT_AT = (1_767_225_600, 1_767_225_600_000, "2026-01-01T00:00:00.000Z")
chosen = set()
upgrades = itertools.count(1)


def has(*forms):
    return not chosen.isdisjoint(forms)


def other_hash(update):
    text, declared = canonical(update["payload"]).encode(), update["payload_hash"]
    if has("hash_absent"):
        return {key: value for key, value in update.items() if key != "payload_hash"}
    if has("hash_null"):
        declared = None
    if has("hash_base64"):
        declared = base64.b64encode(hashlib.sha256(text).digest()).decode()
    if has("hash_capitals"):
        declared = declared.upper()
    if has("hash_other"):
        declared = "blake2b:" + hashlib.blake2b(text).hexdigest()
    return {**update, "payload_hash": declared}


def other_numbers(value):
    """The same with each position as text."""
    if isinstance(value, dict):
        return {key: str(each) if key == "watermark" else other_numbers(each) for key, each in value.items()}
    return [other_numbers(each) for each in value] if isinstance(value, list) else value


def envelope(update):
    content = {"payload": update["payload"], "payload_hash": update["payload_hash"]}
    text = base64.b64encode(canonical(content).encode()).decode()
    return {"topic": update["topic"], "seq": update["watermark"], "kind": "update", "payload_bytes": text, "schema_version": 1}


class Stranger(service.Reader):
    """One connection."""

    def push(self, event, payload):
        if event == "sync:heartbeat" and has("no_beats", "pings", "other_beats"):
            if has("other_beats"):
                super().push("server:time", {"at": "2026-01-01T00:00:00Z"})
            return
        updates = [other_hash(update) for update in payload.get("updates", ())]
        if has("times"):
            updates = [{**update, "sent_at": SENT_AT[update["watermark"] % 3]} for update in updates]
        if has("no_end") and payload.get("replay_complete"):
            payload = {**payload, "replay_complete": False}
        if has("only_envelopes") and updates:
            for update in updates:
                super().push("sync:frame", envelope(update))
        elif has("one_by_one") and len(updates) > 1:
            for update in updates:
                super().push(event, {**payload, "updates": [update]})
        elif event == "sync:update_batch":
            self.push_form(event, {**payload, "updates": updates})
        else:
            self.push_form(event, payload)
        if has("batch_twice") and updates:
            self.push_form(event, {**payload, "updates": updates})
        if has("second_form"):
            for update in updates:
                super().push("sync:frame", envelope(update))

    def push_form(self, event, payload):
        if has("extras"):
            payload = {**payload, "server": {"region": "eu", "load": [0.1, None]}, "trace": "5f"}
            super().push("presence_diff", {"joins": {}, "leaves": {}})
        super().push(event, other_numbers(payload) if has("text_numbers") else payload)

    def reply(self, ref, topic, response, status="ok"):
        if has("no_answers_to_beats") and topic == "phoenix":
            return
        if has("bare_answers") and status == "ok":
            response = {}
        super().reply(ref, topic, response, status)

    def heads(self):
        return [] if has("no_heads") else super().heads()


async def connect(socket):
    if has("upgrade_403") and next(upgrades) % 10 == 0:
        await socket.close()  # before it is accepted: uvicorn answers 403, without a body
        return
    await service.connect(socket)


async def publish(request):
    answer = await service.publish(request)
    if answer.status_code != 200:
        return answer
    event = json.loads(answer.body)["event"]
    if has("publish_text"):
        event["seq"] = str(event["seq"])
    if has("publish_without_position"):
        del event["seq"]
    if has("publish_without_hash"):
        del event["payload_hash"]
    if has("publish_204", "publish_bare"):
        return Response(status_code=204 if has("publish_204") else 200)
    status = next((int(form[-3:]) for form in chosen if form in ("publish_201", "publish_202")), 200)
    return JSONResponse({"event": event}, status)


if __name__ == "__main__":
    arguments.add_argument("--forms", required=True)
    configure()
    chosen.update(options.forms.split(","))
    assert chosen <= {*FORMS}, chosen
    service.Reader = Stranger
    service.app.routes.insert(0, Route("/internal/v1/runs/{id}/events", publish, methods=["POST"]))
    service.app.routes.insert(0, WebSocketRoute("/socket", connect))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        service.Dated(service.app),
        log_level="warning",
        date_header=False,
        ws_ping_interval=service.BEAT_S if has("pings") else 20,
    )
    uvicorn.Server(config).run([listener])
