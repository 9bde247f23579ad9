"""`make prove` says yes only when every chosen row was caught, and ends cleanly when it is told to."""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import prove
from tests.commands import children_of
from tests.mutation_table import MUTATIONS
from tests.prove import Row

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "tests.prove"]
CASE = MUTATIONS[0]


def test_rows_that_are_caught_are_shown(capfd: pytest.CaptureFixture[str]):
    done = subprocess.run([*COMMAND, "--engine", "virtual", "vague_refusals", "drill.cut_once"], cwd=ROOT)
    shown = capfd.readouterr().out
    assert done.returncode == prove.CAUGHT
    assert "2 of 2 caught" in shown
    assert "vague_refusals" in shown
    assert "deploy_cuts_everyone" in shown


def ask(*arguments: str) -> int:
    return prove.main(arguments, threading.Event())


def answering(monkeypatch: pytest.MonkeyPatch, *troubles: str) -> None:
    """Rows with these troubles come out of the first of the table, whatever is asked for."""

    def rows(*_: Any) -> Iterator[Row]:
        for trouble in troubles:
            yield Row(CASE, "virtual", (), trouble, 1.0)

    monkeypatch.setattr(prove, "prove", rows)


@pytest.mark.parametrize(("trouble", "code"), [("", prove.CAUGHT), ("not red: replay.divergence", prove.MISSED)])
def test_one_row_that_is_not_caught_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str, code: int
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answering(monkeypatch, "", trouble)
    monkeypatch.setattr(prove, "MUTATIONS", MUTATIONS[:2])
    assert ask() == code
    assert ("NOT CAUGHT" in capsys.readouterr().out) == bool(trouble)
    assert len([*tmp_path.iterdir()]) == bool(trouble)  # the evidence of what was not caught, and nothing else


def test_rows_that_were_not_tried_were_not_caught(capsys: pytest.CaptureFixture[str]):
    assert ask("vague_refusals", "--engine", "virtual", "--minutes", "0") == prove.MISSED
    assert "0 of 1 caught, 1 not tried (out of time)" in capsys.readouterr().out


def test_a_name_that_no_row_has_is_refused(capsys: pytest.CaptureFixture[str]):
    assert ask("vague_refusals", "nonsense") == prove.USAGE
    assert "no row for nonsense" in capsys.readouterr().err


def test_a_row_that_breaks_or_hangs_is_not_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = prove._prove(CASE, "no_such_engine", tmp_path / "1", threading.Event())
    assert broken.trouble.startswith("broke: ")
    assert "unknown engine" in (tmp_path / "1" / prove.LOG).read_text()
    monkeypatch.setattr(prove, "ROW_S", 0.1)
    assert prove._prove(CASE, "sockets", tmp_path / "2", threading.Event()).trouble.startswith("not done after")


def test_ctrl_c_leaves_nothing_running():
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, "ignore_cursor"], cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as proof:
        assert proof.stderr is not None
        assert proof.stderr.readline().startswith("1 of 2: ignore_cursor")
        while not (rows := children_of(proof.pid)):
            assert proof.poll() is None
        proof.send_signal(signal.SIGINT)
        said, _ = proof.communicate(timeout=60)
    assert proof.returncode == prove.STOPPED
    assert "0 of 2 caught, 2 not tried (interrupted)" in said
    assert [row for row in rows if Path(f"/proc/{row}").exists()] == []
