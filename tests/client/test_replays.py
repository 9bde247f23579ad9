"""Which streams wait for an answer, for the end of a replay or for their next request, and what a new connection forgets."""

import zlib

import pytest

from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.replays import NEVER, Feeds, Replays
from sim.protocols.events import Batch, Next, Renewed, Step
from sim.protocols.intents import Compatibility
from tests.client.peer import DURABLE
from tests.client.test_capabilities import DENSE


def asked(*streams: str) -> Replays:
    replays = Replays()
    replays.ask("1", streams)
    return replays


def test_replay_is_complete_after_its_answer_and_its_end():
    replays = asked("a", "b")
    replays.answer(["a", "b"], ends=False)
    replays.complete("a")
    assert not replays.is_complete
    replays.complete("b")
    assert replays.is_complete
    assert not Replays().is_complete


def test_answer_may_end_the_replay():
    replays = asked("a")
    replays.answer(["a"], ends=True)
    assert replays.is_complete


def test_end_of_all_replays_still_needs_an_answer():
    replays = asked("a", "b")
    replays.complete(None)
    assert not replays.is_complete
    replays.answer(["a", "b"], ends=False)
    assert replays.is_complete


def test_new_subscribe_replaces_the_earlier_one():
    replays = asked("a", "b")
    replays.headed.update(("a", "b"))
    replays.ask("2", ["b"])
    assert (replays.asked("1"), replays.asked("2"), replays.headed) == (["a"], ["b"], {"a"})


def test_finished_replays_are_named_and_forgotten():
    replays = asked("a", "b")
    replays.poll("2", "c")
    replays.headed.add("a")
    assert replays.finish() == ["a", "b"]
    assert (replays.running, replays.unanswered, replays.incomplete, replays.headed) == (set(), set(), set(), set())
    assert (replays.asked("1"), replays.asked("2")) == ([], [])


def test_ended_subscription_is_not_waited_for():
    replays = asked("a", "b")
    replays.answer(["a"], ends=True)
    replays.drop("b")
    assert replays.is_complete
    assert (replays.asked("1"), replays.finish()) == (["a"], ["a"])


# --- streams that are asked for one by one -------------------------------------------------------------

POLL, RETRY = Next(Step.RESUBSCRIBE), Next(Step.RETRY)


class Streams:
    """The feeds of one client, and the notices that they made."""

    def __init__(self, *, own_connections: bool = True) -> None:
        self.notes: list[tuple[object, ...]] = []
        settings = ClientSettings(1, Compatibility(), DURABLE if own_connections else DENSE)
        self.feeds = Feeds(0, policies.get("desktop"), settings, lambda kind, *args, **kw: self.notes.append((kind, *args, kw)))

    def taken(self) -> list[tuple[object, ...]]:
        notes, self.notes = self.notes, []
        return notes


def times(streams: Streams, stream: str = "a") -> tuple[float, float, float]:
    feed = streams.feeds[stream]
    return feed.retry_at, feed.reply_by, feed.silent_at


def test_request_of_a_stream_with_its_own_connection_has_its_own_time_outs():
    streams = Streams()
    streams.feeds.ask(["a"], 100.0, 10.0, 45.0)
    assert times(streams) == (NEVER, 110.0, 145.0)
    assert streams.taken() == [("connect_attempted", "a", {})]
    assert streams.feeds.due() == 110.0
    assert [streams.feeds.overdue(now) for now in (109.9, 110.0)] == [[], ["a"]]
    streams.feeds.hear((Batch("a", ()), Batch("b", ()), Renewed("1")), 105.0, 45.0)
    assert times(streams) == (NEVER, NEVER, 150.0)
    assert [streams.feeds.overdue(now) for now in (149.9, 150.0)] == [[], ["a"]]


def test_request_of_a_stream_on_the_common_connection_has_none():
    streams = Streams(own_connections=False)
    streams.feeds.ask(["a"], 100.0, 10.0, 45.0)
    assert (streams.feeds.due(), streams.notes) == (NEVER, [])
    assert times(streams) == (NEVER, NEVER, NEVER)
    streams.feeds["a"].retry_at = 99.0
    streams.feeds.ask(["a"], 100.0, 10.0, 45.0)
    assert (times(streams), streams.feeds["a"].asked_at) == ((NEVER, NEVER, NEVER), 100.0)


def test_stream_that_ended_is_live_again_with_its_next_answer():
    streams = Streams()
    streams.feeds.goes_on("b", 99.0)
    streams.feeds.ask(["a"], 100.0, 10.0, 45.0)
    streams.feeds.goes_on("a", 101.0)
    streams.taken()
    assert (streams.feeds["a"].live_since, streams.feeds["a"].was_live, streams.feeds.is_down) == (101.0, True, False)
    assert streams.feeds.end("a", RETRY, 103.0, "network", is_live=True) == 250.0
    assert streams.feeds.is_down
    assert streams.taken() == [("disconnected", "a", {"detail": "stream_closed"})]
    assert times(streams) == (103.25, NEVER, NEVER)
    assert [streams.feeds.to_retry(now) for now in (103.2, 103.25, 103.3)] == [[], ["a"], []]
    streams.feeds.ask(["a"], 103.25, 10.0, 45.0)
    streams.taken()
    streams.feeds.goes_on("a", 103.5)
    assert streams.taken() == [("subscribed", {"value": 250.0})]
    assert not streams.feeds.is_down
    streams.feeds.goes_on("a", 104.0)
    assert (streams.taken(), streams.feeds["a"].live_since) == ([], 103.5)


def test_stream_that_was_never_live_has_failed_to_connect():
    streams = Streams()
    streams.feeds.ask(["a"], 100.0, 10.0, 45.0)
    streams.taken()
    assert streams.feeds.end("a", RETRY, 102.0, "refused", is_live=True) == 250.0
    assert streams.taken() == [("connect_failed", "a", {"value": 2000.0, "detail": "refused"})]
    streams.feeds.goes_on("a", 103.0)
    assert streams.taken() == [], "it was not live before"


def test_poll_that_ended_is_asked_again_and_is_no_disconnect():
    streams = Streams()
    for asked_at, now, at in ((100.0, 100.25, 101.0), (101.0, 102.0, 102.0), (102.0, 109.0, 109.0)):
        streams.feeds.ask(["a"], asked_at, 10.0, 45.0)
        assert streams.feeds.end("a", POLL, now, "", is_live=False) is None
        assert (times(streams), streams.feeds.is_down) == ((at, NEVER, NEVER), False)
    streams.taken()
    streams.feeds.ask(["a"], 110.0, 10.0, 45.0)
    assert (times(streams), streams.taken()) == ((NEVER, NEVER, 155.0), [])
    streams.feeds.ask(["a"], 110.0, 10.0, 45.0)
    assert (times(streams)[1], len(streams.taken())) == (120.0, 1), "only the request after a poll waits"


@pytest.mark.parametrize(
    ("hint", "delays_ms"), [(POLL, [0.0, 500.0]), (Next(Step.RESUBSCRIBE, 9.0), [250.0, 500.0]), (RETRY, [250.0, 500.0])]
)
def test_subscription_that_ended_is_asked_for_again_at_once_the_first_time(hint: Next, delays_ms: list[float]):
    streams = Streams(own_connections=False)
    found = [streams.feeds.end("a", hint, 100.0, "", is_live=True) for _ in delays_ms]
    assert found == delays_ms
    assert streams.feeds["a"].was_live
    assert times(streams)[0] == 100.0 + delays_ms[-1] / 1000
    assert not Streams(own_connections=False).feeds["a"].was_live
    assert streams.taken() == [("disconnected", "a", {"detail": "stream_closed"})] * 2


def test_stream_that_ended_for_good_is_never_due():
    streams = Streams()
    streams.feeds.ask(["a", "b"], 100.0, 10.0, 45.0)
    streams.feeds.end_for_good("a", "gone")
    assert (times(streams), streams.feeds.is_down, streams.feeds.end_code) == ((NEVER, NEVER, NEVER), True, "gone")
    assert (streams.feeds.has_only_ended(["a"]), streams.feeds.has_only_ended(["a", "b"])) == (True, False)
    assert not streams.feeds.has_only_ended(["a", "c"])
    streams.feeds.clear()
    assert (streams.feeds.end_code, streams.feeds.is_down, streams.feeds.due()) == ("", False, NEVER)


def test_streams_of_a_client_do_not_retry_together():
    settings = ClientSettings(1, Compatibility(), DURABLE)
    feeds = Feeds(0, policies.get("reference"), settings, lambda *_, **__: None)
    delays = [feeds.end(stream, RETRY, 100.0, "", is_live=True) for stream in "abc"]
    assert len(set(delays)) == 3
    seeds = [feeds[stream].retries.seed for stream in "abc"]
    assert seeds == [1 ^ zlib.crc32(stream.encode()) for stream in "abc"]
