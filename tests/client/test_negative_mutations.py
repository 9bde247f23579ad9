"""Clients that try every kind of mutation over the socket, openly and hidden."""

import msgspec
import pytest

from sim.client.negative.registry import session_class
from sim.protocols.intents import Raw
from sim.protocols.spacetime.codec import decode_client
from sim.protocols.spacetime.frames import Subscribe, SyncBeat
from tests.client.hand import RUN, Hand, batch
from tests.client.server_double import RUN as LANE_RUN
from tests.client.server_double import Endpoints


def live(name: str) -> tuple[Hand, list[Raw]]:
    """A probe that has just gone live, and what it asks."""
    hand = Hand(session=session_class(name))
    ask = hand.begin()
    hand.receive(batch(1))
    hand.reply(ask.ref)
    return hand, [frame for frame in hand.sent() if isinstance(frame, Raw)]


def answers(hand: Hand) -> list[str]:
    return [notice.detail for notice in hand.of("probed")]


def test_every_kind_of_mutation_is_asked_for_and_answered_once():
    hand, asked = live("any_mutation")
    assert len({decode_client(frame.data).event for frame in asked}) == len({frame.ref for frame in asked}) == len(asked) > 5
    for frame in asked[1:]:
        hand.reply(frame.ref, ok=False, code="mutation_refused")
        hand.reply(frame.ref, ok=False, code="mutation_refused")
    hand.reply(asked[0].ref)
    assert answers(hand) == ["any_mutation:refused:mutation_refused"] * (len(asked) - 1) + ["any_mutation:accepted"]
    hand.receive(batch(2))
    assert hand.seqs("applied") == [1, 2]


def test_what_is_not_answered_in_time_is_silence():
    hand, asked = live("any_mutation")
    for frame in asked[:-2]:
        hand.reply(frame.ref, ok=False, code="no")
    hand.wait(10.1)
    assert answers(hand)[-2:] == ["any_mutation:refused:silence"] * 2
    assert len(answers(hand)) == len(asked)


def test_a_hidden_mutation_is_a_lawful_frame_to_its_reader():
    hand, asked = live("hidden_mutation")
    assert all(b"stormgate.probe" in frame.data for frame in asked)
    beat, subscribe = (decode_client(frame.data) for frame in asked)
    assert isinstance(beat, SyncBeat)
    assert isinstance(subscribe, Subscribe)
    assert (subscribe.topics, subscribe.resume_after, subscribe.bad_cursor) == ((RUN,), {RUN: 1}, False)
    for frame in asked:
        hand.reply(frame.ref)
    assert answers(hand) == ["hidden_mutation:served"] * 2


@pytest.mark.parametrize("name", ["any_mutation", "hidden_mutation"])
@pytest.mark.parametrize("defects", [set(), {"accept_mutation"}, {"accept_hidden_mutation"}])
def test_the_runtime_core_changes_nothing_unless_it_is_defective(name: str, defects: set[str]):
    service = Endpoints(1, session=session_class(name))
    service.switch(defects=defects)
    service.publish(LANE_RUN)
    service.advance(1.0, carrying=True)
    service.publish(LANE_RUN, 2)
    service.settle()
    service.check()
    granted = defects == {"accept_mutation"} and name == "any_mutation"
    answered = {notice.detail for notice in service.of(0, "probed")}
    refused = "refused:mutation_refused" if name == "any_mutation" else "served"
    assert answered == {f"{name}:{'accepted' if granted else refused}"}
    carried_out = granted or (defects == {"accept_hidden_mutation"} and name == "hidden_mutation")
    assert bool(service.runtime.mutations) == carried_out
    assert all(b"stormgate.probe" in bytes(msgspec.Raw(payload)) for payload in service.runtime.mutations)
