"""A small made-up server of notice boards, for the guide on adapters: JSON over one WebSocket, posts over HTTP.

It imports nothing of ours.

python board_server.py [--defect lose_missed]     prints its port

-> {"op": "hello", "token": "..."}                 <- {"op": "welcome", "ping_s": 2} or {"op": "no", "why": "..."} and the end
-> {"op": "follow", "board": B, "after": N|null}   <- {"op": "following", "board": B, "after": N}
                                                   <- {"op": "post", "board": B, "n": N, "text": ...}, one for each
                                                   <- {"op": "current", "board": B, "n": N}
   or, if posts after N are no longer kept         <- {"op": "forgotten", "board": B, "kept": N}
<- {"op": "ping"}                                  -> {"op": "pong"}

POST /boards -> {"board": B}      POST /boards/B, any JSON -> {"n": N}      GET /up -> 200
"""

import argparse
import asyncio
import contextlib
import itertools
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

PING_S = 2
boards, keys, followers = {}, {}, {}
numbers = itertools.count(1)
arguments = argparse.ArgumentParser()
arguments.add_argument("--defect", default="")
DEFECT = ""


async def create(request):
    name = f"board-{next(numbers)}"
    boards[name], followers[name] = [], set()
    return JSONResponse({"board": name})


async def post(request):
    name, key = request.path_params["name"], request.headers["x-key"]
    if name not in boards:
        return JSONResponse({"why": "no such board"}, 404)
    if key not in keys:
        boards[name].append(await request.json())
        keys[key] = len(boards[name])
        for queue in followers[name]:
            queue.put_nowait({"op": "post", "board": name, "n": keys[key], "text": boards[name][-1]})
    return JSONResponse({"n": keys[key]})


async def sync(socket):
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        if (await socket.receive_json()).get("token") == "good":
            await serve(socket)
        else:
            await socket.send_json({"op": "no", "why": "bad_token"})
            await socket.close(4001)


async def serve(socket):
    await socket.send_json({"op": "welcome", "ping_s": PING_S})
    queue, followed = asyncio.Queue(), []
    tasks = [asyncio.create_task(send(socket, queue)), asyncio.create_task(ping(queue))]
    try:
        while True:
            message = await socket.receive_json()
            if message["op"] == "follow":
                follow(message["board"], message["after"], queue)
                followed.append(message["board"])
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        for name in followed:
            followers[name].discard(queue)
        for task in tasks:
            task.cancel()


def follow(name, after, queue):
    log = boards[name]
    after = len(log) if after is None else after
    queue.put_nowait({"op": "following", "board": name, "after": after})
    for n in range(after + 1 + (DEFECT == "lose_missed"), len(log) + 1):
        queue.put_nowait({"op": "post", "board": name, "n": n, "text": log[n - 1]})
    queue.put_nowait({"op": "current", "board": name, "n": len(log)})
    followers[name].add(queue)


async def send(socket, queue):
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        while True:
            await socket.send_json(await queue.get())


async def ping(queue):
    while True:
        await asyncio.sleep(PING_S / 2)
        queue.put_nowait({"op": "ping"})


async def up(request):
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/up", up),
        Route("/boards", create, methods=["POST"]),
        Route("/boards/{name}", post, methods=["POST"]),
        WebSocketRoute("/sync", sync),
    ]
)


if __name__ == "__main__":
    DEFECT = arguments.parse_args().defect
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
