"""What Linux says about the processes of this machine. On other systems nothing is known of them."""

import contextlib
import ipaddress
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sim.base import bounded_reads

Wanted = tuple[float, float]
"""Seconds for which a thread ran, and for which it waited for a core, since it started."""

_PROC = Path("/proc")
_SOCKET_TABLES = ("net/tcp", "net/tcp6")
_LISTENS = "0A"  # the state of a listening socket in these tables
_INODE = 9  # the column of the socket's inode there
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_LOOK_AGAIN_S = 1.0  # [ours]
_DEFAULT_PORTS = {"http": 80, "https": 443}


def first_line(path: Path) -> str:
    """Return the first line of a file; empty if it cannot be read, as on other systems than Linux."""
    try:
        return bounded_reads.file_text(path).partition("\n")[0]
    except OSError:
        return ""


def wanted(pid: int) -> Wanted | None:
    """Return what the main thread of a process ran and waited; None if unknown. Of our own, what it ran is known."""
    found = _schedstat(_PROC / str(pid))
    return found or ((time.process_time(), 0.0) if pid == os.getpid() else None)


def wanted_by_threads(pid: int) -> dict[int, Wanted]:
    """Return the same for every thread of a process, by thread id; empty if the system does not say."""
    found = {int(each.name): _schedstat(each) for each in _listed(_PROC / str(pid) / "task")}
    return {thread: times for thread, times in found.items() if times is not None}


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger. False if the system does not say."""
    _, found, fields = first_line(_PROC / str(pid) / "stat").rpartition(") ")
    return bool(found) and fields[:1] in "Tt"


def _schedstat(folder: Path) -> Wanted | None:
    found = first_line(folder / "schedstat").split()
    return (int(found[0]) / 1e9, int(found[1]) / 1e9) if len(found) >= 2 else None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LocalTarget:
    """A target on this machine: the processes that listen on the ports of its addresses, and their children.

    Only addresses on this machine count: a target elsewhere has no ports here. A process that is started again is found again.
    """

    def __init__(self, urls: Collection[str]) -> None:
        """Look at no process yet. `urls`: the base addresses of the target."""
        self._ports = {port for url in urls if (port := _local_port(url))}
        self._listeners: set[int] = set()
        self._found: set[int] = set()
        self._was_found = False
        self._looked_at = -_LOOK_AGAIN_S

    @property
    def is_here(self) -> bool:
        """Whether the target has an address on this machine."""
        return bool(self._ports)

    def processes(self) -> set[int]:
        """Return the process ids, as they were at most a second ago; empty if no process that we may see listens there.

        One that has gone is looked for at every call.
        """
        now, runs = time.monotonic(), self._listeners and all((_PROC / str(pid)).exists() for pid in self._listeners)
        is_gone = self._was_found and not runs
        if not self._ports or (not is_gone and now - self._looked_at < _LOOK_AGAIN_S):
            return self._found
        self._looked_at = now
        if not runs:
            self._listeners = set(_listening_on(self._ports)) - {os.getpid()}
            self._was_found = self._was_found or bool(self._listeners)
        self._found = {process for pid in self._listeners for process in _family(pid)}
        return self._found


def _local_port(url: str) -> int:
    """Return the port of an address on this machine; 0 for an address elsewhere."""
    parts = urlsplit(url)
    is_here = is_loopback(parts.hostname or "")
    return (parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)) if is_here else 0


def _listening_on(ports: Collection[int]) -> Iterator[int]:
    """Yield the processes that hold a listening socket on one of these ports, as far as we may see them."""
    inodes = set(_listening_inodes(ports))
    if not inodes:
        return
    for process in _listed(_PROC):
        if process.name.isdigit() and any(_inode(each) in inodes for each in _listed(process / "fd")):
            yield int(process.name)


def _listening_inodes(ports: Collection[int]) -> Iterator[str]:
    for table in _SOCKET_TABLES:
        with contextlib.suppress(OSError):
            for line in bounded_reads.file_text(_PROC / table).splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) in ports:
                    yield fields[_INODE]


def _inode(descriptor: Path) -> str:
    """Return the inode of the socket that a file descriptor is; empty for anything else."""
    try:
        found = _SOCKET.fullmatch(os.readlink(descriptor))
    except OSError:
        return ""
    return found[1] if found else ""


def _family(pid: int) -> set[int]:
    """Return a process and all its descendants; the process alone if we are one of them."""
    found, waiting = {pid}, [pid]
    while waiting:
        for thread in _listed(_PROC / str(waiting.pop()) / "task"):
            children = {int(child) for child in first_line(thread / "children").split()} - found
            found |= children
            waiting += children
    return {pid} if os.getpid() in found else found


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it has gone, or may not be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
