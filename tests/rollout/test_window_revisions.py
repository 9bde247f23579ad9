"""The revisions in a window, from snapshots that each know one service."""

import pytest

from drills.rollout.setup.records import Revisions
from drills.rollout.verdict.window import StageWindow
from tests.windows import snapshot


@pytest.mark.parametrize(
    ("reported", "pairs"),
    [
        ([("", "r1"), ("c1", ""), ("", "r1"), ("c1", "")], [("c1", "r1")]),
        ([("", "r1"), ("c1", ""), ("", "r2"), ("c1", "")], [("c1", "r1"), ("c1", "r2")]),
        ([("", "r1"), ("c1", ""), ("", ""), ("c2", "")], [("c1", "r1"), ("c2", "r1")]),
        ([("", "r1"), ("c1", ""), ("", "r2"), ("", "r1")], [("c1", "r1"), ("c1", "r2")]),
        ([("", "r1"), ("", "")], [("", "r1")]),
        ([("", ""), ("", "")], []),
    ],
)
def test_service_keeps_its_last_revision(reported: list[tuple[str, str]], pairs: list[tuple[str, str]]) -> None:
    taken = tuple(
        snapshot(n, n, "metrics", {}, revisions=Revisions(control=control, runtime=runtime))
        for n, (control, runtime) in enumerate(reported, 1)
    )
    found = StageWindow(0.0, 3600.0, 60.0, taken, ()).revisions
    assert [(pair.control, pair.runtime) for pair in found] == pairs
