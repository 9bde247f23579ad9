"""Listings fit a terminal of 80 columns."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from drills.cli import main
from drills.reports import terminal
from drills.rollout.hold import status
from drills.runs import catalog, results
from sim.record.observations import Kind
from tests.commands import stormgate_here
from tests.histories import good_storm, storm_drill

COLUMNS = 80
LISTINGS = (
    *("drill list", "drill show reconnect_storm", "drill show parity", "mock defects", "gates list"),
    *(
        "gates explain replay.bootstrap_ms",
        "target protocols",
        "target servers",
        "doctor",
        "stage plan",
    ),
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("command", LISTINGS)
def test_listing_fits(command: str) -> None:
    said = stormgate_here(*command.split())
    assert said.code == 0
    assert [line for line in said.out.splitlines() if len(line) > COLUMNS] == []


def commands(command: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of a command, and of each below it."""
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *words, name)


def test_help_of_every_command_fits() -> None:
    every = list(commands(get_command(main.app)))
    assert ("stage", "hold") in every
    for words in every:
        said = stormgate_here(*words, "--help")
        assert said.code == 0
        assert [line for line in said.out.splitlines() if len(line) > COLUMNS] == [], words


def test_rehearsal_fits_but_for_its_commands(tmp_path: Path) -> None:
    said = stormgate_here("rollback", "rehearse", "--dry-run", "--out", tmp_path)
    assert said.code == 2
    assert "1 traffic: would run" in said.out
    plain = re.sub("`[^`]*`;?", "", said.out).splitlines()
    assert [line for line in plain if len(line) > COLUMNS and not line.startswith("evidence: ")] == []


def test_drill_list_has_a_line_per_drill() -> None:
    assert len(stormgate_here("drill", "list").out.splitlines()) == 1 + len(catalog.by_name())


@pytest.fixture
def lossy_run(tmp_path: Path) -> Path:
    """A run that lost an event."""
    drill = storm_drill(name="storm")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="mock", target_kind="mock", seed=7)
    lossy = good_storm().without(lambda row: row.kind is Kind.APPLIED and row.client == 3 and row.seq == 5)
    lossy.write(results.create_drill_folder(run_dir, drill), drill)
    return run_dir


def test_verdict_fits_and_its_sentences_stay_whole_in_a_file(lossy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = stormgate_here("judge", lossy_run).out
    assert [line for line in folded.splitlines() if len(line) > COLUMNS and not line.startswith("evidence: ")] == []
    monkeypatch.delenv("COLUMNS")
    whole = stormgate_here("judge", lossy_run).out
    assert max(len(line) for line in whole.splitlines()) > COLUMNS
    assert whole.split() == folded.split()


@pytest.mark.parametrize("command", ["drill run --all", "stage run 0"])
def test_dry_run_fits_but_for_its_commands(command: str) -> None:
    said = stormgate_here(*command.split(), "--dry-run")
    assert said.code == 2
    sentences = re.sub("`[^`]*`", "", said.out).splitlines()
    assert [line for line in sentences if len(line) > COLUMNS] == []


def test_events_fit(lossy_run: Path) -> None:
    folded = stormgate_here("drill", "events", lossy_run, "--client", 3).out
    assert [line for line in folded.splitlines() if len(line) > COLUMNS] == []


def test_status_fits_but_for_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = "stormgate stage hold 2 --rollout a_rollout_with_a_very_long_name --target staging_in_another_region"
    waits = "stage 1 is not signed by the two people who must sign it before the next stage can begin: operations and product"
    found = status.Status(rollout="r", folder="", at="", stages=(), next_stage="2", missing=(waits,), command=command)
    status.show(found, terminal.out())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"next: {command}"
    assert [line for line in lines[:-1] if len(line) > COLUMNS] == []
    assert f"stage 2 waits: {waits}" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  aa bb cc dd", "  aa bb\n    cc dd"),
        ("run `aa bb\ncc dd` now", "run\n  `aa bb\ncc dd`\n  now"),
        ("a  b", "a  b"),
        ("aaaa-bbbb-cccc d", "aaaa-bbbb-cccc\n  d"),
    ],
)
def test_words_and_commands_stay_whole(text: str, folded: str) -> None:
    assert terminal.folded(text, 9) == folded


def test_explanations_fit(lossy_run: Path) -> None:
    """Only commands and their options are longer, because people copy them as one line."""
    lines = stormgate_here("drill", "explain", lossy_run).out.splitlines()
    assert len(lines) > 10
    is_command = ("stormgate ", "options ", "all ")
    assert [line for line in lines if len(line) > COLUMNS and not line.strip().startswith(is_command)] == []
