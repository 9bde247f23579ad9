"""Whether this machine has what a stage needs: disk space, file descriptors, and ports for its connections."""

import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from drills.rollout.check.findings import Finding, fails, ok
from drills.rollout.setup.stages import Stages
from sim.base import bounded_reads
from sim.drill.model import Drill, expected_duration_s
from sim.drill.target_rules import TargetKind
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints

# [ours] Sizes of what is written, rounded up from runs of the catalogue on real sockets.
_BYTES_PER_DELIVERY = 30
_BYTES_PER_RUN = 500_000  # header, reports and figures
_BYTES_PER_SNAPSHOT = 12_000  # of all sources at one moment
_SPARE = 2.0  # free space that is asked for, as a multiple of the estimate
_DESCRIPTORS_BESIDE = 200  # descriptors for everything except connections
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_MIB = 1024 * 1024


def run_bytes(drill: Drill) -> float:
    """Estimate the size of one run's folder."""
    topics = drill.fleet.topics_per_client / drill.load.run_streams + drill.load.worker_events
    deliveries = drill.fleet.clients * drill.load.events_per_s * topics * expected_duration_s(drill)
    return _BYTES_PER_RUN + _BYTES_PER_DELIVERY * deliveries


def hold_bytes(stages: Stages, kind: TargetKind, canary_check: Drill, hold_s: float, sides: int) -> float:
    """Estimate the size of a hold's or a baseline's files; `sides` is 2 with a control."""
    checks = hold_s / stages.canary_checks(kind).every_s + 1
    return checks * sides * run_bytes(canary_check) + hold_s / stages.interval_s(kind) * _BYTES_PER_SNAPSHOT


def disk(out: Path, needed: float) -> Finding:
    """Whether the folder of the results has enough free space."""
    there = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    said = f"about {needed / _MIB:.0f} MiB will be written to {out}, and {free / _MIB:.0f} MiB are free"
    if free < _SPARE * needed:
        return fails("disk", said, f"free {(_SPARE * needed - free) / _MIB:.0f} MiB, or give another folder with --out")
    return ok("disk", said)


def sockets(drills: Sequence[Drill], endpoints: Endpoints | None) -> Iterator[Finding]:
    """Whether the process may open enough connections."""
    most = max((_connections(drill, endpoints) for drill in drills), default=0)
    limits: Mapping[str, tuple[int, str]] = {
        "descriptors": (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _DESCRIPTORS_BESIDE, "raise `ulimit -n`"),
        "ports": (_ports(), "widen net.ipv4.ip_local_port_range"),
    }
    for item, (limit, change) in limits.items():
        said = f"{most} connections at once; {item} for {limit}"
        yield fails(item, said, change) if most > limit else ok(item, said)


def _connections(drill: Drill, endpoints: Endpoints | None) -> int:
    if endpoints is None:
        return drill.fleet.clients + len(drill.expect.negative_clients)
    return permission.connections(drill, endpoints) if endpoints.has_socket else 0


def _ports() -> int:
    """The number of ports for connections to one address; elsewhere than on Linux the number that IANA suggests."""
    try:
        first, last = map(int, bounded_reads.file_text(_PORTS).split())
    except (OSError, ValueError):
        return 65_535 - 49_152
    return last - first + 1
