"""Probes: what they try, and how each answer is told."""

import pytest

from sim.base.errors import UsageError
from sim.client.actions import Connect, Mint
from sim.client.negative.mutations import MutationOverSocket
from sim.client.negative.registry import NEGATIVE_CLIENTS, session_class
from sim.client.negative.tokens import ExpiredToken
from sim.client.session import Session
from sim.protocols.intents import Raw
from sim.protocols.spacetime.codec import decode_client
from sim.protocols.spacetime.frames import Request, Subscribe
from tests.client.hand import RUN, Hand, batch
from tests.client.server_double import RUN as LANE_RUN
from tests.client.server_double import Endpoints


def answers(hand: Hand) -> list[str]:
    return [notice.detail for notice in hand.of("probed")]


def live_probe() -> tuple[Hand, str]:
    """A mutation probe that is live, and the reference of its question."""
    hand = Hand(session=MutationOverSocket)
    ask = hand.begin()
    hand.receive(batch(1))
    hand.reply(ask.ref)
    (request,) = hand.sent()
    assert isinstance(request, Raw)
    frame = decode_client(request.data)
    assert isinstance(frame, Request)
    assert frame.event == "sync:publish"
    assert RUN.encode() in bytes(frame.payload)
    return hand, request.ref


@pytest.mark.parametrize(
    ("ok", "code", "answer"),
    [(True, "", "accepted"), (False, "mutation_refused", "refused:mutation_refused"), (False, "", "refused:error")],
)
def test_a_mutation_is_accepted_or_refused_and_the_probe_stays_live(ok, code, answer):
    hand, ref = live_probe()
    hand.reply(ref, ok=ok, code=code)
    assert answers(hand) == [f"mutation_over_socket:{answer}"]
    hand.wait(10.0)
    hand.receive(batch(2))
    assert hand.session.is_live
    assert hand.seqs("applied") == [1, 2]
    assert len(answers(hand)) == 1


def test_no_answer_to_a_mutation_is_a_refusal():
    hand, ref = live_probe()
    hand.wait(9.9)
    assert not answers(hand)
    hand.wait(0.2)
    hand.reply(ref)  # too late
    assert answers(hand) == ["mutation_over_socket:refused:silence"]
    assert hand.session.is_live


def test_a_lost_connection_is_no_answer_and_the_next_one_is_asked_again():
    hand, _ = live_probe()
    hand.lose("network")
    ask = hand.come_back()
    hand.receive(batch(head=1))
    hand.reply(ask.ref)
    assert not answers(hand)
    assert isinstance(hand.sent()[0], Raw)


def expelled() -> Hand:
    """An expired-token probe that was told to authenticate again and now waits its backoff out."""
    hand = Hand(session=ExpiredToken).go_live(1)
    hand.error("reauth_required")
    hand.closes()
    hand.wait(hand.session.wake_at() - hand.now)
    return hand


def old_token(hand: Hand) -> str:
    (action,) = hand.actions()
    assert isinstance(action, Connect)
    return action.token.text


def test_a_refused_old_token_is_tried_once_then_the_probe_mints():
    hand = expelled()
    assert old_token(hand) == "t1"
    hand.fail_connect("token_expired")
    assert answers(hand) == ["expired_token:refused:token_expired"]
    assert isinstance(hand.come_back(), Subscribe)
    assert hand.tokens == 2


def test_an_accepted_old_token_is_told():
    hand = expelled()
    assert old_token(hand) == "t1"
    hand.open()
    assert answers(hand) == ["expired_token:accepted"]
    assert isinstance(hand.join(), Subscribe)


@pytest.mark.parametrize("code", ["network", "timeout"])
def test_a_failing_network_proves_nothing_and_the_old_token_is_tried_again(code):
    hand = expelled()
    for _ in range(3):
        assert old_token(hand) == "t1"
        hand.fail_connect(code)
        hand.actions()
        hand.wait(hand.session.wake_at() - hand.now)
    assert not answers(hand)
    assert old_token(hand) == "t1"
    hand.wait(10.0)  # unanswered: that proves nothing either
    hand.actions()
    hand.wait(max(hand.session.wake_at() - hand.now, 0.0))
    assert not answers(hand)


def test_a_token_past_its_time_is_tried_only_once_the_leeway_is_over():
    hand = Hand(session=ExpiredToken, refresh_s=270.0, expires_s=300.0).go_live(1)
    hand.now += 310.0
    hand.lose("network")
    hand.actions()
    hand.wait(1.0)
    assert hand.actions() == [Mint()]
    hand = Hand(session=ExpiredToken, refresh_s=270.0, expires_s=300.0).go_live(1)
    hand.now += 331.0
    hand.lose("network")
    hand.actions()
    hand.wait(1.0)
    assert old_token(hand) == "t1"


def test_without_an_expiry_the_probe_is_an_ordinary_client():
    hand = Hand(session=ExpiredToken).go_live(1)
    hand.lose("network")
    hand.come_back()
    assert not answers(hand)


@pytest.mark.parametrize(
    ("defects", "mutation", "token"),
    [
        (set(), "refused:mutation_refused", "refused:token_expired"),
        ({"accept_mutation", "accept_expired_token"}, "accepted", "accepted"),
    ],
)
def test_the_runtime_core_answers_both_probes(defects, mutation, token):
    for probe, answer in (("mutation_over_socket", mutation), ("expired_token", token)):
        service = Endpoints(1, session=session_class(probe))
        service.switch(defects=defects)
        service.publish(LANE_RUN)
        service.advance(1.0, carrying=True)
        service.now += 1.0
        service.switch(defects=defects, tokens_void_before=service.now)
        service.advance(5.0, carrying=True)
        service.settle()
        assert {notice.detail for notice in service.of(0, "probed")} == {f"{probe}:{answer}"}
        assert bool(service.runtime.mutations) == (probe == "mutation_over_socket" and answer == "accepted")


def test_probes_go_by_name():
    assert session_class(None) is Session
    assert {name: session_class(name) for name in NEGATIVE_CLIENTS} == NEGATIVE_CLIENTS
    with pytest.raises(UsageError, match="expired_token"):
        session_class("x")
