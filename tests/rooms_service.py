"""A service of chat rooms whose every HTTP name differs from the mock's; only its sockets speak the same channel.

Like `thirdparty.py`, on which it is built, it imports nothing of stormgate. One port serves all. Tokens are JWTs that its users
sign; publishes need a signature of the body in a header; there is one form of error, in plain words.

    python rooms_service.py [--drop EVERY]
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from typing import Any
from urllib.parse import parse_qs, unquote

from thirdparty import Socket, Theirs, canonical, parse, reply

KEY = os.environ.get("ROOMS_KEY", "rooms-key").encode()


def signature(data: bytes) -> str:
    return base64.urlsafe_b64encode(hmac.new(KEY, data, hashlib.sha256).digest()).rstrip(b"=").decode()


class Rooms(Theirs):
    """The whole service."""

    def __init__(self, drop: int) -> None:
        super().__init__(drop, "none", "")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, headers = parse(head[:-4])
                if headers.get("upgrade", "").lower() == "websocket" and target.startswith("/listen"):
                    self.admit(parse_qs(target.partition("?")[2]).get("token", [""])[0])
                    await Socket(self, reader, writer).live(head, target)
                    return
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                reply(writer, *self.answered(method, target, headers, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def admit(self, token: str) -> None:
        """Accept a token that is signed with the key, for the rooms that it names."""
        head, _, rest = token.partition(".")
        body, _, signed = rest.partition(".")
        if signed and hmac.compare_digest(signed, signature(f"{head}.{body}".encode())):
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            if claims["until"] > time.time():
                self.tokens[token] = claims["rooms"]

    def answered(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        path = target.partition("?")[0]
        if path == "/alive":
            return 202, {"breathing": True}
        if method == "PUT" and path == "/rooms":
            name = json.loads(body)["label"] + f"-{next(self.numbers)}"
            self.logs[f"chat/{name}"] = []
            return 200, [{"slug": name}]
        if path.startswith("/rooms/") and f"chat/{unquote(path.split('/')[2])}" in self.logs:
            topic = f"chat/{unquote(path.split('/')[2])}"
            if method == "GET":
                return 200, {"said": [entry["payload"] for entry in self.logs[topic]]}
            if headers.get("x-signature") != signature(body):
                return 401, {"oops": "bad signature"}
            return self.say(topic, headers["x-once"], json.loads(body)["words"])
        return 404, {"oops": "no such thing"}

    def say(self, topic: str, key: str, words: object) -> tuple[int, Any]:
        log = self.logs[topic]
        if (topic, key) not in self.keys:
            payload = {"from": "stormgate", "words": words}
            digest = "sha256:" + hashlib.sha256(canonical(payload).encode()).hexdigest()
            log.append({"payload": payload, "payload_hash": digest})
            self.keys[topic, key] = len(log)
            for socket in self.sockets:
                socket.fresh(topic, len(log))
        return 200, {"all": [{"once": key, "place": self.keys[topic, key]}]}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--drop", type=int, default=0)
    rooms = Rooms(parser.parse_args().drop)
    server = await asyncio.start_server(rooms.serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
