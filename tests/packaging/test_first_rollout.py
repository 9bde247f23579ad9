"""The tutorial "Your first rollout" is true: its lines are run one after the other, from a wheel, and every stage is a go."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drills import CATALOG
from drills.rollout.setup import stages
from drills.rollout.verdict.window_data.stage_window import MIN_SNAPSHOTS
from sim.drill import model as drill_file
from tests.commands import free_port
from tests.packaging.wheel import ROOT, Installed

PAGE = ROOT / "docs" / "tutorials" / "first-rollout.md"
DRIVER = Path(__file__).with_name("stepped_stormgate.py")
BLOCK = re.compile(r'^```sh(?: title="(?P<title>[^"]+)")?\n(?P<lines>.*?)^```$', re.MULTILINE | re.DOTALL)
PORTS = ("8480", "8481")
READY = "Ctrl-C stops it."
STAGES = ["0", "1", "2", "3a", "3b", "4"]


def blocks() -> tuple[list[str], str]:
    """The commands of the other terminals, and all lines of the first one."""
    found = [(block["title"], block["lines"]) for block in BLOCK.finditer(PAGE.read_text())]
    return [lines for title, lines in found if title], "\n".join(lines for title, lines in found if not title)


@contextmanager
def another_terminal(lines: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run lines until the body ends; the body begins when they have said that they are ready."""
    command = ["bash", "-c", f"exec {lines.strip()}"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(READY in line for line in process.stdout), "it ended at once"
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def walk(wheel: Installed, folder: Path, **more: str) -> str:
    """Run the page in a folder; return what its last block printed."""
    ports = {port: str(free_port()) for port in PORTS}
    others, script = blocks()
    assert len(others) == len(PORTS)

    def here(lines: str) -> str:
        return re.sub("|".join(PORTS), lambda port: ports[port[0]], lines)

    programs, place = folder / "programs", folder / "place"
    programs.mkdir()
    place.mkdir()
    stepped = programs / "stormgate"
    state = folder / "state.json"
    stepped.write_text(
        f'#!/bin/sh\nif [ "$1" = stage ]; then exec {wheel.python} {DRIVER} {state} "$@"; fi\nexec {wheel.stormgate} "$@"\n'
    )
    stepped.chmod(0o755)
    environment = wheel.environment(**more)
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    with another_terminal(here(others[0]), place, environment), another_terminal(here(others[1]), place, environment):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", here(script)],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert not (place / "targets.toml").exists(), "the services described themselves only while they ran"
    return done.stdout


def check(folder: Path, said: str) -> None:
    """Every stage is a signed go of the installed stormgate, held for its whole time."""
    assert said.count("files are unchanged; go, signed by A. Operator") == len(STAGES), said
    runs = sorted((folder / "place" / "results" / "rollouts" / "practice" / "runs").iterdir())
    reports = [json.loads((run / "stage-report.json").read_text()) for run in runs]
    assert sorted(report["plan"]["stage"] for report in reports) == STAGES
    for report in reports:
        plan = report["plan"]
        assert (report["decision"], plan["target_kind"], plan["tool_commit"]) == ("go", "staging", "")
        assert report["hold_observed_s"] >= plan["hold_required_s"]
        assert {each["state"] for each in report["requirements"]} == {"pass"}
    (preflight,) = (run for run in runs if json.loads((run / "stage-report.json").read_text())["plan"]["stage"] == "0")
    commands = [json.loads(line) for line in (preflight / "commands.jsonl").read_text().splitlines()]
    assert [(each["name"], each["tests"]) for each in commands] == [("metrics", 1), ("retired_routes", 1)]


def test_the_stages_file_of_the_page_is_whole(tmp_path: Path) -> None:
    """It has every stage of the runbook, its hold's lengths suit its interval, and its drills answer what the gates ask."""
    (text,) = re.findall(r"cat > stages.toml <<'END'\n(.*?)^END$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "stages.toml").write_text(text)
    rules = stages.load(tmp_path / "stages.toml")
    assert [*rules.stages] == STAGES
    least = MIN_SNAPSHOTS * rules.sampling.interval_s
    assert all(rule.business_day or (rule.hold_s or rule.baseline_s or 0) >= least for rule in rules.stages.values())
    assert rules.stages["0"].drills is not None
    asked = {check for name in rules.stages["0"].drills.staging for check in drill_file.load(CATALOG / f"{name}.toml").checks}
    assert {"reconnect.backoff_unjittered", "reconnect.backoff_never_resets", "reconnect.live_again_99_s"} <= asked
    assert [command.runner for command in rules.commands] == ["unittest", "unittest"]


@pytest.mark.long
def test_every_line_of_the_page_is_true(wheel: Installed, tmp_path: Path) -> None:
    """A canary check runs once, windows are judged less often, and a slow machine is no reason for a no-go."""
    check(tmp_path, walk(wheel, tmp_path, STEPPED_QUICK="1"))


@pytest.mark.long
def test_every_line_of_the_page_is_true_with_every_evaluation(wheel: Installed, tmp_path: Path) -> None:
    check(tmp_path, walk(wheel, tmp_path))
