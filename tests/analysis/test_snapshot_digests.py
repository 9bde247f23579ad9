"""Snapshots whose digest, which the server states, does not fit their position."""

import pytest

from sim.record.observations import Kind
from tests.analysis.test_invariants import broken, whole
from tests.histories import STREAM


@pytest.mark.parametrize("seq", [0, 2])
@pytest.mark.parametrize(
    ("digest", "later_seq", "count"),
    [("one", 0, 0), ("other", 0, 1), ("one", 1, 1), ("other", 1, 0), ("", 0, 0)],
    ids=["the same", "another digest", "another position", "both others", "no digest"],
)
def test_a_position_has_one_digest_and_a_digest_one_position(seq: int, digest: str, later_seq: int, count: int) -> None:
    story = whole().tell(1.0, Kind.SNAPSHOT, 0, STREAM, seq, detail="one")
    story.tell(1.1, Kind.SNAPSHOT, 1, STREAM, seq + later_seq, detail=digest)
    assert broken(story).get("incomplete_snapshot", 0) == count
