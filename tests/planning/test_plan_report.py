"""Reports of sweeps and searches: reproducible from the stored rows, and never from damaged ones."""

import math
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, State
from drills.planning import figures as plan_figures
from drills.planning import report, search, sweeps
from drills.planning.sweeps import Swept
from sim.analysis.metrics import Metric
from sim.base.ownership import Mark
from sim.planning import designs, runs
from sim.planning.store import Row
from sim.planning.sweep_file import Parameter
from tests.commands import stormgate_here
from tests.planning.plan_files import SWEEP, TWO_POINTS, here, load

FIND = SWEEP + '[find]\nkey = "fleet.clients"\nwant = "largest"\nlow = 8\nhigh = 16\nkeep = ["reconnect.live_again_99_s"]\n'


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("report")
    found = sweeps.sweep(load(folder, 'engine = "fleet"\n' + TWO_POINTS), folder, here)
    report.write(found)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_report_is_reproduced_without_simulation(swept: Swept, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "perform", lambda job, say: pytest.fail("a report simulates nothing"))
    before = contents(swept.folder)
    assert {"SUMMARY.md", "report.html", "figure-curves.png", "figure-gates.png"} <= set(before)
    for name in ("SUMMARY.md", "report.html", "figure-curves.png", "sweep.parquet", "stations.parquet"):
        (swept.folder / name).unlink()
    (swept.folder / "figure-of-another-design.png").write_bytes(b"stale")
    said = stormgate_here("plan", "report", swept.folder, "--json")
    assert said.code == 0
    assert msgspec.json.decode(said.out)["folder"] == str(swept.folder)
    assert contents(swept.folder) == before
    assert "| 8 | inconclusive |" in before["SUMMARY.md"].decode()
    shown = before["report.html"].decode()
    assert shown.count("<figure>") == shown.count("<svg ") == 3
    assert '<span class="state inconclusive">inconclusive</span>' in shown
    assert all((swept.folder / name).is_file() for name in re.findall(r'href="(?!#)([^"]+)"', shown))


def test_report_needs_only_its_folder(swept: Swept):
    drill = swept.folder.parents[1] / "little_storm.toml"
    text = drill.read_text()
    drill.unlink()
    assert report.read(swept.folder).table.equals(swept.table)
    drill.write_text(text)


@pytest.fixture
def known_bad(swept: Swept) -> Iterator[Path]:
    """The folder; it is restored after the test."""
    files = {path: path.read_bytes() for path in swept.folder.rglob("*") if path.is_file()}
    yield swept.folder
    for path, content in files.items():
        path.write_bytes(content)


def assert_refused(folder: Path, words: str, code: int = 4) -> None:
    said = stormgate_here("plan", "report", folder)
    assert (said.code, said.err.count("\n"), words in said.err) == (code, 1, True), said


def test_other_folder_is_refused(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "none"):
        assert_refused(folder, "is not the folder of a sweep or search", code=3)


def test_incomplete_folder_is_refused(known_bad: Path):
    sorted((known_bad / "rows").iterdir())[0].unlink()
    assert_refused(known_bad, "is not complete, it has 5 of 6 runs")


def test_damaged_row_is_refused_by_its_name(known_bad: Path):
    path = sorted((known_bad / "rows").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(known_bad, f"{path.name}: is damaged. Run the plan again")


def test_rows_of_other_code_are_refused(swept: Swept, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweeps, "code_digest", lambda: "another")
    assert_refused(swept.folder, "another version of stormgate made its rows")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"plan": 1, "code": ""}'])
def test_damaged_plan_is_refused(known_bad: Path, content: bytes):
    (known_bad / "plan.json").write_bytes(content)
    assert_refused(known_bad, "plan.json: is damaged")


def test_thresholds_that_were_changed_afterwards_are_refused(known_bad: Path):
    path = known_bad / "thresholds.toml"
    path.write_text(path.read_text() + "# changed\n")
    assert_refused(known_bad, "0 of 6 runs with these thresholds")


def test_folder_of_a_running_sweep_is_refused(swept: Swept):
    mark = Mark(swept.folder / "owner")
    assert_refused(swept.folder, "another stormgate is using this folder")
    mark.remove()


def test_search_is_read_back_with_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    searched = search.find(load(tmp_path, 'engine = "fleet"\n' + FIND), tmp_path, here)
    monkeypatch.setattr(runs, "perform", lambda job, say: pytest.fail("a report simulates nothing"))
    said = stormgate_here("plan", "report", searched.folder)
    assert said.code == 0
    assert searched.sentence in said.out
    summary = (searched.folder / "SUMMARY.md").read_text()
    assert "| 8 | green | 3 |" in summary
    assert "figure-trials.png" in summary
    shown = (searched.folder / "report.html").read_text()
    assert searched.sentence in unescape(shown)
    assert '<div class="head good">' in shown


def test_values_of_a_best_are_simulated_at_once_and_ranked(tmp_path: Path):
    best = SWEEP + '[find]\nkey = "fleet.policy"\nwant = "best"\nvalues = ["sdk", "server_hint"]\nmax_replications = 3\n'
    asked = []

    def execute(jobs, store) -> str:
        asked.append([job for job in jobs if store.get(job.digest) is None])
        return here(jobs, store)

    plan = load(tmp_path, 'engine = "fleet"\n' + best + 'keep = ["reconnect.live_again_99_s"]\n')
    searched = search.find(plan, tmp_path, execute)
    assert [len(missing) for missing in asked if missing] == [6]
    assert set(plan_figures.of_search(searched)) == {"trials", "stations"}
    assert search.read(searched.folder).sentence == searched.sentence


# --- figures by design --------------------------------------------------------------------------------


def drawn(folder: Path, design: str, live: float = math.nan, **values: tuple) -> dict:
    """The figures of a sweep with invented metrics; `live` is the value of the last point."""
    plan = load(folder, TWO_POINTS)
    parameters = tuple(Parameter(key=key, values=each) for key, each in values.items())
    plan = msgspec.structs.replace(
        plan, sweep=msgspec.structs.replace(plan.sweep, design=design, parameters=parameters, points=9)
    )
    points = designs.points(plan)
    means = [1.0 + number for number in range(len(points) - 1)] + [live]
    rows = {number: [Row("", seed, (Metric("live_again_95_s", mean + seed, "s", 1),)) for seed in (1, 2)]
            for number, mean in enumerate(means)}  # fmt: skip
    check = CheckResult("reconnect", "live_again_99_s", State.PASS, 1.0, "s", 9, None, "<=", 60.0, "", "", "", "client", "", "")
    verdicts = {point.number: DrillVerdict("x", 1, 1.0, (check,)) for point in points}
    return plan_figures.of_sweep(Swept(points, rows, plan, folder, verdicts))


CLIENTS, POLICY, WORKERS = (
    ("fleet.clients", (8, 16)),
    ("fleet.policy", ("sdk", "ably")),
    ("model.server.handshake_workers", (1, 2)),
)


@pytest.mark.parametrize(
    ("design", "values", "names"),
    [
        ("grid", (CLIENTS,), {"curves"}),
        ("grid", (POLICY,), {"ranking"}),
        ("grid", (POLICY, CLIENTS), {"map-live_again_95_s", "curves"}),
        ("grid", (CLIENTS, POLICY, WORKERS), {"curves"}),
        ("latin_hypercube", (("fleet.clients", (8, 16)), POLICY), {"scatter"}),
        ("one_at_a_time", (CLIENTS, POLICY), {"sensitivity-live_again_95_s"}),
    ],
)
@pytest.mark.parametrize("live", [math.inf, math.nan])
def test_each_design_has_its_figures(tmp_path: Path, design: str, values, names: set[str], live: float):
    figures = drawn(tmp_path, design, live, **dict(values))
    assert set(figures) == names | {"gates"}
    said = " ".join(
        text.get_text() for figure in figures.values() for text in figure.findobj(lambda each: hasattr(each, "get_text"))
    )
    assert "95 % live again (s)" in said
    assert ("never" if math.isinf(live) else "no value") in said


def test_estimate_reports_missing_runs():
    row = pd.Series({"mean": 2.0, "lower": 1.5, "upper": 2.5, "missing": 1, "n": 3})
    assert report._estimate(row) == "2 (1.5..2.5) without 1 runs"
    assert report._briefly(row) == "2 ±0.5"
    assert report._briefly(pd.Series({"mean": math.nan, "lower": math.nan, "upper": math.nan, "n": 0})) == "none"
