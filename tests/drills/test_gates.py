"""The gates as a whole: no check passes on nothing, and a drill's verdict is no better than its evidence."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills.judging import gates
from drills.judging.checks.verdicts import CheckResult
from sim.base.errors import UsageError
from sim.protocols import registry
from sim.protocols.adapter import Capabilities, FreshStart, Positions, Refusals, StaleSign
from sim.record.history import History
from sim.record.observations import Kind
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, NO_DATA, NOT_RUN, PASS, THRESHOLDS, ask, judged, names, state
from tests.histories import STREAM, Story, good_storm, storm_drill


@pytest.mark.parametrize("name", gates.DECISIONS)
def test_no_check_passes_without_evidence(name: str) -> None:
    drill = storm_drill(1, negative_clients=("expired_token",), stale_reasons=("retention_floor_breach",))
    assert state(name, Story(1), drill) is not PASS


def broken(*_: object) -> None:
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize("name", gates.DECISIONS)
def test_check_that_raises_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history = good_storm(2).history()
    monkeypatch.setattr(Story, "history", lambda story: history)
    monkeypatch.setattr(History, "of", broken)
    result = ask(name, good_storm(2))
    assert result.state is ERROR
    assert "by zero" in result.reason


CAPABILITIES = registry.get(registry.DEFAULT).capabilities


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("error.stale_cursors", {"stale": StaleSign.SILENT}),
        ("replay.divergence", {"positions": Positions.ORDERED}),
        ("delivery.live_gaps", {"positions": Positions.ORDERED}),
        ("delivery.one_order", {"positions": Positions.OPAQUE}),
        ("error.tokens_too_old", {"refusals": Refusals.BARE_STATUS}),
        ("delivery.slow_consumer_evictions", {"evicts": False}),
        ("delivery.slow_consumers_kept", {"evicts": False}),
        ("reconnect.early_returns", {"evicts": False}),
        ("reconnect.early_returns", {"refusals": Refusals.CODES}),
        ("replay.stale_loops", {"stale": StaleSign.SILENT}),
        ("drill.unexpected_stale", {"stale": StaleSign.SILENT}),
        ("drill.stale_signalled", {"stale": StaleSign.SILENT}),
        ("drill.stale_justified", {"stale": StaleSign.SILENT}),
        ("drill.audited", {"fresh_start": FreshStart.FROM_NOW_ON}),
    ],
)
def test_what_a_protocol_cannot_tell_has_no_data_and_is_not_required(name: str, lacking: dict[str, object]) -> None:
    def asked(capabilities: Capabilities) -> CheckResult:
        story = good_storm(2)
        story.header["capabilities"] = msgspec.to_builtins(capabilities)
        return ask(name, story)

    found = asked(msgspec.structs.replace(CAPABILITIES, **lacking))
    assert (found.state, found.is_required, "cannot tell: " in found.reason) == (NO_DATA, False, True)
    assert "cannot tell: " not in asked(CAPABILITIES).reason


# --- a drill as a whole -----------------------------------------------------------------------------


def test_a_good_storm_passes() -> None:
    verdict = judged(good_storm())
    assert {name: found for name, found in names(verdict).items() if found is not PASS} == {}
    assert verdict.status is PASS
    assert judged(GOOD, LAX).status is PASS


def test_a_violation_fails_a_drill_whose_checks_all_pass() -> None:
    verdict = judged(good_storm().tell(30.0, Kind.UNGRANTED, 0, STREAM, 3))
    assert verdict.status is FAIL
    assert [violation.invariant for violation in verdict.violations] == ["cross_topic_leak"]
    assert names(verdict)["drill.invariants"] is FAIL


@pytest.mark.parametrize("function", ["invariants.registry.violations", "metrics.run_metrics"])
def test_measurement_that_raises_is_an_error(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"sim.analysis.{function}", broken)
    verdict = judged(good_storm())
    assert verdict.status is ERROR
    assert function != "invariants.registry.violations" or names(verdict)["drill.invariants"] is ERROR


TIMED, UNTIMED = "replay.bootstrap_ms", "ux.integrity"


def by_name(story: Story) -> dict[str, CheckResult]:
    return {check.name: check for check in judged(story, storm_drill(story.clients, (TIMED, UNTIMED))).checks}


def test_times_of_a_late_generator_are_errors_and_contents_are_not() -> None:
    late = by_name(good_storm(60).changed(lambda row: row.kind is Kind.GENERATOR_LAG, value=900.0))
    assert (late[gates.GENERATOR].state, late[UNTIMED].state, late[TIMED].state) == (ERROR, PASS, ERROR)
    assert late[TIMED].reason.startswith("the load generator was late itself")
    assert by_name(good_storm(60))[TIMED].state is PASS


def test_times_of_a_storm_that_a_cap_spread_out_are_inconclusive() -> None:
    """From more than a tenth of the connects on; what is no time is decided as always."""

    def story(paced: int, value: float = 50.0) -> Story:
        story = good_storm(60).changed(lambda row: row.kind is Kind.REPLAY_COMPLETED, value=value)
        for client in range(paced):
            story.tell(20.3, Kind.PACED, client, value=100.0)
        return story

    for value, usual in ((50.0, PASS), (9000.0, FAIL)):
        few, many = by_name(story(6, value)), by_name(story(7, value))
        assert (few[TIMED].state, many[TIMED].state, many[UNTIMED].state) == (usual, INCONCLUSIVE, PASS)
        assert "the target's cap paced 7 of 60 connects" in many[TIMED].reason
    assert [remark for remark in judged(story(1)).remarks if "this storm was paced" in remark]


def test_what_was_withheld_is_a_doubt_only_where_no_client_can_notice_it() -> None:
    def doubts(positions: Positions) -> list[str]:
        story = good_storm(2).tell(30.0, Kind.WITHHELD, 0, STREAM, 4)
        story.header["capabilities"] = msgspec.to_builtins(msgspec.structs.replace(CAPABILITIES, positions=positions))
        return [check.reason for check in judged(story).checks if check.name == "drill.loss_unnoticeable"]

    assert doubts(Positions.DENSE) == []
    for positions in (Positions.ORDERED, Positions.OPAQUE):
        (why,) = doubts(positions)
        assert why.startswith("1 events were withheld from clients")


def test_a_failure_outweighs_an_error() -> None:
    story = good_storm().without(lambda row: row.kind in (Kind.STEADY, Kind.SETTLED))
    assert judged(story).status is FAIL


GOOD = good_storm(30)
LAX_CHECKS = (
    *("error.stale_cursors", "replay.divergence", "replay.stale_loops", "delivery.dropped_deliveries", "ux.integrity"),
    *("reconnect.backoff_bounded", "reconnect.live_again_99_s"),
)
LAX = storm_drill(30, LAX_CHECKS)
KNOWN_BAD = {
    "a silent loss": GOOD.without(lambda row: row.client == 3 and row.seq == 100 and row.kind == Kind.APPLIED),
    "an event applied twice": Story(30, [*GOOD.rows, next(row for row in GOOD.rows if row.kind == Kind.APPLIED)], GOOD.header),
    "a client that never settled": GOOD.without(lambda row: row.client == 3 and row.kind == Kind.SETTLED),
    "a fault without an observed effect": GOOD.without(lambda row: row.kind == Kind.FAULT_OBSERVED),
    "no steady state": GOOD.changed(lambda row: row.kind == Kind.STEADY, value=0.0),
    "a client that never came back": GOOD.without(lambda row: row.client == 3 and row.t > 20.1),
    "a saturated generator": GOOD.changed(lambda row: row.kind == Kind.GENERATOR_LAG, value=900.0),
}
EVIDENCE = st.sets(st.sampled_from([*Kind]), max_size=6)  # the empty set too


@pytest.mark.parametrize("known_bad", KNOWN_BAD)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(removed=EVIDENCE)
def test_removed_evidence_never_makes_a_bad_drill_pass(known_bad: str, removed: set[Kind]) -> None:
    story = KNOWN_BAD[known_bad].without(lambda row: row.kind in removed)
    assert judged(story, LAX).status is not PASS


# --- the verdict around the checks --------------------------------------------------------------------


def test_drill_with_an_unknown_check_or_without_a_threshold_is_refused() -> None:
    history = good_storm(1).history()
    unknown = storm_drill(1, checks=("ux.integrity", "drill.phases"))  # exists, but no drill lists it
    with pytest.raises(UsageError, match=r"^drill storm: unknown check 'drill.phases' in 'checks'; there are: error.websocket"):
        gates.judge(unknown, history, THRESHOLDS, "x")
    thresholds = {name: each for name, each in THRESHOLDS.items() if name != "ux.integrity"}
    with pytest.raises(UsageError, match=r"^drill storm: check 'ux.integrity' has no threshold; add a table \[ux.integrity\]"):
        gates.judge(storm_drill(1, checks=("ux.integrity",)), history, thresholds, "x")
    gates.require_checks(storm_drill(1, checks=("ux.integrity",)), THRESHOLDS)
    assert [spec.name for spec in gates.asked_of(storm_drill(1, checks=("ux.integrity",) * 2))].count("ux.integrity") == 1


def test_verdict_says_how_the_drill_was_run() -> None:
    story = good_storm(2).tell(20.3, Kind.PACED, 0, value=100.0).tell(50.0, Kind.ENDED, 0, detail="server:1012:retry")
    story.tell(5.0, Kind.METRICS_POLLED, detail="ok").tell(5.0, Kind.SERVER_METRIC, value=3.0, detail="connections.open")
    story.tell(6.0, Kind.METRICS_POLLED, detail="timeout").busy(30.0, 31.0)
    story.header |= {"remarks": ["First."], "unasked": {"garbled_token": "no tokens"}, "hooks": [{}], "defects": ["d"]}
    story.header |= {"capabilities": msgspec.to_builtins(msgspec.structs.replace(CAPABILITIES, evicts=False))}
    verdict = judged(story, storm_drill(2, ("delivery.slow_consumer_evictions", "ux.integrity")))
    assert verdict.remarks == (
        "First.",
        "The machine was too busy from 30.0 s to 31.0 s (the load generator had no rest): latencies may be too long then, and "
        "none too short.",
        "1 of 2 connects waited for the target's cap: this storm was paced, so it shows less.",
        "The negative client garbled_token was left out: no tokens.",
        "1 hook commands were run; their output is in hooks/ of the drill's folder.",
        "The runtime's metrics endpoint did not answer 1 of 2 polls: timeout (1). Its metrics are missing then, not zero; "
        "every check above reads what clients observed.",
        "The decision does not require delivery.slow_consumer_evictions: protocol 'spacetime' cannot tell: its server does not "
        "disconnect slow consumers.",
    )
    assert (verdict.name, verdict.clients, verdict.duration_s, verdict.defects) == ("storm", 2, 60.0, ("d",))
    assert verdict.server is not None
    assert (verdict.server.polls, verdict.server.failed, len(verdict.server.figures)) == (2, {"timeout": 1}, 1)
    assert [(end.code, end.count) for end in verdict.endings] == [("1012", 1)]
    assert {check.evidence for check in verdict.checks} == {"observations.parquet"}


def test_verdict_of_a_plain_drill_has_no_remarks() -> None:
    verdict = judged(good_storm(2), storm_drill(2, ("ux.integrity",)))
    assert (verdict.remarks, verdict.server, verdict.endings, verdict.violations) == ((), None, (), ())
    one_poll = judged(good_storm(2).tell(5.0, Kind.METRICS_POLLED, detail="ok"), storm_drill(2, ("ux.integrity",)))
    assert (one_poll.remarks, one_poll.server is not None) == ((), True)


def test_checks_of_whole_files_say_their_rows_or_what_is_wrong() -> None:
    fine, torn, stopped = (
        *(gates.read_evidence("f", 7), gates.read_evidence("f", 7, "torn")),
        gates.stopped("f", "sync_errors > 3"),
    )
    assert (fine.state, fine.value, fine.n, fine.reason) == (PASS, 7, 7, "7 observations, as they were recorded")
    assert (torn.state, torn.value, torn.n, torn.reason) == (ERROR, 7, 7, "torn")
    assert (stopped.state, stopped.value, stopped.n) == (FAIL, 1, 1)
    unreadable, not_run = gates.unreadable("storm", "torn", "f"), gates.not_run("storm", "no hook")
    assert (unreadable.clients, unreadable.status, unreadable.checks[0].n) == (0, ERROR, 0)
    assert (not_run.clients, not_run.duration_s, not_run.not_run) == (0, 0.0, "no hook")
    (check,) = not_run.checks
    assert (check.state, check.n, check.is_required, check.reason) == (NOT_RUN, 0, False, "no hook")


def test_invariants_have_a_check_with_their_number_and_names() -> None:
    (good,) = (check for check in judged(good_storm(2)).checks if check.name == "drill.invariants")
    assert (good.value, good.n, good.reason) == (0, len(good_storm(2).rows), "no invariant was violated")
    story = good_storm(2).tell(30.0, Kind.UNGRANTED, 0, STREAM, 3).tell(31.0, Kind.HASH_MISMATCH, 0, STREAM, 3)
    (bad,) = (check for check in judged(story).checks if check.name == "drill.invariants")
    assert (bad.state, bad.value, bad.reason) == (FAIL, 2, "violated: cross_topic_leak, jumbled_message")


def test_withheld_events_are_counted() -> None:
    story = good_storm(2).tell(30.0, Kind.WITHHELD, 0, STREAM, 4).tell(30.0, Kind.WITHHELD, 1, STREAM, 4)
    story.header["capabilities"] = msgspec.to_builtins(msgspec.structs.replace(CAPABILITIES, positions=Positions.OPAQUE))
    (found,) = (check for check in judged(story).checks if check.name == "drill.loss_unnoticeable")
    assert (found.state, found.value, found.n) == (INCONCLUSIVE, 2, 2)


def test_without_a_socket_checks_of_clients_are_not_required() -> None:
    story = Story(0, header={"has_socket": False})
    clients, published = ask("ux.integrity", story), ask("drill.load", story)
    assert (clients.state, clients.is_required) == (NO_DATA, False)
    assert clients.reason == "the target has no socket, so there were no clients"
    assert (published.state, published.is_required) == (ERROR, True)
    assert ask("ux.integrity", Story(0)).is_required
