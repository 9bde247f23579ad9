"""Continuity: may a cursor resume, and what becomes of an event."""

from hypothesis import given
from hypothesis import strategies as st

from sim.server.stream_log import Window, effective_budget, replay_lag, stale_reasons


def test_cursors_are_judged_as_the_shipped_client_judges_them(vectors):
    for line in vectors("continuity"):
        window = Window(line["oldest"], line["head"])
        assert list(stale_reasons(line["after"], window, line["budget"])) == line.get("reasons", []), line
        if not line["resume"]:
            assert window.floor == line["floor"], line
            assert replay_lag(line["after"], window) == line["lag"], line
            assert effective_budget(line["budget"]) == line["effective_budget"], line


def test_the_vectors_hold_every_verdict(vectors):
    assert {tuple(line.get("reasons", [])) for line in vectors("continuity")} == {
        (),
        ("retention_floor_breach",),
        ("replay_budget_exceeded",),
        ("retention_floor_breach", "replay_budget_exceeded"),
    }


@given(st.integers(0), st.integers(0))
def test_a_stream_without_a_window_resumes(after, budget):
    assert stale_reasons(after, None, budget) == ()


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 120), st.integers(0, 30))
def test_a_cursor_that_resumes_misses_nothing(oldest, length, after, budget):
    window = Window(oldest, oldest + length - 1)
    if not stale_reasons(after, window, budget):
        missed = range(after + 1, window.head + 1)
        assert all(seq >= oldest for seq in missed)
        assert len(missed) <= max(budget, 1)


def test_a_cursor_above_the_head_resumes():
    assert stale_reasons(11, Window(5, 10), 1) == ()
    assert replay_lag(11, Window(5, 10)) == 0
