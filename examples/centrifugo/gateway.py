"""The platform of a small team around Centrifugo, to practise a rollout with: `python3 gateway.py --help`.

It is the address that clients use. Behind it, one or two revisions of Centrifugo run, and one of them serves. It is also what
every team has in some form: it issues tokens, says which revision serves, routes users to a cohort, counts, and has levers.
Only the standard library of Python 3.11 is needed.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import time
import zlib
from datetime import UTC, datetime

USER = "stormgate"  # the account of this platform's only session
SERIES = re.compile(r"^(?P<name>[a-z_]+)(\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)
# What Centrifugo counts, by our names: a series, and labels that it must have.
METRICS = {
    "clients": ("centrifugo_node_num_clients", ""),
    "publications": ("centrifugo_node_messages_sent_count", 'type="publication"'),
    "not_recovered": ("centrifugo_client_recover", 'recovered="no"'),
    "slow_clients": ("centrifugo_client_num_server_disconnects", 'code="3008"'),
    "silent_clients": ("centrifugo_client_num_server_disconnects", 'code="3012"'),
}
COUNTERS = ("issued", "issue.failed", "issue.policy_denied", "issue.auth_failed", "issue.policy_eval_failed")


class Platform:
    """One address. `revisions`: name -> (host, port) of a Centrifugo; the first one serves, until a rollback."""

    def __init__(self, revisions: dict[str, tuple[str, int]]) -> None:
        self.revisions = revisions
        self.usual = {"traffic": next(iter(revisions)), "throttle": None, "cohort": 5}
        self.now = dict(self.usual)
        self.mint_delay_s, self.minting, self.is_minting_off = 0.0, asyncio.Semaphore(1000), False
        self.counted = dict.fromkeys(COUNTERS, 0)
        self.second, self.published = 0, 0  # publishes of this second, for the throttle
        self.sockets: set[asyncio.StreamWriter] = set()

    # --- levers: PUT /levers/NAME with a JSON value, null for the usual one -------------------------------

    def pull(self, lever: str, value: object) -> None:
        if lever == "mint_delay":
            wanted = value or {"delay_ms": 0, "at_once": 1000}
            self.mint_delay_s, self.minting = wanted["delay_ms"] / 1000, asyncio.Semaphore(wanted["at_once"])
        elif lever == "mint_outage":
            self.is_minting_off = bool(value)
        elif lever == "percent":  # the cohort of the next stage, which a rollback returns to
            self.usual["cohort"] = self.now["cohort"] = value
        else:
            self.now[lever] = self.usual[lever] if value is None else value
        if lever == "traffic":
            assert self.now["traffic"] in self.revisions
            for writer in tuple(self.sockets):  # clients connect again, to the revision that serves now
                writer.close()

    # --- what it answers ----------------------------------------------------------------------------------

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        if path.startswith("/levers/"):
            self.pull(path.removeprefix("/levers/"), json.loads(body or b"null"))
            return 200, self.now
        if path == "/token":
            return await self.token(headers, json.loads(body))
        if path == "/route":
            key = json.loads(body)["user"]
            in_cohort = zlib.crc32(key.encode()) % 100 < self.now["cohort"]
            return 200, {"user": key, "cohort": "new" if in_cohort else "old", "revision": self.now["traffic"]}
        if path == "/status":
            counters = {f"sync.token.{name}": count for name, count in self.counted.items()}
            return 200, {"revision": self.now["traffic"], "counters": counters}
        if path == "/metrics":
            _, text = await self.forward("GET", "/metrics", {}, b"")
            return 200, {**metrics(text.decode()), "generated_at": datetime.now(UTC).isoformat()}
        if path == "/health" or path.startswith("/api/"):
            if path == "/api/publish" and not self.may_publish():
                return 429, {"message": "rate_limited"}
            return await self.forward(method, path, headers, body)
        return 404, {"message": "not_found"}

    async def token(self, headers: dict[str, str], asked: dict) -> tuple[int, object]:
        if headers.get("authorization") != "Bearer " + os.environ["PLATFORM_SESSION"]:
            self.counted["issue.auth_failed"] += 1
            return 401, {"message": "unauthorized"}
        if self.is_minting_off:
            self.counted["issue.failed"] += 1
            return 503, {"message": "unavailable"}
        async with self.minting:
            await asyncio.sleep(self.mint_delay_s)
        self.counted["issued"] += 1
        ttl_s = asked.get("ttl_s", 300)
        expires_at = int(time.time()) + ttl_s
        return 200, {"token": jwt({"sub": USER, "exp": expires_at}), "expires_in": ttl_s}

    def may_publish(self) -> bool:
        if int(time.monotonic()) != self.second:
            self.second, self.published = int(time.monotonic()), 0
        self.published += 1
        return self.now["throttle"] is None or self.published <= self.now["throttle"]

    async def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        host, port = self.revisions[self.now["traffic"]]

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            kept = {name: value for name, value in headers.items() if name.startswith(("x-", "content-type"))}
            try:
                connection.request(method, path, body, kept)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except OSError:
                return 502, b'{"message": "no_revision_answers"}'
            finally:
                connection.close()

        return await asyncio.to_thread(ask)

    # --- connections --------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode("latin-1").rstrip().split("\r\n")
                method, path, _ = line.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
                if "upgrade" in headers:
                    await self.tunnel(head, reader, writer)
                    break
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                try:
                    status, said = await self.answer(method, path, headers, body)
                except (ValueError, KeyError, AssertionError, TypeError) as error:
                    status, said = 400, {"message": f"bad_request: {error}"}
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                start = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                writer.write(start.encode() + content)
                await writer.drain()
        writer.close()

    async def tunnel(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a WebSocket on to the revision that serves, until one of both closes it."""
        back, forth = await asyncio.open_connection(*self.revisions[self.now["traffic"]])
        forth.write(head)
        self.sockets |= {writer, forth}

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, forth), copy(back, writer))
        self.sockets -= {writer, forth}


def metrics(page: str) -> dict[str, float]:
    """Centrifugo's metrics by our names. What it has not counted yet has no series there, and is 0."""
    found = dict.fromkeys(METRICS, 0)
    for series in SERIES.finditer(page):
        for name, (wanted, label) in METRICS.items():
            if series["name"] == wanted and label in (series["labels"] or ""):
                found[name] += int(float(series["value"]))
    return found


def jwt(claims: dict[str, object]) -> str:
    """A token that Centrifugo takes, signed with HS256."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = ".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims))
    return signed + "." + part(hmac.digest(os.environ["CENTRIFUGO_TOKEN_KEY"].encode(), signed.encode(), hashlib.sha256))


async def main() -> None:
    parser = argparse.ArgumentParser(description="A platform around Centrifugo. Ctrl-C stops it.")
    parser.add_argument("--port", type=int, required=True, help="where clients reach it")
    parser.add_argument("--revision", action="append", required=True, help="NAME=PORT of a Centrifugo; the first serves")
    options = parser.parse_args()
    named = (text.partition("=") for text in options.revision)
    platform = Platform({name: ("127.0.0.1", int(port)) for name, _, port in named})
    server = await asyncio.start_server(platform.serve, "127.0.0.1", options.port, limit=1 << 20)
    print(f"{platform.now['traffic']} serves at http://127.0.0.1:{options.port}. Ctrl-C stops it.", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
