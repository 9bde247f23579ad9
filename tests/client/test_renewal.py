"""When a client counts as there, and as having everything: live, or away for a moment to renew its token, and never else."""

import pytest

from sim.engines.shared import client_setup
from tests.client.hand import RUN, Hand, batch

HEADS = {RUN: 2}


def live(refresh_s: float = 60.0) -> Hand:
    """A client that has been live for a live period, with events 1 and 2."""
    hand = Hand(refresh_s=refresh_s, expires_s=1e6).go_live(1, 2)
    hand.actions()
    return hand


def away(hand: Hand) -> bool:
    """Whether it is nowhere to be found, and so behind in everything."""
    is_there = client_setup.is_there(hand.session, hand.now)
    assert client_setup.behind(hand.session, HEADS, hand.now) == ([] if is_there else [RUN])
    return not is_there


def renewing(*, live_for_s: float) -> Hand:
    hand = live(refresh_s=live_for_s)
    for _ in range(int(live_for_s // 5)):
        hand.wait(5.0)
        hand.receive(batch(2))
    hand.wait(live_for_s % 5 + 0.001)
    assert hand.of("disconnected")[-1].detail == "token_refresh_due"
    return hand


def back_to_live(hand: Hand) -> None:
    ask = hand.come_back()
    hand.receive(batch(head=2))
    hand.reply(ask.ref)
    hand.actions()
    assert hand.session.is_live


def test_who_renews_in_good_order_counts_for_a_moment():
    hand = renewing(live_for_s=12.0)
    assert not hand.session.is_live
    assert not away(hand)
    assert client_setup.behind(hand.session, {RUN: 3}, hand.now) == [RUN]  # what it has not got, it has not got
    hand.now += client_setup.RENEWAL_S + 0.01
    assert away(hand)


def test_once_live_again_it_counts_by_that_alone():
    hand = renewing(live_for_s=12.0)
    back_to_live(hand)
    assert not away(hand)
    hand.lose("network")
    assert away(hand)


def test_who_renews_without_a_live_period_between_does_not_count():
    hand = renewing(live_for_s=12.0)
    hand.refresh_s = 2.0
    back_to_live(hand)
    hand.wait(2.0)
    assert hand.of("disconnected")[-1].detail == "token_refresh_due"
    assert away(hand)


@pytest.mark.parametrize("code", ["network", "unauthorized", "stale_cursor"])
def test_whoever_is_away_for_another_reason_is_away(code: str):
    hand = live()
    hand.now += 30.0
    hand.lose(code)
    assert away(hand)


def test_a_renewal_that_fails_is_no_longer_in_good_order():
    hand = renewing(live_for_s=12.0)
    hand.wait(0.3)
    hand.session.mint_failed("minting_disabled", hand.now)
    assert away(hand)
