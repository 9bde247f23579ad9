"""Commands and mappings of a target file: tokens from a command, signed publishes in greenlets, and mapped metrics."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drills.rollout.servers import sampler
from drills.runs import targets as described
from sim.base.clocks import SystemClock
from sim.base.exit_codes import ExitCode
from tests.commands import LIMIT_S
from tests.targets.test_described_service import KEY, checked, rooms
from tests.targets.test_sign_in import WORD, gated

TICKET = """
import base64, hashlib, hmac, json, os, time
def packed(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")
claims = {"who": os.environ["STORMGATE_DEVICE"], "rooms": os.environ["STORMGATE_TOPICS"].split(","), "until": time.time() + 90}
text = packed(b"{}") + b"." + packed(json.dumps(claims).encode())
print((text + b"." + packed(hmac.digest(os.environ["ROOMS_KEY"].encode(), text, "sha256"))).decode(), "and a remark")
"""
METRICS = """
[targets.rooms.metrics]
path = "/numbers"
headers = {}
generated_at = "/made"
metrics = { "mirror.published_total" = "/counts/said" }
"""


def of_command(file: Path, command: list[str]) -> None:
    """Take the tokens of a target from a command."""
    table = f'[targets.rooms.token]\nsource = "command"\ncommand = {json.dumps(command)}\n\n'
    text = re.sub(r"\[targets\.rooms\.token\].*?(?=\[targets\.rooms\.ready\])", lambda _: table, file.read_text(), flags=re.S)
    assert text != file.read_text()
    file.write_text(text)


@pytest.mark.parametrize("is_right", [True, False])
def test_clients_connect_with_the_tokens_that_a_command_prints(tmp_path: Path, is_right: bool) -> None:
    script = tmp_path / "ticket.py"
    script.write_text(TICKET if is_right else TICKET.replace('"ROOMS_KEY"].encode()', '"ROOMS_KEY"].encode() + b"x"'))
    with rooms(tmp_path) as targets:
        of_command(targets, [sys.executable, str(script)])
        code, items = checked(targets)
    states = [items[name]["state"] for name in ("token", "connect", "delivery", "resume")]
    assert states == (["pass"] * 4 if is_right else ["pass", "fail", "not_run", "not_run"]), items
    assert (code == ExitCode.GO) == is_right


def test_a_command_without_a_token_is_named(tmp_path: Path) -> None:
    with rooms(tmp_path) as targets:
        of_command(targets, ["false"])
        code, items = checked(targets)
    assert (code, items["token"]["state"]) == (ExitCode.NO_GO, "fail")
    assert "exit code 1" in items["token"]["answer"]


def published_in_greenlets(targets: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.engines.green_signing", str(targets)]
    environment = {**os.environ, **KEY, **WORD}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_publishes_are_signed_by_a_command_in_greenlets(tmp_path: Path) -> None:
    with rooms(tmp_path) as targets:
        found = published_in_greenlets(targets)
        assert (found["outcome"], found["stored"]) == ([1, 2], [{"n": 1}, {"n": 2}])
        script = tmp_path / "sign.py"
        script.write_text(script.read_text().replace("sys.stdin.buffer.read()", "b'another body'"))
        refused = published_in_greenlets(targets)
    assert (refused["outcome"], refused["stored"]) == ("bad signature", [])


def test_clients_sign_in_step_by_step_in_greenlets(tmp_path: Path) -> None:
    with gated(tmp_path, "") as targets:
        found = published_in_greenlets(targets)
    assert found["token"] > 0
    assert found["session"].startswith("no-")


@pytest.mark.parametrize(("pointer", "state"), [("/counts/said", "pass"), ("/counts/nothing", "fail")])
def test_metrics_are_read_where_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pointer: str, state: str
) -> None:
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)
    with rooms(tmp_path) as targets:
        text = targets.read_text().replace('metrics_profile = "none"', 'metrics_profile = "pinned"')
        targets.write_text(text + METRICS.replace("/counts/said", pointer))
        _, items = checked(targets)
        endpoints = described.resolve("rooms", targets)
        assert endpoints is not None
        (tmp_path / "stage").mkdir()
        with sampler.Sampler(tmp_path / "stage", sampler.sources_of(endpoints, None), SystemClock()) as polls:
            snapshot = next(each for each in polls.poll("baseline") if each.source == "metrics")
    assert items["metrics"]["state"] == state, items
    found = (snapshot.outcome, snapshot.metrics)
    assert found == (("ok", {"mirror.published_total": 2.0}) if state == "pass" else ("no_metrics", {})), snapshot
