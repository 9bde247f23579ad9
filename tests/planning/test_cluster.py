"""A sweep on a dask cluster of real processes gives the same rows, even if a worker is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from drills.planning import sweeps
from sim.base.errors import TargetError, UsageError
from sim.planning import cluster
from sim.planning.store import Row, Store
from tests.commands import stormgate_here
from tests.planning.plan_files import TWO_POINTS, here, load, write

LIMIT_S = 60.0
SWEEP = TWO_POINTS.replace("replications = 3", "replications = 4")


def started(*words: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]], **quiet)


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def address_in(path: Path) -> str:
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads(path.read_text())["address"])
        time.sleep(0.05)
    raise TimeoutError("the scheduler did not start")


def test_sweep_survives_a_killed_worker_with_equal_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "scheduler.json"
    scheduler = started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with ended(scheduler):
        address = address_in(file)
        options = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1", "--local-directory", str(tmp_path))
        workers = [started("worker", address, *options) for _ in range(3)]
        with ended(*workers):
            client = _with_three(address)
            client.close()
            kept: list[str] = []

            def put(store: Store, row: Row) -> None:
                kept.append(row.digest)
                if len(kept) == 2:
                    os.kill(workers[0].pid, signal.SIGKILL)
                original(store, row)

            original = Store.put
            monkeypatch.setattr(Store, "put", put)
            far = sweeps.sweep(load(tmp_path, SWEEP), tmp_path / "far", sweeps.on_cluster("far", address))
            monkeypatch.undo()
            workers[1].kill()
            _loses_its_last_worker(tmp_path, monkeypatch, address, workers[2])
    near = sweeps.sweep(load(tmp_path, SWEEP), tmp_path / "near", here)
    assert len(kept) == 8
    assert ", about " in capsys.readouterr().err  # the time left
    assert workers[0].returncode == -signal.SIGKILL
    pd.testing.assert_frame_equal(far.table, near.table, check_exact=True)
    one, other = ({path.name: path.read_bytes() for path in (each.folder / "rows").iterdir()} for each in (far, near))
    assert one == other


def _loses_its_last_worker(folder: Path, patch: pytest.MonkeyPatch, address: str, worker: subprocess.Popen[bytes]) -> None:
    """The last worker dies with a completed run that it did not return: the sweep ends with an error."""

    def answer(future) -> object:
        worker.kill()
        worker.wait()
        return original(future)

    original = cluster._answer
    patch.setattr(cluster, "_answer", answer)
    patch.setattr(cluster, "FETCH_LIMIT_S", 0.5)
    patch.setattr(cluster, "NO_WORKERS_LIMIT_S", 1.0)
    with pytest.raises(TargetError, match="all workers are lost; 0 runs are done"):
        sweeps.sweep(load(folder, SWEEP), folder / "gone", sweeps.on_cluster("gone", address))


def _with_three(address: str):
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        with contextlib.suppress(Exception):
            client = cluster.connect(address)
            client.wait_for_workers(3, timeout=LIMIT_S)
            return client
        time.sleep(0.1)
    raise TimeoutError("the workers did not start")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:8786", "expected the address of a dask scheduler"),
        ("tcp://127.0.0.1:1", "no dask scheduler answers"),
        ("tcp://nowhere", "no dask scheduler answers"),
    ],
)
def test_unreachable_scheduler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str):
    monkeypatch.setattr(cluster, "CONNECT_LIMIT_S", 0.5)
    said = stormgate_here("plan", "sweep", write(tmp_path, SWEEP), "--out", tmp_path, "--scheduler", address)
    assert (said.code, words in said.sentence) == (3, True), said
    assert not (tmp_path / "plans" / "little" / "sweep.parquet").exists()


def test_workers_with_other_code_are_refused():
    with pytest.raises(UsageError, match="workers have another version of stormgate"):
        cluster._row(Row("", 1, (), code="another"), "tcp://there")
