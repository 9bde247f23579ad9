"""A service of chat rooms whose every HTTP name differs from the mock's; only its sockets speak the same channel.

Like `thirdparty.py`, on which it is built, it imports nothing of stormgate. One port serves all. Tokens are JWTs that its users
sign; publishes need a signature of the body in a header; there is one form of error, in plain words.

With `--gate`, tickets come from the service instead: a client enters in two steps, and then asks for a ticket with its pass.
Passes can be taken away, one by one or some at once; then their sockets end, and their tickets are refused.

    python rooms_service.py [--drop EVERY] [--gate] [--defect ignore_revocations|keep_sockets|accept_tickets|read_otherwise]
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from thirdparty import Socket, Theirs, canonical, parse, reply

KEY = os.environ.get("ROOMS_KEY", "rooms-key").encode()


def signature(data: bytes) -> str:
    return base64.urlsafe_b64encode(hmac.new(KEY, data, hashlib.sha256).digest()).rstrip(b"=").decode()


class Rooms(Theirs):
    """The whole service."""

    def __init__(self, drop: int, gate: bool = False, defect: str = "") -> None:
        super().__init__(drop, "none", "")
        self.gate, self.defect = gate, defect
        self.riddles: dict[str, str] = {}
        self.passes: dict[str, str] = {}  # its number by the pass itself
        self.taken: set[str] = set()  # numbers of the passes that are no longer good

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
            if self.is_taken(token):
                self.tokens.pop(token, None)
            elif claims["until"] > time.time():
                self.tokens[token] = claims["rooms"]

    def why(self, token: str) -> str:
        return "token_revoked" if self.is_taken(token) else "invalid_token"

    def is_taken(self, token: str) -> bool:
        body = [*token.split("."), ""][1]
        if not body or self.defect == "accept_tickets":
            return False
        return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).get("pass") in self.taken

    def at_the_gate(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        said, number = json.loads(body or b"null"), self.passes.get(headers.get("x-pass", ""))
        if (method, path) == ("POST", "/gate"):
            riddle = f"riddle {next(self.numbers)}"
            self.riddles[riddle] = said["who"]
            return 200, {"ask": {"riddle": riddle}}
        if (method, path) == ("PUT", "/gate"):
            if self.riddles.pop(said["riddle"], None) != said["who"] or said["word"] != "open sesame":
                return 403, {"oops": "wrong word"}
            own, number = f"pass-{os.urandom(8).hex()}", f"no-{next(self.numbers)}"
            self.passes[own] = number
            return 201, {"pass": own, "details": [{"number": number}]}
        if path == "/gate/taken":
            return self.take_passes([said["one"]] if "one" in said else said["some"], number)
        if number is None or (number in self.taken and self.defect != "accept_tickets"):
            return 401, {"oops": "no pass"}
        claims = {"who": said.get("who"), "rooms": said.get("rooms", []), "until": time.time() + 300, "pass": number}
        head, claimed = (base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in ({}, claims))
        return 200, {"ticket": f"{head}.{claimed}.{signature(f'{head}.{claimed}'.encode())}"}

    def take_passes(self, numbers: list[str], own: str | None) -> tuple[int, Any]:
        if own is not None and own not in numbers:
            return 403, {"oops": "not yours"}
        if self.defect == "ignore_revocations":
            return 200, {"gone": numbers}
        self.taken |= set(numbers)
        for socket in [] if self.defect == "keep_sockets" else list(self.sockets):
            claims = socket.token.split(".")[1]
            if json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["pass"] in numbers:
                socket.push("sync:error", {"code": "reauth_required", "message": "your pass was taken"})
                socket.ws.send_close(1008)
                socket.flush()
        return 200, {"gone": numbers}

    def answered(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        path = target.partition("?")[0]
        if path == "/alive":
            return 202, {"breathing": True}
        if path == "/numbers":
            said = sum(map(len, self.logs.values()))
            return 200, {"counts": {"said": said}, "made": datetime.now(UTC).isoformat()}
        if self.gate and path.startswith("/gate"):
            return self.at_the_gate(method, path, headers, body)
        if method == "PUT" and path == "/rooms":
            name = json.loads(body)["label"] + f"-{next(self.numbers)}"
            self.logs[f"chat/{name}"] = []
            return 200, [{"slug": name}]
        if path.startswith("/rooms/") and f"chat/{unquote(path.split('/')[2])}" in self.logs:
            topic = f"chat/{unquote(path.split('/')[2])}"
            if method == "GET":
                said = [entry["payload"] for entry in self.logs[topic]]
                if self.defect == "read_otherwise":
                    said[5:7] = said[5:7][::-1]
                return 200, {"said": said}
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
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--defect", default="")
    given = parser.parse_args()
    rooms = Rooms(given.drop, given.gate, given.defect)
    server = await asyncio.start_server(rooms.serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
