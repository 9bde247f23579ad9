"""All clocks except the virtual engine's: `Clock` for rollouts, `RunClock` for runs over real sockets."""

import atexit
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Protocol

from sim.base import bounded_reads

# --- of the machine ---------------------------------------------------------------------------------


def awake_s() -> float:
    """Seconds of the machine's monotonic clock, which nobody can set. It stands still while the machine is asleep."""
    return time.monotonic()


def elapsed_s() -> float:
    """The same with the time that the machine was asleep, where the system reports that."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot_id() -> str:
    """Identify the machine's current boot, with which its monotonic clocks start; empty where the system does not report it."""
    try:
        return bounded_reads.file_text(Path("/proc/sys/kernel/random/boot_id")).strip()
    except OSError:
        return ""


# --- of runs ----------------------------------------------------------------------------------------


class RunClock(Protocol):
    """Unix seconds that never go back, and the start of the run."""

    began: float

    def now(self) -> float:
        """Unix seconds."""


class WallClock:
    """The wall clock at the start of the run, continued by the monotonic clock."""

    def __init__(self) -> None:
        self.began = time.time()
        self._offset = self.began - time.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self._offset

    def loop_time(self, moment: float) -> float:
        """Convert unix seconds to the time of an asyncio event loop."""
        return moment - self._offset


# --- of CPU time ------------------------------------------------------------------------------------


class CpuLimitError(BaseException):
    """The body of a `CpuLimit` used more CPU time than it may. No `except Exception` of the body catches it."""


class CpuLimit:
    """Raises `CpuLimitError` in a body that uses more CPU time than `limit_s`. It works in the main thread only.

    A process that is stopped or starved uses none, so that no body is blamed for it. One timer for all bodies keeps each cheap.
    """

    _TICKS = 5  # in `limit_s`

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._main = threading.main_thread().ident
        self._is_running = self._is_inside = False
        self._ticks = 0  # in this body

    def __enter__(self) -> None:
        self._ticks, self._is_inside = 0, threading.get_ident() == self._main
        if self._is_inside and not self._is_running:
            self._is_running = True
            signal.signal(signal.SIGVTALRM, self._tick)
            atexit.register(signal.setitimer, signal.ITIMER_VIRTUAL, 0)  # the handler is gone before the process is
            signal.setitimer(signal.ITIMER_VIRTUAL, self.limit_s / self._TICKS, self.limit_s / self._TICKS)

    def __exit__(self, *_: object) -> None:
        self._is_inside = False

    def _tick(self, _: int, __: FrameType | None) -> None:
        self._ticks += 1
        if self._is_inside and self._ticks > self._TICKS:
            raise CpuLimitError


# --- of rollouts ------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time and waiting in a rollout; all of its code uses one of these clocks."""

    def now(self) -> datetime:
        """The current moment, aware, in UTC."""
        ...

    def sleep_until(self, moment: datetime) -> None:
        """Wait until `moment`; return at once if it has passed."""
        ...

    @property
    def boot(self) -> str:
        """The boot of the machine since which `elapsed_s` counts; empty if unknown."""
        ...

    def elapsed_s(self) -> float:
        """Seconds of the clock that nobody can set."""
        ...


class SystemClock:
    """The wall clock when it is made, continued by the clock of elapsed time: setting the wall clock changes no hold."""

    def __init__(self) -> None:
        self._offset = time.time() - elapsed_s()

    def now(self) -> datetime:
        """See `Clock`."""
        return datetime.fromtimestamp(elapsed_s() + self._offset, UTC)

    def sleep_until(self, moment: datetime) -> None:
        """See `Clock`. Sleeps at most 1 s at a time, because the machine may be asleep meanwhile."""
        while (left_s := (moment - self.now()).total_seconds()) > 0:
            time.sleep(min(left_s, 1.0))

    @property
    def boot(self) -> str:
        """See `Clock`."""
        return boot_id()

    def elapsed_s(self) -> float:
        """See `Clock`."""
        return elapsed_s()


class SteppedClock:
    """A clock that advances only by waiting, which takes no real time: rehearses days of a rollout in seconds."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)
        self._set_s = 0.0
        self.boot = "stepped"

    def now(self) -> datetime:
        """See `Clock`."""
        return self._now

    def sleep_until(self, moment: datetime) -> None:
        """See `Clock`."""
        self._now = max(self._now, moment.astimezone(UTC))

    def elapsed_s(self) -> float:
        """See `Clock`."""
        return self._now.timestamp() - self._set_s

    def step(self, by: timedelta) -> None:
        """Let time pass."""
        self._now += by

    def set(self, by: timedelta) -> None:
        """Set the clock forward, or back, as a person does."""
        self._now += by
        self._set_s += by.total_seconds()


def iso(moment: datetime) -> str:
    """Format a moment as in every file: ISO 8601 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> datetime:
    """Parse what `iso` wrote. Raises `ValueError` for invalid text or a missing time zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)
