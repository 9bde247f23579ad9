"""Services that a targets file alone describes: other requests and answers than the mock's, and no socket."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.commands import stormgate

HERE = Path(__file__).parent
STAND_IN = HERE.parent / "peers" / "http_services.py"
RECORDINGS = HERE.parent / "vectors" / "rust_services"
DESCRIPTION = """
[targets.http]
kind = "staging"
runtime_url = "http://127.0.0.1:{runtime}"
control_url = "http://127.0.0.1:{control}"
session_token_env = "THEIR_SESSION"
admin_token_env = "THEIR_ADMIN"   # their metrics need none, but a token must be named for them to be asked
metrics_profile = "pinned"
socket = false
caps = {{ clients = 20, connects_per_s = 20.0, events_per_s = 200.0 }}

[targets.http.publish]
position = "/run/events/idempotency_key={{key}}/seq"
payload_hash = "none"

[targets.http.error]
code = "/error"

[targets.http.token]
body = {{ scopes = ["runtime.run_summaries"] }}
refresh_in_s = "none"
expires_at = "none"
refresh_at = "none"
claim_types = {{ oa_user_id = "number" }}

[targets.http.health]
revision = "/build_sha"

[targets.http.read_back]
path = "/internal/v1/runs/{{run_id}}"
events = "/run/events"

[targets.http.status]
command = ["{python}", "{counters}", "{log}"]

[targets.http.routing]
body = {{ thread_id = "{{key}}", autopilot_id = "{{key}}" }}
scope = "autopilot"
key = "/data/autopilot_id"
cohort = "/data/driver"
canary = ["runtime_service"]
control = ["control_service"]
revision = "none"
"""
COUNTERS = """
import json, sys
counters = {}
for line in open(sys.argv[1]):
    said = json.loads(line)
    if said.get("message") == "metric_counter_incremented":
        counters[said["metric_name"]] = said["metric_value"]
print(json.dumps({"data": {"revision": "0.1.0", "counters": counters}}))
"""
Start = Callable[..., tuple[int, int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the services with defects; return the ports of runtime and control service."""
    running: list[subprocess.Popen[str]] = []

    def started(*defects: str) -> tuple[int, int]:
        options = [part for defect in defects for part in ("--defect", defect)]
        command = [sys.executable, str(STAND_IN), "--log", str(tmp_path / "control.log"), *options]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout is not None
        runtime, control = map(int, running[-1].stdout.readline().split())
        return runtime, control

    yield started
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def described(folder: Path, ports: tuple[int, int]) -> Path:
    """The targets file of the services."""
    counters, file = folder / "counters.py", folder / "targets.toml"
    counters.write_text(COUNTERS)
    (folder / "control.log").touch()
    names = {"runtime": ports[0], "control": ports[1], "python": sys.executable, "counters": counters}
    file.write_text(DESCRIPTION.format(**names, log=folder / "control.log"))
    return file


def asked_with(port: int, method: str, path: str, body: Any, bearer: str = "") -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {bearer}"}
    request = Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def keys(text: str) -> object:
    """The names in an answer, without its values; `text` for one that is not JSON."""
    try:
        found = json.loads(text or "null")
    except ValueError:
        return "text"
    if not isinstance(found, dict):
        return found
    return {name: keys(json.dumps(value)) if isinstance(value, dict) else "" for name, value in found.items()}


ASKED_ALIKE = ("/events", "/internal/v1/runs", "/internal/v1/spacetime/sync/metrics")
REFUSES_MORE = ("payment", "run.finished")  # types of events with rules of their own, which drills do not publish


@pytest.mark.parametrize(("recording", "defect"), [("runs_events", ()), ("read_only_guard", ("read_only",))])
def test_the_stand_in_answers_as_the_recorded_services_did(start: Start, recording: str, defect: tuple[str, ...]) -> None:
    """Statuses, and the names in the answers, of every recorded request that the stand-in has."""
    port, runs, compared = start(*defect)[0], {}, 0
    for line in map(json.loads, (RECORDINGS / f"{recording}.jsonl").read_text().splitlines()):
        path = str(line.get("path", ""))
        if line.get("service") != "runtime" or not path.endswith(ASKED_ALIKE):
            continue
        if str((line["body"] or {}).get("event_type")) in REFUSES_MORE:
            continue
        for theirs, ours in runs.items():
            path = path.replace(theirs, ours)
        status, text = asked_with(port, line["method"], path, line["body"])
        assert (status, keys(text)) == (line["status"], without_times(keys(line["answer"]))), (path, line["body"])
        if path == "/internal/v1/runs" and status == 201:
            runs[json.loads(line["answer"])["run"]["id"]] = json.loads(text)["run"]["id"]
        compared += 1
    assert compared >= 3


def without_times(names: object) -> object:
    if not isinstance(names, dict):
        return names
    return {name: without_times(value) for name, value in names.items() if name not in ("created_at", "updated_at")}


def check(folder: Path, ports: tuple[int, int]) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code of `target check`, and the state and answer of each item."""
    secrets = {"THEIR_SESSION": "their-session", "THEIR_ADMIN": "unused"}
    done = stormgate("target", "check", "http", "--targets", str(described(folder, ports)), "--json", **secrets)
    items = json.loads(done.out)["items"]
    return done.code, {item["name"]: (item["state"], item["answer"]) for item in items}


def test_description_of_a_healthy_service_without_a_socket_is_right(start: Start, tmp_path: Path) -> None:
    code, items = check(tmp_path, start())
    assert {name: state for name, (state, _) in items.items()} == dict.fromkeys(
        ("ready", "stream", "token", "publish", "read_back", "metrics", "health", "status", "routing"), "pass"
    )
    assert code == 0


@pytest.mark.parametrize(
    ("defect", "item", "says"),
    [
        ("user_id_as_text", "token", "oa_user_id"),
        ("read_only", "stream", "503"),
        ("alter_stored", "read_back", ""),
    ],
)
def test_defect_of_the_service_is_found_by_the_item_that_it_breaks(
    start: Start, tmp_path: Path, defect: str, item: str, says: str
) -> None:
    code, items = check(tmp_path, start(defect))
    assert items[item][0] == "fail"
    assert says in items[item][1]
    assert code == 1


def drilled(folder: Path, ports: tuple[int, int], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a short `concurrent_appends`, and its part of the verdict."""
    secrets = {"THEIR_SESSION": "their-session", "THEIR_ADMIN": "unused"}
    short = (
        "load.events_per_s=50",
        "phases.steady_s=2",
        "phases.fault_s=2",
        "faults.0.for_s=2",
        "phases.recovery_s=2.5",
        "phases.settle_s=2",
    )
    settings = [part for setting in short for part in ("--set", setting)]
    file, out = described(folder, ports), folder / "out"
    target = ("--target", "http", "--targets", str(file), "--out", str(out), "--json")
    done = stormgate("drill", "run", "concurrent_appends", *target, *settings, *arguments, **secrets)
    (verdict,) = json.loads(done.out)["drills"]
    return done.code, verdict


def red(verdict: dict[str, Any]) -> set[str]:
    failed = {check["name"] for check in verdict["checks"] if check["state"] in ("fail", "error")}
    return (failed | {violation["invariant"] for violation in verdict["violations"]}) - {"drill.invariants"}


def test_healthy_service_without_a_socket_is_a_go_on_what_its_publishes_show(start: Start, tmp_path: Path) -> None:
    code, verdict = drilled(tmp_path, start())
    assert (code, red(verdict)) == (0, set())
    states = {check["name"]: check["state"] for check in verdict["checks"]}
    assert states["drill.streams_alive"] == states["drill.audited"] == states["delivery.failed_publish_ratio"] == "pass"
    assert states["ux.integrity"] == "no_data"
    assert any("the target has no socket" in remark for remark in verdict["remarks"])


@pytest.mark.parametrize(
    ("defect", "names"),
    [
        ("stall_on_concurrent_appends", {"drill.streams_alive", "delivery.failed_publish_ratio"}),
        ("lose_acknowledged", {"stored_lost"}),
        ("alter_stored", {"stored_altered"}),
        ("store_twice", {"stored_twice"}),
        ("store_out_of_order", {"real_time_order"}),
    ],
)
def test_defect_of_a_service_without_a_socket_is_found_by_name(
    start: Start, tmp_path: Path, defect: str, names: set[str]
) -> None:
    code, verdict = drilled(tmp_path, start(defect))
    assert code == 1
    assert names <= red(verdict)


def test_drill_of_clients_is_not_run_on_a_target_without_a_socket(start: Start, tmp_path: Path) -> None:
    file = described(tmp_path, start())
    secrets = {"THEIR_SESSION": "their-session", "THEIR_ADMIN": "unused"}
    more = ("--target", "http", "--targets", str(file), "--out", str(tmp_path / "out"))
    said = stormgate("drill", "run", "reconnect_storm", *more, **secrets)
    assert said.code == 2
    assert "drop_sockets" in said.out
    assert "needs clients, and target 'http' has no socket" in said.out
