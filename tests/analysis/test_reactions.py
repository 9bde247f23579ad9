"""Clients that react wrongly to the end of a connection are found, and those that react as they may are not."""

import pytest

from sim.analysis.invariants.registry import violations
from sim.record.observations import Kind
from tests.histories import STREAM, Story

REACTIONS = {"retried_terminal", "ignored_hint", "backoff_reset_by_accept", "reconnected_too_fast"}


def broken(story: Story) -> dict[str, str]:
    ledger = story.ledger()
    found = {violation.invariant: violation.first for violation in violations(ledger.history, ledger)}
    return {name: first for name, first in found.items() if name in REACTIONS}


def lost(story: Story, t: float, detail: str, attempt: int = 1, delay_s: float = 0.2, **end: object) -> Story:
    """Client 0 loses its connection and plans its next attempt."""
    story.tell(t, Kind.DISCONNECTED, 0, detail="network")
    story.tell(t, Kind.ENDED, 0, detail=detail, **end)
    return story.tell(t, Kind.BACKOFF, 0, attempt=attempt, value=delay_s * 1000)


def connects(story: Story, t: float, is_live: bool = False) -> Story:
    story.tell(t, Kind.CONNECT_ATTEMPTED, 0).tell(t, Kind.CONNECT_DONE, 0, value=1.0)
    return story.tell(t, Kind.SUBSCRIBED, 0, value=1.0) if is_live else story


def test_retry_after_a_terminal_end_needs_a_new_token():
    story = lost(connects(Story(1), 0.0, is_live=True), 9.0, "server:4500:terminal")
    minted = lost(connects(Story(1), 0.0, is_live=True), 9.0, "server:4500:terminal").tell(9.1, Kind.TOKEN_MINTED, 0)
    first = broken(connects(story, 9.2))["retried_terminal"]
    assert first == "client 0, at 9.200 s, 0.200 s after server 4500, next step terminal"
    assert broken(connects(minted, 9.2)) == {}


@pytest.mark.parametrize("event", [None, Kind.SIGNED_IN, Kind.RESTARTED, "long"])
def test_second_terminal_end_is_the_last_unless_something_changed(event: Kind | str | None):
    story = lost(connects(Story(1), 0.0), 1.0, "server:banned:terminal").tell(1.1, Kind.TOKEN_MINTED, 0)
    if isinstance(event, Kind):
        story.tell(1.15, event, 0)
    connects(story, 1.2, is_live=event == "long")
    lost(story, 3.0, "server:banned:terminal", attempt=2).tell(3.1, Kind.TOKEN_MINTED, 0)
    assert set(broken(connects(story, 3.2))) == (set() if event else {"retried_terminal"})


@pytest.mark.parametrize(("hint_ms", "came_s", "is_wrong"), [(2000, 1.7, True), (2000, 1.8, False), (1e9, 299.0, True)])
def test_hint_is_heeded_up_to_five_minutes(hint_ms: float, came_s: float, is_wrong: bool):
    for detail in ("server:1013:wait", "server:401 unauthorized:mint"):
        story = lost(connects(Story(1), 0.0, is_live=True), 5.0, detail, delay_s=0.1, value=hint_ms)
        assert ("ignored_hint" in broken(connects(story, 5.0 + came_s))) == is_wrong
    story = lost(connects(Story(1), 0.0, is_live=True), 5.0, "server:1013:wait", delay_s=0.1, value=1e9)
    assert broken(connects(story, 305.0)) == {}


@pytest.mark.parametrize(("came_s", "is_lost", "is_wrong"), [(1.0, False, True), (2.0, False, False), (1.0, True, False)])
def test_hint_for_one_stream_is_heeded_unless_the_connection_is_new(came_s: float, is_lost: bool, is_wrong: bool):
    story = connects(Story(1), 0.0, is_live=True)
    story.tell(5.0, Kind.DISCONNECTED, 0, STREAM, detail="stream_closed")
    story.tell(5.0, Kind.ENDED, 0, STREAM, detail="server:status_503:wait", value=2000.0)
    if is_lost:
        connects(lost(story, 5.2, "network:network:retry"), 5.9, is_live=True)
    story.tell(5.0 + came_s, Kind.REPLAY_STARTED, 0, STREAM, 3)
    first = f"client 0, {STREAM}, at 6.000 s, 1.000 s after server status_503, next step wait with a hint of 2000 ms"
    assert broken(story) == ({"ignored_hint": first} if is_wrong else {})


def test_being_accepted_is_no_reason_to_count_from_the_start():
    story = lost(connects(Story(1), 0.0), 1.0, "server:1011:retry", attempt=1)
    lost(connects(story, 2.0), 2.3, "server:1011:retry", attempt=1)
    assert broken(story)["backoff_reset_by_accept"] == "client 0, at 2.300 s, 0.000 s after server 1011, next step retry"


@pytest.mark.parametrize("attempts", [(1, 2), (3, 1)])
def test_counting_on_and_a_reset_after_a_live_period_are_right(attempts: tuple[int, int]):
    story = lost(connects(Story(1), 0.0), 1.0, "server:1011:retry", attempt=attempts[0])
    connects(story, 2.0, is_live=attempts[1] == 1)
    lost(story, 9.0, "server:1011:retry", attempt=attempts[1])
    assert broken(story) == {}


def test_record_of_an_older_version_has_no_ends_and_is_judged_by_what_it_has():
    story = connects(Story(1), 0.0, is_live=True)
    for t in (10.0, 20.0):
        story.tell(t, Kind.DISCONNECTED, 0, detail="network").tell(t, Kind.BACKOFF, 0, attempt=1, value=200.0)
        connects(story, t + 0.3, is_live=True)
    assert broken(story) == {}


def test_attempt_before_the_clients_own_delay_is_too_fast():
    story = lost(connects(Story(1), 0.0, is_live=True), 5.0, "server:1001:retry", delay_s=3.0)
    assert broken(connects(story, 7.5))["reconnected_too_fast"].startswith("client 0, at 7.500 s, 2.500 s after server 1001")


@pytest.mark.parametrize(("pause_s", "times", "is_wrong"), [(0.0, 6, True), (0.005, 6, True), (0.0, 4, False), (0.1, 9, False)])
def test_five_attempts_in_a_row_without_a_pause_are_too_fast(pause_s: float, times: int, is_wrong: bool):
    story, t = connects(Story(1), 0.0), 0.0
    for attempt in range(1, times + 1):
        lost(story, t + 0.5, "server:1011:retry", attempt, delay_s=0.0)
        t += 0.5 + pause_s
        connects(story, t)
    assert ("reconnected_too_fast" in broken(story)) == is_wrong
