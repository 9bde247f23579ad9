"""Runs on a dask.distributed cluster, for sweeps that outgrow one machine; a job comes to the same row there, bit by bit.

The scheduler gives a run of a worker that died to another. Its workers need this very version of stormgate. A dask cluster
runs whatever code it is sent by whoever reaches it, so it belongs on the loopback or a network of its own.
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
NO_WORKERS_LIMIT_S = 30.0  # [ours] how long a cluster may be without any
FETCH_LIMIT_S = 5.0  # [ours] for a row, which is small; a worker that died has none to give
_POLL_S = 0.1

Told = Callable[[int, int], None]
"""How many runs are done, of how many."""


def run(wanted: Sequence[Job], store: Store, address: str, told: Told = lambda done, count: None) -> str:
    """Run what the store has not yet; returns why it ended early, empty when all are there.

    Raises `UsageError` for what is no address, or workers of other code, `TargetError` where no scheduler answers or its
    workers are gone, `EvidenceError` for a run that every worker died of.
    """
    missing = [each for each in wanted if store.get(each.digest) is None]
    client = connect(address)
    try:
        _collect(client, missing, store, address, told)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        client.close(timeout=CONNECT_LIMIT_S)
    return ""


def connect(address: str) -> "Client":
    """A client of the scheduler, which has workers. Raises `UsageError` and `TargetError`, one sentence."""
    if not address.startswith(("tcp://", "tls://")):
        raise UsageError(f"--scheduler {address}: expected the address of a dask scheduler, such as tcp://127.0.0.1:8786.")
    try:
        from distributed import Client  # imported late: it takes a second
    except ImportError:
        raise UsageError(
            "--scheduler: dask is not installed here; install stormgate with its extra, stormgate[cluster]."
        ) from None
    try:
        client = Client(address, timeout=CONNECT_LIMIT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TargetError(
            f"--scheduler {address}: no dask scheduler answers there ({why}); start one by `dask scheduler`."
        ) from None
    if not _workers(client):
        client.close()
        raise TargetError(f"--scheduler {address}: it has no workers; start some by `dask worker {address}`.")
    return client


def _workers(client: "Client") -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _perform(job: Job) -> Row | None:
    """On a worker: `perform`, told of by nobody."""
    return perform(job, lambda phase, reached: None)


def _collect(client: "Client", missing: Sequence[Job], store: Store, address: str, told: Told) -> None:
    from distributed import as_completed

    futures = [client.submit(_perform, job, key=f"stormgate-{job.digest}", pure=False) for job in missing]
    waiting = as_completed(futures, loop=client.loop)
    done, alive_at = 0, time.monotonic()
    told(done, len(futures))
    while done < len(futures):
        batch = waiting.next_batch(block=False)
        for future in batch:
            try:
                store.put(_row(_answer(future), address))
            except TimeoutError:  # its worker died with it: the scheduler gives the run to another, if there is one
                waiting.add(future)
                continue
            future.release()
            done += 1
        told(done, len(futures))
        if client.status != "running":
            raise TargetError(f"--scheduler {address}: it went away with {done} of {len(futures)} runs done; they are kept.")
        if batch or _workers(client):
            alive_at = time.monotonic()
        if time.monotonic() > alive_at + NO_WORKERS_LIMIT_S:
            raise TargetError(f"--scheduler {address}: all its workers went away with {done} runs done; they are kept.")
        time.sleep(0.0 if batch else _POLL_S)


def _answer(future: "Future[object]") -> object:
    """What a run came to, or the error that it ended with. Raises `TimeoutError` for what nobody has any more."""
    return future.result(FETCH_LIMIT_S) if future.status == "finished" else future.exception(FETCH_LIMIT_S)


def _row(row: object, address: str) -> Row:
    """A run's row, or the error that it ended with, raised."""
    if isinstance(row, Row) and row.code == code_digest():
        return row
    if isinstance(row, Row):
        raise UsageError(f"--scheduler {address}: its workers have other code than this stormgate; install the same there.")
    if isinstance(row, UsageError | TargetError | EvidenceError):
        raise row
    why = str(row).splitlines()[0] if row is not None and str(row) else "it was interrupted"
    raise EvidenceError(f"--scheduler {address}: a run could not be done there ({type(row).__name__}: {why}).")
