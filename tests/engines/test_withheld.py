"""Events withheld between adapter and session: where positions are dense they come again, elsewhere nobody can notice."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results
from sim.drill.fault_kinds import SkipDeliveries
from sim.drill.target_rules import Hook, Rules
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.withholding import is_withheld
from sim.protocols import registry
from sim.protocols.adapter import Positions
from sim.record.parquet import read
from tests.commands import stormgate
from tests.live import thirdparty
from tests.storms import run_all, small, storm

FAULT = 'faults = [{ kind = "skip_deliveries", at_s = 0.0, for_s = 3.0, clients_share = 0.5, events_share = 0.1 }]'
DRILL = f"""
name = "passing_through"
summary = "Does each client notice a missing event and close the gap?"
checks = ["replay.divergence", "delivery.dropped_deliveries", "ux.integrity"]
{FAULT}
fleet = {{ clients = 20, connects_per_s = 40.0 }}
load = {{ events_per_s = 40.0, run_streams = 2 }}
phases = {{ steady_s = 1.5, fault_s = 3.0, recovery_s = 1.0, settle_s = 10.0 }}
"""


def kinds(folder: Path) -> dict[str, int]:
    counts = read(folder).column("kind").value_counts().to_pylist()
    return {str(each["values"]): int(each["counts"]) for each in counts}


def test_clients_of_a_live_target_notice_and_recover_without_a_hook(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        targets, path = live.write(drill=DRILL)
        more = ("--target", "thirdparty", "--targets", targets, "--out", tmp_path / "out")
        said = stormgate("drill", "run", path, *more, **live.environment)
    assert said.code == 0, said
    (run_dir,) = (tmp_path / "out").iterdir()
    found = kinds(results.drill_folder(run_dir, "passing_through"))
    assert found["withheld"] > 10
    assert found["gap"] >= found["withheld"] / 2
    assert found["fault_observed"] == 1


def with_positions(monkeypatch: pytest.MonkeyPatch, positions: Positions) -> None:
    """The default protocol, as if a missing event were not visible."""
    usual = registry.get(registry.DEFAULT)
    blind = replace(usual, capabilities=msgspec.structs.replace(usual.capabilities, positions=positions))
    monkeypatch.setattr(registry, "get", lambda name: blind)


def check(verdict: DrillVerdict, name: str) -> State:
    return next(each.state for each in verdict.checks if each.name == name)


@pytest.mark.parametrize("positions", [Positions.ORDERED, Positions.OPAQUE])
def test_loss_that_no_client_can_notice_is_inconclusive_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: Positions
) -> None:
    with_positions(monkeypatch, positions)
    verdict = storm(tmp_path, small("dropped_delivery"), engine="virtual")
    assert verdict.status is State.INCONCLUSIVE
    assert check(verdict, "drill.loss_unnoticeable") is State.INCONCLUSIVE
    assert verdict.violations == ()
    assert check(verdict, "delivery.dropped_deliveries") is State.PASS
    assert check(verdict, "drill.converged") is State.PASS


@pytest.mark.parametrize("positions", [Positions.ORDERED, Positions.OPAQUE])
def test_loss_of_the_server_is_no_part_of_what_was_withheld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: Positions
) -> None:
    with_positions(monkeypatch, positions)
    verdict = storm(tmp_path, small("dropped_delivery", "phases.settle_s=3"), engine="virtual", defects=("skip_delivery",))
    assert verdict.status is State.FAIL
    assert check(verdict, "delivery.dropped_deliveries") is State.FAIL


def test_mock_with_dense_positions_skips_deliveries_itself(tmp_path: Path) -> None:
    run_dir = run_all(tmp_path, small("dropped_delivery"), engine="virtual")
    assert "withheld" not in kinds(results.drill_folder(run_dir, "dropped_delivery"))
    (verdict,) = results.judge_run(run_dir).drills
    assert "drill.loss_unnoticeable" not in {each.name for each in verdict.checks}
    assert check(verdict, "drill.faults_observed") is State.PASS


SKIP = SkipDeliveries(at_s=0.0, for_s=1.0, clients_share=1.0, events_share=0.5)


@pytest.mark.parametrize(
    ("positions", "endpoints", "wanted"),
    [
        (Positions.DENSE, None, False),
        (Positions.DENSE, Endpoints("ours", "mock", "", ""), False),
        (Positions.DENSE, Endpoints("theirs", "staging", "", ""), True),
        (
            Positions.DENSE,
            Endpoints("theirs", "staging", "", "", rules=Rules(hooks={"skip_deliveries": Hook(inject=["true"])})),
            False,
        ),
        (Positions.ORDERED, None, True),
        (Positions.OPAQUE, Endpoints("theirs", "staging", "", ""), True),
    ],
)
def test_who_skips_deliveries(positions: Positions, endpoints: Endpoints | None, wanted: bool) -> None:
    able = msgspec.structs.replace(registry.get(registry.DEFAULT).capabilities, positions=positions)
    assert is_withheld(SKIP, able, endpoints) is wanted
