"""What each kind of fault explains: by whom a connection ended, how, when, and how often. The fault lasts from 20 s to 21 s."""

from typing import Any

import numpy as np
import pytest

from sim.analysis.disconnects import Disconnects, Owner, _last_t_of_client, _turn
from sim.record.observations import Kind
from tests.histories import STREAM, Story

End = tuple[Any, ...]  # seconds, who ended it and the code, then perhaps the client's own reason and the client


def lost(fault: dict[str, Any], *ends: End, observed: float = 99.0, **header: Any) -> Disconnects:
    plan = [fault, *header.pop("more", [])]
    story = Story(4, header={"plan": plan, **header})
    for index, each in enumerate(plan):
        story.tell(20.0, Kind.FAULT_INJECTED, attempt=index, detail=each["kind"])
        story.tell(21.0, Kind.FAULT_OBSERVED, attempt=index, detail=each["kind"], value=observed)
        story.tell(21.0, Kind.FAULT_REVERTED, attempt=index, detail=each["kind"])
    story.tell(30.0, Kind.PHASE, detail="recovery").tell(60.0, Kind.PHASE, detail="end")
    for t, end, *more in ends:
        why, client = (*more, "network", 0)[:2] if len(more) != 1 else (more[0], 0)
        story.tell(t, Kind.DISCONNECTED, client, detail=why)
        if end:
            story.tell(t, Kind.ENDED, client, detail=f"{end}:retry")
    story.rows.sort(key=lambda row: row.t)
    return Disconnects(story.history())


def explained(fault: str, *ends: End, **header: Any) -> str:
    """One letter for each end: whether the fault explains it (y or n)."""
    return "".join(
        "y" if index == 0 else "n" for index in lost({"kind": fault, **header.pop("says", {})}, *ends, **header).fault
    )


FAULT, SERVER, NET, CLIENT = "fault:network", "server:1012", "network:network", "client:silence"
EACH = ((20.1, FAULT), (20.2, SERVER), (20.3, NET), (20.4, CLIENT), (20.5, ""))


def one_each(fault: str, **header: Any) -> str:
    """Whether the fault explains a connection that was ended by: a fault, the server, the network, the client, nobody knows."""
    return "".join(explained(fault, end, **header) for end in EACH)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("drop_sockets", "ynnny"),
        ("restart_clients", "ynnny"),
        ("rolling_deploy", "nyyyy"),
        ("stop_reading", "nyyyy"),
        ("slow_links", "nyyyy"),
        ("stall_links", "nyyyy"),
        ("half_open_links", "nyyyy"),
        ("cut_after_bytes", "nnyyy"),
        ("expire_tokens", "nyyyy"),
        ("revoke_sessions", "nyyyy"),
        ("stop_delivery", "nyyyy"),
        ("recreate_log", "nyyyy"),
        ("kill_runtime", "nnyyy"),
        ("reset_links", "nnyny"),
        ("refuse_connects", "nnnnn"),
        ("skip_deliveries", "nnnnn"),
        ("slow_mint", "nnnnn"),
        ("shrink_window", "nnnnn"),
        ("publish_burst", "nnnnn"),
    ],
)
def test_fault_explains_an_end_by_who_ended_the_connection(fault: str, expected: str) -> None:
    assert one_each(fault) == expected


@pytest.mark.parametrize(
    ("fault", "end", "expected"),
    [
        ("drop_sockets", "", "ynnn"),
        ("rolling_deploy", SERVER, "ynnn"),
        ("half_open_links", NET, "ynnn"),
        ("expire_tokens", SERVER, "ynnn"),
        ("recreate_log", SERVER, "ynnn"),
        ("stop_reading", SERVER, "ynnn"),
        ("stop_reading", CLIENT, "yyyy"),
        ("stop_delivery", SERVER, "yynn"),
        ("kill_runtime", NET, "yynn"),
        ("revoke_sessions", SERVER, "ynnn"),
        ("slow_links", NET, "yyyy"),
        ("cut_after_bytes", NET, "yyyy"),
        ("reset_links", NET, "ynnn"),
    ],
)
def test_fault_explains_so_many_ends_of_each_client(fault: str, end: str, expected: str) -> None:
    assert explained(fault, *((20.1 + n / 10, end) for n in range(4))) == expected
    assert explained(fault, *((20.1 + n / 10, end, "network", n) for n in range(4))) == "yyyy"


@pytest.mark.parametrize("fault", ["drop_sockets", "stop_reading", "slow_links", "kill_runtime", "stop_delivery"])
def test_window_ends_when_clients_may_still_notice_it(fault: str) -> None:
    until = 26.0 if fault == "stop_reading" else 22.0
    ends = [(t, "" if fault == "drop_sockets" else NET, "network", n) for n, t in enumerate((19.99, 20.0, until, until + 0.01))]
    assert explained(fault, *ends) == "nyyn"


def test_slow_close_delays_the_ends_of_faults_at_the_same_time() -> None:
    ends = ((22.5, "", "network", 0), (22.51, "", "network", 1))
    slow = {"kind": "slow_close", "delay_ms": 500.0}
    assert explained("drop_sockets", *ends, more=[slow]) == "yn"
    assert explained("drop_sockets", *ends, more=[{"kind": "slow_close"}]) == "nn"
    assert explained("drop_sockets", *ends, more=[slow, {"kind": "slow_close", "delay_ms": 100.0}]) == "yn"


def test_silence_has_the_codes_that_the_protocol_states() -> None:
    stated = {"capabilities": {"silence_codes": ["4000"]}}
    ends = (
        (20.1, "server:4000", "network", 0),
        (20.1, "server:1012", "network", 1),
        (20.1, "server:1012", "unauthorized", 2),
        (20.1, "network:9", "network", 3),
    )
    assert explained("stall_links", *ends, **stated) == "ynyy"
    assert explained("stall_links", *ends) == "yyyy"
    found = lost({"kind": "stall_links"}, *ends, **stated)
    assert found.may_come_of_silence.tolist() == [True, False, False, True]
    assert found.is_of_token.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "fault", ["restart_clients", "skip_deliveries", "shrink_window", "malform_frames", "jumble_deliveries"]
)
def test_doubts_of_a_client_are_its_own_words(fault: str) -> None:
    reasons = ("unknown", "stale_cursor", "stream_closed", "unknown")
    assert explained(fault, *((20.1 + n / 10, "client:x", why) for n, why in enumerate(reasons))) == "yyyy"
    assert explained(fault, (20.1, "client:x", "network"), (20.2, SERVER, "unknown")) == "nn"


@pytest.mark.parametrize("fault", ["mint_outage", "slow_mint", "skew_clocks", "skew_control", "rotate_keys"])
def test_token_that_could_not_be_renewed_ends_connections(fault: str) -> None:
    ends = (
        (20.1, SERVER, "unauthorized"),
        (20.2, "", "unauthorized"),
        (20.3, SERVER, "network"),
        (20.4, FAULT, "unauthorized"),
    )
    assert explained(fault, *ends) == "yynn"


def test_quiet_stream_shows_late_that_its_log_is_new() -> None:
    ends = (
        (50.0, CLIENT, "network", 0),
        (50.0, SERVER, "stale_cursor", 1),
        (50.0, SERVER, "network", 2),
        (50.0, FAULT, "stale_cursor", 3),
    )
    assert explained("recreate_log", *ends) == "yynn"
    assert explained("recreate_log", (50.0, CLIENT), (51.0, CLIENT), (19.0, CLIENT, "network", 1)) == "nyn"


def test_hook_may_close_anybody_and_each_a_few_times_more_until_the_recovery() -> None:
    hook = {"says": {"by": "hook", "clients_share": 0.0}}
    assert explained("drop_sockets", *((20.1 + n / 10, SERVER) for n in range(5)), **hook) == "yyynn"
    assert explained("drop_sockets", *((25.0 + n / 10, SERVER) for n in range(5)), **hook) == "yyynn"
    late = ((31.0, NET, "network", 0), (31.01, NET, "network", 1), (25.0, FAULT, "network", 2))
    assert explained("drop_sockets", *late, **hook) == "nyn"
    named = {"says": {"clients_share": 0.0}}
    assert explained("drop_sockets", (20.1, ""), **named) == "n"


def test_links_are_reset_as_often_as_the_fault_says() -> None:
    assert explained("reset_links", *((20.1 + n / 10, NET) for n in range(4)), says={"times": 3}) == "yyyn"
    assert explained("reset_links", (20.1, "client:x", "unknown")) == "y"


def test_refused_connects_are_lost_connections_only_where_each_request_is_one() -> None:
    several = {"capabilities": {"is_one_connection": False}}
    assert explained("refuse_connects", (20.1, NET), (20.2, NET), (20.3, SERVER), **several) == "yyn"
    assert explained("refuse_connects", (20.1, NET), capabilities={"is_one_connection": True}) == "n"


def test_reader_of_a_stream_that_the_fault_names_is_concerned() -> None:
    other = "runtime.run.2.events"
    fault = {"says": {"streams": 1}, "own_streams": [STREAM, other], "subscriptions": {"0": [STREAM], "1": [other]}}
    ends = [(20.1, "client:x", "unknown", client) for client in range(3)]
    assert explained("shrink_window", *ends, **fault) == "yny", "nobody says what number 2 reads"


# --- ordered ends -------------------------------------------------------------------------------------


def ordered(*ends: End, observed: float = 99.0, one: bool = True, **fault: Any) -> str:
    made = lost(
        {"kind": "close_connections", "codes": [4001, 1013], **fault},
        *ends,
        observed=observed,
        capabilities={"is_one_connection": one},
    )
    return "".join("y" if index == 0 else "n" for index in made.fault)


def test_ends_with_an_ordered_code_are_the_faults_as_many_as_it_made() -> None:
    ends = ((20.1, "server:4001", "network", 0), (20.2, "server:1013 busy", "network", 1), (20.3, "server:1012", "network", 2))
    assert ordered(*ends) == "yyn"
    assert ordered(*ends, observed=1.0) == "ynn"
    assert ordered(*ends, observed=0.0) == "nnn"
    assert ordered((20.1, "server:4001"), (20.2, "server:4001"), (19.9, "server:4001", "network", 1)) == "nyn"
    assert ordered((22.0, "server:4001"), (22.1, "server:4001", "network", 1)) == "yn"


def test_words_in_place_of_a_code_and_ends_without_any() -> None:
    assert ordered((20.1, "server:going_away"), (20.2, "network:network", "network", 1), (20.3, "", "network", 2)) == "yny"
    cut = {"codes": [503]}
    assert ordered((20.1, "server:going_away"), (20.2, NET, "network", 1), (20.3, "server:503", "network", 2), **cut) == "nyy"
    assert ordered((20.1, "server:going_away"), **cut, one=False) == "y"
    frameless = {"codes": [1006]}
    assert ordered((20.1, NET), **frameless) == "y"
    assert ordered((20.1, "client:x"), (20.2, FAULT)) == "nn"


def test_each_request_may_be_refused_where_clients_have_a_connection_per_stream() -> None:
    ends = ((20.1, "server:4001"), (20.2, "server:4001"), (20.3, "network:network"))
    assert ordered(*ends) == "ynn"
    assert ordered(*ends, one=False) == "yyn"


@pytest.mark.parametrize(
    ("tried_t", "done_t", "expected"),
    [(20.4, 20.5, "yy"), (20.5, 20.6, "yy"), (20.51, 20.6, "yn"), (19.0, 19.49, "yn"), (19.0, 19.5, "yy"), (20.3, 20.2, "yy")],
)
def test_new_connection_ends_so_long_after_it_was_accepted(tried_t: float, done_t: float, expected: str) -> None:
    """With `after_ms` 500: the second end of a client is at 21 s."""
    story = Story(1, header={"plan": [{"kind": "close_connections", "codes": [4001], "after_ms": 500.0}]})
    story.tell(20.0, Kind.FAULT_INJECTED, detail="close_connections").tell(21.0, Kind.FAULT_REVERTED)
    story.tell(21.0, Kind.FAULT_OBSERVED, value=9.0).tell(tried_t, Kind.CONNECT_ATTEMPTED, 0).tell(done_t, Kind.CONNECT_DONE, 0)
    for t in (20.0, 21.0):
        story.tell(t, Kind.DISCONNECTED, 0, detail="network").tell(t, Kind.ENDED, 0, detail="server:4001:retry")
    story.rows.sort(key=lambda row: row.t)
    assert "".join("y" if index == 0 else "n" for index in Disconnects(story.history()).fault) == expected


# --- owners -------------------------------------------------------------------------------------------


def test_owner_of_each_disconnect() -> None:
    found = lost(
        {"kind": "drop_sockets"},
        (20.1, "", "network", 0),
        (20.2, "", "token_refresh_due", 1),
        (30.0, SERVER, "network", 2),
        (31.0, NET, "network", 3),
        (32.0, "", "token_refresh_due", 0),
    )
    assert found.owner.tolist() == [Owner.FAULT, Owner.CLIENT, Owner.SERVER, Owner.UNKNOWN, Owner.CLIENT]
    assert found.unexcused.tolist() == [False, False, True, True, False]
    assert found.said == ["", "", "server:1012", "network:network", ""]
    assert found.of_fault(0).client.tolist() == [0]
    assert (len(found.of_fault(1)), len(Disconnects(Story(1).history()).rows)) == (0, 0)


def test_end_is_said_by_the_row_right_after_of_the_same_client_and_time() -> None:
    story = Story(2)
    for t, kind, client, detail in (
        *((1.0, Kind.DISCONNECTED, 0, "x"), (1.0, Kind.DISCONNECTED, 1, "x"), (1.0, Kind.ENDED, 1, "server:7:retry")),
        *((2.0, Kind.DISCONNECTED, 0, "x"), (2.1, Kind.ENDED, 0, "server:8:retry"), (3.0, Kind.DISCONNECTED, 1, "x")),
    ):
        story.tell(t, kind, client, detail=detail)
    found = Disconnects(story.history())
    assert [*zip(found.rows.client.tolist(), found.rows.t.tolist(), found.said, strict=True)] == [
        (0, 1.0, ""),
        (1, 1.0, "server:7"),
        (0, 2.0, ""),
        (1, 3.0, ""),
    ]


def test_turn_counts_within_each_pair() -> None:
    assert _turn(np.array([5, 3, 5, 5, 3, 9])).tolist() == [0, 0, 1, 2, 1, 0]
    assert _turn(np.zeros(0, np.int64)).tolist() == []


def test_last_time_of_a_client_is_before_the_row() -> None:
    story = Story(3)
    for client, t in ((0, 1.0), (0, 3.0), (2, 2.0)):
        story.tell(t, Kind.TOKEN_MINTED, client)
    for client, t in ((0, 3.0), (0, 3.1), (1, 9.0), (2, 9.0), (0, 0.5)):
        story.tell(t, Kind.DISCONNECTED, client)
    story.rows.sort(key=lambda row: row.t)
    history = story.history()
    rows = history.fleet(Kind.DISCONNECTED)
    found = _last_t_of_client(history.fleet(Kind.TOKEN_MINTED), rows)
    expected = {(0, 0.5): -np.inf, (0, 3.0): 1.0, (0, 3.1): 3.0, (1, 9.0): -np.inf, (2, 9.0): 2.0}
    assert dict(zip(zip(rows.client.tolist(), rows.t.tolist(), strict=True), found.tolist(), strict=True)) == expected
    assert Disconnects(history).token_age_s.tolist() == [
        t - expected[client, t] for client, t in zip(rows.client.tolist(), rows.t.tolist(), strict=True)
    ]
