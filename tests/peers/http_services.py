"""A stand-in for a runtime and a control service that serve HTTP alone, written from recordings of real ones.

Nothing here imports stormgate. An append answers with the whole run, reading back is a GET of the run, the first event of a run
is the runtime's own, errors are `{"error", "message"}`, and no socket is served.

    python http_services.py [--defect NAME]... [--log FILE]

It prints the two ports. The file that `--log` names gets the control service's counters, which no route serves.
"""

import argparse
import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MISORDERED = ("store_twice", "store_out_of_order")
DEFECTS = ("stall_on_concurrent_appends", "user_id_as_text", "read_only", "lose_acknowledged", "alter_stored", *MISORDERED)
SESSION = "their-session"
KEY = b"their signing key"
FROZEN = {"error": "write_path_frozen", "message": "runtime authority writes are frozen"}


def moment() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Services:
    """The state of both services. `lock` guards the runs; an append holds it only between its steps."""

    def __init__(self, defects: list[str], log: str) -> None:
        self.defects, self.log, self.lock = set(defects), log, threading.Lock()
        self.runs: dict[str, dict[str, Any]] = {}
        self.appending: dict[str, int] = {}
        self.stalled: set[str] = set()
        self.published = self.duplicates = self.failed = self.issued = 0

    # --- runtime ------------------------------------------------------------------------------------

    def runtime(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, Any]:
        if path == "/healthz":
            return 200, {"status": "ok", "service": "runtime", "build_sha": "243187bdc8", "uptime_seconds": 2}
        if path == "/readyz":
            return 200, {"status": "ready", "authority_ready": True}
        if path == "/internal/v1/spacetime/sync/metrics":
            return 200, self.metrics()
        parts = path.strip("/").split("/")
        if parts[:3] != ["internal", "v1", "runs"]:
            return 404, None
        if method == "POST" and "read_only" in self.defects:
            return 503, FROZEN
        if len(parts) == 3 and method == "POST":
            return self.create(body)
        try:
            run = self.runs.get(str(uuid.UUID(parts[3])))
        except ValueError:
            return 400, f"Invalid URL: UUID parsing failed: found `{parts[3][:1]}` at 1"
        if run is None:
            return 404, {"error": "not_found"}
        if len(parts) == 4 and method == "GET":
            return 200, {"run": run}
        return self.append(run, body) if parts[4:] == ["events"] and method == "POST" else (404, None)

    def create(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        run_id = str(uuid.uuid4())
        run = {"id": run_id, "worker_id": asked["worker_id"], "status": "running", "metadata": asked["metadata"], "events": []}
        with self.lock:
            self.runs[run_id] = run
            self.store(run, "run.started", {"source": "runtime"}, None)
        return 201, {"run": run}

    def append(self, run: dict[str, Any], body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        if "event_type" not in asked:
            return 422, "Failed to deserialize the JSON body into the target type: missing field `event_type`"
        if not asked["event_type"].strip():
            return 400, {"error": "invalid_request", "message": "event_type cannot be empty"}
        run_id, key = run["id"], asked.get("idempotency_key")
        with self.lock:
            self.appending[run_id] = self.appending.get(run_id, 0) + 1
            if self.appending[run_id] > 1 and "stall_on_concurrent_appends" in self.defects:
                self.stalled.add(run_id)
            is_stalled = run_id in self.stalled
        time.sleep(0.005)  # the write
        with self.lock:
            self.appending[run_id] -= 1
            if is_stalled:
                self.failed += 1
                return 500, {"error": "internal", "message": "SequenceConflict"}
            previous = asked.get("expected_previous_seq")
            if previous not in (None, len(run["events"])):
                message = f"expected_previous_seq {previous} does not match actual previous seq {len(run['events'])}"
                return 409, {"error": "conflict", "message": message}
            if key is not None and any(event["idempotency_key"] == key for event in run["events"]):
                self.duplicates += 1
                return 200, {"run": run}
            answer = {**run, "events": [*run["events"], self.event(run, asked["event_type"], asked["payload"], key)]}
            if "lose_acknowledged" not in self.defects or len(run["events"]) % 5:
                payload = {**asked["payload"], "altered": True} if "alter_stored" in self.defects else asked["payload"]
                self.store(run, asked["event_type"], payload, key)
                if len(run["events"]) % 7 == 0 and "store_twice" in self.defects:
                    self.store(run, asked["event_type"], payload, key)
                if len(run["events"]) > 6 and "store_out_of_order" in self.defects:
                    run["events"].insert(1, run["events"].pop())
            return 200, {"run": answer}

    @staticmethod
    def event(run: dict[str, Any], kind: str, payload: Any, key: str | None) -> dict[str, Any]:
        seq = len(run["events"]) + 1
        return {"seq": seq, "event_type": kind, "payload": payload, "idempotency_key": key, "recorded_at": moment()}

    def store(self, run: dict[str, Any], kind: str, payload: Any, key: str | None) -> None:
        run["events"].append(self.event(run, kind, payload, key))
        self.published += 1

    def metrics(self) -> dict[str, Any]:
        mirror = {
            "published_total": self.published,
            "duplicate_suppressed_total": self.duplicates,
            "failed_total": self.failed,
            "duplicate_suppression_rate_pct": 0.0,
        }
        delivery = {"stream_count": len(self.runs), "event_count": self.published}
        return {"transport": "spacetime_ws", "mirror": mirror, "delivery": delivery, "generated_at": moment()}

    # --- control service ----------------------------------------------------------------------------

    def control(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, Any]:
        if path == "/healthz":
            return 200, {"status": "ok", "service": "control-service", "version": "0.1.0"}
        if authorization != f"Bearer {SESSION}":
            return 401, {"message": "Unauthenticated.", "error": {"code": "unauthorized", "message": "Unauthenticated."}}
        if path == "/api/v1/control/status":
            return 200, {"data": {"service": "control-service", "authProvider": "mock"}}
        if path == "/api/v1/control/runtime-routing/evaluate" and method == "POST":
            asked = json.loads(body)
            percent = hashlib.sha256(f"runtime-canary-v1|autopilot|{asked['autopilot_id']}".encode()).digest()
            is_canary = int.from_bytes(percent[:4]) % 100 < 5
            driver = "runtime_service" if is_canary else "control_service"
            return 200, {"data": {"driver": driver, "autopilot_id": asked["autopilot_id"], "force_control_service": False}}
        if path == "/api/spacetime/token" and method == "POST":
            return self.mint(json.loads(body))
        return 404, None

    def mint(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked.get("scopes", []) not in ([], ["runtime.run_summaries"]):
            message = "requested sync scopes are not allowed"
            return 422, {"message": message, "error": {"code": "invalid_scope", "message": message}}
        now = int(time.time())
        user: Any = "user_1" if "user_id_as_text" in self.defects else 1
        claims = {"sub": "user:1", "iat": now, "exp": now + 300, "jti": f"sync_{uuid.uuid4().hex}", "oa_user_id": user}
        self.issued += 1
        if self.log:
            value = {"metric_name": "sync.token.issued", "metric_value": self.issued}
            with open(self.log, "a") as file:
                file.write(json.dumps({"message": "metric_counter_incremented", **value}) + "\n")
        return 200, {"data": {"token": signed(claims), "expires_in": 300, "kid": "sync-auth-v1", "session_id": "sess_1"}}


def signed(claims: dict[str, Any]) -> str:
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    mark = base64.urlsafe_b64encode(hmac.digest(KEY, head + b"." + body, "sha256")).rstrip(b"=")
    return b".".join((head, body, mark)).decode()


def serve(answer: Any) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path, authorization = self.path.partition("?")[0], self.headers.get("authorization", "")
            try:
                status, said = answer(self.command, path, body, authorization)
            except (ValueError, KeyError, TypeError):
                status, said = 422, "Failed to parse the request body as JSON"
            content = b"" if said is None else said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain; charset=utf-8" if isinstance(said, str) else "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--defect", action="append", choices=DEFECTS, default=[])
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    services = Services(options.defect, options.log)
    servers = serve(services.runtime), serve(services.control)
    print(*(server.server_address[1] for server in servers), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
