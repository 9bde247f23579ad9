"""What a load test can be asked: command-line arguments, which are the web page's fields too, and what they come to."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills import CATALOG, EXAMPLES
from drills.judging import gates
from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.runs import targets
from locustfiles.load.clients.client_pool import CLIENT_FAULTS
from locustfiles.load.run import faults, storm_patterns
from sim.base.config import to_struct
from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.engines.shared import permission
from sim.engines.shared.service import Endpoints
from sim.server.settings import DEFECTS, Switches

AS_THE_DRILL_HAS_IT = 0.0  # of a number: what the drill's file says
AS_THE_DRILL_CUTS = -1.0  # of a moment, because a fault may begin at 0 s
POLICIES = ("", "reference", "desktop", "sdk", "phoenix_js", "centrifuge_js", "ably", "server_hint")


@dataclass(frozen=True)
class Plan:
    """What is to be run. `lane` None: the embedded mock is started for it, with these switches."""

    drill: Drill
    seed: int
    endpoints: Endpoints | None
    switches: Switches
    thresholds: Path
    out: Path

    @property
    def target(self) -> tuple[str, str]:
        """Name and kind, as a run's files have them."""
        return (self.endpoints.name, self.endpoints.kind) if self.endpoints else ("embedded mock", "mock")


def possible_drills() -> list[str]:
    """The drills that load tests can do."""
    found = []
    for path in sorted((*CATALOG.glob("*.toml"), *EXAMPLES.glob("*.toml"))):
        try:
            faults.require_possible(drills.load(path))
        except UsageError:
            continue
        found.append(path.stem)
    return found


def add_to(parser: Any, drill: str, **defaults: object) -> None:
    """Add all fields to Locust's parser; `drill` and `defaults` are what this locustfile is for."""

    def add(name: str, default: Any, help_text: str, **more: Any) -> None:
        key = name.removeprefix("--").replace("-", "_")
        parser.add_argument(name, default=defaults.get(key, default), help=help_text, **more)

    def number(name: str, help_text: str, kind: type = float, default: float = AS_THE_DRILL_HAS_IT) -> None:
        add(name, kind(default), help_text, type=kind)

    add("--drill", drill, "What is done to the lane, and what is asked of it.", choices=possible_drills())
    number("--clients", "How many connect; 0: as many as the drill has.", int)
    add("--policy", "", "How a client reconnects and keeps its place; empty: the drill's own.", choices=POLICIES)
    number("--topics-per-client", "Run streams that each client reads; 0: as the drill has it.", int)
    number("--events-per-s", "Published over all streams together; 0: as the drill has it.")
    number("--connects-per-s", "At which clients arrive; 0: as the drill has it.")
    number("--steady-s", "Seconds before the storm; 0: as the drill has it.")
    number("--fault-s", "Seconds of the storm's phase; 0: as the drill has it.")
    add(
        "--pattern",
        storm_patterns.AS_THE_DRILL,
        "In which sockets are cut.",
        choices=(storm_patterns.AS_THE_DRILL, *storm_patterns.PATTERNS),
    )
    number("--share-dropped", "Of the fleet, from 0 to 1, that each cut takes; 0: as the drill has it, or all.")
    number("--storm-at", "When the first fault begins, in s of its phase; -1: as the drill has it.", default=AS_THE_DRILL_CUTS)
    add(
        "--target",
        targets.EMBEDDED,
        "'mock' starts one for the run; or the address of a mock on this machine, or a name of the targets file.",
    )
    add("--targets", "", "The targets file that --target names one of; a worker has its own.", include_in_web_ui=False)
    add("--thresholds", "", "Judge by this file instead of the default thresholds; empty: those.")
    number("--seed", "Names the run: same seed, same faults and same delays.", int, 1)
    add(
        "--set",
        [],
        "Override any key of the drill; a field counts more.",
        action="append",
        metavar="KEY=VALUE",
        include_in_web_ui=False,
    )
    add("--defect", [], "Switch a named defect of the embedded mock on.", action="append", include_in_web_ui=False)
    add("--out", "results", "Folder that runs are written to.", include_in_web_ui=False)


def plan_of(options: argparse.Namespace) -> Plan:
    """What these options come to; raises `UsageError`, one sentence, for what cannot be run."""
    drill = _drill(options)
    faults.require_possible(drill)
    endpoints = targets.resolve(options.target, Path(options.targets) if options.targets else None)
    if endpoints is not None:
        permission.require_allowed(drill, endpoints)
        _require_no_hooks(drill, endpoints)
    if endpoints is not None and options.defect:
        raise UsageError("--defect works on the embedded mock only; start the other one with `stormgate mock serve --defect`.")
    thresholds = Path(options.thresholds) if options.thresholds else DEFAULT_PATH
    gates.require_checks(drill, gates.load_thresholds(thresholds))
    return Plan(drill, options.seed, endpoints, _switches(options), thresholds, Path(options.out))


def _require_no_hooks(drill: Drill, endpoints: Endpoints) -> None:
    """Operators' commands are run by `stormgate drill run` alone."""
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
            raise UsageError(f"--defect {name}: there is no such defect; there are: {', '.join(DEFECTS)}.")
    return to_struct({"defects": list(options.defect), "seed": options.seed}, Switches, "--defect")


def path_of(drill: str) -> Path:
    """The file of one of the `possible_drills`."""
    return next(path for path in (CATALOG / f"{drill}.toml", EXAMPLES / f"{drill}.toml") if path.exists())


def _drill(options: argparse.Namespace) -> Drill:
    path = path_of(options.drill)
    drill = drills.load(path, (*options.set, *_changes(options, drills.load(path))))  # what a form says goes last
    return storm_patterns.with_pattern(drill, options.pattern, options.share_dropped or 1.0)


def _changes(options: argparse.Namespace, drill: Drill) -> list[str]:
    """What the fields change in the drill's file, as `--set` has it."""
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
