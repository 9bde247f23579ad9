"""Progress of one drill or several: a few lines for a log, and a bar on a terminal."""

import pytest

from drills.reports import terminal
from drills.reports.terminal import Progress, Several
from sim.base.process_pool import Standing

WAITS, RUNS, DONE = (Standing(False, False, "", 0.0), Standing(True, False, "fault", 3.25), Standing(False, True, "end", 9.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A wall clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm")


def test_log_gets_a_line_per_phase_and_per_second(clock: list[float], capsys: pytest.CaptureFixture[str]):
    with Progress("storm", 40.0) as progress:
        for number in range(40):
            progress("steady" if number < 20 else "fault", f"{number}", float(number))
            clock[0] += 0.1
    assert capsys.readouterr().err.splitlines() == [
        *("storm: steady: 0", "storm: steady: 10", "storm: fault: 20", "storm: fault: 30"),
        "storm: fault: 39",  # the last one is always printed
    ]


def test_log_gets_a_line_per_finished_drill_and_one_at_intervals(clock: list[float], capsys: pytest.CaptureFixture[str]):
    with Several("2 drills", ("one", "two")) as progress:
        for standings in ((WAITS, WAITS), (RUNS, WAITS), (RUNS, WAITS), (DONE, RUNS), (DONE, DONE)):
            progress(standings)
            clock[0] += 6.0
    assert capsys.readouterr().err.splitlines() == [
        "2 drills: 0 of 2 done",
        "2 drills: 0 of 2 done; one: fault, 3.2 s simulated",
        "2 drills: 1 of 2 done, about 18 s left; two: fault, 3.2 s simulated",
        "2 drills: 2 of 2 done",
    ]


@pytest.mark.parametrize(
    ("done", "took_s", "words"),
    [
        *((0, 5.0, ""), (1, 2.0, ", about 18 s left"), (5, 600.0, ", about 10 min left")),
        *((1, 3600.0, ", about 9 h 00 min left"), (10, 9.0, "")),
    ],
)
def test_time_left_goes_on_as_so_far(done: int, took_s: float, words: str):
    assert terminal.time_left(done, 10, took_s) == words


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("length", [None, 4.0])
def test_terminal_gets_one_changing_line(length: float | None, capsys: pytest.CaptureFixture[str]):
    with Progress("storm", length) as progress:
        progress("steady", "all live", 2.0)
        progress._live.refresh()
    said = capsys.readouterr().err
    assert "storm: steady: all live" in said
    assert ("━" in said) == (length is not None)


@pytest.mark.usefixtures("_terminal")
def test_terminal_gets_a_bar_and_a_line_per_running_drill(capsys: pytest.CaptureFixture[str]):
    with Several("3 drills", ("one", "two", "three")) as progress:
        progress((DONE, RUNS, RUNS))
        progress._live.refresh()
    said = capsys.readouterr().err
    assert [word for word in ("1 of 3", "two: fault", "three: fault", "━") if word not in said] == []
