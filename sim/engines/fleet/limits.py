"""The limits of the fleet engine: each setting that it cannot simulate, by the name of its key."""

from collections.abc import Iterator
from dataclasses import MISSING, fields

from sim.client import policies
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.fleet.faults import REPRESENTED
from sim.engines.fleet.kernel.world import MAX_EPISODES, MAX_TOPICS
from sim.engines.fleet.setup import topic_class, topics_of
from sim.engines.shared import client_setup
from sim.protocols.intents import Compatibility
from sim.protocols.profile import ServerProfile
from sim.server.admission import incompatibility
from sim.server.settings import Switches

Unfit = tuple[str, object, str]
"""A key, its value, and what it requires."""


def unfit_habits(profile: ServerProfile) -> list[str]:
    """Return the habits of a protocol's server that the engine cannot simulate: all that are not the usual ones."""
    usual = {each.name: each.default for each in fields(ServerProfile) if each.default is not MISSING}
    return [name for name, value in usual.items() if getattr(profile, name) != value]


def unfit(drill: Drill, model: SystemModel, switches: Switches) -> Iterator[Unfit]:
    """Yield everything in a drill, a model and switches that the engine cannot simulate."""
    yield from _faults(drill)
    yield from _clients(drill)
    yield from _service(drill)
    if drill.expect.retired_routes:
        yield "key 'expect.retired_routes'", "true", "HTTP"
    if switches.defects:
        yield "--defect", ", ".join(sorted(switches.defects)), "a runtime with a defect"
    if share := model.server.mirror_failure_share:
        yield "the model's 'server.mirror_failure_share'", f"{share:g}", "a mirror that fails"


def _faults(drill: Drill) -> Iterator[Unfit]:
    for index, fault in enumerate(drill.faults):
        if not isinstance(fault, REPRESENTED):
            yield f"key 'faults.{index}.kind'", f"'{fault.kind}'", "a fault"
    if (parts := sum(fault.parts for fault in drill.faults)) > MAX_EPISODES:
        yield "the number of faults and waves", parts, f"more than {MAX_EPISODES}"


def _clients(drill: Drill) -> Iterator[Unfit]:
    fleet, runtime = drill.fleet, drill.runtime
    if policies.get(fleet.policy).defects:
        yield "key 'fleet.policy'", f"'{fleet.policy}'", "a client with a deliberate defect"
    if fleet.topics_per_client + drill.load.worker_events > MAX_TOPICS:
        yield "key 'fleet.topics_per_client'", fleet.topics_per_client, f"more than {MAX_TOPICS} streams a client"
    ttl_s = fleet.token_ttl_s or runtime.token_ttl_s
    if not runtime.token_ttl_min_s <= ttl_s <= min(runtime.token_ttl_max_s, runtime.token_max_age_s):
        yield "the tokens' lifetime", f"{ttl_s} s", "tokens that the service refuses"
    told = client_setup.client_settings(drill, 1).compatibility
    if incompatibility(runtime, told, Compatibility()):
        yield "key 'fleet.client_build'", f"'{fleet.client_build}'", "clients that may not join"


def _service(drill: Drill) -> Iterator[Unfit]:
    load, runtime = drill.load, drill.runtime
    slowest = min(runtime.publishes_per_s or topic_class(topic).publishes_per_s for topic in topics_of(drill))
    if load.events:
        yield "key 'load.events'", load.events, "publishing by count"
    if load.in_flight_per_stream:
        yield "key 'load.in_flight_per_stream'", load.in_flight_per_stream, "publishes that wait for one another"
    if load.events_per_s / drill.streams > slowest:
        yield "key 'load.events_per_s'", f"{load.events_per_s:g}", "throttled publishing"
    if runtime.long_polls:
        yield "key 'runtime.long_polls'", "true", "long polls"
    if runtime.sync_frames:
        yield "key 'runtime.sync_frames'", "true", "delivery event by event"
    if runtime.heartbeat_interval_s >= runtime.client_timeout_s:
        yield "key 'runtime.heartbeat_interval_s'", f"{runtime.heartbeat_interval_s:g}", "clients dropped as silent"
