"""NATS JetStream: one stream with a subject for each of a drill's streams, read by ephemeral consumers over the WebSocket."""

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from drills.third_party import installed, nats_keys
from drills.third_party.recipe import Parameters, Place, Recipe, Variant
from sim.base import bounded_reads
from sim.base.errors import TargetError

STREAM = "stormgate"
_ANSWER_S = 5.0  # [ours]
_MAX_CONNECTIONS = 10_000
_HANG_S, _WORK_S = 0.5, 0.01  # [ours] of a crash

_CONFIG = """\
server_name: drill
host: 127.0.0.1
port: {tcp}
http: 127.0.0.1:{http}
websocket {{ host: 127.0.0.1, port: {web_socket}, no_tls: true }}
jetstream {{ store_dir: "{store}", max_mem: 256M, max_file: 1G, sync_interval: {sync_interval} }}
ping_interval: {ping_interval}
operator: {operator}
resolver: {{ type: full, dir: "{store}/accounts" }}
resolver_preload {{
{accounts}
}}
pid_file: "{pid_file}"
"""

_TARGET = """\
[targets.nats]
kind = "staging"
runtime_url = "http://127.0.0.1:{web_socket}"
control_url = "http://127.0.0.1:{http}"
protocol = "nats_jetstream"
socket_path = "/"
payload_at = ""
metrics_profile = "none"
caps = {{ clients = 2000, connects_per_s = 2000.0, events_per_s = 2000.0 }}

[targets.nats.protocol_options]
stream = "{stream}"
message_ids = {message_ids}
credentials = "jwt"
inactive_threshold_s = {inactive_threshold_s}
idle_heartbeat_s = 2.0

[targets.nats.service]
heartbeat_interval_s = 2.0
token_ttl_min_s = 1
token_leeway_s = 1   # the server compares whole seconds, so that a token is good until the second after its last is over

[targets.nats.streams]
topic = "{stream}.{{run_id}}"
created_by_publish = true

[targets.nats.publish]
over = "protocol"

[targets.nats.token]
source = "signing_key"
signing_key_env = "NATS_SIGNING_KEY"
algorithm = "EdDSA"
header = {{ alg = "{algorithm}" }}
claims = {{ jti = "{{unique}}", iat = "{{now}}", exp = "{{expires_at}}", iss = "{issuer}", sub = "{user}", nats = {bearer} }}

[targets.nats.ready]
service = "control"
path = "/healthz"
without_token = []

[targets.nats.hooks.kill_runtime]
{kill_hook}
[targets.nats.hooks.recreate_log]
{recreate_hook}
[targets.nats.hooks.close_connections]
{kick_hook}
[targets.nats.hooks.expire_tokens]
{revoke_hook}"""


def _command(place: Place) -> list[str]:
    tcp, http, web_socket = place.ports
    config = place.folder / "nats.conf"
    accounts = "\n".join(f"  {account}: {statement}" for account, statement in nats_keys.ACCOUNTS.items())
    own = {key: place.settings[key] for key in ("ping_interval", "sync_interval")}
    config.write_text(
        _CONFIG.format(
            tcp=tcp,
            http=http,
            web_socket=web_socket,
            store=place.folder / "data",
            pid_file=_pid_file(place),
            operator=nats_keys.OPERATOR_JWT,
            accounts=accounts,
            **own,
        )
    )
    return [installed.program("nats-server"), "-c", str(config)]


def _target(place: Place) -> str:
    _, http, web_socket = place.ports
    return _TARGET.format(
        http=http,
        web_socket=web_socket,
        stream=STREAM,
        algorithm=nats_keys.ALGORITHM,
        issuer=nats_keys.CLIENTS,
        user=nats_keys.USER,
        bearer=_table(nats_keys.BEARER),
        message_ids=json.dumps(place.settings["message_ids"]),
        inactive_threshold_s=place.settings["inactive_threshold_s"],
        kill_hook=place.hook("crash", "start"),
        recreate_hook=place.hook("recreate"),
        kick_hook=place.hook("kick"),
        revoke_hook=place.hook("revoke"),
    )


def _create(place: Place) -> None:
    """Create the stream, unless there is one with the same configuration."""
    config = {
        "name": STREAM,
        "subjects": [f"{STREAM}.>"],
        "storage": place.settings["storage"],
        "retention": place.settings["retention"],
        "max_msgs": place.settings["max_msgs"],
        "discard": "old",
    }
    _request(place, f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps(config))


def _crash(place: Place, _: Parameters) -> None:
    """Let the process hang, then kill it while it works off what came meanwhile: some is stored but not acknowledged."""
    process = int(bounded_reads.file_text(_pid_file(place)))
    os.kill(process, signal.SIGSTOP)
    time.sleep(_HANG_S)
    os.kill(process, signal.SIGCONT)
    time.sleep(_WORK_S)
    os.kill(process, signal.SIGKILL)


def _pid_file(place: Place) -> Path:
    return place.folder / "nats.pid"


def _recreate(place: Place, _: Parameters) -> None:
    """Delete the stream and create it again: its positions start over."""
    _request(place, f"$JS.API.STREAM.DELETE.{STREAM}", "")
    _create(place)


def _kick(place: Place, _: Parameters) -> None:
    """Close all connections of clients. The server chooses the close code."""
    http = f"http://127.0.0.1:{place.ports[1]}"
    server = httpx.get(f"{http}/varz", timeout=_ANSWER_S).raise_for_status().json()["server_id"]
    connections = (
        httpx.get(f"{http}/connz?limit={_MAX_CONNECTIONS}", timeout=_ANSWER_S).raise_for_status().json()["connections"]
    )
    for each in connections:
        _request(place, f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": each["cid"]}), nats_keys.SYSTEM)


def _revoke(place: Place, _: Parameters) -> None:
    """Revoke every token that clients got before this second. The server disconnects who has one."""
    statement = nats_keys.clients_account(revoked_until=int(time.time()) - 1)
    _request(place, "$SYS.REQ.CLAIMS.UPDATE", statement, nats_keys.SYSTEM)


def _request(place: Place, subject: str, body: str, account: str = nats_keys.CLIENTS) -> None:
    """Send a request over TCP. Raises `TargetError` if it is refused."""
    introduction = json.dumps({"verbose": False, "no_responders": True, "headers": True, "jwt": nats_keys.USERS[account]})
    with socket.create_connection(("127.0.0.1", place.ports[0]), _ANSWER_S) as connection:
        connection.sendall(
            f"CONNECT {introduction}\r\nSUB answer.setup 1\r\nPUB {subject} answer.setup {len(body)}\r\n{body}\r\n".encode()
        )
        lines = connection.makefile("rb")
        while line := lines.readline().strip():
            if line.startswith((b"MSG answer.setup", b"HMSG answer.setup")):
                answer = lines.read(int(line.split()[-1])).decode(errors="replace")
                break
        else:
            raise TargetError(f"NATS closed the connection instead of answering {subject}.")
    if line.startswith(b"HMSG") or "error" in json.loads(answer):
        raise TargetError(f"NATS refused {subject}: {' '.join(answer.split())}")


def _table(values: Mapping[str, object]) -> str:
    """Return a TOML inline table."""
    parts = (f"{key} = {_table(value) if isinstance(value, dict) else json.dumps(value)}" for key, value in values.items())
    return f"{{ {', '.join(parts)} }}"


RECIPE = Recipe(
    name="nats",
    title="NATS JetStream",
    version=installed.NATS_VERSION,
    says="A client makes a new consumer that starts after its last sequence; the server never says that this is stale.",
    program="nats-server",
    ports=3,
    settings={
        "storage": "file",
        "retention": "limits",
        "max_msgs": -1,
        "message_ids": True,
        "inactive_threshold_s": 1.0,
        "ping_interval": "1s",
        "sync_interval": "always",  # an acknowledged event survives a power cut, too
    },
    variants={
        "memory": Variant("The stream is stored in memory: a restart loses it.", {"storage": "memory"}),
        "interest": Variant(
            "Interest retention: what is published while no consumer exists is dropped, though it was acknowledged.",
            {"retention": "interest"},
        ),
        "slow_pings": Variant("The server's own default: it pings every two minutes.", {"ping_interval": "2m"}),
        "small_limit": Variant("The stream keeps fewer events than a client misses while it is away.", {"max_msgs": 20}),
        "no_message_ids": Variant(
            "The publisher sends no message ids: a retried event is stored twice.", {"message_ids": False}
        ),
    },
    command=_command,
    ready_url=lambda place: f"http://127.0.0.1:{place.ports[1]}/healthz",
    target=_target,
    environment={"NATS_SIGNING_KEY": nats_keys.SIGNING_KEY},
    prepare=_create,
    actions={"crash": _crash, "recreate": _recreate, "kick": _kick, "revoke": _revoke},
)
