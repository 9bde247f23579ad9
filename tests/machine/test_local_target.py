"""A target on this machine: its processes are found by their ports, again after a restart, and sampled with all threads."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sim.machine import monitor, processes
from sim.machine.monitor import MachineMonitor
from sim.machine.processes import LocalTarget
from sim.record.observations import Kind

# Listens on a port, has a child, and keeps a core busy in a thread that is not its main one.
SERVER = """
import socket, subprocess, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
child = subprocess.Popen(["sleep", "600"])
def burn():
    while True: pass
threading.Thread(target=burn, daemon=True).start()
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
"""


class Told:
    """Takes rows, and keeps what they say."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def add(self, t: float, kind: Kind, *, attempt: int = 0, value: float = 0.0, detail: str = "", **_: object) -> None:
        self.found[detail] = value


@contextlib.contextmanager
def served(port: int) -> Iterator[set[int]]:
    """Run the server; gives its process and that of its child."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        try:
            yield {server.pid, child}
        finally:
            server.kill()
            os.kill(child, signal.SIGKILL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture
def looks_every_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "_LOOK_AGAIN_S", 0.0)


@pytest.mark.usefixtures("looks_every_time")
def test_a_target_is_its_listening_process_and_children_also_after_a_restart():
    port = free_port()
    target = LocalTarget([f"http://localhost:{port}/base", "https://runtime.example.com"])
    assert target.is_here
    assert target.processes() == set()
    for _ in range(2):
        with served(port) as theirs:
            assert target.processes() == theirs


def test_we_are_never_a_target():
    with socket.create_server(("127.0.0.1", 0)) as own:
        assert LocalTarget([f"http://127.0.0.1:{own.getsockname()[1]}"]).processes() == set()


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.0.0.2:1", True),
        ("http://[::1]:1", True),
        ("https://localhost", True),
        ("https://runtime.example.com:8080", False),
        ("http://10.0.0.7:8080", False),
        ("http://127.example.com", False),
    ],
)
def test_only_addresses_of_this_machine_are_here(url: str, is_here: bool):
    assert LocalTarget([url]).is_here is is_here


def test_a_target_that_starts_again_is_sampled_from_its_start(monkeypatch: pytest.MonkeyPatch):
    rows, port = Told(), free_port()

    def sample() -> set[str]:
        rows.found.clear()
        machine._at -= monitor._PERIOD_S
        machine.sample(1.0)
        return {what for what in rows.found if what.startswith("target")}

    with served(port):
        machine = MachineMonitor(rows, target=LocalTarget([f"http://127.0.0.1:{port}"]))  # type: ignore[arg-type]
        assert sample() == {"target_ran", "target_waited", "target_longest"}
    monkeypatch.setattr(processes, "_LOOK_AGAIN_S", 3600.0)
    assert sample() == set()
    with served(port):
        assert sample() == {"target_ran", "target_waited", "target_longest"}
        assert rows.found["target_longest"] > 0.0
    monkeypatch.setattr(monitor, "wanted_by_threads", lambda pid: {pid: (3600.0, 3600.0)})
    with served(port):
        assert sample() == set(), "it is older than the time since the last one was seen"


def test_every_thread_of_a_target_is_sampled():
    rows, port = Told(), free_port()
    with served(port) as theirs:
        machine = MachineMonitor(rows, target=LocalTarget([f"http://127.0.0.1:{port}"]))  # type: ignore[arg-type]
        while "target_ran" not in rows.found or rows.found["target_ran"] + rows.found["target_waited"] == 0.0:
            machine._at = machine._slow_at = time.monotonic() - 1.0
            machine.sample(1.0)
        server = max(theirs, key=lambda pid: len(processes.wanted_by_threads(pid)))
        main = other = (0.0, 0.0)
        while sum(other) <= sum(main):  # in the end the thread that is not the main one has worked more than starting took
            main, other = (wanted for _, wanted in sorted(processes.wanted_by_threads(server).items()))
    assert "target_unseen" not in rows.found


@pytest.mark.usefixtures("looks_every_time")
def test_a_target_whose_processes_are_hidden_is_unseen_until_it_is_found():
    rows, port, target_is = Told(), free_port(), "target_unseen"
    machine = MachineMonitor(rows, target=LocalTarget([f"http://127.0.0.1:{port}"]))  # type: ignore[arg-type]

    def sample() -> set[str]:
        rows.found.clear()
        machine._at = machine._slow_at = time.monotonic() - monitor._SLOW_PERIOD_S
        machine.sample(1.0)
        return {what for what in rows.found if what.startswith("target")}

    assert sample() == {target_is}
    with served(port):
        assert sample() == set()
        assert sample() == {"target_ran", "target_waited", "target_longest"}
    assert sample() == set(), "it has gone, and was seen"


def test_a_target_elsewhere_has_no_rows():
    rows = Told()
    machine = MachineMonitor(rows, target=LocalTarget(["https://runtime.example.com"]))  # type: ignore[arg-type]
    machine._at = machine._slow_at = time.monotonic() - monitor._SLOW_PERIOD_S
    machine.sample(1.0)
    assert [what for what in rows.found if what.startswith("target")] == []
