"""What is deployed: found out by the operators' commands or from the services; whatever is no plain word is unknown."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from drills.rollout.servers import revisions
from drills.rollout.servers.revisions import Finder
from drills.rollout.setup.records import Revisions
from drills.runs import targets
from drills.runs.targets import Target
from sim.engines.shared.endpoints import Endpoints
from sim.service.paths import HEALTH_PATH, STATUS_PATH
from tests.commands import LIMIT_S, free_port, is_running, soon
from tests.pages import Asked, Page, pages

SECRET = "s3ssion-s3cret"


def endpoints(url: str = "http://127.0.0.1:9") -> Endpoints:
    return Endpoints("theirs", "staging", url, url, session=SECRET)


def entry(**commands: object) -> Target:
    """The entry of a targets file with these commands; JSON of them is TOML, too."""
    keys = "\n".join(f"{name} = {json.dumps(value)}" for name, value in commands.items())
    text = '[targets.theirs]\nkind = "mock"\nruntime_url = "http://h"\ncontrol_url = "http://h"\n[targets.theirs.revisions]\n'
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text + keys)
        file.flush()
        return targets.read(Path(file.name), "theirs")


def said(script: str, timeout_s: float = 10.0) -> str:
    """What is made of a command that runs this script."""
    about = entry(runtime=[sys.executable, "-c", script], timeout_s=timeout_s)
    return Finder(endpoints(), about).runtime()


def test_services_report_their_revisions() -> None:
    bodies = {STATUS_PATH: {"data": {"revision": "control-7"}}, HEALTH_PATH: {"status": "ok", "revision": "runtime-9"}}
    with pages(lambda request: Page(json.dumps(bodies[request.path]).encode())) as url:
        assert revisions.find(endpoints(url), None) == Revisions(control="control-7", runtime="runtime-9")


@pytest.mark.parametrize(
    "page",
    [
        Page(b"{}"),
        Page(b"<html>"),
        Page(b'{"revision": 9, "data": {"revision": null}}'),
        Page(b'{"revision": "", "data": {"revision": ""}}'),
        Page(b'{"revision": "two words", "data": {"revision": "a\\tb"}}'),
        Page(b'{"revision": "r1", "data": {"revision": "r1"}}', status=500),
        Page(f'{{"revision": "{SECRET}", "data": {{"revision": "x-{SECRET}"}}}}'.encode()),
    ],
)
def test_unreported_revision_is_unknown(page: Page) -> None:
    with pages(lambda _: page) as url:
        found = revisions.find(endpoints(url), None)
    assert (found, found.known) == (Revisions(), False)


def test_unreachable_service_has_an_unknown_revision() -> None:
    assert revisions.find(endpoints(f"http://127.0.0.1:{free_port()}"), None) == Revisions()


def test_commands_come_before_the_services_own_answer(tmp_path: Path) -> None:
    about = entry(control=["echo", "by-command"])
    with pages(lambda _: Page(b'{"revision": "by-service", "data": {"revision": "by-service"}}')) as url:
        found = revisions.find(endpoints(url), about)
        assert found == Revisions(control="by-command", runtime="by-service")
        assert Finder(endpoints(url), about).control("by-its-last-answer") == "by-command"
        assert Finder(endpoints(url), None).control("by-its-last-answer") == "by-its-last-answer"


def test_failed_command_makes_the_revision_unknown() -> None:
    with pages(lambda _: Page(b'{"revision": "r1"}')) as url:
        assert Finder(endpoints(url), entry(runtime=["false"])).runtime() == ""


@pytest.mark.parametrize(
    ("script", "revision"),
    [
        ("print('sha256:0a1b2c'); print('and more')", "sha256:0a1b2c"),
        ("print('  r42  ')", "r42"),
        ("print('two words')", ""),
        ("print()", ""),
        ("pass", ""),
        ("print('r42'); raise SystemExit(1)", ""),
        ("import sys; print('r42', file=sys.stderr)", ""),
        ("print('\\x1b[31mr42')", ""),
        ("print('r\\u00fcck')", ""),
        ("print('x' * 129)", ""),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", ""),
        (f"print('{SECRET}')", ""),
        (f"print('r-{SECRET}-1')", ""),
        ("print('[secret]')", ""),
        (
            "import os; print(os.environ['STORMGATE_TARGET'] + '@' + os.environ['STORMGATE_RUNTIME_URL'])",
            "theirs@http://127.0.0.1:9",
        ),
        ("print(input())", ""),
    ],
)
def test_first_output_line_is_the_revision_if_it_is_one_word(script: str, revision: str) -> None:
    assert said(script) == revision


@pytest.mark.parametrize(
    ("script", "revision"),
    [("sleep 60 & echo $! > {pid}; echo r1; wait", ""), ("sleep 60 > /dev/null & echo $! > {pid}; echo r1", "r1")],
)
def test_processes_of_a_revision_command_end_with_it(tmp_path: Path, script: str, revision: str) -> None:
    pid = tmp_path / "pid"
    about = entry(runtime=["sh", "-c", script.format(pid=pid)], timeout_s=1.5)
    assert Finder(endpoints(), about).runtime() == revision
    assert soon(lambda: not is_running(int(pid.read_text())), LIMIT_S), "it was left behind"


def test_revision_command_gets_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "theirs")
    assert said("import os; print(os.environ['KUBECONFIG'])") == "theirs"
    assert os.environ.get("STORMGATE_TARGET") is None


def test_every_request_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "LIMIT_S", 0.2)

    def answer(_: Asked) -> Page:
        return Page(b'{"revision": "r1"}', drip_s=0.1)

    with pages(answer) as url:
        assert Finder(endpoints(url), None).runtime() == ""
