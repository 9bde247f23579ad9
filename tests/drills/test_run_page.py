"""`report.html` of a run: what it says, that no text of others becomes markup, and how a browser shows it."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from drills.judging.checks.verdicts import RunVerdict, State
from drills.reports import page, report, run_page
from drills.runs import results
from sim.record.observations import Kind
from tests.browsers import chromium, serious_findings
from tests.commands import stormgate_here
from tests.histories import GATED, good_storm, storm_drill

CHECKS = tuple(name for name in GATED if name != "reconnect.backoff_never_resets")
GOOD, BAD = storm_drill(checks=CHECKS, name="good_storm"), storm_drill(checks=CHECKS, name="bad_storm")
LOUD = 'a <script>alert("x")</script> & <b>b</b>'


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two drills, one of which lost an event."""
    out = tmp_path_factory.mktemp("results")
    made = results.create_run(out, [GOOD, BAD], engine="sockets", target="mock", target_kind="mock", seed=7)
    lossy = good_storm().without(lambda row: row.kind is Kind.APPLIED and row.client == 3 and row.seq == 5)
    for drill, story in ((GOOD, good_storm()), (BAD, lossy)):
        story.write(results.create_drill_folder(made, drill), drill)
    conclude(made)
    return made


def conclude(run_dir: Path) -> RunVerdict:
    verdict = results.judge_run(run_dir)
    results.write_reports(run_dir, verdict)
    results.write_page(run_dir, verdict, [results.show(run_dir, each) for each in verdict.drills])
    return verdict


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def html_of(run_dir: Path) -> str:
    return (run_dir / page.NAME).read_text()


def test_page_has_the_decision_and_every_check(run_dir: Path) -> None:
    verdict, shown = results.judge_run(run_dir), text_of(html_of(run_dir))
    assert "NO-GO: breach (against the embedded mock) 1 of 2 drills did not pass. bad_storm: " in shown
    for drill in verdict.drills:
        assert f"{drill.name} {drill.status}" in shown
        for check in drill.checks:
            assert check.name in shown
            assert " ".join(check.reason.split()) in shown
    for path in verdict.files:
        assert f'href="{path}"' in html_of(run_dir)
        assert (run_dir / path).is_file()


def test_failures_are_explained_as_the_command_explains_them(run_dir: Path) -> None:
    said = json.loads(stormgate_here("drill", "explain", run_dir, "--drill", "bad_storm", "--json").out)["bad_storm"]
    assert said
    shown = text_of(html_of(run_dir))
    for failure in said:
        assert failure["expected"] in shown
        for event in failure["events"]:
            assert event["seen"] in shown
            assert event["query"] in shown
    assert "Failures explained" not in shown[: shown.index("bad_storm fail")]


def test_figures_have_the_run_and_its_verdict(run_dir: Path) -> None:
    html = html_of(run_dir)
    assert html.count("<figure>") == html.count("<svg ") == 6
    for verdict in ("pass", "fail"):
        assert html.count(f">run {run_dir.name}: {verdict}<") == 3  # in the figure itself
        assert html.count(f"Run {run_dir.name}: {verdict}.</figcaption>") == 3
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_renamed_folder_keeps_the_id_of_its_run(run_dir: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(run_dir, renamed)
    conclude(renamed)
    assert html_of(renamed).count(f">run {run_dir.name}: fail<") == 3


def test_no_value_has_no_unit() -> None:
    assert [report.with_unit(value, "ms") for value in (1.5, math.inf, None, math.nan)] == ["1.5 ms", "never ms", "-", "-"]


def test_texts_of_others_are_escaped(run_dir: Path) -> None:
    verdict = results.judge_run(run_dir)
    (drill, *_) = verdict.drills
    check = replace(drill.checks[0], reason=LOUD, state=State.FAIL, unit=LOUD, evidence=LOUD)
    loud = replace(drill, name=LOUD, summary=LOUD, remarks=(LOUD,), checks=(check,), policy=LOUD)
    shown = run_page.Shown((page.Drawn(LOUD, LOUD, "<svg></svg>"),), ((LOUD, 0.0, 1.0),))
    html = run_page.html(replace(verdict, drills=(loud,), notes=(LOUD,), target=LOUD, files={LOUD: LOUD}), [shown])
    assert "<script" not in html
    assert "<b>b</b>" not in html
    assert text_of(html).count(LOUD) > 8


def test_page_needs_no_other_file(run_dir: Path) -> None:
    html = html_of(run_dir)
    linked = re.findall(r"(?:src|href)=[\"'](?!#)([^\"']+)", html)
    assert linked
    assert all((run_dir / name).exists() for name in linked)
    assert not re.search(r"<(script|link|img|iframe|object)|url\((?!#)[^)]*\)|@import", html)


def test_damaged_evidence_has_a_page_all_the_same(tmp_path: Path) -> None:
    made = results.create_run(tmp_path, [GOOD], engine="sockets", target="mock", target_kind="mock", seed=7)
    folder = results.create_drill_folder(made, GOOD)
    good_storm().write(folder, GOOD)
    (folder / "run.json").write_bytes(b"{")
    assert conclude(made).exit_code == 4
    assert "NO-GO: error" in text_of(html_of(made))
    assert "<figure>" not in html_of(made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_page_in_a_browser(run_dir: Path, browser: Browser, scheme: str, width: int) -> None:
    address = (run_dir / page.NAME).as_uri()
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    problems: list[str] = []
    shown.on("console", lambda message: problems.append(message.text))
    shown.on("request", lambda request: request.url == address or problems.append(request.url))
    shown.goto(address)
    assert shown.inner_text("h1") == "NO-GO: breach (against the embedded mock)"
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    aligned = shown.evaluate("getComputedStyle(document.querySelector('td.number')).textAlign")
    assert aligned == ("right" if width > 700 else "left")  # below 700 pixels a row is a block, with labels on the left
    assert serious_findings(shown) == []
    assert problems == []
    shown.close()


def test_page_on_paper_shows_what_is_folded(run_dir: Path, browser: Browser) -> None:
    shown = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    shown.goto((run_dir / page.NAME).as_uri())
    closed = "document.querySelector('details:not([open]) table').checkVisibility()"
    assert not shown.evaluate(closed)
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate(closed)
    assert shown.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    shown.close()
