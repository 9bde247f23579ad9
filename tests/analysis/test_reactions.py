"""Clients that react wrongly to the end of a connection are found, and those that react as they may are not."""

import numpy as np
import pytest

from sim.analysis.endings import ConnectHistory, Ending, Reactions, endings, merged, parts_of, said_at
from sim.analysis.invariants.registry import violations
from sim.record.observations import Kind
from tests.histories import STREAM, Story

REACTIONS = {"retried_terminal", "ignored_hint", "backoff_reset_by_accept", "reconnected_too_fast"}


def broken(story: Story) -> dict[str, str]:
    ledger = story.ledger()
    found = {violation.invariant: violation.first for violation in violations(ledger.history, ledger)}
    return {name: first for name, first in found.items() if name in REACTIONS}


def lost(story: Story, t: float, detail: str, attempt: int = 1, delay_s: float = 0.2, client: int = 0, **end: object) -> Story:
    """A client loses its connection and plans its next attempt."""
    story.tell(t, Kind.DISCONNECTED, client, detail="network")
    story.tell(t, Kind.ENDED, client, detail=detail, **end)
    return story.tell(t, Kind.BACKOFF, client, attempt=attempt, value=delay_s * 1000)


def connects(story: Story, t: float, is_live: bool = False, client: int = 0) -> Story:
    story.tell(t, Kind.CONNECT_ATTEMPTED, client).tell(t, Kind.CONNECT_DONE, client, value=1.0)
    return story.tell(t, Kind.SUBSCRIBED, client, value=1.0) if is_live else story


def pairs(found: Reactions) -> list[tuple[int, float, float]]:
    """Client, time of the attempt and time of the end of each reaction."""
    rows, ends = found.attempts, found.ends
    assert rows.client.tolist() == ends.client.tolist()
    return [*zip(rows.client.tolist(), rows.t.tolist(), ends.t.tolist(), strict=True)]


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


# --- boundaries ---------------------------------------------------------------------------------------


def test_retries_after_terminal_ends_are_found_for_each_client_by_time():
    story = Story(3)
    for client, t in ((0, 9.0), (1, 8.0), (2, 7.0)):
        lost(connects(story, 0.0, is_live=True, client=client), t, "server:4500:terminal", client=client)
        if client == 2:
            story.tell(t + 0.1, Kind.TOKEN_MINTED, client)
        connects(story, t + 0.2, client=client)
        story.tell(t + 0.3, Kind.TOKEN_MINTED, client)  # too late
    found = ConnectHistory(story.history())
    assert pairs(found.retried_terminal()) == [(1, 8.2, 8.0), (0, 9.2, 9.0)]
    assert broken(story).keys() == {"retried_terminal"}


def test_terminal_end_of_one_client_is_not_the_second_of_another():
    story = Story(2)
    for client in (0, 1):
        lost(connects(story, 0.0, client=client), 1.0, "server:banned:terminal", client=client)
        connects(story.tell(1.1, Kind.TOKEN_MINTED, client), 1.2, client=client)
    assert broken(story) == {}
    lost(story, 3.0, "server:banned:terminal", attempt=2, client=1)
    assert broken(story) == {}, "who does not try again after it reacts rightly"
    connects(story.tell(3.1, Kind.TOKEN_MINTED, 1), 3.2, client=1)
    assert pairs(ConnectHistory(story.history()).retried_terminal()) == [(1, 3.2, 3.0)]


@pytest.mark.parametrize(
    ("clock", "early_s", "is_wrong"),
    [("wall", 0.26, True), ("wall", 0.24, False), ("virtual", 0.0011, True), ("virtual", 0.0009, False), ("new", 0.24, False)],
)
def test_attempt_is_early_by_more_than_a_row_may_be_late(clock: str, early_s: float, is_wrong: bool):
    story = connects(Story(1, header={"clock": clock}), 0.0, is_live=True)
    t, hinted = 5.0 + 2.0 - early_s, ("server:1013:wait", {"value": 2000.0})
    found = ConnectHistory(connects(lost(story, 5.0, hinted[0], delay_s=2.0, **hinted[1]), t).history())
    expected = [(0, t, 5.0)] if is_wrong else []
    assert pairs(found.ignored_hint()) == pairs(found.reconnected_too_fast()) == expected


@pytest.mark.parametrize(("came_s", "is_wrong"), [(299.7, True), (299.8, False)])
@pytest.mark.parametrize("stream", ["", STREAM])
def test_hint_of_more_than_five_minutes_counts_as_five(stream: str, came_s: float, is_wrong: bool):
    story = connects(Story(1), 0.0, is_live=True)
    if stream:
        story.tell(5.0, Kind.ENDED, 0, stream, detail="server:status_503:wait", value=1e9)
        story.tell(5.0 + came_s, Kind.REPLAY_STARTED, 0, stream, 3)
    else:
        connects(lost(story, 5.0, "server:1013:wait", value=1e9), 5.0 + came_s)
    assert pairs(ConnectHistory(story.history()).ignored_hint()) == ([(0, 5.0 + came_s, 5.0)] if is_wrong else [])


def test_hints_of_streams_and_of_connections_are_ignored_each_by_itself():
    """In the order of the attempts; a stream's hint counts for that stream, its client and its next subscribe only."""
    other, story = "runtime.run.2.events", Story(3)
    for client in range(3):
        connects(story, 0.0, is_live=True, client=client)
    for client in (0, 1):
        story.tell(5.0 + client, Kind.ENDED, client, STREAM, detail="server:status_503:wait", value=2000.0)
    story.tell(4.0, Kind.REPLAY_STARTED, 0, STREAM, 3)  # before
    story.tell(5.5, Kind.REPLAY_STARTED, 2, STREAM, 3).tell(5.5, Kind.REPLAY_STARTED, 0, other, 3)  # of others
    story.tell(6.0, Kind.REPLAY_STARTED, 0, STREAM, 3).tell(6.1, Kind.REPLAY_STARTED, 0, STREAM, 3)
    story.tell(8.0, Kind.REPLAY_STARTED, 1, STREAM, 3)
    connects(lost(story, 5.0, "server:1013:wait", client=2, delay_s=0.0, value=2000.0), 5.9, client=2)
    assert pairs(ConnectHistory(story.history()).ignored_hint()) == [(2, 5.9, 5.0), (0, 6.0, 5.0)]
    assert broken(story)["ignored_hint"].startswith("client 2, at 5.900 s")


@pytest.mark.parametrize("kind", [Kind.DISCONNECTED, Kind.CONNECT_FAILED, Kind.RESTARTED, None])
@pytest.mark.parametrize("at_s", [0.0, 0.5, 1.0])
def test_connection_that_ends_between_a_hint_and_the_next_subscribe_lifts_it(kind: Kind | None, at_s: float):
    story = connects(connects(Story(2), 0.0, is_live=True), 0.0, is_live=True, client=1)
    story.tell(5.0, Kind.ENDED, 0, STREAM, detail="server:status_503:wait", value=2000.0)
    story.tell(5.0 + at_s, kind or Kind.DISCONNECTED, 1 if kind is None else 0, STREAM if kind is Kind.RESTARTED else "")
    story.tell(6.0, Kind.REPLAY_STARTED, 0, STREAM, 3)
    assert ("ignored_hint" in broken(story)) == (kind is None)


@pytest.mark.parametrize(("live_s", "is_wrong"), [(0.99, True), (1.0, False), (1.5, False)])
def test_client_that_was_live_for_a_second_may_count_from_the_start(live_s: float, is_wrong: bool):
    story = lost(connects(Story(1), 0.0), 1.0, "server:1011:retry", attempt=3)
    lost(connects(story, 2.0, is_live=True), 2.0 + live_s, "server:1011:retry", attempt=1)
    found = pairs(ConnectHistory(story.history()).backoff_reset_by_accept())
    assert found == ([(0, 2.0 + live_s, 2.0 + live_s)] if is_wrong else [])


@pytest.mark.parametrize(("attempts", "is_wrong"), [((2, 1), True), ((2, 2), True), ((2, 3), False)])
def test_live_period_proves_only_the_connection_that_it_was_of(attempts: tuple[int, int], is_wrong: bool):
    """The second connection is never live, so it does not end a live period."""
    story = lost(connects(Story(1), 0.0, is_live=True), 5.0, "server:1011:retry", attempt=attempts[0])
    lost(connects(story, 5.5), 8.0, "server:1011:retry", attempt=attempts[1])
    assert ("backoff_reset_by_accept" in broken(story)) == is_wrong


def test_backoff_of_another_client_or_without_an_accepted_connection_is_no_reset():
    story = Story(2)
    for client, attempt in ((0, 5), (1, 1)):
        lost(connects(story, 0.0, client=client), 1.0, "server:1011:retry", attempt=attempt, client=client)
    story.tell(2.0, Kind.CONNECT_ATTEMPTED, 0).tell(2.1, Kind.CONNECT_FAILED, 0).tell(
        2.1, Kind.BACKOFF, 0, attempt=1, value=9.0
    )
    assert "backoff_reset_by_accept" not in broken(story)


def in_a_row(times: int, pause_s: float, client: int = 0, t: float = 0.0) -> Story:
    story = connects(Story(2), t, client=client)
    for attempt in range(1, times + 1):
        lost(story, t + 0.5, "server:1011:retry", attempt, delay_s=0.0, client=client)
        t += 0.5 + pause_s
        connects(story, t, client=client)
    return story


@pytest.mark.parametrize(("times", "pause_s", "count"), [(4, 0.0, 0), (5, 0.009, 1), (5, 0.0101, 0), (7, 0.0, 3)])
def test_each_attempt_that_ends_five_quick_ones_is_too_fast(times: int, pause_s: float, count: int):
    found = pairs(ConnectHistory(in_a_row(times, pause_s).history()).reconnected_too_fast())
    assert found == [
        (0, pytest.approx((0.5 + pause_s) * n), pytest.approx((0.5 + pause_s) * n - pause_s)) for n in range(5, 5 + count)
    ]


def test_quick_attempts_of_two_clients_are_not_in_a_row():
    story = in_a_row(4, 0.0)
    story.rows += in_a_row(4, 0.0, client=1).rows
    assert broken(story) == {}


def test_what_a_client_waited_before_its_last_attempt_says_nothing_of_the_next():
    """Its second attempt follows no end of a connection."""
    story = lost(connects(Story(1), 0.0, is_live=True), 5.0, "server:1001:retry", delay_s=3.0)
    connects(connects(story, 8.0), 8.1)
    assert broken(story) == {}


# --- in words and numbers -----------------------------------------------------------------------------


def test_endings_are_counted_by_code_the_most_frequent_first():
    story = Story(3)
    for client, detail, number in (
        *((2, "server:1011:retry", 1011), (0, "server:1011:retry", 1011), (0, "server:1011:retry", 1011)),
        *((1, "server:too_many:wait", 429), (1, "network:network:retry", 0), (0, "server:4500:terminal", 0)),
    ):
        story.tell(1.0, Kind.ENDED, client, detail=detail, attempt=number)
    found = endings(story.history())
    assert found == (
        Ending("server", "1011", "retry", 3, 2),
        Ending("network", "network", "retry", 1, 1),
        Ending("server", "429 too_many", "wait", 1, 1),
        Ending("server", "4500", "terminal", 1, 1),
    )
    assert merged([found, found[::-1], ()])[::3] == (
        Ending("server", "1011", "retry", 6, 4),
        Ending("server", "4500", "terminal", 2, 2),
    )
    assert [each.code for each in merged([found[::-1]])] == ["1011", "network", "429 too_many", "4500"]
    assert endings(Story(1).history()) == merged([]) == ()


@pytest.mark.parametrize(
    ("detail", "number", "parts"),
    [
        ("server:1011:retry", 1011, ("server", "1011", "retry")),
        ("server:busy:wait", 503, ("server", "503 busy", "wait")),
        ("server:busy:wait", 0, ("server", "busy", "wait")),
        ("server:a:b:wait", 1, ("server", "1 a:b", "wait")),
    ],
)
def test_detail_of_an_end_has_three_parts(detail: str, number: int, parts: tuple[str, str, str]):
    assert parts_of(detail, number) == parts


def test_first_end_is_said_in_words():
    story = Story(1).tell(1.0, Kind.ENDED, 0, detail="server:busy:wait", attempt=503)
    story.tell(2.0, Kind.ENDED, 0, detail="network:network:retry").tell(3.0, Kind.DISCONNECTED, 0, detail="network")
    history = story.history()
    rows = history.fleet(Kind.ENDED, Kind.DISCONNECTED)
    said = [said_at(history, rows.take(np.arange(place, 3))) for place in range(3)]
    assert said == ["server 503 busy, next step wait", "network, next step retry", "the end 'network'"]
