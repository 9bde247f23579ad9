"""A stage's folder as a healthy run leaves it, written by hand, and ways to change it."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.setup import evidence, journal, records, stages
from drills.rollout.setup.records import (
    CanaryCheckDone,
    CommandDone,
    Control,
    DrillDone,
    HoldEvent,
    Precondition,
    Revisions,
    Rollback,
    RollbackStep,
    RoutingCheck,
    Signoff,
    Snapshot,
    StagePlan,
    StageReport,
)
from drills.runs import results
from sim.base import randomness
from sim.base.clocks import SteppedClock, iso
from sim.drill.fault_kinds import DropSockets
from sim.drill.model import CLIENT_BUILD, Drill, Fleet, Load, Phases
from sim.record import run_header
from sim.record.observations import Kind
from sim.server.deployment import cohort_bucket
from sim.service.metric_names import PROFILES
from tests.histories import GATED, STREAM, Story, good_storm, storm_drill

BEGAN = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
INTERVAL_S = 60.0
CLIENTS = 140
TARGET, KIND = "elsewhere", "staging"
NOW = Revisions(control="control-00042", runtime="runtime-00017")
CONTROL = Control(
    target="control", revisions=Revisions(control="control-00041", runtime="runtime-00016"), configuration_sha256="d" * 64
)
DRILL = storm_drill(CLIENTS, checks=tuple(name for name in GATED if name != "reconnect.backoff_never_resets"))
RESETS = msgspec.structs.replace(
    storm_drill(CLIENTS, name="resets", checks=("reconnect.backoff_never_resets",)),
    phases=Phases(steady_s=20.0, fault_s=12.0),
    faults=(DropSockets(at_s=0.0), DropSockets(at_s=8.0)),
)
OBSERVATION = Drill(
    name="observation",
    summary="Is the service healthy?",
    checks=("ux.publish_to_apply_ms",),
    fleet=Fleet(clients=12),
    load=Load(events_per_s=60 / 36),
    phases=Phases(steady_s=5.0, fault_s=30.0),
    faults=(),
)
PERCENT = {"2": 5.0, "3a": 25.0, "3b": 50.0, "4": 100.0}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def change_target(folder: Path, name: str) -> None:
    """Change the target in the header of a run."""
    header = run_header.read_header(folder)
    header.target = name
    run_header.write_header(folder, header)


def dump(path: Path, *lines: msgspec.Struct) -> None:
    """A file of one object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


@dataclass
class Folder:
    """One stage's folder below its rollout's."""

    runs: Path
    stage: records.Stage = "0"
    previous: "Folder | None" = None
    kind: str = KIND
    began: datetime = BEGAN

    @property
    def path(self) -> Path:
        return self.runs / f"{self.began:%Y%m%dT%H%M%SZ}-stage-{self.stage}-abcd"

    @property
    def held_s(self) -> float:
        return 3600.0

    def plan(self, **changes: Any) -> StagePlan:
        before = self.previous.path if self.previous else None
        fields: dict[str, Any] = {
            "run_id": self.path.name,
            "rollout": "november",
            "stage": self.stage,
            "title": {"0": "preflight", "1": "internal canary"}.get(self.stage, "broad rollout"),
            "cohort": "internal list" if self.stage == "1" else "none" if self.stage == "0" else "external",
            "cohort_percent": PERCENT.get(self.stage),
            "target": TARGET,
            "target_kind": self.kind,
            "revisions": NOW,
            "began": iso(self.began),
            "hold_required_s": self.held_s,
            "snapshot_interval_s": INTERVAL_S,
            "thresholds_sha256": sha256(DEFAULT_PATH.read_bytes()),
            "stages_sha256": sha256(stages.DEFAULT_PATH.read_bytes()),
            "configuration_sha256": "c" * 64,
            "previous_run": before.name if before else "",
            "previous_report_sha256": sha256((before / records.REPORT).read_bytes()) if before else "",
            "tool_version": "0.1.0",
            "tool_commit": "0123456789abcdef",
            "required": stages.minimum(self.stage).required,
            "synthetic_load": "publishes of the canary checks, 2 per second",
            "commands": ("retired_routes", "docs") if self.stage == "0" else (),
            "drills": (DRILL.name, RESETS.name) if self.stage == "0" else (),
            "client_builds": (CLIENT_BUILD,),
            "control": CONTROL if self.stage == "2" else None,
            "left_out": ("half_open_sockets",) if self.stage == "0" else (),
        }
        return StagePlan(**{**fields, **changes})

    def write(self, **changes: Any) -> "Folder":
        """Write everything that a healthy run writes."""
        self.path.mkdir(parents=True)
        plan = self.plan(**changes)
        (self.path / records.PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2))
        shutil.copyfile(DEFAULT_PATH, self.path / records.THRESHOLDS)
        shutil.copyfile(stages.DEFAULT_PATH, self.path / records.STAGES)
        self._snapshots()
        self._canary_checks()
        dump(self.path / records.HOLD, self.event(0.0, "started"), self.event(self.held_s, "ended"))
        if self.stage == "0":
            self._preflight()
        if self.stage in PERCENT:
            self._routing_checks(PERCENT[self.stage])
        return self.seal()

    def seal(self) -> "Folder":
        """Record its files as those with which the run ended, whatever was recorded before."""
        (self.path / records.SEAL).unlink(missing_ok=True)
        evidence.seal(self.path)
        return self

    def at(self, seconds: float) -> str:
        return iso(self.began + timedelta(seconds=seconds))

    def event(self, seconds: float, kind: records.HoldKind, **more: Any) -> HoldEvent:
        """An event of the hold, with the time of a clock that counts as long as the hold takes."""
        return HoldEvent(at=self.at(seconds), kind=kind, boot="boot-1", elapsed_s=1000.0 + seconds, **more)

    def _snapshots(self) -> None:
        found = []
        for tick in range(int(self.held_s / INTERVAL_S) + 1):
            figures = {name: 0.0 for name in PROFILES["full"] if not name.startswith("stream.")}
            counted = {"mirror.published_total": 60.0, "delivery.served_messages": 700.0, "delivery.total_polls": 40.0}
            figures |= {name: step * tick + (tick % 5) * step / 9 for name, step in counted.items()}
            figures |= {"delivery.active_consumers": 12.0 + tick % 3, "auth_failures.token_expired_total": float(tick // 9)}
            body = msgspec.json.encode({"generated_at": self.at(tick * INTERVAL_S), "figures": figures})
            name = f"{records.BODIES}/{tick + 1:06d}-metrics.json"
            (self.path / records.BODIES).mkdir(exist_ok=True)
            (self.path / name).write_bytes(body)
            found.append(self._snapshot(tick, figures, body, name))
        dump(self.path / records.SNAPSHOTS, *found)

    def _snapshot(self, tick: int, figures: dict[str, float], body: bytes, name: str) -> Snapshot:
        return Snapshot(
            n=tick + 1,
            at=self.at(tick * INTERVAL_S),
            source="metrics",
            profile="full",
            phase="baseline" if self.stage == "0" else "hold",
            url="http://elsewhere.example/internal/v1/spacetime/sync/metrics",
            outcome="ok",
            status=200,
            latency_ms=4.0,
            generated_at=self.at(tick * INTERVAL_S),
            clock_skew_s=0.0,
            revisions=Revisions(runtime=NOW.runtime),
            sha256=sha256(body),
            body=name,
            metrics=figures,
        )

    def _canary_checks(self) -> None:
        lines = []
        for n in range(2):
            run, status = self._run(records.CANARY_CHECKS, OBSERVATION, quiet_story(slower_ms=30.0 * n), plan=[])
            began_s = 300.0 + 1600.0 * n
            line = CanaryCheckDone(
                at=self.at(began_s),
                ended=self.at(began_s + 60),
                run=f"{records.CANARY_CHECKS}/{run}",
                drill=OBSERVATION.name,
                phase="baseline" if self.stage == "0" else "hold",
                status=status,
            )
            lines.append(line)
        dump(self.path / records.CANARY_CHECK_LIST, *lines)

    def _run(self, folder: str, drill: Drill, story: Story, **header: Any) -> tuple[str, str]:
        """Write a run of one drill; returns its name and the drill's state."""
        about: dict[str, Any] = {"target": TARGET, "target_kind": self.kind}
        run_dir = results.create_run(self.path / folder, [drill], engine="sockets", seed=7, **about)
        story.write(results.create_drill_folder(run_dir, drill), drill, **about, **header)
        return run_dir.name, str(results.judge_run(run_dir).status)

    def add_control(self) -> "Folder":
        """Add canary checks of the control that observed the same as those of the target."""
        shutil.copytree(self.path / records.CANARY_CHECKS, self.path / records.CONTROL)
        for header in (self.path / records.CONTROL).rglob("run.json"):
            change_target(header.parent, "control")
        shutil.copyfile(self.path / records.CANARY_CHECK_LIST, self.path / records.CONTROL_LIST)
        self.edit(records.CONTROL_LIST, CanaryCheckDone, lambda found: [*map(_of_control, found)])
        return self

    def _preflight(self) -> None:
        dump(
            self.path / records.PRECONDITIONS,
            *(
                Precondition(at=self.at(1), name=name, state="pass", reason="met", evidence=records.COMMANDS)
                for name in records.PRECONDITION_NAMES
            ),
        )
        dump(self.path / records.COMMANDS, self.command("retired_routes", tests=3), self.command("docs", tests=None))
        dump(self.path / records.DRILL_RESULTS, *(self.drill(drill) for drill in (DRILL, RESETS)))
        (self.path / records.DRILL_SUMMARY).write_text("Failures: 0\n")
        (self.path / records.ROLLBACK).write_bytes(msgspec.json.encode(self.rollback()))

    def command(self, name: str, tests: int | None) -> CommandDone:
        log = self.path / records.LOGS / f"{name}.txt"
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"test result: ok. {tests} passed\n")
        return CommandDone(
            name=name,
            argv=("./scripts/local-ci.sh", name),
            cwd="somewhere",
            state="pass",
            reason="ended with exit code 0",
            exit_code=0,
            began=self.at(60),
            duration_s=2.5,
            log=f"{records.LOGS}/{log.name}",
            sha256=sha256(log.read_bytes()),
            runner="cargo" if tests else "",
            tests=tests,
        )

    def drill(self, drill: Drill) -> DrillDone:
        run, status = self._run(records.DRILLS, drill, good_storm(CLIENTS) if drill is DRILL else twice_cut_storm())
        done = _without_faults(drill, run, status)
        return msgspec.structs.replace(
            done, faults=("drop_sockets",), injected_at_s=(20.0,), observed=True, recovered_at_s=20.4
        )

    def observed(self) -> DrillDone:
        """A drill without faults."""
        return _without_faults(OBSERVATION, *self._run(records.DRILLS, OBSERVATION, quiet_story(), plan=[]))

    def add_journal(self) -> None:
        """Record its report and its signature in the journal of the rollout."""
        report, signoff = (sha256((self.path / name).read_bytes()) for name in (records.REPORT, records.SIGNOFF))
        with journal.Journal(self.runs.parent / journal.NAME, SteppedClock(self.began)) as entries:
            entries.append("reported", run=self.path.name, report_sha256=report)
            entries.append("signed", run=self.path.name, report_sha256=report, signoff_sha256=signoff)

    def rollback(self, **changes: Any) -> Rollback:
        names = ("traffic", "throttle", "cohort", "recovery")
        steps = tuple(
            RollbackStep(
                n=n,
                name=name,  # type: ignore[arg-type]
                state="pass",
                reason="observed",
                before={"revision": "new"},
                after={"revision": "good"},
                verified_by="the revision that the metrics name",
                began=self.at(3000 + 20 * n),
                ended=self.at(3015 + 20 * n),
                restored=True,
            )
            for n, name in enumerate(names, 1)
        )
        fields: dict[str, Any] = {
            "run_id": self.path.name,
            "target": TARGET,
            "target_kind": self.kind,
            "dry_run": False,
            "began": self.at(3000),
            "ended": self.at(3100),
            "seconds": 87.0,
            "limit_s": 300.0,
            "stable_s": 900.0,
            "state": "pass",
            "reason": "recovered",
            "steps": steps,
        }
        return Rollback(**{**fields, **changes})

    def _routing_checks(self, percent: float) -> None:
        keys = [f"stormgate-probe-{n}" for n in range(300)]
        dump(
            self.path / records.ROUTING_CHECKS,
            *(
                RoutingCheck(
                    at=self.at(10 + n / 20),
                    key=key,
                    bucket=cohort_bucket("thread", key),
                    in_cohort=cohort_bucket("thread", key) < percent,
                    outcome="ok",
                    revision=NOW.runtime,
                )
                for n, key in enumerate(keys)
            ),
        )

    def sign(self, after_s: float = 4000.0, **changes: Any) -> "Folder":
        """Sign its report."""
        content = (self.path / records.REPORT).read_bytes()
        report = msgspec.json.decode(content, type=StageReport)
        fields: dict[str, Any] = {
            "run_id": self.path.name,
            "owner": "Robin Example",
            "role": "release owner",
            "at": self.at(after_s),
            "decision": report.decision,
            "statement": "I have read it.",
            "report_sha256": sha256(content),
        }
        (self.path / records.SIGNOFF).write_bytes(msgspec.json.encode(Signoff(**{**fields, **changes})))
        return self

    def edit(self, name: str, kind: type[Any], change: Callable[[list[Any]], list[Any]]) -> None:
        """Change the lines of a file."""
        path = self.path / name
        lines = [msgspec.json.decode(line, type=kind) for line in path.read_bytes().splitlines()]
        dump(path, *change(lines))
        self.seal()

    def rewrite(self, name: str, kind: type[Any], **changes: Any) -> None:
        """Change fields of a file with one object."""
        path = self.path / name
        found = msgspec.structs.replace(msgspec.json.decode(path.read_bytes(), type=kind), **changes)
        path.write_bytes(msgspec.json.encode(found))
        self.seal()


def _without_faults(drill: Drill, run: str, status: str) -> DrillDone:
    return DrillDone(
        name=drill.name,
        run=run,
        status=status,
        seed=7,
        faults=(),
        injected_at_s=(),
        observed=False,
        recovered_at_s=None,
        duration_s=60.0,
        assertions=(),
    )


def _of_control(line: CanaryCheckDone) -> CanaryCheckDone:
    return msgspec.structs.replace(line, run=line.run.replace("canary-checks/", "control/"), revisions=CONTROL.revisions)


def quiet_story(slower_ms: float = 0.0, clients: int = OBSERVATION.fleet.clients) -> Story:
    """A healthy observation: every event reaches every client in time."""
    story = Story(clients, header={"subscriptions": {str(client): [STREAM] for client in range(clients)}})
    for t, phase in ((0.0, "steady"), (5.0, "fault"), (35.0, "recovery"), (36.0, "settle"), (60.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    story.tell(4.9, Kind.STEADY, value=1.0)
    for seq in range(1, 61):
        story.publish(seq, t=4.0 + seq * 0.5, value=2.0)
    for tick in range(120):
        story.tell(tick * 0.5, Kind.GENERATOR_LAG, value=1.0 + tick % 7)
    for client in range(clients):
        story.tell(0.1, Kind.TOKEN_MINTED, client, value=4.0).tell(0.1, Kind.CONNECT_ATTEMPTED, client, attempt=1)
        story.tell(0.12, Kind.CONNECT_DONE, client, value=20.0).tell(0.13, Kind.SUBSCRIBED, client, value=30.0)
        story.tell(0.13, Kind.REBOOTSTRAPPED, client, STREAM, 0, detail="fresh")
        story.tell(0.15, Kind.REPLAY_COMPLETED, client, value=50.0 + client % 20)
        for seq in range(1, 61):
            t = 4.0 + seq * 0.5 + (40.0 + slower_ms + 7 * (seq * client % 11)) / 1000
            story.tell(t, Kind.APPLIED, client, STREAM, seq, detail=f"h{seq}")
            story.tell(t, Kind.CHECKPOINT_WRITTEN, client, STREAM, seq)
        for tick in range(5, 60, 5):
            story.tell(tick + 0.001 * client, Kind.CLIENT_LAG, client, value=float(tick % 3))
        story.tell(58.0, Kind.SETTLED, client)
    story.audit(*range(1, 61), t=59.0).clocks(60.0)
    story.rows.sort(key=lambda row: row.t)
    return story


def twice_cut_storm() -> Story:
    """The good storm with a second disconnect, after which the clients' backoff restarts."""
    story = (
        good_storm(CLIENTS)
        .changed(lambda row: row.detail == "recovery", t=32.0)
        .changed(lambda row: row.detail == "settle", t=33.0)
    )
    story.header["plan"] = [{"kind": "drop_sockets", "at_s": 0.0}, {"kind": "drop_sockets", "at_s": 8.0}]
    for t, kind, value in (
        (28.0, Kind.FAULT_INJECTED, 0.0),
        (28.2, Kind.FAULT_OBSERVED, float(CLIENTS)),
        (29.0, Kind.FAULT_REVERTED, 0.0),
    ):
        story.tell(t, kind, attempt=1, value=value, detail="drop_sockets")
    for client in range(story.clients):
        wait_s = 0.25 * randomness.draw(8, "test", client)
        again = 28.1 + wait_s
        story.tell(28.1, Kind.DISCONNECTED, client, detail="network")
        story.tell(28.1, Kind.BACKOFF, client, attempt=1, value=1000 * wait_s, detail="network")
        story.tell(again, Kind.CONNECT_ATTEMPTED, client, attempt=3).tell(again + 0.02, Kind.CONNECT_DONE, client, value=20.0)
        story.tell(again + 0.03, Kind.SUBSCRIBED, client, value=30.0)
        story.tell(again + 0.05, Kind.REPLAY_COMPLETED, client, value=50.0)
    story.rows.sort(key=lambda row: row.t)
    return story


def passing(name: str, **changes: Any) -> CheckResult:
    """A passed check of the window."""
    gate, check = name.split(".")
    fields: dict[str, Any] = {
        "gate": gate,
        "check": check,
        "state": State.PASS,
        "value": 1.0,
        "unit": "ms" if check.endswith("_ms") else "ratio",
        "n": 1234,
        "interval": (0.5, 1.5),
        "comparator": "<=",
        "threshold": 600.0 if check.endswith("_ms") else 2.0,
        "source": "SLO targets",
        "window": "stage",
        "method": "upper bound",
        "origin": "server",
        "reason": "at most 1.5 with 95 % confidence",
        "evidence": records.SNAPSHOTS,
    }
    return CheckResult(**{**fields, **changes})
