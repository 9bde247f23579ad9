"""Frames whose effect was foreseen are taken later than they arrive, and nobody can tell."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from sim.client.session import Session
from sim.drill.system_model import UNLIMITED, Server, SystemModel
from sim.engines.virtual import engine
from sim.engines.virtual.inbox import Link
from sim.record.run_header import read_verified
from tests.storms import small

DRILLS = ("reconnect_storm", "stale_cursor", "disordered_delivery", "checkpoint_damage", "partition_heal", "token_lifetime")
# One that falls behind now and then, one that never does, and one in which everything arrives at the same moments.
BUSY = SystemModel(server=Server(delivery_batch_ms=1.0))


def stories(folder: Path, name: str, model: SystemModel) -> dict[int, list[str]]:
    """What each client noticed, in order."""
    folder.mkdir()
    engine.run(small(name), engine.Options(folder, 3, model))
    table = read_verified(folder)[1].table()
    moments = table["t"].to_pylist()
    assert moments == sorted(moments)
    found: dict[int, list[str]] = defaultdict(list)
    for row in table.to_pylist():
        found[row["client"]].append(repr(row))  # NaN is not equal to itself
    return found


@pytest.mark.parametrize(("name", "model"), [*((name, SystemModel()) for name in DRILLS), ("reconnect_storm", BUSY)])
def test_calling_every_frame_out_changes_nothing(
    tmp_path: Path, name: str, model: SystemModel, monkeypatch: pytest.MonkeyPatch
):
    followed = 0
    follow = Session.follow

    def counted(session: Session, *arguments: Any) -> bool:
        nonlocal followed
        followed += 1
        return follow(session, *arguments)

    monkeypatch.setattr(Session, "follow", counted)
    foreseen = stories(tmp_path / "foreseen", name, model)
    assert followed > 500
    monkeypatch.setattr(Link, "foresee", lambda link, session: None)
    followed = 0
    called_out = stories(tmp_path / "called", name, model)
    assert followed == 0
    assert called_out.keys() == foreseen.keys()
    assert [client for client in foreseen if foreseen[client] != called_out[client]] == []


def test_frames_that_arrive_at_one_moment_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without limits a service sends a heartbeat and what comes after it at one and the same moment."""
    foreseen = stories(tmp_path / "foreseen", "reconnect_storm", UNLIMITED)
    monkeypatch.setattr(Link, "foresee", lambda link, session: None)
    called_out = stories(tmp_path / "called", "reconnect_storm", UNLIMITED)
    assert [client for client in foreseen if foreseen[client] != called_out[client]] == []
