"""Socket.IO with connection state recovery: a small application of ours, whose rooms are the streams."""

import json

import httpx

from drills.third_party import installed
from drills.third_party.recipe import Parameters, Place, Recipe, Variant

_TARGET = """\
[targets.socketio]
kind = "staging"
runtime_url = "http://127.0.0.1:{port}"
control_url = "http://127.0.0.1:{port}"
protocol = "socketio"
socket_path = "/socket.io/"
metrics_profile = "none"
caps = {{ clients = 2000, connects_per_s = 2000.0, events_per_s = 2000.0 }}

[targets.socketio.streams]
topic = "{{run_id}}"

[targets.socketio.create]
path = "/streams"
body = {{ name = "{{name}}" }}
run_id = "/stream"

[targets.socketio.publish]
path = "/publish"
body = {{ stream = "{{run_id}}", payload = "{{payload}}"{key} }}
position = "none"

[targets.socketio.token]
path = "/tokens"
headers = {{}}
body = {{ account = "{{account}}", ttl_s = "{{ttl_s}}" }}
token = "/token"
expires_in_s = "/lifetime_s"

[targets.socketio.service]
token_leeway_s = 0

[targets.socketio.ready]
path = "/ready"
without_token = []

[targets.socketio.hooks.kill_runtime]
{kill_hook}
[targets.socketio.hooks.rolling_deploy]
{drop_hook}
[targets.socketio.hooks.close_connections]
{disconnect_hook}"""


def _command(place: Place) -> list[str]:
    options = json.dumps({**place.settings, "port": place.ports[0]})
    return [*installed.node_program("socketio.js", place.folder), options]


def _target(place: Place) -> str:
    key = ', key = "{key}"' if place.settings["keys"] else ""
    hooks = {
        "kill_hook": place.hook("kill", "start"),
        "drop_hook": place.hook("drop"),
        "disconnect_hook": place.hook("disconnect"),
    }
    return _TARGET.format(port=place.ports[0], key=key, **hooks)


def _drop(place: Place, _: Parameters) -> None:
    """Let the server close all connections, as an instance that is replaced does."""
    httpx.post(f"http://127.0.0.1:{place.ports[0]}/drop", timeout=5.0).raise_for_status()


def _disconnect(place: Place, _: Parameters) -> None:
    """Let the server disconnect all clients, as an application does that removes them."""
    httpx.post(f"http://127.0.0.1:{place.ports[0]}/disconnect", timeout=5.0).raise_for_status()


RECIPE = Recipe(
    name="socketio",
    title="Socket.IO",
    version=installed.npm_version("socket.io"),
    says="A client names its session and the last event's offset when it connects; the server replays what it missed or says "
    "nothing but another session. All of it is in the server's memory.",
    program="node",
    settings={  # those of `programs/socketio.js`
        "recovery": True,
        "pingInterval": 500,
        "pingTimeout": 1000,
        "connectTimeout": 45000,
        "maxDisconnectionDuration": 120000,
        "skipMiddlewares": False,
        "middlewareMs": 0,
        "volatileEvery": 0,
        "keys": True,  # publishes have one, by which the application recognizes a retry
    },
    variants={
        "default": Variant(
            "Connection state recovery is off, as it is by default: each cut loses events.", {"recovery": False}
        ),
        "volatile": Variant(
            "Every second event is emitted as volatile: the server never replays it, and says nothing.", {"volatileEvery": 2}
        ),
        "short_window": Variant("A session is kept for less time than clients are away.", {"maxDisconnectionDuration": 50}),
        "slow_middleware": Variant(
            "The token check takes 0.3 s: a recovered client misses what is published meanwhile, and nobody says so.",
            {"middlewareMs": 300},
        ),
        "unchecked_recovery": Variant(
            "Recovery skips the middlewares, as it does by default: an expired token recovers its session.",
            {"skipMiddlewares": True},
        ),
        "no_keys": Variant("Publishes have no key: a retry after a lost answer is a new event.", {"keys": False}),
        "long_pings": Variant(
            "The server pings every 25 s, as it does by default: until then it keeps dead connections, and does not let their "
            "clients recover.",
            {"pingInterval": 25000},
        ),
    },
    command=_command,
    ready_url=lambda place: f"http://127.0.0.1:{place.ports[0]}/ready",
    target=_target,
    actions={"drop": _drop, "disconnect": _disconnect},
)
