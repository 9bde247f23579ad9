"""A client session is refused, times out, refreshes its token and backs off."""

import pytest

from sim.client.actions import Close, Mint
from sim.client.transitions import State
from sim.protocols.events import DisconnectReason
from sim.protocols.spacetime.frames import ChannelClosed, TransportBeat
from tests.client.session_driver import RUN, SessionDriver, batch, heads


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
def test_refused_join_is_reported_and_retried(driver, code, reason):
    driver.start()
    driver.connect()
    (join,) = driver.sent()
    driver.reply(join.ref, ok=False, code=code)
    driver.expect_close()
    assert driver.of("subscribe_refused")[0].detail == code
    assert driver.of("disconnected")[0].detail == reason
    assert driver.of("ended")[0].detail.startswith(f"server:{code or 'no_code'}:"), "the server ended it, even without a word"
    driver.reconnect()
    assert driver.tokens == (2 if reason == "unauthorized" else 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("bad_subscription", "unknown"), ("forbidden_topic", "forbidden"), ("rate_limited", "unknown"), ("new_code", "unknown")],
)
def test_refused_subscribe_is_reported_and_retried(driver, code, reason):
    driver.reply(driver.begin().ref, ok=False, code=code)
    driver.expect_close()
    assert driver.of("subscribe_refused")[0].detail == code
    assert driver.of("disconnected")[0].detail == reason
    assert driver.session.state is State.BACKOFF


@pytest.mark.parametrize(("code", "mints"), [("network", False), ("timeout", False), ("token_expired", True)])
def test_failed_connect_mints_only_after_refused_token(driver, code, mints):
    driver.start()
    driver.actions()
    driver.fail_connect(code)
    assert driver.of("connect_failed")[0].detail == code
    driver.reconnect()
    assert driver.tokens == 1 + mints


def test_refused_token_request_is_retried_with_backoff(driver):
    driver.session.start(driver.now)
    driver.actions()
    driver.session.mint_failed("minting_disabled", driver.now, hint_ms=5000.0)
    assert driver.of("token_refused")[0].detail == "minting_disabled"
    assert driver.delay_ms() >= 5000.0
    driver.reconnect()


def test_session_sends_heartbeats_and_leaves_silent_server(live):
    live.wait(15.0)
    (beat,) = live.sent()
    assert isinstance(beat, TransportBeat)
    live.reply(beat.ref)
    live.wait(30.0)
    assert len(live.sent()) == 2
    live.wait(15.0)
    assert live.actions()[-1] == Close()
    assert len(live.of("heartbeat_timeout")) == 1
    assert live.of("disconnected")[-1].detail == DisconnectReason.NETWORK


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_unanswered_connect_join_or_subscribe_times_out(driver, steps):
    driver.start()
    if steps > 1:
        driver.connect()
    if steps > 2:
        driver.join()
    driver.wait(10.0)
    assert driver.actions()[-1] == Close()
    assert driver.session.state is State.BACKOFF


def test_long_replay_does_not_count_as_silence(driver):
    subscribe = driver.begin()
    for seq in range(1, 10):
        driver.wait(9.0)
        driver.receive(batch(seq, complete=False, head=10))
    driver.replay(subscribe, batch(10))
    assert driver.session.is_caught_up
    assert not driver.of("disconnected")


def test_token_is_refreshed_before_it_expires():
    driver = SessionDriver(refresh_s=270.0, expires_s=300.0).go_live(1)
    for _ in range(27):
        driver.wait(9.999)
        driver.receive(heads(1))
    driver.actions()
    driver.wait(0.1)
    driver.expect_close()
    assert driver.of("disconnected")[-1].detail == DisconnectReason.TOKEN_REFRESH_DUE
    driver.reconnect()
    assert driver.tokens == 2


def test_token_due_for_refresh_at_reconnect_is_replaced():
    driver = SessionDriver(refresh_s=2.0, expires_s=300.0).go_live(1)
    driver.now += 1.999999
    driver.lose("network")
    driver.reconnect()
    assert driver.tokens == 2


def test_revoked_client_mints_before_reconnect(live):
    live.error("reauth_required")
    live.expect_close()
    assert live.of("backoff")[-1].detail == DisconnectReason.UNAUTHORIZED
    live.wait(live.session.wake_at() - live.now)
    assert live.actions() == [Mint()]


def test_evicted_client_waits_for_reconnect_hint(live):
    live.error("slow_consumer", action="throttle", reconnect_after_ms=2000.0)
    assert live.actions() == []
    live.error("slow_consumer", action="disconnect", reconnect_after_ms=2000.0)
    live.expect_close()
    assert live.of("evicted")[0].detail == "disconnect"
    assert live.of("backoff")[0].detail == "unknown:hint"
    assert 2000.0 <= live.delay_ms() < 2250.0


@pytest.mark.parametrize(("hint_ms", "at_most_ms"), [(-5.0, 250.0), (1e300, 300_250.0)])
def test_extreme_hint_is_bounded(live, hint_ms, at_most_ms):
    live.error("rate_limited", retry_after_ms=hint_ms)
    assert 0.0 <= live.delay_ms() <= at_most_ms


def attempts(policy: str, live_s: float) -> list[int]:
    driver = SessionDriver(policy).go_live(1)
    for _ in range(4):
        driver.wait(live_s)
        driver.lose("network")
        subscribe = driver.reconnect()
        driver.replay(subscribe, batch(head=1))
    return [notice.attempt for notice in driver.of("backoff")]


def test_live_period_resets_attempts_for_reference_but_not_desktop():
    assert attempts("reference", 6.0) == [1, 1, 1, 1]
    assert attempts("reference", 1.0) == [1, 2, 3, 4]
    assert attempts("desktop", 6.0) == [1, 2, 3, 4]


def delays(seed: int, client: int) -> list[float]:
    driver = SessionDriver(client=client, seed=seed)
    driver.session.start(driver.now)
    for _ in range(6):
        driver.actions()
        driver.session.mint_failed("x", driver.now)
        driver.wait(driver.session.wake_at() - driver.now)
    return [notice.value for notice in driver.of("backoff")]


def test_delays_depend_on_seed_and_client_only():
    assert delays(1, 0) == delays(1, 0)
    assert delays(1, 0) != delays(2, 0)
    assert delays(1, 0) != delays(1, 1)
    assert all(0 <= delay < 250 * 2**n for n, delay in enumerate(delays(1, 0)))


@pytest.mark.parametrize("event", ["phx_error", "phx_close"])
def test_closed_channel_causes_reconnect_and_rejoin(live, event):
    live.receive(ChannelClosed(event))
    live.expect_close()
    assert live.reconnect().resume_after == {RUN: 1}
