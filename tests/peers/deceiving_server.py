"""A small service of resumable streams that lies on request, one switch for each kind of lie. It imports nothing of ours.

    python deceiving_server.py [--lie LIE] [--retain EVENTS]      prints its port

Phoenix Channels V2 on /socket, `sync:v1`: phx_join, sync:subscribe (topics, resume_after), heartbeats. Every event has a dense
position from 1 and the SHA-256 of its canonical JSON. Without a lie, this is an honest service; `LIES` says what each lie does.
To add a lie: name it in `LIES`, and ask `lies("its_name")` where the honest answer is made.

POST /internal/v1/runs -> {"run": {"id"}}      POST /internal/v1/runs/ID/events {"payload", "idempotency_key"} -> {"event"}
GET /internal/v1/runs/ID -> {"events"}         GET /readyz
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import re
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

LIES = {
    # What a client gets is not what was published. The hash is right for what it gets.
    "alter": "a part of a payload is replaced",
    "truncate": "a payload lacks its largest part",
    "swap": "two events have each other's payload",
    "other_tenant": "an event has the payload of an event of another stream",
    "earlier_run": "an event has the payload of an event of an earlier run",
    "leftovers": "a new stream has events of an earlier run",
    "bad_hash": "an event has the hash of another payload",
    "second_payload": "an event is delivered a second time, with another payload",
    "second_hash": "an event is delivered a second time, with a wrong hash",
    # What a client gets when it starts or resumes.
    "skip_retained": "a client without a cursor is started in the middle of what is retained",
    "skip_retained_at_first": "the same, as long as a stream is short",
    "skip_after_resume": "the first event after a cursor is not replayed, and the next one has its position",
    "replay_nothing": "a client that resumes is told that it is caught up, and gets only later events",
    "echo_future": "a cursor above the head is answered with nothing, and every head that this client gets is its cursor",
    "ignore_future": "a cursor above the head is answered with nothing, and heads are never reported",
    "drop_tail": "the last event of a stream is never delivered to clients that are live, and no head reveals it",
    # Snapshots for cursors that are no longer retained.
    "empty_snapshot": "a snapshot contains no event, and has the position of the head",
    "low_snapshot": "a snapshot ends before the first event that is retained",
    "unfit_snapshot": "a snapshot states another number of events than its position",
    "high_snapshot": "a snapshot is above the head",
    # Order and durability.
    "late_first": "of two publishes, the one that was acknowledged first gets the higher position",
    "acknowledge_nothing": "some publishes are acknowledged, and not stored",
}
BEAT_S = 0.5
LARGE_STEP = 7  # every so many events, one is a lie
arguments = argparse.ArgumentParser()
arguments.add_argument("--lie", default="", choices=["", *LIES])
arguments.add_argument("--retain", type=int, default=1_000_000, help="events of a stream that are kept")
options = arguments.parse_args([])


def lies(name):
    return options.lie == name


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(value):
    return "sha256:" + hashlib.sha256(canonical(value).encode()).hexdigest()


class Stream:
    """One log; event N is at `events[N - 1]`."""

    def __init__(self, name):
        self.name = name
        self.events = []
        self.by_key = {}
        self.readers = set()

    @property
    def head(self):
        return len(self.events)

    @property
    def floor(self):
        """The position before the first event that is retained."""
        return max(self.head - options.retain, 0)

    def update(self, position):
        payload = self.told(position)
        declared = hash_of({"no": "such payload"}) if lies("bad_hash") and self.is_chosen(position) else hash_of(payload)
        return {"topic": self.name, "payload": payload, "payload_hash": declared, "watermark": position}

    def is_chosen(self, position):
        return position % LARGE_STEP == 3

    def told(self, position):
        """The payload that readers get for a position."""
        payload = self.events[position - 1]
        if lies("swap") and position % LARGE_STEP in (3, 4):
            other = position + 1 if self.is_chosen(position) else position - 1
            return self.events[other - 1] if 0 < other <= self.head else payload
        if not self.is_chosen(position):
            return payload
        published = payload["payload"]
        if lies("alter"):
            return {"payload": {**published, "altered": True}}
        if lies("truncate"):
            largest = max(published, key=lambda key: (key != "marker") * len(canonical(published[key])))
            return {"payload": {key: value for key, value in published.items() if key != largest}}
        if lies("other_tenant"):
            others = [stream for stream in streams.values() if stream is not self and stream.events]
            return others[0].events[0] if others else payload
        if lies("earlier_run"):
            return {"payload": {**published, "marker": of_earlier_run(published.get("marker", ""))}}
        return payload


def of_earlier_run(marker):
    return re.sub(r"^sg\.[0-9a-f]{12}", "sg.00000000abcd", marker)


streams, numbers = {}, itertools.count(1)


# --- over HTTP ------------------------------------------------------------------------------------------


async def create(request):
    number = str(next(numbers))
    stream = streams[f"room:{number}"] = Stream(f"room:{number}")
    if lies("leftovers"):
        stream.events.append({"payload": {"marker": "sg.00000000abcd.00000000.1.00000000"}})
    return JSONResponse({"run": {"id": number}}, 201)


async def publish(request):
    stream = streams.get("room:" + request.path_params["id"])
    if stream is None:
        return JSONResponse({"error": {"code": "not_found"}}, 404)
    body = await request.json()
    key, payload = body["idempotency_key"], {"payload": body["payload"]}
    if key not in stream.by_key:
        stream.by_key[key] = position = stream.head + 1
        if lies("acknowledge_nothing") and stream.is_chosen(len(stream.by_key)):
            stream.by_key[key] = stream.head
            return JSONResponse({"event": {"seq": stream.head, "payload_hash": hash_of(payload)}})
        if lies("late_first") and stream.is_chosen(position) and position > 1:
            stream.events.insert(position - 2, payload)
        else:
            stream.events.append(payload)
        deliver(stream, position)
    position = stream.by_key[key]
    return JSONResponse({"event": {"seq": position, "payload_hash": hash_of(stream.events[position - 1])}})


def deliver(stream, position):
    if lies("drop_tail") and position % (2 * LARGE_STEP) == 0:
        return
    updates = [stream.update(position)]
    if lies("drop_tail") and position > 1 and (position - 1) % (2 * LARGE_STEP) == 0:
        updates.insert(0, stream.update(position - 1))
    if lies("second_payload") and stream.is_chosen(position):
        other = {"payload": {**stream.events[position - 1]["payload"], "second": True}}
        updates.append({**stream.update(position), "payload": other, "payload_hash": hash_of(other)})
    if lies("second_hash") and stream.is_chosen(position):
        updates.append({**stream.update(position), "payload_hash": hash_of({"no": "such payload"})})
    for reader in stream.readers:
        reader.deliver(stream, updates)


async def read(request):
    stream = streams["room:" + request.path_params["id"]]
    events = [{"seq": at, **stream.events[at - 1]} for at in range(stream.floor + 1, stream.head + 1)]
    return JSONResponse({"events": events})


async def ready(request):
    return JSONResponse({})


# --- over the socket ------------------------------------------------------------------------------------


class Reader:
    """One connection."""

    def __init__(self, socket):
        self.socket = socket
        self.frames = asyncio.Queue()
        self.cursors = {}  # by stream: a cursor above its head
        self.subscribed = []

    def push(self, event, payload):
        self.frames.put_nowait(["1", None, "sync:v1", event, payload])

    def reply(self, ref, topic, response, status="ok"):
        addressee = None if topic == "phoenix" else "1"
        self.frames.put_nowait([addressee, ref, topic, "phx_reply", {"status": status, "response": response}])

    def deliver(self, stream, updates):
        self.push("sync:update_batch", {"updates": updates, "replay_complete": False, "head_watermarks": []})

    def heads(self):
        return [] if lies("ignore_future") else [self.head_of(stream) for stream in self.subscribed]

    def head_of(self, stream):
        head = stream.head
        if lies("drop_tail") and head % (2 * LARGE_STEP) == 0:
            head -= 1
        if lies("echo_future"):
            head = max(head, self.cursors.get(stream, 0))
        return {"topic": stream.name, "watermark": head}

    async def run(self):
        tasks = [asyncio.create_task(self.send()), asyncio.create_task(self.beat())]
        try:
            while True:
                _, ref, topic, event, payload = json.loads(await self.socket.receive_text())
                if event == "phx_join":
                    self.reply(ref, topic, {"subscription_id": "s1", "allowed_topics": [], "current_watermarks": []})
                elif event == "sync:subscribe":
                    self.subscribe(ref, payload)
                else:
                    self.reply(ref, topic, {})
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            for stream in streams.values():
                stream.readers.discard(self)
            for task in tasks:
                task.cancel()

    async def send(self):
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self.socket.send_text(json.dumps(await self.frames.get()))

    async def beat(self):
        while True:
            await asyncio.sleep(BEAT_S)
            self.push("sync:heartbeat", {"watermarks": self.heads()})

    # --- subscribing ------------------------------------------------------------------------------------

    def subscribe(self, ref, payload):
        asked, after = [streams[name] for name in payload["topics"]], payload["resume_after"]
        stale = [stream for stream in asked if after.get(stream.name, stream.head) < stream.floor]
        if stale:
            self.reply(ref, "sync:v1", self.stale(stale, after), "error")
            return
        self.reply(ref, "sync:v1", {"subscription_id": "s1"})
        self.subscribed = asked
        for stream in asked:
            self.replay(stream, after.get(stream.name))
        self.push("sync:update_batch", {"updates": [], "replay_complete": True, "head_watermarks": self.heads()})

    def replay(self, stream, cursor):
        start = stream.floor if cursor is None else cursor
        if cursor is not None and cursor > stream.head:
            self.cursors[stream] = cursor
        if cursor is None and (lies("skip_retained") or (lies("skip_retained_at_first") and stream.head < 2 * LARGE_STEP)):
            start = (stream.floor + stream.head) // 2
        if lies("replay_nothing") and cursor is not None:
            start = stream.head
        updates = [stream.update(position) for position in range(start + 1, stream.head + 1)]
        if lies("skip_after_resume") and cursor is not None and len(updates) > 1:
            updates[0] = {**updates[1], "watermark": start + 1}
        if updates:
            self.deliver(stream, updates)
        stream.readers.add(self)

    def stale(self, stale, after):
        topics, plan = [], []
        for stream in stale:
            at = after[stream.name]
            topics.append(
                {
                    "topic": stream.name,
                    "reason": "retention_floor_breach",
                    "resume_after": at,
                    "retention_floor": stream.floor,
                    "head_watermark": stream.head,
                    "replay_lag": stream.head - at,
                }
            )
            plan.append({"topic": stream.name, "head_watermark": stream.head, "snapshot": self.snapshot(stream)})
        return {
            "code": "stale_cursor",
            "full_resync_required": True,
            "reason_codes": ["retention_floor_breach"],
            "stale_topics": topics,
            "snapshot_plan": {"format": "openagents.sync.snapshot.v1", "topics": plan},
        }

    def snapshot(self, stream):
        at = stream.head
        if lies("low_snapshot"):
            at = stream.floor // 2
        if lies("high_snapshot"):
            at = stream.head + 25
        events = 0 if lies("empty_snapshot") else at // 2 if lies("unfit_snapshot") else at
        return {"format": "openagents.sync.snapshot.v1", "watermark": at, "events": events, "digest": "", "taken_at": 0.0}


async def connect(socket):
    await socket.accept()
    await Reader(socket).run()


app = Starlette(
    routes=[
        Route("/readyz", ready),
        Route("/internal/v1/runs", create, methods=["POST"]),
        Route("/internal/v1/runs/{id}/events", publish, methods=["POST"]),
        Route("/internal/v1/runs/{id}", read),
        WebSocketRoute("/socket", connect),
    ]
)


if __name__ == "__main__":
    options = arguments.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
