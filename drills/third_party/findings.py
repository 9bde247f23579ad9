"""What each drill finds on each third-party server: stated in advance, held by the tests, and printed in the documentation.

One file a server in `findings/`, with one `[[finding]]` for each pair of a variant and a drill.
"""

import shlex
from pathlib import Path
from typing import Literal

import msgspec

from drills.third_party.recipe import SANE
from sim.base.config import read_toml, to_struct

FOLDER = Path(__file__).parent / "findings"
CLIENTS, CLIENTS_FOR_GO = 25, 44  # a go needs the sample sizes of every check
_QUICK = ("phases.steady_s=1.5", "phases.steady_limit_s=20", "phases.settle_s=8", "fleet.connects_per_s=100")
# The faults of each drill, closer together.
_SHORT: dict[str, tuple[str, ...]] = {
    "reconnect_storm": ("phases.fault_s=2.5", "faults.1.at_s=1.5", "phases.recovery_s=0.5"),
    "network_flap": (
        *("load.events_per_s=45", "phases.fault_s=6.5", "faults.0.times=5", "faults.0.every_s=1.0"),
        "phases.recovery_s=0.5",
    ),
    "half_open_sockets": ("phases.fault_s=17.5", "faults.0.for_s=17.0", "faults.1.at_s=0.5", "faults.1.for_s=12.0"),
    "runtime_restart": ("phases.fault_s=4.0", "faults.0.at_s=0.5", "faults.0.down_s=0.5", "phases.recovery_s=1.0"),
    "slow_consumer": ("phases.recovery_s=1",),
    "stale_cursor": (
        *("phases.fault_s=3.5", "faults.0.offline_s=1.2", "faults.1.for_s=3.5", "faults.1.events=20"),
        *("faults.2.at_s=1.0", "faults.2.keep_events=10", "phases.recovery_s=0.5"),
    ),
    "close_codes": ("phases.steady_s=6", "phases.fault_s=8.2", "phases.recovery_s=0.5"),
    "lost_publish_answers": ("phases.fault_s=3.0", "faults.0.for_s=3.0", "phases.recovery_s=0.5"),
    "dropped_delivery": ("phases.fault_s=3.0", "faults.0.for_s=3.0", "phases.recovery_s=2.5"),
    "token_expiry_storm": ("phases.fault_s=3.0", "faults.0.for_s=3.0", "phases.recovery_s=1.0"),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one drill finds on a server in one of its variants."""

    drill: str
    variant: str = SANE
    expects: Literal["go", "no_go", "inconclusive", "not_run"] = "go"
    names: tuple[str, ...] = ()  # of the failed checks and violated invariants
    first: str = ""  # part of the text of the first occurrence
    says: str = ""  # why, unless it is a go
    settings: tuple[str, ...] = ()  # overrides besides those of `short`, as with --set
    at_full_length: tuple[str, ...] = ()  # overrides of the drill as the catalogue has it, with its own phases and clients
    ci: bool = True  # otherwise only `make prove` takes the time

    def overrides(self) -> tuple[str, ...]:
        """Return all overrides of the drill."""
        clients = CLIENTS_FOR_GO if self.expects == "go" else CLIENTS
        given = (f"fleet.clients={clients}", *_QUICK, *_SHORT.get(self.drill, ()), *self.settings)
        return tuple({override.partition("=")[0]: override for override in given}.values())  # the last value of a key counts

    def command(self, server: str) -> str:
        """Return the command line that repeats it."""
        variant = "" if self.variant == SANE else f" --variant {self.variant}"
        words = " ".join(f"--set {shlex.quote(override)}" for override in self.overrides())
        return f"stormgate target up {server}{variant} --drill {self.drill} {words}"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    finding: tuple[Finding, ...]


def of(server: str) -> tuple[Finding, ...]:
    """Return what is found on a server. Raises `UsageError` for a malformed file."""
    path = FOLDER / f"{server}.toml"
    return to_struct(read_toml(path), _File, str(path)).finding
