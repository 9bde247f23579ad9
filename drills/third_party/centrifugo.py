"""Centrifugo with its memory engine, JSON over WebSocket."""

import json
from typing import Any

import httpx

from drills.third_party import installed
from drills.third_party.recipe import Parameters, Place, Recipe, Variant

CHANNELS = ("ev:one", "ev:two", "ev:three")
USER = "stormgate"  # of all clients, so that one request concerns all
_API_KEY, _TOKEN_KEY = "an API key of this test server", "a token key of this test server, which is public"

_READ_BACK = """
[targets.centrifugo.read_back]
method = "POST"
path = "/api/history"
headers = { X-API-Key = "{env:CENTRIFUGO_API_KEY}" }
body = { channel = "{run_id}", limit = -1 }
events = "/result/publications"
position = "/offset"
payload = "/data"
"""


def _namespace(settings: Any) -> dict[str, object]:
    if not settings["has_history"]:
        return {"name": "ev", "allow_subscribe_for_client": True}
    return {
        "name": "ev",
        "allow_subscribe_for_client": True,
        "allow_history_for_subscriber": True,
        "history_size": settings["history_size"],
        "history_ttl": settings["history_ttl"],
        "force_positioning": True,
        "force_recovery": True,
        "force_recovery_mode": settings["recovery_mode"],
    }


def _configuration(place: Place) -> dict[str, object]:
    settings = place.settings
    return {
        "http_server": {"address": "127.0.0.1", "port": str(place.ports[0])},
        "http_api": {"key": _API_KEY},
        "health": {"enabled": True},
        "prometheus": {"enabled": True},
        "log": {"level": "info"},
        "client": {
            "token": {"hmac_secret_key": _TOKEN_KEY},
            "allowed_origins": ["*"],
            "ping_interval": "5s",
            "pong_timeout": "4s",
            "expired_close_delay": "1s",
            "recovery_max_publication_limit": settings["recovery_limit"],
            "queue_max_size": settings["queue_bytes"],
        },
        "channel": {"namespaces": [_namespace(settings)]},
    }


def _command(place: Place) -> list[str]:
    path = place.folder / "config.json"
    path.write_text(json.dumps(_configuration(place), indent=1))
    return [installed.program("centrifugo"), "-c", str(path)]


def _url(place: Place) -> str:
    return f"http://127.0.0.1:{place.ports[0]}"


def _target(place: Place) -> str:
    has_history = bool(place.settings["has_history"])
    key = ', idempotency_key = "{key}"' if place.settings["idempotency_keys"] else ""
    position = "/result/offset" if has_history else "none"
    channels = ", ".join(f'"{channel}"' for channel in CHANNELS)
    return f"""
[targets.centrifugo]
kind = "staging"
runtime_url = "{_url(place)}"
control_url = "{_url(place)}"
protocol = "centrifugo"
socket_path = "/connection/websocket"
payload_at = ""
metrics_profile = "none"
caps = {{ clients = 1000, connects_per_s = 1000.0, events_per_s = 500.0 }}

[targets.centrifugo.protocol_options]
history = {str(has_history).lower()}   # whether the namespace keeps any, so that its events have positions

[targets.centrifugo.streams]
names = [{channels}]

[targets.centrifugo.publish]
path = "/api/publish"
headers = {{ X-API-Key = "{{env:CENTRIFUGO_API_KEY}}", X-Centrifugo-Error-Mode = "transport" }}
body = {{ channel = "{{run_id}}", data = "{{payload}}"{key} }}
position = "{position}"
payload_hash = "none"

{_READ_BACK if has_history else ""}
[targets.centrifugo.error]
code = "/message"

[targets.centrifugo.token]
source = "signing_key"
signing_key_env = "CENTRIFUGO_TOKEN_KEY"
claims = {{ sub = "{USER}", exp = "{{expires_at}}" }}

[targets.centrifugo.ready]
path = "/health"
without_token = []   # the upgrade needs no token: the first command has it

[targets.centrifugo.service]
heartbeat_interval_s = 2.0   # clients ask for the head of their channels so often
token_ttl_min_s = 1
token_leeway_s = 0
"""


def _hooks(place: Place) -> str:
    return f"""
[targets.centrifugo.hooks.kill_runtime]
{place.hook("kill", "start")}
[targets.centrifugo.hooks.recreate_log]
{place.hook("restart")}
[targets.centrifugo.hooks.shrink_window]
{place.hook("remove_history")}
[targets.centrifugo.hooks.expire_tokens]
{place.hook("expire_connections")}
[targets.centrifugo.hooks.close_connections]
{place.hook("disconnect")}"""


def _ask(place: Place, method: str, body: dict[str, object]) -> None:
    """Ask the server's HTTP API. Raises `httpx.HTTPError`."""
    headers = {"X-API-Key": _API_KEY, "X-Centrifugo-Error-Mode": "transport"}
    httpx.post(f"{_url(place)}/api/{method}", headers=headers, json=body).raise_for_status()


def _remove_history(place: Place, _: Parameters) -> None:
    """Remove the retained events of all channels; their positions go on."""
    for channel in CHANNELS:
        _ask(place, "history_remove", {"channel": channel})


def _expire_connections(place: Place, _: Parameters) -> None:
    """Close all connections as if their tokens had run out."""
    _ask(place, "refresh", {"user": USER, "expired": True})


def _disconnect(place: Place, parameters: Parameters) -> None:
    """Close all connections, with one code."""
    code = int(parameters["codes"].split(",")[0])
    _ask(place, "disconnect", {"user": USER, "disconnect": {"code": code, "reason": "closed by a drill"}})


RECIPE = Recipe(
    name="centrifugo",
    title="Centrifugo",
    version=installed.CENTRIFUGO_VERSION,
    program="centrifugo",
    says="A client subscribes to each channel from an offset and an epoch; the server replays what its history still has.",
    settings={
        "has_history": True,
        "history_size": 10_000,
        "history_ttl": "300s",
        "recovery_mode": "stream",
        "recovery_limit": 300,
        "queue_bytes": 32 * 2**20,  # more than the largest answer: see the variant default_queue
        "idempotency_keys": True,
    },
    variants={
        "no_history": Variant(
            "a namespace with default settings keeps no history: what is published while a client is away is lost, and nobody "
            "says so",
            {"has_history": False},
        ),
        "small_history": Variant("history_size 5: a gap of more events cannot be recovered", {"history_size": 5}),
        "short_history": Variant("history_ttl 1 s: a quiet second removes the history", {"history_ttl": "1s"}),
        "cache_recovery": Variant(
            "recovery mode cache: the server says 'recovered', and gives only the latest event", {"recovery_mode": "cache"}
        ),
        "small_recovery": Variant(
            "recovery_max_publication_limit 5: a larger gap is not recovered, although the history has it",
            {"recovery_limit": 5},
        ),
        "default_queue": Variant(
            "queue_max_size 1 MiB, the default: an answer that recovers more than that closes its client as a slow one",
            {"queue_bytes": 2**20},
        ),
        "no_idempotency_keys": Variant(
            "publishes have no idempotency_key: a retry after a lost answer is stored twice", {"idempotency_keys": False}
        ),
    },
    command=_command,
    ready_url=lambda place: f"{_url(place)}/health",
    target=lambda place: _target(place) + _hooks(place),
    environment={"CENTRIFUGO_API_KEY": _API_KEY, "CENTRIFUGO_TOKEN_KEY": _TOKEN_KEY},
    actions={"remove_history": _remove_history, "expire_connections": _expire_connections, "disconnect": _disconnect},
)
