"""The tutorials of whole rollouts are true: their lines are run one after the other, from a wheel, and every stage is a go."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drills.rollout.setup import stages
from drills.rollout.verdict.window_data.stage_window import MIN_SNAPSHOTS
from drills.runs import catalog
from sim.drill import model as drill_file
from tests.commands import free_port
from tests.packaging.wheel import ROOT, Installed

DRIVER = Path(__file__).with_name("stepped_stormgate.py")
BLOCK = re.compile(r'^```sh(?: title="(?P<title>[^"]+)")?\n(?P<lines>.*?)^```$', re.MULTILINE | re.DOTALL)
PORT = re.compile(r"\b8(?:48[01]|6[01][01])\b")
READY = "Ctrl-C stops it."
STAGES = ["0", "1", "2", "3a", "3b", "4"]
CHECKOUT = Installed(Path(), Path(sys.prefix))


@dataclass(frozen=True)
class Page:
    """A tutorial: its file, the folder whose files its reader copies, and the part of it that is walked."""

    name: str
    rollout: str
    copied: str = ""
    until: str = "\0"  # a heading
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        text = (ROOT / "docs" / "tutorials" / self.name).read_text()
        for before, after in self.changes:
            assert before in text, before
            text = text.replace(before, after)
        return text.partition(self.until)[0]

    def blocks(self) -> tuple[list[str], str]:
        """The commands of the other terminals, and all lines of the first one."""
        found = [(block["title"], block["lines"]) for block in BLOCK.finditer(self.text)]
        return [lines for title, lines in found if title], "\n".join(lines for title, lines in found if not title)


FIRST = Page("first-rollout.md", "practice")
CENTRIFUGO = Page("rollout-of-centrifugo.md", "centrifugo", copied="examples/centrifugo")
VERIFIED = 'for run in results/rollouts/practice/runs/*; do stormgate stage verify "$run"; done\n'
SHORT = replace(  # its first two stages, with the drill that has every check of the gates
    FIRST,
    until="## 7. Stage 2",
    changes=(("## 7. Stage 2", f"```sh\n{VERIFIED}```\n## 7. Stage 2"), (', "session_revocation"]', "]")),
)


@contextmanager
def another_terminal(lines: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run lines until the body ends; the body begins when they have said that they are ready."""
    *before, last = lines.strip().splitlines()
    command = ["bash", "-c", "\n".join((*before, f"exec {last}"))]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(READY in line for line in process.stdout), "it ended at once"
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def walk(page: Page, wheel: Installed, folder: Path, **more: str) -> str:
    """Run the page in a folder; return what its last block printed."""
    others, script = page.blocks()
    ports = {port: str(free_port()) for port in PORT.findall("\n".join(others))}
    assert len(ports) == len(others)

    def here(lines: str) -> str:
        return PORT.sub(lambda port: ports[port[0]], lines)

    programs, place = folder / "programs", folder / "place"
    programs.mkdir()
    place.mkdir()
    for file in (ROOT / page.copied).iterdir() if page.copied else ():
        (place / file.name).write_text(here(file.read_text()))
    stepped = programs / "stormgate"
    state = folder / "state.json"
    stepped.write_text(
        f'#!/bin/sh\nif [ "$1" = stage ]; then exec {wheel.python} {DRIVER} {state} "$@"; fi\nexec {wheel.stormgate} "$@"\n'
    )
    stepped.chmod(0o755)
    environment = wheel.environment(**servers(folder), **more)
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    with ExitStack() as terminals:
        for lines in others:
            terminals.enter_context(another_terminal(here(lines), place, environment))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", here(script)],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert page.copied or not (place / "targets.toml").exists(), "the services described themselves only while they ran"
    return done.stdout


def servers(folder: Path) -> dict[str, str]:
    """The variable that leads an installed stormgate to the third-party servers of the checkout."""
    cache = folder / "cache" / "stormgate"
    cache.mkdir(parents=True)
    (cache / "servers").symlink_to(ROOT / ".servers")
    return {"XDG_CACHE_HOME": str(cache.parent)}


def check(page: Page, folder: Path, said: str, stages: Sequence[str] = STAGES, *, is_checkout: bool = False) -> None:
    """Every stage is a signed go of the chosen stormgate, held for its whole time."""
    assert said.count("files are unchanged; go, signed by A. Operator") == len(stages), said
    runs = sorted((folder / "place" / "results" / "rollouts" / page.rollout / "runs").iterdir())
    reports = [json.loads((run / "stage-report.json").read_text()) for run in runs]
    assert sorted(report["plan"]["stage"] for report in reports) == [*stages]
    for report in reports:
        plan = report["plan"]
        assert (report["decision"], plan["target_kind"], bool(plan["tool_commit"])) == ("go", "staging", is_checkout)
        assert report["hold_observed_s"] >= plan["hold_required_s"]
        assert {each["state"] for each in report["requirements"]} == {"pass"}
    (preflight,) = (run for run in runs if json.loads((run / "stage-report.json").read_text())["plan"]["stage"] == "0")
    commands = [json.loads(line) for line in (preflight / "commands.jsonl").read_text().splitlines()]
    assert [(each["name"], each["tests"]) for each in commands] == [("metrics", 1), ("retired_routes", 1)]


@pytest.mark.parametrize("page", [FIRST, CENTRIFUGO], ids=lambda page: page.rollout)
def test_the_stages_file_of_the_page_is_whole(page: Page, tmp_path: Path) -> None:
    """It has every stage of the runbook, its hold's lengths suit its interval, and its drills answer what the gates ask."""
    for name, text in re.findall(r"cat > ([\w.]+) <<'END'\n(.*?)^END$", page.text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    rules = stages.load(tmp_path / "stages.toml")
    assert [*rules.stages] == STAGES
    least = MIN_SNAPSHOTS * rules.sampling.interval_s
    assert all(rule.business_day or (rule.hold_s or rule.baseline_s or 0) >= least for rule in rules.stages.values())
    assert rules.stages["0"].drills is not None
    drills = [catalog.path_of(name, tmp_path) for name in rules.stages["0"].drills.staging]
    asked = {check for path in drills for check in drill_file.load(path).checks}
    assert {"reconnect.backoff_unjittered", "reconnect.backoff_never_resets", "reconnect.live_again_99_s"} <= asked
    assert [command.runner for command in rules.commands] == ["unittest", "unittest"]


def test_the_first_stages_of_the_page_are_true(wheel: Installed, tmp_path: Path) -> None:
    check(SHORT, tmp_path, walk(SHORT, wheel, tmp_path, STEPPED_QUICK="1"), STAGES[:2])


@pytest.mark.long
@pytest.mark.parametrize("page", [FIRST, CENTRIFUGO], ids=lambda page: page.rollout)
def test_every_line_of_the_page_is_true(page: Page, wheel: Installed, tmp_path: Path) -> None:
    """A canary check runs once, windows are judged less often, and a slow machine is no reason for a no-go."""
    check(page, tmp_path, walk(page, wheel, tmp_path, STEPPED_QUICK="1"))


@pytest.mark.long
def test_every_line_of_the_page_is_true_in_a_checkout(tmp_path: Path) -> None:
    check(FIRST, tmp_path, walk(FIRST, CHECKOUT, tmp_path, STEPPED_QUICK="1"), is_checkout=True)


@pytest.mark.long
def test_every_line_of_the_page_is_true_with_every_evaluation(wheel: Installed, tmp_path: Path) -> None:
    check(FIRST, tmp_path, walk(FIRST, wheel, tmp_path))
