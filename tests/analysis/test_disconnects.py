"""What a fault explains lies in its window and its scope. Every other lost connection is the server's or unknown."""

from typing import Any

import pytest
from msgspec.structs import replace

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from sim.analysis.disconnects import Owner
from sim.drill.fault_bases import Fault
from sim.drill.fault_kinds import CloseConnections, DropSockets, KillRuntime, ResetLinks, SlowLinks
from sim.record.observations import Kind
from tests.drills.asking import ask
from tests.histories import Story, good_storm, storm_drill

CLIENTS = 20


def broken_by(*faults: Fault) -> tuple[Story, Case]:
    """A healthy run in which these faults lasted from 20 s to 21 s, and no client lost a connection."""
    story = good_storm(CLIENTS).without(lambda row: row.kind.value.startswith("fault_") or row.kind is Kind.DISCONNECTED)
    drill = replace(storm_drill(CLIENTS), faults=faults)
    case = Case(drill, story.history())
    story.header["plan"] = [fault.describe() for fault in case.planned.values()]
    for index, fault in case.planned.items():
        story.tell(20.0, Kind.FAULT_INJECTED, attempt=index, detail=fault.kind)
        story.tell(21.0, Kind.FAULT_REVERTED, attempt=index, detail=fault.kind)
    return story, case


def lose(story: Story, client: int, t: float, end: str = "") -> Story:
    """The client loses its connection; `end` is what the record says of it."""
    story.tell(t, Kind.DISCONNECTED, client, detail="network")
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
