"""Files that are too large, no files, or no text: one sentence each, and never a wait."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from drills.rollout.setup import evidence
from drills.runs import run_files
from sim.base import bounded_reads
from sim.base.atomic_files import read_struct
from sim.base.config import read_toml
from sim.base.errors import StormgateError


class Anything(msgspec.Struct):
    a: int = 0


def too_large(path: Path) -> None:
    path.touch()
    os.truncate(path, bounded_reads.MAX_FILE_BYTES + 1)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


BAD = {
    "too large": (too_large, "it is larger than 64 MiB"),
    "a pipe that nobody writes to": (pipe, "it is not a file"),
    "a folder": (Path.mkdir, "it is not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is not a file"),
    "no text": (written(b"a = '\xff'"), "byte 6 is not UTF-8 text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    make, words = BAD[name]
    path = tmp_path / "file"
    make(path)
    with pytest.raises(OSError, match=re.escape(words)) as caught:
        bounded_reads.file_text(path)
    assert caught.value.strerror == words
    with pytest.raises(StormgateError, match=f"cannot be read \\({words}\\)"):
        read_toml(path)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_no_evidence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    BAD[name][0](path)
    with pytest.raises(StormgateError):
        read_struct(path, Anything)


@pytest.mark.parametrize("name", ["a pipe that nobody writes to", "a folder", "a device"])
def test_what_is_no_file_has_no_lines_and_no_hash(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    BAD[name][0](path)
    for read in (evidence.whole_lines, evidence.sha256, bounded_reads.file_sha256):
        with pytest.raises((StormgateError, OSError)):
            read(path)


TEXTS = {
    "nested too deeply": b"a = " + b"[" * 100_000,
    "a number of many digits": b"a = " + b"9" * 10_000,
    "a key twice": b"a = 1\na = 2",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_text_is_no_toml(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(TEXTS[name])
    with pytest.raises(StormgateError, match="is not valid TOML"):
        read_toml(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": %s}' % (b"9" * 10_000), b'{"a": 1e400}', b'{"a": NaN}', b"{}\0"])
def test_a_bad_text_is_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(StormgateError, match="is damaged"):
        read_struct(path, Anything)


def test_a_run_whose_plan_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / run_files.PLAN_NAME).write_text('{"drills":' * 50_000)
    with pytest.raises(StormgateError, match="damaged"):
        run_files.read_plan(tmp_path)


def test_the_end_of_a_file_of_any_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    too_large(path)
    with path.open("ab") as file:
        file.write(b"the end")
    assert bounded_reads.file_end(path, 7) == b"the end"
    (tmp_path / "short").write_text("short")
    assert bounded_reads.file_end(tmp_path / "short", 100) == b"short"
