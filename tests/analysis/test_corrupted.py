"""What a fault of the plan makes wrong on purpose is no jumbled message; whatever goes beyond it is."""

import pytest

from sim.analysis import corrupted
from sim.record.observations import Kind
from sim.server.disorder import client_key, concerns, concerns_event
from sim.server.tokens import device_id
from tests.analysis.test_invariants import broken
from tests.histories import STREAM, Story, good_storm

SEED, SHARE = 7, 0.5
KINDS = {Kind.HASH_MISMATCH: "jumble_deliveries", Kind.MALFORMED: "malform_frames"}


def hit(kind: Kind, is_hit: bool = True) -> int:
    """The first client that the fault concerns, or the first that it does not."""
    draws = (concerns(SEED, KINDS[kind], client_key(device_id(client)), SHARE) for client in range(10))
    return list(draws).index(is_hit)


def story(kind: Kind, acted: int = 2, events_share: float = 1.0) -> Story:
    fault = KINDS[kind]
    made = good_storm(10)
    made.header["plan"] = [{"kind": "drop_sockets"}, {"kind": fault, "clients_share": SHARE, "events_share": events_share}]
    made.tell(20.0, Kind.FAULT_INJECTED, attempt=1, detail=fault).tell(24.0, Kind.FAULT_REVERTED, attempt=1, detail=fault)
    return made.tell(24.0, Kind.FAULT_OBSERVED, attempt=1, value=acted, detail=fault)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_fault_made_is_excused(kind: Kind) -> None:
    made = story(kind).tell(21.0, kind, hit(kind), STREAM, 5).tell(25.0, kind, hit(kind), STREAM, 6)
    assert broken(made) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_it_made_is_not(kind: Kind) -> None:
    made = story(kind, acted=2)
    for seq in (5, 6, 7):
        made.tell(21.0, kind, hit(kind), STREAM, seq)
    assert broken(made) == {"jumbled_message": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [19.9, 26.1])
def test_nor_is_anything_before_or_after_it(kind: Kind, t: float) -> None:
    assert broken(story(kind).tell(t, kind, hit(kind), STREAM, 5)) == {"jumbled_message": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_nor_at_clients_that_it_does_not_concern(kind: Kind) -> None:
    assert broken(story(kind).tell(21.0, kind, hit(kind, False), STREAM, 5)) == {"jumbled_message": 1}


def test_nor_of_events_that_it_does_not_concern() -> None:
    """A replay that is jumbled hid behind the live events that a fault had jumbled and nobody had noticed."""
    kind, share = Kind.HASH_MISMATCH, 0.1
    client = hit(kind)
    draws = [concerns_event(SEED, KINDS[kind], client_key(device_id(client)), seq, share) for seq in range(100)]
    made = story(kind, 2, share).tell(21.0, kind, client, STREAM, draws.index(True))
    assert broken(made) == {}
    assert broken(made.tell(21.0, kind, client, STREAM, draws.index(False))) == {"jumbled_message": 1}


def test_nor_of_the_other_kind() -> None:
    made = story(Kind.HASH_MISMATCH)
    for client in range(10):
        made.tell(21.0, Kind.MALFORMED, client)
    assert broken(made) == {"jumbled_message": 10}


def test_a_fault_that_never_acted_excuses_nothing() -> None:
    made = story(Kind.HASH_MISMATCH).without(lambda row: row.kind == Kind.FAULT_OBSERVED)
    assert broken(made.tell(21.0, Kind.HASH_MISMATCH, hit(Kind.HASH_MISMATCH), STREAM, 5)) == {"jumbled_message": 1}
    assert corrupted.effects(made.history()) == {}
