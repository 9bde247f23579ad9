"""Options of a load test: command-line arguments, which are also the web form's fields, and the plan they make."""

import argparse
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from drills.judging import gates
from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.runs import catalog, targets
from locustfiles.load.clients.client_pool import CLIENT_FAULTS
from locustfiles.load.run import faults, steady_load, storm_patterns
from sim.base.config import to_struct
from sim.base.errors import UsageError
from sim.client import policies
from sim.drill import model as drills
from sim.drill.fault_kinds import DropSockets, SkipDeliveries
from sim.drill.model import Drill
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.fault_actions import PUBLISH_FAULTS
from sim.server.settings import DEFECTS, Switches

_TARGETS = "'mock' starts the embedded mock; or give a mock's local address, or a name in the targets file"
PATTERNS = (storm_patterns.AS_THE_DRILL, *storm_patterns.PATTERNS)


@dataclass(frozen=True)
class Field:
    """An option of the command line, and a field of the form; its type is that of `default`.

    `key` is the drill's key that the option overrides, `empty` says what the default does.
    """

    name: str
    label: str
    unit: str = ""
    default: Any = ""
    key: str = ""
    help: str = ""
    empty: str = ""
    choices: tuple[str, ...] = ()

    def in_words(self) -> str:
        """Return the help text of the command line."""
        empty = self.empty or (f"{'empty' if self.default == '' else 0}: as in the drill" if self.key else "")
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit}{': ' if self.help else ''}{self.help}{'; ' if empty else ''}{empty}."


# By group of the form.
GROUPS: dict[str, tuple[Field, ...]] = {
    "The storm": (
        Field("drill", "Drill", help="faults, load and checks"),
        Field("pattern", "Pattern of the cuts", "", PATTERNS[0], choices=PATTERNS),
        Field("share_dropped", "Share of clients that each cut drops", "0 to 1", 0.0, empty="0: as in the drill, or all"),
        # -1, because a fault may start at 0 s.
        Field("storm_at", "First cut, after the start of the fault phase", "s", -1.0, empty="-1: as in the drill"),
    ),
    "The clients": (
        Field("clients", "Clients", "", 0, "fleet.clients"),
        Field(
            *("policy", "Client policy", "", "", "fleet.policy", "backoff and recovery of positions"),
            choices=("", *policies.POLICIES),
        ),
        Field("topics_per_client", "Topics per client", "", 0, "fleet.topics_per_client"),
        Field("connects_per_s", "Connect rate at the start", "per s", 0.0, "fleet.connects_per_s"),
    ),
    "The load and the time": (
        Field("events_per_s", "Events published over all topics", "per s", 0.0, "load.events_per_s"),
        Field("steady_s", "Steady state before the faults", "s", 0.0, "phases.steady_s"),
        Field("fault_s", "Fault phase", "s", 0.0, "phases.fault_s"),
    ),
    "Target and verdict": (
        Field("target", "Target", "", targets.EMBEDDED, help=_TARGETS),
        Field("thresholds", "Thresholds file", empty="empty: the defaults"),
        Field("seed", "Seed", "", 1, help="the same seed gives the same faults and delays"),
    ),
}
RAMP_FIELDS = (
    Field("growth", "Growth factor of the capacity ramp", "times", 1.5, help="clients of a run per client of the run before"),
    Field("max_clients", "Maximum clients of the capacity ramp", "", 5000),
)
FIELDS = {field.name: field for group in (*GROUPS.values(), RAMP_FIELDS) for field in group}


@dataclass(frozen=True)
class Plan:
    """What to run. Without `endpoints` the run starts the embedded mock with these switches."""

    drill: Drill
    seed: int
    endpoints: Endpoints | None
    switches: Switches
    thresholds: Path
    out: Path
    follows_locust: bool = False  # Locust's own settings, or a shape of its own, decide on clients and time; nothing is broken
    publishes_itself: bool = False  # no user does

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


def add_to(parser: Any, drill: str, *, ramps: bool = False, **defaults: object) -> None:
    """Add all options to Locust's parser, with the locustfile's drill and defaults; `ramps`: those of the ramp as well."""
    defaults = {"drill": drill, **defaults}
    for field in FIELDS.values():
        if field not in RAMP_FIELDS or ramps:
            choices = possible_drills() if field.name == "drill" else field.choices or None
            default, kind = defaults.get(field.name, field.default), type(field.default)
            flag = f"--{field.name.replace('_', '-')}"
            parser.add_argument(flag, default=default, help=field.in_words(), choices=choices, type=kind)

    def hidden(name: str, default: object, help_text: str, **more: Any) -> None:
        parser.add_argument(name, default=default, help=help_text, include_in_web_ui=False, **more)

    hidden("--targets", "", "Targets file for --target; each worker reads its own copy.")
    hidden("--set", [], "Override a key of the drill; other options win.", action="append", metavar="KEY=VALUE")
    hidden("--defect", [], "Enable a defect of the embedded mock.", action="append")
    hidden("--out", "results", "Folder for the runs' evidence.")


def plan_of(options: argparse.Namespace, *, follows_locust: bool = False, publishes_itself: bool = False) -> Plan:
    """Build the plan from the options. Raises `UsageError` for a plan that cannot run."""
    endpoints = targets.resolve(options.target, Path(options.targets) if options.targets else None)
    drill = _drill(options)
    if follows_locust:
        drill = steady_load.of(drill, options, endpoints)
    faults.require_possible(drill)
    if endpoints is not None:
        permission.require_allowed(drill, endpoints)
        _require_no_hooks(drill, endpoints)
    if endpoints is not None and options.defect:
        raise UsageError("--defect works on the embedded mock only; start another one with `stormgate mock serve --defect`.")
    thresholds = Path(options.thresholds) if options.thresholds else DEFAULT_PATH
    gates.require_checks(drill, gates.load_thresholds(thresholds))
    switches, out = _switches(options), Path(options.out)
    return Plan(drill, options.seed, endpoints, switches, thresholds, out, follows_locust, publishes_itself)


def _require_no_hooks(drill: Drill, endpoints: Endpoints) -> None:
    """Refuse faults that need an operator's hook; only `stormgate drill run` runs hooks."""
    kinds = [
        fault.kind
        for fault in drill.faults
        if not isinstance(fault, (*CLIENT_FAULTS, *PUBLISH_FAULTS, SkipDeliveries)) or fault.kind in endpoints.rules.hooks
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
    values = {field.key: getattr(options, field.name) for field in FIELDS.values() if field.key}
    changes = [f"{key}={value}" for key, value in values.items() if value]
    if options.storm_at >= 0 and drill.faults:
        changes.append(f"faults.0.at_s={options.storm_at}")
    if options.share_dropped:
        cuts = [number for number, fault in enumerate(drill.faults) if isinstance(fault, DropSockets)]
        changes += [f"faults.{number}.share={options.share_dropped}" for number in cuts]
    return changes


def drill_values(drill: Drill) -> dict[str, object]:
    """Return the drill's own values of the fields; a field without one is missing."""
    values = {field.name: attrgetter(field.key)(drill) for field in FIELDS.values() if field.key}
    values["connects_per_s"] = drill.fleet.connects_per_s or None
    values["storm_at"] = min((fault.at_s for fault in drill.faults), default=None)
    values["share_dropped"] = next((fault.share for fault in drill.faults if isinstance(fault, DropSockets)), None)
    return {name: value for name, value in values.items() if value is not None}
