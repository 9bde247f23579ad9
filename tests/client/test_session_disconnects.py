"""A client session is refused, times out, refreshes its token and backs off."""

import pytest

from sim.client.actions import Close, Mint
from sim.client.transitions import State
from sim.protocols.events import DisconnectReason
from sim.protocols.spacetime.frames import ChannelClosed, TransportBeat
from tests.client.hand import RUN, Hand, batch, heads


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("upgrade_required", "unknown"),
        ("unsupported_protocol_version", "unknown"),
        ("unsupported_schema_version", "unknown"),
        ("invalid_client_build", "unknown"),
        ("unsupported_client_build", "unknown"),
        ("reauth_required", "unauthorized"),
        ("a_code_from_the_future", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_refused_join_is_reported_and_tried_again_later(code, reason):
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    hand.connect()
    (join,) = hand.sent()
    hand.reply(join.ref, ok=False, code=code)
    hand.closes()
    assert hand.of("subscribe_refused")[0].detail == code
    assert hand.of("disconnected")[0].detail == reason
    hand.come_back()
    assert hand.tokens == (2 if reason == "unauthorized" else 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("bad_subscription", "unknown"), ("forbidden_topic", "forbidden"), ("rate_limited", "unknown"), ("new_code", "unknown")],
)
def test_a_refused_subscribe_is_reported_and_tried_again_later(code, reason):
    hand = Hand()
    ask = hand.begin()
    hand.reply(ask.ref, ok=False, code=code)
    hand.closes()
    assert hand.of("subscribe_refused")[0].detail == code
    assert hand.of("disconnected")[0].detail == reason
    assert hand.session.state is State.BACKOFF


@pytest.mark.parametrize(("code", "mints"), [("network", False), ("timeout", False), ("token_expired", True)])
def test_a_failed_connect_mints_only_when_the_token_was_refused(code, mints):
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    hand.actions()
    hand.fail_connect(code)
    assert hand.of("connect_failed")[0].detail == code
    hand.come_back()
    assert hand.tokens == 1 + mints


def test_a_refused_token_request_is_repeated_with_backoff():
    hand = Hand()
    hand.session.start(hand.now)
    hand.actions()
    hand.session.mint_failed("minting_disabled", hand.now, hint_ms=5000.0)
    assert hand.of("token_refused")[0].detail == "minting_disabled"
    assert hand.delay_ms() >= 5000.0
    hand.come_back()


def test_it_beats_in_time_and_gives_up_a_silent_server():
    hand = Hand().go_live(1)
    hand.wait(15.0)
    (beat,) = hand.sent()
    assert isinstance(beat, TransportBeat)
    hand.reply(beat.ref)
    hand.wait(30.0)
    assert len(hand.sent()) == 2
    hand.wait(15.0)
    assert hand.actions()[-1] == Close()
    assert len(hand.of("heartbeat_timeout")) == 1
    assert hand.of("disconnected")[-1].detail == DisconnectReason.NETWORK


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_unanswered_connect_join_or_subscribe_times_out(steps):
    hand = Hand()
    hand.session.start(hand.now)
    hand.mint()
    if steps > 1:
        hand.connect()
    if steps > 2:
        hand.join()
    hand.wait(10.0)
    assert hand.actions()[-1] == Close()
    assert hand.session.state is State.BACKOFF


def test_a_long_replay_is_not_taken_for_silence():
    hand = Hand()
    ask = hand.begin()
    for seq in range(1, 10):
        hand.wait(9.0)
        hand.receive(batch(seq, complete=False, head=10))
    hand.receive(batch(10))
    hand.reply(ask.ref)
    assert hand.session.is_caught_up
    assert not hand.of("disconnected")


def test_a_token_is_refreshed_before_it_expires():
    hand = Hand(refresh_s=270.0, expires_s=300.0).go_live(1)
    for _ in range(27):
        hand.wait(9.999)
        hand.receive(heads(1))
    hand.actions()
    hand.wait(0.1)
    hand.closes()
    assert hand.of("disconnected")[-1].detail == DisconnectReason.TOKEN_REFRESH_DUE
    hand.come_back()
    assert hand.tokens == 2


def test_a_token_due_for_refresh_by_the_time_of_the_reconnect_is_not_used():
    hand = Hand(refresh_s=2.0, expires_s=300.0).go_live(1)
    hand.now += 1.999999
    hand.lose("network")
    hand.come_back()
    assert hand.tokens == 2


def test_revocation_mints_first():
    hand = Hand().go_live(1)
    hand.error("reauth_required")
    hand.closes()
    assert hand.of("backoff")[-1].detail == DisconnectReason.UNAUTHORIZED
    hand.wait(hand.session.wake_at() - hand.now)
    assert hand.actions() == [Mint()]


def test_an_evicted_client_stays_away_as_long_as_it_was_told():
    hand = Hand().go_live(1)
    hand.error("slow_consumer", action="throttle", reconnect_after_ms=2000.0)
    assert hand.actions() == []
    hand.error("slow_consumer", action="disconnect", reconnect_after_ms=2000.0)
    hand.closes()
    assert hand.of("evicted")[0].detail == "disconnect"
    assert hand.of("backoff")[0].detail == "unknown:hint"
    assert 2000.0 <= hand.delay_ms() < 2250.0


@pytest.mark.parametrize(("hint_ms", "at_most_ms"), [(-5.0, 250.0), (1e300, 300_250.0)])
def test_an_absurd_hint_is_bounded(hint_ms, at_most_ms):
    hand = Hand().go_live(1)
    hand.error("rate_limited", retry_after_ms=hint_ms)
    assert 0.0 <= hand.delay_ms() <= at_most_ms


def attempts(policy: str, live_s: float) -> list[int]:
    hand = Hand(policy).go_live(1)
    for _ in range(4):
        hand.wait(live_s)
        hand.lose("network")
        ask = hand.come_back()
        hand.receive(batch(head=1))
        hand.reply(ask.ref)
    return [notice.attempt for notice in hand.of("backoff")]


def test_the_reference_counts_from_one_after_a_live_period_and_the_desktop_never_does():
    assert attempts("reference", 6.0) == [1, 1, 1, 1]
    assert attempts("reference", 1.0) == [1, 2, 3, 4]
    assert attempts("desktop", 6.0) == [1, 2, 3, 4]


def delays(seed: int, client: int) -> list[float]:
    hand = Hand(client=client, seed=seed)
    hand.session.start(hand.now)
    for _ in range(6):
        hand.actions()
        hand.session.mint_failed("x", hand.now)
        hand.wait(hand.session.wake_at() - hand.now)
    return [notice.value for notice in hand.of("backoff")]


def test_delays_are_a_function_of_seed_and_client():
    assert delays(1, 0) == delays(1, 0)
    assert delays(1, 0) != delays(2, 0)
    assert delays(1, 0) != delays(1, 1)
    assert all(0 <= delay < 250 * 2**n for n, delay in enumerate(delays(1, 0)))


@pytest.mark.parametrize("event", ["phx_error", "phx_close"])
def test_a_channel_that_ends_is_left_and_joined_again(event):
    hand = Hand().go_live(1)
    hand.receive(ChannelClosed(event))
    hand.closes()
    assert hand.come_back().resume_after == {RUN: 1}
