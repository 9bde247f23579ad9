"""Connections that the fault `close_connections` ends with chosen codes, and upgrades that it refuses."""

import math

import pytest

from sim.protocols import endings
from sim.server.closing import CloseOrder, UpgradeRefusedError
from tests.server.runtime_driver import A, RuntimeDriver


def test_open_connections_of_the_devices_are_closed_once_with_their_codes(driver: RuntimeDriver):
    chosen, other = driver.live(A, device="chosen"), driver.live(A, device="other")
    order = CloseOrder(0, {"chosen": 4100, "absent": 4100})
    assert driver.runtime.closing.follow(order) == 1
    assert (driver.runtime.is_closing(chosen), driver.runtime.is_closing(other)) == (True, False)
    assert driver.runtime.closing.end_of(chosen).code == 4100
    assert driver.runtime.closing.end_of(other).code != 4100
    assert driver.runtime.closing.follow(order) == 0, "it is closing"
    assert driver.runtime.counters.acted["close_connections"] == 1
    assert not driver.runtime.is_closing(driver.live(A, device="chosen")), "new ones stay"


def test_new_connections_of_the_devices_are_closed_after_the_delay_until_the_fault_is_over(driver: RuntimeDriver):
    driver.runtime.closing.follow(CloseOrder(0, {"chosen": 4100}, after_ms=500.0))
    chosen, other = driver.live(A, device="chosen"), driver.live(A, device="other")
    driver.wait(0.4)
    assert not driver.runtime.is_closing(chosen)
    driver.wait(0.2)
    assert (driver.runtime.is_closing(chosen), driver.runtime.is_closing(other)) == (True, False)
    driver.runtime.closing.follow(CloseOrder(0, {}))
    again = driver.live(A, device="chosen")
    driver.wait(1.0)
    assert not driver.runtime.is_closing(again)
    assert driver.runtime.closing.wake_at() == math.inf


@pytest.mark.parametrize(
    ("retry_after_ms", "headers"),
    [(0.0, {}), (1500.0, {"retry-after": "2"}), (2000.0, {"retry-after": "2"}), (2000.5, {"retry-after": "3"})],
)
def test_upgrades_are_refused_with_a_status_until_the_fault_is_over(
    driver: RuntimeDriver, retry_after_ms: float, headers: dict[str, str]
):
    driver.runtime.closing.follow(CloseOrder(0, {"chosen": 503}, retry_after_ms=retry_after_ms))
    with pytest.raises(UpgradeRefusedError, match="503") as refused:
        driver.open("chosen")
    assert (refused.value.end.status, refused.value.end.headers) == (503, headers)
    assert driver.open("other")
    driver.runtime.closing.follow(CloseOrder(0, {}))
    assert driver.open("chosen")


@pytest.mark.parametrize(
    ("code", "sent", "has_reason"),
    [(4100, 4100, True), (endings.NO_CODE, endings.NO_CODE, False), (endings.NO_CLOSE_FRAME, None, False)],
)
def test_close_frame_has_a_reason_only_where_it_has_a_code(
    driver: RuntimeDriver, code: int, sent: int | None, has_reason: bool
):
    number = driver.live(A, device="chosen")
    driver.runtime.closing.follow(CloseOrder(0, {"chosen": code}, retry_after_ms=500.0))
    end = driver.runtime.closing.end_of(number)
    assert (end.code, bool(end.reason)) == (sent, has_reason)


def test_order_without_a_hint_sends_none(driver: RuntimeDriver):
    driver.runtime.closing.follow(CloseOrder(0, {"chosen": 503}))
    with pytest.raises(UpgradeRefusedError) as refused:
        driver.open("chosen")
    assert (refused.value.retry_after_ms, refused.value.end.headers) == (0.0, {})
