"""Client sessions against the runtime: the reference client recovers and loses no event silently."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from sim.server.delivery.disorder import LIVE_FAULTS
from sim.server.settings import LiveFault
from tests.client.server_double import RUN, SMALL, TOPICS, WORKER, InMemoryService, RuntimeSettings

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


def play(service: InMemoryService, step: tuple) -> None:
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
def test_reference_client_recovers_every_event_after_any_history(script, runtime_settings, starts_live):
    service = InMemoryService(CLIENTS, settings=runtime_settings)
    if starts_live:
        service.settle()
    for step in script:
        play(service, step)
    before = service.actions.total()
    service.settle()
    assert service.actions.total() - before < 100 * CLIENTS, service.actions
    service.check()


# --- known difficult histories ---------------------------------------------------------------------------


def live_endpoints(clients: int = 1, **settings: int) -> InMemoryService:
    """A service whose clients are live and at the head of both topics, each with two events."""
    service = InMemoryService(clients, settings=structs.replace(SMALL, **settings))
    for topic in TOPICS:
        service.publish(topic, 2)
    service.settle()
    return service


def test_frames_of_old_subscription_do_not_count_for_new_one():
    """The window passes a client that has a gap while live frames are in flight to it."""
    service = live_endpoints()
    service.switch(skip_live_clients=1.0, skip_live_events=1.0)
    service.publish(WORKER)
    service.pull(0)
    service.switch()
    service.publish(WORKER)
    service.pull(0)
    service.deliver(0)  # it detects the gap and subscribes again
    service.publish(WORKER, 12)
    service.pull(0)  # the live tail continues
    service.send_up(0)  # the subscribe is answered as stale
    service.publish(WORKER, 2)
    service.settle_and_check()
    assert service.of(0, "stale")


def test_second_snapshot_covers_events_since_first():
    """The cursor is stale twice in a row: the second snapshot continues from the first."""
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
    service.settle_and_check()


def test_window_moving_during_replay_loses_nothing_silently():
    service = live_endpoints()
    service.cut(0)
    service.publish(WORKER, 6)
    service.advance(1.0)
    service.exchange(0)
    service.send_up(0)
    service.pull(0, 1)  # the first batch of the replay
    service.publish(WORKER, 20)
    service.settle_and_check()


def test_replay_without_cursor_is_not_stale_when_window_moves():
    """Nothing was sent yet, so a window that moves meanwhile cannot cause a loss."""
    service = InMemoryService(1)
    service.publish(RUN, 8)
    service.exchange(0)
    service.send_up(0)  # subscribed without a cursor
    service.publish(RUN, 20)
    service.settle_and_check()
    assert not service.of(0, "stale")


def test_lost_last_event_is_found_within_two_heartbeats():
    service = live_endpoints()
    service.switch(skip_live_clients=1.0, skip_live_events=1.0)
    service.publish(RUN)
    service.carry_all()
    service.switch()
    assert not service.has_converged()
    service.settle_and_check(within_s=31.0)


def test_clients_back_off_while_runtime_is_down():
    service = live_endpoints(clients=3)
    service.stop_runtime()
    service.advance(60.0)
    assert service.actions["Connect"] < 3 * 40
    service.publish(RUN, 3)
    service.start_runtime()
    service.settle_and_check(within_s=10.0)


def test_client_converges_over_network_of_one_frame_at_a_time():
    service = live_endpoints()
    for round_ in range(60):
        service.publish(TOPICS[round_ % 2])
        service.exchange(0, 1)
        if round_ % 9 == 8:
            service.cut(0)
        service.advance(0.4)
    service.settle_and_check()


def test_idle_clients_send_only_heartbeats():
    service = live_endpoints(clients=2)
    before = service.actions.total()
    service.advance(240.0, carrying=True)
    assert service.actions.total() - before == 2 * 240 // 15
    assert service.runtime.wake_at() > service.now


def test_token_refresh_loses_nothing():
    service = live_endpoints()
    for _ in range(80):
        service.publish(RUN)
        service.advance(10.0, carrying=True)
    service.settle_and_check()
    assert [n.detail for n in service.of(0, "disconnected")] == ["token_refresh_due"] * 2
    assert not service.of(0, "stale", "gap")


def test_history_depends_on_seed_and_not_on_other_clients():
    def history(clients: int, seed: int = 1) -> list:
        service = InMemoryService(clients, seed=seed)
        service.publish(RUN, 3)
        service.settle()
        for _ in range(3):
            service.restart()
            service.advance(9.0, carrying=True)
        return [notice for notice in service.notices[0] if notice.kind == "backoff"]

    assert history(2) == history(2) == history(5)
    assert history(2) != history(2, seed=2)
