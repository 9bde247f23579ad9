"""What checks answer where the machine was busy, the protocol says less, or others publish: state, value, n and reason."""

from typing import Any

import msgspec
import numpy as np
import pytest

from drills.judging import gates
from drills.judging.checks import base
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.analysis.samples import Share
from sim.base.errors import IllegalMoveError
from sim.drill.model import Drill, Fleet
from sim.protocols import registry
from sim.protocols.adapter import Capabilities, FreshStart, Refusals
from sim.record.observations import Kind
from sim.server.settings import RuntimeSettings
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, NAN, NO_DATA, PASS, THRESHOLDS, ask
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill

Found = tuple[State, float | None, int, str]


def answer(name: str, story: Story, drill: Drill | None = None, *, excused: bool = False) -> Found:
    """State, value (None: not a number), number of samples and reason; `excused`: without the times of a busy machine."""
    case = Case(drill or storm_drill(story.clients), story.history())
    found = gates.answer(OF_RUNS[name], case.excused if excused else case, THRESHOLDS.get(name), "")
    return found.state, None if found.value != found.value else found.value, found.n, found.reason


def able(story: Story, **changes: Any) -> Story:
    """The same on a protocol with other capabilities."""
    able: Capabilities = msgspec.structs.replace(registry.get(registry.DEFAULT).capabilities, **changes)
    return Story(story.clients, story.rows, story.header | {"capabilities": msgspec.to_builtins(able)})


def with_header(story: Story, **changes: Any) -> Story:
    return Story(story.clients, story.rows, story.header | changes)


def told(*rows: tuple[Any, ...], story: Story | None = None, **more: Any) -> Story:
    """A good storm of three clients, or another story, with these rows."""
    made = story or good_storm(3)
    for row in rows:
        made.tell(*row, **more)
    made.rows.sort(key=lambda row: row.t)
    return made


# --- the drill as it ran ------------------------------------------------------------------------------


def test_first_reason_counts_of_two_why_the_steady_state_did_not_hold() -> None:
    story = good_storm(2).tell(19.9, Kind.STEADY, value=0.0, detail="slow").tell(19.95, Kind.STEADY, value=0.0, detail="late")
    assert answer("drill.steady_state", story)[1:3] == (0.0, 3)
    assert answer("drill.steady_state", story)[3].endswith(": slow")
    unmarked = good_storm(2).marked().changed(lambda row: row.kind is Kind.APPLIED, marker=-1)
    assert answer("drill.steady_state", unmarked)[:3] == (ERROR, 0.0, 1)


def test_drill_without_faults_only_observes() -> None:
    story, drill = with_header(good_storm(1), plan=[]), msgspec.structs.replace(storm_drill(1), faults=())
    said = "this drill has no faults: it only observes"
    assert answer("drill.faults_observed", story, drill) == (PASS, 0, len(story.rows), said)


def renewed(target: str = "mock", kind: str = "mock") -> Story:
    """Client 0 loses its connection at 40 s, client 1 renews a token of 0 s long before it is due; the first at 30 s."""
    story = told((40.0, Kind.DISCONNECTED, 0), detail="network")
    told((30.0, Kind.DISCONNECTED, 1), story=story, detail="token_refresh_due")
    return with_header(story, target=target, target_kind=kind)


def test_connections_lost_and_tokens_renewed_early_are_counted_together() -> None:
    said = "connections were lost that no fault explains: 1 without a word"
    early = f"{said}, 1 to renew a token long before it was due; the first by client 1 at 30.000 s"
    assert answer("drill.undisturbed", renewed()) == (FAIL, 2, 6, early)
    assert answer("drill.undisturbed", renewed("staging", "staging"))[:2] == (FAIL, 2)
    late = f"{said}; the first by client 0 at 40.000 s"
    assert answer("drill.undisturbed", renewed("http://127.0.0.1:1")) == (FAIL, 1, 6, late)
    assert answer("drill.undisturbed", renewed("http://127.0.0.1:1", "staging"))[:2] == (FAIL, 2)


def test_counters_that_restarted_twice_leave_doubt_since_the_first() -> None:
    story = good_storm(3)
    for t, value in ((5.0, 9.0), (6.0, 1.0), (7.0, 5.0), (8.0, 0.0)):
        story.tell(t, Kind.SERVER_METRIC, value=value, detail="mirror.published_total")
    found = answer("drill.undisturbed", told(story=story))
    assert found[:3] == (INCONCLUSIVE, 2, 6)
    assert "restarted at 6.0 s without a fault" in found[3]


def clocks(*rows: tuple[float, float, str]) -> Story:
    story = good_storm(1)
    for t, value, whose in rows:
        story.tell(t, Kind.MACHINE, value=value, detail=whose)
    return told(story=story)


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (clocks((30.5, 5.0, "wall_clock")), (PASS, 5.0, 62, "our clock was compared 62 times, the target's not at all")),
        (
            clocks((30.5, -5.1, "wall_clock")),
            (ERROR, 5.1, 62, "our wall clock left the monotonic clock by -5.1 s at 30.5 s; at most 5 s are allowed"),
        ),
        (
            clocks((3.0, 1.0, "target_clock"), (4.0, -2.0, "target_clock")),
            (PASS, 0.0, 61, "our clock was compared 61 times, the target's 2 times, at most -2.0 s off"),
        ),
        (
            clocks((3.0, 9.0, "target_clock")),
            (ERROR, 9.0, 1, "the target's clock left ours by +9.0 s at 3.0 s; at most 5 s are allowed"),
        ),
        (
            clocks().without(lambda row: row.detail == "wall_clock" and 30 < row.t < 41),
            (ERROR, None, 51, "for 11 s our wall clock was not compared with the monotonic clock"),
        ),
        (clocks().without(lambda row: row.detail == "wall_clock" and 30 < row.t < 40), (PASS, 0.0, 52, None)),
        (with_header(clocks((3.0, 9.0, "wall_clock")), clock="virtual"), (PASS, 0, None, "simulated time has no wall clock")),
    ],
)
def test_wall_clocks_are_compared_the_whole_time(story: Story, expected: tuple[Any, ...]) -> None:
    found = answer("drill.wall_clocks", story)
    assert tuple(got for got, want in zip(found, expected, strict=True) if want is not None or got is None) == tuple(
        want for got, want in zip(found, expected, strict=True) if want is not None or got is None
    )


def test_clock_of_the_target_that_is_not_a_number_is_an_error() -> None:
    assert answer("drill.wall_clocks", clocks((3.0, NAN, "target_clock")))[:3] == (ERROR, None, 1)


def test_lateness_of_simulated_time_and_of_several_late_processes() -> None:
    assert answer("drill.generator_lag_ms", with_header(good_storm(1), clock="virtual"))[:3] == (PASS, 0, 120)
    story = Story(1)
    for name in ("worker 1", "worker 2"):
        for tick in range(30):
            story.tell(tick * 0.5, Kind.GENERATOR_LAG, value=300.0, detail=name)
    assert "of the worker 1 are over" in answer("drill.generator_lag_ms", told(story=story))[3]


def test_audit_says_what_a_fresh_client_lacks() -> None:
    published = len(good_storm(3).ledger().published)
    pending = told((59.0, Kind.STILL_PENDING, AUDITOR, STREAM, 9), value=9.0, detail="replaying")
    assert answer("drill.audited", pending)[:3] == (INCONCLUSIVE, 0, published)
    unsaid = told((59.0, Kind.STILL_PENDING, AUDITOR, STREAM, 8), value=9.0)
    said = "a fresh client could not read up to the head of 1 streams: no reason"
    assert answer("drill.audited", unsaid) == (FAIL, 0, published, said)
    busy = told(
        (59.0, Kind.STILL_PENDING, AUDITOR, STREAM, 8), story=good_storm(3).busy(26.0, 40.0), value=9.0, detail="behind"
    )
    assert answer("drill.audited", busy)[0] is FAIL
    late = "a fresh client had too little time to read up to the head"
    assert answer("drill.audited", busy, excused=True) == (INCONCLUSIVE, 0, published, late)


def test_fresh_client_gets_the_whole_window() -> None:
    drill = msgspec.structs.replace(storm_drill(3), runtime=RuntimeSettings(window_events=100))

    def without(*seqs: int, above: int) -> Story:
        """The auditor starts at `above`, and does not get these events; 50 events were trimmed at 55 s."""
        story = good_storm(3).without(
            lambda row: row.client == AUDITOR and row.kind is Kind.APPLIED and (row.seq <= above or row.seq in seqs)
        )
        return story.changed(lambda row: row.client == AUDITOR and row.kind is Kind.REBOOTSTRAPPED, seq=above)

    assert answer("drill.audited", without(above=230), drill)[:3] == (PASS, 1, 330)
    lacking = without(above=240)
    assert answer("drill.audited", lacking, drill) == (FAIL, 0, 330, "a fresh client did not get 10 events of a window of 100")
    live = with_header(lacking, target_kind="staging", window_events=90)
    assert answer("drill.audited", live, drill)[:3] == (PASS, 1, 330), "the target's own window"
    trimmed = told((55.0, Kind.FAULT_INJECTED), (55.0, Kind.FAULT_REVERTED), story=lacking, attempt=1, detail="shrink_window")
    assert answer("drill.audited", trimmed, drill)[:3] == (PASS, 1, 330)


def test_streams_read_over_http_are_counted() -> None:
    story = able(good_storm(3), fresh_start=FreshStart.FROM_NOW_ON).tell(59.6, Kind.READ_BACK_COMPLETED, stream=STREAM)
    assert answer("drill.audited", story) == (PASS, 1, 330, "1 streams were read back over HTTP")


def test_clients_that_had_no_time_to_converge_are_a_doubt() -> None:
    story = good_storm(3).without(lambda row: row.kind is Kind.SETTLED and row.client == 1).busy(26.0, 40.0)
    assert answer("drill.converged", told(story=story))[:3] == (FAIL, 1, 3)
    said = "clients had too little time to converge"
    assert answer("drill.converged", told(story=story), excused=True) == (INCONCLUSIVE, 1, 3, said)


def test_loss_is_allowed_only_where_no_snapshot_has_it() -> None:
    allowed, other = storm_drill(3, declared_loss=True), "runtime.other"
    story = told((30.0, Kind.DECLARED_LOSS, 0, other, 4), value=2.0)
    assert answer("drill.declared_loss", story, allowed)[:3] == (PASS, 0, 990)
    offered = told((29.0, Kind.SNAPSHOT, 1, other, 4), story=story)
    assert answer("drill.declared_loss", offered, allowed)[:2] == (FAIL, 2)
    elsewhere = told(
        (29.0, Kind.SNAPSHOT, 1, STREAM, 4), story=told((30.0, Kind.DECLARED_LOSS, 0, other, 4), value=2.0), value=2.0
    )
    assert answer("drill.declared_loss", elsewhere, allowed)[:2] == (PASS, 0)


# --- refusals -----------------------------------------------------------------------------------------

WRONG = told((31.0, Kind.PROBED, 7), detail="expired_token:refused:unauthorized")
ODD = told((31.0, Kind.PROBED, 7), detail="expired_token:refused:bad_event")
EXPIRED = storm_drill(3, negative_clients=("expired_token",))


@pytest.mark.parametrize(
    ("story", "refusals", "state"),
    [
        (WRONG, Refusals.CODES_AND_HINTS, FAIL),
        (WRONG, Refusals.CODES, PASS),  # codes of the protocol's own
        (WRONG, Refusals.BARE_STATUS, PASS),  # what its clients note for a bare status
        (ODD, Refusals.BARE_STATUS, FAIL),
        (ODD, Refusals.CODES, PASS),
    ],
)
def test_code_of_a_refusal_is_judged_where_the_protocol_states_it(story: Story, refusals: Refusals, state: State) -> None:
    assert answer("drill.negative_clients", able(story, refusals=refusals), EXPIRED)[0] is state


def test_wrong_and_granted_answers_are_counted() -> None:
    found = answer("drill.negative_clients", WRONG, EXPIRED)
    assert found[:3] == (FAIL, 1, 1)
    assert found[3].startswith("refused with a wrong code: expired_token (unauthorized instead of token_expired")
    silent = told((31.0, Kind.PROBED, 7), detail="expired_token:refused:timeout")
    assert answer("drill.negative_clients", silent, EXPIRED)[:3] == (INCONCLUSIVE, None, 1)


@pytest.mark.parametrize(
    ("name", "drill_of", "unasked", "is_lacking"),
    [
        ("drill.negative_clients", ("expired_token", "any_mutation"), ("expired_token", "any_mutation"), True),
        ("drill.negative_clients", ("expired_token", "any_mutation"), ("expired_token",), False),
        ("drill.misusers_served", ("expired_token", "any_mutation"), ("any_mutation",), True),
        ("drill.misusers_served", ("expired_token", "any_mutation"), ("expired_token",), False),
        ("drill.malformed_frames", ("malformed_frames", "any_mutation"), ("malformed_frames",), True),
        ("drill.malformed_frames", ("any_mutation",), ("any_mutation",), False),
        ("drill.clocks", ("any_mutation",), ("any_mutation",), False),
    ],
)
def test_check_of_clients_that_could_not_ask_is_not_required(
    name: str, drill_of: tuple[str, ...], unasked: tuple[str, ...], is_lacking: bool
) -> None:
    story = with_header(good_storm(1), unasked=dict.fromkeys(unasked, "no message"))
    found = ask(name, story, storm_drill(1, negative_clients=drill_of))
    assert (found.state, found.is_required) == (NO_DATA, not is_lacking)
    asked = [each for each in drill_of if each in unasked] if name == "drill.negative_clients" else [unasked[0]]
    said = f"no negative client could ask: {', '.join(f'{each} (no message)' for each in asked)}"
    assert (found.reason == said) == is_lacking


def frames(*answers: str) -> Found:
    story = with_header(good_storm(1), malformed_kinds=["array", "huge", "text"])
    for each in answers:
        story.tell(31.0, Kind.PROBED, 5, detail=f"malformed_frames:{each}")
    return answer("drill.malformed_frames", story)


def test_kinds_of_malformed_frames_without_an_answer_are_named() -> None:
    assert frames("array:refused:bad_event", "text:silence", "huge:") == (INCONCLUSIVE, None, 1, "no answer to huge, text")
    assert frames()[:3] == (NO_DATA, None, 0)
    assert frames("array:refused:closed", "text:refused:closed")[:3] == (FAIL, 2, 2)


def test_routes_that_were_not_asked_each_time_are_counted() -> None:
    story = with_header(good_storm(1), retired_routes=["/old", "/older"])
    for t, route in ((1.0, "/old"), (19.99, "/older"), (20.0, "/old"), (24.99, "/old"), (25.0, "/old"), (26.0, "/other")):
        story.tell(t, Kind.ROUTE_ANSWERED, detail=route, value=404.0)
    said = "4 of 6 requests were answered, per route before, during, after"
    assert answer("drill.retired_routes", told(story=story)) == (INCONCLUSIVE, None, 6, said)


def test_publishes_refused_for_good_and_given_up_differ_by_their_distance() -> None:
    assert answer("drill.publish_failures", good_storm(2))[:3] == (PASS, 0, 330)
    many = told(*((30.0 + n, Kind.PUBLISH_FAILED, -1, STREAM) for n in range(3)), value=1.0)
    assert answer("drill.publish_failures", many)[:3] == (FAIL, 3, 333)


def test_revoked_client_that_is_live_as_it_signs_in_came_too_early() -> None:
    story = told((36.0, Kind.SESSION_REVOKED, 0), (40.0, Kind.SIGNED_IN, 0))
    told((37.0, Kind.DISCONNECTED, 0), story=story, detail="unauthorized")
    assert answer("drill.revocation", told((40.001, Kind.SUBSCRIBED, 0), story=story))[:3] == (PASS, 0, 1)
    assert answer("drill.revocation", told((40.0, Kind.SUBSCRIBED, 0), story=story))[:3] == (FAIL, 1, 1)


# --- the parts of all checks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drill_of", "target", "seconds"),
    [
        ({"runtime": RuntimeSettings(token_ttl_s=300, token_refresh_margin_s=30)}, "mock", 135.0),
        ({"runtime": RuntimeSettings(token_ttl_s=30, token_refresh_margin_s=30)}, "mock", 0.5),
        ({"runtime": RuntimeSettings(token_ttl_s=300, token_refresh_margin_s=10)}, "mock", 145.0),
        ({"fleet": Fleet(clients=1, token_ttl_s=100)}, "mock", 35.0),
        ({"runtime": RuntimeSettings(token_ttl_s=900, token_refresh_margin_s=10)}, "staging", None),
    ],
)
def test_tokens_are_renewed_early_in_the_first_half_of_their_time(
    drill_of: dict[str, Any], target: str, seconds: float | None
) -> None:
    drill = msgspec.structs.replace(storm_drill(1), **drill_of)
    default = RuntimeSettings()
    minimum = 0.5 * max(default.token_ttl_min_s - default.token_refresh_margin_s, 1)
    case = Case(drill, Story(1, header={"target_kind": target}).history())
    assert base.soonest_renewal_s(case) == (minimum if seconds is None else seconds)


def limit(threshold: float, minimum_n: int | None = None) -> Threshold:
    return Threshold(threshold, "<=", "ms", "source", minimum_n=minimum_n)


def test_result_of_a_check_names_its_threshold_and_source() -> None:
    spec, found = OF_RUNS["ux.integrity"], base.Answer(PASS, 1, 2, "fine", (0.0, 3.0))
    bare, full = base.result(spec, found, "file"), base.result(spec, found, "file", limit(5.0), origin="server")
    assert (bare.comparator, bare.threshold, bare.source, bare.origin) == ("", None, "fixed rule, no threshold", spec.origin)
    assert (full.comparator, full.threshold, full.source, full.origin) == ("<=", 5.0, "source", "server")
    assert (full.value, full.n, full.interval, full.reason, full.evidence) == (1.0, 2, (0.0, 3.0), "fine", "file")
    assert base.result(spec, base.Answer(PASS, NAN, 2, "fine"), "file").state is ERROR


def test_check_without_its_threshold_cannot_be_asked() -> None:
    with pytest.raises(IllegalMoveError, match="was asked without one"):
        base.needed(None)
    assert base.needed(limit(1.0)).threshold == 1.0


def test_bounds_in_words() -> None:
    samples = np.arange(1.0, 101.0)
    assert base.by_percentile(samples, 0.95, limit(99.0), "lags") == base.Answer(
        PASS, 95.0, 100, "p95 of 100 lags: at most 99 with 95 % confidence", (91.0, 99.0)
    )
    assert base.by_percentile(samples, 0.95, limit(98.0), "lags").reason == "p95 of 100 lags: bounds 91..99 include 98"
    assert base.by_percentile(samples, 0.95, limit(91.0), "lags").state is INCONCLUSIVE
    assert base.by_percentile(samples, 0.95, limit(90.9), "lags").reason == "p95 of 100 lags: at least 91 with 95 % confidence"
    few = base.by_percentile(samples, 0.95, limit(99.0, 101), "lags")
    assert few == base.Answer(INCONCLUSIVE, 95.0, 100, "100 lags are too few; 101 are needed", (91.0, 99.0))
    assert base.by_percentile(samples, 0.95, limit(99.0, 100), "lags").state is PASS
    assert base.by_percentile(samples, 0.95, limit(1.0, 101), "lags").state is FAIL
    assert base.by_percentile(samples[:2], 0.95, limit(9.0), "lags").reason == "p95 of 2 lags: bounds 1..? include 9"
    assert base.by_ratio(Share(0, 0), limit(0.5), "hits").n == 0


@pytest.mark.parametrize(
    ("hits", "n", "expected"),
    [
        (2, 5, (PASS, 2, 5, "2 hits among 5 tries")),
        (3, 5, (FAIL, 3, 5, "3 hits among 5 tries")),
        (3, 0, (FAIL, 3, 0, "3 hits among 0 tries")),
        (0, 1, (PASS, 0, 1, "0 hits among 1 tries")),
        (0, 0, (NO_DATA, None, 0, "there were no tries")),
    ],
)
def test_counts(hits: int, n: int, expected: tuple[Any, ...]) -> None:
    found = base.by_count(hits, n, limit(2.0), "hits", "tries")
    assert (found.state, None if found.value != found.value else found.value, found.n, found.reason) == expected


def busy_case(t: float, detail: str, said: str, minted_t: float) -> Case:
    """A connection of client 0 ended at this time; our machine was busy from 40 s to 50 s."""
    story = told((t, Kind.DISCONNECTED, 0), story=good_storm(1).busy(40.0, 50.0), detail=detail)
    told((minted_t, Kind.TOKEN_MINTED, 0), story=story, value=0.0)
    told((t, Kind.ENDED, 0), story=story, detail=said)
    return Case(storm_drill(1), able(story, silence_codes=("4000",)).history(), is_excused=True)


@pytest.mark.parametrize(
    ("t", "detail", "said", "minted_t", "is_excused"),
    [
        (50.0, "network", "network:network:retry", 30.0, True),  # by silence
        (50.0, "network", "server:4000:retry", 30.0, True),
        (50.0, "network", "server:1012:retry", 30.0, False),  # the server had another reason
        (44.9, "network", "network:network:retry", 30.0, False),  # busy for less than five seconds by then
        (45.1, "network", "network:network:retry", 30.0, True),
    ],
)
def test_silence_while_our_machine_was_busy_is_excused(
    t: float, detail: str, said: str, minted_t: float, is_excused: bool
) -> None:
    assert busy_case(t, detail, said, minted_t).dropped_while_busy[-1] == is_excused


@pytest.mark.parametrize(("ttl_s", "is_excused"), [(70, True), (71, False)])
def test_token_that_a_busy_machine_renewed_too_late_is_excused(ttl_s: int, is_excused: bool) -> None:
    """It was 20 s old: just as old as it must be to be renewed, or half a second younger."""
    case = busy_case(50.0, "unauthorized", "server:1008:mint", 30.0)
    case.drill = msgspec.structs.replace(case.drill, fleet=Fleet(clients=1, token_ttl_s=ttl_s))
    assert case.dropped_while_busy[-1] == is_excused
