"""A hook's word is not enough: each kind of fault that a hook does must show to clients, and shows by its own sign."""

import pytest

from drills.judging.checks.verdicts import CheckResult
from sim.analysis.effects import SHOWS_AS
from sim.record.observations import Kind
from tests.drills.asking import ask
from tests.histories import STREAM, Story, good_storm

CLIENTS = 20
# What one client observes of it, as (kind, seq, value).
SIGNS = {
    "slow_mint": (Kind.TOKEN_MINTED, -1, 200.0),
    "slow_publishes": (Kind.PUBLISHED, 331, 200.0),
    "mint_outage": (Kind.TOKEN_REFUSED, -1, 5.0),
    "revoke_sessions": (Kind.DISCONNECTED, -1, 0.0),
    "skip_deliveries": (Kind.GAP, 9, 7.0),
    "reorder_deliveries": (Kind.GAP, 9, 7.0),
    "duplicate_deliveries": (Kind.DUPLICATE_DROPPED, 5, 0.0),
    "delay_deliveries": (Kind.GAP, 9, 7.0),
    "fail_publishes": (Kind.PUBLISH_TRIED, -1, 5.0),
    "jumble_deliveries": (Kind.HASH_MISMATCH, 5, 0.0),
    "malform_frames": (Kind.MALFORMED, -1, 0.0),
    "shrink_window": (Kind.STALE, 3, 50.0),
    "shrink_replay_budget": (Kind.STALE, 3, 50.0),
    "recreate_log": (Kind.STALE, 3, 50.0),
}


def hooked(kind: str) -> Story:
    """A storm in which a hook says that it did this, and no client saw a thing."""
    story = good_storm(CLIENTS).without(lambda row: row.kind is Kind.DISCONNECTED)
    delay = {"delay_ms": 150.0} if kind.startswith("slow_") else {}
    story.header["plan"] = [{"kind": kind, "by": "hook", "at_s": 0.0, **delay}]
    return story.without(lambda row: row.kind in (Kind.PUBLISHED, Kind.TOKEN_MINTED) and 20.0 <= row.t <= 21.0)


def observed(story: Story) -> CheckResult:
    return ask("drill.faults_observed", story)


def shown(kind: str, t: float) -> CheckResult:
    """The check of a hook's fault whose sign a client observed at `t`; the fault is from 20 s to 21 s."""
    return observed(signed(hooked(kind), kind, t))


def signed(story: Story, kind: str, t: float) -> Story:
    """The story, in which a client observed the sign of a kind at `t`."""
    sign, seq, value = SIGNS[kind]
    return story.tell(t, sign, 3, STREAM, seq, value=value, detail="refused" if kind == "fail_publishes" else "")


def test_each_kind_has_its_sign_here():
    assert SIGNS.keys() == SHOWS_AS.keys()


@pytest.mark.parametrize("kind", SIGNS)
def test_hook_without_observed_effect_is_an_error(kind: str):
    told = observed(hooked(kind))
    assert told.state == "error"
    assert f"{kind} #0: was injected by a hook, but no" in told.reason


@pytest.mark.parametrize("kind", SIGNS)
def test_hook_is_believed_only_if_a_client_observed_its_sign_at_that_time(kind: str):
    assert shown(kind, 20.5).state == "pass"
    assert shown(kind, 19.0).state == "error"
    if kind not in ("shrink_window", "recreate_log"):
        assert shown(kind, 22.1).state == "error", "another fault did it"


@pytest.mark.parametrize("kind", [kind for kind in SIGNS if kind not in ("shrink_window", "recreate_log")])
def test_sign_that_clients_saw_as_often_before_the_hook_proves_nothing(kind: str):
    story = hooked(kind)
    for t in range(2, 20):
        signed(story, kind, float(t))
    told = observed(signed(story, kind, 20.5))
    assert told.state == "error"
    assert "as often before" in told.reason
    for number in range(20):
        signed(story, kind, 20.2 + number / 100)
    assert observed(story).state == "pass"


def test_what_was_forgotten_shows_when_somebody_comes_back():
    assert observed(hooked("shrink_window").tell(24.0, Kind.STALE, 3, STREAM, 3, value=50.0)).state == "pass"


def test_positions_that_start_over_show_that_a_log_was_created_again():
    def continued_at(first: int) -> Story:
        """Events up to 250 before the fault, and four more after it from this position on."""
        story = hooked("recreate_log").marked().without(lambda row: row.seq > 250)
        story = story.changed(lambda row: row.detail == "drop_sockets", detail="recreate_log")
        for number in range(4):
            story.publish(first + number, t=22.0 + number, marker=251 + number)
        return story

    assert observed(continued_at(251)).state == "error"
    assert observed(continued_at(1)).state == "pass"


def test_a_client_that_renews_its_token_shows_no_revocation():
    renewed = hooked("revoke_sessions").tell(20.5, Kind.DISCONNECTED, 3, detail="token_refresh_due")
    assert observed(renewed).state == "error"


def test_nor_does_a_fleet_that_does_show_a_restart():
    story = good_storm(CLIENTS).changed(lambda row: row.kind is Kind.DISCONNECTED, detail="token_refresh_due")
    story.header["plan"] = [{"kind": "kill_runtime", "by": "hook", "at_s": 0.0}]
    assert observed(story).state == "error"
    assert observed(story.changed(lambda row: row.kind is Kind.DISCONNECTED, detail="network")).state == "pass"


@pytest.mark.parametrize("kind", ["slow_publishes", "slow_mint", "mint_outage"])
@pytest.mark.parametrize(("others", "expected"), [(1, "pass"), (2, "error")])
def test_hook_whose_fault_stops_at_once_is_an_error(kind: str, others: int, expected: str):
    """Requests between the first sign and the end of the fault went as well as ever."""
    story = signed(hooked(kind), kind, 20.5)
    for number in range(others):
        as_ever = Kind.PUBLISHED if kind == "slow_publishes" else Kind.TOKEN_MINTED
        story.tell(20.8, as_ever, 4, STREAM, 400 + number, value=2.0)
    told = observed(story)
    assert told.state == expected
    assert ("showed in 1 of 3 requests only" in told.reason) == (expected == "error")
