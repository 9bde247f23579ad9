"""Simulated runs on a dask.distributed cluster, for sweeps that are too large for one machine.

The scheduler repeats the runs of a worker that died. All workers need the same version of stormgate. A cluster executes any
code that it receives, so it belongs on the loopback or on a private network.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sim.base.errors import EvidenceError, TargetError, UsageError
from sim.base.process_pool import INTERRUPTED
from sim.planning.runs import Job, perform
from sim.planning.store import Row, Store, code_digest

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_LIMIT_S = 5.0
NO_WORKERS_LIMIT_S = 30.0  # [ours] how long a cluster may have no workers
FETCH_LIMIT_S = 5.0  # [ours] to fetch a row, which is small; a dead worker does not answer
_POLL_S = 0.1

Progress = Callable[[int, int], None]
"""Called with the number of completed runs and of all runs."""


def run(wanted: Sequence[Job], store: Store, address: str, progress: Progress = lambda done, count: None) -> str:
    """Simulate the runs that the store lacks; returns why it ended early, or nothing.

    Raises `UsageError` for an invalid address or workers with other code, `TargetError` if no scheduler answers or all workers
    are lost, `EvidenceError` for a run that failed on every worker.
    """
    missing = store.missing(wanted)
    client = connect(address)
    try:
        _collect(client, missing, store, address, progress)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        client.close(timeout=CONNECT_LIMIT_S)
    return ""


def connect(address: str) -> "Client":
    """Connect to a scheduler that has workers. Raises `UsageError` and `TargetError`."""
    if not address.startswith(("tcp://", "tls://")):
        raise UsageError(f"--scheduler {address}: expected the address of a dask scheduler, for example tcp://127.0.0.1:8786.")
    try:
        from distributed import Client  # imported late: it takes a second
    except ImportError:
        raise UsageError("--scheduler: dask is not installed. Install stormgate[cluster].") from None
    try:
        client = Client(address, timeout=CONNECT_LIMIT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TargetError(
            f"--scheduler {address}: no dask scheduler answers ({why}). Start one with `dask scheduler`."
        ) from None
    if not _workers(client):
        client.close()
        raise TargetError(f"--scheduler {address}: the scheduler has no workers. Start some with `dask worker {address}`.")
    return client


def _workers(client: "Client") -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _perform(job: Job) -> Row | None:
    """`perform` on a worker, without progress."""
    return perform(job, lambda phase, reached: None)


def _collect(client: "Client", missing: Sequence[Job], store: Store, address: str, progress: Progress) -> None:
    from distributed import as_completed

    futures = [client.submit(_perform, job, key=f"stormgate-{job.digest}", pure=False) for job in missing]
    waiting = as_completed(futures, loop=client.loop)
    done, alive_at = 0, time.monotonic()
    progress(done, len(futures))
    while done < len(futures):
        batch = waiting.next_batch(block=False)
        for future in batch:
            try:
                store.put(_row(_answer(future), address))
            except TimeoutError:  # its worker died: the scheduler repeats the run on another worker
                waiting.add(future)
                continue
            future.release()
            done += 1
        progress(done, len(futures))
        if client.status != "running":
            raise TargetError(f"--scheduler {address}: connection lost; {done} of {len(futures)} runs are done and kept.")
        if batch or _workers(client):
            alive_at = time.monotonic()
        if time.monotonic() > alive_at + NO_WORKERS_LIMIT_S:
            raise TargetError(f"--scheduler {address}: all workers are lost; {done} runs are done and kept.")
        time.sleep(0.0 if batch else _POLL_S)


def _answer(future: "Future[object]") -> object:
    """The row of a run, or its error. Raises `TimeoutError` if its worker was lost."""
    return future.result(FETCH_LIMIT_S) if future.status == "finished" else future.exception(FETCH_LIMIT_S)


def _row(row: object, address: str) -> Row:
    """The row of a run; raises its error."""
    if isinstance(row, Row) and row.code == code_digest():
        return row
    if isinstance(row, Row):
        raise UsageError(f"--scheduler {address}: the workers have another version of stormgate. Install the same one.")
    if isinstance(row, UsageError | TargetError | EvidenceError):
        raise row
    why = str(row).splitlines()[0] if row is not None and str(row) else "it was interrupted"
    raise EvidenceError(f"--scheduler {address}: a run failed ({type(row).__name__}: {why}).")
