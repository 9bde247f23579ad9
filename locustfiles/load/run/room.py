"""How many clients this machine has room for: a test that it cannot hold is refused before it fills the memory."""

import resource
from pathlib import Path

from sim.base import bounded_reads
from sim.base.errors import UsageError

_CLIENT_BYTES = 60_000  # [ours] each of a thousand clients added so much to the memory of Locust's process
_BESIDE = 200  # [ours] descriptors that a process needs beside its clients
_MEMORY, _PORTS = Path("/proc/meminfo"), Path("/proc/sys/net/ipv4/ip_local_port_range")
_WAY_OUT = "Use more machines (--master here, --worker there), or simulate them: `stormgate drill run --engine fleet`"


def require(clients: int, workers: int) -> None:
    """Raise `UsageError`, with the figure and the way out, for more clients than have room here.

    With `workers`, which may be on other machines, memory and ports are theirs.
    """
    limits = {"open files of a process (`ulimit -n`)": (_descriptors() * max(workers, 1), "raise it, use --processes, or")}
    if not workers:
        limits["free memory"] = (_free_bytes() // _CLIENT_BYTES, "")
        limits["local ports to one address"] = (_ports(), "")
    what, (most, remedy) = min(limits.items(), key=lambda limit: limit[1][0])
    if clients > most:
        ways = f"{remedy} {_WAY_OUT[0].lower()}{_WAY_OUT[1:]}" if remedy else _WAY_OUT
        raise UsageError(f"{clients} clients: this machine's {what} allows {max(most, 0)} here. {ways[0].upper()}{ways[1:]}.")


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _BESIDE  # Locust raises the soft limit


def _free_bytes() -> int:
    lines = bounded_reads.file_text(_MEMORY).splitlines() if _MEMORY.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 1 << 62)


def _ports() -> int:
    if not _PORTS.exists():
        return 1 << 62
    first, last = map(int, bounded_reads.file_text(_PORTS).split())
    return last - first + 1
