"""The sessions that a server keeps of lost clients: how long, and after which events they go on."""

import pytest

from sim.protocols.habits import Sessions
from sim.server.delivery.sessions import Resumed, SessionStore
from sim.server.stream_log import StreamLog
from tests.server.test_readers import connection

WINDOW_S = 100.0


def read(text: str) -> tuple[str, int]:
    name, _, number = text.partition(":")
    return name, int(number)


@pytest.fixture
def store() -> SessionStore:
    """A store with the numbers 1 to 3 of stream a, from second 10, and 4 of stream b, from second 20."""
    found = SessionStore(Sessions(WINDOW_S, "{}:{}".format, read))
    for topic, count, now in (("a", 3, 10.0), ("b", 1, 20.0)):
        log = StreamLog(10, 1e9)
        for key in range(count):
            log.append(str(key), b"{}", now)
        found.number(topic, log, now)
        found.number(topic, log, 99.0)  # they have numbers already
    return found


def test_sessions_have_names_of_their_own(store: SessionStore) -> None:
    assert [store.new(), store.new()] == ["session-1", "session-2"]


def test_events_of_all_streams_have_one_series_of_numbers(store: SessionStore) -> None:
    assert [store.number_of("a", 1), store.number_of("a", 3), store.number_of("b", 1)] == [1, 3, 4]


@pytest.mark.parametrize(
    ("positions", "text"),
    [({}, "s:0"), ({"a": 0}, "s:0"), ({"a": 2}, "s:2"), ({"a": 3, "b": 1}, "s:4"), ({"b": 0, "a": 1}, "s:1")],
)
def test_session_as_it_is_written_has_all_that_was_sent(store: SessionStore, positions: dict[str, int], text: str) -> None:
    one = connection()
    one.session, one.positions = "s", positions
    assert store.written(one) == text


@pytest.mark.parametrize(
    ("text", "kept_at", "now", "after"),
    [
        ("s:2", 50.0, 60.0, {"a": 2, "b": 0}),
        ("s:4", 50.0, 60.0, {"a": 3, "b": 1}),
        ("other:2", 50.0, 60.0, None),
        ("s:0", 50.0, 60.0, None),  # no event shows when it was there
        ("s:5", 50.0, 60.0, None),
        ("s:1", 50.0, 110.0, {"a": 1, "b": 0}),
        ("s:1", 50.0, 110.1, None),  # its last event is too old
        ("s:4", 15.0, 115.0, {"a": 3, "b": 1}),
        ("s:4", 15.0, 115.1, None),  # it was lost too long ago
    ],
)
def test_lost_session_goes_on_for_a_while(
    store: SessionStore, text: str, kept_at: float, now: float, after: dict[str, int] | None
) -> None:
    one = connection()
    one.session, one.positions = "s", {"a": 3, "b": 1}
    store.keep(one, kept_at)
    for _ in range(2):
        assert store.resume(text, now) == (None if after is None else Resumed("s", after))
