"""The drill parity: one history on several variants, red as soon as one of them is not as the others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from drills import CATALOG
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, State
from drills.runs import results, running, variants
from drills.runs.request import Request
from sim.base.errors import UsageError
from sim.client import backoff, policies
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from tests.commands import sets, stormgate, stormgate_here
from tests.storms import red

GO, NO_GO, INCONCLUSIVE, USAGE, ERROR = 0, 1, 2, 3, 4
# Two policies, few clients.
SMALL = ("fleet.clients=6", "variants.0.policies=['reference', 'phoenix_js']")


def parity(*overrides: str, engine: str | None = "virtual") -> Drill:
    drill = drills.load(CATALOG / "parity.toml", (*SMALL, *overrides))
    return variants.on_engine(drill, engine) if engine else drill


def ran(
    out: Path, drill: Drill, wrong_on: dict[str, tuple[str, ...]] | None = None, seed: int = 1, model: Path | None = None
) -> Path:
    """Run it on all its variants, some of whose runtimes are wrong; returns the run's folder."""
    request = Request((drill,), engine="virtual", target="mock", seed=seed, defects=(), thresholds=None, out=out, model=model)
    if not wrong_on:
        return running.run(request)
    run_dir = results.create_run(out, (drill,), engine="virtual", target="embedded mock", target_kind="mock", seed=seed)
    results.create_drill_folder(run_dir, drill)
    assert running.run_variants(drill, run_dir, request, wrong_on) == ""
    return run_dir


def verdict_of(run_dir: Path) -> DrillVerdict:
    (verdict,) = results.judge_run(run_dir).drills
    return verdict


def check_of(verdict: DrillVerdict, name: str = "replay.parity") -> CheckResult:
    return next(check for check in verdict.checks if check.name == name)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("healthy"), parity())


def test_all_variants_of_a_healthy_server_are_equal(healthy: Path):
    verdict = verdict_of(healthy)
    found = check_of(verdict)
    assert (found.state, found.value, found.n) == (State.PASS, 0.0, 4)
    assert found.reason.startswith("4 variants have the same 400 events")
    assert verdict.status is State.PASS
    assert verdict.policy == "reference, phoenix_js"
    rebooted = check_of(verdict, "drill.stale_signalled")  # the trim really hit someone on every variant
    assert rebooted.state is State.PASS
    assert "in each of 4 variants" in rebooted.reason


def test_each_variant_runs_as_named(healthy: Path):
    """Frames bring one update each, batches bring several at once when a client comes back; the policy's delays are its own."""
    for variant in variants.variants_of(parity()):
        header, recorded = read_verified(results.variant_folder(healthy, "parity", variant))
        rows = recorded.table().to_pylist()
        received = {row["value"] for row in rows if row["kind"] == Kind.RECEIVED}
        assert (max(received) > 1) == (variant.delivery == "update_batch")
        assert (header.engine, header.policy) == (variant.engine, variant.policy)
        first_delays = {row["value"] for row in rows if row["kind"] == Kind.BACKOFF and row["attempt"] == 1}
        assert (first_delays == {10.0}) == (variant.policy == "phoenix_js")


@pytest.mark.parametrize(
    ("defect", "has"),
    [
        ("wrong_payload_hash", "nothing"),
        ("skip_delivery", "late on"),
        ("reorder_replay", "nothing"),
        ("lose_log_on_restart", "the log"),
        ("replay_off_by_one", "late on"),
    ],
)
def test_defect_of_one_variant_fails_and_is_named(tmp_path: Path, defect: str, has: str):
    wrong = "virtual-frame-phoenix_js"
    verdict = verdict_of(ran(tmp_path, parity("fleet.clients=12"), {wrong: (defect,)}))
    found = check_of(verdict)
    assert found.state is State.FAIL
    assert found.value == 1.0
    assert found.reason.startswith("first at runtime.run.r")
    assert ", seq " in found.reason
    assert " on virtual-update_batch-reference, but " in found.reason
    assert found.reason.endswith(f" on {wrong}")
    assert has in found.reason
    assert verdict.defects == (defect,)


def test_the_shipped_client_parts_by_name(tmp_path: Path):
    verdict = verdict_of(ran(tmp_path, parity("fleet.policy=desktop")))
    found = check_of(verdict)
    assert (found.state, found.value, found.n) == (State.FAIL, 2.0, 4)
    assert "on virtual-update_batch-reference, but nothing on virtual-update_batch-desktop" in found.reason
    assert "stale_loop" in red(verdict)
    assert verdict.policy == "reference, desktop"


def test_overloaded_variant_is_inconclusive(tmp_path: Path):
    model = tmp_path / "slow.toml"
    model.write_text("[server]\ndelivery_batch_ms = 10.0\n")
    drill = parity("variants.0.policies=['reference']", "phases.steady_limit_s=6.0", "phases.settle_s=4.0")
    found = check_of(verdict_of(ran(tmp_path / "out", drill, model=model)))
    assert found.state is State.ERROR
    assert found.reason.startswith("the steady state did not hold in every variant: virtual-frame-reference (")


def test_both_engines_are_alike(tmp_path: Path):
    """A machine too busy for real sockets may not keep to the drill's course, which is no failure of parity: it gets more."""
    drill = parity("variants.0.policies=['reference']", "variants.1.policies=['reference']", engine=None)
    for _ in range(4):
        verdict = verdict_of(ran(tmp_path, drill))
        found = check_of(verdict)
        assert found.state in (State.PASS, State.ERROR), found.reason
        if found.state is State.PASS:
            break
    assert (found.state, found.n) == (State.PASS, 4), found.reason
    assert {variant.engine for variant in variants.variants_of(drill)} == {"virtual", "sockets"}


@pytest.mark.long  # variants that part are shown by damaged runs below, and a wrong hash by the table of defects
def test_a_real_runtime_that_is_wrong_parts_from_the_simulated_ones(tmp_path: Path):
    drill = parity("variants.0.policies=['reference']", "variants.1.policies=['reference']", engine=None)
    found = check_of(verdict_of(ran(tmp_path, drill, {"sockets-frame-reference": ("wrong_payload_hash",)})))
    assert found.state is State.FAIL
    assert found.reason.endswith(" on sockets-frame-reference")


# --- evidence ---------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(healthy: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage. Its folder has the same name, as evidence is bound to its run."""
    return Path(shutil.copytree(healthy, tmp_path / healthy.name))


def replace_by_reference(variant: Path) -> None:
    shutil.rmtree(variant)
    shutil.copytree(variant.with_name("virtual-frame-reference"), variant)


def replace_observations(variant: Path) -> None:
    shutil.copy(variant.with_name("virtual-frame-reference") / "observations.parquet", variant)


@pytest.mark.parametrize(
    ("damage", "check", "reason"),
    [
        (shutil.rmtree, "replay.parity", "no evidence to compare for virtual-frame-phoenix_js"),
        (replace_by_reference, "drill.evidence", "is not the drill that should have run here"),
        (replace_observations, "drill.evidence", "SHA-256 differs"),
        (
            lambda variant: variant.with_name("virtual-frame-mine").mkdir(),
            "drill.evidence",
            "not a variant of this run's drill",
        ),
    ],
    ids=["missing", "another's", "changed", "unplanned"],
)
def test_damaged_evidence_of_a_variant_is_an_error(run_dir: Path, damage: Callable[[Path], object], check: str, reason: str):
    damage(run_dir / "drills" / "parity" / "variants" / "virtual-frame-phoenix_js")
    verdict = verdict_of(run_dir)
    assert verdict.status is State.ERROR
    assert reason in check_of(verdict, check).reason


def test_judging_again_says_the_same_and_a_report_has_it(healthy: Path):
    said = stormgate_here("judge", healthy, "--json")
    assert said.code == GO
    running.conclude(healthy)
    assert json.loads((healthy / "summary.json").read_text()) == json.loads(said.out)
    (drill,) = json.loads(said.out)["drills"]
    assert drill["metrics"]["parity.variants"]["value"] == 4
    assert drill["checks"][0]["name"] == "replay.parity"
    assert "| replay.parity | pass |" in (healthy / "SUMMARY.md").read_text()
    assert (healthy / "drills" / "parity" / "parity.png").exists()


# --- asking -----------------------------------------------------------------------------------------


def test_from_the_command_line_on_one_engine(tmp_path: Path):
    said = stormgate("drill", "run", "parity", "--engine", "virtual", *sets(*SMALL), "--out", tmp_path, "--json")
    assert said.code == GO, said.err
    (drill,) = json.loads(said.out)["drills"]
    assert (drill["name"], drill["status"]) == ("parity", "pass")
    assert json.loads(said.out)["engine"] == "virtual"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "virtual", "--replications", "3"], ["parity", "--replications"]),
        (["--engine", "steam"], ["--engine steam"]),
        (["--model", "none.toml"], ["--engine virtual"]),
        (["--set", "load.events=0"], ["load.events", "variants"]),
        (["--set", "load.events=5000"], ["load.events", "at most 470"]),
        (["--set", "load.worker_events=true"], ["load.worker_events", "snapshots"]),
        (["--set", "variants.0.policies=['mobile']"], ["variants", "mobile"]),
        (["--set", "variants.0.deliveries=[]"], ["variants"]),
        (
            ["--engine", "sockets", "--set", "variants.1.policies=['reference']", "--set", "variants.1.deliveries=['frame']"],
            ["--engine sockets leaves 1"],
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str], words: list[str]):
    said = stormgate_here("drill", "run", "parity", *arguments, "--out", tmp_path / "out")
    assert (said.code, said.out) == (USAGE, "")
    assert [word for word in words if word not in said.sentence] == []
    assert not (tmp_path / "out").exists()


def test_variants_are_not_run_on_a_target(tmp_path: Path):
    said = stormgate_here("drill", "run", "parity", "--target", "http://127.0.0.1:9", "--out", tmp_path / "out")
    assert said.code == INCONCLUSIVE
    assert "not_run" in said.out
    assert "Leave --target out" in " ".join(said.out.split())


def test_dry_run_names_the_variants(tmp_path: Path):
    said = stormgate_here("drill", "run", "parity", "--dry-run", "--json", "--out", tmp_path / "out")
    assert json.loads(said.out)["variants"]["parity"][0] == "virtual-update_batch-reference"


def test_every_policy_that_promises_to_lose_no_event_is_compared():
    """It continues from a snapshot, never skips missing events, and has no defect."""
    own = policies.POLICIES.items()
    claiming = {name for name, policy in own if policy.takes_snapshots and policy.asks_again and not policy.defects}
    simulated = {variant.policy for variant in variants.variants_of(drills.load(CATALOG / "parity.toml"))}
    assert simulated == claiming == set(policies.POLICIES) - {"desktop"}
    assert set(backoff.PRESETS) - set(policies.POLICIES) == {"none"}


def test_another_policy_is_compared_with_the_reference():
    asked = variants.variants_of(drills.load(CATALOG / "parity.toml", ("fleet.policy=desktop",)))
    assert {variant.policy for variant in asked} == {"reference", "desktop"}
    assert len(asked) == 8


def test_engine_without_variants_is_refused():
    drill = drills.load(CATALOG / "parity.toml", ("variants.0.engine=sockets",))
    with pytest.raises(UsageError, match="--engine virtual leaves 0 of its variants"):
        variants.on_engine(drill, "virtual")
