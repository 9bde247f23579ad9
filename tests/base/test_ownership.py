"""Marks, and temporary folders whose owners are gone or not."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from sim.base.errors import StorageError
from sim.base.ownership import MARK_NAME, Mark, OwnedFolder, is_left_over, remove_leftovers

PREFIX = "stormgate-owned-"


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of its own for each test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def owner(tmp: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process that owns a folder until it is killed."""
    script = f"""
        import time
        from sim.base.ownership import OwnedFolder
        folder = OwnedFolder({PREFIX!r})
        print(folder.name, flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "TMPDIR": str(tmp)}
    command = [sys.executable, "-c", dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_is_removed_with_its_owner(tmp: Path):
    with OwnedFolder(PREFIX) as name:
        assert (Path(name) / MARK_NAME).read_text() == f"{os.getpid()}\n"
        assert remove_leftovers(PREFIX) == []
        assert Path(name).is_dir()
    assert list(tmp.iterdir()) == []


def test_only_what_a_dead_owner_left_is_removed(tmp: Path):
    with owner(tmp) as (process, folder), OwnedFolder(PREFIX) as own:
        assert remove_leftovers(PREFIX) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert folder.is_dir()
        assert remove_leftovers(PREFIX) == [folder]
        assert not folder.exists()
        assert Path(own).is_dir()


def test_a_reused_process_id_is_not_taken_for_the_owner(tmp: Path):
    left = tmp / f"{PREFIX}old"
    left.mkdir()
    (left / MARK_NAME).write_text(f"{os.getpid()}\n")  # alive, but it holds no lock
    assert remove_leftovers(PREFIX) == [left]


def test_a_folder_without_a_mark_is_left_alone_while_it_is_young(tmp: Path):
    young, old = tmp / f"{PREFIX}young", tmp / f"{PREFIX}old"
    young.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    assert remove_leftovers(PREFIX) == [old]
    assert young.is_dir()


def test_nothing_else_is_touched(tmp: Path):
    elsewhere = tmp / "elsewhere"
    elsewhere.mkdir()
    (tmp / f"{PREFIX}link").symlink_to(elsewhere)
    (tmp / f"{PREFIX}file").write_text("")
    (tmp / "stormgate-other-x").mkdir()
    for path in tmp.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    assert remove_leftovers(PREFIX) == []
    assert elsewhere.is_dir()


def test_a_mark_lasts_as_long_as_the_work(tmp: Path):
    mark = Mark(tmp / "mark")
    assert not is_left_over(tmp / "mark")
    mark.remove()
    assert not (tmp / "mark").exists()
    assert not is_left_over(tmp / "mark")
    with pytest.raises(StorageError, match="none/mark: cannot be written"):
        Mark(tmp / "none" / "mark")
