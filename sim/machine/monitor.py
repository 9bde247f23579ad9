"""Samples of the machine that a run is on: whether our processes got the processor time they wanted, and its clocks.

A wrong latency may be ours. So each sample says how much of the time since the last one a process of ours wanted a core: it
ran, or it waited for one. While that share is below 1, the process was idle in between, so nothing waited for it, unless it was
stopped. What the operating system does not report is not recorded.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sim.base.clocks import awake_s, elapsed_s
from sim.record.columns import RowSink
from sim.record.observations import Kind

_PERIOD_S = 0.1
_SLOW_PERIOD_S = 1.0  # of what only explains, and of clocks
_PRESSURES = ("cpu", "memory", "io")
_ASLEEP_S = 0.1  # a shorter difference is that of two readings

Wanted = tuple[float, float]
"""Seconds for which a process ran, and for which it waited for a core, since it started."""


class MachineMonitor:
    """Records the state of the machine. Call `sample` as often as convenient; it measures at most ten times a second.

    `server` returns the process id of a server that we started, or 0. `target_ahead_s` returns how far the clock of the target
    is ahead of ours, and forgets it; None: not known. `name` is that of this process, if a run has several.
    """

    def __init__(
        self,
        rows: RowSink,
        server: Callable[[], int] = lambda: 0,
        target_ahead_s: Callable[[], float | None] = lambda: None,
        name: str = "",
    ) -> None:
        self._rows, self._server, self._target_ahead_s = rows, server, target_ahead_s
        self._suffix = f" of {name}" if name else ""
        self._began = time.time() - time.monotonic()
        self._asleep_s = elapsed_s() - awake_s()
        self._at = self._slow_at = time.monotonic()
        self._stopped: set[int] = set()  # the processes that were stopped at the last sample
        self._wanted = {pid: wanted for pid in self._pids() if (wanted := _wanted(pid)) is not None}
        self._stolen = _stolen()
        self._stalled = {name: _stalled(name) for name in _PRESSURES}

    def sample(self, t: float) -> None:
        """Record the time since the last sample. `t`: seconds since the run began."""
        now = time.monotonic()
        if (seconds := now - self._at) >= _PERIOD_S:
            self._at = now
            self._sample_processes(t, seconds)
        if (seconds := now - self._slow_at) >= _SLOW_PERIOD_S:
            self._slow_at = now
            self._sample_clocks(t)
            self._sample_pressure(t, seconds)

    def _pids(self) -> dict[int, str]:
        server = self._server()
        return {os.getpid(): "generator"} | ({server: "server"} if server else {})

    def _sample_processes(self, t: float, seconds: float) -> None:
        before, self._wanted = self._wanted, {}
        was_stopped, self._stopped = self._stopped, set()
        for pid, name in self._pids().items():
            if _is_stopped(pid):
                self._stopped.add(pid)
            if pid in self._stopped | was_stopped:
                self._add(t, f"{name}_stopped", 1.0, seconds)
            if (wanted := _wanted(pid)) is None:
                continue
            self._wanted[pid] = wanted
            if pid in before:
                ran_s, waited_s = (now - then for now, then in zip(wanted, before[pid], strict=True))
                self._add(t, f"{name}_ran", ran_s / seconds, seconds)
                self._add(t, f"{name}_waited", waited_s / seconds, seconds)

    def _sample_clocks(self, t: float) -> None:
        self._add(t, "wall_clock", time.time() - time.monotonic() - self._began)
        asleep_s = elapsed_s() - awake_s()
        if asleep_s - self._asleep_s > _ASLEEP_S:
            self._add(t, "asleep", asleep_s - self._asleep_s)
        self._asleep_s = asleep_s
        if (ahead_s := self._target_ahead_s()) is not None:
            self._add(t, "target_clock", ahead_s)

    def _sample_pressure(self, t: float, seconds: float) -> None:
        if (stolen := _stolen()) is not None and self._stolen is not None:
            self._add(t, "steal", (stolen - self._stolen) / seconds, seconds)
        self._stolen = stolen
        for name, before in self._stalled.items():
            if (stalled := _stalled(name)) is not None and before is not None:
                self._add(t, f"{name}_pressure", (stalled - before) / seconds, seconds)
            self._stalled[name] = stalled

    def _add(self, t: float, what: str, value: float, seconds: float = 0.0) -> None:
        self._rows.add(t, Kind.MACHINE, attempt=round(seconds * 1000), value=value, detail=what + self._suffix)


def _read(path: str) -> str:
    """The first line of a file; empty if it cannot be read, as on other systems than Linux."""
    try:
        return Path(path).read_text().partition("\n")[0]
    except OSError:
        return ""


def _wanted(pid: int) -> Wanted | None:
    """What the main thread of a process ran and waited; None if the system does not say. Our own: at least what it ran."""
    found = _read(f"/proc/{pid}/schedstat").split()
    if len(found) >= 2:
        return int(found[0]) / 1e9, int(found[1]) / 1e9
    return (time.process_time(), 0.0) if pid == os.getpid() else None


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger. False if the system does not say."""
    _, found, fields = _read(f"/proc/{pid}/stat").rpartition(") ")
    return bool(found) and fields[:1] in "Tt"


def _stolen() -> float | None:
    """Seconds for which other virtual machines had the cores that this one wanted, summed over its cores."""
    fields = _read("/proc/stat").split() if sys.platform == "linux" else []
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else None


def _stalled(resource: str) -> float | None:
    """Seconds for which some process of the machine waited for this resource."""
    _, found, total = _read(f"/proc/pressure/{resource}").partition("total=")
    return int(total) / 1e6 if found else None
