"""Sweep files for a drill that runs in a moment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drills.planning import sweeps as plans
from sim.planning import runs, sweep_file
from sim.planning.runs import Job
from sim.planning.store import Store
from sim.planning.sweep_file import Plan

DRILL = """
name = "little_storm"
summary = "Is everyone back?"
checks = ["reconnect.live_again_99_s", "delivery.dropped_deliveries"]
[fleet]
clients = 12
connects_per_s = 40.0
[load]
events_per_s = 5.0
[phases]
steady_s = 0.5
fault_s = 1.0
recovery_s = 0.2
settle_s = 10.0
[[faults]]
kind = "drop_sockets"
at_s = 0.0
"""
SWEEP = """
name = "little"
question = "Who comes back when?"
drill = "little_storm.toml"
replications = 3
"""
TWO_POINTS = SWEEP + '[[parameters]]\nkey = "fleet.clients"\nvalues = [8, 16]\n'


def write(folder: Path, text: str) -> Path:
    """A sweep file and its drill in one folder."""
    (folder / "little_storm.toml").write_text(DRILL)
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def load(folder: Path, text: str) -> Plan:
    return plans.load(write(folder, text))


def made(folder: Path, **keys: Any) -> Plan:
    """A plan without a sweep file."""
    write(folder, SWEEP)
    keys = {"name": "made", "question": "?", "drill": "little_storm.toml"} | keys
    return sweep_file.plan(sweep_file.Sweep(**keys), "made", {}, folder)


def here(jobs: Sequence[Job], store: Store) -> str:
    """Simulate in this process."""
    return runs.run(jobs, store, workers=1)
