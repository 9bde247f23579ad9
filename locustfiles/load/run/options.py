"""Options of a load test: command-line arguments, which are also the web form's fields, and the plan they make."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.judging import gates
from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.runs import catalog, targets
from locustfiles.load.clients.client_pool import CLIENT_FAULTS
from locustfiles.load.run import faults, storm_patterns
from sim.base.config import to_struct
from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints
from sim.server.settings import DEFECTS, Switches

FROM_DRILL = 0.0  # of a number: use the drill file's value
TIMES_FROM_DRILL = -1.0  # of a time, because a fault may start at 0 s
POLICIES = ("", "reference", "desktop", "sdk", "phoenix_js", "centrifuge_js", "ably", "server_hint")


@dataclass(frozen=True)
class Plan:
    """What to run. Without `endpoints` the run starts the embedded mock with these switches."""

    drill: Drill
    seed: int
    endpoints: Endpoints | None
    switches: Switches
    thresholds: Path
    out: Path

    @property
    def target(self) -> tuple[str, str]:
        """Name and kind of the target, as the run's files state them."""
        return (self.endpoints.name, self.endpoints.kind) if self.endpoints else ("embedded mock", "mock")


def possible_drills() -> list[str]:
    """Return the names of the drills that a load test can run."""
    found = []
    for name, path in sorted(catalog.by_name().items()):
        try:
            faults.require_possible(drills.load(path))
        except UsageError:
            continue
        found.append(name)
    return found


def add_to(parser: Any, drill: str, **defaults: object) -> None:
    """Add all options to Locust's parser, with the locustfile's drill and defaults."""

    def add(name: str, default: Any, help_text: str, **more: Any) -> None:
        key = name.removeprefix("--").replace("-", "_")
        parser.add_argument(name, default=defaults.get(key, default), help=help_text, **more)

    def number(name: str, help_text: str, kind: type = float, default: float = FROM_DRILL) -> None:
        add(name, kind(default), help_text, type=kind)

    add("--drill", drill, "Drill to run: faults, load and checks.", choices=possible_drills())
    number("--clients", "Number of clients; 0: as in the drill.", int)
    add("--policy", "", "Client policy: backoff and recovery of positions; empty: as in the drill.", choices=POLICIES)
    number("--topics-per-client", "Streams per client; 0: as in the drill.", int)
    number("--events-per-s", "Events published per second over all streams; 0: as in the drill.")
    number("--connects-per-s", "Clients that connect per second at the start; 0: as in the drill.")
    number("--steady-s", "Length of the steady state in seconds; 0: as in the drill.")
    number("--fault-s", "Length of the fault phase in seconds; 0: as in the drill.")
    add(
        "--pattern",
        storm_patterns.AS_THE_DRILL,
        "Pattern in which sockets are cut.",
        choices=(storm_patterns.AS_THE_DRILL, *storm_patterns.PATTERNS),
    )
    number("--share-dropped", "Share of the fleet that each cut drops, 0 to 1; 0: as in the drill, or all.")
    number(
        "--storm-at", "Start of the first fault, in seconds of the fault phase; -1: as in the drill.", default=TIMES_FROM_DRILL
    )
    add(
        "--target",
        targets.EMBEDDED,
        "'mock' starts the embedded mock; or give a mock's local address, or a name in the targets file.",
    )
    add("--targets", "", "Targets file for --target; each worker reads its own copy.", include_in_web_ui=False)
    add("--thresholds", "", "Thresholds file; empty: the defaults.")
    number("--seed", "Random seed; the same seed gives the same faults and delays.", int, 1)
    add(
        "--set",
        [],
        "Override a key of the drill; other options take precedence.",
        action="append",
        metavar="KEY=VALUE",
        include_in_web_ui=False,
    )
    add("--defect", [], "Enable a defect of the embedded mock.", action="append", include_in_web_ui=False)
    add("--out", "results", "Folder for the runs' evidence.", include_in_web_ui=False)


def plan_of(options: argparse.Namespace) -> Plan:
    """Build the plan from the options. Raises `UsageError` for a plan that cannot run."""
    drill = _drill(options)
    faults.require_possible(drill)
    endpoints = targets.resolve(options.target, Path(options.targets) if options.targets else None)
    if endpoints is not None:
        permission.require_allowed(drill, endpoints)
        _require_no_hooks(drill, endpoints)
    if endpoints is not None and options.defect:
        raise UsageError("--defect works on the embedded mock only; start another one with `stormgate mock serve --defect`.")
    thresholds = Path(options.thresholds) if options.thresholds else DEFAULT_PATH
    gates.require_checks(drill, gates.load_thresholds(thresholds))
    return Plan(drill, options.seed, endpoints, _switches(options), thresholds, Path(options.out))


def _require_no_hooks(drill: Drill, endpoints: Endpoints) -> None:
    """Refuse faults that need an operator's hook; only `stormgate drill run` runs hooks."""
    kinds = [
        fault.kind for fault in drill.faults if not isinstance(fault, CLIENT_FAULTS) or fault.kind in endpoints.rules.hooks
    ]
    if kinds and not endpoints.is_mock:
        raise UsageError(
            f"drill '{drill.name}' has {kinds[0]}, which needs a hook on target '{endpoints.name}'; load tests run no hooks; "
            f"use `stormgate drill run {drill.name} --target {endpoints.name}`."
        )


def _switches(options: argparse.Namespace) -> Switches:
    for name in options.defect:
        if name not in DEFECTS:
            raise UsageError(f"--defect {name}: unknown defect; choose from: {', '.join(DEFECTS)}.")
    return to_struct({"defects": list(options.defect), "seed": options.seed}, Switches, "--defect")


def _drill(options: argparse.Namespace) -> Drill:
    path = catalog.path_of(options.drill)
    drill = drills.load(path, (*options.set, *_changes(options, drills.load(path))))  # the form takes precedence
    return storm_patterns.with_pattern(drill, options.pattern, options.share_dropped or 1.0)


def _changes(options: argparse.Namespace, drill: Drill) -> list[str]:
    """Return the changes to the drill file, in the form of `--set`."""
    fields = {
        "fleet.clients": options.clients,
        "fleet.policy": options.policy,
        "fleet.topics_per_client": options.topics_per_client,
        "fleet.connects_per_s": options.connects_per_s,
        "load.events_per_s": options.events_per_s,
        "phases.steady_s": options.steady_s,
        "phases.fault_s": options.fault_s,
    }
    changes = [f"{key}={value}" for key, value in fields.items() if value]
    if options.storm_at >= 0 and drill.faults:
        changes.append(f"faults.0.at_s={options.storm_at}")
    if options.share_dropped:
        cuts = [number for number, fault in enumerate(drill.faults) if fault.kind == "drop_sockets"]
        changes += [f"faults.{number}.share={options.share_dropped}" for number in cuts]
    return changes
