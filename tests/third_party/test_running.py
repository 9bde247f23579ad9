"""A server as a process of ours: it gets ready, obeys hooks, keeps its log, and never outlives us."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from drills.third_party import control, running
from drills.third_party.recipe import Parameters, Place, Recipe, Variant
from drills.third_party.running import Server
from sim.base.errors import TargetError, UsageError

PROGRAM = """
import http.server, os, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(os.getpid()).encode())
print("greeting:", sys.argv[2], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""
OWNER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from drills.third_party.running import Server
from tests.third_party.test_running import RECIPE
server = Server(RECIPE, "sane", Path(sys.argv[1]))
print(server.place.ports[0], flush=True)
sys.stdin.read()
"""


def told(place: Place, parameters: Parameters) -> None:
    (place.folder / "told").write_text(parameters["codes"])


def refuse(place: Place, _: Parameters) -> None:
    raise TargetError("the log cannot be recreated today.")


RECIPE = Recipe(
    name="greeter",
    title="Greeter",
    version="1.0",
    says="it does not",
    settings={"greeting": "hello"},
    variants={"rude": Variant("it says nothing kind", {"greeting": "what"})},
    command=lambda place: [sys.executable, "-c", PROGRAM, str(place.ports[0]), str(place.settings["greeting"])],
    ready_url=lambda place: f"http://127.0.0.1:{place.ports[0]}/",
    target=lambda place: (
        f"[targets.greeter]\nport = {place.ports[0]}\n[targets.greeter.hooks.kill_runtime]\n" + place.hook("kill", "start")
    ),
    actions={"tell": told, "refuse": refuse},
    prepare=lambda place: (place.folder / "prepared").touch(),
)


def pid(server: Server) -> int:
    return int(httpx.get(f"http://127.0.0.1:{server.place.ports[0]}/").text)


def asked(server: Server, action: str) -> subprocess.CompletedProcess[str]:
    """What a hook's command line does."""
    command, environment = [*server.place.control, action], {**os.environ, "STORMGATE_CODES": "1000,4000"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def server(tmp_path: Path):
    server = Server(RECIPE, "sane", tmp_path / "server.log")
    yield server
    server.stop()


def test_it_is_ready_and_prepared_when_it_is_started(server: Server):
    assert pid(server) > 0
    assert (server.place.folder / "prepared").exists()
    assert "greeting: hello" in server.log.read_text()


def test_its_hooks_kill_and_start_it_on_the_same_port(server: Server):
    hooks = tomllib.loads(server.targets_file.read_text())["targets"]["greeter"]["hooks"]["kill_runtime"]
    first = pid(server)
    assert subprocess.run(hooks["inject"], timeout=60, check=False).returncode == 0
    with pytest.raises(httpx.ConnectError):
        pid(server)
    assert subprocess.run(hooks["revert"], timeout=60, check=False).returncode == 0
    assert pid(server) != first


def test_restart_and_its_own_actions(server: Server):
    first = pid(server)
    assert asked(server, "restart").returncode == 0
    assert pid(server) != first
    assert asked(server, "tell").returncode == 0
    assert (server.place.folder / "told").read_text() == "1000,4000"


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("refuse", "the log cannot be recreated today."),
        ("dance", "Greeter has no action 'dance'; there are: kill, start, restart, tell, refuse."),
    ],
)
def test_an_action_that_fails_says_why_and_fails_the_hook(server: Server, action: str, says: str):
    done = asked(server, action)
    assert (done.returncode, done.stderr.strip()) == (1, says)


def test_a_variant_differs_in_its_setting(tmp_path: Path):
    server = Server(RECIPE, "rude", tmp_path / "server.log")
    server.stop()
    assert "greeting: what" in server.log.read_text()
    with pytest.raises(UsageError, match="Greeter has no variant 'odd'; there are: sane, rude"):
        Server(RECIPE, "odd", tmp_path / "server.log")


def test_stopping_leaves_the_log_and_nothing_else(server: Server):
    process = pid(server)
    server.stop()
    assert not server.place.folder.exists()
    assert server.log.exists()
    assert_ended(process)
    assert "cannot be reached" in control.ask(str(server.place.folder / control.SOCKET), "start", {})


def test_a_program_that_ends_at_once_is_one_sentence_with_the_end_of_its_log(tmp_path: Path):
    broken = replace(RECIPE, command=lambda place: [sys.executable, "-c", "print('no licence'); raise SystemExit(2)"])
    with pytest.raises(TargetError, match=r"Greeter ended with exit code 2. The last line of its log .* is: no licence"):
        Server(broken, "sane", tmp_path / "server.log")


def test_it_never_outlives_its_owner(tmp_path: Path):
    code = OWNER.format(root=str(Path(__file__).parents[2]))
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "server.log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    port = int(owner.stdout.readline())
    process = int(httpx.get(f"http://127.0.0.1:{port}/").text)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert_ended(process)
    owner.stdout.close()


def assert_ended(process: int) -> None:
    for _ in range(500):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {process} still runs")


def test_ports_are_free():
    assert len(set(running._ports(20, 0))) == 20
