"""A stand-in for a runtime and a control service that serve HTTP alone, written from recordings of real ones.

Nothing here imports stormgate. An append answers with the whole run, reading back is a GET of the run, the first event of a run
is the runtime's own, errors are `{"error", "message"}`, and no socket is served.

    python http_services.py [--defect NAME]... [--log FILE] [--store FILE] [--ports RUNTIME CONTROL] [--levers FOLDER]

It prints the two ports. The file that `--log` names gets the control service's counters, which no route serves. The runtime
keeps its events in the file of `--store`, and reads them when it starts. In the folder of `--levers`, a file `throttle` limits
the appends of a second, a file `guard` freezes all writes, and a file `cohort` routes every key to the control service.
"""

import argparse
import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MISORDERED = ("store_twice", "store_out_of_order")
LOSES = ("lose_acknowledged", "alter_stored", "forget_on_restart")
DEFECTS = ("stall_on_concurrent_appends", "user_id_as_text", "read_only", "revoke_unavailable", *LOSES, *MISORDERED)
THROTTLED_PER_S = 80
SESSION = "their-session"
USER = "user_1"
UNAUTHENTICATED = "Unauthenticated."
NOT_ALLOWED = "Requested sync scopes/topics are not allowed for current org policy."
OTHER_DEVICE = "Requested device does not match active authenticated session device."
NO_TARGET = "Provide exactly one revocation target: session_id, device_id, or revoke_all_sessions=true."
NOT_PROPAGATED = "Failed to propagate websocket session revocation: runtime revocation rejected (404 Not Found): "
SCOPE_OF = {
    "worker_events": "runtime.codex_worker_events",
    "workers": "runtime.codex_worker_summaries",
    "runs": "runtime.run_summaries",
}
KEY = b"their signing key"
FROZEN = {"error": "write_path_frozen", "message": "runtime authority writes are frozen"}


def moment() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Services:
    """The state of both services. `lock` guards the runs; an append holds it only between its steps."""

    def __init__(self, defects: list[str], log: str, store: str, levers: str = "") -> None:
        self.levers = Path(levers) if levers else None
        self.appended_at: deque[float] = deque(maxlen=THROTTLED_PER_S)
        self.defects, self.log, self.lock = set(defects), log, threading.Lock()
        self.on_disk = open(store, "a+") if store else None  # noqa: SIM115 - open as long as the process lives
        self.sessions: dict[str, dict[str, Any]] = {SESSION: session_of("operator@example.com", None)}  # by bearer token
        self.challenges: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.appending: dict[str, int] = {}
        self.stalled: set[str] = set()
        self.published = self.duplicates = self.failed = self.issued = 0
        if self.on_disk is not None and "forget_on_restart" not in self.defects:
            self.on_disk.seek(0)
            for line in map(json.loads, self.on_disk):
                run = self.runs.setdefault(line["id"], {**line, "events": []})
                run["events"].append(line["event"])

    def is_on(self, lever: str) -> bool:
        return self.levers is not None and (self.levers / lever).exists()

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
        if method == "POST" and ("read_only" in self.defects or self.is_on("guard")):
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
        if self.is_on("throttle") and len(self.appended_at) == THROTTLED_PER_S and time.time() - self.appended_at[0] < 1:
            return 429, {"error": "rate_limited", "message": "too many appends"}
        self.appended_at.append(time.time())
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
        event = self.event(run, kind, payload, key)
        run["events"].append(event)
        self.published += 1
        if self.on_disk is not None:
            self.on_disk.write(json.dumps({**run, "events": None, "event": event}) + "\n")
            self.on_disk.flush()

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
        if path in ("/api/auth/email", "/api/auth/verify"):
            return self.sign_in(path, json.loads(body))
        session = self.sessions.get(authorization.removeprefix("Bearer "))
        if path == "/api/spacetime/token" and method != "POST":
            return 405, None
        if path == "/api/spacetime/token" and not body:
            return 415, "Expected request with `Content-Type: application/json`"
        if session is None or session["status"] != "active":
            return refused(401, "unauthorized", UNAUTHENTICATED)
        if path in ("/api/spacetime/token", "/api/sync/token"):
            return self.mint(json.loads(body), session)
        if path == "/api/v1/auth/sessions":
            mine = [each for each in self.sessions.values() if each["email"] == session["email"]]
            return 200, {"data": {"currentSessionId": session["session_id"], "sessions": mine[::-1]}}
        if path == "/api/auth/logout":
            return self.revoke({"session_id": session["session_id"]}, session)
        if path == "/api/v1/auth/sessions/revoke":
            return self.revoke(json.loads(body), session)
        if path == "/api/v1/control/status":
            return 200, {"data": {"service": "control-service", "authProvider": "mock"}}
        if path == "/api/v1/control/runtime-routing/evaluate" and method == "POST":
            asked = json.loads(body)
            percent = hashlib.sha256(f"runtime-canary-v1|autopilot|{asked['autopilot_id']}".encode()).digest()
            is_canary = int.from_bytes(percent[:4]) % 100 < 5 and not self.is_on("cohort")
            driver = "runtime_service" if is_canary else "control_service"
            return 200, {"data": {"driver": driver, "autopilot_id": asked["autopilot_id"], "force_control_service": False}}
        return 404, None

    def sign_in(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if path == "/api/auth/email":
            challenge = f"challenge_{uuid.uuid4().hex}"
            self.challenges[challenge] = asked["email"]
            return 200, {"ok": True, "status": "code-sent", "email": asked["email"], "challengeId": challenge}
        email = self.challenges.pop(asked["challenge_id"])
        is_new = not any(each["email"] == email for each in self.sessions.values())
        for each in self.sessions.values():
            if (each["email"], each["device_id"]) == (email, asked["device_id"]):
                each["status"] = "revoked"  # a device has one session
        token, session = f"oa_at_{uuid.uuid4().hex}", session_of(email, asked["device_id"])
        self.sessions[token] = session
        user = {"id": USER, "email": email, "name": "Mock", "workosId": "mock"}
        answer = {"ok": True, "userId": USER, "status": "authenticated", "user": user, "redirect": "/", "tokenType": "Bearer"}
        names = {"token": token, "tokenName": "device:unknown", "refreshToken": f"oa_rt_{uuid.uuid4().hex}"}
        return 200, {**answer, **names, "sessionId": session["session_id"], "newUser": is_new}

    def revoke(self, asked: dict[str, Any], own: dict[str, Any]) -> tuple[int, Any]:
        wanted = [key for key in ("session_id", "device_id", "revoke_all_sessions") if asked.get(key)]
        if len(wanted) != 1:
            status, answer = refused(422, "invalid_request", NO_TARGET)
            return status, {**answer, "errors": {"target": [NO_TARGET]}}
        gone = [
            each
            for each in self.sessions.values()
            if each["email"] == own["email"] and each["status"] == "active" and asked[wanted[0]] in (each.get(wanted[0]), True)
        ]
        for each in gone:
            each.update(status="revoked", revoked_at=moment(), revoked_reason="user_requested")
        if "revoke_unavailable" in self.defects:  # after it has revoked
            return refused(503, "service_unavailable", NOT_PROPAGATED)
        ids, devices = ([each[key] for each in gone] for key in ("session_id", "device_id"))
        answer = {"ok": True, "revokedSessionIds": ids, "revokedDeviceIds": devices, "revokedRefreshTokenIds": []}
        return 200, {**answer, "reason": "user_requested", "revokedAt": moment()}

    def mint(self, asked: dict[str, Any], session: dict[str, Any]) -> tuple[int, Any]:
        scopes, ttl_s = asked.get("scopes") or ["runtime.codex_worker_events"], asked.get("ttl_seconds", 300)
        topics = [*asked.get("topics", []), *asked.get("streams", [])]
        topics = topics if scopes != ["runtime.codex_worker_events"] or topics else [f"org:user:{USER}:worker_events"]
        if not isinstance(ttl_s, int):
            return 422, f"Failed to deserialize the JSON body into the target type: ttl_seconds: invalid type: {ttl_s!r}"
        if not 60 <= ttl_s <= 900:
            return refused(422, "invalid_request", "requested ttl is outside configured bounds")
        if not set(scopes) <= set(SCOPE_OF.values()):
            return refused(422, "invalid_scope", "requested sync scopes are not allowed")
        if session["device_id"] and asked.get("device_id", session["device_id"]) != session["device_id"]:
            return refused(403, "forbidden", OTHER_DEVICE)
        for topic in topics:
            scope = SCOPE_OF.get(topic.rpartition(":")[2])
            if scope is None:
                return refused(422, "invalid_request", f"requested topic '{topic}' is not supported")
            if scope not in scopes:
                return refused(422, "invalid_scope", f"requested topic '{topic}' requires scope '{scope}'")
            if USER not in topic:
                return refused(403, "forbidden", NOT_ALLOWED)
        return 200, {"data": self.token(scopes, topics, ttl_s, session)}

    def token(self, scopes: list[str], topics: list[str], ttl_s: int, session: dict[str, Any]) -> dict[str, Any]:
        now, subject = int(time.time()), f"user:{USER}"
        claims = {
            "iss": "https://theirs.example",
            "aud": "their-sync",
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + ttl_s,
            "jti": f"sync_{uuid.uuid4().hex}",
            "oa_user_id": USER if "user_id_as_text" in self.defects else 1,
            "oa_org_id": subject,
            "oa_session_id": session["session_id"],
            "oa_device_id": session["device_id"] or "any",
            "oa_sync_scopes": scopes,
            "oa_sync_topics": topics,
            "oa_sync_streams": topics,
            "oa_claims_version": "oa_sync_claims_v1",
        }
        self.issued += 1
        if self.log:
            value = {"metric_name": "sync.token.issued", "metric_value": self.issued}
            with open(self.log, "a") as file:
                file.write(json.dumps({"message": "metric_counter_incremented", **value}) + "\n")
        return {
            "token": signed(claims),
            "token_type": "Bearer",
            "transport": "spacetime_ws",
            "expires_in": ttl_s,
            "protocol_version": "spacetime.sync.v1",
            "refresh_after_in": ttl_s - 30,
            "issued_at": moment(),
            "refresh_after": later(ttl_s - 30),
            "expires_at": later(ttl_s),
            "issuer": claims["iss"],
            "audience": claims["aud"],
            "subject": subject,
            "org_id": subject,
            "claims_version": "oa_sync_claims_v1",
            "scopes": scopes,
            "granted_topics": [{"topic": each, "required_scope": SCOPE_OF[each.rpartition(":")[2]]} for each in topics],
            "granted_streams": [{"stream": each, "required_scope": SCOPE_OF[each.rpartition(":")[2]]} for each in topics],
            "kid": "sync-auth-v1",
            "token_id": claims["jti"],
            "session_id": session["session_id"],
        }


def later(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


def refused(status: int, code: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"message": message, "error": {"code": code, "message": message}}


def session_of(email: str, device: str | None) -> dict[str, Any]:
    """A new session; without a device it may ask for tokens of any."""
    return {
        "session_id": f"sess_{uuid.uuid4().hex}",
        "user_id": USER,
        "email": email,
        "device_id": device,
        "token_name": "device:unknown",
        "status": "active",
        "issued_at": moment(),
        "access_expires_at": later(3600),
        "refresh_expires_at": later(86_400),
        "active_org_id": f"user:{USER}",
        "reauth_required": False,
        "last_refreshed_at": None,
        "revoked_at": None,
        "revoked_reason": None,
    }


def signed(claims: dict[str, Any]) -> str:
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    mark = base64.urlsafe_b64encode(hmac.digest(KEY, head + b"." + body, "sha256")).rstrip(b"=")
    return b".".join((head, body, mark)).decode()


def serve(answer: Any, port: int) -> ThreadingHTTPServer:
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

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--defect", action="append", choices=DEFECTS, default=[])
    parser.add_argument("--log", default="")
    parser.add_argument("--store", default="")
    parser.add_argument("--ports", nargs=2, type=int, default=(0, 0))
    parser.add_argument("--levers", default="")
    options = parser.parse_args()
    services = Services(options.defect, options.log, options.store, options.levers)
    servers = serve(services.runtime, options.ports[0]), serve(services.control, options.ports[1])
    print(*(server.server_address[1] for server in servers), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
