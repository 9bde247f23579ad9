"""Fixtures of the runtime's tests."""

import pytest

from tests.server.runtime_driver import A, RuntimeDriver


@pytest.fixture
def driver() -> RuntimeDriver:
    """A healthy runtime with default settings."""
    return RuntimeDriver()


@pytest.fixture
def number(driver: RuntimeDriver) -> int:
    """A connection that is subscribed to topic A."""
    return driver.live(A)
