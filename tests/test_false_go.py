"""Ways to a go that should be none: each was one once, or nearly."""

from pathlib import Path

import pytest

from sim.errors import StorageError
from sim.observations import Columns, Recorder

# --- evidence that was never written ----------------------------------------------------------------


def test_rows_that_the_writer_could_not_make_sense_of_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread died of anything but a disk's trouble, and the run was sealed as whole without those rows."""
    recorder = Recorder(tmp_path)
    recorder.add(0.5, "phase", detail="steady")
    recorder.flush()

    def fails(_: Columns) -> None:
        raise ValueError("columns of different lengths")

    monkeypatch.setattr(Columns, "table", fails)
    recorder.add(1.0, "gap", 1, "runtime.run.1.events", 7)
    with pytest.raises(StorageError, match="different lengths"):
        recorder.seal()


def test_a_chunk_that_vanished_meanwhile_is_missed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for t in range(3):
        recorder.add(float(t), "phase", detail="steady")
        recorder.flush()
    while not (vanishing := tmp_path / "observations" / "000001.parquet").exists():
        pass
    vanishing.unlink()
    with pytest.raises(StorageError, match="2 rows were written where 3 were observed"):
        recorder.seal()
