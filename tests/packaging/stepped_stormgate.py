"""stormgate on a clock that steps: `python stepped_stormgate.py STATE WORDS...`, for the `stage` commands of a rollout of days.

stormgate is that of the interpreter; the helpers of the tests come from the checkout. Each command is a process of its own, and
STATE is the file in which the clock goes on. Everything is real but what takes days:
- A canary check runs once, and its evidence is copied for all others, with what it made the servers count.
- The servers' date and counters follow the clock.
With STEPPED_QUICK, also: a window is judged less often, a rehearsal watches the recovery for 24 s, a machine may be slow.
"""

import json
import os
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).parents[2]))

import httpx
import msgspec

import drills
from drills.cli import main as cli
from drills.judging.checks import thresholds
from drills.rollout.hold import canary_checks, stage_run
from drills.rollout.preflight import one_drill
from drills.rollout.preflight.one_drill import Order
from drills.rollout.report import figures as pictures
from drills.rollout.rollback import rehearsal_steps
from drills.rollout.servers import snapshots
from drills.rollout.setup import records, stages
from drills.rollout.verdict import requirements
from drills.rollout.verdict.window_data import clients
from drills.runs.targets import resolve
from sim.base import clocks
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.engines.shared.metrics_book import Fetched, page
from tests.rollout.rollout_world import added, grown, patient, recast

assert Path.cwd() not in Path(drills.__file__).parents
TARGET = "staging"
JUDGE_EVERY_S = 7200.0


class State(msgspec.Struct):
    """What is known from one command to the next."""

    now: str
    copies: int = 0  # of canary checks of the target
    counted: dict[str, dict[str, float]] = {}  # by path: what one canary check made the servers count


class Stepped:
    """One command."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        self.state = msgspec.json.decode(path.read_bytes(), type=State) if path.exists() else State(iso(datetime.now(UTC)))
        self.clock = SteppedClock(from_iso(self.state.now))
        self._fetch = snapshots.fetch_now

    def save(self) -> None:
        self.state.now = iso(self.clock.now())
        self.path.write_bytes(msgspec.json.encode(self.state))

    def fetch(self, url: str, headers: Any, limit_s: float) -> Fetched:
        """What the servers would say by this clock, had each canary check run."""
        found, path = self._fetch(url, headers, limit_s), urlsplit(url).path
        if found.outcome != "ok":
            return found
        said = added(json.loads(found.body), self.state.counted.get(path, {}), self.state.copies)
        if "generated_at" in said:
            said["generated_at"] = iso(self.clock.now())
        return replace(found, body=json.dumps(said).encode(), date=None)

    def figures(self) -> dict[str, Any]:
        """What both services of the target say of themselves."""
        endpoints = resolve(TARGET, Path("targets.toml"))
        assert endpoints is not None
        pages = [page(endpoints, form) for form in (endpoints.forms.metrics, endpoints.forms.status)]
        return {urlsplit(url).path: httpx.get(url, headers=headers, trust_env=False).json() for url, headers in pages}

    def canary_check(self, order: Order, _: Path) -> canary_checks.Run:
        kept, about = self.folder / "canary-check", self.folder / "canary-check.json"
        if not about.exists():
            before = self.figures()
            done = one_drill.run(order)
            if done.status == "pass":
                self.state.counted = {path: grown(now, before[path]) for path, now in self.figures().items()}
                shutil.copytree(Path(order.out) / done.run, kept)
                about.write_bytes(msgspec.json.encode(done))
            return canary_checks.Finished(done)
        done = msgspec.json.decode(about.read_bytes(), type=records.DrillDone)
        out = Path(order.out)
        self.state.copies += order.target == TARGET
        name = f"{done.run}-{len(list(out.glob('*'))) if out.exists() else 0}"
        shutil.copytree(kept, out / name)
        recast(out / name, order)
        return canary_checks.Finished(msgspec.structs.replace(done, run=name))


def hurry(folder: Path) -> None:
    """Judge less often, and let the machine be as slow as it likes."""
    load = stages.load

    def loaded(path: Path) -> stages.Stages:
        found = load(path)
        return msgspec.structs.replace(found, sampling=msgspec.structs.replace(found.sampling, judge_every_s=JUDGE_EVERY_S))

    stages.load = loaded
    slow = folder / "thresholds.toml"
    slow.write_text(patient(thresholds.DEFAULT_PATH.read_text()))
    thresholds.DEFAULT_PATH = slow
    clients._GENERATOR = msgspec.structs.replace(clients._GENERATOR, threshold=1e6)
    rehearsal_steps.STABLE_S = requirements.MIN_STABLE_S = 24.0  # its checks need so many publishes
    pictures.of = lambda *_: ()


def main() -> int:
    stepped = Stepped(Path(sys.argv[1]))
    if os.environ.get("STEPPED_QUICK"):
        hurry(stepped.folder)
    canary_checks.run_here = stepped.canary_check
    snapshots.fetch_now = stepped.fetch
    clocks.SystemClock = lambda: stepped.clock
    assert stage_run.canary_checks is canary_checks
    try:
        return cli.run_words(sys.argv[2:])
    finally:
        stepped.save()


if __name__ == "__main__":
    sys.exit(main())
