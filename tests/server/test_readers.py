"""Who reads which topic, who is behind, and the state of one connection."""

import math

import pytest

from sim.protocols.events import Answer, Joined
from sim.server.delivery.connection import Connection, Replay
from sim.server.delivery.fanout import Readers
from sim.server.tokens import of_nobody
from tests.client.server_double import COMPATIBILITY


def connection(number: int = 1) -> Connection:
    return Connection(number, of_nobody(), 0, COMPATIBILITY, 100.0, 115.0)


def test_readers_of_a_topic_are_behind_until_they_got_everything():
    readers, one, other = Readers(0.5), connection(1), connection(2)
    readers.add(one, "a", 3)
    readers.add(one, "b", 4)
    readers.add(other, "b", 5)
    assert (one.positions, other.positions) == ({"a": 3, "b": 4}, {"b": 5})
    assert readers.tick_at() == math.inf
    assert readers.announce("c", 10.0) == {}
    assert readers.announce("a", 10.0) == {1: one}
    assert (list(one.pending), list(other.pending), readers.tick_at()) == (["a"], [], 10.5)
    assert readers.announce("b", 10.25) == {1: one, 2: other}
    assert (list(one.pending), readers.tick_at()) == (["a", "b"], 10.5), "the check is as far away as before"
    one.strikes = 2
    readers.got_everything(one)
    assert (one.strikes, readers.behind) == (0, {2: other})


def test_those_that_are_behind_are_checked_at_each_tick():
    readers, one = Readers(0.5), connection()
    readers.add(one, "a", 0)
    assert readers.due(99.0) == []
    readers.announce("a", 10.0)
    assert [readers.due(now) for now in (10.4, 10.5, 10.6, 10.99, 11.0)] == [[], [one], [], [], [one]]
    readers.got_everything(one)
    assert readers.due(99.0) == []


def test_reader_that_leaves_a_topic_is_behind_with_the_others_only():
    readers, one = Readers(0.5), connection()
    for topic in ("a", "b"):
        readers.add(one, topic, 0)
        readers.announce(topic, 10.0)
    readers.remove(one, "a")
    assert (one.positions, list(one.pending), readers.behind) == ({"b": 0}, ["b"], {1: one})
    readers.remove(one, "b")
    readers.remove(one, "never")
    assert (one.positions, list(one.pending), readers.behind) == ({}, [], {})
    assert readers.announce("a", 11.0) == {}


def test_closed_connection_reads_nothing():
    readers, one, other = Readers(0.5), connection(1), connection(2)
    for each in (one, other):
        readers.add(each, "a", 0)
    readers.announce("a", 10.0)
    readers.forget(one)
    assert readers.behind == {2: other}
    assert readers.announce("a", 11.0) == {2: other}


@pytest.mark.parametrize("has_replay", [True, False])
def test_replays_of_a_channel_are_dropped_and_its_messages_kept(has_replay: bool):
    one, answer = connection(), (Answer("1", True),)
    one.outbox.append(answer)
    if has_replay:
        one.outbox.append(Replay("2", ["a"], 10))
    assert one.is_replaying is has_replay
    one.drop_replays()
    assert (list(one.outbox), one.is_replaying) == ([answer], False)


def test_connection_closes_with_its_last_events_alone():
    one, last = connection(), Joined("1")
    assert (one.joined, one.closing, one.is_deaf, one.strikes, one.end, one.poll_due_at) == (
        False,
        False,
        False,
        0,
        None,
        math.inf,
    )
    one.outbox.append(Replay("2", ["a"], 10))
    one.positions["a"], one.pending["a"] = 3, None
    one.close_with(last, last)
    assert (list(one.outbox), one.positions, one.pending, one.closing) == ([(last,), (last,)], {}, {}, True)
