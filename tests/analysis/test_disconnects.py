"""What a fault explains lies in its window and its scope. Every other lost connection is the server's or unknown."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from drills.judging import gates
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import State
from sim.analysis.disconnects import Owner
from sim.drill.fault_bases import Fault
from sim.drill.fault_kinds import (
    CloseConnections,
    CutAfterBytes,
    DropSockets,
    HalfOpenLinks,
    KillRuntime,
    MalformFrames,
    RecreateLog,
    RefuseConnects,
    ResetLinks,
    RevokeSessions,
    ShrinkWindow,
    SkewClocks,
    SkipDeliveries,
    SlowClose,
    SlowLinks,
    StallLinks,
    StopDelivery,
    StopReading,
)
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.record.observations import Kind
from tests.drills.asking import ask
from tests.histories import STREAM, Story, good_storm, storm_drill

CLIENTS = 20


def broken_by(*faults: Fault) -> tuple[Story, Case]:
    """A healthy run in which these faults lasted from 20 s to 21 s, and no client lost a connection."""
    story = good_storm(CLIENTS).without(lambda row: row.kind.value.startswith("fault_") or row.kind is Kind.DISCONNECTED)
    drill = replace(storm_drill(CLIENTS), faults=faults)
    case = Case(drill, story.history())
    story.header["plan"] = [fault.describe() for fault in case.planned.values()]
    for index, fault in case.planned.items():
        story.tell(20.0, Kind.FAULT_INJECTED, attempt=index, detail=fault.kind)
        story.tell(21.0, Kind.FAULT_OBSERVED, attempt=index, detail=fault.kind, value=float(CLIENTS))
        story.tell(21.0, Kind.FAULT_REVERTED, attempt=index, detail=fault.kind)
    return story, case


def lose(story: Story, client: int, t: float, end: str = "", why: str = "network") -> Story:
    """The client loses its connection; `end` is what the record says of it."""
    story.tell(t, Kind.DISCONNECTED, client, detail=why)
    return story.tell(t, Kind.ENDED, client, detail=end) if end else story


def judged(story: Story, case: Case) -> tuple[State, str]:
    found = ask("drill.undisturbed", story, case.drill)
    return found.state, found.reason


def owners(story: Story, case: Case) -> list[tuple[int, Owner, int]]:
    """(client, owner, fault) of each disconnect."""
    found = Case(case.drill, story.history()).disconnects
    return [
        (client, Owner(owner), fault)
        for client, owner, fault in zip(found.rows.client.tolist(), found.owner.tolist(), found.fault.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        (KillRuntime(at_s=0.0, down_s=1.0), "network:1006:retry"),
        (StopDelivery(at_s=0.0, for_s=1.0), "server:1012:retry"),
    ],
)
@pytest.mark.parametrize(("times", "expected"), [(1, State.PASS), (2, State.PASS), (3, State.FAIL)])
def test_outage_ends_a_connection_and_one_that_came_too_early(fault: Fault, end: str, times: int, expected: State) -> None:
    story, case = broken_by(fault)
    for number in range(times):
        lose(story, 3, 20.1 + number * 0.3, end)
    state, reason = judged(story, case)
    assert state is expected
    assert ("1 " in reason) == (expected is State.FAIL)


HALF = DropSockets(at_s=0.0, share=0.5)
CLOSED = CloseConnections(at_s=0.0, share=0.5, codes=(1012,), for_s=1.0)


@pytest.mark.parametrize(
    ("fault", "end"),
    [(HALF, "fault:network:retry"), (CLOSED, "server:1012:retry"), (ResetLinks(at_s=0.0, share=0.5), "network:network:retry")],
)
def test_fault_explains_its_own_clients_once_and_soon(fault: Fault, end: str):
    story, case = broken_by(fault)
    named = case.planned[0].clients
    other = next(client for client in range(CLIENTS) if client not in named)
    lose(story, named[0], 20.0, end)
    assert judged(story, case)[0] is State.PASS
    assert owners(story, case) == [(named[0], Owner.FAULT, 0)]
    for client, t in ((other, 20.1), (named[0], 20.5), (named[1], 22.5)):
        again, case = broken_by(fault)
        lose(lose(again, named[0], 20.0, end), client, t, "server:1000:retry")
        state, why = judged(again, case)
        assert state is State.FAIL
        assert f"1 closed by the server; the first by client {client} at {t:.3f} s" in why


def test_server_that_closes_a_client_while_a_fault_cuts_it_is_not_excused():
    story, case = broken_by(HALF)
    lose(story, case.planned[0].clients[0], 20.2, "server:1000:retry")
    assert judged(story, case)[0] is State.FAIL


def test_unknown_owner_is_no_excuse():
    story, case = broken_by(SlowLinks(at_s=0.0, share=0.5, for_s=1.0, latency_ms=100))
    other = next(client for client in range(CLIENTS) if client not in case.planned[0].clients)
    lose(story, other, 20.2, "network:network:retry")
    assert owners(story, case) == [(other, Owner.UNKNOWN, -1)]
    assert "without a word" in judged(story, case)[1]


def test_slow_links_may_end_the_connections_of_their_clients_again_and_again():
    story, case = broken_by(SlowLinks(at_s=0.0, share=0.5, for_s=1.0, latency_ms=100))
    for t in (20.1, 20.4, 20.9):
        lose(story, case.planned[0].clients[0], t, "client:network:retry")
    assert judged(story, case)[0] is State.PASS


def test_restart_explains_every_client():
    story, case = broken_by(KillRuntime(at_s=0.0, down_s=1.0))
    for client in range(CLIENTS):
        lose(story, client, 20.1, "network:network:retry")
    assert judged(story, case)[0] is State.PASS
    assert judged(lose(story, 3, 22.5, "network:network:retry"), case)[0] is State.FAIL


def test_hook_may_hit_any_client_until_recovery():
    story, case = broken_by(CLOSED)
    story.header["plan"][0]["by"] = "hook"
    for client in range(CLIENTS):
        lose(lose(story, client, 20.1), client, 24.8)
    assert judged(story, case)[0] is State.PASS
    assert judged(lose(story, 3, 26.5), case)[0] is State.FAIL


@pytest.mark.parametrize(("ends_each", "times"), [({}, 3), ({"ends_each": 1}, 1), ({"ends_each": 6}, 6)])
def test_hook_ends_the_connection_of_each_client_as_often_as_the_target_states(ends_each: dict[str, int], times: int):
    story, case = broken_by(KillRuntime(at_s=0.0, down_s=1.0))
    story.header["plan"][0].update({"by": "hook", **ends_each})
    for number in range(times):
        lose(story, 3, 20.1 + number * 0.5)
    for client in range(CLIENTS - 10, CLIENTS):
        lose(story, client, 20.2)
    assert judged(story, case)[0] is State.PASS
    assert judged(lose(story, 3, 24.0), case)[0] is State.FAIL, "once more until recovery"


@pytest.mark.parametrize("t", [20.9, 23.5])
def test_hook_that_slows_links_ends_connections_in_no_other_way_again_and_again(t: float):
    for end, state in (("server:client_timeout:retry", State.PASS), ("server:1012:retry", State.FAIL)):
        story, case = broken_by(SlowLinks(at_s=0.0, share=0.5, for_s=1.0, latency_ms=100))
        story.header["capabilities"] = msgspec.to_builtins(CAPABILITIES)
        story.header["plan"][0]["by"] = "hook"
        for number in range(5):
            lose(story, 3, t + number * 0.01, end)
        assert judged(story, case)[0] is state, end


# --- sessions that are revoked ----------------------------------------------------------------------

REVOKED = RevokeSessions(at_s=0.0, share=0.5, for_s=1.0)


def revoked_client(*ends: tuple[float, str]) -> tuple[State, str]:
    """A client's session is revoked at 20.1 s, and it signs in again at 21 s. Each end is at a time; `live`: it got in."""
    story, case = broken_by(REVOKED)
    client = case.planned[0].clients[0]
    story = story.without(lambda row: row.kind in (Kind.SUBSCRIBED, Kind.TOKEN_MINTED) and row.client == client and row.t > 9)
    story.tell(20.1, Kind.SESSION_REVOKED, client, value=0.01)
    for t, what in ends:
        story.tell(t - 0.03, Kind.TOKEN_MINTED, client, value=20.0)
        if what == "live":
            story.tell(t, Kind.SUBSCRIBED, client, value=20.0)
        else:
            lose(story, client, t, what, "unauthorized" if "reauth" in what else "network")
    story.tell(21.0, Kind.SIGNED_IN, client)
    story.rows.sort(key=lambda row: row.t)
    return judged(story, case)


OUT, CLOSED_ANYHOW = "server:reauth_required:mint", "server:1000:retry"


@pytest.mark.parametrize("refused", [OUT, CLOSED_ANYHOW])
def test_revocation_ends_a_connection_once_and_refuses_the_client_until_it_signed_in(refused: str):
    assert revoked_client((20.2, OUT), (20.4, refused), (20.6, refused), (20.9, refused))[0] is State.PASS
    assert revoked_client((20.2, OUT), (20.6, refused), (21.02, refused))[0] is State.PASS, "its token had been asked for"


@pytest.mark.parametrize("again", [OUT, CLOSED_ANYHOW])
def test_revocation_explains_no_second_end_of_a_client_that_was_let_in(again: str):
    assert revoked_client((20.2, OUT), (20.4, "live"), (20.5, again))[0] is State.FAIL, "before it signed in"
    assert revoked_client((20.2, OUT), (21.2, "live"), (21.4, again))[0] is State.FAIL, "after it signed in"
    assert revoked_client((20.2, OUT), (21.2, again), (21.4, again))[0] is State.FAIL, "it signed in, and is not let in"


def test_renewal_is_the_client_s_own():
    story, case = broken_by(HALF)
    story.tell(20.5, Kind.DISCONNECTED, 3, detail="token_refresh_due")
    assert owners(story, case) == [(3, Owner.CLIENT, -1)]


def test_waves_are_told_apart():
    waves: list[Any] = [DropSockets(at_s=0.0, share=1.0, wave=number, waves=2) for number in (1, 2)]
    story, case = broken_by(*waves)
    for index, t in ((0, 20.0), (1, 20.2)):
        for client in case.planned[index].clients:
            lose(story, client, t, "fault:network:retry")
    found = owners(story, case)
    assert {fault for client, _, fault in found if client in case.planned[0].clients} == {0}
    assert {fault for client, _, fault in found if client in case.planned[1].clients} == {1}


# --- what a server could hide in a fault ---------------------------------------------------------------

HALF_OF = {"at_s": 0.0, "share": 0.5}
OF_LINKS = (
    SlowLinks(**HALF_OF, for_s=1.0, latency_ms=100),
    StallLinks(**HALF_OF, for_s=1.0),
    HalfOpenLinks(**HALF_OF, for_s=1.0, gone="client"),
    StopReading(**HALF_OF, for_s=1.0),
)


def ends(fault: Fault, *lost: tuple[float, str, str]) -> State:
    """What `drill.undisturbed` says when the fault's first client loses its connection so: time, end and reason."""
    story, case = broken_by(fault)
    story.header["capabilities"] = msgspec.to_builtins(CAPABILITIES)
    client = (case.planned[0].clients or (0,))[0]
    for t, end, why in lost:
        lose(story, client, t, end, why)
    return judged(story, case)[0]


@pytest.mark.parametrize("fault", OF_LINKS, ids=lambda fault: fault.kind)
def test_links_explain_ends_for_silence_and_no_other_code(fault: Fault):
    for end in ("server:client_timeout:retry", "server:slow_consumer:wait", "network:network:retry", "client:network:retry"):
        assert ends(fault, (20.5, end, "network")) is State.PASS, end
    for end in ("server:1000:retry", "server:1012:retry", "server:forbidden:terminal", "server:1011:retry"):
        assert ends(fault, (20.5, end, "network")) is State.FAIL, end


@pytest.mark.parametrize("fault", OF_LINKS, ids=lambda fault: fault.kind)
def test_a_protocol_that_does_not_state_its_codes_of_silence_leaves_them_open(fault: Fault):
    story, case = broken_by(fault)
    assert judged(lose(story, case.planned[0].clients[0], 20.5, "server:3999:retry"), case)[0] is State.PASS


def test_client_that_stopped_reading_is_sent_away_once():
    evicted = (20.5, "server:slow_consumer:wait", "unknown")
    assert ends(StopReading(**HALF_OF, for_s=1.0), evicted) is State.PASS
    assert ends(StopReading(**HALF_OF, for_s=1.0), evicted, (21.5, *evicted[1:])) is State.FAIL


def test_close_with_another_code_is_the_server_s():
    fault = CloseConnections(**HALF_OF, codes=(1012,), for_s=1.0)
    assert ends(fault, (20.1, "server:1012:retry", "network")) is State.PASS
    assert ends(fault, (20.1, "server:1000:retry", "network")) is State.FAIL
    assert ends(fault, (20.1, "network:network:retry", "network")) is State.FAIL


def test_each_client_is_closed_with_its_own_code():
    story, case = broken_by(CloseConnections(**HALF_OF, codes=(1001, 1012), for_s=1.0))
    first, second = sorted(case.planned[0].clients)[:2]
    assert judged(lose(lose(story, first, 20.1, "server:1001:retry"), second, 20.1, "server:1012:retry"), case)[0] is State.PASS
    story, case = broken_by(CloseConnections(**HALF_OF, codes=(1001, 1012), for_s=1.0))
    assert judged(lose(lose(story, first, 20.1, "server:1012:retry"), second, 20.1, "server:1001:retry"), case)[0] is State.FAIL


def test_status_cuts_an_open_connection_once_and_refuses_upgrades():
    fault = CloseConnections(**HALF_OF, codes=(503,), for_s=1.0)
    cut = (20.1, "network:network:retry", "network")
    assert ends(fault, cut) is State.PASS
    for more in ((20.6, *cut[1:]), (20.6, "server:1011:retry", "network"), (20.6, "server:503 rate_limited:retry", "network")):
        assert ends(fault, cut, more) is State.FAIL, more


def test_status_refuses_each_request_of_a_client_with_a_connection_per_stream():
    story, case = broken_by(CloseConnections(**HALF_OF, codes=(503,), for_s=1.0))
    story.header["capabilities"] = {"is_one_connection": False}
    for t in (20.1, 20.4, 20.7):
        lose(story, case.planned[0].clients[0], t, "server:503 http_503:retry")
    assert judged(story, case)[0] is State.PASS
    assert judged(lose(story, case.planned[0].clients[0], 20.8, "server:403 forbidden:mint"), case)[0] is State.FAIL


def closed_again(after_s: float, observed: float = CLIENTS) -> State:
    """A client of a fault that closes what was accepted 300 ms before returns, and is closed so long after."""
    story, case = broken_by(CloseConnections(**HALF_OF, codes=(1011,), for_s=1.0, after_ms=300.0))
    story = story.changed(lambda row: row.kind is Kind.FAULT_OBSERVED, value=observed)
    client = case.planned[0].clients[0]
    lose(story, client, 20.0, "server:1011:retry")
    story.tell(20.2, Kind.CONNECT_ATTEMPTED, client, attempt=1).tell(20.21, Kind.CONNECT_DONE, client, value=10.0)
    return judged(lose(story, client, 20.21 + after_s, "server:1011:retry"), case)[0]


def test_new_connections_are_closed_as_long_after_they_were_accepted_as_ordered_and_not_more_often_than_the_fault_did():
    assert closed_again(0.3) is State.PASS
    assert closed_again(0.05) is State.FAIL
    assert closed_again(0.3, observed=1.0) is State.FAIL


def test_malformed_frame_explains_the_end_that_it_made():
    fault = MalformFrames(at_s=0.0, clients_share=1.0, events_share=1.0, for_s=1.0)
    story, case = broken_by(fault)
    story.tell(20.5, Kind.MALFORMED, 3, detail="malformed_packet")
    assert judged(lose(story, 3, 20.5, "server:malformed_packet:retry"), case)[0] is State.PASS
    for t, end in ((20.7, "server:malformed_packet:retry"), (20.5, "server:1000:retry"), (20.5, "network:network:retry")):
        story, case = broken_by(fault)
        story.tell(20.5, Kind.MALFORMED, 3, detail="malformed_packet")
        assert judged(lose(story, 3, t, end), case)[0] is State.FAIL, (t, end)


def test_faults_that_end_no_connection_explain_no_end():
    cut = (20.5, "network:network:retry", "network")
    for fault in (RefuseConnects(**HALF_OF, for_s=1.0), SlowClose(**HALF_OF, for_s=1.0, delay_ms=500.0)):
        assert ends(fault, cut) is State.FAIL, fault


def test_slow_close_delays_the_ends_of_other_faults():
    for faults, state in ((), State.FAIL), ((SlowClose(at_s=0.0, for_s=1.0, delay_ms=2000.0),), State.PASS):
        story, case = broken_by(CLOSED, *faults)
        assert judged(lose(story, case.planned[0].clients[0], 23.5, "server:1012:retry"), case)[0] is state


def test_network_that_resets_or_a_process_that_is_killed_says_no_code():
    for fault in (
        ResetLinks(**HALF_OF),
        CutAfterBytes(**HALF_OF, for_s=1.0, after_bytes=100),
        KillRuntime(at_s=0.0, down_s=1.0),
    ):
        assert ends(fault, (20.5, "network:network:retry", "network")) is State.PASS, fault
        assert ends(fault, (20.5, "server:1000:retry", "network")) is State.FAIL, fault


def test_wrong_clocks_end_tokens_and_nothing_else():
    fault = SkewClocks(**HALF_OF, by_s=60.0, for_s=1.0)
    assert ends(fault, (20.5, "server:token_expired:mint", "unauthorized")) is State.PASS
    assert ends(fault, (20.5, "server:1000:retry", "network")) is State.FAIL


def test_a_client_that_misses_events_may_start_again_but_a_silent_server_is_not_excused():
    fault = SkipDeliveries(at_s=0.0, for_s=1.0, clients_share=1.0, events_share=0.5)
    assert ends(fault, (20.5, "client:unknown:retry", "unknown")) is State.PASS
    assert ends(fault, (20.5, "client:network:retry", "network")) is State.FAIL
    assert ends(fault, (20.5, "server:no_code:retry", "unknown")) is State.FAIL, "a refused join without a reason"


def test_fault_of_delivery_explains_doubts_of_the_clients_that_it_affects():
    story, case = broken_by(SkipDeliveries(at_s=0.0, for_s=1.0, clients_share=0.5, events_share=0.5))
    for client in range(CLIENTS):
        lose(story, client, 20.5, "client:unknown:retry", "unknown")
    explained = {owner is Owner.FAULT for _, owner, _ in owners(story, case)}
    assert explained == {True, False}


def test_trimmed_stream_explains_doubts_of_its_readers():
    story, case = broken_by(ShrinkWindow(at_s=0.0, keep_events=1, streams=1))
    other = "runtime.run.2.events"
    story.header.update(own_streams=[STREAM, other], subscriptions={"0": [STREAM], "1": [other]})
    for client in (0, 1):
        lose(story, client, 20.5, "client:unknown:retry", "unknown")
    assert owners(story, case) == [(0, Owner.FAULT, 0), (1, Owner.UNKNOWN, -1)]


def test_log_that_was_created_again_may_show_late_but_only_as_that():
    assert ends(RecreateLog(at_s=0.0), (20.5, "server:1000:retry", "network")) is State.PASS
    assert ends(RecreateLog(at_s=0.0), (40.0, "client:stale_cursor:retry", "stale_cursor")) is State.PASS
    assert ends(RecreateLog(at_s=0.0), (40.0, "server:1000:retry", "network")) is State.FAIL


# --- what a server could hide in a busy machine ---------------------------------------------------------


def judged_busy(end: str, why: str = "network", minted_t: float = 0.0) -> State:
    """What is said of an end while the load generator had no rest for ten seconds, without the time in which it was busy."""
    story, case = broken_by(SlowClose(at_s=0.0, share=0.1, for_s=1.0, delay_ms=1.0))
    story.header["capabilities"] = msgspec.to_builtins(CAPABILITIES)
    story = story.without(lambda row: row.kind is Kind.TOKEN_MINTED).busy(22.0, 33.0)
    story.tell(minted_t, Kind.TOKEN_MINTED, 3, value=4.0)
    lose(story, 3, 32.0, end, why)
    story.rows.sort(key=lambda row: row.t)
    return gates.answer(
        OF_RUNS["drill.undisturbed"], Case(case.drill, story.history()).excused, None, "observations.parquet"
    ).state


def test_busy_machine_may_silence_a_client_but_chooses_no_code_for_the_server():
    for end in ("server:client_timeout:retry", "server:slow_consumer:wait", "network:network:retry", "client:network:retry"):
        assert judged_busy(end) is State.PASS, end
    for end in ("server:1000:retry", "server:1012:retry", "server:1011:retry", "server:forbidden:terminal"):
        assert judged_busy(end) is State.FAIL, end


def test_busy_machine_may_be_late_to_renew_a_token_that_was_due():
    end = "server:reauth_required:mint"
    assert judged_busy(end, "unauthorized", minted_t=-3600.0) is State.PASS
    assert judged_busy(end, "unauthorized", minted_t=30.0) is State.FAIL
