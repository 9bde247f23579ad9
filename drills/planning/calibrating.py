"""`stormgate plan calibrate`: a target is measured by small drills, and a system model fitted to it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drills.runs import targets
from sim.base.errors import UsageError
from sim.base.ownership import OwnedFolder
from sim.calibration import agreement, files, measuring, probes
from sim.calibration.agreement import Fit
from sim.calibration.files import About
from sim.calibration.fitting import Estimate
from sim.calibration.probes import Sizes
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.record.run_header import RunHeader

if TYPE_CHECKING:
    from sim.engines.shared.endpoints import Endpoints

WORK_PREFIX = "stormgate-calibrate-"
METHOD = (
    "Small drills. Each number by itself: latencies are medians of a quiet lane, service times are shares of a full queue, "
    "workers are how many shares a single one takes; means over rounds with their 95 % intervals (Student's t). Then a "
    "handshake's, a frame's and a replayed event's time are corrected until the simulated bursts take as long as the measured "
    "ones, by the medians of their rounds. Handshakes and frames are taken to share one loop unless the busy burst shows that "
    "they do not."
)
NOT_MEASURED = [
    "server.accept_backlog",
    "server.cold_start_s",
    "server.mirror_failure_share",
    "network.buffer_kib",
    "syn_retry_s",
]


def calibrate(target: str, file: Path | None, sizes: Sizes, seed: int, say: Callable[[str], None]) -> tuple[Fit, About]:
    """Measure a target and fit a model to it. Raises `UsageError` before anything is measured, `TargetError` and more."""
    from sim.engines.sockets import engine

    service = targets.resolve(target, file)
    if service is not None and not _is_here(service):
        raise UsageError(
            f"--target {target}: only targets on this machine are calibrated; its sockets are at {service.socket_url}."
        )
    for drill in (probes.quiet(sizes), *probes.one_round(sizes)):
        engine.check(drill, service)
    if service is not None:
        engine.check_service(service)
    with OwnedFolder(WORK_PREFIX) as folder:
        measured = measuring.metric(_on_sockets(service), Path(folder), sizes, seed, say)
        say("fitting")
        found = agreement.fit(measured, _simulated, Path(folder) / "simulated", sizes, seed)
    return found, _about(target, service, sizes, found)


def _is_here(service: "Endpoints") -> bool:
    from urllib.parse import urlsplit

    hosts = {urlsplit(url).hostname or "" for url in (service.runtime_url, service.control_url, service.socket_url)}
    return all(targets.is_loopback(host) for host in hosts)


def _on_sockets(service: "Endpoints | None") -> measuring.RunProbe:
    from sim.engines.sockets import engine

    def run(drill: Drill, folder: Path, seed: int) -> RunHeader:
        return engine.run(drill, engine.Options(folder, seed, service))

    return run


def _simulated(model: SystemModel) -> measuring.RunProbe:
    from sim.engines.virtual import engine

    def run(drill: Drill, folder: Path, seed: int) -> RunHeader:
        return engine.run(drill, engine.Options(folder, seed, model))

    return run


def _about(target: str, service: "Endpoints | None", sizes: Sizes, fit: Fit) -> About:
    return About(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        target=target,
        target_kind=service.kind if service is not None else "mock",
        method=METHOD,
        probes=msgspec.to_builtins(sizes),
        not_measured=NOT_MEASURED,
        estimates=fit.estimates,
        residuals=list(fit.residuals),
    )


def lines(fit: Fit) -> tuple[list[list[str]], list[list[str]]]:
    """For people: each number with its interval and how it was found; each probe beside its simulation."""
    numbers = [[key, f"{each.value:.4g} {each.unit}", _interval(each), each.how] for key, each in fit.estimates.items()]
    told = [
        [each.probe, each.metric, f"{each.measured:.4g}", f"{each.simulated:.4g}", f"{each.error:+.1%}"]
        for each in fit.residuals
    ]
    return numbers, told


def _interval(estimate: Estimate) -> str:
    return "-" if estimate.lower is None or estimate.upper is None else f"{estimate.lower:.4g}..{estimate.upper:.4g}"


def write(path: Path, fit: Fit, about: About) -> None:
    """Write the model file. Raises `StorageError`."""
    files.write(path, fit, about)
