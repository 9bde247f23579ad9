"""Both cores against each other: whatever happens, the reference client loses nothing in silence and comes back."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from sim.server.disorder import LIVE_FAULTS
from sim.server.settings import LiveFault
from tests.client.server_double import RUN, SMALL, TOPICS, WORKER, Endpoints, RuntimeSettings

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


def play(service: Endpoints, step: tuple) -> None:
    """Carry out one step of a script."""
    match step:
        case ("trim", topic, keep):
            service.runtime.shrink_window(topic, keep)
        case ("skip_live",):
            service.switch(skip_live_clients=1.0, skip_live_events=0.4)
        case ("disorder", kinds):
            service.switch(**{kind: LiveFault(1.0, 0.4, 700.0) for kind in kinds})
        case ("shrink_budget", events):
            service.switch(shrunk_budget_events=events)
        case ("expire_tokens",):
            service.switch(tokens_void_before=service.now)
        case (name, *args):
            getattr(service, name)(*args)


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
    service = Endpoints(CLIENTS, settings=runtime_settings)
    if begins_live:
        service.settle()
    for step in script:
        play(service, step)
    before = service.actions.total()
    service.settle()
    assert service.actions.total() - before < 100 * CLIENTS, service.actions
    service.check()


# --- histories that once broke a client, or might have -----------------------------------------------------


def live_endpoints(clients: int = 1, **settings: int) -> Endpoints:
    """A lane whose clients are live and at the head of both topics, each with two events."""
    service = Endpoints(clients, settings=structs.replace(SMALL, **settings))
    for topic in TOPICS:
        service.publish(topic, 2)
    service.settle()
    return service


def test_frames_of_the_old_subscription_are_not_taken_for_the_first_of_the_new():
    """The window moves on past a client that has a hole, while frames of the tail are under way to it."""
    service = live_endpoints()
    service.switch(skip_live_clients=1.0, skip_live_events=1.0)
    service.publish(WORKER)
    service.pull(0)
    service.switch()
    service.publish(WORKER)
    service.pull(0)
    service.deliver(0)  # it sees the hole and asks again
    service.publish(WORKER, 12)
    service.pull(0)  # the tail goes on
    service.send_up(0)  # the question is found stale
    service.publish(WORKER, 2)
    service.settle()
    service.check()
    assert service.of(0, "stale")


def test_a_snapshot_taken_twice_covers_what_lies_between():
    """Stale twice in a row: the second snapshot goes on from the first, not from nowhere."""
    service = live_endpoints()
    service.cut(0)
    service.publish(RUN, 12)
    while not service.of(0, "stale"):
        service.advance(0.1)
        for _ in range(3):
            service.send_up(0)
            service.pull(0)
            service.deliver(0, 1)
    service.cut(0)
    service.advance(310.0)  # a new snapshot is due
    service.publish(RUN, 12)
    service.settle()
    service.check()


def test_a_window_that_moves_during_a_replay_loses_nothing_in_silence():
    service = live_endpoints()
    service.cut(0)
    service.publish(WORKER, 6)
    service.advance(1.0)
    service.send_up(0)
    service.pull(0)
    service.deliver(0)
    service.send_up(0)
    service.pull(0, 1)  # the first batch of the replay
    service.publish(WORKER, 20)
    service.settle()
    service.check()


def test_a_replay_without_cursor_begins_at_what_is_retained_when_it_begins():
    """Nothing was sent yet, so nothing can be missed by a window that moves on meanwhile."""
    service = Endpoints(1)
    service.publish(RUN, 8)
    service.send_up(0)
    service.pull(0)
    service.deliver(0)
    service.send_up(0)  # subscribed without a cursor
    service.publish(RUN, 20)
    service.settle()
    service.check()
    assert not service.of(0, "stale")


def test_a_lost_last_event_is_found_by_heartbeats_within_two_of_their_intervals():
    service = live_endpoints()
    service.switch(skip_live_clients=1.0, skip_live_events=1.0)
    service.publish(RUN)
    service.carry_all()
    service.switch()
    assert not service.has_converged()
    service.settle(within_s=31.0)
    service.check()


def test_a_runtime_that_comes_and_goes_is_met_with_backoff():
    service = live_endpoints(clients=3)
    service.stop_runtime()
    service.advance(60.0)
    assert service.actions["Connect"] < 3 * 40
    service.publish(RUN, 3)
    service.start_runtime()
    service.settle(within_s=10.0)
    service.check()


def test_a_network_that_lets_only_one_frame_through_at_a_time_still_gets_there():
    service = live_endpoints()
    for round_ in range(60):
        service.publish(TOPICS[round_ % 2])
        service.send_up(0)
        service.pull(0, 1)
        service.deliver(0, 1)
        if round_ % 9 == 8:
            service.cut(0)
        service.advance(0.4)
    service.settle()
    service.check()


def test_an_idle_fleet_does_nothing_but_beat():
    service = live_endpoints(clients=2)
    before = service.actions.total()
    service.advance(240.0, carrying=True)
    assert service.actions.total() - before == 2 * 240 // 15
    assert service.runtime.wake_at() > service.now


def test_refreshing_a_token_loses_nothing():
    service = live_endpoints()
    for _ in range(80):
        service.publish(RUN)
        service.advance(10.0, carrying=True)
    service.settle()
    service.check()
    assert [n.detail for n in service.of(0, "disconnected")] == ["token_refresh_due"] * 2
    assert not service.of(0, "stale", "gap")


def test_the_same_seed_gives_the_same_history_and_another_client_changes_nobody_elses():
    def history(clients: int, seed: int = 1) -> list:
        service = Endpoints(clients, seed=seed)
        service.publish(RUN, 3)
        service.settle()
        for _ in range(3):
            service.restart()
            service.advance(9.0, carrying=True)
        return [notice for notice in service.notices[0] if notice.kind == "backoff"]

    assert history(2) == history(2) == history(5)
    assert history(2) != history(2, seed=2)
