import pytest

from tests.packaging.wheel import Installed, installed


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Installed:
    """The installed wheel, shared by all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    return installed((base if worker_id == "master" else base.parent) / "installed-wheel")
