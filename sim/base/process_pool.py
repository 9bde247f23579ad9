"""Work in processes, one a core: simulated runs, and the judging of what they left.

A job is a value and a function of it that any process can look up by name. No process shares anything with another, so their
order and number change no result. What a worker is at is a few numbers on a board that all of them see: nothing that is said
can hold up who says it, or be left half said by one that was killed.
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
_WORKER_DIED = "a worker process was killed, perhaps for want of memory (fewer clients need less)"
_LOOK_EVERY_S = 0.2
_WAITS, _RUNS, _DONE = 0.0, 1.0, 2.0  # how a job stands
_FIELDS = 3  # of a job on the board: how it stands, its phase (place in `PHASES`), and how far it is
PHASES = ("", "steady", "fault", "recovery", "settle", "end", "judging", "drawing")

J = TypeVar("J")
R = TypeVar("R")
Say = Callable[[str, float], None]  # which of `PHASES` a job is in, and how far it is
_Ended = queue.SimpleQueue[tuple[int, "Future[R]"]]  # jobs that have ended, by their place


@dataclass(frozen=True)
class Standing:
    """How one job stands: neither running nor done is still to come."""

    is_running: bool
    is_done: bool
    phase: str
    reached: float


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What came of all jobs that ended, by their place, and why the others did not; empty: they all did."""

    results: dict[int, R]
    stopped_because: str = ""


_stop: Event | None = None  # of a worker: set when all is to end
_board: Any = None


def run(
    work: Callable[[J, Say], R],
    jobs: Sequence[J],
    watch: Callable[[Sequence[Standing]], None],
    why_stop: Callable[[R], str] = lambda result: "",
    workers: int | None = None,
) -> Outcome[R]:
    """Do `work` on all jobs, in their order; `watch` is told now and then how they stand.

    Ctrl-C ends them all, and so does a result for which `why_stop` gives a reason. The first error of a job ends the others,
    and is raised.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit threads that are not there
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
    """Hand over all jobs, which starts the workers: a Ctrl-C that hits them while they start must not kill them noisily.

    Returns where those that have ended will be. To wait for them by `concurrent.futures` takes the locks of all, which a Ctrl-C
    may leave taken for ever.
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
    ended: "_Ended[R]", count: int, found: dict[int, R], look: Callable[[], None], why_stop: Callable[[R], str]
) -> str:
    look()
    while len(found) < count:
        with contextlib.suppress(queue.Empty):
            place, future = ended.get(timeout=_LOOK_EVERY_S)
            result = found[place] = future.result()
            if why := why_stop(result):
                return why
        look()
    return ""


def _standings(board: Any) -> list[Standing]:
    fields = [board[at : at + _FIELDS] for at in range(0, len(board), _FIELDS)]
    return [Standing(stands == _RUNS, stands == _DONE, PHASES[int(phase)], reached) for stands, phase, reached in fields]


# --- of a worker ------------------------------------------------------------------------------------


def _begin(stop: Event, board: Any) -> None:
    """Ctrl-C reaches a worker too, and must find only the work itself, never the wait for the next job."""
    global _stop, _board
    _stop, _board = stop, board
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """Whoever started this worker was killed: nobody will ever take its results, or tell it to end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(work: Callable[[J, Say], R], place: int, job: J) -> R:
    def say(phase: str, reached: float) -> None:
        _board[_FIELDS * place : _FIELDS * (place + 1)] = (_RUNS, float(PHASES.index(phase)), reached)
        if is_to_end():
            signal.raise_signal(signal.SIGINT)

    _board[_FIELDS * place] = _RUNS
    result = work(job, say)
    _board[_FIELDS * place] = _DONE
    return result


def is_to_end() -> bool:
    """Whether this is a worker that was told to end."""
    return _stop is not None and _stop.is_set()
