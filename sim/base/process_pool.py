"""Runs jobs in one process per core: simulations, and the judging of their results.

A job is a value and a function that any process can import by name. Processes share nothing but a board of numbers, so their
order and count change no result. Reporting progress on the board never blocks, and a killed worker cannot leave it locked.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, Generic, TypeVar

INTERRUPTED = "it was interrupted"
_WORKER_DIED = "a worker process was killed, perhaps for lack of memory (use fewer clients)"
_POLL_S = 0.2
_WAITS, _RUNS, _DONE = 0.0, 1.0, 2.0  # states of a job
_FIELDS = 3  # per job on the board: its state, its phase (index in `PHASES`), and its progress
PHASES = ("", "steady", "fault", "recovery", "settle", "end", "judging", "drawing")

J = TypeVar("J")
R = TypeVar("R")
Say = Callable[[str, float], None]  # reports a job's phase, one of `PHASES`, and its progress
_Ended = queue.SimpleQueue[tuple[int, "Future[R]"]]  # ended jobs by their index


@dataclass(frozen=True)
class Standing:
    """Progress of one job; neither running nor done: not started."""

    is_running: bool
    is_done: bool
    phase: str
    reached: float


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """Results of the jobs that ended, by index, and why the others did not; empty: all ended."""

    results: dict[int, R]
    stopped_because: str = ""


_stop: Event | None = None  # of a worker: set when it must end
_board: Any = None


def run(
    work: Callable[[J, Say], R],
    jobs: Sequence[J],
    watch: Callable[[Sequence[Standing]], None],
    why_stop: Callable[[R], str] = lambda result: "",
    workers: int | None = None,
) -> Outcome[R]:
    """Do `work` on all jobs in order; `watch` is called repeatedly with their progress.

    Ctrl-C ends all jobs, and so does a result for which `why_stop` returns a reason. The first exception of a job ends the
    others, and is raised.
    """
    context = multiprocessing.get_context("spawn")  # a forked child inherits the locks of threads that it does not have
    stop, board = context.Event(), context.RawArray("d", _FIELDS * len(jobs))
    count = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(stop, board))
    found: dict[int, R] = {}
    why = ""
    try:
        ended = _submit(pool, work, jobs)
        why = _collect(ended, len(jobs), found, lambda: watch(_standings(board)), why_stop)
    except KeyboardInterrupt:
        why = INTERRUPTED
    except BrokenProcessPool:
        why = _WORKER_DIED
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return Outcome(found, why)


def _submit(pool: ProcessPoolExecutor, work: Callable[[J, Say], R], jobs: Sequence[J]) -> "_Ended[R]":
    """Submit all jobs with Ctrl-C ignored, because it must not interrupt workers that start; returns the queue of ended jobs.

    Waiting by `concurrent.futures` takes the locks of all jobs, which a Ctrl-C may leave locked.
    """
    ended: _Ended[R] = queue.SimpleQueue()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it
    try:
        for place, job in enumerate(jobs):
            pool.submit(_do, work, place, job).add_done_callback(partial(_put, ended, place))
    finally:
        signal.signal(signal.SIGINT, before)
    return ended


def _put(ended: "_Ended[R]", place: int, future: "Future[R]") -> None:
    ended.put((place, future))


def _collect(
    ended: "_Ended[R]", count: int, found: dict[int, R], poll: Callable[[], None], why_stop: Callable[[R], str]
) -> str:
    poll()
    while len(found) < count:
        with contextlib.suppress(queue.Empty):
            place, future = ended.get(timeout=_POLL_S)
            result = found[place] = future.result()
            if why := why_stop(result):
                return why
        poll()
    return ""


def _standings(board: Any) -> list[Standing]:
    fields = [board[at : at + _FIELDS] for at in range(0, len(board), _FIELDS)]
    return [Standing(stands == _RUNS, stands == _DONE, PHASES[int(phase)], reached) for stands, phase, reached in fields]


# --- of a worker ------------------------------------------------------------------------------------


def _begin(stop: Event, board: Any) -> None:
    """Ignore Ctrl-C while waiting for a job: it may interrupt only the work itself."""
    global _stop, _board
    _stop, _board = stop, board
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(work: Callable[[J, Say], R], place: int, job: J) -> R:
    def report(phase: str, reached: float) -> None:
        _board[_FIELDS * place : _FIELDS * (place + 1)] = (_RUNS, float(PHASES.index(phase)), reached)
        if must_end():
            signal.raise_signal(signal.SIGINT)

    _board[_FIELDS * place] = _RUNS
    result = work(job, report)
    _board[_FIELDS * place] = _DONE
    return result


def must_end() -> bool:
    """Whether this is a worker that must end."""
    return _stop is not None and _stop.is_set()
