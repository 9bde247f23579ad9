"""Small real drills: the catalogue's own, over real processes and sockets, with few clients and short phases."""

import re
from pathlib import Path
from typing import Any

import msgspec

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import catalog, results, running
from drills.runs.request import Request
from sim.drill import model as drills
from sim.drill.fault_kinds import AnyFault
from sim.drill.model import Drill, Expect
from sim.protocols import registry

SMALL = ("fleet.clients=40", "phases.steady_s=1.5", "phases.steady_limit_s=20", "phases.settle_s=5")
# Each drill's faults, closer together.
SHORT: dict[str, tuple[str, ...]] = {
    "reconnect_storm": ("phases.fault_s=2.5", "faults.1.at_s=1.5", "phases.recovery_s=0.5"),
    "stale_cursor": (
        *("phases.fault_s=3.5", "faults.0.offline_s=1.2", "faults.1.for_s=3.5", "faults.1.events=20"),
        *("faults.2.at_s=1.0", "faults.2.keep_events=10", "phases.recovery_s=0.5"),
    ),
    "dropped_delivery": ("phases.fault_s=3.0", "faults.0.for_s=3.0", "phases.recovery_s=2.5"),
    "runtime_restart": ("phases.fault_s=3.0", "faults.0.at_s=0.5", "faults.0.down_s=0.5", "phases.recovery_s=1.0"),
    "publish_failures": (),
    "concurrent_appends": ("phases.fault_s=2.0", "faults.0.for_s=2.0", "phases.recovery_s=2.0"),
    "lost_publish_answers": ("phases.fault_s=2.0", "faults.0.for_s=2.0", "phases.recovery_s=0.5"),
    "retired_routes": ("phases.fault_s=2.0",),
    "clock_skew": (),
    "token_rotation": ("phases.steady_s=2.0",),
    "http_authority": ("phases.fault_s=4.0", "faults.0.for_s=2.5", "phases.settle_s=20"),
    "compatibility_window": ("phases.fault_s=2.0",),
    # Long backoffs come of being refused again and again, so these take their time to settle.
    "control_outage": ("phases.fault_s=4.0", "faults.0.for_s=3.0", "phases.settle_s=20"),
    "session_revocation": ("phases.fault_s=4.0", "faults.0.for_s=2.5", "phases.settle_s=20"),
    "token_misuse": ("phases.fault_s=6.0",),
    "token_lifetime": ("phases.steady_s=7.0",),
    "stale_cursor_storm": (
        *("phases.fault_s=4.0", "faults.0.offline_s=1.2", "faults.1.for_s=4.0", "faults.1.events=20"),
        *("faults.2.at_s=1.0", "faults.2.keep_events=10", "phases.recovery_s=0.5"),
    ),
    "replay_budget_exceeded": (
        *("phases.fault_s=5.0", "faults.0.for_s=5.0", "faults.0.events=20", "faults.1.offline_s=1.2"),
        *("faults.2.at_s=3.5", "faults.2.offline_s=0.1"),
    ),
    "malformed_clients": ("phases.fault_s=2.5", "faults.0.at_s=0.5"),
    "mutation_over_socket": ("phases.fault_s=2.5", "faults.0.at_s=0.5"),
    "duplicate_delivery": ("phases.fault_s=2.0", "faults.0.for_s=2.0", "phases.recovery_s=2.5"),
    **dict.fromkeys(
        ("jumbled_frames", "disordered_delivery"),
        ("phases.fault_s=5.0", "faults.0.for_s=2.0", "faults.1.at_s=2.5", "faults.1.for_s=2.0", "phases.recovery_s=2.5"),
    ),
    "multi_client_order": ("phases.fault_s=4.0", "faults.0.for_s=4.0", "faults.2.at_s=2.5", "phases.recovery_s=2.5"),
    "rolling_deploy": ("phases.fault_s=4.0", "faults.0.waves=3", "faults.0.wave_s=1.2"),
    "checkpoint_damage": (
        *("phases.fault_s=5.0", "faults.1.at_s=0.6", "faults.2.at_s=1.2", "faults.3.at_s=1.8", "faults.4.at_s=2.4"),
        *(f"faults.{number}.down_s=0.4" for number in range(5)),
    ),
    "token_expiry_storm": ("phases.fault_s=3.0", "faults.0.for_s=3.0", "phases.recovery_s=1.0"),
    "network_flap": ("phases.fault_s=4.0", "faults.0.times=3", "faults.0.every_s=0.7", "phases.recovery_s=0.5"),
    # A client's patience with a silent connection is 10 s, whatever the size of a drill.
    "partition_heal": ("phases.fault_s=12.0", "faults.0.for_s=11.5", "phases.recovery_s=0.5"),
    "half_open_sockets": ("phases.fault_s=17.5", "faults.0.for_s=17.0", "faults.1.at_s=0.5", "faults.1.for_s=12.0"),
    "close_codes": ("phases.fault_s=8.5", "faults.3.at_s=4.5", "faults.3.for_s=3.0", "phases.settle_s=20"),
    "slow_consumer": ("fleet.clients=20", "phases.recovery_s=1"),
    "latency_brownout": ("phases.fault_s=5.0", "faults.0.for_s=4.5", "phases.recovery_s=1.0"),
}
SOCKETS_ONLY = ("retired_routes",)
BY_NAME: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("log_recreated", "epoch_changed"),
        ("phases.fault_s=5.0", "faults.0.offline_s=3.5", "faults.1.at_s=0.4", "phases.recovery_s=0.5"),
    ),
}
"""Drills that delete what a service stores, closer together."""
CATALOGUE = tuple(name for name in SHORT if name not in SOCKETS_ONLY)  # what both engines run
# Checks that a slow machine may fail, or that a small fleet is too small for.
OF_TIME = (
    *("replay.bootstrap_ms", "replay.client_lag_events", "reconnect.live_again_99_s", "ux.publish_to_apply_ms"),
    *("reconnect.heartbeat_timeouts_per_s", "drill.generator_lag_ms", "drill.load"),
)
OF_SIZE = (
    *("error.websocket_auth_error_ratio", "error.token_issue_failure_ratio", "delivery.failed_publish_ratio"),
    *("reconnect.backoff_unjittered", "reconnect.backoff_never_resets", "ux.integrity"),
)


def patient_thresholds(folder: Path) -> Path:
    """Write the default thresholds, with times that a busy machine may need."""
    text, path = DEFAULT_PATH.read_text(), folder / "patient.toml"
    path.write_text(re.sub(r'threshold = \d+(\ncomparator = "<="\nunit = "(ms|s|timeouts/s)")', r"threshold = 60000\1", text))
    return path


def small(name: str, *overrides: str) -> Drill:
    """A drill of the catalogue, made small."""
    short = SHORT.get(name, ()) + BY_NAME.get(name, ())
    return drills.load(catalog.path_of(name), (*SMALL, *short, *overrides))


def with_faults(drill: Drill, *faults: dict[str, object]) -> Drill:
    """The same drill with these faults instead of its own, and no probes."""
    planned = msgspec.convert(faults, tuple[AnyFault, ...])
    return msgspec.structs.replace(drill, faults=planned, expect=Expect())


def run_all(
    out: Path,
    *chosen: Drill,
    defects: tuple[str, ...] = (),
    seed: int = 1,
    engine: str = "sockets",
    protocol: str = registry.DEFAULT,
) -> Path:
    """Run drills in this process; returns the run's folder."""
    asked = {"engine": engine, "seed": seed, "defects": defects, "protocol": protocol}
    return running.run(Request(chosen, target="mock", thresholds=None, out=out, **asked))


def storm(out: Path, drill: Drill, defects: tuple[str, ...] = (), **more: Any) -> DrillVerdict:
    """Run one drill and judge it."""
    (verdict,) = results.judge_run(run_all(out, drill, defects=defects, **more)).drills
    return verdict


def red(verdict: DrillVerdict) -> set[str]:
    """The names of failed checks and violated invariants."""
    failed = {check.name for check in verdict.checks if check.state is State.FAIL}
    return failed | {violation.invariant for violation in verdict.violations}


def all_red(verdict: DrillVerdict) -> set[str]:
    """The same without the check that reports any violated invariant, since the invariant itself is listed."""
    return red(verdict) - {"drill.invariants"}


def troubles(verdict: DrillVerdict) -> list[str]:
    """What a healthy run must not have, apart from latencies and sizes: violated invariants and checks that do not pass."""
    checks = [check for check in verdict.checks if check.name not in OF_TIME]
    unready = [check for check in checks if check.state is not State.PASS]
    found = [
        f"{check.name} {check.state}: {check.reason}"
        for check in unready
        if check.name not in OF_SIZE or check.state is State.FAIL
    ]
    return [str(violation) for violation in verdict.violations] + found
