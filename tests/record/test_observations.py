"""The record: rows are read back as written, and damage is detected."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base import bounded_reads
from sim.base.errors import EvidenceError, StorageError
from sim.record import parquet
from sim.record.columns import Columns
from sim.record.observations import SCHEMA
from sim.record.parquet import CHUNK_FOLDER, FILE_NAME, Collector, Recorder, read
from sim.record.run_header import HEADER_NAME, RunHeader, read_header, read_verified, write_header

ROWS = [
    (0.5, "phase", -1, "", -1, 0, math.nan, "steady", -1),
    (1.25, "applied", 3, "runtime.run.r1.events", 2**40, 0, math.nan, "abc", 2**41),
    (1.5, "backoff", 2, "", -1, 7, 250.5, "network", -1),
    (2.0, "applied", 3, "runtime.run.r2.events", 1, 0, math.nan, "abc", 0),
]


def header(**more) -> RunHeader:
    fields = {
        "drill": "d",
        "drill_sha256": "0" * 64,
        "engine": "sockets",
        "target": "mock",
        "target_kind": "mock",
        "policy": "reference",
        "seed": 1,
        "clients": 4,
        "started_at": "2026-11-23T00:00:00+00:00",
        "clock": "wall",
        "versions": {},
    }
    return RunHeader(**(fields | more))


def rows(table: pa.Table) -> list[tuple]:
    return [tuple(row[name] for name in SCHEMA.names) for row in table.to_pylist()]


def same(found: list[tuple], wanted: list[tuple]) -> bool:
    return repr(found) == repr(wanted)  # nan is not equal to itself, but reads the same


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A finished run's folder, its header complete."""
    recorder = Recorder(tmp_path)
    for row in ROWS:
        recorder.add(*row)
    sha256, count = recorder.seal()
    write_header(tmp_path, header(complete=True, observations_sha256=sha256, observations_rows=count))
    return tmp_path


def test_written_rows_are_read_back(sealed: Path):
    table = read(sealed)
    assert same(rows(table), ROWS)
    assert table.schema.equals(SCHEMA)
    assert sorted(path.name for path in sealed.iterdir()) == [FILE_NAME, "run.json"]


def test_complete_run_matches_its_header(sealed: Path):
    made, table = read_verified(sealed)
    assert made.observations_rows == table.num_rows == len(ROWS)


def test_columns_give_the_same_table_as_the_recorder():
    columns = Columns()
    for row in ROWS:
        columns.add(*row)
    assert same(rows(columns.table()), ROWS)
    assert len(columns) == len(ROWS)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from(("alone", "shared")))))
def test_shared_rows_are_sorted_by_time_with_the_others(entries: list[tuple[int, int, str]]):
    """Rows with the same time stay in the order of their addition, shared or not."""
    shared = {number: tuple((f"kind {number}", "s", row, 0, 1.0, "d", row) for row in range(number)) for number in range(4)}
    columns, expected = Columns(), []
    for client, (t, number, how) in enumerate(entries):
        noticed = shared[number] if how == "shared" else list(shared[number])
        columns.extend(float(t), client, noticed)
        expected += [(float(t), row[0], client, *row[1:]) for row in noticed]
    assert rows(columns.table()) == sorted(expected, key=lambda row: row[0])
    assert len(columns) == len(expected)


def test_at_will_chunks_end_at_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "CHUNK_ROWS", 10)
    recorder = Recorder(tmp_path, at_will=True)
    for number in range(25):
        recorder.add(float(24 - number), "applied", number)
    recorder.flush_if_full()
    recorder.add(30.0, "applied")
    recorder.flush_if_full()
    assert recorder.seal()[1] == 26
    assert read(tmp_path)["t"].to_pylist() == [*map(float, range(25)), 30.0]


def test_run_without_rows_is_readable(tmp_path: Path):
    assert Recorder(tmp_path).seal()[1] == 0
    assert read(tmp_path).num_rows == 0


def test_full_chunk_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet, "CHUNK_ROWS", 10)
    recorder = Recorder(tmp_path)
    for number in range(25):
        recorder.add(float(number), "applied", number, f"s{number % 3}", number)
    assert recorder.seal()[1] == 25
    table = read(tmp_path)
    assert table["seq"].to_pylist() == list(range(25))
    assert table["stream"].to_pylist() == [f"s{number % 3}" for number in range(25)]


def test_all_but_the_last_chunk_survive_a_crash(tmp_path: Path):
    """The process is killed with SIGKILL."""
    script = """
        import os, signal, sys, time
        from pathlib import Path
        from sim.record.parquet import Recorder
        folder = Path(sys.argv[1])
        recorder = Recorder(folder)
        for chunk in range(3):
            recorder.add(chunk, "applied", chunk, f"stream {chunk}", chunk)
            recorder.flush()
        while not (folder / "observations" / "000002.parquet").exists():
            time.sleep(0.01)
        recorder.add(9.0, "applied", 9)
        (folder / "observations" / "000003.partial").write_bytes(b"PAR1 half a chunk")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", dedent(script), str(tmp_path)], timeout=60, check=False)
    assert done.returncode < 0
    table = read(tmp_path)
    assert table["stream"].to_pylist() == ["stream 0", "stream 1", "stream 2"]
    write_header(tmp_path, header())
    with pytest.raises(EvidenceError, match="did not complete"):
        read_verified(tmp_path)


def test_run_without_observations_is_refused(tmp_path: Path):
    with pytest.raises(EvidenceError, match="there are no observations"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -8])
def test_truncated_file_is_refused(sealed: Path, keep: int):
    path = sealed / FILE_NAME
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EvidenceError, match=FILE_NAME):
        read_verified(sealed)


@pytest.mark.parametrize("name", SCHEMA.names)
def test_missing_column_is_named(sealed: Path, name: str):
    path = sealed / FILE_NAME
    pq.write_table(pq.read_table(path).drop_columns([name]), path)
    with pytest.raises(EvidenceError, match=f"column {name} is missing"):
        read(sealed)


def test_column_of_another_type_is_refused(sealed: Path):
    path = sealed / FILE_NAME
    table = pq.read_table(path)
    at = table.schema.get_field_index("seq")
    pq.write_table(table.set_column(at, "seq", pa.array(["one", "two", "three", "four"])), path)
    with pytest.raises(EvidenceError, match="wrong type"):
        read(sealed)


def test_changed_file_is_refused(sealed: Path):
    path = sealed / FILE_NAME
    table = pq.read_table(path)
    at = table.schema.get_field_index("t")
    pq.write_table(table.set_column(at, "t", pa.array([0.0, 1.0, 2.0, 3.0])), path)
    assert read(sealed).num_rows == len(ROWS)
    with pytest.raises(EvidenceError, match="is not the file that the run recorded"):
        read_verified(sealed)


def test_wrong_row_count_is_refused(sealed: Path):
    write_header(sealed, header(**{**as_fields(read_header(sealed)), "observations_rows": 5}))
    with pytest.raises(EvidenceError, match="4 rows, but 5 were recorded"):
        read_verified(sealed)


def as_fields(made: RunHeader) -> dict:
    return {name: getattr(made, name) for name in made.__struct_fields__}


def test_incomplete_run_is_refused(sealed: Path):
    write_header(sealed, header(**{**as_fields(read_header(sealed)), "complete": False, "stopped_because": "it was tired"}))
    with pytest.raises(EvidenceError, match="it was tired"):
        read_verified(sealed)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"drill": 3}', b"\xff"])
def test_damaged_header_is_refused(sealed: Path, content: bytes):
    (sealed / "run.json").write_bytes(content)
    with pytest.raises(EvidenceError) as raised:
        read_header(sealed)
    assert str(raised.value).startswith(str(sealed / "run.json"))
    assert "\n" not in str(raised.value)


def test_missing_header_is_refused(tmp_path: Path):
    with pytest.raises(EvidenceError, match=r"run\.json: cannot be read"):
        read_header(tmp_path)


def test_written_header_is_read_back(tmp_path: Path):
    made = header(
        plan=[{"kind": "drop_sockets"}], subscriptions={"0": ["a"]}, negative_clients={"4": "p"}, auditor=5, defects=["x"]
    )
    write_header(tmp_path, made)
    assert read_header(tmp_path) == made
    assert list(tmp_path.iterdir()) == [tmp_path / "run.json"]


def test_header_that_cannot_be_written_is_a_storage_error(tmp_path: Path):
    with pytest.raises(StorageError, match="cannot be written"):
        write_header(tmp_path / "none", header())


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--out"):
        Recorder(tmp_path / "file" / "run")


def test_disk_failure_is_raised_by_check_and_earlier_chunks_stay(tmp_path: Path):
    recorder = Recorder(tmp_path)
    recorder.add(1.0, "applied")
    recorder.flush()
    while not (tmp_path / CHUNK_FOLDER / "000000.parquet").exists():
        recorder.check()
    kept = tmp_path / "kept"
    shutil.move(tmp_path / CHUNK_FOLDER, kept)
    (tmp_path / CHUNK_FOLDER).write_text("no folder any more")
    recorder.add(2.0, "applied")
    with pytest.raises(StorageError, match="observations cannot be written"):
        recorder.seal()
    with pytest.raises(StorageError, match="free some space"):
        recorder.check()
    assert pq.read_table(kept / "000000.parquet").num_rows == 1


@pytest.mark.parametrize("limit", [2_000, 60_000])
def test_full_disk_is_a_storage_error_whether_chunk_or_join_hits_it(tmp_path: Path, limit: int):
    """A file size limit in a separate process fails like a full disk, with another error number."""
    script = """
        import random, resource, sys
        from pathlib import Path
        from sim.base.errors import StorageError
        from sim.record.parquet import Recorder
        recorder = Recorder(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            for number in range(12_000):
                recorder.add(random.random(), "applied", number, f"s{number % 7}", random.getrandbits(40))
                if number % 1_000 == 999:
                    recorder.flush()
            recorder.seal()
        except StorageError as error:
            print(error)
    """
    command = [sys.executable, "-c", dedent(script), str(tmp_path), str(limit)]
    done = subprocess.run(command, timeout=60, check=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert "observations cannot be written (File too large)" in done.stdout
    assert done.stderr == ""
    assert not (tmp_path / FILE_NAME).exists()
    assert len(list((tmp_path / CHUNK_FOLDER).glob("*.parquet"))) == (0 if limit == 2_000 else 12)


@pytest.mark.parametrize(("number", "remedy"), [(errno.EMFILE, "raise `ulimit -n`"), (errno.ENOSPC, "free some space")])
def test_a_write_failure_names_its_own_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq, "write_table", fail)
    recorder = Recorder(tmp_path)
    recorder.add(1.0, "applied")
    with pytest.raises(StorageError, match=remedy) as told:
        recorder.seal()
    assert os.strerror(number) in str(told.value)


def test_header_that_was_changed_is_refused_in_any_layout(sealed: Path):
    path = sealed / HEADER_NAME
    path.write_bytes(json.dumps(json.loads(path.read_bytes())).encode())
    assert read_header(sealed).seed == 1, "only its layout differs"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(EvidenceError, match="is not as it was written"):
        read_header(sealed)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("other")])
def test_other_evidence_that_was_changed_is_refused(sealed: Path, damage: Callable[[Path], object]):
    path = sealed / "metrics.json"
    path.write_text("{}")
    written = read_header(sealed)
    written.evidence = {path.name: bounded_reads.file_sha256(path)}
    write_header(sealed, written)
    read_verified(sealed)
    damage(path)
    with pytest.raises(EvidenceError, match=r"metrics\.json: is not the file that the run recorded"):
        read_verified(sealed)


def test_column_with_damaged_pages_is_refused(sealed: Path):
    path = sealed / FILE_NAME
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match=f"{FILE_NAME}: cannot be read"):
        read(sealed)


class Chunks(Collector):
    """Keeps the sizes of the chunks that are handed on."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(max_rows)
        self.sizes: list[int] = []

    def _hand_on(self, columns: Columns) -> None:
        self.sizes.append(len(columns))


def test_rows_are_handed_on_as_soon_as_a_chunk_is_full_and_the_rest_at_the_end():
    chunks = Chunks(3)
    sizes = []
    for number in range(7):
        chunks.add(float(number), "applied", number)
        sizes.append(len(chunks.sizes))
    assert sizes == [0, 0, 1, 1, 1, 2, 2]
    chunks.flush()
    chunks.flush()
    assert chunks.sizes == [3, 3, 1]
