"""A whole rollout on a stepped clock and a staging-like mock: days of holding in seconds, with real snapshots and reports.

Two things are not done again each time: a canary check runs once and its evidence is copied for all others, with what it made
the servers count; and a rollback counts as rehearsed, because recovering from one takes its time.
"""

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH as THRESHOLDS
from drills.rollout.hold import canary_checks, signoff, stage_run
from drills.rollout.hold.hold import rollouts
from drills.rollout.hold.signoff import Person
from drills.rollout.hold.stage_plan import Asked
from drills.rollout.preflight import one_drill
from drills.rollout.preflight.one_drill import Order
from drills.rollout.report import figures as pictures
from drills.rollout.rollback import rehearsal
from drills.rollout.setup import evidence, records, stages
from drills.rollout.setup.records import Rollback, Signoff, StageReport
from drills.rollout.setup.stage_target import StageTarget
from drills.rollout.verdict import armed
from drills.rollout.verdict.window_data import clients
from drills.runs import results
from sim.base.clocks import Clock, SteppedClock, from_iso, iso
from sim.drill import model as drill_file
from sim.record import run_header
from tests.rollout.stepped_service import ADMIN, METRICS, Alter, SteppedService, stepped_service, unaltered
from tests.stage_folders import Folder

CONFIGURATION = StageTarget.configuration
START = datetime(2026, 11, 20, 12, tzinfo=UTC)  # a Friday
WATCH = """
name = "tiny_watch"
summary = "Does everybody get every event in time?"
checks = ["replay.divergence", "delivery.dropped_deliveries", "ux.integrity"]
faults = []
fleet = { clients = 100, connects_per_s = 100.0 }
load = { events_per_s = 24.0, run_streams = 2 }
phases = { steady_s = 1.0, fault_s = 11.0, recovery_s = 0.0, settle_s = 10.0 }
"""
STORM = """
name = "tiny_storm"
summary = "Does everybody come back after a cut, spread out, and soon?"
checks = [
    "reconnect.live_again_99_s", "reconnect.backoff_bounded", "reconnect.backoff_unjittered",
    "reconnect.backoff_never_resets", "delivery.dropped_deliveries", "ux.integrity",
]
faults = [{ kind = "drop_sockets", at_s = 0.0 }, { kind = "drop_sockets", at_s = 6.5 }]
fleet = { clients = 100, connects_per_s = 100.0 }
load = { events_per_s = 30.0, run_streams = 2 }
phases = { steady_s = 5.2, fault_s = 7.5, recovery_s = 0.2, settle_s = 10.0 }
"""
CHECKOUT_TESTS = 'argv = ["sh", "-c", "echo test result: ok. 1 passed\\\\; 0 failed\\\\;"]\nrunner = "cargo"\n'
ROLLBACK = """
[targets.stepped.rollback]
check = ["true"]
traffic = { apply = ["true"], restore = ["true"], control_revision = "mock-r1", runtime_revision = "mock-r1" }
throttle = { apply = ["true"], restore = ["true"] }
cohort = { apply = ["true"], restore = ["true"] }
"""
STAGES = f"""
calendar = {{ zone = "America/Chicago", country = "US" }}
sampling = {{ interval_s = 300.0, judge_every_s = 7200.0, extend_up_to_s = 7200.0 }}
canary_check = {{ drill = "tiny_watch.toml", every_s = 3600.0 }}
routing_check = {{ keys = 100, every_s = 86400.0, per_s = 10000.0 }}

[stages.0]
title = "preflight"
cohort = "none"
required = ["preconditions", "commands", "drills", "rollback", "baseline"]
baseline_s = 18000.0
rehearsal_limit_s = 300.0
client_builds = ["20260601T000000Z", "20260801T000000Z"]
drills = {{ mock = ["tiny_storm.toml"], staging = ["tiny_storm.toml"] }}

[stages.1]
title = "internal canary"
cohort = "internal list"
required = ["hold"]
hold_s = 18000.0

[stages.2]
title = "external canary"
cohort = "external"
cohort_percent = 5.0
required = ["hold", "cohort", "builds", "canary_vs_control"]
control = "control"
business_day = {{ from = "09:00", to = "17:00" }}

[stages.3a]
title = "broad, first step"
cohort = "external"
cohort_percent = 25.0
required = ["hold", "cohort", "builds"]
hold_s = 18000.0

[stages.3b]
title = "broad, second step"
cohort = "external"
cohort_percent = 50.0
required = ["hold", "cohort", "builds"]
hold_s = 18000.0

[stages.4]
title = "full rollout"
cohort = "everybody"
cohort_percent = 100.0
required = ["hold", "cohort", "builds", "armed"]
hold_s = 86400.0
gates_at_h = [0.0, 1.0, 6.0, 24.0]

[[commands]]
name = "sync_metrics"
precondition = "observability_tests"
{CHECKOUT_TESTS}
[[commands]]
name = "retired_routes"
precondition = "retired_route_guard"
{CHECKOUT_TESTS}
"""


def patient(thresholds: str) -> str:
    """Thresholds by which a machine may be as slow as it likes: these tests are about what is decided, not about how fast."""
    times = (
        *("replay.bootstrap_ms", "replay.bootstrap_vs_baseline", "ux.publish_to_apply_ms", "drill.generator_lag_ms"),
        *("canary.bootstrap_ms", "canary.publish_to_apply_ms"),
    )
    for name in times:
        before, found, rest = thresholds.partition(f"[{name}]\n")
        assert found
        thresholds = before + found + re.sub(r"threshold = [\d.]+", "threshold = 1000000", rest, count=1)
    return thresholds


@dataclass
class RolloutWorld:
    """One rollout, its service and its clock."""

    folder: Path
    clock: SteppedClock
    endpoints: SteppedService
    said: list[str] = field(default_factory=list)
    check_run: Path | None = None  # the canary check that all others are copies of
    counted: dict[str, dict[str, float]] = field(default_factory=dict)  # by path: what one canary check made the servers count
    copies: int = 0
    alter: Alter = unaltered

    def __post_init__(self) -> None:
        self.endpoints.alter = self._answer

    def _answer(self, path: str, status: int, body: bytes) -> tuple[int, bytes]:
        """What the servers count, as if each canary check had run."""
        if self.copies and path in self.counted and status == 200:
            body = json.dumps(added(json.loads(body), self.counted[path], self.copies)).encode()
        return self.alter(path, status, body)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def rollout(self) -> Path:
        return rollouts.folder_of(self.out, "r")

    @property
    def rules(self) -> stages.Stages:
        return stages.load(self.folder / "their-stages.toml")

    def figures(self) -> dict[str, Any]:
        """What both services say of themselves."""
        headers = {"Authorization": f"Bearer {ADMIN}"}
        return {
            path: httpx.get(self.endpoints.url + path, headers=headers, trust_env=False).json()
            for path in (METRICS, "/api/status")
        }

    def asked(self, stage: str, **more: Any) -> Asked:
        stages, thresholds = self.folder / "their-stages.toml", self.folder / "their-thresholds.toml"
        return replace(Asked(stage, self.endpoints.name, self.endpoints.targets, "r", stages, thresholds, self.out), **more)

    def stage(self, stage: str, **more: Any) -> tuple[Path, StageReport]:
        """Run or hold a stage."""
        return stage_run.run(self.asked(stage, **more), self.clock, self.said.append)

    def sign(self, decision: Any = "go") -> Signoff:
        """Sign the latest report."""
        with rollouts.journal_of(self.rollout, self.clock) as journal:
            run = signoff.signable(self.rollout, journal.entries)
            person = Person(owner="Ann", role="sync service", statement="I have read it.")
            return signoff.sign(self.rollout, run, person, decision, journal, self.clock)

    def through(self, *stages: str) -> None:
        """These stages, each a signed go."""
        for stage in stages:
            if (percent := self.rules.stages[stage].cohort_percent) is not None:
                self.endpoints.panel("cohort", percent=int(percent))
            _, report = self.stage(stage)
            assert report.decision == "go", (stage, report.why)
            self.sign()


def grown(now: Any, before: Any, path: str = "") -> dict[str, float]:
    """Every counter that has grown, by its place."""
    if isinstance(now, dict):
        parts = (grown(now[key], before.get(key, 0), f"{path}/{key}") for key in now)
        return {name: value for part in parts for name, value in part.items()}
    is_counter = isinstance(now, int) and not isinstance(now, bool) and now > before and "lag" not in path
    return {path: float(now - before)} if is_counter else {}


def added(said: Any, more: dict[str, float], times: int, path: str = "") -> Any:
    """A service's answer, plus N times what one canary check makes it count."""
    if isinstance(said, dict):
        return {key: added(value, more, times, f"{path}/{key}") for key, value in said.items()}
    return said + int(more[path]) * times if path in more else said


class Kept(msgspec.Struct):
    """What is known of a rollout that others begin with."""

    at: str
    counted: dict[str, dict[str, float]]


def signed_preflight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rollout whose stage 0 is a signed go, for others to begin with; made once, by whichever process comes first."""
    made, lock = folder / "made", folder / "lock"
    folder.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not made.exists():
            making = folder / "making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            with rollout_world(making, monkeypatch) as world:
                world.through("0")
                (making / "kept.json").write_bytes(msgspec.json.encode(Kept(iso(world.clock.now()), world.counted)))
            making.rename(made)
    return made


@contextlib.contextmanager
def after_preflight(folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch, **endpoints: Any) -> Iterator[RolloutWorld]:
    """A rollout of one's own whose stage 0 is a signed go."""
    kept = msgspec.json.decode((made / "kept.json").read_bytes(), type=Kept)
    with rollout_world(folder, monkeypatch, from_iso(kept.at), **endpoints) as world:
        shutil.copytree(made / "out", folder / "out")
        shutil.copytree(made / "canary-check", folder / "canary-check")
        shutil.copyfile(made / "canary-check.json", folder / "canary-check.json")
        world.check_run, world.counted = folder / "canary-check", kept.counted
        monkeypatch.setattr(pictures, "of", lambda *_: ())
        yield world


def at_one_place(target: StageTarget) -> str:
    """What is configured of a target, at whichever port this one serves."""
    return str(
        CONFIGURATION(
            replace(target, endpoints=replace(target.endpoints, runtime_url="http://service", control_url="http://service"))
        )
    )


@contextlib.contextmanager
def rollout_world(
    folder: Path, monkeypatch: pytest.MonkeyPatch, start: datetime = START, **endpoints: Any
) -> Iterator[RolloutWorld]:
    """A rollout that nothing has happened to yet."""
    clock = SteppedClock(start)
    for name, text in (("tiny_watch.toml", WATCH), ("tiny_storm.toml", STORM), ("their-stages.toml", STAGES)):
        (folder / name).write_text(text)
    (folder / "their-thresholds.toml").write_text(patient(THRESHOLDS.read_text()))
    monkeypatch.setattr(stages, "MAX_JUDGE_EVERY_S", 7200.0)  # judging takes longer than anything else here
    patience = msgspec.structs.replace(clients._GENERATOR, threshold=1e6)  # as of the thresholds, for a busy machine
    monkeypatch.setattr(clients, "_GENERATOR", patience)
    with stepped_service(folder, clock, **{"extra": ROLLBACK, **endpoints}) as stepped:
        world = RolloutWorld(folder, clock, stepped)
        monkeypatch.setattr(canary_checks, "run_here", lambda order, log: _copied(world, order))
        monkeypatch.setattr(rehearsal, "rehearse", rehearsed)
        monkeypatch.setattr(StageTarget, "configuration", at_one_place)
        monkeypatch.setattr(StageTarget, "configuration_now", at_one_place)
        yield world


def _copied(world: RolloutWorld, order: Order) -> canary_checks.Run:
    """The evidence of a canary check; each copy has a name of its own."""
    if world.check_run is None:
        before = world.figures()
        done = one_drill.run(order)
        world.counted = {path: grown(now, before[path]) for path, now in world.figures().items()}
        if done.status != "fail":
            world.check_run = world.folder / "canary-check"
            shutil.copytree(Path(order.out) / done.run, world.check_run)
            (world.folder / "canary-check.json").write_bytes(msgspec.json.encode(done))
        return canary_checks.Finished(done)
    done = msgspec.json.decode((world.folder / "canary-check.json").read_bytes(), type=records.DrillDone)
    out = Path(order.out)
    world.copies += order.target == world.endpoints.name
    n = len(list(out.glob("*"))) if out.exists() else 0
    name = f"{done.run}-{n}"
    shutil.copytree(world.check_run, out / name)
    recast(out / name, order)
    return canary_checks.Finished(msgspec.structs.replace(done, run=name))


def recast(run_dir: Path, order: Order) -> None:
    """A copy of a canary check, changed to another target and another build."""
    (folder,) = (run_dir / "drills").iterdir()
    drill = drill_file.load(Path(order.drill), order.set)
    (folder / results.DRILL_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(drill, order="deterministic"), indent=2))
    header = run_header.read_header(folder)
    header.target, header.drill_sha256 = order.target, drill.digest()
    run_header.write_header(folder, header)


def rehearsed(endpoints: Any, entry: Any, folder: Path, clock: Clock, *, dry_run: bool, limit_s: float = 300.0) -> Rollback:
    """A rollback as it should be."""
    plan, now = evidence.read_plan(folder), iso(clock.now())
    about = {"run_id": plan.run_id, "target": plan.target, "target_kind": plan.target_kind, "limit_s": limit_s}
    found = Folder(folder.parent, began=clock.now()).rollback(
        **about, began=now, ended=now, dry_run=dry_run, hooks_sha256=armed.digest(entry.rollback)
    )
    (folder / records.ROLLBACK).write_bytes(msgspec.json.encode(found))
    return found
