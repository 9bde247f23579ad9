"""The mock as a process: it starts, prints its address, ends on request or with its parent, and explains a failed start."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from sim.base.errors import StorageError, TargetError
from sim.mock.process import MockProcess
from sim.mock.server import ServeOptions
from sim.server.settings import RuntimeSettings, Switches
from tests.commands import STORMGATE, is_running, soon, stormgate, stormgate_here

OPTIONS = ServeOptions(RuntimeSettings(), Switches())


def status(url: str) -> int:
    return httpx.get(url, timeout=10.0, trust_env=False).status_code


# --- as engines start it ----------------------------------------------------------------------------


def test_a_killed_mock_restarts_on_the_same_port_and_log(tmp_path: Path):
    async def restart() -> None:
        process = MockProcess(OPTIONS, tmp_path)
        await process.start()
        url, pid = process.url, process.pid
        assert status(f"{url}/readyz") == 200
        assert await process.kill() == -signal.SIGKILL
        assert process.pid == 0
        assert not is_running(pid)
        await process.start()
        assert process.url == url
        assert process.pid not in (0, pid)
        assert status(f"{url}/readyz") == 200
        await process.stop()
        assert process.pid == 0
        await process.stop()
        assert await process.kill() == 0

    asyncio.run(restart())
    assert "Traceback" not in (tmp_path / "runtime.log").read_text()


def test_no_outgoing_connection_can_take_its_port_while_it_is_down(tmp_path: Path):
    async def port() -> int:
        process = MockProcess(OPTIONS, tmp_path)
        await process.start()
        await process.stop()
        return int(process.url.rpartition(":")[2])

    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not first <= asyncio.run(port()) <= last


def test_a_process_never_started_can_be_stopped(tmp_path: Path):
    process = MockProcess(OPTIONS, tmp_path)
    asyncio.run(process.stop())
    assert asyncio.run(process.kill()) == 0


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_the_reason_of_a_failed_start_is_reported(tmp_path: Path, taken_port: int):
    process = MockProcess(ServeOptions(RuntimeSettings(), Switches(), port=taken_port), tmp_path)
    with pytest.raises(TargetError, match=f"did not start: cannot listen on 127.0.0.1:{taken_port}"):
        asyncio.run(process.start())
    assert process.pid == 0


def test_an_unusable_log_is_a_storage_error(tmp_path: Path):
    process = MockProcess(OPTIONS, tmp_path)
    (Path(process._state.name) / "log.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"did not start: .* cannot be used as the runtime's log"):
        asyncio.run(process.start())


def test_cancelling_a_start_leaves_nothing_behind(tmp_path: Path):
    async def cancel() -> int:
        process = MockProcess(OPTIONS, tmp_path)
        starting = asyncio.create_task(process.start())
        while not process.pid:
            await asyncio.sleep(0.005)
        pid = process.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert process.pid == 0
        return pid

    pid = asyncio.run(cancel())
    assert soon(lambda: not is_running(pid))


def test_it_ends_when_its_parent_is_killed(tmp_path: Path):
    script = """
        import asyncio, os, signal, sys
        from pathlib import Path
        from sim.server.settings import RuntimeSettings, Switches
        from sim.mock.process import MockProcess
        from sim.mock.server import ServeOptions

        async def start():
            process = MockProcess(ServeOptions(RuntimeSettings(), Switches()), Path(sys.argv[1]))
            await process.start()
            print(process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(start())
    """
    done = subprocess.run([sys.executable, "-c", dedent(script), str(tmp_path)], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert soon(lambda: not is_running(int(done.stdout)))


# --- as a person starts it --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "RUNTIME_ADMIN_TOKEN": "s3cret"}
    pipe = subprocess.PIPE
    command = [*STORMGATE, "mock", "serve", "--port", "0", "--profile", "pinned", "--defect", "duplicate_delivery"]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        match = re.search(r"listening on (http://127\.0\.0\.1:\d+) \(pid (\d+)\)", process.stdout.readline())
        assert match is not None
        assert int(match[2]) == process.pid
        metrics = f"{match[1]}/internal/v1/spacetime/sync/metrics"
        answer = httpx.get(metrics, headers={"Authorization": "Bearer s3cret"}, trust_env=False)
        assert "stream_count" in answer.json()["delivery"]
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (0, "", "")
    assert list(tmp_path.iterdir()) == [], "its temporary log is gone"


def test_a_port_in_use_is_one_sentence(taken_port: int):
    result = stormgate("mock", "serve", "--port", taken_port)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith(f"stormgate: cannot listen on 127.0.0.1:{taken_port}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], ["--port", "65535"]),
        (["--port", "-1"], ["--port"]),
        (["--port", "http"], ["--port", "integer"]),
        (["--host", "no.such.host.invalid"], ["no.such.host.invalid"]),
        (["--host", "203.0.113.1"], ["203.0.113.1"]),
        (["--defect", "rust"], ["--defect rust", "skip_delivery"]),
        (["--profile", "slim"], ["profile", "slim", "full, pinned"]),
        (["--set", "window_events"], ["--set window_events", "KEY=VALUE"]),
        (["--set", "window_events=0"], ["window_events", ">= 1"]),
        (["--set", "windows=3"], ["windows", "window_events"]),
        (["--colour"], ["--colour"]),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: list[str], words: list[str]):
    result = stormgate_here("mock", "serve", *arguments)
    assert (result.code, result.out) == (3, "")
    assert result.err.count("\n") == 1
    assert [word for word in words if word not in result.sentence] == []


@pytest.mark.parametrize("name", ["none/log.sqlite", "."])
def test_an_impossible_state_file_is_one_sentence(tmp_path: Path, name: str):
    result = stormgate_here("mock", "serve", "--state", tmp_path / name)
    assert (result.code, result.out) == (4, "")
    assert result.err.count("\n") == 1
    assert result.sentence.startswith(str(tmp_path))


def test_its_defects_are_listed():
    assert "skip_delivery" in stormgate_here("mock", "defects").out
