"""The status of a hold in another terminal: what its latest evaluation found, and when the next one is due."""

from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from drills.rollout.hold import status
from drills.rollout.hold.status import StageStatus
from sim.base.clocks import from_iso
from tests.rollout.hold_world import RULES, KilledError, World, between


def test_status_shows_the_latest_evaluation_and_that_the_next_is_overdue(tmp_path: Path) -> None:
    world = World(tmp_path, short=between(900, 7200), killed=between(1800, 7200))
    with pytest.raises(KilledError):
        world.held()
    shown = stage_1(world)
    assert shown.hold is not None
    assert shown.hold.evaluated is not None
    assert (shown.hold.is_overdue, from_iso(shown.hold.evaluated.next) >= world.clock.now()) == (False, True)
    words = status_lines(world)
    assert "coverage pass; worst check: replay.bootstrap_ms inconclusive (so it is); next evaluation" in words
    assert "overdue" not in words
    world.clock.step(timedelta(minutes=10))
    assert "it is overdue, so the hold may have been killed" in status_lines(world)


def test_status_shows_no_evaluation_from_before_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, silent=between(900, 7200), killed=between(1500, 7200))
    with pytest.raises(KilledError):
        world.held()
    shown = stage_1(world)
    assert shown.hold is not None
    assert (shown.hold.evaluated, "a hole" in shown.hold.last) == (None, True)
    assert "next evaluation" not in status_lines(world)


def stage_1(world: World) -> StageStatus:
    (found,) = (each for each in status.of(world.rollout, world.clock.now(), RULES).stages if each.stage == "1")
    return found


def status_lines(world: World) -> str:
    """What `stage status` prints, whatever the terminal's width."""
    console = Console(file=StringIO(), width=200)
    status.show(status.of(world.rollout, world.clock.now(), RULES), console)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
