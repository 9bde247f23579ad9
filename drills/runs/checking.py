"""Check a request before anything starts: whether it is valid, and which of its drills its target can run."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.runs import predictions, simulations, targets, variants
from drills.runs.request import ENGINES, SIMULATED, Request
from sim.base.errors import NotRunnableError, UsageError
from sim.drill.fault_kinds import ConcurrentAppends
from sim.drill.model import Drill, runs_on
from sim.protocols import registry
from sim.server.settings import DEFECTS, Switches

if TYPE_CHECKING:
    from sim.drill.system_model import SystemModel
    from sim.engines.shared.endpoints import Endpoints


@dataclass(frozen=True)
class Checked:
    """A valid request. `not_run` has the drills that its target or simulated server cannot run: name -> why, a sentence."""

    endpoints: "Endpoints | None"  # of the target; None: the embedded mock, or a simulation
    not_run: dict[str, str] = field(default_factory=dict)

    def runnable(self, drills: tuple[Drill, ...]) -> tuple[Drill, ...]:
        """Return the drills that can run."""
        return tuple(drill for drill in drills if drill.name not in self.not_run)


def check(request: Request) -> Checked:
    """Check a request, without sending anything. Raises `UsageError` if it is invalid or the target does not allow it."""
    _require_valid(request)
    endpoints = request.endpoints or targets.resolve(request.target, request.targets)
    not_run: dict[str, str] = {}
    for drill in request.drills:
        try:
            _require_runnable(drill, request, endpoints)
        except NotRunnableError as error:
            not_run[drill.name] = str(error)
    return Checked(endpoints, not_run)


def _require_valid(request: Request) -> None:
    """Raise `UsageError` for a request whose options are wrong or do not go together."""
    from drills.judging import gates

    registry.get(request.protocol)
    if request.target != targets.EMBEDDED and request.protocol != registry.DEFAULT:
        raise UsageError(f"--protocol {request.protocol}: target '{request.target}' states its protocol; leave --protocol out.")
    if request.engine not in ENGINES:
        raise UsageError(f"--engine {request.engine}: unknown engine; choose from: {', '.join(ENGINES)}.")
    (_check_simulation if request.engine in SIMULATED else _check_real)(request)
    switches(request.defects, request.seed)
    if request.defects and request.target != targets.EMBEDDED:
        raise UsageError("--defect works only on the embedded mock; start another mock with `stormgate mock serve --defect`.")
    loaded = gates.load_thresholds(request.thresholds or DEFAULT_PATH)
    for drill in request.drills:
        gates.require_checks(drill, loaded)


def _check_simulation(request: Request) -> None:
    if request.predict:
        raise UsageError(f"--predict predicts runs on real sockets; leave --engine {request.engine} out.")
    if request.target != targets.EMBEDDED:
        raise UsageError(
            f"--target {request.target}: the {request.engine} engine simulates its own service; leave --target out."
        )
    if request.replications < 1:
        raise UsageError(f"--replications {request.replications}: a drill needs at least 1.")
    model_of(request)


def _check_real(request: Request) -> None:
    if request.predict:
        for drill in request.drills:
            predictions.check(drill)
    elif request.model is not None:
        raise UsageError(
            f"--model {request.model}: only simulations use a system model; add --engine virtual, --engine fleet or --predict."
        )
    elif request.replications != 1:
        raise UsageError(f"--replications {request.replications}: only simulations replicate; add --engine virtual or fleet.")


def _require_runnable(drill: Drill, request: Request, endpoints: "Endpoints | None") -> None:
    """Raise `NotRunnableError` for a drill that the target cannot run, `UsageError` for one that other options could run."""
    if endpoints is not None:
        from sim.engines.shared import permission

        permission.require_allowed(drill, endpoints)
    else:
        _require_served(request)
    _require_abilities(drill, request, endpoints)
    _require_overlaps(drill)
    if drill.variants:
        _check_variants(drill, request)
    elif not runs_on(drill, request.engine):
        raise UsageError(
            f"drill '{drill.name}' does not run on --engine {request.engine}; 'engines' has: {', '.join(drill.engines)}."
        )
    if request.engine in SIMULATED:
        on = switches(request.defects, request.seed)
        simulations.check(request.engine, drill, model_of(request), on, request.protocol)


def _require_served(request: Request) -> None:
    """Raise `NotRunnableError` for a protocol that nothing of stormgate serves, or that it can only simulate."""
    find = registry.server_forms if request.engine in SIMULATED else registry.wire_forms
    try:
        find(request.protocol)
    except UsageError as error:
        raise NotRunnableError(str(error)) from None


def _require_abilities(drill: Drill, request: Request, endpoints: "Endpoints | None") -> None:
    name = request.protocol if endpoints is None else endpoints.protocol
    able = registry.get(name).able({} if endpoints is None else endpoints.protocol_options)
    if "epochs" in drill.needs and not able.has_epochs:
        raise NotRunnableError(
            f"drill '{drill.name}' needs positions with epochs, and protocol '{name}' has none. Run 'log_recreated' instead."
        )
    if "snapshots" in drill.needs and not able.has_snapshots:
        raise NotRunnableError(
            f"drill '{drill.name}' needs snapshots, and protocol '{name}' has none: what a stale client missed is lost to it."
        )


def _require_overlaps(drill: Drill) -> None:
    """Raise `NotRunnableError` for a drill of overlapping appends whose load lets none overlap."""
    if drill.load.in_flight_per_stream == 1 and any(isinstance(fault, ConcurrentAppends) for fault in drill.faults):
        raise NotRunnableError(
            f"drill '{drill.name}' publishes several events to a stream at once, and 'load.in_flight_per_stream' is 1. "
            "Leave that setting out, or run another drill."
        )


def _check_variants(drill: Drill, request: Request) -> None:
    from sim.engines.sockets import engine as sockets
    from sim.engines.virtual import engine as virtual

    if request.replications != 1:
        raise UsageError(f"drill '{drill.name}' compares single runs; leave out --replications or the drill.")
    for each in variants.variants_of(drill):
        variant = each.variant(drill)
        virtual.check(variant) if each.engine == "virtual" else sockets.check(variant, None)


def model_of(request: Request) -> "SystemModel":
    """The simulated system's model; raises `UsageError`."""
    from sim.drill import system_model

    return system_model.load(request.model) if request.model else system_model.SystemModel()


def switches(defects: tuple[str, ...], seed: int) -> Switches:
    """The mock's switches with these defects on. Raises `UsageError` for an unknown name."""
    for name in defects:
        if name not in DEFECTS:
            raise UsageError(f"--defect {name}: unknown defect; choose from: {', '.join(DEFECTS)}.")
    return msgspec.convert({"defects": list(defects), "seed": seed}, Switches)
