"""The journal of a rollout: what was written cannot be changed unseen, by anybody, and is never lost."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drills.rollout.setup import journal
from drills.rollout.setup.journal import Journal
from sim.base.clocks import SteppedClock, from_iso, iso
from sim.base.errors import EvidenceError, UsageError

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(START)


@pytest.fixture
def path(tmp_path: Path, clock: SteppedClock) -> Path:
    """A journal with three entries, an hour between them."""
    path = tmp_path / journal.NAME
    with Journal(path, clock) as written:
        for stage in "012":
            written.append("stage_started", stage=stage)
            clock.step(timedelta(hours=1))
    return path


def test_reads_back_written_entries(path: Path) -> None:
    entries = journal.read(path)
    assert [(entry.n, entry.kind, entry.body) for entry in entries] == [
        (n, "stage_started", {"stage": stage}) for n, stage in ((1, "0"), (2, "1"), (3, "2"))
    ]
    assert [from_iso(entry.at) for entry in entries] == [START + timedelta(hours=hours) for hours in range(3)]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_changed_line_is_detected(path: Path, line: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace('"stage":"', '"stage":"9')
    path.write_text("".join(lines))
    with pytest.raises(EvidenceError, match=f"line {line + 1} "):
        journal.read(path)


@pytest.mark.parametrize("line", [0, 1])
def test_missing_line_is_detected(path: Path, line: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(EvidenceError, match="changed by hand"):
        journal.read(path)


def test_swapped_lines_are_detected(path: Path) -> None:
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + third + second)
    with pytest.raises(EvidenceError, match="line 2"):
        journal.read(path)


def test_torn_last_line_is_cut_and_the_journal_continues(path: Path, clock: SteppedClock) -> None:
    with path.open("a") as file:
        file.write('{"n":4,"at":"2026')
    with Journal(path, clock) as written:
        written.append("signed")
    assert [entry.kind for entry in journal.read(path)] == ["stage_started"] * 3 + ["signed"]


def test_clock_that_was_set_back_writes_nothing(path: Path, clock: SteppedClock) -> None:
    clock.set(-timedelta(days=1))
    with Journal(path, clock) as written, pytest.raises(EvidenceError, match="set back"):
        written.append("signed")
    assert len(journal.read(path)) == 3


def test_second_writer_is_refused(path: Path, clock: SteppedClock) -> None:
    with Journal(path, clock), pytest.raises(UsageError, match="another stormgate"), Journal(path, clock):
        pass
    with Journal(path, clock) as later:
        later.append("signed")


def test_time_without_a_zone_is_refused() -> None:
    assert from_iso(iso(START)) == START
    with pytest.raises(ValueError, match="no time zone"):
        from_iso("2026-03-02T09:00:00")
