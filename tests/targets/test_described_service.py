"""A service that shares no HTTP name with the mock is checked and drilled with its description alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sim.base.exit_codes import ExitCode
from tests.commands import LIMIT_S, Said, stormgate
from tests.live import DRILL
from tests.storms import OF_TIME

KEY = {"ROOMS_KEY": "rooms-key-which-is-a-s3cret-of-32-bytes"}
SIGN = """
import base64, hashlib, hmac, os, sys
made = hmac.new(os.environ["ROOMS_KEY"].encode(), sys.stdin.buffer.read(), hashlib.sha256).digest()
print("X-Signature:", base64.urlsafe_b64encode(made).rstrip(b"=").decode())
"""
TARGET = """
[targets.rooms]
kind = "staging"
runtime_url = "http://127.0.0.1:{port}"
control_url = "http://127.0.0.1:{port}"
socket_path = "/listen"
payload_at = "/words"
metrics_profile = "none"
caps = {{ clients = 200, connects_per_s = 200.0, events_per_s = 100.0 }}

[targets.rooms.streams]
topic = "chat/{{run_id}}"

[targets.rooms.create]
method = "PUT"
path = "/rooms"
body = {{ label = "{{name}}" }}
run_id = "/0/slug"

[targets.rooms.publish]
path = "/rooms/{{run_id}}"
headers = {{ X-Once = "{{key}}" }}
body = {{ words = "{{payload}}" }}
signing_command = ["{python}", "{sign}"]
position = "/all/once={{key}}/place"

[targets.rooms.error]
code = "/oops"

[targets.rooms.token]
source = "signing_key"
signing_key_env = "ROOMS_KEY"
claims = {{ who = "{{device}}", rooms = "{{topics}}", until = "{{expires_at}}" }}
claim_types = {{ rooms = "list", until = "number" }}

[targets.rooms.ready]
path = "/alive"
statuses = [202]

[targets.rooms.read_back]
path = "/rooms/{{run_id}}"
events = "/said"
position = "none"
payload = "/words"
"""


@contextmanager
def rooms(folder: Path, *options: str) -> Iterator[Path]:
    """Run the service; yield the targets file that describes it."""
    command = [sys.executable, str(Path(__file__).parents[1] / "rooms_service.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=KEY) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            sign, targets = folder / "sign.py", folder / "targets.toml"
            sign.write_text(SIGN)
            targets.write_text(TARGET.format(port=port, python=sys.executable, sign=sign))
            yield targets
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def checked(targets: Path) -> tuple[int, dict[str, dict[str, str]]]:
    said = stormgate("target", "check", "rooms", "--targets", targets, "--json", **KEY)
    assert KEY["ROOMS_KEY"] not in said.out + said.err
    return said.code, {item["name"]: item for item in json.loads(said.out)["items"]}


def drilled(folder: Path, targets: Path, *options: str) -> Said:
    drill = folder / "passing_through.toml"
    drill.write_text(DRILL.replace("events_per_s = 40.0", "events_per_s = 24.0"))
    where = ("--target", "rooms", "--targets", targets, "--out", folder / "out")
    return stormgate("drill", "run", drill, *where, *options, **KEY)


def test_a_described_service_is_checked_and_drilled_green(tmp_path: Path) -> None:
    with rooms(tmp_path) as targets:
        code, items = checked(targets)
        assert code == ExitCode.GO, items
        needed = ("ready", "stream", "token", "without_token", "connect", "publish", "delivery", "resume", "read_back")
        assert [items[name]["state"] for name in needed] == ["pass"] * len(needed)
        assert [items[name]["state"] for name in ("health", "status", "routing")] == ["missing"] * 3
        said = drilled(tmp_path, targets, "--json")
    (drill,) = json.loads(said.out)["drills"]
    late = [check["name"] for check in drill["checks"] if check["state"] != "pass"]
    assert {*late} <= {*OF_TIME}, said  # a busy machine may be late
    assert drill["violations"] == []
    assert (said.code == ExitCode.GO) == (not late), said
    assert KEY["ROOMS_KEY"] not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.json*"))


def test_a_described_service_that_drops_events_is_red(tmp_path: Path) -> None:
    with rooms(tmp_path, "--drop", "7") as targets:
        said = drilled(tmp_path, targets)
    assert said.code == ExitCode.NO_GO, said


def test_a_service_that_stores_another_order_than_its_clients_got_is_red_by_name(tmp_path: Path) -> None:
    with rooms(tmp_path, "--defect", "read_otherwise") as targets:
        said = drilled(tmp_path, targets, "--json")
    (drill,) = json.loads(said.out)["drills"]
    assert said.code == ExitCode.NO_GO, said
    assert "stored_otherwise" in {violation["invariant"] for violation in drill["violations"]}


@pytest.mark.parametrize(
    ("right", "wrong", "item", "advice"),
    [
        ('path = "/alive"', 'path = "/readyz"', "ready", "[ready]"),
        ('run_id = "/0/slug"', 'run_id = "/run/id"', "stream", "[create]"),
        ('until = "number"', 'until = "text"', "token", "[token.claim_types]"),
        ('socket_path = "/listen"', "", "without_token", "socket_path"),
        ('"chat/{run_id}"', '"room/{run_id}"', "connect", "[streams]"),
        ('words = "{payload}"', 'words = "nothing"', "delivery", "[publish]"),
        ("signing_command", "# signing_command", "publish", "credentials"),
        ('position = "/all/', 'position = "/none/', "publish", "pointers of [publish]"),
        ('payload_at = "/words"', "", "delivery", 'payload_at = "/words"'),
        ('events = "/said"', 'events = "/events"', "read_back", "[read_back]"),
    ],
)
def test_a_wrong_item_is_named_with_what_to_change(tmp_path: Path, right: str, wrong: str, item: str, advice: str) -> None:
    with rooms(tmp_path) as targets:
        text = targets.read_text()
        assert right in text
        targets.write_text(text.replace(right, wrong, 1))
        code, items = checked(targets)
    assert (code, items[item]["state"]) == (ExitCode.NO_GO, "fail"), items
    assert advice in items[item]["change"], items[item]
