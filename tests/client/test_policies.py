"""When a policy counts from the start again, how long it waits, and when a client may try once more."""

import pytest

from sim.base.errors import UsageError
from sim.base.randomness import draw
from sim.client import policies
from sim.client.policies import CLIENT_DEFECTS, POLICIES, WRONG, LastTry, Policy, Retries
from sim.protocols.events import DisconnectReason, Next, Step

NETWORK, RENEWAL = DisconnectReason.NETWORK, DisconnectReason.TOKEN_REFRESH_DUE
TERMINAL, RETRY = Next(Step.TERMINAL), Next(Step.RETRY)
REFERENCE, DESKTOP = POLICIES["reference"], POLICIES["desktop"]


def retries(policy: Policy = REFERENCE, **fields: int) -> Retries:
    return Retries(7, policy, 3, **fields)


@pytest.mark.parametrize(
    ("policy", "live_for_s", "attempt"),
    [(REFERENCE, 5.0, 1), (REFERENCE, 4.999, 5), (REFERENCE, -float("inf"), 5), (DESKTOP, 5.0, 5)],
)
def test_attempts_count_from_the_start_again_after_a_live_period(policy: Policy, live_for_s: float, attempt: int):
    counted = retries(policy, attempt=4, disconnects=9)
    counted.count(live_for_s)
    assert (counted.attempt, counted.disconnects) == (attempt, 10)


def test_count_from_the_start_forgets_the_delay_before():
    """The delay before is an argument of `decorrelated`."""
    counted = retries(POLICIES["decorrelated"])
    counted.count(0.0)
    first = counted.delay_ms(NETWORK, None)
    counted.count(0.0)
    counted.delay_ms(NETWORK, None)
    counted.reset()
    assert counted.attempt == 0
    counted.disconnects = 1
    counted.attempt = 1
    assert counted.delay_ms(NETWORK, None) == first


def test_delay_is_drawn_by_the_number_of_disconnects():
    counted = retries(attempt=2, disconnects=5)
    assert counted.delay_ms(NETWORK, None) == (500.0 * draw(3, "backoff", 7, 5), False)


@pytest.mark.parametrize(
    ("hint_ms", "waits_ms"), [(0.0, 0.0), (-1.0, 0.0), (1000.0, 1000.0), (300_000.0, 300_000.0), (300_001.0, 300_000.0)]
)
def test_hint_is_waited_for_in_addition(hint_ms: float, waits_ms: float):
    own, _ = retries(attempt=1).delay_ms(NETWORK, None)
    assert retries(attempt=1).delay_ms(NETWORK, hint_ms) == (waits_ms + own, True)
    assert retries(DESKTOP, attempt=1).delay_ms(NETWORK, hint_ms) == (250.0, False)


def test_desktop_renews_its_token_after_a_delay_of_its_own():
    counted = retries(DESKTOP, attempt=3)
    assert counted.delay_ms(RENEWAL, 9000.0) == (100.0, False)
    assert counted.delay_ms(NETWORK, None) == (1000.0, False)
    assert retries(attempt=1).delay_ms(RENEWAL, None) == retries(attempt=1).delay_ms(NETWORK, None)


@pytest.mark.parametrize(
    ("is_proven", "is_running", "hint", "live_for_s", "may_retry", "runs_then"),
    [
        (False, False, RETRY, 0.0, True, False),
        (False, True, RETRY, 0.0, True, True),
        (False, True, RETRY, 5.0, True, False),
        (True, False, TERMINAL, 0.0, True, True),
        (False, False, TERMINAL, 0.0, False, False),
        (False, False, TERMINAL, 9.0, False, False),
        (True, True, TERMINAL, 4.9, False, True),
        (True, True, TERMINAL, 5.0, True, True),
    ],
)
def test_client_tries_once_more_after_a_terminal_end_of_a_proven_token(
    is_proven: bool, is_running: bool, hint: Next, live_for_s: float, may_retry: bool, runs_then: bool
):
    last = LastTry(REFERENCE, is_proven, is_running)
    assert last.may_retry(hint, live_for_s) is may_retry
    assert last.is_running is runs_then


def test_policies_differ_as_documented():
    def choices(policy: Policy) -> tuple[object, ...]:
        return (policy.resets_when_live, policy.honours_hints, policy.takes_snapshots, policy.asks_again)

    assert choices(DESKTOP) == (False,) * 4
    assert {choices(policy) for name, policy in POLICIES.items() if name != "desktop"} == {(True,) * 4}
    assert all((policy.name, policy.backoff.name, policy.defects) == (name, name, set()) for name, policy in POLICIES.items())
    for defect in CLIENT_DEFECTS:
        wrong = WRONG[f"wrong_{defect}"]
        assert (wrong.name, wrong.defects) == (f"wrong_{defect}", {defect})
        assert choices(wrong) == (True, defect != "ignores_hints", True, True)
        assert wrong.backoff.name == ("none" if defect == "reconnects_at_once" else "reference")
    defaults = (300_000.0, 5.0, 3)
    assert {(each.longest_hint_ms, each.live_period_s, each.fruitless_asks) for each in (POLICIES | WRONG).values()} == {
        defaults
    }


def test_policy_is_found_by_its_name():
    assert policies.get("sdk") is POLICIES["sdk"]
    assert policies.get("wrong_ignores_hints") is WRONG["wrong_ignores_hints"]
    with pytest.raises(UsageError, match=r"'fast'.*reference.*wrong_applies_duplicates"):
        policies.get("fast")
