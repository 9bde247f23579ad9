"""Corruption that a fault explains is not a violation; all other corruption is."""

import numpy as np
import pytest

from sim.analysis import corrupted
from sim.record.observations import Kind
from sim.server.delivery.disorder import client_key, concerns, concerns_event
from sim.server.tokens import device_id
from tests.analysis.test_invariants import broken
from tests.histories import STREAM, Story, good_storm

SEED, SHARE = 7, 0.5
KINDS = {Kind.HASH_MISMATCH: "jumble_deliveries", Kind.MALFORMED: "malform_frames"}


def hit(kind: Kind, is_hit: bool = True) -> int:
    """The first client that the fault affects, or the first that it does not affect."""
    draws = (concerns(SEED, KINDS[kind], client_key(device_id(client)), SHARE) for client in range(10))
    return list(draws).index(is_hit)


def story(kind: Kind, acted: int = 2, events_share: float = 1.0) -> Story:
    fault = KINDS[kind]
    made = good_storm(10)
    made.header["plan"] = [{"kind": "drop_sockets"}, {"kind": fault, "clients_share": SHARE, "events_share": events_share}]
    made.tell(20.0, Kind.FAULT_INJECTED, attempt=1, detail=fault).tell(24.0, Kind.FAULT_REVERTED, attempt=1, detail=fault)
    return made.tell(24.0, Kind.FAULT_OBSERVED, attempt=1, value=acted, detail=fault)


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_by_a_fault_is_explained(kind: Kind) -> None:
    made = story(kind).tell(21.0, kind, hit(kind), STREAM, 5).tell(25.0, kind, hit(kind), STREAM, 6)
    assert broken(made) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_more_corruption_than_the_fault_made_is_unexplained(kind: Kind) -> None:
    made = story(kind, acted=2)
    for seq in (5, 6, 7):
        made.tell(21.0, kind, hit(kind), STREAM, seq)
    assert broken(made) == {"jumbled_message": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [19.9, 26.1])
def test_corruption_outside_the_fault_is_unexplained(kind: Kind, t: float) -> None:
    assert broken(story(kind).tell(t, kind, hit(kind), STREAM, 5)) == {"jumbled_message": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_at_unaffected_clients_is_unexplained(kind: Kind) -> None:
    assert broken(story(kind).tell(21.0, kind, hit(kind, False), STREAM, 5)) == {"jumbled_message": 1}


def test_corruption_of_unaffected_events_is_unexplained() -> None:
    """A corrupted replay must not hide behind live events that a fault corrupted."""
    kind, share = Kind.HASH_MISMATCH, 0.1
    client = hit(kind)
    draws = [concerns_event(SEED, KINDS[kind], client_key(device_id(client)), seq, share) for seq in range(100)]
    made = story(kind, 2, share).tell(21.0, kind, client, STREAM, draws.index(True))
    assert broken(made) == {}
    assert broken(made.tell(21.0, kind, client, STREAM, draws.index(False))) == {"jumbled_message": 1}


def test_corruption_of_another_kind_is_unexplained() -> None:
    made = story(Kind.HASH_MISMATCH)
    for client in range(10):
        made.tell(21.0, Kind.MALFORMED, client)
    assert broken(made) == {"jumbled_message": 10}


def test_fault_without_effect_explains_nothing() -> None:
    made = story(Kind.HASH_MISMATCH).without(lambda row: row.kind == Kind.FAULT_OBSERVED)
    assert broken(made.tell(21.0, Kind.HASH_MISMATCH, hit(Kind.HASH_MISMATCH), STREAM, 5)) == {"jumbled_message": 1}
    assert corrupted.effects(made.history()) == {}


@pytest.mark.parametrize(("kind", "share"), [(kind, share) for kind in KINDS for share in (SHARE, 1.0)])
def test_rows_without_a_client_are_of_no_client_that_a_fault_affects(kind: Kind, share: float) -> None:
    made = story(kind)
    made.header["plan"][1]["clients_share"] = share
    history = made.ledger().history
    (fault,) = (each for each in history.faults if each.kind == KINDS[kind])
    assert not corrupted.may_affect(history, fault, np.array([-1])).any()
    assert corrupted.may_affect(history, fault, np.array([hit(kind)])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_hook_explains_all_corruption_while_it_lasts(kind: Kind) -> None:
    """It chose other clients than the seed would, and reported nothing but its success."""
    made = story(kind, acted=1)
    made.header["plan"][1]["by"] = "hook"
    for seq in (5, 6, 7):
        made.tell(21.0, kind, hit(kind, False), STREAM, seq)
    assert broken(made) == {}
    assert broken(made.tell(26.1, kind, hit(kind), STREAM, 8)) == {"jumbled_message": 1}
