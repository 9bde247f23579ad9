"""The guide "Write an adapter" is true: its adapter is installed as a package and drilled against a server of its protocol."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.adapter import Credentials
from sim.protocols.events import Malformed, Position
from sim.protocols.intents import Compatibility, Join, Subscribe
from tests.commands import sets
from tests.locust_runs.loads import DRILL, Load, drill_of
from tests.storms import OF_TIME

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to" / "write-an-adapter.md"
SHORT = ("phases.steady_s=1.5", "phases.fault_s=2.5", "faults.1.at_s=1.5", "phases.recovery_s=0.5", "phases.settle_s=8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which the guide's package is installed, and its targets file written."""
    (code,), (project, targets) = blocks("python"), blocks("toml")
    (tmp_path / "boards_adapter.py").write_text(code)
    (tmp_path / "targets.toml").write_text(targets)
    info = tmp_path / "boards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boards\nVersion: 1.0\n")
    (entry,) = re.findall(r'^boards = "(.*)"$', project, re.MULTILINE)
    (info / "entry_points.txt").write_text(f"[stormgate.protocols]\nboards = {entry}\n")
    return tmp_path


@pytest.fixture
def serve(installed: Path) -> Iterator[object]:
    """Start a server of the protocol, and return what runs stormgate beside it."""
    started = []

    def start(*options: str):
        command = [sys.executable, str(ROOT / "tests" / "peers" / "board_server.py"), *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        return Stormgate(installed, f"http://127.0.0.1:{int(server.stdout.readline())}")

    yield start
    for server in started:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


class Stormgate:
    """Runs stormgate in a folder in which the guide's package is installed."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.environment = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "BOARDS_URL": url}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        command = [sys.executable, "-m", "drills", *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=180, check=False
        )


def storm(run) -> dict[str, object]:
    """The verdict on a small storm."""
    done = run("drill", "run", "reconnect_storm", "--target", "staging", "--clients", "20", "--json", *sets(*SHORT))
    assert done.stdout, done.stderr
    (drill,) = json.loads(done.stdout)["drills"]
    return drill


def red(drill) -> set[str]:
    failed = {check["name"] for check in drill["checks"] if check["state"] in ("fail", "error")}
    return failed | {violation["invariant"] for violation in drill["violations"]}


def test_the_adapter_is_short():
    (code,) = blocks("python")
    assert len(code.splitlines()) < 150


def test_the_installed_package_is_listed_and_described(serve):
    run = serve()
    assert "boards" in run("target", "protocols").stdout
    assert run("target", "new", "other", "--protocol", "boards", "--targets", "new.toml").returncode == 0


def test_every_item_of_its_target_works(serve):
    checked = serve()("target", "check", "staging")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ready to be drilled" in checked.stdout


def test_a_storm_finds_nothing_in_a_healthy_server_and_the_loss_in_another(serve):
    assert red(storm(serve())) <= {*OF_TIME}
    assert {"replay.divergence", "delivery.dropped_deliveries"} <= red(storm(serve("--defect", "lose_missed")))


@pytest.fixture
def broken(serve, installed: Path) -> Stormgate:
    """The guide's adapter, which fails at each post."""
    path = installed / "boards_adapter.py"
    head = "    def received(self, id, data, is_text):\n"
    code = path.read_text()
    assert head in code
    path.write_text(code.replace(head, f"""{head}        if b'"op":"post"' in data:\n            raise KeyError("colour")\n"""))
    return serve()


FAILED = "BoardsConnection.received of its package raised KeyError: "


def test_a_failing_adapter_is_an_error_of_its_package_and_of_nobody_else(broken: Stormgate):
    done = broken("drill", "run", "reconnect_storm", "--target", "staging", "--clients", "20", *sets(*SHORT))
    assert FAILED in done.stderr
    assert "Traceback" not in done.stderr
    assert "no-go (error)" in done.stdout
    assert done.returncode == 4


def test_a_failing_adapter_ends_a_load_test_in_the_same_way(broken: Stormgate, installed: Path):
    target = ("--target=staging", f"--targets={installed / 'targets.toml'}", "--clients=20")
    load = Load(installed / "out", DRILL, *target, settings=SHORT, environment=broken.environment)
    assert load.end() == 4, load.output
    assert "Traceback" not in load.output
    assert FAILED in str(drill_of(load.verdict).checks)


@pytest.fixture(scope="module")
def adapter() -> ModuleType:
    (code,) = blocks("python")
    module = ModuleType("boards_adapter")
    exec(compile(code, str(GUIDE), "exec"), module.__dict__)
    return module


WORDS = st.sampled_from(["op", "board", "post", "n", "welcome", "following", "current", "forgotten", "kept", "ping", "b"])
VALUES = st.recursive(
    WORDS | st.integers() | st.none() | st.booleans(), lambda inner: st.dictionaries(WORDS, inner) | st.lists(inner)
)


@given(st.lists(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode())))
def test_no_message_makes_it_raise(adapter: ModuleType, messages: list[bytes]):
    connection = adapter.BoardsConnection("ws://127.0.0.1/sync")
    connection.connect(Credentials("good"))
    connection.opened(0, 101, {})
    connection.send(Join("1", Compatibility()))
    connection.send(Subscribe("2", {"b": Position(3)}))
    for message in messages:
        assert isinstance(connection.received(0, message, True), tuple)
    assert connection.received(0, b"{", True) == (Malformed("malformed_message"),)
