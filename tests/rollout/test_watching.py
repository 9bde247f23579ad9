"""Who follows a hold: the notification command and the served verdict see each change, and change nothing themselves."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from drills.exports import server
from drills.exports.live import Live
from drills.exports.verdict import Verdict
from drills.rollout.hold import watching
from drills.rollout.hold.hold import Hold
from drills.rollout.setup import journal, stages
from drills.rollout.setup.calendar import Calendar
from drills.rollout.setup.records import CanaryCheckDone
from drills.rollout.setup.stages import Notify
from sim.base.errors import UsageError
from tests.commands import sets, stormgate_here
from tests.rollout.hold_world import RULES, World, between
from tests.storms import SMALL

SECRET = "their-adm1n-s3cret"
KEEPS = """
import json, os, sys
with open(sys.argv[1], "a") as file:
    file.write(json.dumps({"said": json.load(sys.stdin), "environment": dict(os.environ)}) + "\\n")
sys.exit(int(sys.argv[2]))
"""


def held(world: World, argv: tuple[str, ...] = (), live: Live | None = None, timeout_s: float = 20.0) -> list[str]:
    """Hold with this command; returns the kinds of the events."""
    with world.stage_run() as run:
        run = replace(run, stages=msgspec.structs.replace(RULES, notify=Notify(argv=argv, timeout_s=timeout_s)))
        with watching.watching(run, live) as watcher:
            calendar = Calendar(RULES.calendar)
            Hold(run, world, world, world.judge, calendar=calendar, watcher=watcher).run()  # type: ignore[arg-type]
    return world.kinds()


def keeping(folder: Path, code: int = 0) -> tuple[str, ...]:
    (folder / "keep.py").write_text(KEEPS)
    return sys.executable, str(folder / "keep.py"), str(folder / "kept.jsonl"), str(code)


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "kept.jsonl").read_text().splitlines()]


def outcomes(world: World) -> list[tuple[str, str, str]]:
    entries = journal.read(world.rollout / journal.NAME)
    return [(e.body["event"], e.body["state"], e.body["reason"]) for e in entries if e.kind == watching.NOTIFIED]


def test_command_is_told_of_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_ADMIN_TOKEN", SECRET)
    world = World(tmp_path, red=between(600, 900))
    held(world, keeping(tmp_path))
    lines = [line["said"] for line in kept(tmp_path)]
    events = [line["event"] for line in lines]
    assert [event for event in events if event != "worst_check"] == world.kinds()
    worst = [(line["worst_check"] or {}).get("state") for line in lines if line["event"] == "worst_check"]
    assert worst == ["fail", None], "it turned red and then green again"
    (ended,) = [line for line in lines if line["event"] == "ended"]
    assert (ended["rollout"], ended["stage"], ended["run_id"], ended["target"]) == ("r", "1", "run", "there")
    assert ended["hold"]["held_s"] == ended["hold"]["required_s"] == 3600.0
    restarted = next(line for line in lines if line["event"] == "restarted")
    assert restarted["reason"] == "replay.bootstrap_ms fail: so it is"
    assert [outcome[:2] for outcome in outcomes(world)] == [(event, "pass") for event in events]


def test_command_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_ADMIN_TOKEN", SECRET)
    monkeypatch.setenv("STORMGATE_SESSION", SECRET)
    held(World(tmp_path), keeping(tmp_path))
    for line in kept(tmp_path):
        assert "PATH" in line["environment"]
        assert SECRET not in json.dumps(line)
        assert not {"RUNTIME_ADMIN_TOKEN", "STORMGATE_SESSION"} & set(line["environment"])


@pytest.mark.parametrize(
    ("argv", "words"), [(None, "it ended with exit code 7"), (("/nowhere/notify",), "could not be started")]
)
def test_failing_command_is_recorded_and_changes_nothing(tmp_path: Path, argv: tuple[str, ...] | None, words: str) -> None:
    quiet, loud = World(_folder(tmp_path / "quiet")), World(_folder(tmp_path / "loud"))
    assert held(quiet) == held(loud, argv or keeping(tmp_path, 7))
    found = outcomes(loud)
    assert {state for _, state, _ in found} == {"fail"}
    assert all(words in reason for *_, reason in found)
    assert any("the notification command failed for 'ended'" in said for said in loud.said)
    assert outcomes(quiet) == []


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_hanging_command_is_ended_and_the_hold_does_not_wait_for_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    held(world, (sys.executable, "-c", "import time; time.sleep(600)"), timeout_s=0.1)
    assert world.kinds()[-1] == "ended"
    assert all("did not end within 0.1 s" in reason for *_, reason in outcomes(world))
    assert outcomes(world)


def test_secret_in_the_arguments_is_refused(tmp_path: Path) -> None:
    target = World(tmp_path).target()
    target = replace(target, endpoints=replace(target.endpoints, admin_token=SECRET))
    watching.require_no_secrets(Notify(argv=("./notify.sh", "--quiet")), target)
    with pytest.raises(UsageError, match="argv has a secret of the target"):
        watching.require_no_secrets(Notify(argv=("./notify.sh", f"--key={SECRET}")), target)


def test_command_beside_the_stages_file_is_found(tmp_path: Path) -> None:
    script = tmp_path / "notify.sh"
    script.write_text("#!/bin/sh\npwd > where\n")
    script.chmod(0o755)
    world = World(tmp_path)
    held(world, ("./notify.sh",))
    assert {state for _, state, _ in outcomes(world)} == {"pass"}
    assert (tmp_path / "where").read_text().strip() == str(tmp_path)


def test_notify_table_is_read_and_limited(tmp_path: Path) -> None:
    text = stages.DEFAULT_PATH.read_text()
    path = tmp_path / "stages.toml"
    path.write_text(text.replace("argv = []  ", 'argv = ["./notify.sh"]  ', 1))
    assert stages.load(path).notify == Notify(argv=("./notify.sh",))
    path.write_text(text.replace("timeout_s = 10.0  ", "timeout_s = 61.0  ", 1))
    with pytest.raises(UsageError, match="timeout_s"):
        stages.load(path)


# --- the served verdict -----------------------------------------------------------------------------


def test_verdict_of_a_hold_is_served_while_it_runs(tmp_path: Path) -> None:
    live = Live(Verdict(kind="stage", rollout="r", stage="1"))
    seen: list[dict[str, Any]] = []
    world = World(tmp_path, red=between(600, 900))
    with server.serving(live, server.LOOPBACK, 0) as url:
        judge = world.judge

        def asks(*times: Any) -> Any:
            seen.append(httpx.get(f"{url}/verdict.json", trust_env=False).json())
            return judge(*times)

        world.judge = asks  # type: ignore[method-assign]
        held(world, live=live)
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    assert {verdict["state"] for verdict in seen} == {"running"}, "a hold is no go before its report"
    assert any((verdict["worst_check"] or {}).get("state") == "fail" for verdict in seen)
    restarts = [verdict["hold"]["restarts"] for verdict in seen if verdict["hold"]]
    assert restarts[0] == 0
    assert restarts == sorted(restarts)
    assert restarts[-1] > 0
    about = 'rollout="r",stage="1"'
    assert f"stormgate_hold_held_seconds{{{about}}} 3600.0" in metrics
    assert f'stormgate_check_state{{check="replay.bootstrap_ms",{about},state="pass"}} 1.0' in metrics


def test_figures_of_canary_checks_add_up(tmp_path: Path) -> None:
    live, world = Live(Verdict(kind="stage"), pytest.fail), World(tmp_path)
    with world.stage_run() as run:
        out = run.run_dir / "canary-checks"
        stormgate_here("drill", "run", "observation", "--engine", "virtual", "--out", out, *sets(*SMALL))
        (folder,) = [path for path in out.iterdir() if (path / "drills").is_dir()]
        done = CanaryCheckDone(at="", ended="", run=f"canary-checks/{folder.name}", drill="", phase="hold", status="pass")
        watcher = watching.Watcher(run, live)
        counts = []
        for _ in range(2):
            watcher.checked(done)
            (latency,) = [family for family in live.collect() if family.name == "stormgate_delivery_latency_seconds"]
            counts.append(latency.samples[-2].value)
        watcher.checked(msgspec.structs.replace(done, run="canary-checks/gone"))
    assert counts[0] > 0
    assert counts == [counts[0], 2 * counts[0]]
