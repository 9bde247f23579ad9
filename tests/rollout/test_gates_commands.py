"""`stormgate gates`: every check is listed and explained, and a misspelt name gets suggestions."""

import pytest

from drills.cli import main
from drills.judging import gates
from drills.rollout.report import explain
from drills.rollout.verdict import window


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0) -> str:
    monkeypatch.setenv("COLUMNS", "160")
    assert main.run_words(["gates", *arguments]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_every_check_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    listed = said(capsys, monkeypatch, "list")
    assert [name for name in (*gates.DECISIONS, *window.REGISTRY) if name not in listed] == []


@pytest.mark.parametrize("name", explain.names())
def test_every_check_is_explained(name: str) -> None:
    thresholds = gates.load_thresholds()
    told = [heading for heading, text in explain.lines(name, thresholds) if text]
    assert told.count("") == len(explain.asked_of(name))
    for heading in ("measures", "sources", "window", "decides by", "passes", "without data"):
        assert told.count(heading) == told.count("")


def test_check_of_drills_and_windows_is_explained_for_both(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = said(capsys, monkeypatch, "explain", "delivery.dropped_deliveries")
    assert "asked of a drill" in told
    assert "asked of a stage's window" in told
    assert "dropped_messages_total" in told
    assert "<= 0 events" in told


def test_source_of_a_threshold_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = said(capsys, monkeypatch, "explain", "error.unauthorized_surge")
    assert "[ours]" in told
    assert "server: the servers' own counters; then client: what clients observed" in told
    assert "auth_failures.unauthorized_total" in told


@pytest.mark.parametrize(
    ("misspelt", "near"),
    [("replay.bootstrap", "replay.bootstrap_ms"), ("bootstrap_ms", "replay.bootstrap_ms"), ("UX.Integrity", "ux.integrity")],
)
def test_misspelt_name_gets_one_sentence_with_suggestions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, misspelt: str, near: str
) -> None:
    sentence = said(capsys, monkeypatch, "explain", misspelt, code=3)
    assert sentence.count("\n") == 1
    assert misspelt in sentence
    assert near in sentence
