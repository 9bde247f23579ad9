"""The file of thresholds: what is wrong with one is said in one sentence, and its numbers decide."""

import math
from pathlib import Path

import pytest

from drills.judging import gates
from drills.judging.checks import thresholds
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from sim.base.errors import UsageError
from sim.record.observations import Kind
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, NAN, PASS, THRESHOLDS, ask, back_after, many
from tests.histories import good_storm, storm_drill


def rewritten(tmp_path: Path, old: str, new: str) -> Path:
    text = thresholds.DEFAULT_PATH.read_text()
    assert old in text
    path = tmp_path / "thresholds.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[ux.integrity]", "[ux.integrety]", "unknown check 'ux.integrety'"),
        ("threshold = 0.03", "threshold = nan", "threshold"),
        ("threshold = 0.03", "threshold = inf", "threshold"),
        ("threshold = 0.03", "threshold = -1", "threshold"),
        ("threshold = 0.03", 'threshold = "3 %"', "threshold"),
        ("threshold = 0.03", "treshold = 0.03", "treshold"),
        ("threshold = 0.03", "threshold = 0.03\nminimum_n = 5", "minimum_n"),
        ("minimum_n = 1000", "", "minimum_n"),
        ("minimum_n = 1000", "minimum_n = 0", "minimum_n"),
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


def test_a_threshold_that_is_missing(tmp_path: Path) -> None:
    text = thresholds.DEFAULT_PATH.read_text()
    path = tmp_path / "thresholds.toml"
    path.write_text(text[: text.index("[drill.generator_lag_ms]")])
    with pytest.raises(UsageError, match=r"drill\.generator_lag_ms"):
        gates.load_thresholds(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "not toml"])
def test_a_file_without_thresholds(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        gates.load_thresholds(path)


def test_unknown_check_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"unknown check 'ux\.happiness'"):
        gates.require_checks(storm_drill(2, ("ux.happiness",)), THRESHOLDS)


def test_a_number_of_the_file_decides(tmp_path: Path) -> None:
    strict = gates.load_thresholds(rewritten(tmp_path, "threshold = 60\n", "threshold = 0.5\n"))
    check = OF_RUNS["reconnect.live_again_99_s"]
    case = Case(storm_drill(1), back_after(1.0).history())
    assert gates.answer(check, case, strict[check.name], "").state is FAIL
    assert gates.answer(check, case, THRESHOLDS[check.name], "").state is PASS


def test_operators_may_ask_for_more_samples(tmp_path: Path) -> None:
    strict = gates.load_thresholds(rewritten(tmp_path, "minimum_n = 59", "minimum_n = 100"))
    check = OF_RUNS["replay.bootstrap_ms"]
    case = Case(storm_drill(1), many(99, Kind.REPLAY_COMPLETED, value=10.0).history())
    assert gates.answer(check, case, strict[check.name], "").state is INCONCLUSIVE
    assert gates.answer(check, case, THRESHOLDS[check.name], "").state is PASS


def test_no_value_that_is_no_number_passes() -> None:
    result = ask("drill.phases", good_storm(2))
    assert math.isfinite(result.value)
    known_bad = type(result)(**{**result.__dict__, "value": NAN}).sound()
    assert known_bad.state is ERROR
