from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rollout.rollout_world import RolloutWorld, after_preflight, signed_preflight


@pytest.fixture(scope="session")
def preflight(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A rollout whose stage 0 is a signed go, shared by all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as monkeypatch:
        return signed_preflight((base if worker_id == "master" else base.parent) / "signed-preflight", monkeypatch)


@pytest.fixture
def rollout(tmp_path: Path, preflight: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolloutWorld]:
    """A rollout of one's own, after a signed go of stage 0."""
    with after_preflight(tmp_path, preflight, monkeypatch) as world:
        yield world
