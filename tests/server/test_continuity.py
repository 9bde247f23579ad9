"""Continuity: whether a cursor may resume from the retained window."""

from hypothesis import given
from hypothesis import strategies as st

from sim.server.stream_log import Window, effective_budget, replay_lag, stale_reasons


def test_stale_reasons_match_shipped_client(vectors):
    for line in vectors("continuity"):
        window = Window(line["oldest"], line["head"])
        assert list(stale_reasons(line["after"], window, line["budget"])) == line.get("reasons", []), line
        if not line["resume"]:
            assert window.floor == line["floor"], line
            assert replay_lag(line["after"], window) == line["lag"], line
            assert effective_budget(line["budget"]) == line["effective_budget"], line


def test_vectors_cover_every_stale_reason(vectors):
    assert {tuple(line.get("reasons", [])) for line in vectors("continuity")} == {
        (),
        ("retention_floor_breach",),
        ("replay_budget_exceeded",),
        ("retention_floor_breach", "replay_budget_exceeded"),
    }


@given(st.integers(0), st.integers(0))
def test_stream_without_window_resumes(after, budget):
    assert stale_reasons(after, None, budget) == ()


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 120), st.integers(0, 30))
def test_cursor_that_resumes_misses_nothing(oldest, length, after, budget):
    window = Window(oldest, oldest + length - 1)
    if not stale_reasons(after, window, budget):
        missed = range(after + 1, window.head + 1)
        assert all(seq >= oldest for seq in missed)
        assert len(missed) <= max(budget, 1)


def test_cursor_above_head_resumes():
    assert stale_reasons(11, Window(5, 10), 1) == ()
    assert replay_lag(11, Window(5, 10)) == 0
