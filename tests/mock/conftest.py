"""One mock for all tests of a module that leave it as they found it: each creates its own runs."""

from collections.abc import Iterator

import pytest

from tests.served import Served, serving


@pytest.fixture(scope="package")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("mock")) as served:
        yield served
