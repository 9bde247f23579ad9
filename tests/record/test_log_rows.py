"""Which epoch and which position most clients saw of an event, when it was first sent, and which log each row is about."""

import numpy as np
import pytest

from sim.record.history import _KIND_CODE
from sim.record.log_rows import Table, _first_sent_t, _log_of_rows, _most_frequent, _most_seen
from sim.record.logs import Epochs, Events, Logs, by_positions, by_times


def table(**columns: list[float]) -> Table:
    size = len(next(iter(columns.values())))
    others = {name: np.zeros(size, np.int64) for name in ("t", "kind", "client", "stream", "seq", "detail")} | {
        "number": np.arange(size)
    }
    return Table(others | {name: np.array(values) for name, values in columns.items()}, _KIND_CODE, lambda kind: range(size))


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([], {}),
        ([(1, 0)], {1: 0}),
        ([(1, 0), (1, 2), (1, 2), (2, 0)], {1: 1, 2: 0}),  # epochs are numbered again, from 0
        ([(1, 1), (1, 0)], {1: 0}),  # the older one of two
        ([(1, 1), (1, 0), (2, 1)], {1: 0, 2: 1}),
        ([(2, 1), (1, 0), (1, 1), (1, 1), (3, 0)], {1: 1, 2: 1, 3: 0}),
    ],
)
def test_most_frequent_epoch_of_each_event(seen: list[tuple[int, int]], found: dict[int, int]) -> None:
    marker, epoch = (np.array([each[place] for each in seen], np.int64) for place in (0, 1))
    epochs = _most_frequent(marker, epoch)
    assert dict(zip(epochs.number.tolist(), epochs.epoch.tolist(), strict=True)) == found
    assert epochs.number.tolist() == sorted(found)


def test_epoch_of_an_event_that_nobody_applied_is_unknown() -> None:
    epochs = Epochs(np.array([2, 5]), np.array([0, 1]))
    assert epochs.of(np.array([1, 2, 3, 5, 6])).tolist() == [-1, 0, -1, 1, -1]
    assert Epochs(np.zeros(0, np.int64), np.zeros(0, np.int64)).of(np.array([1, 2])).tolist() == [-1, -1]


def test_position_at_which_most_clients_applied_an_event() -> None:
    published = table(marker=[1, 2, 3, 4])
    applied = table(marker=[2, 2, 2, 3, -1, 4], seq=[7, 8, 8, 0, 9, -1])
    assert _most_seen(applied, published).tolist() == [-1, 8, 0, -1]
    assert _most_seen(table(marker=[-1], seq=[3]), published).tolist() == [-1] * 4


def test_event_was_first_sent_with_its_first_try_or_when_it_was_due() -> None:
    published = table(marker=[1, 3, 4], t=[10.0, 20.0, 30.0], value=[500.0, np.nan, 1000.0])
    tries = table(marker=[3, 3, 2, -1, 5, 4], t=[9.0, 8.0, 1.0, 1.0, 1.0, 40.0], value=[250.0, 500.0, 0.0, 0.0, 0.0, np.nan])
    assert _first_sent_t(tries, published).tolist() == [9.5, 7.5, 40.0]


# --- the logs of a stream -------------------------------------------------------------------------------

# Positions of two logs; numbers 2 and 5 have none. The new log has numbers 4 to 6, sent from second 3.0 on.
EVENTS = Events(np.array([1, 2, 3, 4, 5, 6]), np.array([1, -1, 2, 1, -1, 2]), np.arange(6.0), np.arange(6.0) + 0.5)
LOGS = Logs(EVENTS, np.array([0, 0, 0, 1, 1, 1]), Epochs(np.array([4, 9]), np.array([0, 0])))


def test_log_and_position_of_numbers() -> None:
    assert LOGS.count == 2
    assert LOGS.of_numbers(np.array([-1, 0, 1, 3, 4, 6, 7, 9])).tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert LOGS.seq_of_numbers(np.array([0, 1, 2, 3, 6, 7])).tolist() == [-1, 1, -1, 2, 2, -1]


def test_times_at_which_a_log_may_exist_and_does() -> None:
    assert (LOGS.earliest_t(0), LOGS.earliest_t(1), LOGS.latest_t(1), LOGS.latest_t(2)) == (-np.inf, 2.0, 3.5, np.inf)
    times = np.array([1.9, 2.0, 3.4, 3.5])
    assert LOGS.possible(times).tolist() == [0, 1, 1, 1]
    assert LOGS.certain(times).tolist() == [0, 0, 0, 1]


def test_positions_start_over_where_a_lower_one_follows_a_higher_one() -> None:
    found = by_positions(EVENTS, are_dense=True)
    assert found is not None
    assert found.log.tolist() == [0, 0, 0, 1, 1, 1], "an event without a position is where the one before it is"
    rising = Events(np.arange(1, 4), np.array([1, 3, 2]), np.arange(3.0), np.arange(3.0) + 0.5)
    assert by_positions(rising, are_dense=True) is None, "no position was given twice"
    assert by_positions(rising, are_dense=False) is not None
    overlapping = Events(np.arange(1, 4), np.array([1, 3, 2]), np.arange(3.0), np.arange(3.0) + 1.0)
    assert by_positions(overlapping, are_dense=False) is None, "it was sent when the other was acknowledged"
    unknown = Events(np.arange(1, 3), np.array([-1, -1]), np.arange(2.0), np.arange(2.0))
    assert by_positions(unknown, are_dense=True) is None


def test_epochs_alone_separate_events_of_one_position() -> None:
    events = Events(np.arange(1, 4), np.array([1, 2, 2]), np.zeros(3), np.array([0.5, 1.5, 2.5]))
    assert by_positions(events, are_dense=True) is None
    found = by_positions(events, are_dense=True, epochs=Epochs(np.array([1, 2, 3]), np.array([0, 0, 1])))
    assert found is not None
    assert (found.log.tolist(), found.seen.epoch.tolist()) == ([0, 0, 1], [0, 0, 1])


@pytest.mark.parametrize(
    ("recreated", "retained", "log"),
    [
        ([(2.0, 2.6)], [4, 5], [0, 0, 0, 1, 1, 1]),
        ([(2.0, 3.0)], [5], [0, 0, 0, 1, 1, 1]),  # what was sent when the fault ended is in the new log
        ([(2.0, 3.1)], [5], [0, 0, 0, 0, 1, 1]),
        ([(2.0, 3.1)], [3, 5], [0, 0, 0, 1, 1, 1]),  # under way, and found
        ([(0.6, 0.9), (2.0, 3.0)], [5], [0, 1, 1, 2, 2, 2]),
        ([(2.0, 2.6)], [], None),
        ([(2.0, 2.6)], [1, 5], None),  # an older one is still there
        ([(1.5, 2.6)], [1, 5], [0, 1, 0, 1, 1, 1]),  # it was acknowledged when the fault began
        ([(9.0, 9.5)], [5], None),
        ([(-1.0, -0.5)], [5], None),
    ],
)
def test_fault_that_created_a_log_again_separates_events_by_time(
    recreated: list[tuple[float, float]], retained: list[int], log: list[int] | None
) -> None:
    found = by_times(EVENTS, recreated, np.isin(np.arange(6), retained))
    assert (None if found is None else found.log.tolist()) == log


def rows(*rows: tuple[str, int, float, int, int]) -> Table:
    """Rows by kind, client, time, marker and position."""
    kind, client, t, marker, seq = ([each[place] for each in rows] for place in range(5))
    return table(kind=[_KIND_CODE[each] for each in kind], client=client, t=t, marker=marker, seq=seq)  # type: ignore[index]


@pytest.mark.parametrize(
    ("told", "log"),
    [
        ([("published", -1, 9.0, 6, 2), ("publish_failed", -1, 9.0, 1, -1), ("phase", -1, 9.0, 6, -1)], [1, 0, 0]),
        (
            [("applied", 0, 9.0, 1, 1), ("stale", 0, 9.0, -1, 4), ("applied", 0, 9.1, 6, 2), ("stale", 0, 9.2, -1, 4)],
            [0, 0, 1, 1],
        ),
        # It starts again: in the log of the next event, if that may exist by then.
        ([("applied", 0, 1.0, 1, 1), ("rebootstrapped", 0, 9.0, -1, 2), ("applied", 0, 9.1, 6, 2)], [0, 1, 1]),
        ([("applied", 0, 1.0, 1, 1), ("rebootstrapped", 0, 1.9, -1, 2), ("applied", 0, 9.1, 6, 2)], [0, 0, 1]),
        # Nothing follows: in the newest log that exists for certain.
        ([("rebootstrapped", 0, 3.4, -1, 2), ("rebootstrapped", 0, 3.5, -1, 2)], [0, 1]),
        ([("subscribed", 0, 9.0, -1, -1), ("subscribed", 0, 1.0, -1, -1)], [1, 1]),
        # One client says nothing of another.
        ([("rebootstrapped", 0, 3.4, -1, 2), ("applied", 1, 9.0, 6, 2)], [0, 1]),
        ([("applied", 1, 9.0, 6, 2), ("subscribed", 0, 1.0, -1, -1), ("stale", 1, 9.5, -1, 1)], [1, 0, 1]),
        # An event under another position than its own says nothing.
        (
            [("applied", 0, 9.0, 1, 1), ("applied", 0, 9.1, 6, 1), ("applied", 0, 9.2, 5, 7), ("applied", 0, 9.3, 3, -1)],
            [0, 0, 1, 0],
        ),
    ],
)
def test_log_of_each_row(told: list[tuple[str, int, float, int, int]], log: list[int]) -> None:
    assert _log_of_rows(rows(*told), LOGS).tolist() == log
