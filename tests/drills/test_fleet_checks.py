"""What is decided about a run of the fleet engine, by its counts alone."""

from typing import Any

import msgspec
import pytest

from drills.judging import gates
from drills.judging.checks import fleet
from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import CheckResult
from sim.record.observations import Kind
from sim.record.tally import Herd, Lives, Recovery, Sizes, Tally
from tests.drills.asking import ERROR, FAIL, INCONCLUSIVE, INF, NO_DATA, NOT_RUN, PASS, ask
from tests.histories import Story, storm_drill

GOOD = Tally(
    clients=100,
    events=1000,
    bin_s=10.0,
    series={"stale_answers": [0] * 120, "disconnected": [0, 0, 0, 100, 100, 0, 0, 0]},
    totals={"tokens_refused": 0, "tokens_minted": 400, "subscribe_answers": 200, "backoffs": 90, "went_live": 200}
    | {"published": 270},
    disconnects={"network": 100},
    peak_connects_per_s=20,
    recoveries=[Recovery("drop_sockets", 0, 30.0, 50.0, 100, {"99": 60.0}, 1.0, 2)],
    bootstrap_ms=Sizes([100.0, 600.0], [95, 5]),
    token_ms=Sizes(),
    max_backoff_ms=8000.0,
    herds=[Herd(1, 1000, 250)],
    lives=[Lives(1.0, 5, 5), Lives(5.1, 90, 0)],
    unconverged=0,
    overloaded_at_s=None,
)


def found(name: str, **changes: Any) -> CheckResult:
    """What a check says of a good run with these changes."""
    story = Story(100, header={"engine": "fleet", "clock": "virtual", "tally": msgspec.structs.replace(GOOD, **changes)})
    for t, phase in ((0.0, "steady"), (30.0, "fault"), (50.0, "recovery"), (60.0, "settle"), (70.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    story.tell(30.0, Kind.FAULT_INJECTED).tell(50.0, Kind.FAULT_REVERTED)
    return ask(name, story, storm_drill(100))


def totals(**changes: int) -> dict[str, dict[str, int]]:
    return {"totals": GOOD.totals | changes}


def stale(*bins: int) -> dict[str, dict[str, list[int]]]:
    return {"series": GOOD.series | {"stale_answers": list(bins)}}


def lost(*bins: int) -> dict[str, dict[str, list[int]]]:
    return {"series": GOOD.series | {"disconnected": list(bins)}}


def recovered(**live_again_s: float | None) -> dict[str, list[Recovery]]:
    late = Recovery("restart", 1, 30.0, 50.0, 50, {"99": live_again_s["late"]}, 1.0, 2)
    return {"recoveries": [GOOD.recoveries[0], late]}


CASES = {
    "error.token_issue_failure_ratio": [
        ({}, PASS, 0.0, 400),
        (totals(tokens_refused=100, tokens_minted=300), FAIL, 0.25, 400),
        (totals(tokens_minted=20), INCONCLUSIVE, 0.0, 20),
    ],
    "error.stale_cursors": [
        ({}, PASS, 0, 200),
        (stale(*[0] * 100, 20), PASS, 20, 200),
        (stale(*[0] * 100, 21), FAIL, 21, 200),
        (stale(21, *[0] * 100), FAIL, 21, 200),
        (stale(10, *[0] * 59, 11, *[0] * 100), FAIL, 21, 200),  # 600 s, and a bin more as nothing is known within bins
        (stale(10, *[0] * 60, 11, *[0] * 100), PASS, 11, 200),
        (stale(10, 11), FAIL, 21, 200),
        ({**stale(0), **totals(subscribe_answers=0)}, NO_DATA, None, 0),
    ],
    "replay.bootstrap_ms": [
        ({}, PASS, 100.0, 100),
        ({"bootstrap_ms": Sizes([100.0, 700.0], [50, 50])}, FAIL, 700.0, 100),
    ],
    "reconnect.live_again_99_s": [
        ({}, PASS, 60.0, 100),
        ({"recoveries": []}, NOT_RUN, None, 0),
        (recovered(late=60.5), FAIL, 60.5, 50),
        (recovered(late=None), FAIL, INF, 50),
        (recovered(late=10.0), PASS, 60.0, 100),
    ],
    "reconnect.backoff_bounded": [
        ({}, PASS, 8000.0, 90),
        ({"max_backoff_ms": 8000.5}, FAIL, 8000.5, 90),
        ({"max_backoff_ms": None}, NO_DATA, None, 0),
    ],
    "reconnect.backoff_unjittered": [
        ({}, PASS, 0.25, 1000),
        ({"herds": [Herd(1, 1000, 251)]}, FAIL, 0.251, 1000),
        ({"herds": []}, NO_DATA, None, 0),
    ],
    "reconnect.backoff_never_resets": [
        ({}, PASS, 0, 90),
        ({"lives": [Lives(1.0, 5, 5), Lives(5.1, 90, 1)]}, FAIL, 1, 90),
        ({"lives": [Lives(1.0, 5, 0)]}, NO_DATA, None, 0),
    ],
    "drill.undisturbed": [
        ({}, PASS, 0, 200),
        (lost(0, 0, 1, 100, 100), FAIL, 1, 200),  # the bin that ends when the fault begins
        (lost(0, 0, 0, 100, 100, 7, 0), PASS, 0, 200),  # its end may be noticed a second later
        (lost(0, 0, 0, 100, 100, 0, 0, 3), FAIL, 3, 200),
        (totals(went_live=0), NO_DATA, None, 0),
    ],
    "drill.load": [({}, PASS, 270, 270), (totals(published=269), ERROR, 269, 269)],
    "drill.converged": [({}, PASS, 0, 100), ({"unconverged": 1}, FAIL, 1, 100)],
}


@pytest.mark.parametrize(("name", "number"), [(name, number) for name, cases in CASES.items() for number in range(len(cases))])
def test_counts_decide(name: str, number: int):
    changes, state, value, n = CASES[name][number]
    answer = found(name, **changes)
    assert (answer.state, answer.n) == (state, n), answer.reason
    assert answer.value == pytest.approx(value) if value is not None else answer.value != answer.value


@pytest.mark.parametrize("name", CASES)
def test_overloaded_delivery_makes_a_pass_inconclusive_and_excuses_nothing(name: str):
    for changes, state, _, _ in CASES[name]:
        answer = found(name, **{"overloaded_at_s": 12.0, **changes})
        assert answer.state is (INCONCLUSIVE if state is PASS else found(name, **changes).state)
        assert ("overloaded from 12.0 s" in answer.reason) == (state is PASS)


def test_what_needs_deliveries_or_markers_has_no_data():
    for name in gates.DECISIONS:
        if name not in CASES and name not in fleet._BY_ROWS:
            assert (found(name).state, found(name).n) == (NO_DATA, 0)
            assert ("no payloads" in found(name).reason) == (name in fleet._BY_MARKERS)


def test_reader_learns_what_has_no_data_and_since_when_delivery_was_late():
    def said(overloaded_at_s: float | None) -> list[str]:
        story = Story(1, header={"engine": "fleet", "tally": msgspec.structs.replace(GOOD, overloaded_at_s=overloaded_at_s)})
        answers = [found("drill.converged"), found("ux.integrity"), found("reconnect.live_again_99_s", recoveries=[])]
        return list(fleet.remarks(Case(storm_drill(1), story.history()), answers))

    (limits,) = said(None)
    assert "no data for: ux.integrity, reconnect.live_again_99_s." in limits
    assert said(12.0)[0] == limits
    assert said(12.0)[1].startswith("From 12.0 s on, delivery was so far behind")
    assert list(fleet.remarks(Case(storm_drill(1), Story(1).history()), [])) == []


@pytest.mark.parametrize(("ended_t", "is_calm"), [(49.0, False), (48.9, True)])
def test_bin_that_begins_as_the_fault_is_over_is_not_calm_yet(ended_t: float, is_calm: bool):
    story = Story(100, header={"engine": "fleet", "tally": msgspec.structs.replace(GOOD, **lost(0, 0, 0, 0, 0, 3))})
    story.tell(30.0, Kind.PHASE, detail="fault").tell(ended_t, Kind.PHASE, detail="recovery").tell(30.0, Kind.FAULT_INJECTED)
    story.tell(ended_t, Kind.FAULT_REVERTED).rows.sort(key=lambda row: row.t)
    assert (ask("drill.undisturbed", story, storm_drill(100)).state is FAIL) == is_calm
