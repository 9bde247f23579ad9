"""Locust's page in a browser: one Locust process, a green storm, a red one on a broken mock, then a stopped run."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from drills.runs import results
from locustfiles.load.start import free_port
from tests.browsers import chromium
from tests.served import serving
from tests.storms import SHORT, SMALL, patient_thresholds

ROOT = Path(__file__).parents[2]
LIMIT_MS = 60_000.0  # for a busy machine


CHECKS = '["replay.bootstrap_ms", "replay.stale_loops", "delivery.dropped_deliveries", "ux.publish_to_apply_ms"]'
STEADY = "Steady state before the faults (s)"


@contextmanager
def locust(folder: Path) -> Iterator[str]:
    """A Locust process with a page, whose runs go to `folder`; gives its address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    sets = [f"--set={setting}" for setting in (*SMALL, *SHORT["reconnect_storm"], "phases.settle_s=20", f"checks={CHECKS}")]
    command = [sys.executable, "-m", "locust", "-f", "locustfiles/reconnect_storm.py", "--web-host", "127.0.0.1"]
    log = folder / "locust.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--web-port", str(port), "--out", str(folder / "results"), *sets], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + LIMIT_MS / 1000
        while not answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield url
        assert "Traceback" not in log.read_text()
        assert "defect of stormgate" not in log.read_text()
    finally:
        process.terminate()
        process.wait(LIMIT_MS / 1000)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def field_of(page: Page, label: str) -> Locator:
    return page.locator(".stormgate").get_by_label(label, exact=True)


def press(page: Page, button: str, answer: str) -> None:
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("status").get_by_text(answer)).to_be_visible(timeout=LIMIT_MS)


def ended(page: Page, kind: str) -> None:
    expect(page.locator(f"header.{kind}[data-state=judged]")).to_be_visible(timeout=LIMIT_MS)


def states(page: Page) -> list[str]:
    """The states of all checks in the table."""
    return [text.split(" ", 1)[1] for text in page.locator("table[aria-label=Checks] .state").all_inner_texts()]


def in_phase(page: Page, name: str) -> None:
    expect(page.locator("[aria-current=step]")).to_contain_text(name, timeout=LIMIT_MS)


def judged(folder: Path) -> set[Path]:
    """The folders of runs that have a verdict."""
    return {report.parent for report in (folder / "results").glob("*/SUMMARY.md")}


def test_operator_starts_storms_and_reads_verdicts(browser: Browser, tmp_path: Path) -> None:
    with locust(tmp_path) as url:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(LIMIT_MS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith((url, "data:")) or errors.append(request.url))
        page.goto(url)
        refuses_another_site(url)
        refuses_invalid_input(page)
        run_is_green(page, url, patient_thresholds(tmp_path))
        (green,) = judged(tmp_path)
        assert results.judge_run(green).exit_code == 0
        other = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        other.set_default_timeout(LIMIT_MS)
        with serving(tmp_path / "broken", {"heartbeat_interval_s": 2.0}, defects=["skip_delivery"]) as broken:
            run_is_red(other, page, url, broken.url)
        (red,) = judged(tmp_path) - {green}
        verdict = results.judge_run(red)
        assert verdict.exit_code == 1
        assert [remark.split(",")[0] for remark in verdict.drills[0].remarks if "by hand" in remark] == [
            "drop_sockets began by hand",
            "reverted by hand",
        ]
        run_is_stopped(page)
        (stopped,) = judged(tmp_path) - {green, red}
        assert results.judge_run(stopped).exit_code == 4
        assert errors == []
    expect(page.locator(".lost")).to_contain_text("Locust does not answer any more", timeout=LIMIT_MS)


def refuses_another_site(url: str) -> None:
    """Our routes and Locust's own refuse a foreign origin and a foreign host name."""
    ask = {"trust_env": False, "headers": {"Origin": "http://elsewhere.example"}}
    for path in ("/stormgate/storm", "/stormgate/revert", "/swarm", "/stop"):
        assert httpx.post(url + path, **ask).status_code == 403, path
    for path in ("/", "/stormgate", "/stormgate/state"):
        assert httpx.get(url + path, **ask).status_code == 403, path
        assert httpx.get(url + path, headers={"Host": "elsewhere.example"}, trust_env=False).status_code == 403, path
    assert httpx.post(url + "/stormgate/revert", trust_env=False).text == "Not done: no run is active; start one first.\n"
    assert httpx.get(url + "/stormgate/revert", trust_env=False).status_code == 405
    assert httpx.get(url + "/stormgate/download/SUMMARY.md", trust_env=False).text.startswith("SUMMARY.md does not exist yet")
    assert httpx.get(url + "/stormgate/download/..%2Frun.json", trust_env=False).status_code == 404


def refuses_invalid_input(page: Page) -> None:
    """Invalid input gives a sentence on the page, and no run."""
    expect(page.locator("header[data-state=idle]")).to_contain_text("No run yet")
    for label, value, sentence in (
        ("Clients", "-3", "Clients: -3 is below 0"),
        ("Clients", "many", "Clients: expected a whole number, got 'many'"),
        ("Share of clients that each cut drops (0 to 1)", "2", "share"),
        ("Thresholds file", "nowhere.toml", "nowhere.toml"),
        ("Target", "http://192.0.2.1:80", "an address must be on this machine"),
    ):
        field = field_of(page, label)
        before = field.input_value()
        field.fill(value)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.get_by_role("alert").get_by_text("Not started")).to_contain_text(sentence)
        field.fill(before)
    expect(page.locator("header[data-state=idle]")).to_be_visible()
    field_of(page, "Target").fill("http://127.0.0.1:9")  # only a request shows that no service is there
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("header[data-state=refused]")).to_contain_text("nothing answers at", timeout=LIMIT_MS)
    field_of(page, "Target").fill("mock")


def locusts_own_page_learns_of_the_run(url: str) -> None:
    """At once: Locust caches its answers for two seconds, and its page stops polling when nothing runs."""
    is_busy, until = False, time.monotonic() + LIMIT_MS / 1000
    while not is_busy:
        assert time.monotonic() < until
        is_busy = httpx.get(f"{url}/stormgate/state", trust_env=False).json()["is_busy"]
        state = httpx.get(f"{url}/stats/requests", trust_env=False).json()["state"]
    assert state in ("spawning", "running")


def run_is_green(page: Page, url: str, thresholds: Path) -> None:
    """From the form to a green verdict, with a fault injected by hand."""
    for label, value in (("Clients", "45"), ("Events published over all topics (per s)", "40"), (STEADY, "300")):
        field_of(page, label).fill(value)
    field_of(page, "Thresholds file").fill(str(thresholds))
    page.get_by_role("button", name="Start", exact=True).click()
    locusts_own_page_learns_of_the_run(url)
    page.wait_for_url("**tab=gates")
    in_phase(page, "steady")
    expect(page.locator(".stormgate h1")).to_have_text("Running: 45 of 45 clients live", timeout=LIMIT_MS)
    assert set(states(page)) <= {"pending", "looks good"}
    assert "pending" in states(page)
    press(page, "Revert", "Not done: the run is in its phase 'steady'")
    page.get_by_role("tab", name="Sync").click()
    expect(page.locator("dd").first).to_have_text("45 of 45")
    page.locator("figure svg").first.hover()
    expect(page.locator("figure .reading").first).to_contain_text("clients at")
    press(page, "Storm now", "Injected: drop_sockets")
    expect(page.locator("rect.phase.fault").first).to_be_attached(timeout=LIMIT_MS)
    assert page.evaluate("fetch('swarm', {method: 'POST'}).then(answer => answer.json())")["message"] == (
        "Not started: a run is already active; stop it, or wait for its verdict."
    )
    page.get_by_role("tab", name="Gates").click()
    ended(page, "go")
    assert set(states(page)) == {"pass"}
    press(page, "Storm now", "Not done: no run is active")
    with page.expect_download() as saved:
        page.get_by_role("link", name="observations.parquet").click()
    assert saved.value.path().read_bytes().startswith(b"PAR1")


def run_is_red(page: Page, other: Page, url: str, broken: str) -> None:
    """A second browser, on our own page, starts a run on a broken mock; the first browser shows it as well."""
    page.goto(f"{url}/stormgate")
    page.get_by_text("Start a run").click()
    for label, value in (("Target", broken), ("Clients", "20"), (STEADY, "2"), ("Fault phase (s)", "300")):
        field_of(page, label).fill(value)
    page.get_by_role("button", name="Start", exact=True).click()
    in_phase(page, "steady")
    press(page, "Storm now", "Injected: drop_sockets")
    in_phase(page, "fault")
    in_phase(other, "fault")
    press(page, "Revert", "Reverting")
    for each in (page, other):
        ended(each, "no_go")
        assert "fail" in states(each)
        expect(each.get_by_role("table", name="Violated invariants")).to_contain_text("client")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def run_is_stopped(page: Page) -> None:
    """A run started with the button of Locust's page, and stopped early."""
    page.get_by_role("button", name="New", exact=True).click()
    for label, value in (("Clients", "5"), (STEADY, "300")):
        field_of(page, label).fill(value)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".stormgate h1")).to_have_text("Running: 5 of 5 clients live", timeout=LIMIT_MS)
    press(page, "Stop the run", "Stopped: the observations are judged as an interrupted run")
    ended(page, "no_go")
    assert states(page) == ["error"]
    expect(page.get_by_role("table", name="Runs").get_by_role("row")).to_have_count(4)
