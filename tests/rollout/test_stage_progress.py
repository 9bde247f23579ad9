"""What is shown while a stage runs: the part, how far it is, and the remaining time; and in which order drills run."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from drills.rollout.hold import progress
from drills.rollout.hold.progress import Progress
from drills.rollout.preflight import drill_runs, one_drill
from drills.rollout.preflight.one_drill import Order
from drills.rollout.setup.records import DrillDone
from drills.rollout.setup.stage_target import StageTarget
from sim.engines.shared.endpoints import EMBEDDED_MOCK, Endpoints

PARTS = {"drills": 600.0, "baseline": 3600.0}
DRILL = """
name = "{name}"
summary = "Is everything stored?"
checks = ["delivery.one_order"]
faults = []
fleet = {{ clients = 5, connects_per_s = 10.0 }}
load = {{ events_per_s = 10.0, run_streams = 1 }}
phases = {{ steady_s = 1.0, fault_s = {length}, recovery_s = 0.0, settle_s = 1.0 }}
"""


def test_remaining_time_is_that_of_this_part_and_of_those_after_it() -> None:
    shown = Progress("stage 0", PARTS)
    shown.begin("drills")
    shown.show("3 of 30 done")
    assert 4190 < shown.left_s() <= 4200
    assert shown.line() == "stage 0: drills, 3 of 30 done; about 70 min left"
    shown.begin("baseline")
    assert shown.line() == "stage 0: baseline; about 60 min left"


def test_a_part_that_takes_too_long_leaves_the_time_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Progress("stage 0", PARTS)
    shown.begin("drills")
    later = progress.time.monotonic() + 10_000
    monkeypatch.setattr(progress.time, "monotonic", lambda: later)
    assert shown.left_s() == 3600.0


def test_without_a_terminal_a_line_is_printed_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.001)
    printed = io.StringIO()
    with Progress("stage 0", PARTS, console=Console(file=printed, width=300)) as shown:
        shown.begin("drills")
        while printed.getvalue().count("stage 0: drills; about 70 min left\n") < 2:
            pass
    count = printed.getvalue().count("\n")
    assert count >= 2
    assert shown._thread is not None
    assert not shown._thread.is_alive()


def test_on_a_terminal_one_line_changes() -> None:
    printed = io.StringIO()
    with Progress("stage 0", PARTS, console=Console(file=printed, width=100, force_terminal=True)) as shown:
        assert shown.is_live
        shown.begin("baseline")
        assert shown._live is not None
        shown._live.refresh()
    assert "stage 0: baseline; about 60 min left" in printed.getvalue()


class Ended:
    """A drill that has ended at once."""

    started: list[str]
    failing = "short"

    def __init__(self, order: Order, log: Path) -> None:
        self.name = Path(order.drill).stem
        self.started.append(self.name)

    def poll(self) -> DrillDone:
        status = "fail" if self.name == self.failing else "pass"
        return msgspec.structs.replace(one_drill.not_run(self.name, 1, ""), status=status)


@pytest.mark.parametrize(
    ("name", "order"),
    [("staging", ["short", "middle", "long"]), (EMBEDDED_MOCK, ["long", "middle", "short"])],
)
def test_drills_that_run_one_by_one_begin_with_the_shortest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, order: list[str]
) -> None:
    """Side by side, the longest begins first, so that all end as soon as possible."""
    monkeypatch.setattr(drill_runs, "Child", Ended)
    Ended.started = []
    drills = {}
    for drill, length in (("middle", 5.0), ("long", 9.0), ("short", 1.0)):
        drills[drill] = tmp_path / f"{drill}.toml"
        drills[drill].write_text(DRILL.format(name=drill, length=length))
    endpoints = Endpoints(name, "mock", "http://127.0.0.1:9", "http://127.0.0.1:9")
    said: list[str] = []
    shown: list[str] = []
    target = StageTarget("there", None, endpoints, None)
    drill_runs.run_all(drills, tmp_path, target, 2, said.append, shown.append)
    assert Ended.started == order
    assert sum("cannot be a go" in line for line in said) == 1
    assert shown[-1] == f"2 of 3 done, {order[-1]} running"
