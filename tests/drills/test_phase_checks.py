"""Checks of the run itself: when it proves nothing, and what its kind of drill requires."""

from collections.abc import Sequence

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from sim.drill.model import Drill, Load
from sim.protocols import registry
from sim.protocols.adapter import FreshStart
from sim.record.observations import Kind
from tests.drills.asking import CASE, ERROR, FAIL, INCONCLUSIVE, NAN, NO_DATA, PASS, ask, cases, judged, many, names, state
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill

FAULT = (Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED)


def test_course() -> None:
    assert state("drill.phases", good_storm(2)) is PASS
    assert state("drill.phases", good_storm(2).without(lambda row: row.detail == "recovery")) is ERROR
    swapped = good_storm(2).changed(lambda row: row.detail == "recovery", t=59.0)
    swapped.rows.sort(key=lambda row: row.t)
    assert state("drill.phases", swapped) is ERROR


def test_clients_that_a_fault_must_kill_were_killed() -> None:
    def story(killed: int) -> Story:
        story = good_storm(10).changed(lambda row: row.detail == "drop_sockets", detail="restart_clients")
        story.header["plan"] = [{"kind": "restart_clients", "checkpoint": "lost", "clients": 10}]
        for client in range(killed):
            story.tell(20.1, Kind.RESTARTED, client, STREAM, -1, detail="lost")
        return story

    assert state("drill.faults_observed", story(9)) is PASS
    assert state("drill.faults_observed", story(8)) is ERROR
    assert "killed 8 of 10 clients" in ask("drill.faults_observed", story(8)).reason


def test_every_fault_of_the_drill_and_no_other_was_injected_and_once_is_enough() -> None:
    once = good_storm(1)
    assert ask("drill.faults_observed", once).state is PASS
    assert [row.value for row in once.rows if row.kind is Kind.FAULT_OBSERVED] == [1.0]
    for kind, said in (
        (Kind.FAULT_INJECTED, "was not injected"),
        (Kind.FAULT_OBSERVED, "had no observed effect"),
        (Kind.FAULT_REVERTED, "was not reverted"),
    ):
        found = ask("drill.faults_observed", once.without(lambda row, kind=kind: row.kind is kind))
        assert (found.state, found.reason) == (ERROR, f"drop_sockets #0: {said}")
    for faults, said in ((2, "the schedule has 1 of 2 faults"), (0, "the schedule has 1 faults, but the drill has 0")):
        drill = msgspec.structs.replace(storm_drill(1), faults=storm_drill(1).faults * faults)
        assert said in ask("drill.faults_observed", once, drill).reason


def test_converged() -> None:
    story = good_storm(3)
    assert state("drill.converged", story) is PASS
    assert state("drill.converged", story.without(lambda row: row.kind == Kind.SETTLED and row.client == 1)) is FAIL
    result = ask("drill.converged", story.tell(59.0, Kind.STILL_PENDING, 2, STREAM, 3, value=9.0, detail="in backoff"))
    assert (result.state, result.value) == (FAIL, 1)
    assert "in backoff (1)" in result.reason


@pytest.mark.parametrize(
    ("detail", "lacked", "expected"),
    [
        ("replaying", (), INCONCLUSIVE),
        ("replaying", (330,), FAIL),
        ("replaying", (100,), FAIL),
        ("replaying", range(1, 331), FAIL),
        ("behind", (), FAIL),
    ],
)
@pytest.mark.parametrize(("client", "check"), [(2, "drill.converged"), (AUDITOR, "drill.audited")])
@pytest.mark.parametrize("acknowledges_positions", [True, False])
def test_replay_whose_end_nobody_states_is_no_breach_if_all_events_came(
    acknowledges_positions: bool, client: int, check: str, detail: str, lacked: Sequence[int], expected: State
) -> None:
    """The stream is shared: its position is far above the number of our events."""
    story = good_storm(3).marked()
    story = story.without(lambda row: row.kind is Kind.APPLIED and row.client == client and row.seq in lacked)
    if not acknowledges_positions:
        story = story.changed(lambda row: row.kind is Kind.PUBLISHED, seq=-1)
    found = ask(check, story.tell(59.0, Kind.STILL_PENDING, client, STREAM, 1330, value=330.0, detail=detail))
    assert found.state is expected
    assert ("caught_up" in found.reason) == (expected is INCONCLUSIVE)


def test_generator_lag() -> None:
    def story(good: int, late: int, value: float = 251.0) -> Story:
        return many(late, Kind.GENERATOR_LAG, many(good, Kind.GENERATOR_LAG, value=250.0), value=value)

    assert state("drill.generator_lag_ms", story(95, 5)) is PASS
    assert state("drill.generator_lag_ms", story(94, 6)) is ERROR
    assert state("drill.generator_lag_ms", story(94, 6, NAN)) is ERROR
    assert state("drill.generator_lag_ms", story(19, 0)) is ERROR
    assert state("drill.generator_lag_ms", story(20, 0)) is PASS
    assert state("drill.generator_lag_ms", story(18, 2)) is ERROR


@pytest.mark.parametrize(("since", "until"), [(0.0, 2.0), (30.0, 31.5), (58.0, 61.0)])
def test_a_time_without_samples_of_lateness_is_an_error(since: float, until: float) -> None:
    """At the start, in the middle and at the end; the half second between two samples is none."""
    story = good_storm(2).without(lambda row: row.kind is Kind.GENERATOR_LAG and since <= row.t < until)
    found = ask("drill.generator_lag_ms", story)
    assert (found.state, "was not measured" in found.reason) == (ERROR, True)


def test_a_time_without_samples_that_was_one_long_delay_is_known() -> None:
    """Who is stopped for three seconds takes no samples, and says so with the next."""
    story = good_storm(2).without(lambda row: row.kind is Kind.GENERATOR_LAG and 30.0 <= row.t < 33.0)
    late = story.changed(lambda row: row.kind is Kind.GENERATOR_LAG and row.t == 33.0, value=3000.0)
    assert state("drill.generator_lag_ms", late) is PASS
    punctual = good_storm(2).changed(lambda row: row.kind is Kind.GENERATOR_LAG, value=0.0)
    assert state("drill.generator_lag_ms", punctual.without(lambda row: row.t == 30.0)) is PASS, "just a second"


def test_load() -> None:
    """Five events per second for 26 s, of which nine tenths are enough; failed publishes were tried, too."""

    def story(published: int, failed: int = 0) -> Story:
        story = good_storm(2).without(lambda row: row.kind is Kind.PUBLISHED and row.seq > published)
        return many(failed, Kind.PUBLISH_FAILED, story, client=-1)

    assert state("drill.load", story(117)) is PASS
    assert state("drill.load", story(116)) is ERROR
    assert state("drill.load", story(110, failed=7)) is PASS
    assert state("drill.load", story(110, failed=6)) is ERROR
    assert state("drill.load", good_storm(2).without(lambda row: row.detail == "settle")) is ERROR
    counted = msgspec.structs.replace(storm_drill(2), load=Load(events=330, events_per_s=5.0))
    assert state("drill.load", story(330), counted) is PASS
    assert state("drill.load", story(329), counted) is ERROR
    assert state("drill.load", story(329, failed=1), counted) is PASS


def test_what_the_run_did_not_do_is_said() -> None:
    for name, story, said in (
        ("drill.phases", good_storm(2).without(lambda row: row.detail == "recovery"), "steady, fault, settle, end, not steady"),
        ("drill.phases", good_storm(2).without(lambda row: row.kind is Kind.PHASE), "the phases were none"),
        ("drill.steady_state", good_storm(2).without(lambda row: row.kind is Kind.STEADY), "was not checked before the fault"),
        (
            "drill.steady_state",
            good_storm(2).tell(19.9, Kind.STEADY, value=0.0, detail="slow"),
            "did not hold before the fault: slow",
        ),
        ("drill.steady_state", good_storm(2).tell(19.9, Kind.STEADY, value=0.0), "no reason was given"),
        ("drill.converged", Story(0), "there were no clients"),
        ("drill.undisturbed", Story(1), "no client was ever live"),
        ("drill.declared_loss", Story(1), "no deliveries to lose"),
    ):
        found = ask(name, story)
        assert found.state is (NO_DATA if story.clients < 2 else ERROR)
        assert said in found.reason


def test_lost_connections_are_counted_by_who_ended_them() -> None:
    def lost(t: float, client: int, said: str = "") -> Story:
        story.tell(t, Kind.DISCONNECTED, client, detail="network")
        return story.tell(t, Kind.ENDED, client, detail=said) if said else story

    story = good_storm(4)
    assert (state("drill.undisturbed", story), ask("drill.undisturbed", story).n) == (PASS, 8)
    lost(41.0, 1, "server:1012:retry")
    lost(40.0, 2)
    found = ask("drill.undisturbed", story)
    assert (found.state, found.value) == (FAIL, 2)
    assert "1 closed by the server, 1 without a word; the first by client 2 at 40.000 s" in found.reason


def test_generator_lag_of_several_processes() -> None:
    """A few late samples among many are a whole process that did not keep up."""

    def story(late: float, *names: str) -> Story:
        story = many(100, Kind.GENERATOR_LAG, value=1.0, detail="worker 1")
        story.header["workers"] = [{"name": name} for name in names]
        return many(24, Kind.GENERATOR_LAG, story, value=late, detail="worker 2")

    assert state("drill.generator_lag_ms", story(250.0, "worker 1", "worker 2")) is PASS
    assert state("drill.generator_lag_ms", story(251.0, "worker 1", "worker 2")) is ERROR
    assert "worker 2" in ask("drill.generator_lag_ms", story(251.0)).reason
    assert state("drill.generator_lag_ms", story(1.0, "worker 1", "worker 2", "worker 3")) is ERROR


def test_first_reasons_of_clients_that_did_not_converge_are_counted() -> None:
    story = Story(9)
    for client, reason in enumerate(("d", "a", "b", "c", "a", "b", "c", "a", "b")):
        story.tell(59.0, Kind.STILL_PENDING, client, STREAM, 3, detail=reason)
    result = ask("drill.converged", story)
    assert (result.state, result.value, result.n) == (FAIL, 9, 9)
    assert result.reason.count("(") == 3


def test_fresh_client_that_read_too_little_has_read_nothing() -> None:
    result = ask("drill.audited", good_storm(3).tell(59.5, Kind.STILL_PENDING, AUDITOR, STREAM))
    assert (result.state, result.value, result.n) == (FAIL, 0, len(good_storm(3).ledger().published))


def test_audited() -> None:
    story = good_storm(2)
    assert state("drill.audited", story) is PASS
    assert state("drill.audited", story.without(lambda row: row.client == AUDITOR)) is NO_DATA
    assert state("drill.audited", story.without(lambda row: row.client == AUDITOR and row.kind == Kind.SETTLED)) is NO_DATA
    assert state("drill.audited", story.tell(59.5, Kind.STILL_PENDING, AUDITOR, STREAM)) is FAIL


def test_where_a_fresh_client_gets_new_events_only_the_streams_read_over_http_stand_in_for_it() -> None:
    story = good_storm(2)
    spoken = msgspec.structs.replace(registry.get(registry.DEFAULT).capabilities, fresh_start=FreshStart.FROM_NOW_ON)
    story.header["capabilities"] = msgspec.to_builtins(spoken)
    assert ask("drill.audited", story).reason.endswith(
        "a new client gets only new events, and the target file has no [read_back]"
    )
    assert state("drill.audited", story) is NO_DATA
    story.tell(59.6, Kind.READ_BACK_COMPLETED, stream=STREAM, value=330.0, detail="ok")
    assert state("drill.audited", story) is PASS
    assert state("drill.audited", story.publish(1, stream="another")) is NO_DATA, "which was not read"


def test_declared_loss() -> None:
    story = good_storm(2).tell(30.0, Kind.DECLARED_LOSS, 0, STREAM, 4, value=2.0)
    assert state("drill.declared_loss", good_storm(2)) is PASS
    assert ask("drill.declared_loss", story).value == 2
    assert state("drill.declared_loss", story) is FAIL
    allowed = storm_drill(2, declared_loss=True)
    assert state("drill.declared_loss", story, allowed) is FAIL, "the stream has snapshots"
    elsewhere = good_storm(2).tell(30.0, Kind.DECLARED_LOSS, 0, "runtime.codex.worker.events", 4, value=2.0)
    assert state("drill.declared_loss", elsewhere, allowed) is PASS


def test_stale_signalled() -> None:
    drill = storm_drill(2, stale_reasons=("retention_floor_breach", "replay_budget_exceeded"))
    story = good_storm(2).tell(30.0, Kind.STALE, 0, STREAM, 1, detail="retention_floor_breach")
    assert state("drill.stale_signalled", story, drill) is FAIL
    both = "retention_floor_breach+replay_budget_exceeded"
    assert state("drill.stale_signalled", good_storm(2).tell(30.0, Kind.STALE, 0, STREAM, 1, detail=both), drill) is PASS
    assert "drill.stale_signalled" not in names(judged(story))


def test_those_who_tried_a_mutation_are_served_as_before() -> None:
    def story(*settled: int) -> Story:
        story = good_storm(2)
        story.header["negative_clients"] = {"2": "any_mutation", "3": "hidden_mutation", "4": "expired_token"}
        story.tell(30.0, Kind.PROBED, 2, detail="any_mutation:refused:mutation_refused")
        for client in settled:
            story.tell(58.0, Kind.SETTLED, client)
        return story

    assert state("drill.misusers_served", story(2, 3)) is PASS
    assert state("drill.misusers_served", story(2, 4)) is FAIL
    assert state("drill.misusers_served", story(2, 3).without(lambda row: row.kind == Kind.PROBED)) is NO_DATA


def tried(*answers: str) -> Story:
    """A storm in which negative clients got these answers."""
    story = good_storm(2)
    for client, answer in enumerate(answers, 2):
        story.tell(30.0, Kind.PROBED, client, detail=answer)
    return story


EXPIRED, MUTATION = "expired_token:refused:token_expired", "mutation_over_socket"
CASES = [
    *cases(
        "drill.negative_clients",
        storm_drill(2, negative_clients=("expired_token", MUTATION)),
        NO_DATA=[tried()],
        INCONCLUSIVE=[tried(EXPIRED), tried(EXPIRED, f"{MUTATION}:refused:silence")],
        PASS=[tried(EXPIRED, f"{MUTATION}:refused:silence", f"{MUTATION}:refused:bad_event")],
        FAIL=[tried(EXPIRED, f"{MUTATION}:refused:bad_event", f"{MUTATION}:accepted")],
    ),
    *cases(
        "drill.negative_clients",
        storm_drill(2, negative_clients=("garbled_token",)),
        PASS=[tried("garbled_token:refused:invalid_token")],
        FAIL=[tried("garbled_token:refused:unauthorized")],
        INCONCLUSIVE=[tried("garbled_token:refused:timeout")],
    ),
    *cases(
        "drill.faults_observed",
        PASS=[good_storm(2)],
        ERROR=[
            *(good_storm(2).without(lambda row, kind=kind: row.kind == kind) for kind in FAULT),
            *(good_storm(2).changed(lambda row: row.kind == Kind.FAULT_OBSERVED, value=value) for value in (0.0, NAN)),
            Story(2, good_storm(2).rows, {**good_storm(2).header, "plan": []}),
        ],
    ),
    *cases(
        "drill.steady_state",
        PASS=[good_storm(2)],
        ERROR=[
            *(good_storm(2).changed(lambda row: row.kind == Kind.STEADY, value=value) for value in (0.0, NAN, 0.5)),
            good_storm(2).marked().changed(lambda row: row.kind == Kind.APPLIED, marker=-1),
        ],
    ),
]


@pytest.mark.parametrize(CASE, CASES)
def test_check_has_the_state_of_its_history(name: str, story: Story, drill: Drill, expected: State) -> None:
    assert state(name, story, drill) is expected


def test_counters_of_the_service_decide_no_check() -> None:
    """They may freeze, or contradict what clients saw. One that goes back says only that the service may have restarted."""

    def story(*values: float) -> Story:
        told = good_storm(3)
        for number, value in enumerate(values, 1):
            told.tell(9.0 + number, Kind.SERVER_METRIC, attempt=number, value=value, detail="dropped_messages_total")
        told.rows.sort(key=lambda row: row.t)
        return told

    def states(told: Story) -> dict[str, State]:
        return {check.name: check.state for check in judged(told).checks}

    without = states(story())
    assert states(story(0, 0, 0, 0)) == states(story(0, 1e6, 1e6)) == without
    assert states(story(5, 9, 1)) == without | {"drill.undisturbed": INCONCLUSIVE}
