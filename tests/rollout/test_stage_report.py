"""A stage's report for people, programs and CI: the same verdict in each form."""

import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from playwright.sync_api import Browser

from drills.cli import docs_check
from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.report import junit, stage_files, stage_report
from drills.rollout.setup import records, stages
from drills.rollout.setup.records import Gate, Snapshot, StageReport
from drills.rollout.verdict import blockers, chain, judging, stage_drills, window
from drills.runs import catalog, results
from sim.base.atomic_files import read_struct
from tests.browsers import chromium, serious_findings
from tests.commands import stormgate_here
from tests.rollout.test_judging import judge_once
from tests.stage_folders import Folder, passing

LOUD = 'a|b <script>alert("x")</script> `c` \\ d'


def answers(**changes: CheckResult) -> dict[str, CheckResult]:
    return {name: passing(name) for name in window.REGISTRY} | changes


BAD = {
    "delivery.failed_publish_ratio": passing(
        "delivery.failed_publish_ratio", state=State.FAIL, value=0.034, threshold=0.01, interval=(0.021, 0.05), reason=LOUD
    ),
    "replay.client_lag_events": passing(
        "replay.client_lag_events", state=State.NO_DATA, value=float("nan"), n=0, interval=None, reason="no lag was sampled"
    ),
    "error.stale_cursors": passing("error.stale_cursors", value=3.0),
    "error.token_expired_surge": passing("error.token_expired_surge", state=State.ERROR, reason="a defect"),
    "delivery.slow_consumer_growth": passing(
        "delivery.slow_consumer_growth", state=State.NO_DATA, reason="no server counts it"
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A no-go of stage 1 after a go of stage 0, with a fault, a restart and a hole in its window."""
    given = answers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "judge", lambda *_: tuple(given.values()))
        patch.setattr(results, "judge_run", judge_once)
        first = Folder(tmp_path_factory.mktemp("reports") / "runs").write()
        stage_files.conclude(first.path)
        first.sign()
        given |= BAD
        second = Folder(first.runs, "1", first, began=first.began + timedelta(hours=2)).write()
        second.edit(records.SNAPSHOTS, Snapshot, troubled)
        stage_files.conclude(second.path)
        yield second


@pytest.fixture(scope="module")
def report(folder: Folder) -> StageReport:
    return read_struct(folder.path / records.REPORT, StageReport)


@pytest.fixture(scope="module")
def before(folder: Folder) -> Folder:
    """The folder of stage 0."""
    assert folder.previous is not None
    return folder.previous


def troubled(lines: list[Snapshot]) -> list[Snapshot]:
    """Three minutes with a fault, then a restart of the runtime, then two polls without an answer."""

    def changed(line: Snapshot) -> Snapshot:
        again = {name: value / 9 for name, value in line.metrics.items()} if line.n > 30 else line.metrics
        bad = line.n in (40, 41)
        return msgspec.structs.replace(
            line, fault=10 < line.n < 14, metrics={} if bad else again, outcome="timeout" if bad else "ok"
        )

    return [changed(line) for line in lines]


def text(folder: Folder, name: str) -> str:
    return (folder.path / name).read_text()


def test_report_starts_with_decision_and_reasons(folder: Folder) -> None:
    lines = text(folder, records.REPORT_MD).splitlines()
    assert lines[0] == "# NO-GO: breach (target elsewhere, staging)"
    top = "\n".join(lines[:40])
    assert "1. fail: delivery.failed_publish_ratio" in top
    assert "| delivery | **fail** | failed_publish_ratio" in top
    assert "| replay | **no_data** | client_lag_events: no lag was sampled |" in top
    assert "control control-00042, runtime runtime-00017" in top


def test_report_has_a_row_per_check(folder: Folder, report: StageReport) -> None:
    table = text(folder, records.REPORT_MD)
    for gate in report.gates:
        for check in gate.checks:
            assert f"| {gate.name}.{check.check} | {check.state}" in table
    assert "| 0.034 ratio | 0.021 .. 0.05 | 1234 | <= 0.01 | server |" in table


def test_foreign_text_is_escaped(folder: Folder) -> None:
    markdown, html = text(folder, records.REPORT_MD), text(folder, records.REPORT_HTML)
    assert "<script" not in markdown
    assert "<script" not in html
    rows = [line for line in markdown.splitlines() if line.startswith("| delivery.failed_publish_ratio | fail")]
    assert len(rows) == 1
    assert len(re.split(r"(?<!\\)\|", rows[0])) == 12


def test_page_has_no_external_resources(folder: Folder) -> None:
    html = text(folder, records.REPORT_HTML)
    linked = re.findall(r"(?:src|href)=[\"'](?!#)([^\"']+)", html)
    assert all((folder.path / name).exists() for name in linked)
    assert not re.search("<(script|link|img|iframe|object)", html)
    assert re.findall(r"url\((?!#)[^)]*\)|@import", html) == []
    assert html.count("<figure>") == html.count("<svg ") == 3


def test_go_has_no_blockers_file(folder: Folder, report: StageReport, before: Folder) -> None:
    assert (folder.path / records.BLOCKERS).exists()
    assert not (before.path / records.BLOCKERS).exists()
    found = msgspec.json.decode((folder.path / records.BLOCKERS).read_bytes(), type=list[records.Blocker])
    assert tuple(found) == report.blockers


def test_blockers_start_with_the_runbooks_next_step(report: StageReport) -> None:
    assert [blocker.check for blocker in report.blockers] == [
        "delivery.failed_publish_ratio",
        "error.token_expired_surge",
        "replay.client_lag_events",
    ]
    failed, broken, unknown = report.blockers
    assert failed.remediation[0].startswith("Roll traffic back to the last known good revisions")
    assert "tighten the sync throttle" in failed.remediation[-1]
    assert failed.remediation[-1].index("throttle") < failed.remediation[-1].index("client cohort")
    assert failed.retest == "stormgate drill run publish_failures --target elsewhere"
    assert (failed.severity, broken.severity, unknown.severity) == ("blocker", "blocker", "major")
    assert "clients that sample their lag" in unknown.remediation[-1]
    assert not any("Roll traffic" in step for step in (*broken.remediation, *unknown.remediation))


def test_retest_command_names_a_valid_target(report: StageReport) -> None:
    plan = msgspec.structs.replace(report.plan, target="embedded mock", target_kind="mock", stage="0")
    found = {each.check: each.retest for each in blockers.of(msgspec.structs.replace(report, plan=plan))}
    assert found["error.token_expired_surge"] == "stormgate drill run token_expiry_storm clock_skew --target mock"
    part = records.Requirement(name="baseline", state="not_run", reason="none")
    (last,) = blockers.of(msgspec.structs.replace(report, plan=plan, gates=(), requirements=(part,)))
    assert last.retest == "stormgate stage run 0 --target mock --rollout november"


def test_retest_command_names_the_targets_file(report: StageReport) -> None:
    plan = msgspec.structs.replace(report.plan, targets_file="/srv/our targets.toml")
    failed = blockers.of(msgspec.structs.replace(report, plan=plan))[0]
    assert failed.retest == "stormgate drill run publish_failures --target elsewhere --targets '/srv/our targets.toml'"


def test_each_retest_command_is_one_that_the_command_line_takes() -> None:
    table = blockers.table()
    words = {"target": "staging", "rollout": "november", "run": "run", "stage": "0"}
    for cause in [*table.checks.values(), *table.requirements.values()]:
        for command in blockers.filled(cause.retest or table.retest, words).split(" && "):
            program, *arguments = shlex.split(command)
            assert program == "stormgate"
            assert docs_check.parse(arguments)


def test_preflight_blockers_do_not_roll_back(report: StageReport) -> None:
    plan = msgspec.structs.replace(report.plan, stage="0")
    found = blockers.of(msgspec.structs.replace(report, plan=plan))
    assert found[0].remediation[0].startswith("Do not start the next stage")


def test_every_check_and_requirement_has_a_cause() -> None:
    table = blockers.table()
    asked = {name for name in window.REGISTRY if not name.startswith("window.")} | set(stage_drills.CHECKS)
    required = {"evidence", "previous_stage", "target", "revisions", *judging.OF_WINDOW}
    required |= {name for each in stages.RUNBOOK.values() for name in each.required}
    assert set(table.checks) == asked
    assert set(table.requirements) == required
    assert set(table.states) == set(State)
    known = catalog.catalogue().keys() | {"observation"}
    for cause in (*table.checks.values(), *table.requirements.values()):
        named = re.findall(r"drill run ([a-z_ ]+)", cause.retest)
        assert {drill for names in named for drill in names.split()} <= known


def test_changes_since_the_previous_stage_are_reported(folder: Folder, report: StageReport, before: Folder) -> None:
    found = {f"{change.gate}.{change.check}": change for change in report.changes}
    ratio, cursors = found["delivery.failed_publish_ratio"], found["error.stale_cursors"]
    assert (ratio.before_state, ratio.state, ratio.verdict) == ("pass", "fail", "worse")
    assert (cursors.before, cursors.now, cursors.change, cursors.verdict) == (1.0, 3.0, 2.0, "same")
    assert found["replay.client_lag_events"].change is None
    assert [change.verdict for change in report.changes[:4]] == ["worse"] * 4
    for name in (records.REPORT_MD, records.REPORT_HTML):
        assert "Since the previous stage" in text(folder, name)
    backwards = chain.compare(report.gates, [Gate(name="delivery", state="pass", checks=())])
    assert {change.state for change in backwards} == {""}


def test_only_a_pass_is_green_in_junit(folder: Folder) -> None:
    root = ElementTree.fromstring(text(folder, records.JUNIT))
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert {suite.get("name") for suite in root} == {"error", "replay", "reconnect", "delivery", "ux", "stage"}
    kinds = {name: [child.tag for child in case] for name, case in cases.items()}
    assert kinds["delivery.failed_publish_ratio"] == ["failure"]
    assert kinds["error.token_expired_surge"] == ["error"]
    assert kinds["replay.client_lag_events"] == ["failure"]
    assert cases["replay.client_lag_events"][0].get("type") == "no_data"
    assert kinds["delivery.slow_consumer_growth"] == ["skipped"]
    assert kinds["error.stale_cursors"] == kinds["hold"] == []
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == [str(len(cases)), "2", "1", "1"]


def test_junit_is_valid_xml_for_any_text(report: StageReport) -> None:
    part = records.Requirement(name="odd", state="fail", reason="a \x00 \x1b[31m b \ud800 <&>\"'")
    ElementTree.fromstring(junit.of_stage(msgspec.structs.replace(report, requirements=(part,))))


def test_terminal_and_exit_code_agree_with_the_report(
    folder: Folder, report: StageReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = stormgate_here("stage", "judge", folder.path)
    assert said.code == 1
    assert "NO-GO: breach (target elsewhere, staging)" in said.out
    assert msgspec.json.decode(stormgate_here("stage", "judge", folder.path, "--json").out)["decision"] == "no_go"
    codes = {"": 0, "breach": 1, "insufficient_evidence": 2, "expired": 1, "error": 4}
    for reason, code in codes.items():
        assert stage_report.exit_code(msgspec.structs.replace(report, reason=reason)) == code


def test_judge_writes_junit(before: Folder, tmp_path: Path) -> None:
    (run,) = (before.path / records.DRILLS).glob("*-storm-*")
    said = stormgate_here("judge", run, "--junit", tmp_path / "drills.xml")
    assert said.code == 0
    root = ElementTree.parse(tmp_path / "drills.xml").getroot()
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert {suite.get("name") for suite in root} == {"storm"}
    said = stormgate_here("judge", run, "--junit", tmp_path / "nowhere" / "drills.xml")
    assert (said.code, "nowhere" in said.sentence) == (4, True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_page_renders_in_light_and_dark(folder: Folder, browser: Browser) -> None:
    address = (folder.path / records.REPORT_HTML).as_uri()
    papers = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1160, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        problems: list[str] = []
        page.on("console", lambda message, problems=problems: problems.append(message.text))
        page.on("request", lambda request, problems=problems: request.url == address or problems.append(request.url))
        page.goto(address)
        assert page.inner_text("h1") == "NO-GO: breach"
        colours = "e => [getComputedStyle(document.body).backgroundColor, getComputedStyle(e).stroke]"
        papers[scheme] = page.eval_on_selector("figure svg path[style*='--series-1']", colours)
        shown = page.eval_on_selector_all("figure svg", "all => all.map(e => e.getBoundingClientRect().height)")
        assert len(shown) == 3
        assert min(shown) > 60
        assert serious_findings(page) == []
        assert problems == []
        page.close()
    assert papers["light"] == ["rgb(255, 255, 255)", "rgb(0, 114, 178)"]
    assert papers["dark"] == ["rgb(20, 23, 27)", "rgb(86, 180, 233)"]


def test_page_fits_a_phone_and_a_printer(folder: Folder, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.goto((folder.path / records.REPORT_HTML).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.close()
