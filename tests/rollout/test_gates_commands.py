"""`stormgate gates`: every check is listed and explained, and a misspelt name gets suggestions."""

import pytest

from drills.judging import gates
from drills.rollout.report import explain_checks
from drills.rollout.verdict import window
from sim.analysis.invariants.reactions import of_negative_client
from sim.analysis.invariants.registry import INVARIANTS
from sim.client.negative.registry import NEGATIVE_CLIENTS
from tests.commands import stormgate_here


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def printed(*arguments: str) -> str:
    said = stormgate_here("gates", *arguments)
    assert said.code == 0
    return said.out


def test_every_check_and_invariant_is_listed() -> None:
    listed = printed("list")
    assert [name for name in (*gates.DECISIONS, *window.REGISTRY, *INVARIANTS) if name not in listed] == []


@pytest.mark.parametrize("name", explain_checks.names())
def test_every_check_is_explained(name: str) -> None:
    thresholds = gates.load_thresholds()
    shown = [heading for heading, text in explain_checks.lines(name, thresholds) if text]
    assert shown.count("") == len(explain_checks.asked_of(name))
    for heading in ("measures", "sources", "window", "decides by", "passes", "without data"):
        assert shown.count(heading) == shown.count("")


@pytest.mark.parametrize("name", [*INVARIANTS, *map(of_negative_client, NEGATIVE_CLIENTS)])
def test_every_invariant_is_explained(name: str) -> None:
    shown = dict(explain_checks.lines(name, gates.load_thresholds()))
    assert [*shown] == ["", "violated when", "expected", "blamed", "users would see", "passes"]
    assert all(shown.values())


def test_invariant_is_explained_with_who_is_blamed() -> None:
    shown = printed("explain", "silent_loss")
    assert INVARIANTS["silent_loss"].violated_when in shown
    assert "server: it acknowledged the event and did not deliver it" in shown
    assert "messages that never appear" in shown


def test_check_of_drills_and_windows_is_explained_for_both() -> None:
    shown = printed("explain", "delivery.dropped_deliveries")
    assert "asked of a drill" in shown
    assert "asked of a stage's window" in shown
    assert "dropped_messages_total" in shown
    assert "<= 0 events" in shown


def test_source_of_a_threshold_is_named() -> None:
    shown = printed("explain", "error.unauthorized_surge")
    assert "[ours]" in shown
    assert "server: the servers' own counters; then client: what clients observed" in shown
    assert "auth_failures.unauthorized_total" in shown


@pytest.mark.parametrize(
    ("misspelt", "near"),
    [
        ("replay.bootstrap", "replay.bootstrap_ms"),
        ("bootstrap_ms", "replay.bootstrap_ms"),
        ("UX.Integrity", "ux.integrity"),
        ("silent-loss", "silent_loss"),
    ],
)
def test_misspelt_name_gets_one_sentence_with_suggestions(misspelt: str, near: str) -> None:
    said = stormgate_here("gates", "explain", misspelt)
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert misspelt in said.sentence
    assert near in said.sentence
