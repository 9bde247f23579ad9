"""The shipped client's own answers, recorded line by line in `tests/vectors`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture
def vectors() -> Callable[[str], list[Any]]:
    """A reader of one vector file by its stem; never empty, so that no loop over it proves nothing."""

    def read(stem: str) -> list[Any]:
        lines = [json.loads(line) for line in (_VECTORS / f"{stem}.jsonl").read_text().splitlines()]
        assert lines
        return lines

    return read
