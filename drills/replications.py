"""Running many replications of drills on the virtual engine, one process a core.

Each replication is an ordinary run of the engine into a folder of its own, under a seed of its own; no process shares
anything with another, so their order and number change no result.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from sim.contract.settings import Switches
from sim.drill import Drill
from sim.system_model import SystemModel

INTERRUPTED = "it was interrupted"
_WORKER_DIED = "a worker process was killed, perhaps for want of memory (fewer clients need less)"
_stop: Event | None = None  # of a worker: set when the replications are to end


@dataclass(frozen=True)
class Job:
    """One replication."""

    drill: Drill
    folder: Path
    seed: int
    model: SystemModel
    switches: Switches
    run_id: str = ""


def run(jobs: Sequence[Job], say: Callable[[int], None], workers: int | None = None) -> str:
    """Run all jobs; returns why they ended early, empty when they did not. `say` is told how many are done.

    Ctrl-C ends them all; what they had is kept. The first error of a replication ends the others, and is raised.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit threads that are not there
    stop = context.Event()
    count = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(stop,))
    try:
        return _collect(_submit(pool, jobs), say)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenProcessPool:
        return _WORKER_DIED
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> "list[Future[str]]":
    """Hand over all jobs, which starts the workers: a Ctrl-C that hits them while they start must not kill them noisily."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it
    try:
        return [pool.submit(_run_one, job) for job in jobs]
    finally:
        signal.signal(signal.SIGINT, before)


def _collect(futures: "Sequence[Future[str]]", say: Callable[[int], None]) -> str:
    say(0)
    for done, future in enumerate(as_completed(futures), 1):
        if stopped_because := future.result():
            return stopped_because
        say(done)
    return ""


def _begin(stop: Event) -> None:
    """Of a worker: Ctrl-C reaches it too, and must find only the run itself, never the wait for the next one."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """Whoever started this worker was killed: nobody will ever take its results, or tell it to end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_one(job: Job) -> str:
    """One replication; returns why it was cut short, empty when it was not."""
    from sim.engines import virtual

    def watch(phase: str, text: str, simulated_s: float) -> None:
        if _stop is not None and _stop.is_set():
            signal.raise_signal(signal.SIGINT)

    if _stop is not None and _stop.is_set():
        return INTERRUPTED
    options = virtual.Options(job.folder, job.seed, job.model, job.switches, watch, job.run_id)
    header = virtual.run(job.drill, options)
    return "" if header.complete else header.stopped_because
