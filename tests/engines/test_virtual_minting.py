"""Minting in simulation: the control service's rate limit makes those over it wait, and no one else."""

from pathlib import Path

import msgspec
import pytest

from sim.drill.system_model import UNLIMITED, Network, SystemModel
from sim.engines.virtual import engine
from sim.record.observations import Kind
from sim.record.run_header import read_verified
from tests.storms import small


def minted_t(folder: Path, model: SystemModel) -> list[float]:
    """When each client of a fleet that arrives all at once had its first token, in order."""
    drill = small("reconnect_storm", "fleet.clients=40", "fleet.connects_per_s=1000000")
    folder.mkdir()
    engine.run(drill, engine.Options(folder, 1, model))
    _, recorded = read_verified(folder)
    return sorted(
        row["t"] for row in recorded.table().to_pylist() if row["kind"] == Kind.TOKEN_MINTED and 0 <= row["client"] < 40
    )


def test_tokens_come_no_faster_than_the_limit(tmp_path: Path):
    model = msgspec.structs.replace(UNLIMITED, network=Network(median_ms=0.0, sigma=0.0))
    control = msgspec.structs.replace(model.control, mints_per_s=20.0)
    limited = minted_t(tmp_path / "limited", msgspec.structs.replace(model, control=control))
    assert limited == pytest.approx([number / 20.0 for number in range(40)], abs=1e-3)
    assert max(minted_t(tmp_path / "free", model)) < 1e-3
