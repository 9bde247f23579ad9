"""A client counts as present while it is live or briefly renewing its token."""

import pytest

from sim.client.actions import Mint
from sim.client.marks import Acknowledged
from sim.engines.shared import client_setup
from sim.protocols.events import Position, Renewed, Resumed
from tests.client.peer import CENTRIFUGO, Peer
from tests.client.session_driver import RUN, SessionDriver, batch

HEADS = {RUN: Acknowledged(number=2, position=2)}


def live(refresh_s: float = 60.0) -> SessionDriver:
    """A client that has been live for a live period, with events 1 and 2."""
    driver = SessionDriver(refresh_s=refresh_s, expires_s=1e6).go_live(1, 2)
    driver.actions()
    return driver


def away(driver: SessionDriver) -> bool:
    """Whether the client counts as absent, and so as behind on every topic."""
    is_there = client_setup.is_there(driver.session, driver.now)
    assert client_setup.behind(driver.session, HEADS, driver.now) == ([] if is_there else [RUN])
    return not is_there


def renewing(*, live_for_s: float) -> SessionDriver:
    driver = live(refresh_s=live_for_s)
    for _ in range(int(live_for_s // 5)):
        driver.wait(5.0)
        driver.receive(batch(2))
    driver.wait(live_for_s % 5 + 0.001)
    assert driver.of("disconnected")[-1].detail == "token_refresh_due"
    return driver


def back_to_live(driver: SessionDriver) -> None:
    driver.replay(driver.reconnect(), batch(head=2))
    driver.actions()
    assert driver.session.is_live


def test_client_that_was_never_live_counts_as_absent():
    assert away(SessionDriver())


def test_renewing_client_counts_as_present_for_a_moment():
    driver = renewing(live_for_s=12.0)
    assert not driver.session.is_live
    assert not away(driver)
    assert client_setup.behind(driver.session, {RUN: Acknowledged(number=3, position=3)}, driver.now) == [
        RUN
    ]  # a missing event still counts as missing
    driver.now += client_setup.RENEWAL_S + 0.01
    assert away(driver)


def test_client_counts_only_while_live_after_renewal():
    driver = renewing(live_for_s=12.0)
    back_to_live(driver)
    assert not away(driver)
    driver.lose("network")
    assert away(driver)


def test_second_renewal_without_live_period_does_not_count():
    driver = renewing(live_for_s=12.0)
    driver.refresh_s = 2.0
    back_to_live(driver)
    driver.wait(2.0)
    assert driver.of("disconnected")[-1].detail == "token_refresh_due"
    assert away(driver)


@pytest.mark.parametrize("code", ["network", "unauthorized", "stale_cursor"])
def test_other_disconnect_counts_as_absent(code: str):
    driver = live()
    driver.now += 30.0
    driver.lose(code)
    assert away(driver)


def test_failed_renewal_counts_as_absent():
    driver = renewing(live_for_s=12.0)
    driver.wait(0.3)
    driver.session.mint_failed("minting_disabled", driver.now)
    assert away(driver)


def test_token_of_which_the_server_states_no_lifetime_is_renewed_when_it_is_due():
    peer = Peer(CENTRIFUGO, refresh_s=10.0)
    peer.tell(Resumed(peer.join().ref, "a", Position(0)))
    for _ in range(3):
        assert peer.wait(9.9).actions() == []
        assert peer.wait(0.1).actions() == [Mint()]
        (renew,) = peer.mint().sent()
        peer.tell(Renewed(renew.ref))
    assert peer.of("disconnected") == []
