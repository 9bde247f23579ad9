"""Server metrics: missing is not zero, counters count from the first poll, and a counter that goes back was reset."""

import pytest

from drills.judging import gates
from drills.judging.checks.verdicts import State
from sim.analysis import server_metrics
from sim.record.observations import Kind
from sim.server.counters import Counters, metrics
from sim.service.metric_names import PROFILES, is_counter
from tests.histories import Story, good_storm, storm_drill

COUNTER, GAUGE = "mirror.published_total", "delivery.max_replay_lag"


def polled(story: Story, name: str, *values: float, since_t: float = 1.0, every_s: float = 5.0) -> Story:
    for number, value in enumerate(values):
        t = since_t + number * every_s
        story.tell(t, Kind.METRICS_POLLED, attempt=number + 1, value=3.0, detail="ok")
        story.tell(t, Kind.SERVER_METRIC, attempt=number + 1, value=value, detail=name)
    return story


def figure(story: Story) -> server_metrics.ServerMetric:
    (found,) = server_metrics.served(story.history())
    return found


def test_counter_counts_from_the_first_poll() -> None:
    found = figure(polled(Story(), COUNTER, 1000, 1040, 1100))
    assert (found.first, found.last, found.increase, found.resets, found.n) == (1000, 1100, 100, 0, 3)


def test_counter_that_goes_back_was_reset() -> None:
    found = figure(polled(Story(), COUNTER, 1000, 1040, 7, 20))
    assert (found.increase, found.resets) == (60, 1)


def test_gauge_may_fall_and_has_no_increase() -> None:
    found = figure(polled(Story(), GAUGE, 9, 3, 5))
    assert (found.first, found.last, found.increase, found.resets) == (9, 5, None, 0)
    assert "not a client's lag" in found.meaning


def test_metric_that_was_not_served_is_missing() -> None:
    history = polled(Story(), COUNTER, 0, 0).history()
    assert COUNTER not in server_metrics.absent(history, "full")
    assert len(server_metrics.absent(history, "full")) == len(PROFILES["full"]) - 1
    assert server_metrics.absent(Story().history(), "pinned") == PROFILES["pinned"]
    assert server_metrics.served(Story().history()) == ()


@pytest.mark.parametrize("profile", ["full", "pinned"])
def test_profiles_are_what_the_mock_serves(profile: str) -> None:
    body = metrics(Counters(), [], 0, profile, 0.0, "")  # type: ignore[arg-type]
    served = [f"{table}.{name}" for table, part in body.items() if isinstance(part, dict) for name in part]
    assert sorted(served) == sorted(PROFILES[profile])


def test_polls_that_gave_nothing_are_counted_by_reason() -> None:
    story = polled(Story(), COUNTER, 1, 2).tell(20.0, Kind.METRICS_POLLED, attempt=3, value=3000.0, detail="timeout")
    polls = server_metrics.polls(story.history())
    assert (polls.n, polls.failures, polls.failed) == (3, 1, {"timeout": 1})


def undisturbed(story: Story) -> State:
    verdict = gates.judge(storm_drill(checks=("ux.integrity",)), story.history(), gates.load_thresholds(), "x")
    return next(check.state for check in verdict.checks if check.name == "drill.undisturbed")


def test_runtime_that_restarted_by_itself_leaves_doubt() -> None:
    """No false go: nobody was connected the moment it crashed, or everybody was about to be cut anyway."""
    story = polled(good_storm(), COUNTER, 100, 200, 300, 400, 5, 10)
    assert undisturbed(story) is State.INCONCLUSIVE
    assert undisturbed(polled(good_storm(), COUNTER, 100, 200, 300, 400, 500, 600)) is State.PASS
    assert undisturbed(good_storm()) is State.PASS


def test_planned_restart_explains_a_reset() -> None:
    story = polled(good_storm(), COUNTER, 100, 200, 300, 400, 5, 10)
    killed = story.changed(lambda row: row.detail == "drop_sockets", detail="kill_runtime")
    assert undisturbed(killed) is State.PASS


def test_server_metrics_stay_apart_from_client_metrics() -> None:
    verdict = gates.judge(
        storm_drill(checks=("ux.integrity",)), polled(good_storm(), COUNTER, 1, 9).history(), gates.load_thresholds(), "x"
    )
    assert verdict.server is not None
    assert [found.name for found in verdict.server.figures] == [COUNTER]
    assert COUNTER not in {metric.name for metric in verdict.metrics}
    assert is_counter(COUNTER)
