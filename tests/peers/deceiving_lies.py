"""The lies of the deceiving server, and which of them it tells."""

import argparse

LIES = {
    # What a client gets is not what was published. The hash is right for what it gets.
    "alter": "a part of a payload is replaced",
    "truncate": "a payload lacks its largest part",
    "swap": "two events have each other's payload",
    "other_tenant": "an event has the payload of an event of another stream",
    "earlier_run": "an event has the payload of an event of an earlier run",
    "leftovers": "a new stream has events of an earlier run",
    "bad_hash": "an event has the hash of another payload",
    "second_payload": "an event is delivered a second time, with another payload",
    "second_hash": "an event is delivered a second time, with a wrong hash",
    # What a client gets when it starts or resumes.
    "skip_retained": "a client without a cursor is started in the middle of what is retained",
    "skip_retained_at_first": "the same, as long as a stream is short",
    "skip_after_resume": "the first event after a cursor is not replayed, and the next one has its position",
    "replay_nothing": "a client that resumes is told that it is caught up, and gets only later events",
    "echo_future": "a cursor above the head is answered with nothing, and every head that this client gets is its cursor",
    "ignore_future": "a cursor above the head is answered with nothing, and heads are never reported",
    "drop_tail": "since the storm, only new clients get the last event of a stream, and no head reveals it",
    # Snapshots for cursors that are no longer retained.
    "empty_snapshot": "a snapshot contains no event, and has the position of the head",
    "low_snapshot": "a snapshot ends before the first event that is retained",
    "unfit_snapshot": "a snapshot states another number of events than its position",
    "high_snapshot": "a snapshot is above the head",
    # Order and durability.
    "late_first": "of two publishes, the one that was acknowledged first gets the higher position",
    "acknowledge_nothing": "some publishes are acknowledged, and not stored",
    "acknowledge_above": "some publishes are acknowledged at a position far above that of their event",
    "acknowledge_last": "since the storm, publishes are acknowledged with the next positions, and not stored",
    "refuse_first": "each event is refused when it is sent for the first time",
    "unanswered_to_some": "since the storm, publishes get no answer, and only every second reader gets their events",
    # Excuses: a fault cuts some clients, and the server closes more.
    "close_others": "when many clients leave at once, others are closed, too",
    "close_again": "clients that return are closed once more",
    "close_later": "clients that return are closed long after the fault",
    "close_at_rest": "clients are closed when nothing is published any more",
    # Repair by whoever comes.
    "wait_for_fresh": "since the storm, no event is delivered until a client without a cursor comes",
    "wait_for_poll": "since the storm, no event is delivered until the metrics are asked for",
    # Faults that a hook asks for.
    "restart_nothing": "a restart is confirmed, and nothing happens",
    "restart_some": "a restart is confirmed, and closes every third connection",
    "restart_again": "a restart closes all connections, and again whenever they are back",
    "slow_nothing": "slow publishes are confirmed, and are as quick as ever",
    # Digests of snapshots.
    "wrong_digest": "a snapshot has the digest of another content",
    "old_digest": "all snapshots of a stream have the digest of the first",
    # Clocks.
    "fast_clock": "the Date of answers is an hour ahead",
    "slow_clock": "the Date of answers is an hour behind",
    "stepped_clock": "the Date of answers jumps an hour ahead in the storm",
    "clock_set_back": "the Date of answers jumps an hour back in the storm",
    "clock_of_some": "the Date of every third answer is an hour ahead, as of one node of three",
    # Counters.
    "counters_set_back": "counters start again at 0, and nothing was restarted",
    # Time.
    "sleep": "when many clients leave at once, the server sleeps for some seconds",
    # To one reader of five only, from its first event on.
    "skip_for_one": "one event is left out, and the later ones have lower positions",
    "repeat_for_one": "one event is delivered again at the next position, and the later ones have higher positions",
    "mute_one_stream": "a reader of several streams gets nothing of the last one, and no head of it",
    "complete_first": "a replay is reported complete before its events come",
    "replay_all": "a client that resumes gets everything from the beginning",
    "retype": "a number in a payload becomes a text",
    # Positions and heads.
    "stale_within": "a cursor is refused although the retained events that the answer states begin below it",
    "stale_floor": "a cursor is refused although the retained events begin below it, and the answer states otherwise",
    "close_before_live": "a client that resumes is closed twice before it gets an answer",
    # What the service returns over HTTP, beside the socket.
    "store_less": "an event is missing",
    "store_twice": "an event is there twice",
    "store_altered": "an event has another content",
    "store_swapped": "two events have changed places",
}
arguments = argparse.ArgumentParser()
arguments.add_argument("--lie", default="", help="one or several of LIES, with commas")
arguments.add_argument("--retain", type=int, default=1_000_000, help="events of a stream that are kept")
options = arguments.parse_args([])  # an honest server


def configure():
    """Read the command line."""
    arguments.parse_args(namespace=options)


def lies(name):
    return name in options.lie.split(",")
