"""Both cores against each other: whatever happens, the reference client loses nothing in silence and comes back."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from sim.server.disorder import LIVE_FAULTS
from sim.server.settings import LiveFault
from tests.client.lane import RUN, SMALL, TOPICS, WORKER, Lane, RuntimeSettings

CLIENTS = 2
_client = st.integers(0, CLIENTS - 1)
_few = st.integers(1, 9)
_STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), _few),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), _few),
    st.tuples(st.just("send_up"), _client),
    st.tuples(st.just("pull"), _client, _few),
    st.tuples(st.just("deliver"), _client, _few),
    st.tuples(st.just("carry"), _client),
    st.tuples(st.just("duplicate"), _client),
    st.tuples(st.just("cut"), _client),
    st.tuples(st.just("restart")),
    st.tuples(st.just("trim"), st.sampled_from(TOPICS), st.integers(0, 3)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 0.6, 3.0, 16.0, 50.0])),
    st.tuples(st.just("skip_live")),
    st.tuples(st.just("shrink_budget"), _few),
    st.tuples(st.just("disorder"), st.lists(st.sampled_from(LIVE_FAULTS), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("expire_tokens")),
    st.tuples(st.just("carry_all")),
    st.tuples(st.just("settle")),
)


def play(lane: Lane, step: tuple) -> None:
    """Carry out one step of a script."""
    match step:
        case ("trim", topic, keep):
            lane.runtime.shrink_window(topic, keep)
        case ("skip_live",):
            lane.switch(skip_live_clients=1.0, skip_live_events=0.4)
        case ("disorder", kinds):
            lane.switch(**{kind: LiveFault(1.0, 0.4, 700.0) for kind in kinds})
        case ("shrink_budget", events):
            lane.switch(shrunk_budget_events=events)
        case ("expire_tokens",):
            lane.switch(tokens_void_before=lane.now)
        case (name, *args):
            getattr(lane, name)(*args)


_RUNTIMES = st.sampled_from(
    [
        SMALL,
        structs.replace(SMALL, sync_frames=True),
        structs.replace(SMALL, window_events=3, replay_budget_events=1, topics_per_drain=1),
        RuntimeSettings(),
    ]
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(_STEPS, min_size=8, max_size=50), _RUNTIMES, st.booleans())
def test_whatever_happens_the_reference_client_comes_back_with_everything(script, runtime_settings, begins_live):
    lane = Lane(CLIENTS, settings=runtime_settings)
    if begins_live:
        lane.settle()
    for step in script:
        play(lane, step)
    before = lane.actions.total()
    lane.settle()
    assert lane.actions.total() - before < 100 * CLIENTS, lane.actions
    lane.check()


# --- histories that once broke a client, or might have -----------------------------------------------------


def live_lane(clients: int = 1, **settings: int) -> Lane:
    """A lane whose clients are live and at the head of both topics, each with two events."""
    lane = Lane(clients, settings=structs.replace(SMALL, **settings))
    for topic in TOPICS:
        lane.publish(topic, 2)
    lane.settle()
    return lane


def test_frames_of_the_old_subscription_are_not_taken_for_the_first_of_the_new():
    """The window moves on past a client that has a hole, while frames of the tail are under way to it."""
    lane = live_lane()
    lane.switch(skip_live_clients=1.0, skip_live_events=1.0)
    lane.publish(WORKER)
    lane.pull(0)
    lane.switch()
    lane.publish(WORKER)
    lane.pull(0)
    lane.deliver(0)  # it sees the hole and asks again
    lane.publish(WORKER, 12)
    lane.pull(0)  # the tail goes on
    lane.send_up(0)  # the question is found stale
    lane.publish(WORKER, 2)
    lane.settle()
    lane.check()
    assert lane.of(0, "stale")


def test_a_snapshot_taken_twice_covers_what_lies_between():
    """Stale twice in a row: the second snapshot goes on from the first, not from nowhere."""
    lane = live_lane()
    lane.cut(0)
    lane.publish(RUN, 12)
    while not lane.of(0, "stale"):
        lane.advance(0.1)
        for _ in range(3):
            lane.send_up(0)
            lane.pull(0)
            lane.deliver(0, 1)
    lane.cut(0)
    lane.advance(310.0)  # a new snapshot is due
    lane.publish(RUN, 12)
    lane.settle()
    lane.check()


def test_a_window_that_moves_during_a_replay_loses_nothing_in_silence():
    lane = live_lane()
    lane.cut(0)
    lane.publish(WORKER, 6)
    lane.advance(1.0)
    lane.send_up(0)
    lane.pull(0)
    lane.deliver(0)
    lane.send_up(0)
    lane.pull(0, 1)  # the first batch of the replay
    lane.publish(WORKER, 20)
    lane.settle()
    lane.check()


def test_a_replay_without_cursor_begins_at_what_is_retained_when_it_begins():
    """Nothing was sent yet, so nothing can be missed by a window that moves on meanwhile."""
    lane = Lane(1)
    lane.publish(RUN, 8)
    lane.send_up(0)
    lane.pull(0)
    lane.deliver(0)
    lane.send_up(0)  # subscribed without a cursor
    lane.publish(RUN, 20)
    lane.settle()
    lane.check()
    assert not lane.of(0, "stale")


def test_a_lost_last_event_is_found_by_heartbeats_within_two_of_their_intervals():
    lane = live_lane()
    lane.switch(skip_live_clients=1.0, skip_live_events=1.0)
    lane.publish(RUN)
    lane.carry_all()
    lane.switch()
    assert not lane.has_converged()
    lane.settle(within_s=31.0)
    lane.check()


def test_a_runtime_that_comes_and_goes_is_met_with_backoff():
    lane = live_lane(clients=3)
    lane.stop_runtime()
    lane.advance(60.0)
    assert lane.actions["Connect"] < 3 * 40
    lane.publish(RUN, 3)
    lane.start_runtime()
    lane.settle(within_s=10.0)
    lane.check()


def test_a_network_that_lets_only_one_frame_through_at_a_time_still_gets_there():
    lane = live_lane()
    for round_ in range(60):
        lane.publish(TOPICS[round_ % 2])
        lane.send_up(0)
        lane.pull(0, 1)
        lane.deliver(0, 1)
        if round_ % 9 == 8:
            lane.cut(0)
        lane.advance(0.4)
    lane.settle()
    lane.check()


def test_an_idle_fleet_does_nothing_but_beat():
    lane = live_lane(clients=2)
    before = lane.actions.total()
    lane.advance(240.0, carrying=True)
    assert lane.actions.total() - before == 2 * 240 // 15
    assert lane.runtime.wake_at() > lane.now


def test_refreshing_a_token_loses_nothing():
    lane = live_lane()
    for _ in range(80):
        lane.publish(RUN)
        lane.advance(10.0, carrying=True)
    lane.settle()
    lane.check()
    assert [n.detail for n in lane.of(0, "disconnected")] == ["token_refresh_due"] * 2
    assert not lane.of(0, "stale", "gap")


def test_the_same_seed_gives_the_same_history_and_another_client_changes_nobody_elses():
    def history(clients: int, seed: int = 1) -> list:
        lane = Lane(clients, seed=seed)
        lane.publish(RUN, 3)
        lane.settle()
        for _ in range(3):
            lane.restart()
            lane.advance(9.0, carrying=True)
        return [notice for notice in lane.notices[0] if notice.kind == "backoff"]

    assert history(2) == history(2) == history(5)
    assert history(2) != history(2, seed=2)
