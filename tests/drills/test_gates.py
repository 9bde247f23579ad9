"""The gates as a whole: no check passes on nothing, and a drill's verdict is no better than its evidence."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills.judging import gates
from drills.judging.checks.verdicts import CheckResult
from sim.protocols import registry
from sim.protocols.adapter import Capabilities, FreshStart, Positions, Refusals, StaleSign
from sim.record.history import History
from sim.record.observations import Kind
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, NO_DATA, PASS, ask, judged, names, state
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
