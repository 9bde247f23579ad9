"""Both cores against each other: whatever happens, the reference client loses nothing in silence and comes back."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lane import TOPICS, Lane

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
        case ("shrink_budget", events):
            lane.switch(shrunk_budget_events=events)
        case ("expire_tokens",):
            lane.switch(tokens_void_before=lane.now)
        case (name, *args):
            getattr(lane, name)(*args)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_STEPS, max_size=40))
def test_whatever_happens_the_reference_client_comes_back_with_everything(script):
    lane = Lane(CLIENTS)
    for step in script:
        play(lane, step)
    before = lane.actions.total()
    lane.settle()
    assert lane.actions.total() - before < 100 * CLIENTS, lane.actions
    lane.check()
