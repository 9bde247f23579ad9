"""What holds for all tests."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Whoever starts the tests in the background, or with nohup, leaves them, and all that they start, with Ctrl-C and a terminal's
# end ignored: neither could be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture
def vectors() -> Callable[[str], list[Any]]:
    """A reader of one vector file by its stem; never empty, so that no loop over it proves nothing."""

    def read(stem: str) -> list[Any]:
        lines = [json.loads(line) for line in (_VECTORS / f"{stem}.jsonl").read_text().splitlines()]
        assert lines
        return lines

    return read
