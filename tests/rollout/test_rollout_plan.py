"""`stage plan`: the calendar of a rollout over weekends, holidays and clock changes, before it and under way."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH as THRESHOLDS
from drills.rollout.check import rollout_plan
from drills.rollout.check.rollout_plan import PlannedStage
from drills.rollout.hold.stage_plan import Asked
from drills.rollout.setup import stages
from sim.base.clocks import from_iso
from tests.commands import stormgate_here
from tests.rollout.rollout_world import RolloutWorld


def planned(folder: Path, now: datetime, rules: stages.Stages | None = None) -> dict[str, PlannedStage]:
    asked = Asked("0", "staging", None, "r", stages.DEFAULT_PATH, THRESHOLDS, folder)
    found = rollout_plan.plan(asked, "staging", rules or stages.load(stages.DEFAULT_PATH), now)
    return {each.stage: each for each in found.stages}


def test_each_stage_begins_when_the_one_before_it_ends(tmp_path: Path) -> None:
    found = planned(tmp_path, datetime(2026, 11, 30, 15, tzinfo=UTC))  # a Monday, 09:00 in Chicago
    assert [*found] == ["0", "1", "2", "3a", "3b", "4"]
    assert found["0"].lasts_s > 3600 + 900, "the baseline, and the rehearsal's last check"
    assert found["1"].begins == found["0"].ends
    assert found["1"].lasts_s == 3600.0
    assert from_iso(found["2"].begins) == datetime(2026, 12, 1, 15, tzinfo=UTC), "09:00 in Chicago on Tuesday"
    assert from_iso(found["2"].ends) == datetime(2026, 12, 1, 23, tzinfo=UTC)
    assert found["4"].lasts_s == 86_400.0
    assert from_iso(found["2"].begin_by) == from_iso(found["1"].ends) + timedelta(hours=24), (
        "24 h after the signature of stage 1"
    )


def test_business_day_skips_holidays_and_weekends(tmp_path: Path) -> None:
    found = planned(tmp_path, datetime(2026, 11, 25, 18, tzinfo=UTC))["2"]  # Wednesday before Thanksgiving
    assert from_iso(found.begins) == datetime(2026, 11, 27, 15, tzinfo=UTC)
    assert "Thu 2026-11-26 (Thanksgiving Day)" in found.notes[0]
    found = planned(tmp_path, datetime(2026, 11, 27, 18, tzinfo=UTC))["2"]
    assert from_iso(found.begins) == datetime(2026, 11, 30, 15, tzinfo=UTC)
    assert "Sat 2026-11-28 (weekend), Sun 2026-11-29 (weekend)" in found.notes[0]


def test_hours_follow_the_clock_change(tmp_path: Path) -> None:
    """The clocks of Chicago go back on 1 November 2026."""
    before, after = (planned(tmp_path, datetime(2026, 10, day, 12, tzinfo=UTC))["2"] for day in (29, 31))
    assert (from_iso(before.begins).hour, from_iso(after.begins).hour) == (14, 15)


def test_rehearsal_that_will_be_too_old_is_named(tmp_path: Path) -> None:
    asked = Asked("0", "staging", None, "r", stages.DEFAULT_PATH, THRESHOLDS, tmp_path)
    text = stages.DEFAULT_PATH.read_text().replace("rehearsal_valid_h = 336.0", "rehearsal_valid_h = 48.0")
    (tmp_path / "stages.toml").write_text(text)
    now = datetime(2026, 11, 27, 18, tzinfo=UTC)
    notes = rollout_plan.plan(asked, "staging", stages.load(tmp_path / "stages.toml"), now).notes
    assert any("rehearse it again" in note for note in notes)
    assert not any(
        "rehearse it again" in note for note in rollout_plan.plan(asked, "staging", stages.load(asked.stages), now).notes
    )


def test_signed_stages_are_behind_and_the_next_begins_now(rollout: RolloutWorld) -> None:
    now = rollout.clock.now()
    found = rollout_plan.plan(rollout.asked("0"), "staging", rollout.rules, now).stages
    assert (found[0].state, found[0].begins) == ("go, signed", "")
    assert (found[1].stage, from_iso(found[1].begins)) == ("1", now)


def test_command_shows_a_table_or_one_json_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    begin = ("--from", "2026-12-23T09:00", "--out", tmp_path)
    shown = stormgate_here("stage", "plan", *begin)
    assert shown.code == 0
    assert "Christmas Day" in " ".join(shown.out.split())
    assert "A mock unlocks no stage but 0" in shown.out
    assert max(len(line) for line in shown.out.splitlines() if "│" in line or "─" in line) <= 80
    body = json.loads(stormgate_here("stage", "plan", *begin, "--json").out)
    assert (body["schema"], body["zone"], body["stages"][0]["begins"]) == (1, "America/Chicago", "2026-12-23T15:00:00.000Z")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "--from", "soon"), "--from soon: expected a date and a time"),
        (("plan", "--target", "absent", "--targets", "absent.toml"), "absent.toml"),
        (("check", "9", "--target", "mock"), "there is no stage '9'"),
        (("check", "1"), "name the rollout"),
    ],
)
def test_misuse_is_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    said = stormgate_here("stage", *arguments)
    assert (said.code, words in said.sentence) == (3, True), said
