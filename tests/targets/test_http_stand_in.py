"""The stand-in of the HTTP services answers as the recorded ones did, and a drill across its restart finds what it forgets."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drills.rollout.preflight import preconditions
from drills.runs import targets
from tests.commands import stormgate
from tests.targets.test_http_services import RECORDINGS, STAND_IN, asked_with, described

ASKED = (
    *("/api/auth/email", "/api/auth/verify", "/api/spacetime/token", "/api/sync/token"),
    *("/api/auth/logout", "/api/v1/auth/sessions", "/api/v1/auth/sessions/revoke"),
)
OF_ONE_PROCESS = ("challengeId", "token", "sessionId", "userId", "id")  # values that a later request names
RESTART = """
import os, pathlib, signal, subprocess, sys, time, urllib.request
folder, ports, stand_in, python = pathlib.Path(sys.argv[1]), sys.argv[2:4], sys.argv[4], sys.executable
if sys.argv[5] == "kill":
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
elif sys.argv[5] == "start":
    options = (folder / "options").read_text().split()
    command = [python, stand_in, *options, "--ports", *ports]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    (folder / "pid").write_text(str(process.pid))
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/readyz", timeout=1)
            break
        except OSError:
            time.sleep(0.05)
"""


class Process:
    """The services, which a hook of the target restarts."""

    def __init__(self, folder: Path, *defects: str) -> None:
        self.folder = folder
        (folder / "restart.py").write_text(RESTART)
        options = [part for defect in defects for part in ("--defect", defect)]
        options += ["--store", str(folder / "store"), "--log", str(folder / "control.log")]
        (folder / "options").write_text(" ".join(options))
        command = [sys.executable, str(STAND_IN), *options]
        self.first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.first.stdout is not None
        runtime, control = map(int, self.first.stdout.readline().split())
        self.ports = runtime, control
        (folder / "pid").write_text(str(self.first.pid))

    def command(self, action: str) -> list[str]:
        return [sys.executable, str(self.folder / "restart.py"), str(self.folder), *map(str, self.ports), str(STAND_IN), action]

    def end(self) -> None:
        os.kill(int((self.folder / "pid").read_text()), 9)
        self.first.wait()
        assert self.first.stdout is not None
        self.first.stdout.close()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    running: list[Process] = []
    yield running
    for process in running:
        process.end()


def names(text: str) -> set[str]:
    """All names in an answer, which may be cut."""
    return set(re.findall(r'"(\w+)":', text))


@pytest.mark.parametrize(
    ("recording", "defect"),
    [("tokens", ()), ("sessions_revoke", ()), ("revoke_propagation", ("revoke_unavailable",))],
)
def test_control_service_answers_as_the_recorded_one_did(
    processes: list[Process], tmp_path: Path, recording: str, defect: tuple[str, ...]
) -> None:
    processes.append(Process(tmp_path, *defect))
    ours: dict[str, str] = {}
    compared = 0
    for line in map(json.loads, (RECORDINGS / f"{recording}.jsonl").read_text().splitlines()):
        bearer = line.get("headers", {}).get("authorization", "").removeprefix("Bearer ")
        if line.get("path") not in ASKED or bearer.startswith("oa_pat"):
            continue
        said = json.dumps({"body": line["body"], "bearer": bearer})
        for theirs, own in ours.items():
            said = said.replace(theirs, own)
        sent = json.loads(said)
        status, text = asked_with(processes[0].ports[1], line["method"], line["path"], sent["body"], sent["bearer"])
        assert status == line["status"], (line["path"], line["body"], text)
        assert names(line["answer"].replace("[cut]", "")) <= names(text), (line["path"], text)
        if line["path"] == "/api/auth/verify":
            found, own_answer = json.loads(line["answer"]), json.loads(text)
            ours |= {found[key]: own_answer[key] for key in OF_ONE_PROCESS if key in found}
        elif line["path"] == "/api/auth/email":
            ours[json.loads(line["answer"])["challengeId"]] = json.loads(text)["challengeId"]
        compared += 1
    assert compared >= 7


def test_claims_of_its_tokens_have_the_recorded_types(processes: list[Process], tmp_path: Path) -> None:
    """With the defect, as recorded: without it, the runtime could take the token."""

    def types(text: str) -> dict[str, str]:
        found = re.search(r'"token":\s*"[\w-]+\.([\w-]+)\.', text)
        assert found is not None
        claims = json.loads(base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)))
        return {name: type(value).__name__ for name, value in claims.items()}

    recorded = [json.loads(line) for line in (RECORDINGS / "tokens.jsonl").read_text().splitlines()][2]
    processes.append(Process(tmp_path, "user_id_as_text"))
    _, text = asked_with(processes[0].ports[1], "POST", "/api/spacetime/token", {}, "their-session")
    assert types(text) == types(recorded["answer"])
    assert types(text)["oa_user_id"] == "str"


@pytest.mark.parametrize(
    ("defect", "state", "says"),
    [((), "pass", "was issued"), (("user_id_as_text",), "fail", "claim oa_user_id is text, not number")],
)
def test_preflight_asks_for_a_token_that_the_runtime_can_use_and_runs_nothing_that_needs_a_socket(
    processes: list[Process],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    defect: tuple[str, ...],
    state: str,
    says: str,
) -> None:
    monkeypatch.setenv("THEIR_SESSION", "their-session")
    monkeypatch.setenv("THEIR_ADMIN", "unused")
    processes.append(Process(tmp_path, *defect))
    endpoints = targets.resolve("http", described(tmp_path, processes[0].ports))
    assert endpoints is not None
    token, (found, reason) = preconditions.mint(endpoints)
    assert (found, says in reason) == (state, True)
    if token is not None:
        assert preconditions.joins(endpoints, token, ["20260601T000000Z"]) == ("not_run", "target http has no socket")


def drilled_across_a_restart(process: Process, *hooks: str) -> tuple[int, dict[str, Any]]:
    """The exit code and verdict of a short `runtime_restart` whose hooks run these actions."""
    file = described(process.folder, process.ports)
    inject, revert = (json.dumps(process.command(action)) for action in hooks)
    file.write_text(f"{file.read_text()}\n[targets.http.hooks.kill_runtime]\ninject = {inject}\nrevert = {revert}\n")
    short = ("phases.fault_s=6", "faults.0.down_s=1", "phases.settle_s=5", "load.events_per_s=50")
    settings = [part for setting in short for part in ("--set", setting)]
    target = ("--target", "http", "--targets", str(file), "--out", str(process.folder / "out"), "--json")
    secrets: dict[str, Any] = {"THEIR_SESSION": "their-session", "THEIR_ADMIN": "unused"}
    done = stormgate("drill", "run", "runtime_restart", *target, *settings, **secrets)
    (verdict,) = json.loads(done.out)["drills"]
    return done.code, verdict


def failures(verdict: dict[str, Any]) -> dict[str, str]:
    """The failed checks, and the violated invariants."""
    wrong = {each["name"]: str(each) for each in verdict["checks"] if each["state"] in ("fail", "error")}
    return wrong | {each["invariant"]: "" for each in verdict["violations"]}


def test_restart_that_keeps_what_was_acknowledged_is_no_loss(processes: list[Process], tmp_path: Path) -> None:
    processes.append(Process(tmp_path))
    code, verdict = drilled_across_a_restart(processes[0], "kill", "start")
    assert failures(verdict) == {}
    assert code == 0


def test_runs_that_a_restart_forgets_are_lost_events_by_name(processes: list[Process], tmp_path: Path) -> None:
    processes.append(Process(tmp_path, "forget_on_restart"))
    code, verdict = drilled_across_a_restart(processes[0], "kill", "start")
    assert {"stored_lost", "drill.invariants", "delivery.failed_publish_ratio"} <= failures(verdict).keys()
    assert code == 1


def test_hook_that_restarts_nothing_is_found(processes: list[Process], tmp_path: Path) -> None:
    """Without a socket no client can show a restart: its publishes must."""
    processes.append(Process(tmp_path))
    code, verdict = drilled_across_a_restart(processes[0], "nothing", "nothing")
    assert failures(verdict).keys() == {"drill.faults_observed"}
    assert code != 0
