"""The parts of the load tests' page that need neither Locust nor a browser: guard, form, data."""

import argparse
from types import SimpleNamespace
from typing import Any

import pytest

from drills.judging import gates
from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State
from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.run import options, verdict
from locustfiles.load.web import form, guard, page_data
from sim.analysis.invariants.evidence import Violation
from sim.client.notices import Notice
from tests.locust_runs.test_load_parts import Parser

HERE = "127.0.0.1:8089"


@pytest.mark.parametrize(
    ("headers", "host", "changes", "is_refused"),
    [
        ({}, HERE, True, False),  # no browser
        ({"Origin": f"http://{HERE}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, HERE, True, False),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, HERE, False, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, HERE, False, False),  # a link to us
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, HERE, True, True),  # a form of another site
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, HERE, False, True),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, HERE, True, True),  # another port of this machine
        ({"Origin": "http://elsewhere.example"}, HERE, True, True),
        ({"Origin": "null"}, HERE, True, True),
        ({}, "elsewhere.example:8089", False, True),  # a foreign name that resolves to this machine
        ({}, "localhost:8089", True, False),
        ({}, "[::1]:8089", True, False),
    ],
)
def test_another_site_cannot_read_or_change_anything(headers: dict[str, str], host: str, changes: bool, is_refused: bool):
    assert bool(guard.refusal(headers, host, "127.0.0.1", changes=changes)) == is_refused


def arguments(**ramp: bool) -> tuple[dict[str, dict[str, Any]], argparse.Namespace]:
    """The fields as Locust lists them, and the options of a process that was started without any."""
    parser = Parser()
    options.add_to(parser, "reconnect_storm", **ramp)
    hidden = ("set", "defect", "out", "targets")
    listed = {
        name: {"default_value": value, "choices": parser.choices[name], "is_secret": False, "help_text": ""}
        for name, value in parser.values.items()
        if name not in hidden
    }
    return listed, argparse.Namespace(**parser.values)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ({"clients": "-3"}, "Clients: -3 is below 0."),
        ({"clients": "1.5"}, "Clients: expected a whole number, got '1.5'."),
        ({"clients": ""}, "Clients: expected a whole number, got ''."),
        ({"clients": "9" * 20}, "is above the limit of 1000000"),
        ({"steady_s": "nan"}, "expected a number"),
        ({"storm_at": "-2"}, "-2 is below 0"),
        ({"storm_at": "900"}, "at_s"),
        ({"share_dropped": "1.5"}, "share"),
        ({"drill": "runtime_restart"}, "Drill: unknown value 'runtime_restart'"),
        ({"policy": "nobody"}, "Client policy: unknown value 'nobody'; choose: reference,"),
        ({"thresholds": "nowhere.toml"}, "nowhere.toml"),
        ({"target": "nobody"}, "targets.toml"),
        ({"out": "/somewhere"}, "out: this page cannot set it"),
        ({"growth": "0.5"}, "a capacity ramp needs a factor above 1"),
    ],
)
def test_invalid_input_is_refused_with_a_sentence(typed: dict[str, str], why: str):
    listed, before = arguments(ramps=True)
    assert why in form.refusal(typed, listed, before, ramps=True)


def test_valid_input_is_accepted():
    listed, before = arguments()
    typed = {"clients": "20", "storm_at": "-1", "policy": "", "user_count": "1", "host": "", "drill": "stale_cursor"}
    assert form.refusal(typed, listed, before, ramps=False) == ""
    assert (before.clients, before.drill) == (0, "reconnect_storm")


def test_form_has_a_label_for_every_field_and_values_of_every_drill():
    listed, _ = arguments(ramps=True)
    listed["token"] = {"default_value": "hunter2", "choices": None, "is_secret": True, "help_text": "A secret."}
    made = form.form(listed)
    fields = {field["name"]: field for group in made["groups"] for field in group["fields"]}
    assert set(fields) == set(listed)
    assert [group["title"] for group in made["groups"]][-1] == "More"  # fields of another locustfile
    assert [field["name"] for field in made["groups"][-1]["fields"]] == ["token"]
    assert (fields["token"]["kind"], fields["token"]["default"], fields["token"]["help"]) == ("secret", "", "A secret.")
    assert (fields["clients"]["kind"], fields["seed"]["default"], fields["storm_at"]["empty"]) == ("number", "1", "-1")
    assert fields["policy"]["help"] == "backoff and recovery of positions"
    assert all(field["label"] for field in fields.values())
    assert set(made["drills"]) == set(options.possible_drills())
    assert made["drills"]["reconnect_storm"]["fields"]["clients"] == "300"
    assert {"growth", "max_clients"} <= set(fields)


# --- what is shown ----------------------------------------------------------------------------------


class Run:
    """A run, as much of it as the page reads."""

    def __init__(self) -> None:
        self.plan = options.plan_of(arguments()[1])
        self.live = LiveMetrics(lambda *_: None)
        self.phase, self.live_clients = "fault", 299
        self.header = SimpleNamespace(duration_s=0.0)
        self.clock = SimpleNamespace(now=lambda: 107.0, began=100.0)


def conductor(tmp_path: Any, **changes: Any) -> Any:
    run, thresholds = Run(), gates.load_thresholds()
    folder = SimpleNamespace(run_dir=tmp_path / "20261123-run", folder=tmp_path / "20261123-run" / "drills" / "reconnect_storm")
    made = SimpleNamespace(
        run=run, folder=folder, verdict=None, judged=[], refusal="", capacity_ramp=None, is_over=False, is_expected=False
    )
    made.why_no = lambda what: "" if what == "storm" else "no fault is active."
    made.provisional = lambda: verdict.provisional(run.plan.drill.checks, thresholds, run.live)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def state_of(made: Any, is_on: bool = True, after_s: float = -1.0) -> dict[str, Any]:
    return page_data.shown(made, is_asked=is_on, is_busy=is_on, after_s=after_s)


def judged_drill(*checks: CheckResult, **more: Any) -> RunVerdict:
    return RunVerdict("r", "locust", "mock", "mock", 1, (DrillVerdict("reconnect_storm", 300, 1.0, checks, **more),), "", "")


def check_result(name: str, state: State, value: float = 1.0) -> CheckResult:
    gate, check = name.split(".")
    return CheckResult(gate, check, state, value, "ms", 9, None, "<=", 600.0, "", "", "", "client", "because", "run.json")


def test_page_distinguishes_no_run_a_refused_run_and_a_starting_run(tmp_path: Any):
    assert state_of(conductor(tmp_path, run=None, folder=None), is_on=False)["state"] == "idle"
    assert state_of(conductor(tmp_path, run=None, folder=None))["state"] == "starting"
    refused = state_of(conductor(tmp_path, run=None, folder=None, refusal="nothing answers there."), is_on=False)
    assert (refused["state"], refused["refusal"]) == ("refused", "nothing answers there.")
    assert state_of(conductor(tmp_path, is_expected=True))["state"] == "starting"  # the data is the previous run's


def test_no_check_passes_during_a_run(tmp_path: Any):
    made = conductor(tmp_path)
    session: Any = SimpleNamespace(client=3, is_cut_by_fault=False)
    made.run.live.noticed(1.0, session, [Notice("replay_completed", value=12.0), Notice("gap")])
    made.run.live.sample(0.5, 300, 300, 1.0)
    made.run.live.sample(1.0, 299, 300, 1.0, behind_events=4.0)
    now = state_of(made, after_s=0.5)
    checks = {check["name"]: check for check in now["checks"]}
    assert {check["state"] for check in now["checks"]} == {"pending", "looks_good"}
    assert (checks["replay.bootstrap_ms"]["n"], checks["replay.bootstrap_ms"]["limit"]) == (1, "<= 600 ms")
    assert [(point["t"], point["live"], point["behind_events"]) for point in now["curve"]] == [(1.0, 299, 4.0)]
    assert (now["state"], now["elapsed_s"], now["verdict"], now["downloads"]) == ("running", 7.0, None, [])
    assert [each["count"] for each in now["noticed"] if "gaps" in each["what"]] == [1]


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ([State.PASS, State.PASS], "go"),
        ([State.PASS, State.FAIL], "no_go"),
        ([State.PASS, State.ERROR], "no_go"),
        ([State.PASS, State.NO_DATA], "doubt"),
        ([State.PASS, State.INCONCLUSIVE], "doubt"),
        ([State.PASS, State.NOT_RUN], "doubt"),
    ],
)
def test_run_is_a_go_only_if_all_checks_pass_and_the_worst_check_comes_first(tmp_path: Any, states: list[State], kind: str):
    judged = judged_drill(*map(check_result, ("replay.bootstrap_ms", "made.up"), states))
    now = state_of(conductor(tmp_path, verdict=judged, judged=[judged], is_over=True), is_on=False)
    worst = str(max(states, key=lambda s: s != State.PASS))
    assert (now["state"], now["verdict"]["kind"], now["checks"][0]["state"]) == ("judged", kind, worst)
    assert [each["kind"] for each in now["ended"]] == [kind]


def test_violated_invariant_is_described(tmp_path: Any):
    judged = judged_drill(check_result("drill.load", State.PASS), violations=(Violation("hole", 2, "client 3"),))
    now = state_of(conductor(tmp_path, verdict=judged, is_over=True), is_on=False)
    assert now["verdict"]["kind"] == "no_go"
    (broken,) = now["verdict"]["broken"]
    assert (broken["invariant"], broken["count"], broken["users_saw"]) == ("hole", 2, "a message missing between two others")


def test_existing_files_can_be_downloaded_after_the_verdict(tmp_path: Any):
    made = conductor(tmp_path, is_over=True)
    assert state_of(made, is_on=False)["downloads"] == []
    made.folder.folder.mkdir(parents=True)
    (made.folder.run_dir / "SUMMARY.md").write_text("go")
    (made.folder.folder / "observations.parquet").write_text("")
    assert state_of(made, is_on=False)["downloads"] == ["SUMMARY.md", "observations.parquet"]
    made.is_over = False
    assert state_of(made)["downloads"] == []
