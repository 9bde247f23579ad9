"""Which logs and epochs a process has after another one."""

from sim.protocols.spacetime.profile import PROFILE
from sim.server.settings import RuntimeSettings
from sim.server.streams import Streams


def process() -> Streams:
    return Streams(RuntimeSettings(), PROFILE)


def test_process_that_keeps_the_logs_keeps_their_epochs():
    before, after = process(), process()
    before.log("a").append("key", b"1", 0.0)
    before.recreate("b")
    after.follow(before, is_kept=True)
    assert (after.head("a"), after.log("a") is before.log("a")) == (1, True)
    assert [after.epoch(topic) for topic in "ab"] == [before.epoch(topic) for topic in "ab"] == ["log-1.0", "log-1.1"]


def test_process_that_lost_the_logs_has_other_epochs():
    before, after, last = process(), process(), process()
    before.log("a").append("key", b"1", 0.0)
    after.follow(before, is_kept=False)
    last.follow(after, is_kept=False)
    assert [each.head("a") for each in (before, after, last)] == [1, 0, 0]
    assert [each.epoch("a") for each in (before, after, last)] == ["log-1.0", "log-2.0", "log-3.0"]


def test_recreated_log_reports_what_it_had():
    streams = process()
    streams.log("a").append("key", b"1", 0.0)
    assert (streams.recreate("a"), streams.recreate("a"), streams.recreate("new")) == (1, 0, 0)
    assert (streams.epoch("a"), streams.epoch("new"), streams.head("a")) == ("log-1.2", "log-1.1", 0)
