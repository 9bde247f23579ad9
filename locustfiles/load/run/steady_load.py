"""The load that Locust itself decides on: a drill without its faults, for as many clients and as long as Locust says."""

import argparse

import msgspec

from drills.runs import catalog
from locustfiles.load.clients.crowd import MOST
from sim.drill import model as drills
from sim.drill.model import Drill, Expect
from sim.engines.shared.endpoints import Endpoints

NAME = "steady_load"
_SUMMARY = "Nothing is broken, and Locust decides on clients and time. Does every client receive every event in time?"
_JUDGED_AS = "observation"  # the drill without faults
# All numbers are [ours].
_LENGTH_S = 60.0  # shown as the expected length where Locust has none
_LATECOMERS_S = 5.0  # for clients that came last
_QUIET_S = 0.5  # events that are published after the last moment of the load still count


def of(drill: Drill, options: argparse.Namespace, endpoints: Endpoints | None) -> Drill:
    """Return the drill's clients, load and service without its faults, judged as a drill without faults is."""
    caps = endpoints.rules.caps if endpoints else None
    most = options.clients or ((options.num_users or 1) if caps else MOST)
    fleet = msgspec.structs.replace(drill.fleet, clients=most, connects_per_s=caps.connects_per_s if caps else None)
    phases = msgspec.structs.replace(
        drill.phases,
        steady_s=float(options.run_time or _LENGTH_S),
        steady_limit_s=_LATECOMERS_S,
        fault_s=_QUIET_S,
        recovery_s=_QUIET_S,
    )
    changes = {"fleet": fleet, "phases": phases, "faults": (), "expect": Expect(), "variants": (), "needs": ()}
    checks = drills.load(catalog.path_of(_JUDGED_AS)).checks
    return msgspec.structs.replace(drill, name=NAME, summary=_SUMMARY, checks=checks, **changes)
