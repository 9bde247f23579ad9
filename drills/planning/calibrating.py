"""`stormgate plan calibrate`: measure a target with small drills, and fit a system model to it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drills.runs import targets
from sim.base.errors import UsageError
from sim.base.ownership import OwnedFolder
from sim.calibration import agreement, drills, measuring
from sim.calibration.agreement import Fit
from sim.calibration.drills import Sizes
from sim.calibration.files import About
from sim.calibration.fitting import Estimate
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.machine.processes import is_loopback
from sim.record.run_header import RunHeader

if TYPE_CHECKING:
    from sim.engines.shared.endpoints import Endpoints

WORK_PREFIX = "stormgate-calibrate-"
METHOD = (
    "Small drills. Latencies are medians without load, service times are the time per client in a full queue, workers are how "
    "many of these a single client takes; means over rounds with their 95 % intervals (Student's t). Then the times per "
    "handshake, frame and replayed event are corrected until the simulated bursts take as long as the measured ones (medians "
    "of the rounds). Handshakes and frames share one event loop unless the busy burst shows that they do not."
)
NOT_MEASURED = [
    "server.accept_backlog",
    "server.cold_start_s",
    "server.mirror_failure_share",
    "network.buffer_kib",
    "syn_retry_s",
]


def calibrate(target: str, file: Path | None, sizes: Sizes, seed: int, say: Callable[[str], None]) -> tuple[Fit, About]:
    """Measure a target and fit a model to it. Raises `UsageError` before the first drill; later other `StormgateError`s."""
    from sim.engines.sockets import engine as sockets
    from sim.engines.virtual import engine as virtual

    def on_sockets(drill: Drill, own: Path, seed: int) -> RunHeader:
        return sockets.run(drill, sockets.Options(own, seed, service))

    def simulated(model: SystemModel) -> measuring.RunDrill:
        return lambda drill, own, seed: virtual.run(drill, virtual.Options(own, seed, model))

    service = targets.resolve(target, file)
    if service is not None and not _is_here(service):
        raise UsageError(
            f"--target {target}: only targets on this machine can be calibrated, but its sockets are at {service.socket_url}."
        )
    for drill in (drills.quiet(sizes), *drills.one_round(sizes)):
        sockets.check(drill, service)
    if service is not None:
        sockets.check_service(service)
    with OwnedFolder(WORK_PREFIX) as folder:
        measured = measuring.measure(on_sockets, Path(folder), sizes, seed, say)
        say("fitting")
        found = agreement.fit(measured, simulated, Path(folder) / "simulated", sizes, seed)
    return found, _about(target, service, sizes, found)


def _is_here(service: "Endpoints") -> bool:
    from urllib.parse import urlsplit

    hosts = {urlsplit(url).hostname or "" for url in (service.runtime_url, service.control_url, service.socket_url)}
    return all(is_loopback(host) for host in hosts)


def _about(target: str, service: "Endpoints | None", sizes: Sizes, fit: Fit) -> About:
    return About(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        target=target,
        target_kind=service.kind if service is not None else "mock",
        method=METHOD,
        drills=msgspec.to_builtins(sizes),
        not_measured=NOT_MEASURED,
        estimates=fit.estimates,
        residuals=list(fit.residuals),
    )


def lines(fit: Fit) -> tuple[list[list[str]], list[list[str]]]:
    """Text of two tables: each parameter with its interval and source; each drill with measured and simulated values."""
    numbers = [[key, f"{each.value:.4g} {each.unit}", _interval(each), each.how] for key, each in fit.estimates.items()]
    errors = [
        [each.drill, each.metric, f"{each.measured:.4g}", f"{each.simulated:.4g}", f"{each.error:+.1%}"]
        for each in fit.residuals
    ]
    return numbers, errors


def _interval(estimate: Estimate) -> str:
    return "-" if estimate.lower is None or estimate.upper is None else f"{estimate.lower:.4g}..{estimate.upper:.4g}"
