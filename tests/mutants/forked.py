"""Work in a forked process, which may loop or wait for ever."""

import os
import pickle
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

_CPU_TIMES, _CPU_MORE_S = 3, 10  # so much CPU time more than the unchanged tests for a mutant that loops for ever
_IDLE_S = 60.0  # of wall clock without CPU time, for a mutant that waits for ever; a busy machine only makes a process slow
_LOOK_S = 0.02
ENDED = "the process ended or took too long"
_MEMORY = 4 << 30  # bytes


def limit_cpu(seconds: float | None) -> None:
    """End this process if it uses much more CPU time from now on than unchanged tests, which take `seconds`; None: never."""
    signal.setitimer(signal.ITIMER_PROF, 0 if seconds is None else _CPU_TIMES * seconds + _CPU_MORE_S)


def forked(work: Callable[[], int]) -> int:
    """The exit code of `work`, done in a process of its own; negative if it was ended. All that it started ends with it."""
    child = start(work)
    try:
        return _waited(child)
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def start(work: Callable[[], int]) -> int:
    """Begin `work` in a process that leads a group of its own, and return its id. SIGTERM interrupts it as Ctrl-C does."""
    if child := os.fork():
        return child
    code = 2
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        code = work()
    finally:
        os._exit(code)


def answered(work: Callable[[], Any]) -> Any:
    """What `work` returns, done in a process of its own; `ENDED` if that ended before."""
    with tempfile.TemporaryFile() as file:

        def answer() -> int:
            pickle.dump(work(), file)
            file.flush()
            return 0

        if forked(answer):
            return ENDED
        file.seek(0)
        return pickle.load(file)


def _waited(child: int) -> int:
    process = psutil.Process(child)
    used, since = 0.0, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if (now := sum(process.cpu_times()[:4])) > used:
            used, since = now, time.monotonic()
        if time.monotonic() > since + _IDLE_S:
            os.killpg(child, signal.SIGKILL)
        time.sleep(_LOOK_S)
