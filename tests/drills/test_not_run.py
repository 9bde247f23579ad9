"""A drill that a target cannot run is not run: the reason is in every output, and it never makes a go."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict, RunVerdict, State
from drills.rollout.report import junit
from drills.rollout.verdict.stage_drills import _run as of_stage
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.errors import NotRunnableError, UsageError
from sim.drill.target_rules import Caps, Rules
from sim.engines.shared import permission
from sim.engines.shared.endpoints import Endpoints
from sim.protocols import registry
from sim.service.forms import ServiceForms, TokenForm
from tests.commands import stormgate_here
from tests.histories import good_storm, storm_drill
from tests.stage_folders import Folder
from tests.storms import small

GO, INCONCLUSIVE, USAGE = 0, 2, 3
TARGETS = """
[targets.theirs]
kind = "staging"
runtime_url = "http://127.0.0.1:1"
control_url = "http://127.0.0.1:1"
session_token_env = "SESSION"
caps = { clients = 100, connects_per_s = 50.0, events_per_s = 10.0 }
"""


def simulated(out: Path, *names: str, protocol: str) -> Path:
    chosen = tuple(small(name) for name in names)
    return running.run(Request(chosen, "fleet", target="mock", seed=1, defects=(), thresholds=None, out=out, protocol=protocol))


def beside(passing: DrillVerdict, *more: DrillVerdict) -> RunVerdict:
    return RunVerdict("r", "sockets", "theirs", "staging", 1, (passing, *more), "a", "a")


def passed() -> DrillVerdict:
    history = good_storm(30).history()
    return gates.judge(storm_drill(30, ("ux.integrity",)), history, gates.load_thresholds(), "observations.parquet")


def test_a_go_needs_a_drill_that_ran() -> None:
    left = gates.not_run("runtime_restart", "theirs has no hook.")
    assert beside(passed()).decision == "go"
    assert (beside(passed(), left).decision, beside(passed(), left).failures, beside(passed(), left).not_run) == ("go", 0, 1)
    alone = beside(left)
    assert (alone.status, alone.decision, alone.decision_reason) == (State.NOT_RUN, "no_go", "insufficient_evidence")
    assert alone.exit_code == INCONCLUSIVE
    failed = replace(passed(), violations=(gates.Violation("silent_loss", 1, "client 1"),))
    assert beside(failed, left).decision_reason == "breach"


def test_the_reason_is_in_every_file_and_the_drill_is_judged_again_as_not_run(tmp_path: Path) -> None:
    run_dir = simulated(tmp_path, "reconnect_storm", "stale_cursor", protocol="phoenix_sync")
    verdict = running.conclude(run_dir)
    assert [drill.status for drill in verdict.drills] == [State.NOT_RUN, State.NOT_RUN]
    why = "the fleet engine does not simulate its server"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["not_run"], summary["failures"], summary["decision"]) == (2, 0, "no_go")
    assert all(drill["status"] == "not_run" and why in drill["not_run"] for drill in summary["drills"])
    assert (run_dir / "SUMMARY.md").read_text().count(why) >= 2
    lines = [json.loads(line) for line in (run_dir / "gate-results.jsonl").read_text().splitlines()]
    assert [(line["check"], line["state"], line["is_required"]) for line in lines] == [("runnable", "not_run", False)] * 2
    root = ElementTree.fromstring(junit.of_run(verdict))
    assert (root.get("tests"), root.get("skipped"), root.get("failures")) == ("2", "2", "0")
    assert all(why in str(case.get("message")) for case in root.iter("skipped"))
    assert results.judge_run(run_dir) == verdict


def test_protocol_that_no_simulated_server_speaks_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, silent = registry.get, replace(registry.get("phoenix_sync"), server=None)
    monkeypatch.setattr(registry, "get", lambda name: silent if name == silent.name else known(name))
    for engine in ("virtual", "sockets"):  # the embedded mock speaks only what can be simulated
        request = Request((small("reconnect_storm"),), engine, "mock", 1, (), None, tmp_path / engine, protocol=silent.name)
        verdict = running.conclude(running.run(request))
        assert (verdict.status, verdict.notes) == (State.NOT_RUN, ("No drill was run.",))
        assert "no simulated server speaks it" in verdict.drills[0].not_run


def test_evidence_of_a_drill_that_was_not_to_run_is_an_error(tmp_path: Path) -> None:
    run_dir = simulated(tmp_path, "reconnect_storm", protocol="phoenix_sync")
    results.drill_folder(run_dir, "reconnect_storm").mkdir()
    (verdict,) = results.judge_run(run_dir).drills
    assert verdict.status is State.ERROR


def test_a_plan_without_a_planned_drill_folder_is_no_drill_that_was_not_run(tmp_path: Path) -> None:
    drill = small("reconnect_storm")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="mock", target_kind="mock", seed=1)
    (verdict,) = results.judge_run(run_dir).drills
    assert verdict.status is State.ERROR


def test_a_drill_that_runs_beside_one_that_cannot_decides_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second drill, alone, is a pass; what the first one needs is missing whatever the options are."""
    check = running.simulations.check

    def refuse(engine: str, drill: running.Drill, *more: object) -> None:
        if drill.name == "reconnect_storm":
            raise NotRunnableError("the server of this protocol does not cut sockets.")
        check(engine, drill, *more)

    monkeypatch.setattr("drills.runs.simulations.check", refuse)
    chosen = (small("reconnect_storm"), small("multi_client_order"))
    request = Request(chosen, "virtual", target="mock", seed=1, defects=(), thresholds=None, out=tmp_path)
    verdict = running.conclude(running.run(request))
    assert [drill.name for drill in verdict.drills] == ["reconnect_storm", "multi_client_order"]
    assert verdict.drills[0].status is State.NOT_RUN
    assert verdict.status is verdict.drills[1].status is not State.NOT_RUN
    assert "Not run: 1" in (next(tmp_path.iterdir()) / "SUMMARY.md").read_text()


@pytest.fixture
def targets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SESSION", "s3cret")
    path = tmp_path / "targets.toml"
    path.write_text(TARGETS)
    return path


@pytest.mark.parametrize("drill", ["runtime_restart", "parity", "token_rotation", "stale_cursor"])
def test_single_drill_that_a_target_cannot_run_ends_with_2_and_the_sentence(targets_file: Path, drill: str) -> None:
    out = targets_file.parent / "out"
    said = stormgate_here("drill", "run", drill, "--target", "theirs", "--targets", targets_file, "--out", out)
    assert said.code == INCONCLUSIVE, said
    assert "not_run" in said.out
    assert "Not run: 1" in said.out
    assert f"drill '{drill}'" in said.out.replace("\n", " ")


def test_cap_that_an_option_can_meet_stays_a_usage_error(targets_file: Path) -> None:
    more = ("--target", "theirs", "--targets", targets_file, "--out", targets_file.parent / "out")
    said = stormgate_here("drill", "run", "network_flap", *more)
    assert (said.code, "caps.clients" in said.sentence) == (USAGE, True)
    impossible = stormgate_here("drill", "run", "runtime_restart", "--clients", 5000, *more)
    assert impossible.code == INCONCLUSIVE, "no cap makes it possible"


@pytest.mark.parametrize(
    ("changes", "drill", "error"),
    [
        ({}, "reconnect_storm", None),
        ({"has_socket": False}, "reconnect_storm", NotRunnableError),
        ({}, "runtime_restart", NotRunnableError),
        ({}, "parity", NotRunnableError),
        ({}, "token_lifetime", NotRunnableError),
        ({"rules": Rules(caps=Caps(clients=1, connects_per_s=1, events_per_s=1))}, "reconnect_storm", UsageError),
        ({"kind": "production"}, "runtime_restart", UsageError),
    ],
)
def test_what_is_impossible_differs_from_what_is_not_allowed(
    changes: dict[str, object], drill: str, error: type[UsageError] | None
) -> None:
    endpoints = replace(Endpoints("theirs", "staging", "http://127.0.0.1:1", "http://127.0.0.1:1"), **changes)  # type: ignore[arg-type]
    found = None
    try:
        permission.require_allowed(small(drill), endpoints)
    except UsageError as raised:
        found = type(raised)
    assert found is error


def test_a_stage_does_not_do_without_a_drill_that_was_not_run(tmp_path: Path) -> None:
    plan = Folder(tmp_path).plan()
    verdict = replace(
        beside(passed(), gates.not_run("stale_cursor", "theirs has no hook.")),
        target=plan.target,
        target_kind=plan.target_kind,
        thresholds_sha256=plan.thresholds_sha256,
        recorded_thresholds_sha256=plan.thresholds_sha256,
    )
    assert of_stage(plan, "drills/r", verdict)[0] is State.NOT_RUN
    assert of_stage(plan, "drills/r", replace(verdict, drills=verdict.drills[:1]))[0] is State.PASS


# --- negative clients that cannot ask ---------------------------------------------------------------


def test_negative_client_whose_protocol_has_no_message_for_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.engines.shared import client_setup

    drill, header = (
        small("token_expiry_storm"),
        client_setup.new_header(
            small("token_expiry_storm"), (), run_id="", engine="sockets", clock="wall", seed=1, libraries=()
        ),
    )
    silent = replace(client_setup.registry.get("spacetime"), negative_forms=None)
    monkeypatch.setattr(client_setup.registry, "get", lambda name: silent)
    assert client_setup.negative_clients(drill, header, None) == ("expired_token",)
    assert header.unasked == {"mutation_over_socket": "its protocol states no messages of negative clients"}
    buildless = replace(silent, capabilities=msgspec.structs.replace(silent.capabilities, states_builds=False))
    monkeypatch.setattr(client_setup.registry, "get", lambda name: buildless)
    assert client_setup.negative_clients(small("compatibility_window"), header, None) == ()
    assert set(header.unasked.values()) == {"its protocol does not state a client's build"}
    tokenless = Endpoints("theirs", "staging", "", "", forms=ServiceForms(token=TokenForm(source="none")))
    assert client_setup.negative_clients(drill, header, tokenless) == ()
    assert header.unasked["expired_token"] == "the target has no tokens"


def judged_without(unasked: dict[str, str], *names: str) -> DrillVerdict:
    story = good_storm(30)
    story.header["unasked"] = unasked
    drill = storm_drill(30, ("ux.integrity",), negative_clients=names)
    return gates.judge(drill, story.history(), gates.load_thresholds(), "observations.parquet")


def test_question_that_nobody_could_ask_is_beside_the_decision() -> None:
    why = {"mutation_over_socket": "its protocol states no messages of negative clients"}
    verdict = judged_without(why, "mutation_over_socket")
    (check,) = (each for each in verdict.checks if each.name == "drill.negative_clients")
    assert (check.state, check.is_required) == (State.NO_DATA, False)
    assert why["mutation_over_socket"] in check.reason
    assert any("mutation_over_socket was left out" in remark for remark in verdict.remarks)
    assert (verdict.status, verdict.full_status) == (State.PASS, State.INCONCLUSIVE)
    assert judged_without({}, "mutation_over_socket").status is State.INCONCLUSIVE, "it was asked and did not answer"
    partly = judged_without(why, "mutation_over_socket", "expired_token")
    assert partly.status is State.INCONCLUSIVE, "the other one could ask and did not answer"


def test_appends_that_may_not_overlap_are_not_run(tmp_path: Path) -> None:
    one = ("--engine", "virtual", "--set", "load.in_flight_per_stream=1", "--out", tmp_path)
    said = stormgate_here("drill", "run", "concurrent_appends", *one)
    assert said.code == INCONCLUSIVE, said
    assert "not_run" in said.out
    assert "'load.in_flight_per_stream' is 1" in " ".join(said.out.split())


@pytest.mark.parametrize("protocol", [name for name in registry.names() if not registry.get(name).capabilities.has_snapshots])
def test_parity_is_not_run_where_what_a_client_has_depends_on_when_it_was_away(protocol: str) -> None:
    said = stormgate_here("drill", "run", "parity", "--engine", "virtual", "--protocol", protocol, "--dry-run")
    assert "needs snapshots" in said.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("virtual", "the simulated server of protocol 'spacetime' has none"),
        ("sockets", "the mock has no long polls"),
        ("fleet", "long polls"),
    ],
)
def test_long_polls_are_refused_where_nobody_serves_them(tmp_path: Path, engine: str, why: str) -> None:
    asked = ("reconnect_storm", "--engine", engine, "--set", "runtime.long_polls=true", "--out", tmp_path)
    said = stormgate_here("drill", "run", *asked)
    assert said.code in (INCONCLUSIVE, USAGE), said
    sentence = " ".join((said.out + said.err).split())
    assert why in sentence
    assert "runtime.long_polls" in sentence


def test_clients_of_a_target_wait_as_its_file_says(targets_file: Path) -> None:
    where = ("--target", "theirs", "--targets", targets_file, "--out", targets_file.parent / "out")
    said = stormgate_here("drill", "run", "reconnect_storm", "--set", "runtime.long_polls=true", *where)
    assert said.code == INCONCLUSIVE, said
    assert "[protocol_options]" in " ".join(said.out.split())
