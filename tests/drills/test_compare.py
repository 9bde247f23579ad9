"""`stormgate compare`: what is worse, what cannot be told, which conditions must be equal, and how it is misused."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.comparison.records import Comparison
from drills.runs import results
from sim.drill.model import Drill
from sim.record.observations import Kind
from tests.browsers import chromium, serious_findings
from tests.commands import Said, stormgate, stormgate_here
from tests.histories import Story, good_storm, storm_drill
from tests.stage_folders import Folder

GO, WORSE, UNCLEAR, USAGE = 0, 1, 2, 3
CLIENTS = 12
DRILL = storm_drill(CLIENTS, checks=("delivery.dropped_deliveries",))
RECOVERY = ("--fail-if-worse", "p99_recovery=10%")


def slower(story: Story, seconds: float) -> Story:
    """The same, but clients are live again later by this time."""
    late = (Kind.SUBSCRIBED, Kind.REPLAY_COMPLETED)
    rows = [row._replace(t=row.t + seconds) if row.kind in late and 20.0 < row.t < 50.0 else row for row in story.rows]
    return Story(story.clients, sorted(rows, key=lambda row: row.t), story.header)


STORM = good_storm(CLIENTS)


def run(out: Path, seconds: float = 2.0, drill: Drill = DRILL, story: Story = STORM, **header: Any) -> Path:
    """Write one run, as the sockets engine does."""
    about = {"target": "mock", "target_kind": "mock"}
    made = results.create_run(out, [drill], engine=header.get("engine", "sockets"), seed=7, **about)
    slower(story, seconds).write(results.create_drill_folder(made, drill), drill, **{"machine": "M, 2 cores", **header})
    return made


def runs(out: Path, seconds: float = 2.0, **more: Any) -> Path:
    """Four runs, with a recovery of `seconds` and a little more in each."""
    for n in range(4):
        run(out, seconds + 0.004 * n, **more)
    return out


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs(tmp_path_factory.mktemp("sides") / "before")


@pytest.fixture(scope="module")
def after(before: Path) -> Path:
    """Recovery takes 2 s longer."""
    return runs(before.parent / "after", 4.0)


def compared(*arguments: object) -> tuple[int, Comparison]:
    said = stormgate_here("compare", *arguments, "--json")
    return said.code, msgspec.json.decode(said.out, type=Comparison)


def finding(found: Comparison, metric: str = "live_again_99_s") -> str:
    return next(each.finding for each in found.others[0].drills[0].metrics if each.name == metric)


def test_a_slower_recovery_is_worse_beyond_its_limit_and_the_way_back_is_better(before: Path, after: Path):
    code, found = compared(before, after, *RECOVERY)
    assert (code, found.result, finding(found)) == (WORSE, "worse", "worse")
    (limit,) = found.others[0].limits
    assert (limit.metric, limit.answer) == ("live_again_99_s", "worse")
    code, found = compared(after, before, *RECOVERY)
    assert (code, found.result, finding(found)) == (GO, "not_worse", "better")


def test_a_limit_in_the_metrics_own_unit(before: Path, after: Path):
    assert compared(before, after, "--fail-if-worse", "live_again_99_s=1.5")[0] == WORSE
    assert compared(before, after, "--fail-if-worse", "live_again_99_s=2.5")[0] == GO


def test_a_set_compared_with_itself_is_not_worse(before: Path):
    code, found = compared(before, before, *RECOVERY)
    assert (code, finding(found)) == (GO, "same")
    assert any("same record" in note for note in found.others[0].drills[0].notes)


def test_a_limit_within_the_noise_cannot_be_told(before: Path, after: Path):
    assert compared(before, after, "--fail-if-worse", "live_again_99_s=2.0")[0] == UNCLEAR


def test_without_a_limit_it_only_reports(before: Path, after: Path):
    code, found = compared(before, after)
    assert (code, found.result, finding(found)) == (GO, "compared", "worse")


def test_the_minimum_effect_makes_small_differences_the_same(before: Path, after: Path):
    assert finding(compared(before, after, "--minimum-effect", "1%")[1]) == "worse"
    assert finding(compared(after, before, "--minimum-effect", "99%")[1]) == "same"


def test_several_others_each_against_the_baseline(before: Path, after: Path):
    code, found = compared(before, before, after, *RECOVERY)
    assert code == WORSE
    assert [other.limits[0].answer for other in found.others] == ["not_worse", "worse"]


# --- one run a side -----------------------------------------------------------------------------------


def test_one_run_a_side_compares_samples_within_it_and_says_so(tmp_path: Path):
    one, other = run(tmp_path), run(tmp_path, 4.0)
    code, found = compared(one, other, "--fail-if-worse", "p50_recovery=10%")
    assert code == WORSE
    (drill,) = found.others[0].drills
    assert any(note.startswith("One run a side") for note in drill.notes)
    assert "within one run" in next(each.method for each in drill.metrics if each.name == "live_again_50_s")
    code, found = compared(one, other, "--fail-if-worse", "disconnects=10%")
    assert code == UNCLEAR
    assert "one number a run" in found.others[0].limits[0].reason


def test_a_percentile_of_too_few_samples_says_how_many_it_needs(tmp_path: Path):
    code, found = compared(run(tmp_path), run(tmp_path), *RECOVERY)
    assert code == UNCLEAR
    assert "it needs 368" in found.others[0].limits[0].reason


def test_a_busy_machine_is_not_taken_for_a_slower_service(tmp_path: Path):
    busy = Story(CLIENTS, [*STORM.rows], STORM.header).busy(21.0, 24.0)
    busy.rows.sort(key=lambda row: row.t)
    one, other, plain = run(tmp_path), run(tmp_path, 4.0, story=busy), run(tmp_path, 4.0)
    assert compared(one, plain, "--fail-if-worse", "p50_recovery=10%")[0] == WORSE
    code, found = compared(one, other, "--fail-if-worse", "p50_recovery=10%")
    assert code == UNCLEAR
    assert finding(found, "live_again_50_s") == "unclear"
    assert any("too busy" in note for note in found.others[0].drills[0].notes)
    assert compared(plain, plain, "--fail-if-worse", "p50_recovery=50%")[0] == GO
    assert compared(other, plain, "--fail-if-worse", "p50_recovery=50%")[0] == UNCLEAR  # a slow baseline would hide it


# --- conditions ---------------------------------------------------------------------------------------

OTHER_DRILL = msgspec.structs.replace(DRILL, fleet=msgspec.structs.replace(DRILL.fleet, policy="desktop"))


@pytest.mark.parametrize(
    ("condition", "more"),
    [
        ("drill.fleet.policy", {"drill": OTHER_DRILL, "policy": "desktop"}),
        ("engine", {"engine": "virtual"}),
        ("machine", {"machine": "M, 64 cores"}),
        ("protocol", {"protocol": "phoenix_sync"}),
    ],
)
def test_other_conditions_make_it_meaningless_unless_accepted(
    condition: str, more: dict[str, Any], before: Path, tmp_path: Path
):
    other = runs(tmp_path / "other", 4.0, **more)
    code, found = compared(before, other, *RECOVERY)
    assert code == UNCLEAR
    (drill,) = found.others[0].drills
    assert [each.name for each in drill.conditions if each.blocks] == [condition]
    assert {each.finding for each in drill.metrics} == {"unclear"}
    assert compared(before, other)[0] == UNCLEAR  # also where nothing is asked
    assert compared(before, other, *RECOVERY, "--accept", condition)[0] == WORSE


@pytest.mark.parametrize(
    ("condition", "more"),
    [("mock's defects", {"defects": ["slow_mint"]}), ("stormgate", {"versions": {"stormgate": "9.9"}})],
)
def test_a_condition_that_may_differ_is_a_note(condition: str, more: dict[str, Any], before: Path, tmp_path: Path):
    code, found = compared(before, runs(tmp_path / "other", **more), *RECOVERY)
    assert (code, [(each.name, each.blocks) for each in found.others[0].drills[0].conditions]) == (GO, [(condition, False)])


def test_a_run_that_did_not_complete_makes_it_unclear(before: Path, after: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(after, other)
    next(other.rglob("run.json")).unlink()
    code, found = compared(before, other, *RECOVERY)
    assert (code, found.others[0].drills[0].is_comparable) == (UNCLEAR, False)


def test_a_verdict_that_turned_red_is_worse_whatever_the_metrics(before: Path, tmp_path: Path):
    lost = STORM.without(lambda row: row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN) and row.client == 3 and row.seq == 90)
    other = runs(tmp_path / "other", story=lost)
    code, found = compared(before, other, *RECOVERY)
    (drill,) = found.others[0].drills
    assert (drill.verdict_baseline, drill.verdict_other) == ("pass", "fail")
    assert found.others[0].limits[0].answer == "not_worse"
    assert (code, found.result) == (WORSE, "worse")
    assert "the verdict on storm" in stormgate_here("compare", before, other, *RECOVERY).out


def test_a_drill_that_a_side_lacks_cannot_be_told(before: Path, tmp_path: Path):
    both = tmp_path / "both"
    shutil.copytree(before, both)
    run(both, drill=msgspec.structs.replace(DRILL, name="another"))
    code, found = compared(both, before, *RECOVERY)
    assert (code, found.others[0].missing) == (UNCLEAR, ("another",))
    code, found = compared(before, both, *RECOVERY)
    assert (code, found.others[0].extra) == (GO, ("another",))
    assert compared(both, before, *RECOVERY, "--drill", "storm")[0] == GO


# --- stages -------------------------------------------------------------------------------------------


def test_stages_are_compared_by_their_canary_checks_drills_and_requirements(tmp_path: Path):
    one, other = Folder(tmp_path / "one").write(), Folder(tmp_path / "other").write()
    code, found = compared(one.path, one.path)
    assert (code, found.others[0].checks) == (GO, ())
    assert {drill.name for drill in found.others[0].drills} == {"canary:observation", "storm", "resets"}
    assert {drill.runs_other for drill in found.others[0].drills} == {1, 2}
    (other.path / "rollback.json").unlink()
    found = compared(one.path, other.path, "--drill", "canary:observation")[1]
    (versus,) = found.others
    assert (found.baseline_decision, versus.decision) == ("go", "no_go")
    assert [drill.name for drill in versus.drills] == ["canary:observation"]
    assert "rollback" in {check.name for check in versus.checks}
    steady = ("--drill", "storm", "--fail-if-worse", "publish_to_apply_p95_ms=10%")
    assert compared(one.path, one.path, *steady)[0] == GO
    assert compared(one.path, other.path, *steady)[0] == UNCLEAR  # the stage is no longer a go


# --- output and misuse --------------------------------------------------------------------------------


def test_the_terminal_has_80_columns_and_names_what_is_worse(before: Path, after: Path):
    said = stormgate("compare", before, after, *RECOVERY, COLUMNS="80")
    assert said.code == WORSE
    tables = [line for line in said.out.splitlines() if "live_again_99_s" in line and "worse" in line and ":" not in line]
    assert tables
    assert all(len(line) <= 80 for line in tables)
    assert [line for line in said.out.splitlines() if len(line) > 80 and str(before.parent) not in line] == []
    assert any(line.startswith("worse: storm live_again_99_s") for line in said.out.splitlines()[-4:])


def test_the_page_has_the_result_and_curves_of_every_side(before: Path, after: Path, tmp_path: Path):
    said = stormgate_here("compare", before, after, *RECOVERY, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert said.code == WORSE
    assert "<h1>worse: storm live_again_99_s</h1>" in page
    assert page.count("<svg") == 3
    assert "<script" not in page
    said = stormgate_here("compare", before, after, "--html", tmp_path / "no" / "page.html")
    assert "give --html a file in a folder that exists" in said.sentence


def test_the_page_in_a_browser(before: Path, after: Path, tmp_path: Path):
    stormgate_here("compare", before, after, *RECOVERY, "--html", tmp_path / "page.html")
    with chromium() as browser:
        for scheme, width in (("light", 1280), ("dark", 400)):
            shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            shown.goto((tmp_path / "page.html").as_uri())
            assert shown.inner_text("h1") == "worse: storm live_again_99_s"
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert serious_findings(shown) == []


def test_json_is_the_only_output_and_of_the_documented_form(before: Path, after: Path):
    found = json.loads(stormgate_here("compare", before, after, "--json").out)
    assert list(found) == list(Comparison.__struct_fields__)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--fail-if-worse", "p99_recovery"), "expected METRIC=LIMIT"),
        (("--fail-if-worse", "p99_recovery=-1%"), "expected METRIC=LIMIT"),
        (("--fail-if-worse", "p99_recoverry=10%"), "near it are: p99_recovery"),
        (("--fail-if-worse", "published_events=10%"), "neither more nor less of published_events is worse"),
        (("--accept", "weather"), "there is no such condition"),
        (("--minimum-effect", "lots"), "expected a share of the baseline"),
        (("--minimum-effect", "nan"), "expected a share of the baseline"),
        (("--drill", "nothing"), "has no recorded run of drill 'nothing'"),
    ],
)
def test_misuse_is_one_sentence(options: tuple[str, ...], sentence: str, before: Path):
    said = stormgate_here("compare", before, before, *options)
    assert said.code == USAGE
    assert sentence in said.sentence


def test_a_folder_without_runs_is_named(before: Path, tmp_path: Path):
    for path, sentence in ((tmp_path / "missing", "there is no such folder"), (tmp_path, "has no folders of runs")):
        said: Said = stormgate_here("compare", before, path)
        assert (said.code, sentence in said.sentence) == (USAGE, True)
    assert stormgate_here("compare", before).code == USAGE
