"""The file of thresholds: what is wrong with one is said in one sentence, and its numbers decide."""

import math
from pathlib import Path

import pytest

from drills.judging import gates
from drills.judging.checks import thresholds
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import State
from sim.base.errors import UsageError
from sim.record.observations import Kind
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, NAN, PASS, THRESHOLDS, ask, back_after, many
from tests.histories import Story, good_storm, storm_drill

DEFAULTS = thresholds.DEFAULT_PATH.read_text()


def rewritten(tmp_path: Path, old: str, new: str) -> Path:
    assert old in DEFAULTS
    path = tmp_path / "thresholds.toml"
    path.write_text(DEFAULTS.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[ux.integrity]", "[ux.integrety]", "unknown check 'ux.integrety'"),
        ("threshold = 0.03", "threshold = nan", "threshold"),
        ("threshold = 0.03", "threshold = inf", "threshold"),
        ("threshold = 0.03", "threshold = -1", "threshold"),
        ("threshold = 0.03", 'threshold = "3 %"', "threshold"),
        ("threshold = 0.03", "threshold = 0.03\nminimum_n = 5", "minimum_n"),
        ("minimum_n = 1000", "", "minimum_n"),
        ("minimum_n = 1000", "minimum_n = 0", "minimum_n"),
        ("window_s = 600", "window_s = inf", "key 'window_s' is inf, but expected a finite number"),
        ("window_s = 600", "window_s = 0", "window_s"),
        ('comparator = "<="', 'comparator = ">="', "comparator"),
        ('unit = "ratio"', 'unit = "percent"', "unit"),
        ("[error.", "loose = 1\n[error.", "loose"),
    ],
)
def test_bad_thresholds_are_refused_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gates.load_thresholds(rewritten(tmp_path, old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_misspelt_threshold_is_unknown_and_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)unknown key 'treshold'.*\n.*key 'threshold' is missing"):
        gates.load_thresholds(rewritten(tmp_path, "threshold = 0.03", "treshold = 0.03"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *[("", "is empty"), ("# nothing\n", "is empty"), ("not toml", "TOML")],
        (DEFAULTS.partition("[drill.generator_lag_ms]")[0], r"drill\.generator_lag_ms"),
    ],
    ids=["empty", "comment", "no TOML", "one missing"],
)
def test_incomplete_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        gates.load_thresholds(path)


def test_unknown_check_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"unknown check 'ux\.happiness'"):
        gates.require_checks(storm_drill(2, ("ux.happiness",)), THRESHOLDS)


@pytest.mark.parametrize(
    ("name", "old", "new", "story", "state"),
    [
        ("reconnect.live_again_99_s", "threshold = 60\n", "threshold = 0.5\n", back_after(1.0), FAIL),
        ("replay.bootstrap_ms", "minimum_n = 59", "minimum_n = 100", many(99, Kind.REPLAY_COMPLETED, value=10.0), INCONCLUSIVE),
    ],
)
def test_numbers_of_the_file_decide(tmp_path: Path, name: str, old: str, new: str, story: Story, state: State) -> None:
    strict, case = gates.load_thresholds(rewritten(tmp_path, old, new)), Case(storm_drill(1), story.history())
    assert gates.answer(OF_RUNS[name], case, strict[name], "").state is state
    assert gates.answer(OF_RUNS[name], case, THRESHOLDS[name], "").state is PASS


def test_no_value_that_is_no_number_passes() -> None:
    result = ask("drill.phases", good_storm(2))
    assert math.isfinite(result.value)
    known_bad = type(result)(**{**result.__dict__, "value": NAN}).sound()
    assert known_bad.state is ERROR
