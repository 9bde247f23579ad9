"""A mock process and its operators' commands, for the tests of the rollback rehearsal."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import State
from drills.rollout.rollback.recovery import CanaryCheck
from drills.rollout.rollback.rehearsal import Rehearsal, rehearsal_steps
from drills.rollout.setup.records import Rollback
from drills.runs import targets
from drills.runs.targets import Target
from sim.base.clocks import Clock, SteppedClock
from sim.engines.shared.endpoints import Endpoints
from tests.served import Served

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
DEPLOYMENT = {"revision": "r2", "previous_revision": "r1", "cohort_percent": 30, "canary_defects": ["skip_delivery"]}
PUT = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode(), method='PUT'))"
NOTHING = [sys.executable, "-c", "print('all is done')"]
HEALTHY = CanaryCheck(State.PASS, "every check passed", "rollback/canary-checks/w", "0 of 150 connects refused")
UNHEALTHY = CanaryCheck(State.FAIL, "delivery.dropped_deliveries fail: 3 events", "rollback/canary-checks/w", "")


def put(mock: Served, name: str, body: str) -> list[str]:
    """The command that changes one of the mock's own switches."""
    return [sys.executable, "-c", PUT, f"{mock.url}/_mock/{name}", body]


def rules(mock: Served, **other: list[str]) -> dict[str, Any]:
    """An operator's rollback tables for this mock; `other` replaces commands, such as `throttle_apply=...`."""
    tables: dict[str, Any] = {
        "traffic": {"apply": put(mock, "traffic", '{"revision": "r1"}'), "restore": put(mock, "traffic", '{"revision": "r2"}')},
        "throttle": {"apply": put(mock, "throttle", '{"publishes_per_s": 2}'), "restore": put(mock, "throttle", "{}")},
        "cohort": {"apply": put(mock, "cohort", '{"percent": 0}'), "restore": put(mock, "cohort", '{"percent": 30}')},
    }
    tables["traffic"] |= {"control_revision": "r1", "runtime_revision": "r1"}
    for name, command in other.items():
        step, _, action = name.partition("_")
        tables[step][action] = command
    return {**tables, "observed_within_s": 0.1}


def target(mock: Served, folder: Path, tables: dict[str, Any], kind: str = "mock") -> Target:
    """A target of a file with these commands."""
    lines = [f'[targets.theirs]\nkind = "{kind}"\nruntime_url = "{mock.url}"\ncontrol_url = "{mock.url}"']
    if kind != "mock":
        lines.append('session_token_env = "S"\ncaps = { clients = 200, connects_per_s = 200.0, events_per_s = 100.0 }')
    path = folder / "targets.toml"
    lines.append("[targets.theirs.rollback]")
    lines += [f"{key} = {value}" for key, value in tables.items() if not isinstance(value, dict)]
    for step, table in tables.items():
        if isinstance(table, dict):
            lines += [
                f"[targets.theirs.rollback.{step}]",
                *(f"{key} = {msgspec.json.encode(v).decode()}" for key, v in table.items()),
            ]
    path.write_text("\n".join(lines))
    return targets.read(path, "theirs", {"S": "session-s3cret"})


def endpoints_of(entry: Target) -> Endpoints:
    return Endpoints(
        entry.name, entry.entry.kind, entry.runtime_url, entry.control_url, session=entry.session, rules=entry.rules
    )


class ScriptedCanaryChecks:
    """ScriptedCanaryChecks with given answers, and what was done while each ran."""

    def __init__(self, *answers: CanaryCheck, meanwhile: Callable[[int], None] = lambda n: None) -> None:
        self._answers, self._meanwhile = answers or (HEALTHY,), meanwhile
        self.lengths: list[float | None] = []

    def __call__(self, length_s: float | None) -> CanaryCheck:
        self.lengths.append(length_s)
        self._meanwhile(len(self.lengths))
        return self._answers[min(len(self.lengths), len(self._answers)) - 1]


def rehearsal(
    mock: Served,
    folder: Path,
    canary_checks: ScriptedCanaryChecks | None = None,
    clock: Clock | None = None,
    said: list[str] | None = None,
    **other: Any,
) -> Rehearsal:
    """A rehearsal with canary_checks that take no time, by the mock's own routes but for the commands that are given."""
    clock = clock or SteppedClock(START)
    run = folder / "run"
    given = {name.partition("_")[0] for name in other}
    tables = {key: table for key, table in rules(mock, **other).items() if key in given or not isinstance(table, dict)}
    entry = target(mock, folder, tables)
    say = (said if said is not None else []).append
    plan = rehearsal_steps.make(endpoints_of(entry), entry, run, clock)
    return Rehearsal(replace(plan, check=canary_checks or ScriptedCanaryChecks()), run, clock, say)


def set_wide_throttle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the throttle above the 50 events per second that a real canary check publishes."""
    monkeypatch.setattr(rehearsal_steps, "_MOCK_BURST", 200)
    monkeypatch.setattr(rehearsal_steps, "_MOCK_PUBLISHES_PER_S", 60.0)


def write_lenient_thresholds(path: Path) -> None:
    """Write thresholds that also a busy machine keeps."""
    text = (DEFAULT_PATH).read_text()
    path.write_text(
        re.sub(r'^threshold = (\d+)(\n(?:\w.*\n)*?unit = "ms")', r"threshold = \g<1>00\2", text, flags=re.MULTILINE)
    )


def states(done: Rollback) -> list[str]:
    return [step.state for step in done.steps]


def traffic_of(mock: Served) -> dict[str, Any]:
    return dict(mock.state()["traffic"])


AS_IT_WAS = {"serving": "r2", "cohort_percent": 30, "throttle": {"publishes_per_s": None, "connects_per_s": None}}
