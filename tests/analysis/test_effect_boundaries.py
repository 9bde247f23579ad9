"""How much of a fault must show, on whom, and when: the words for what is missing. The fault lasts from 20 s to 22 s."""

from typing import Any

import pytest

from sim.analysis.disconnects import Disconnects
from sim.analysis.effects import Effects
from sim.record.observations import Kind
from tests.histories import STREAM, Row, Story

CLIENTS, NAN = 10, float("nan")


def missing(fault: dict[str, Any], *rows: Row, observed: float = 10.0, index: int = 0, **header: Any) -> str:
    """What is missing of a fault; rows before it: all clients are live since 1 s."""
    story = Story(CLIENTS, header={"plan": [fault], **header})
    for client in range(CLIENTS):
        story.tell(1.0, Kind.SUBSCRIBED, client)
    story.tell(20.0, Kind.FAULT_INJECTED, detail=fault["kind"]).tell(22.0, Kind.FAULT_REVERTED, detail=fault["kind"])
    story.tell(22.0, Kind.FAULT_OBSERVED, value=observed, detail=fault["kind"]).tell(60.0, Kind.PHASE, detail="end")
    story.rows = sorted([*story.rows, *rows], key=lambda row: row.t)
    history = story.history()
    return Effects(history, Disconnects(history)).missing(index)


def each(count: int, t: float, kind: Kind, **more: Any) -> list[Row]:
    return [Row(t, kind, client, **more) for client in range(count)]


def cut(count: int, t: float = 20.5) -> list[Row]:
    return each(count, t, Kind.DISCONNECTED, detail="network")


@pytest.mark.parametrize(
    ("observed", "index", "expected"),
    [
        (10.0, 0, ""),
        (10.0, 1, "was not injected"),
        (0.9, 0, "had no observed effect"),
        (float("nan"), 0, "had no observed effect"),
    ],
)
def test_fault_was_injected_and_observed(observed: float, index: int, expected: str) -> None:
    assert missing({"kind": "rotate_keys"}, observed=observed, index=index) == expected


def test_one_observed_effect_is_enough_and_must_be_its_own() -> None:
    assert missing({"kind": "rotate_keys"}, observed=1.0) == ""
    of_another = [Row(21.0, Kind.FAULT_OBSERVED, attempt=1, value=9.0)]
    assert missing({"kind": "rotate_keys"}, *of_another, observed=0.0) == "had no observed effect"
    later = [
        Row(21.0, Kind.FAULT_INJECTED, attempt=1, detail="rotate_keys"),
        Row(21.0, Kind.FAULT_OBSERVED, attempt=1, value=9.0),
    ]
    assert missing({"kind": "rotate_keys"}, *later, index=1) == "was not reverted"


@pytest.mark.parametrize(("hit", "observed", "seen"), [(9, 10.0, 9), (8, 10.0, 8), (10, 9.0, 9), (10, 8.9, 8), (8, 20.0, 8)])
@pytest.mark.parametrize("kind", ["drop_sockets", "expire_tokens", "restart_clients", "forget_tokens", "revoke_sessions"])
def test_nine_of_ten_clients_must_be_hit_and_counted(kind: str, hit: int, observed: float, seen: int) -> None:
    rows = {"restart_clients": Kind.RESTARTED, "forget_tokens": Kind.TOKEN_FORGOTTEN, "revoke_sessions": Kind.SESSION_REVOKED}
    verb = {"restart_clients": "killed", "forget_tokens": "took the tokens of", "revoke_sessions": "revoked the sessions of"}
    shown = each(hit, 20.5, rows[kind]) if kind in rows else cut(hit)
    expected = "" if seen >= 9 else f"{verb.get(kind, 'disconnected')} {seen} of 10 clients"
    assert missing({"kind": kind, "clients": 10}, *shown, observed=observed) == expected


@pytest.mark.parametrize(("t", "is_missing"), [(19.99, True), (20.0, False), (23.0, False), (23.01, True)])
def test_effects_may_be_noticed_a_second_later(t: float, is_missing: bool) -> None:
    for kind, shown in (("restart_clients", Kind.RESTARTED), ("drop_sockets", Kind.DISCONNECTED)):
        assert bool(missing({"kind": kind, "clients": 10}, *each(10, t, shown))) == is_missing


def test_fault_names_fewer_clients_than_there_are() -> None:
    assert missing({"kind": "drop_sockets", "clients": 4}, *cut(4)) == ""
    assert missing({"kind": "drop_sockets", "clients": 4}, *cut(3)) == "disconnected 3 of 4 clients"
    assert missing({"kind": "drop_sockets"}, *cut(4)) == "disconnected 4 of 10 clients", "all, if it does not say how many"


def test_fault_of_the_service_hits_the_clients_that_were_live() -> None:
    """Three left before it began, and one came as it began."""
    gone = [*each(3, 19.9, Kind.DISCONNECTED, detail="network"), Row(20.0, Kind.SUBSCRIBED, 0)]
    hit = [Row(20.5, Kind.DISCONNECTED, client, detail="network") for client in range(3, 10)]
    assert missing({"kind": "kill_runtime"}, *gone, *hit) == ""
    assert missing({"kind": "kill_runtime"}, *gone, *hit, observed=1.0) == "", "one process was killed"
    assert missing({"kind": "kill_runtime"}, *gone, *hit[1:]) == "disconnected 6 of 7 clients"
    ended = [Row(20.5, Kind.ENDED, client, detail="server:1012:retry") for client in range(3, 10)]
    closing = {"kind": "close_connections", "codes": [1012]}
    pairs = [row for pair in zip(hit, ended, strict=True) for row in pair]
    assert missing(closing, *gone, *pairs) == ""
    assert missing(closing, *gone, *pairs, observed=6.0) == "disconnected 6 of 7 clients"


def test_halved_connections_are_counted_and_lost() -> None:
    fault = {"kind": "half_open_links", "clients": 10}
    assert missing(fault, *cut(10), observed=8.0) == "affected 8 of 10 clients"
    assert missing(fault, *cut(8), observed=9.0) == "disconnected 8 of 9 clients"
    assert missing(fault, *cut(9), observed=10.0) == ""
    assert missing({"kind": "cut_after_bytes"}) == "was felt by none of its clients"
    assert missing({"kind": "cut_after_bytes"}, *cut(1)) == ""


# --- switches of the server -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "t", "value", "seen"),
    [
        (5, 21.0, 180.0, 5),
        (4, 21.0, 500.0, 4),
        (5, 21.0, 179.0, 0),
        (5, 23.2, 200.0, 5),
        (5, 23.21, 200.0, 0),
        (5, 20.0, 200.0, 5),
    ],
)
def test_half_of_the_slow_answers_must_be_seen_while_they_may_come(count: int, t: float, value: float, seen: int) -> None:
    said = missing({"kind": "slow_mint", "delay_ms": 200.0}, *each(count, t, Kind.TOKEN_MINTED, value=value))
    assert said == ("" if seen >= 5 else f"counted 10 effects, but clients saw {seen} of them")


def test_half_of_one_is_one() -> None:
    assert missing({"kind": "mint_outage"}, observed=1.0) == "counted 1 effects, but clients saw 0 of them"
    assert missing({"kind": "mint_outage"}, *each(1, 20.1, Kind.TOKEN_REFUSED), observed=2.0) == ""
    assert missing({"kind": "skip_deliveries"}, *each(1, 20.1, Kind.GAP, detail="live"), observed=90.0) == ""
    assert missing({"kind": "skip_deliveries"}) == "counted 10 effects, but clients saw 0 of them"
    assert missing({"kind": "skip_deliveries"}, capabilities={"positions": "ordered"}) == ""
    assert missing({"kind": "shrink_replay_budget"}, capabilities={"stale": "silent"}) == ""
    assert "saw 0" in missing({"kind": "shrink_replay_budget"}, capabilities={"stale": "explicit"})


@pytest.mark.parametrize(
    ("outcome", "by_engine", "by_hook"), [("refused", True, True), ("unknown", True, False), ("x", False, False)]
)
def test_publish_that_failed_shows_a_refusal(outcome: str, by_engine: bool, by_hook: bool) -> None:
    tries = [Row(20.5, Kind.PUBLISH_TRIED, value=1.0, detail=outcome)] * 5
    assert (missing({"kind": "fail_publishes"}, *tries) == "") == by_engine
    assert (missing({"kind": "fail_publishes", "by": "hook"}, *tries) == "") == by_hook


# --- links ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "value", "passed"),
    [(20.5, 499.0, 10), (20.5, 500.0, 0), (22.0, 1.0, 10), (22.01, 1.0, 0), (19.9, 1.0, 0)],
)
def test_connects_that_began_during_the_fault_must_not_pass(t: float, value: float, passed: int) -> None:
    said = missing({"kind": "refuse_connects"}, *each(10, t, Kind.CONNECT_DONE, value=value))
    assert said == (f"let {passed} connects pass" if passed else "")


@pytest.mark.parametrize(("t", "still"), [(21.0, 0), (21.01, 2), (21.99, 2), (22.0, 0)])
@pytest.mark.parametrize("kind", ["stall_links", "stop_reading"])
def test_clients_that_still_receive_were_not_silenced(kind: str, t: float, still: int) -> None:
    heard = each(2, t, Kind.RECEIVED)
    fault = {"kind": kind, "clients": 10}
    assert missing(fault, *heard) == (f"silenced {10 - still} of 10 clients" if still else "")
    assert missing({**fault, "direction": "to_server"}, *heard) == ""
    assert missing({**fault, "direction": "to_client"}, *heard) == (f"silenced {10 - still} of 10 clients" if still else "")
    assert missing(fault, *heard, observed=8.0) == "affected 8 of 10 clients"


@pytest.mark.parametrize(("ended_t", "is_silenced"), [(21.4, True), (21.5, True), (21.6, False), (21.0, False)])
def test_client_reads_again_on_its_next_connection(ended_t: float, is_silenced: bool) -> None:
    """It hears something at 21.5 s. A connection that ends in the first second was not yet silenced."""
    rows = [*each(2, ended_t, Kind.DISCONNECTED, detail="network"), *each(2, 21.5, Kind.APPLIED, stream=STREAM, seq=1)]
    assert (missing({"kind": "stop_reading", "clients": 10}, *rows) == "") == is_silenced
    assert missing({"kind": "stall_links", "clients": 10}, *rows) == "silenced 8 of 10 clients"


def slowed(*took_ms: float, sent_t: float = 20.5, **fault: Any) -> str:
    """An event was sent; each client applied it so much later."""
    sent = [Row(sent_t + 0.001, Kind.PUBLISH_TRIED, -1, STREAM, value=1.0, detail="acknowledged", marker=1)]
    sent += [Row(sent_t + 0.001, Kind.PUBLISHED, -1, STREAM, 1, value=1.0, marker=1)]
    applied = [Row(sent_t + ms / 1000, Kind.APPLIED, client, STREAM, 1, marker=1) for client, ms in enumerate(took_ms)]
    return missing({"kind": "slow_links", "latency_ms": 100.0, **fault}, *sent, *applied)


def test_what_was_sent_through_slow_links_took_nearly_as_long() -> None:
    assert slowed(*[91.0] * 10) == ""
    assert slowed(*[91.0] * 9, 89.0) == ""
    assert slowed(*[91.0] * 8, 89.0, 10.0) == "delayed what was sent to 8 of 10 clients"
    assert slowed(*[10.0] * 10, direction="to_server") == ""
    assert slowed(*[10.0] * 10, direction="to_client") == "delayed what was sent to 0 of 10 clients"
    assert slowed(*[10.0] * 10, latency_ms=0.0) == ""
    assert slowed(*[10.0] * 10, sent_t=20.0) == "", "sent as it began"
    assert slowed(*[10.0] * 10, sent_t=22.5) == "", "after it"


# --- hooks ----------------------------------------------------------------------------------------------


def hooked(kind: str, *rows: Row, **header: Any) -> str:
    return missing({"kind": kind, "by": "hook", "clients": 4}, *rows, **header)


def test_hook_that_cuts_must_show_on_as_many_clients() -> None:
    assert hooked("drop_sockets", *cut(4, 25.0)) == ""
    assert hooked("drop_sockets", *cut(3, 25.0)) == "disconnected 3 of 4 clients"
    assert hooked("expire_tokens", *cut(9), observed=1.0) == ""
    assert hooked("expire_tokens", *cut(8), observed=99.0) == "disconnected 8 of 10 clients"
    assert hooked("rotate_keys") == "was injected by a hook, and clients cannot observe whether it took effect"


def test_without_clients_publishes_show_an_outage() -> None:
    for kind in ("kill_runtime", "drop_sockets"):
        for outcome, is_shown in (("refused", True), ("unknown", True), ("acknowledged", False)):
            tries = [Row(20.5, Kind.PUBLISH_TRIED, value=1.0, detail=outcome)]
            said = hooked(kind, *tries, has_socket=False)
            assert said == ("" if is_shown else "was injected by a hook, but no publish failed")


@pytest.mark.parametrize(("t", "is_shown"), [(19.9, False), (20.0, True), (23.0, True), (23.01, False)])
def test_signs_of_a_hook_come_during_its_fault(t: float, is_shown: bool) -> None:
    said = hooked("mint_outage", Row(t, Kind.TOKEN_REFUSED, 0))
    assert said == ("" if is_shown else "was injected by a hook, but no token was refused")
    late = hooked("shrink_window", Row(t + 20.0, Kind.STALE, 0, STREAM, 1))
    assert late == "", "a client notices it when it returns"


@pytest.mark.parametrize(
    ("before", "during", "is_shown"),
    [(0, 1, True), (6, 1, True), (7, 1, False), (12, 2, True), (13, 2, False)],
)
def test_signs_that_were_as_frequent_before_show_nothing(before: int, during: int, is_shown: bool) -> None:
    """19 s before it since the first client was live, and 3 s of the fault with its notice."""
    rows = [Row(2.0 + number, Kind.TOKEN_REFUSED, 0) for number in range(before)] + [Row(21.0, Kind.TOKEN_REFUSED, 0)] * during
    said = hooked("mint_outage", *rows)
    assert (said == "") == is_shown
    if not is_shown:
        assert said == f"was injected by a hook, but clients saw its signs as often before: {before} times in 19.0 s"
