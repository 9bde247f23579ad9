import os

import pytest

from tests.packaging.wheel import Installed, installed


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The installed wheel, shared by all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    return installed((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "installed-wheel")
