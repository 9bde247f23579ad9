"""Progress: a few lines for a log, and a bar on a terminal."""

import pytest

from drills.reports import terminal
from drills.reports.terminal import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A wall clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_log_gets_a_line_per_phase_and_per_second(clock: list[float], capsys: pytest.CaptureFixture[str]):
    with Progress("storm", 40.0) as progress:
        for number in range(40):
            progress("steady" if number < 20 else "fault", f"{number}", float(number))
            clock[0] += 0.1
    assert capsys.readouterr().err.splitlines() == [
        *("storm: steady: 0", "storm: steady: 10", "storm: fault: 20", "storm: fault: 30"),
        "storm: fault: 39",  # the last one is always printed
    ]


@pytest.mark.parametrize("length", [None, 4.0])
def test_terminal_gets_one_changing_line(
    length: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with Progress("storm", length) as progress:
        progress("steady", "all live", 2.0)
        progress._live.refresh()
    said = capsys.readouterr().err
    assert "storm: steady: all live" in said
    assert ("━" in said) == (length is not None)
