"""Fixtures of the client's tests."""

import pytest

from tests.client.session_driver import SessionDriver


@pytest.fixture
def driver() -> SessionDriver:
    """An idle reference client."""
    return SessionDriver()


@pytest.fixture
def live() -> SessionDriver:
    """A live reference client that has applied event 1."""
    return SessionDriver().go_live(1)
