"""However a run ends, it leaves nothing: no process, port, temporary file or fault. The tests look at the machine itself."""

import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim.base.ownership import MARK_NAME
from tests import commands
from tests.commands import LIMIT_S, STORMGATE, Said, free_port, is_running, soon, stormgate, stormgate_here
from tests.storms import SHORT, SMALL

MARK = "STORMGATE_TEST_RUN"  # in the environment of a run and of all that it starts
INTERRUPTED = 4


@dataclass
class Run:
    """A run of the command line; its processes are known by their environment, and it has its own temporary directory."""

    folder: Path
    process: "subprocess.Popen[str]"
    name: str

    @property
    def pids(self) -> list[int]:
        """All running processes of this run."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._is_its(path)]

    def _is_its(self, path: Path) -> bool:
        try:
            return f"{MARK}={self.name}\0".encode() in (path / "environ").read_bytes() and is_running(int(path.name))
        except OSError:
            return False

    @property
    def temporary(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "tmp").iterdir())

    @property
    def runs(self) -> list[Path]:
        return sorted((self.folder / "results").iterdir())

    def left_nothing(self, ports: set[int] = frozenset()) -> bool:
        """Whether no process, temporary file or port of it is left, and no mark that a run is active."""
        left = self.pids, self.temporary, ports & listening(), [path for path in self.runs if (path / MARK_NAME).exists()]
        assert not any(left), left
        return True

    def until(self, words: str) -> None:
        """Wait until it prints these words on stderr."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        pytest.fail(f"it ended without ever saying '{words}'")

    def wait(self) -> int:
        self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode


def ports_of(pids: list[int]) -> set[int]:
    """The ports that these processes listen on."""
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").glob("*")]
    inodes = {target[8:-1] for link in links if (target := _target(link)).startswith("socket:[")}
    return {port for port, inode in _listening() if inode in inodes}


def listening() -> set[int]:
    """The ports that any process listens on."""
    return {port for port, _ in _listening()}


def _listening() -> list[tuple[int, str]]:
    """Ports and inodes of the listening sockets."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(int(row[1].rpartition(":")[2], 16), row[9]) for row in rows if row[3] == "0A"]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def sets(name: str, *more: str) -> list[str]:
    return commands.sets(*SMALL, *SHORT[name], "fleet.clients=20", *more)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Run]:
    (folder / "tmp").mkdir(exist_ok=True)
    name = uuid.uuid4().hex
    environment = {**os.environ, MARK: name, "TMPDIR": str(folder / "tmp")}
    command = [*STORMGATE, "drill", "run", *arguments, "--out", str(folder / "results")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    run = Run(folder, process, name)
    try:
        yield run
    finally:
        for pid in run.pids:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def again(folder: Path, *arguments: str) -> Said:
    """A run after the one that left something."""
    return stormgate("drill", "run", *arguments, "--out", folder / "results", TMPDIR=str(folder / "tmp"))


# A fault that lasts longer than anyone waits: of deliveries, and of the runtime itself, which is down meanwhile.
LONG = {
    "dropped_delivery": ("phases.fault_s=60", "faults.0.for_s=60"),
    "runtime_restart": ("phases.fault_s=60", "faults.0.down_s=59"),
}
SIMULATED = ("dropped_delivery", "--engine", "virtual", *sets("dropped_delivery"))


@pytest.mark.parametrize("defects", [[], ["--defect", "lose_log_on_restart"]], ids=["normal", "failed"])
def test_a_run_that_ends_by_itself_leaves_nothing(tmp_path: Path, defects: list[str]):
    with running(tmp_path, "runtime_restart", *sets("runtime_restart", "phases.settle_s=2"), *defects) as run:
        run.until("fault: ")
        assert len(run.pids) == 2
        ports = ports_of(run.pids)
        assert ports
        run.wait()
        assert run.left_nothing(ports)


@pytest.mark.parametrize(("name", "number"), list(zip(LONG, (signal.SIGINT, signal.SIGTERM), strict=True)))
def test_a_run_that_is_interrupted_in_a_fault_leaves_nothing(tmp_path: Path, name: str, number: signal.Signals):
    with running(tmp_path, name, *sets(name, *LONG[name])) as run:
        run.until("fault: ")
        ports = ports_of(run.pids)
        time.sleep(1.0)  # the fault acts
        run.process.send_signal(number)
        assert run.wait() == INTERRUPTED
        assert run.left_nothing(ports)
        assert (run.runs[0] / "summary.json").exists()


@pytest.mark.parametrize("name", LONG)
def test_what_a_killed_run_leaves_is_found_by_the_next(tmp_path: Path, name: str):
    with running(tmp_path, name, *sets(name, *LONG[name])) as run:
        run.until("fault: ")
        ports = ports_of(run.pids)
        (before,) = run.temporary
        # While it is alive, nobody takes anything away from it.
        assert "note: " not in again(tmp_path, *SIMULATED).err
        assert run.temporary == [before]
        run.process.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert soon(lambda: run.pids == [])
        assert not ports & listening()
        assert run.temporary == [before]  # the one thing that it cannot take with it
        killed = next(path for path in run.runs if (path / MARK_NAME).exists())
        said = again(tmp_path, *SIMULATED)
    assert said.code in (0, 2)
    notes = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: removed what a killed run left behind: {tmp_path / 'tmp' / before}.",
        f"note: {killed}: this run was killed before its end; `stormgate judge` shows what it recorded.",
    ]
    assert run.temporary == []
    assert "note: " not in again(tmp_path, *SIMULATED).err  # told once
    judged = stormgate_here("judge", killed)
    assert judged.code in (1, 4)
    assert "did not complete" in judged.out


REPLICATED = ("dropped_delivery", "--engine", "virtual", "--replications", "60")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_replications_leave_no_workers(tmp_path: Path, number: signal.Signals):
    with running(tmp_path, *REPLICATED) as run:
        assert soon(lambda: len(run.pids) >= 3)  # ours, and at least one worker with what watches over it
        run.until(" of 60 done")
        run.process.send_signal(number)
        assert run.wait() == (-signal.SIGKILL if number is signal.SIGKILL else INTERRUPTED)
        assert soon(lambda: run.pids == [])
        assert run.temporary == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_simulation_that_is_interrupted_says_so(tmp_path: Path, number: signal.Signals):
    with running(tmp_path, "rollout_day", "--engine", "virtual") as run:
        run.until("steady: ")
        run.process.send_signal(number)
        assert run.wait() == INTERRUPTED
        assert run.pids == []
        assert "it was interrupted" in (run.runs[0] / "drills" / "rollout_day" / "run.json").read_text()


def test_variants_that_are_interrupted_leave_nothing(tmp_path: Path):
    with running(tmp_path, "parity", "--engine", "sockets") as run:
        run.until("variant 1 of 4")
        assert soon(lambda: len(run.temporary) == 1)
        assert soon(lambda: len(ports_of(run.pids)) == 1)
        time.sleep(1.5)  # into its course
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == INTERRUPTED
        assert run.left_nothing()


def test_a_fault_that_a_killed_run_left_in_another_runtime_is_told(tmp_path: Path):
    """That runtime is not ours to mend, and may be meant so: whoever drills it next is told."""
    port = free_port()
    served = subprocess.Popen(
        [*STORMGATE, "mock", "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
    )
    try:
        assert served.stdout is not None
        assert "listening" in served.stdout.readline()
        settings = sets("dropped_delivery", *LONG["dropped_delivery"])
        target = ("dropped_delivery", "--target", f"http://127.0.0.1:{port}", *settings)
        with running(tmp_path, *target) as run:
            run.until("fault: ")
            time.sleep(1.0)  # the fault acts
            run.process.send_signal(signal.SIGKILL)
            run.wait()
        with running(tmp_path, *target) as after:
            after.until("this runtime has faults on already (skip_live_clients, skip_live_events)")
            after.process.send_signal(signal.SIGINT)
            assert after.wait() == INTERRUPTED
    finally:
        served.terminate()
        served.communicate()
