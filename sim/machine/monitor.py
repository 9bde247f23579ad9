"""Samples of the machine that a run is on: whether our processes got the processor time they wanted, and its clocks.

A wrong latency may be ours. So each sample says how much of the time since the last one a process of ours wanted a core: it
ran, or it waited for one. While that share is below 1, the process was idle in between, so nothing waited for it, unless it was
stopped. So is a target on this machine sampled, with all threads of its processes: it may wait for cores that others have.
What the operating system does not report is not recorded.
"""

import contextlib
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sim.base import bounded_reads
from sim.base.clocks import awake_s, elapsed_s
from sim.machine.processes import LocalTarget, Wanted, first_line, is_stopped, wanted, wanted_by_threads
from sim.record.columns import RowSink
from sim.record.observations import Kind

_PERIOD_S = 0.1
_SLOW_PERIOD_S = 1.0  # of what only explains, and of clocks
_PRESSURES = ("cpu", "memory", "io")
_NOTHING: Wanted = (0.0, 0.0)  # of a thread that is new
_NEVER = math.inf
_ASLEEP_S = 0.1  # a shorter difference is that of two readings

_NOWHERE = LocalTarget(())


class MachineMonitor:
    """Records the state of the machine. Call `sample` as often as convenient; it measures at most ten times a second.

    `server` returns the process id of the mock that we started, or 0. `target_ahead_s` returns how far the clock of the target
    is ahead of ours, and forgets it; None: not known. `name` is that of this process, if a run has several. `target` finds
    the processes of a target that we did not start in this run.
    """

    def __init__(
        self,
        rows: RowSink,
        server: Callable[[], int] = lambda: 0,
        target_ahead_s: Callable[[], float | None] = lambda: None,
        name: str = "",
        target: LocalTarget = _NOWHERE,
    ) -> None:
        self._rows, self._server, self._target_ahead_s, self._target = rows, server, target_ahead_s, target
        self._suffix = f" of {name}" if name else ""
        self._began = time.time() - time.monotonic()
        self._asleep_s = elapsed_s() - awake_s()
        self._at = self._slow_at = time.monotonic()
        self._stopped: set[int] = set()  # the processes that were stopped at the last sample
        self._wanted = {pid: times for pid in self._pids() if (times := wanted(pid)) is not None}
        self._target_wanted = self._threads_of_target()
        self._target_seen_at = self._at if self._target_wanted else _NEVER
        self._stolen = _stolen()
        self._stalled = {name: _stalled(name) for name in _PRESSURES}

    def sample(self, t: float) -> None:
        """Record the time since the last sample. `t`: seconds since the run began."""
        now = time.monotonic()
        if (seconds := now - self._at) >= _PERIOD_S:
            self._at = now
            self._sample_processes(t, seconds)
            self._sample_target(t, seconds)
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
            if is_stopped(pid):
                self._stopped.add(pid)
            if pid in self._stopped | was_stopped:
                self._add(t, f"{name}_stopped", 1.0, seconds)
            if (times := wanted(pid)) is None:
                continue
            self._wanted[pid] = times
            if pid in before:
                ran_s, waited_s = _since(times, before[pid])
                self._add(t, f"{name}_ran", ran_s / seconds, seconds)
                self._add(t, f"{name}_waited", waited_s / seconds, seconds)

    def _threads_of_target(self) -> dict[int, dict[int, Wanted]]:
        found = {pid: wanted_by_threads(pid) for pid in self._target.processes()}
        return {pid: threads for pid, threads in found.items() if threads}

    def _sample_target(self, t: float, seconds: float) -> None:
        """Record what all threads of the target ran and waited, and the longest that one of them did both."""
        before, self._target_wanted = self._target_wanted, self._threads_of_target()
        unseen_s = self._at - self._target_seen_at
        spent = [
            _since(times, then.get(thread, _NOTHING))
            for pid, threads in self._target_wanted.items()
            if (then := before.get(pid) or _of_new(threads, unseen_s)) is not None
            for thread, times in threads.items()
        ]
        if self._target_wanted:
            self._target_seen_at = self._at
        if spent:
            self._add(t, "target_ran", sum(ran_s for ran_s, _ in spent) / seconds, seconds)
            self._add(t, "target_waited", sum(waited_s for _, waited_s in spent) / seconds, seconds)
            self._add(t, "target_longest", max(map(sum, spent)) / seconds, seconds)

    def _sample_clocks(self, t: float) -> None:
        self._add(t, "wall_clock", time.time() - time.monotonic() - self._began)
        asleep_s = elapsed_s() - awake_s()
        if asleep_s - self._asleep_s > _ASLEEP_S:
            self._add(t, "asleep", asleep_s - self._asleep_s)
        self._asleep_s = asleep_s
        if (ahead_s := self._target_ahead_s()) is not None:
            self._add(t, "target_clock", ahead_s)

    def _sample_pressure(self, t: float, seconds: float) -> None:
        if self._target.is_here and self._target_seen_at == _NEVER:
            self._add(t, "target_unseen", 1.0, seconds)
        if (stolen := _stolen()) is not None and self._stolen is not None:
            self._add(t, "steal", (stolen - self._stolen) / seconds, seconds)
        self._stolen = stolen
        for name, before in self._stalled.items():
            if (stalled := _stalled(name)) is not None and before is not None:
                self._add(t, f"{name}_pressure", (stalled - before) / seconds, seconds)
            self._stalled[name] = stalled

    def _add(self, t: float, what: str, value: float, seconds: float = 0.0) -> None:
        self._rows.add(t, Kind.MACHINE, attempt=round(seconds * 1000), value=value, detail=what + self._suffix)


def _of_new(threads: Mapping[int, Wanted], unseen_s: float) -> dict[int, Wanted] | None:
    """Return where to count from in a new process of a target: from its start, if it started since the target was last seen."""
    return {} if all(sum(times) <= unseen_s for times in threads.values()) else None


def this_machine() -> str:
    """Processor, cores and operating system of this machine, without its name: runs on another one are slower or faster."""
    model = platform.machine()
    with contextlib.suppress(OSError):  # other systems than Linux do not have the file
        lines = bounded_reads.file_text(Path("/proc/cpuinfo")).splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _since(now: Wanted, then: Wanted) -> Wanted:
    return now[0] - then[0], now[1] - then[1]


def _stolen() -> float | None:
    """Seconds for which other virtual machines had the cores that this one wanted, summed over its cores."""
    fields = first_line(Path("/proc/stat")).split() if sys.platform == "linux" else []
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else None


def _stalled(resource: str) -> float | None:
    """Seconds for which some process of the machine waited for this resource."""
    _, found, total = first_line(Path(f"/proc/pressure/{resource}")).partition("total=")
    return int(total) / 1e6 if found else None
