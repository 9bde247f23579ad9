"""A run's snapshots on disk: kept however their writer ends, never written by two, and never read back otherwise."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drills.rollout.servers.sampler import MAX_REPEATS, Sampler, read
from drills.rollout.setup.records import BODIES, SNAPSHOTS, Phase, Snapshot
from sim.base.clocks import SteppedClock, iso
from sim.base.errors import EvidenceError, StorageError, UsageError

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


class Said:
    """A source with scripted answers."""

    def __init__(self, source: str = "metrics", generated_at: Callable[[datetime], str | None] = iso) -> None:
        self.source, self.generated_at = source, generated_at
        self.body = b'{"mirror": {}}'

    def ask(self, n: int, phase: Phase, fault: bool, clock: SteppedClock) -> tuple[Snapshot, bytes]:
        snapshot = Snapshot(
            n=n,
            at=iso(clock.now()),
            source=self.source,  # type: ignore[arg-type]
            profile="full",
            phase=phase,
            fault=fault,
            url="http://127.0.0.1/metrics",
            outcome="ok",
            generated_at=self.generated_at(clock.now()),
        )
        return snapshot, self.body


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(START)


def sampled(folder: Path, clock: SteppedClock, polls: int, *sources: Said) -> list[Snapshot]:
    taken = []
    with Sampler(folder, sources or (Said(), Said("control", lambda _: None)), clock) as sampler:
        for _ in range(polls):
            taken += sampler.poll("hold", fault=True)
            clock.step(timedelta(seconds=30))
    return taken


def test_reads_back_recorded_snapshots(tmp_path: Path, clock: SteppedClock) -> None:
    taken = sampled(tmp_path / "run", clock, 3)
    assert read(tmp_path / "run") == taken
    assert [(each.n, each.source) for each in taken[:3]] == [(1, "metrics"), (2, "control"), (3, "metrics")]
    assert {(each.phase, each.fault) for each in taken} == {("hold", True)}
    assert (tmp_path / "run" / taken[0].body).read_bytes() == b'{"mirror": {}}'
    assert len(taken[0].sha256) == 64


def test_folder_without_snapshots_reads_as_empty(tmp_path: Path) -> None:
    assert read(tmp_path) == []


def test_answer_without_a_body_has_no_file(tmp_path: Path, clock: SteppedClock) -> None:
    source = Said()
    source.body = b""
    (taken,) = sampled(tmp_path, clock, 1, source)
    assert (taken.body, taken.sha256) == ("", "")
    assert read(tmp_path) == [taken]


# --- killed, and gone on with -----------------------------------------------------------------------


def test_second_sampler_continues_the_numbering(tmp_path: Path, clock: SteppedClock) -> None:
    before = sampled(tmp_path, clock, 2)
    after = sampled(tmp_path, clock, 2)
    assert [each.n for each in before + after] == list(range(1, 9))
    assert read(tmp_path) == before + after


def test_torn_line_and_its_body_are_removed(tmp_path: Path, clock: SteppedClock) -> None:
    before = sampled(tmp_path, clock, 2)
    path = tmp_path / SNAPSHOTS
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b'"url"')])
    assert read(tmp_path) == before[:3], "half a line may be one that is being written"
    after = sampled(tmp_path, clock, 1)
    assert [each.n for each in after] == [4, 5]
    assert read(tmp_path) == [*before[:3], *after]


def test_orphan_body_is_deleted(tmp_path: Path, clock: SteppedClock) -> None:
    before = sampled(tmp_path, clock, 1)
    for name in ("000003-metrics.json", "000004-control.json.partial", "notes.txt"):
        (tmp_path / BODIES / name).write_bytes(b"{")
    assert read(tmp_path) == before
    sampled(tmp_path, clock, 0)
    assert sorted(path.name for path in (tmp_path / BODIES).iterdir()) == [
        "000001-metrics.json",
        "000002-control.json",
        "notes.txt",
    ]


def test_line_without_its_body_is_continued_but_invalid_evidence(tmp_path: Path, clock: SteppedClock) -> None:
    before = sampled(tmp_path, clock, 1)
    (tmp_path / before[0].body).unlink()
    assert [each.n for each in sampled(tmp_path, clock, 1)] == [3, 4]
    with pytest.raises(EvidenceError, match="the body of snapshot 1 cannot be read"):
        read(tmp_path)


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}]
from pathlib import Path
from tests.rollout.test_sampler import START, Said, SteppedClock, Sampler

sampler = Sampler(Path({folder!r}), (Said(), Said("control", lambda _: None)), SteppedClock(START))
sampler.poll("hold")
print("sampled", flush=True)
sys.stdin.read()
"""


def test_second_sampler_is_refused_until_the_first_is_killed(tmp_path: Path, clock: SteppedClock) -> None:
    here = Path(__file__)
    script = KILLED.format(root=str(here.parents[2]), folder=str(tmp_path))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, cwd=here.parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sampled\n"
        with pytest.raises(UsageError, match="another stormgate samples into this folder"):
            Sampler(tmp_path, (), clock)
        assert len(read(tmp_path)) == 2, "reading needs no lock"
        process.kill()
        process.wait()
    assert [each.n for each in sampled(tmp_path, clock, 1)] == [3, 4]


# --- places that cannot be written to ---------------------------------------------------------------


def test_full_disk_is_reported_and_leaves_no_torn_line(tmp_path: Path, clock: SteppedClock) -> None:
    with Sampler(tmp_path, [Said()], clock) as sampler:
        first = sampler.poll("hold")
        size = (tmp_path / SNAPSHOTS).stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"snapshots\.jsonl: cannot be written \("):
                sampler.poll("hold")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert read(tmp_path) == first
        again = sampler.poll("hold")
    assert read(tmp_path) == first + again


def test_folder_that_cannot_be_written_is_reported(tmp_path: Path, clock: SteppedClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Sampler(tmp_path / "file" / "run", (), clock)


# --- bodies that do not change ----------------------------------------------------------------------


def test_body_that_repeats_for_more_than_three_polls_is_stale(tmp_path: Path, clock: SteppedClock) -> None:
    frozen = iso(START)
    taken = sampled(tmp_path, clock, MAX_REPEATS + 3, Said(generated_at=lambda _: frozen))
    assert [each.outcome for each in taken] == ["ok"] * (MAX_REPEATS + 1) + ["stale_body"] * 2
    assert "more than 3 polls" in taken[-1].notes[-1]
    assert read(tmp_path) == taken


def test_frozen_body_stays_frozen_for_the_next_sampler(tmp_path: Path, clock: SteppedClock) -> None:
    source = Said(generated_at=lambda _: iso(START))
    sampled(tmp_path, clock, MAX_REPEATS + 1, source)
    (taken,) = sampled(tmp_path, clock, 1, source)
    assert taken.outcome == "stale_body"


def test_body_with_an_older_date_does_not_advance(tmp_path: Path, clock: SteppedClock) -> None:
    moments = iter(range(10, 0, -1))
    taken = sampled(tmp_path, clock, MAX_REPEATS + 2, Said(generated_at=lambda _: iso(START + timedelta(days=next(moments)))))
    assert taken[-1].outcome == "stale_body"


def test_body_that_advances_again_is_usable_again(tmp_path: Path, clock: SteppedClock) -> None:
    moments = iter([0, 0, 0, 0, 0, 60, 60])
    taken = sampled(tmp_path, clock, 7, Said(generated_at=lambda _: iso(START + timedelta(seconds=next(moments)))))
    assert [each.ok for each in taken] == [True, True, True, True, False, True, True]


# --- evidence that was changed ----------------------------------------------------------------------


def _change(number: int, **fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / SNAPSHOTS
        lines = path.read_text().splitlines()
        lines[number] = json.dumps({**json.loads(lines[number]), **fields})
        path.write_text("\n".join(lines) + "\n")

    return change


def _without_a_line(folder: Path) -> None:
    path = folder / SNAPSHOTS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))


def _garbage(folder: Path) -> None:
    path = folder / SNAPSHOTS
    path.write_bytes(b"\x00\n" + path.read_bytes())


def _other_body(folder: Path) -> None:
    (folder / BODIES / "000001-metrics.json").write_bytes(b'{"mirror": {"failed_total": 0}}')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_body, "is not the body of snapshot 1"),
        (_without_a_line, "line 2 has the number 3"),
        (_garbage, "line 1 is not a snapshot"),
        (_change(2, at="yesterday"), "line 3 is not a snapshot"),
        (_change(2, at="2026-03-02T08:00:00.000Z"), "line 3 is older than the line before it"),
        (_change(2, body="../../etc/hostname"), "which is not a body's file"),
        (_change(2, outcome=7), "line 3 is not a snapshot"),
    ],
)
def test_changed_snapshots_are_invalid_evidence(
    tmp_path: Path, clock: SteppedClock, change: Callable[[Path], None], words: str
) -> None:
    sampled(tmp_path, clock, 2)
    change(tmp_path)
    with pytest.raises(EvidenceError, match=words):
        read(tmp_path)


def test_sampler_refuses_to_continue_damaged_evidence(tmp_path: Path, clock: SteppedClock) -> None:
    sampled(tmp_path, clock, 1)
    _garbage(tmp_path)
    with pytest.raises(EvidenceError, match="line 1 is not a snapshot"):
        Sampler(tmp_path, (), clock)
    assert os.listdir(tmp_path)
