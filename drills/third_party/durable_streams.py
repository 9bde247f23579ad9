"""The Durable Streams reference server (Node.js)."""

import contextlib
import json
import shutil
import time
from pathlib import Path

import httpx

from drills.third_party import installed
from drills.third_party.recipe import PREFIX, Parameters, Place, Recipe, Variant
from sim.base.errors import TargetError

SCRIPT = "durable_streams.mjs"
_IN_MEMORY = Path("/dev/shm")
_ANSWER_S = 10.0  # [ours]
_CRASH_LIMIT_S, _LOOK_EVERY_S = 5.0, 0.02  # [ours] for the next append to come
_TARGET = """
[targets.durable_streams]
kind = "staging"
protocol = "durable_streams"
runtime_url = "http://127.0.0.1:{port}"
control_url = "http://127.0.0.1:{port}"
socket_path = "/v1"
payload_at = ""
metrics_profile = "none"
caps = {{ clients = 1000, connects_per_s = 1000.0, events_per_s = 500.0 }}

[targets.durable_streams.protocol_options]
live = "{live}"
long_poll_timeout_s = {long_poll_timeout_s}

[targets.durable_streams.service]
heartbeat_interval_s = {long_poll_timeout_s}

[targets.durable_streams.create]
method = "PUT"
path = "/v1/{{name}}"
headers = {{ Content-Type = "application/json" }}
body = ""
run_id = "none"

[targets.durable_streams.publish]
path = "/v1/{{run_id}}"
body = ["{{payload}}"]   # an array is flattened, so that a payload which is one stays whole
position_header = "Stream-Next-Offset"
position_pattern = "([0-9]+)$"
payload_hash = "none"
{producer}

[targets.durable_streams.read_back]
path = "/v1/{{run_id}}?offset=-1"
events = ""
position = "none"
payload = ""

[targets.durable_streams.token]
source = "none"

[targets.durable_streams.ready]
path = "/"
statuses = [404]
without_token = []

"""
# One producer for each event: a retry is then recognized, and appends of one stream may overtake each other.
_PRODUCER = 'headers = { Producer-Id = "{key}", Producer-Epoch = "0", Producer-Seq = "0" }'


def _command(place: Place) -> list[str]:
    settings, (port, control_port) = place.settings, place.ports
    wait_ms = 1000 * float(str(settings["long_poll_timeout_s"]))
    options: dict[str, object] = {"port": port, "controlPort": control_port, "longPollTimeout": wait_ms}
    if settings["storage"] == "file":
        options["dataDir"] = str(_data_folder(place))
    return [*installed.node_program(SCRIPT, place.folder), json.dumps(options)]


def _data_folder(place: Place) -> Path:
    """Return the folder of its files: in memory, where the system has such a place.

    Each read of each client writes metadata to the disk before the next request is served. On a slow disk, a drill would
    measure that and nothing else.
    """
    if not _IN_MEMORY.is_dir():
        return place.folder / "data"
    for left in _IN_MEMORY.glob(f"{PREFIX}*"):  # of servers whose owner was killed
        if not place.folder.with_name(left.name).exists():
            shutil.rmtree(left, ignore_errors=True)
    return _IN_MEMORY / place.folder.name


def _clean_up(place: Place) -> None:
    shutil.rmtree(_IN_MEMORY / place.folder.name, ignore_errors=True)


def _target(place: Place) -> str:
    settings = place.settings
    text = _TARGET.format(
        port=place.ports[0],
        live=settings["live"],
        long_poll_timeout_s=settings["long_poll_timeout_s"],
        producer=_PRODUCER if settings["producer_ids"] else "",
    )
    hooks = {
        "kill_runtime": place.hook("crash", "start"),
        "recreate_log": place.hook("recreate"),
        "close_connections": place.hook("close"),
    }
    return text + "\n".join(f"[targets.durable_streams.hooks.{kind}]\n{keys}" for kind, keys in hooks.items())


def _crash(place: Place, _: Parameters) -> None:
    """Kill the server in the moment between storing an append and answering it: then the publisher retries what is stored."""
    _ask(place, f"crash/{place.settings['crashes']}")
    with contextlib.suppress(httpx.HTTPError):
        until = time.monotonic() + _CRASH_LIMIT_S
        while time.monotonic() < until:
            httpx.get(f"http://127.0.0.1:{place.ports[0]}/", timeout=_ANSWER_S)
            time.sleep(_LOOK_EVERY_S)


def _ask(place: Place, what: str) -> None:
    answer = httpx.put(f"http://127.0.0.1:{place.ports[1]}/{what}", timeout=_ANSWER_S)
    if answer.status_code != 204:
        raise TargetError(f"Durable Streams could not do {what}: {answer.text}")


RECIPE = Recipe(
    name="durable_streams",
    title="Durable Streams",
    version="0.3.7",
    says="a client reads on with one HTTP request for each stream, from the offset that the last answer stated",
    settings={"storage": "file", "live": "sse", "producer_ids": True, "long_poll_timeout_s": 2.0, "crashes": "before_answer"},
    variants={
        "memory": Variant("streams are kept in memory, the server's default: a restart loses them", {"storage": "memory"}),
        "without_producer_ids": Variant(
            "appends have no Producer headers: a retry after a lost answer is stored twice", {"producer_ids": False}
        ),
        "crash_before_index": Variant(
            "it crashes in a worse moment: the message is in its file, and its index, with the producers, does not know it",
            {"crashes": "before_index"},
        ),
        "long_polls": Variant("clients wait by long polls, and not by SSE", {"live": "long-poll"}),
    },
    command=_command,
    ready_url=lambda place: f"http://127.0.0.1:{place.ports[0]}/",
    ready_statuses=(404,),
    target=_target,
    clean_up=_clean_up,
    actions={
        "crash": _crash,
        "recreate": lambda place, _: _ask(place, "recreate"),
        "close": lambda place, _: _ask(place, "close"),
    },
    program="node",
    ports=2,
)
