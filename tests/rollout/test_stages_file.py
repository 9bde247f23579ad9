"""The stages' file: what ships is the law, and whatever breaks the law is refused in one sentence."""

from pathlib import Path

import pytest

from drills.rollout.setup import stages
from drills.rollout.setup.stages import DEFAULT_PATH, RUNBOOK, load
from sim.base.errors import UsageError


def changed(folder: Path, *pairs: tuple[str, str]) -> Path:
    text = DEFAULT_PATH.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / "stages.toml"
    path.write_text(text)
    return path


def test_shipped_stages_file_has_the_runbooks_stages():
    found = load(DEFAULT_PATH)
    assert [*found.stages] == [*RUNBOOK]
    assert [rules.cohort_percent for rules in found.stages.values()] == [None, None, 5.0, 25.0, 50.0, 100.0]
    assert (found.stages["1"].hold_s, found.stages["3a"].hold_s, found.stages["4"].hold_s) == (3600.0, 14400.0, 86400.0)
    assert found.stages["4"].gates_at_h == (0.0, 1.0, 6.0, 24.0)
    day = found.stages["2"].business_day
    assert day is not None
    assert (day.from_, day.to) == ("09:00", "17:00")
    assert found.stages["0"].rehearsal_limit_s == 300.0
    assert (found.baseline_s("staging"), found.baseline_s("mock") < 120) == (3600.0, True)
    assert found.signoff.valid_h == 24.0


def test_runbooks_five_verifications_run_and_ours_accompany_them():
    found = load(DEFAULT_PATH)
    theirs = [command.name for command in found.commands if not command.is_ours]
    assert theirs == [
        "runtime_sync_metrics",
        "retired_routes",
        "replay_resume_parity",
        "chaos_drills",
        "metrics_snapshot",
        "docs",
    ]
    assert {command.stands_for for command in found.commands if command.is_ours} <= set(theirs)
    assert all("RUNTIME_ADMIN_TOKEN" not in part or "printf" in part for command in found.commands for part in command.argv)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("hold_s = 3600.0", "hold_s = 600.0", "stage 1 is held for at least 3600 s"),
        ("hold_s = 14400.0", "hold_s = 900.0", "stage 3a is held for at least 1800 s"),
        ("hold_s = 86400.0", "hold_s = 8640.0", "stage 4 is held for at least 86400 s"),
        ("gates_at_h = [0.0, 1.0, 6.0, 24.0]", "gates_at_h = [24.0]", "0, 1, 6 and 24 hours"),
        ("gates_at_h = [0.0,", "gates_at_h = [0.0, 48.0,", "beyond the hold"),
        ('required = ["hold"]', "required = []", "lacks 'hold'"),
        ('"drills", "rollback", "baseline"]', '"drills", "baseline"]', "lacks 'rollback'"),
        ('required = ["hold"]', 'required = ["hold", "luck"]', "'luck'"),
        ('{ from = "09:00", to = "17:00" }', '{ from = "19:00", to = "17:00" }', "no hours"),
        ('{ from = "09:00"', '{ from = "9"', "[stages.2]: key 'business_day.from' is '9'"),
        ("business_day = {", "hold_s = 60.0\n#", "business day"),
        ("cohort_percent = 5.0", "", "stages.2.cohort_percent"),
        ("cohort_percent = 5.0", "cohort_percent = 500.0", "[stages.2]: key 'cohort_percent' is 500.0"),
        ("valid_h = 24.0", "valid_h = 48.0", "valid_h"),
        ('mock = ["all"]', "mock = []", "empty for one kind"),
        ('client_builds = ["20260601T000000Z"]', "client_builds = []", "client_builds"),
        ('precondition = "retired_route_guard"', "", "retired_route_guard"),
        ('name = "chaos_drills"', 'name = "docs"', "two of the 'commands'"),
        ('stands_for = "docs"', 'stands_for = "luck"', "'luck'"),
        ("days_off = []", 'days_off = ["Christmas"]', "Christmas"),
        ("[signoff]", "[signof]", "signof"),
        ("interval_s = 30.0", "interval_s = 900.0", "sampling.interval_s"),
        ("every_s = 300.0", "every_s = -1.0", "canary_check.every_s"),
        ("judge_every_s = 60.0", "judge_every_s = 3600.0", "a hold is judged every 300 s or more often"),
        ("rehearsal_valid_h = 336.0", "rehearsal_valid_h = 999.0", "rehearsal_valid_h"),
        ("staging_valid_h = 168.0", "staging_valid_h = 999.0", "staging_valid_h"),
        ('"builds", "canary_vs_control"]', '"builds"]', "lacks 'canary_vs_control'"),
        ('"builds", "armed"]', '"builds"]', "lacks 'armed'"),
    ],
)
def test_mistake_is_reported_in_one_sentence_that_names_it(tmp_path: Path, old: str, new: str, words: str):
    path = changed(tmp_path, (old, new))
    with pytest.raises(UsageError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert words in said
    assert said.count("\n") == 0


ADDED = """[stages.3c]
title = "broad rollout, third step"
cohort = "external"
cohort_percent = 75.0
required = ["hold", "cohort", "builds"]
hold_s = 14400.0

"""


def test_runbook_stage_cannot_be_replaced(tmp_path: Path):
    path = changed(tmp_path, ("[stages.3b]", "[stages.3c]"))
    with pytest.raises(UsageError, match=r"stages\.3b' is missing"):
        load(path)


def test_added_table_is_a_stage_between_its_neighbours(tmp_path: Path):
    found = load(changed(tmp_path, ("[stages.4]", ADDED + "[stages.4]")))
    assert [*found.stages] == ["0", "1", "2", "3a", "3b", "3c", "4"]
    assert (found.before("3c"), found.before("4"), found.before("0")) == ("3b", "3c", None)
    with pytest.raises(UsageError, match="there is no stage '7'; expected one of: 0, 1, 2, 3a, 3b, 3c, 4"):
        found.before("7")


@pytest.mark.parametrize(
    ("before", "change", "words"),
    [
        ("[stages.4]", ("hold_s = 14400.0", "hold_s = 60.0"), "stage 3c is held for at least 1800 s"),
        ("[stages.4]", ('"cohort", ', ""), "lacks 'cohort'"),
        ("[stages.4]", ('"builds"]', '"builds", "drills"]'), "has 'drills'; allowed here"),
        ("[stages.4]", ('"builds"]', '"builds", "armed"]'), "gates_at_h' is empty"),
        ("[stages.4]", ("cohort_percent = 75.0\n", ""), "stages.3c.cohort_percent' is missing"),
        ("[stages.4]", ("cohort_percent = 75.0", "cohort_percent = 30.0"), "less than the 50 of the stage before"),
        ("[stages.4]", ("[stages.3c]", "[stages.third]"), "no name for a stage"),
        ("[stages.0]", ("", ""), "the runbook's are 0, 1, 2, 3a, 3b, 4, in this order"),
        ("# Verification commands", ("", ""), "in this order"),
    ],
)
def test_added_stage_keeps_to_the_minimum_and_its_place(tmp_path: Path, before: str, change: tuple[str, str], words: str):
    with pytest.raises(UsageError) as caught:
        load(changed(tmp_path, (before, ADDED.replace(*change) + before)))
    assert words in str(caught.value)


def test_runbook_stages_keep_their_order(tmp_path: Path):
    path = changed(tmp_path, ("[stages.3a]", "[stages.x]"), ("[stages.3b]", "[stages.3a]"), ("[stages.x]", "[stages.3b]"))
    with pytest.raises(UsageError, match="in this order"):
        load(path)


def test_shipped_stages_ask_for_the_minimum():
    for stage, rules in load(DEFAULT_PATH).stages.items():
        assert rules.required == stages.minimum(stage).required


def test_mistakes_of_several_tables_are_named_at_once(tmp_path: Path) -> None:
    text = stages.DEFAULT_PATH.read_text()
    for shipped, wrong in (("hold_s = 3600.0 ", "hold_s = 10.0 "), ("cohort_percent = 5.0", "cohort_percent = 30.0")):
        assert shipped in text
        text = text.replace(shipped, wrong, 1)
    path = tmp_path / "stages.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        stages.load(path)
    lines = str(caught.value).splitlines()
    assert [line.startswith(f"{path}: key 'stages.{stage}") for line, stage in zip(lines, ("1.", "3a."), strict=True)]
    path.write_text(text.replace("hold_s", "hold_seconds").replace('title = "external canary"', "title = 3"))
    with pytest.raises(UsageError) as caught:
        stages.load(path)
    assert {"[stages.1]", "[stages.2]", "[stages.4]"} <= {line.split(": ")[1] for line in str(caught.value).splitlines()}
