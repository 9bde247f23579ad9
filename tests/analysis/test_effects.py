"""A fault took effect only if the clients that it names show it: on enough of them, and in its window."""

from msgspec.structs import replace

from drills.judging.checks.base import Case
from sim.drill.fault_bases import Fault
from sim.drill.fault_kinds import DropSockets, ForgetTokens, RefuseConnects, ResetLinks, SlowLinks, StallLinks, StopReading
from sim.record.observations import Kind
from tests.drills.asking import ask
from tests.histories import STREAM, Story, good_storm, storm_drill

CLIENTS = 20


def broken_by(fault: Fault, observed: float = 10.0, lasts_s: float = 4.0) -> tuple[Story, Case, tuple[int, ...]]:
    """A run in which the fault lasted from 20 s, and said that it took effect, but no client noticed; and the named clients."""
    story = good_storm(CLIENTS).without(lambda row: row.kind.value.startswith("fault_") or row.kind is Kind.DISCONNECTED)
    case = Case(replace(storm_drill(CLIENTS), faults=(fault,)), story.history())
    story.header["plan"] = [each.describe() for each in case.planned.values()]
    story.tell(20.0, Kind.FAULT_INJECTED, detail=fault.kind)
    story.tell(20.0 + lasts_s, Kind.FAULT_OBSERVED, detail=fault.kind, value=observed)
    story.tell(20.0 + lasts_s, Kind.FAULT_REVERTED, detail=fault.kind)
    return story, case, case.planned[0].clients


def reason(story: Story, case: Case) -> str:
    """Why the fault did too little; empty if it did enough."""
    found = ask("drill.faults_observed", story, case.drill)
    assert found.state in ("pass", "error")
    return "" if found.state == "pass" else found.reason


def others(named: tuple[int, ...]) -> list[int]:
    return [client for client in range(CLIENTS) if client not in named]


def test_clients_that_a_fault_does_not_name_are_no_evidence_of_it():
    for end in ("fault:network:retry", ""):
        story, case, named = broken_by(DropSockets(at_s=0.0, share=0.5))
        for client in others(named):
            story.tell(20.1, Kind.DISCONNECTED, client, detail="network")
            story.tell(20.1, Kind.ENDED, client, detail=end) if end else None
        assert "disconnected 0 of 10 clients" in reason(story, case)


def test_few_clients_that_are_reset_three_times_are_few():
    story, case, named = broken_by(ResetLinks(at_s=0.0, share=0.5, times=3), observed=12.0)
    for client in named[:4]:
        for t in (20.0, 21.0, 22.0):
            story.tell(t, Kind.DISCONNECTED, client, detail="network")
    assert "disconnected 4 of 10 clients" in reason(story, case)
    for client in named[4:]:
        story.tell(20.0, Kind.DISCONNECTED, client, detail="network")
    assert reason(story, case) == ""


def test_disconnects_long_after_are_no_effect():
    story, case, named = broken_by(ResetLinks(at_s=0.0, share=0.5), lasts_s=0.0)
    for client in named:
        story.tell(24.0, Kind.DISCONNECTED, client, detail="network")
    assert "disconnected 0 of 10 clients" in reason(story, case)


def test_links_that_still_bring_data_were_not_stalled():
    story, case, named = broken_by(StallLinks(at_s=0.0, share=0.5, for_s=4.0))
    assert "silenced 0 of 10 clients" in reason(story, case)
    assert reason(story.without(lambda row: row.client in named and 20.0 < row.t < 24.0), case) == ""


def test_a_client_that_was_sent_away_reads_again_on_its_next_connection():
    for fault, silenced in (
        (StopReading(at_s=0.0, share=0.5, for_s=4.0), True),
        (StallLinks(at_s=0.0, share=0.5, for_s=4.0), False),
    ):
        story, case, named = broken_by(fault)
        story = story.without(lambda row, named=named: row.client in named and 20.0 < row.t < 22.5)
        for client in named:
            story.tell(22.0, Kind.DISCONNECTED, client, detail="network")
        assert ("silenced" not in reason(story, case)) == silenced


def test_a_client_that_read_before_it_was_sent_away_had_not_stopped():
    story, case, named = broken_by(StopReading(at_s=0.0, share=0.5, for_s=4.0))
    for client in named:
        story.tell(23.5, Kind.DISCONNECTED, client, detail="network")
    assert "silenced 0 of 10 clients" in reason(story, case)


def test_links_that_are_as_fast_as_before_were_not_slowed():
    story, case, named = broken_by(SlowLinks(at_s=0.0, share=0.5, for_s=4.0, latency_ms=300))
    story = story.marked()
    for seq in range(1, 331):
        story.tell(2.0 + seq * 0.07, Kind.PUBLISH_TRIED, -1, STREAM, seq, value=2.0, detail="acknowledged", marker=seq)
    assert "delayed what was sent to 0 of 10 clients" in reason(story, case)
    late = Story(CLIENTS, list(story.rows), story.header).without(
        lambda row: row.client in named and row.kind is Kind.APPLIED and 20.0 < row.t < 24.1
    )
    for client in named:
        late.tell(23.0, Kind.APPLIED, client, STREAM, 290, marker=290)
    assert reason(late, case) == ""


def test_connects_that_pass_were_not_refused():
    story, case, named = broken_by(RefuseConnects(at_s=0.0, share=0.5, for_s=4.0), observed=1.0)
    story = story.without(lambda row: row.kind is Kind.CONNECT_DONE and row.t > 19.0)
    assert reason(story, case) == ""
    story.tell(21.0, Kind.CONNECT_DONE, others(named)[0], value=20.0)
    assert reason(story, case) == ""
    assert "let 1 connects pass" in reason(story.tell(21.0, Kind.CONNECT_DONE, named[0], value=20.0), case)


def test_each_named_client_loses_its_token():
    story, case, named = broken_by(ForgetTokens(at_s=0.0, share=0.5))
    for client in named[:5]:
        story.tell(20.0, Kind.TOKEN_FORGOTTEN, client)
    assert "took the tokens of 5 of 10 clients" in reason(story, case)
