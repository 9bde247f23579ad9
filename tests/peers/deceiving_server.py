"""A small service of resumable streams that lies on request, one switch for each kind of lie. It imports nothing of ours.

    python -m tests.peers.deceiving_server [--lie LIE,LIE] [--retain EVENTS]      prints its port

Phoenix Channels V2 on /socket, `sync:v1`: phx_join, sync:subscribe (topics, resume_after), heartbeats. Every event has a dense
position from 1 and the SHA-256 of its canonical JSON. Without a lie, this is an honest service; `LIES` says what each lie does.
To add a lie: name it in `LIES`, and ask `lies("its_name")` where the honest answer is made.

POST /internal/v1/runs -> {"run": {"id"}}      POST /internal/v1/runs/ID/events {"payload", "idempotency_key"} -> {"event"}
GET /internal/v1/runs/ID -> {"events"}         GET /readyz, /metrics         POST /faults/KIND -> {"count"}
"""

import asyncio
import contextlib
import itertools
import json
import socket
import time
from email.utils import formatdate

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from tests.peers.deceiving_lies import configure, lies
from tests.peers.deceiving_streams import LARGE_STEP, Stream, hash_of, streams

BEAT_S = 0.5
STORM_READERS = 4  # readers that leave within STORM_S
STORM_S = 0.3
HOUR_S = 3600.0
FLAPS_S = 10.0  # how long a restarted server goes on to close who is back
RESTARTED_S = 0.4  # in which a restarted server takes no connection


class Storm:
    """Many readers left at once: a fault of the drill, or a server that closed them."""

    def __init__(self):
        self.left = []
        self.began_t = 0.0

    def note(self):
        """A reader left."""
        now = time.monotonic()
        self.left = [t for t in self.left if now - t < STORM_S] + [now]
        if len(self.left) >= STORM_READERS and not self.began_t:
            self.began_t = now
            if lies("sleep"):
                time.sleep(3.0)
            if lies("close_others"):
                close_some(4, STORM_S)


storm, readers = Storm(), set()
counters = {"published": 0, "set_back_at": 0, "closed": 0}


def close_some(count, after_s):
    """Close so many of the readers that are still there after a while."""

    async def close():
        await asyncio.sleep(after_s)
        await asyncio.gather(*(reader.close() for reader in sorted(readers, key=lambda reader: reader.number)[:count]))

    background(close())


tasks = set()


def background(work):
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


numbers = itertools.count(1)


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
    counters["published"] += 1
    stream.tries[key] = stream.tries.get(key, 0) + 1
    if lies("refuse_first") and stream.tries[key] == 1:
        return JSONResponse({"error": {"code": "busy"}}, 503)
    if faults.get("slow_publishes", 0) > time.monotonic():
        await asyncio.sleep(0.7)
    if key not in stream.by_key:
        stream.by_key[key] = position = stream.head + 1
        if lies("acknowledge_nothing") and stream.is_chosen(len(stream.by_key)):
            stream.by_key[key] = stream.head
            return JSONResponse({"event": {"seq": stream.head, "payload_hash": hash_of(payload)}})
        if lies("acknowledge_last") and storm.began_t:
            stream.by_key[key] = position = position + len(stream.by_key) - 1 - stream.head
            return JSONResponse({"event": {"seq": position, "payload_hash": hash_of(payload)}})
        if lies("late_first") and stream.is_chosen(position) and position > 1:
            stream.events.insert(position - 2, payload)
        else:
            stream.events.append(payload)
        if lies("unanswered_to_some") and storm.began_t:
            stream.unanswered.add(position)
        deliver(stream, position)
    position = stream.by_key[key]
    if position in stream.unanswered or position > stream.head:
        return JSONResponse({"error": {"code": "timeout"}}, 504)
    if lies("acknowledge_above") and stream.is_chosen(position):
        position += 1000
        return JSONResponse({"event": {"seq": position, "payload_hash": hash_of(payload)}})
    return JSONResponse({"event": {"seq": position, "payload_hash": hash_of(stream.events[position - 1])}})


def deliver(stream, position):
    updates = [stream.update(position)]
    if (lies("wait_for_fresh") or lies("wait_for_poll")) and storm.began_t:
        stream.held += updates
        return
    if lies("drop_tail") and storm.began_t:
        updates = [stream.update(position - 1)]
    if lies("second_payload") and stream.is_chosen(position):
        other = {"payload": {**stream.events[position - 1]["payload"], "second": True}}
        updates.append({**stream.update(position), "payload": other, "payload_hash": hash_of(other)})
    if lies("second_hash") and stream.is_chosen(position):
        updates.append({**stream.update(position), "payload_hash": hash_of({"no": "such payload"})})
    for reader in stream.readers:
        reader.deliver(stream, updates)


async def read(request):
    stream = streams["room:" + request.path_params["id"]]
    events = [{"seq": at, **event} for at, event in enumerate(stream.events, 1)]
    if lies("store_less"):
        del events[4]
    if lies("store_twice"):
        events.insert(5, events[4])
    if lies("store_altered"):
        events[4] = {**events[4], "payload": {**events[4]["payload"], "altered": True}}
    if lies("store_swapped"):
        events[4], events[5] = {**events[5], "seq": 5}, {**events[4], "seq": 6}
    return JSONResponse({"events": events})


async def ready(request):
    return JSONResponse({})


async def metrics(request):
    release("wait_for_poll")
    published = counters["published"]
    if lies("counters_set_back") and storm.began_t:
        counters["set_back_at"] = counters["set_back_at"] or published
        published -= counters["set_back_at"]
    return JSONResponse({"mirror": {"published_total": published, "failed_total": 0}})


def release(lie):
    """Deliver what waited for this."""
    for stream in streams.values() if lies(lie) else ():
        held, stream.held = stream.held, []
        for reader in stream.readers if held else ():
            reader.deliver(stream, held)


faults = {}  # by kind: until when it lasts


async def fault(request):
    """Do what a hook asks for, and say on how many connections."""
    kind, connected = request.path_params["kind"], len(readers)
    if kind == "slow_publishes" and not lies("slow_nothing"):
        faults[kind] = time.monotonic() + 1.0
    if kind == "kill_runtime" and not lies("restart_nothing"):
        faults[kind] = time.monotonic() + RESTARTED_S
        chosen = [reader for reader in readers if not lies("restart_some") or reader.number % 3 == 0]
        await asyncio.gather(*(reader.close() for reader in chosen))
    return JSONResponse({"count": connected})


# --- over the socket ------------------------------------------------------------------------------------


class Reader:
    """One connection."""

    def __init__(self, socket):
        self.socket = socket
        self.frames = asyncio.Queue()
        self.cursors = {}  # by stream: a cursor above its head
        self.subscribed = []
        self.number = next(numbers_of_readers)
        self.shift = {}  # by stream, of the reader that gets other positions

    @property
    def is_one(self):
        """Whether this is a reader that some lies are for."""
        return self.number % 5 == 3

    async def close(self):
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.close(1012)

    def close_later(self, after_s):
        async def close():
            await asyncio.sleep(after_s)
            await self.close()

        background(close())

    def push(self, event, payload):
        self.frames.put_nowait(["1", None, "sync:v1", event, payload])

    def reply(self, ref, topic, response, status="ok"):
        addressee = None if topic == "phoenix" else "1"
        self.frames.put_nowait([addressee, ref, topic, "phx_reply", {"status": status, "response": response}])

    def deliver(self, stream, updates):
        if lies("unanswered_to_some") and self.number % 2:
            updates = [update for update in updates if update["watermark"] not in stream.unanswered]
        if lies("mute_one_stream") and self.is_one and stream is self.subscribed[-1]:
            return
        if self.is_one and (lies("skip_for_one") or lies("repeat_for_one")):
            updates = self.shifted(stream, updates)
        self.push("sync:update_batch", {"updates": updates, "replay_complete": False, "head_watermarks": []})

    def shifted(self, stream, updates):
        """The updates at other positions, from an event in the middle of the stream on."""
        found = []
        for update in updates:
            if lies("skip_for_one") and not self.shift.get(stream) and stream.is_chosen(update["watermark"]):
                self.shift[stream] = -1
                continue
            found.append({**update, "watermark": update["watermark"] + self.shift.get(stream, 0)})
            if lies("repeat_for_one") and not self.shift.get(stream) and stream.is_chosen(update["watermark"]):
                self.shift[stream] = 1
                found.append({**update, "watermark": update["watermark"] + 1})
        return found

    def heads(self):
        shown = self.subscribed[:-1] if lies("mute_one_stream") and self.is_one else self.subscribed
        return [] if lies("ignore_future") else [self.head_of(stream) for stream in shown]

    def head_of(self, stream):
        head = stream.head
        if lies("drop_tail") and storm.began_t:
            head -= 1
        head -= len(stream.held) + (len(stream.unanswered) if self.number % 2 else 0)
        head += self.shift.get(stream, 0)
        if lies("echo_future"):
            head = max(head, self.cursors.get(stream, 0))
        return {"topic": stream.name, "watermark": head}

    async def run(self):
        readers.add(self)
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
            readers.discard(self)
            for stream in streams.values():
                stream.readers.discard(self)
            storm.note()
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
        if lies("close_before_live") and after and counters["closed"] < 40:
            counters["closed"] += 1
            self.close_later(0.05)
            return
        stale = [stream for stream in asked if after.get(stream.name, stream.head) < stream.floor]
        if lies("stale_within") or lies("stale_floor"):
            stale = [stream for stream in asked if after.get(stream.name, stream.head) < stream.head - 5]
        if stale:
            self.reply(ref, "sync:v1", self.stale(stale, after), "error")
            return
        self.reply(ref, "sync:v1", {"subscription_id": "s1"})
        self.subscribed = asked
        if not after:
            release("wait_for_fresh")
        if lies("complete_first") and after:
            self.complete()
            self.replay_later(asked, after)
            return
        for stream in asked:
            self.replay(stream, after.get(stream.name))
        self.complete()
        self.perhaps_close(after)

    def complete(self):
        self.push("sync:update_batch", {"updates": [], "replay_complete": True, "head_watermarks": self.heads()})

    def replay_later(self, asked, after):
        async def replay():
            await asyncio.sleep(0.3)
            for stream in asked:
                self.replay(stream, after.get(stream.name))

        background(replay())

    def perhaps_close(self, after):
        """Close the connection of a client that came back, once for each of some clients."""
        since_s = time.monotonic() - storm.began_t
        if lies("close_at_rest") and storm.began_t and not after:  # the auditor is here
            close_some(3, 0.0)
        if (lies("close_again") or lies("close_later")) and storm.began_t and self.number <= LAST_CLOSED:
            self.close_later(0.3 if lies("close_again") else 1.3)
        if lies("restart_again") and since_s < FLAPS_S:
            self.close_later(0.1)

    def replay(self, stream, cursor):
        start = stream.floor if cursor is None else cursor
        if cursor is not None and cursor > stream.head:
            self.cursors[stream] = cursor
        if cursor is None and (lies("skip_retained") or (lies("skip_retained_at_first") and stream.head < 2 * LARGE_STEP)):
            start = (stream.floor + stream.head) // 2
        if lies("replay_nothing") and cursor is not None:
            start = stream.head
        if lies("replay_all"):
            start = stream.floor
        updates = [stream.update(position) for position in range(start + 1, stream.head + 1)]
        if lies("drop_tail") and cursor is not None and storm.began_t:  # so that no late return repairs it
            del updates[-1:]
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
                    "retention_floor": at + 1 if lies("stale_floor") else stream.floor,
                    "head_watermark": stream.head,
                    "replay_lag": stream.head - at,
                }
            )
            plan.append({"topic": stream.name, "head_watermark": stream.head, "snapshot": stream.snapshot()})
        return {
            "code": "stale_cursor",
            "full_resync_required": True,
            "reason_codes": ["retention_floor_breach"],
            "stale_topics": topics,
            "snapshot_plan": {"format": "openagents.sync.snapshot.v1", "topics": plan},
        }


numbers_of_readers = itertools.count(1)
LAST_CLOSED = 35  # of the readers of a drill of 20 clients that come back


async def connect(socket):
    if faults.get("kill_runtime", 0) > time.monotonic():
        await socket.close(1012)
        return
    await socket.accept()
    await Reader(socket).run()


app = Starlette(
    routes=[
        Route("/readyz", ready),
        Route("/metrics", metrics),
        Route("/faults/{kind}", fault, methods=["POST"]),
        Route("/internal/v1/runs", create, methods=["POST"]),
        Route("/internal/v1/runs/{id}/events", publish, methods=["POST"]),
        Route("/internal/v1/runs/{id}", read),
        WebSocketRoute("/socket", connect),
    ]
)


class Dated:
    """The service behind a clock of its own: the Date of its answers."""

    def __init__(self, app):
        self.app = app
        self.answers = itertools.count(1)

    async def __call__(self, scope, receive, send):
        async def dated(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"date", self.date().encode())]
            await send(message)

        await self.app(scope, receive, dated)

    def date(self):
        is_ahead = lies("fast_clock") or (lies("stepped_clock") and storm.began_t)
        is_ahead = is_ahead or (lies("clock_of_some") and next(self.answers) % 3 == 0)
        is_behind = lies("slow_clock") or (lies("clock_set_back") and storm.began_t)
        return formatdate(time.time() + HOUR_S * (bool(is_ahead) - bool(is_behind)), usegmt=True)


if __name__ == "__main__":
    configure()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(Dated(app), log_level="warning", date_header=False)).run([listener])
