"""More clients than the machine has room for are refused, with the figure and the way out."""

from pathlib import Path

import pytest

from locustfiles.load.run import room
from sim.base.errors import UsageError


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with 600 MB of free memory, 20 000 ports and 5 000 descriptors a process."""
    (tmp_path / "memory").write_text("MemTotal: 9999999 kB\nMemAvailable: 585938 kB\n")
    (tmp_path / "ports").write_text("10000\t29999\n")
    monkeypatch.setattr(room, "_MEMORY", tmp_path / "memory")
    monkeypatch.setattr(room, "_PORTS", tmp_path / "ports")
    monkeypatch.setattr(room, "_descriptors", lambda: 50_000)


def test_the_scarcest_thing_decides(monkeypatch: pytest.MonkeyPatch):
    room.require(10_000, 0)
    with pytest.raises(UsageError, match=r"^900000 clients: this machine's free memory allows 10000 here\. Use more machines"):
        room.require(900_000, 0)
    room._PORTS.write_text("1\t300\n")
    with pytest.raises(UsageError, match=r"local ports to one address allows 300"):
        room.require(301, 0)


def test_workers_multiply_what_a_process_may_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "_descriptors", lambda: 1000)
    room.require(2000, 2)
    with pytest.raises(
        UsageError, match=r"open files of a process \(`ulimit -n`\) allows 2000 here\. Raise it, use --processes"
    ):
        room.require(2001, 2)
