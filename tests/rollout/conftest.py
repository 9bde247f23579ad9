from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.rollout.rollback import changes, rehearsal_steps
from drills.rollout.setup.stages import RoutingChecks
from tests.rollout.rehearsal_world import DEPLOYMENT
from tests.rollout.rollout_world import RolloutWorld, after_preflight, signed_preflight
from tests.served import Served, serving


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


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("rollback"), deployment=DEPLOYMENT) as served:
        yield served


@pytest.fixture
def quick_rehearsal(mock: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use fewer keys and smaller bursts, and reset the mock after each test."""
    monkeypatch.setattr(changes, "ROUTING_CHECKS", RoutingChecks(keys=100))
    monkeypatch.setattr(rehearsal_steps, "_MOCK_BURST", 40)
    monkeypatch.setattr(rehearsal_steps, "_MOCK_PUBLISHES_PER_S", 2.0)
    yield
    for name, body in (("traffic", {"revision": "r2"}), ("throttle", {}), ("cohort", {"percent": 30}), ("switches", {})):
        assert mock.http.put(f"/_mock/{name}", json=body).status_code == 200
