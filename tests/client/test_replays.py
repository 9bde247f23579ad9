"""Which streams wait for an answer or the end of a replay, and what a new connection forgets."""

from sim.client.replays import Replays


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
