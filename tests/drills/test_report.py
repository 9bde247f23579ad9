"""What a verdict looks like as files, and that it is never prettier than the verdict."""

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, RunVerdict, State, worst
from drills.reports import report
from sim.analysis.invariants import registry
from sim.analysis.invariants.evidence import Violation
from sim.analysis.metrics import Metric

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
INF, NAN = math.inf, math.nan


def check(state: State = PASS, value: float = 1.0, **more: Any) -> CheckResult:
    fields: dict[str, Any] = {
        "gate": "ux",
        "check": "integrity",
        "unit": "events",
        "n": 5,
        "interval": None,
        "comparator": "<=",
        "threshold": 0.0,
        "source": "runbook",
        "window": "whole run",
        "method": "count",
        "origin": "client",
        "reason": "because",
        "evidence": "drills/storm/observations.parquet",
    }
    return CheckResult(state=state, value=value, **{**fields, **more})


def drill(*checks: CheckResult, **more: Any) -> DrillVerdict:
    return DrillVerdict("storm", 10, 60.0, checks or (check(),), **more)


def run(*drills: DrillVerdict) -> RunVerdict:
    return RunVerdict("run-1", "sockets", "mock", "mock", 7, drills, "aa", "aa", ("It was the mock.",))


def strict(text: bytes | str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("states", "worst_state", "decision", "reason", "exit_code"),
    [
        ([], INCONCLUSIVE, "no_go", "insufficient_evidence", 2),
        ([PASS], PASS, "go", "", 0),
        ([PASS, PASS], PASS, "go", "", 0),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE, "no_go", "insufficient_evidence", 2),
        ([PASS, NO_DATA], INCONCLUSIVE, "no_go", "insufficient_evidence", 2),
        ([PASS, NOT_RUN], INCONCLUSIVE, "no_go", "insufficient_evidence", 2),
        ([INCONCLUSIVE, ERROR], ERROR, "no_go", "error", 4),
        ([PASS, ERROR, FAIL], FAIL, "no_go", "breach", 1),
    ],
)
def test_worst_state_decides(states: list[State], worst_state: State, decision: str, reason: str, exit_code: int) -> None:
    assert worst(states) is worst_state
    verdict = run(*(drill(check(state)) for state in states))
    assert (verdict.decision, verdict.decision_reason, verdict.exit_code) == (decision, reason, exit_code)
    assert verdict.failures == sum(state is not PASS for state in states)


def test_a_drill_without_checks_does_not_pass() -> None:
    assert DrillVerdict("storm", 1, 1.0, ()).status is INCONCLUSIVE


def test_the_summary_has_the_agreed_keys() -> None:
    found = report.summary(
        run(drill(metrics=(Metric("peak", 4.0, "connects/s", 9),), violations=(Violation("hole", 2, "there"),)))
    )
    assert {"schema", "run_id", "engine", "target", "target_kind", "seed", "decision", "failures", "drills"} <= set(found)
    assert found["schema"] == 1
    (only,) = found["drills"]
    assert set(only) == {"name", "status", "clients", "duration_s", "checks", "violations", "metrics"}
    assert set(only["checks"][0]) == {"name", "state", "value", "unit", "n", "interval", "threshold"}
    assert only["violations"] == [{"invariant": "hole", "count": 2, "first": "there"}]
    assert only["metrics"]["peak"] == {"value": 4.0, "unit": "connects/s", "n": 9, "better": "lower"}


def test_infinity_and_nan_become_null() -> None:
    known_bad = drill(check(FAIL, INF, interval=(NAN, INF)), metrics=(Metric("live", INF, "s", 3), Metric("none", NAN, "s", 0)))
    found = strict(report.summary_json(run(known_bad, DrillVerdict("gone", 0, NAN, (check(ERROR, NAN),)))))
    assert found["drills"][0]["checks"][0]["value"] is None
    assert found["drills"][0]["checks"][0]["interval"] == [None, None]
    assert found["drills"][0]["metrics"]["live"]["value"] is None
    assert found["drills"][1]["duration_s"] is None


def test_one_line_for_each_check_of_each_drill() -> None:
    lines = report.gate_lines(run(drill(check(), check(FAIL, NAN)), drill())).splitlines()
    assert len(lines) == 3
    found = strict(lines[1])
    wanted = "gate check state value n interval comparator threshold source window method origin reason evidence"
    assert set(wanted.split()) <= set(found)
    assert (found["state"], found["value"]) == ("fail", None)


def test_the_headline_says_what_and_against_what() -> None:
    text = report.summary_markdown(run(drill(check(FAIL))))
    headline = text.splitlines()[0]
    assert "NO-GO" in headline
    assert "breach" in headline
    assert "mock" in headline
    assert "\nFailures: 1\n" in text
    assert report.summary_markdown(run(drill())).splitlines()[0] == "# GO (against the embedded mock)"


def test_violations_and_failed_checks_say_what_users_would_have_seen() -> None:
    text = report.summary_markdown(run(drill(violations=(Violation("silent_loss", 3, "client 1 | seq 4"),))))
    assert "messages that never appear" in text
    assert "client 1 \\| seq 4" in text
    failed, passed = (report.summary_markdown(run(drill(check(s, check="tokens_too_old", gate="error")))) for s in (FAIL, PASS))
    assert "`error.tokens_too_old`: a refusal after every lost connection" in failed
    assert "users would have seen" not in passed


def test_every_invariant_and_each_backoff_check_has_a_sentence_for_users() -> None:
    names = set(registry.INVARIANTS) - {"negative_clients"}  # each negative client has an invariant of its own
    assert {"hole", "silent_loss", "stale_loop", "early_replay_complete"} <= names
    assert sorted(names - report.USERS_SAW.keys()) == []
    for name in ("backoff_unjittered", "backoff_never_resets"):
        assert report.check_seen(check(FAIL, check=name, gate="reconnect"))


def test_every_value_is_shown_with_its_n_and_threshold() -> None:
    text = report.summary_markdown(run(drill(check(value=INF, interval=(0.5, NAN), threshold=0.25))))
    assert "| ux.integrity | pass | never events | 0.5 .. - | 5 | <= 0.25 | because |" in text


@pytest.mark.parametrize(("value", "text"), [(NAN, "-"), (INF, "never"), (3.0, "3"), (0.123456, "0.1235"), (12345.6, "12346")])
def test_numbers_for_people(value: float, text: str) -> None:
    assert report.number(value) == text


def test_why_names_the_worst_first() -> None:
    said = report.why(drill(check(NO_DATA), check(ERROR), check(FAIL), violations=(Violation("hole", 2, ""),)))
    assert said.startswith("hole (2); ux.integrity fail: because; ux.integrity error: because; and 1 more")


def test_the_terminal_shows_every_drill_and_the_decision() -> None:
    out = io.StringIO()
    report.print_verdict(run(drill(), drill(check(FAIL, reason="[red]odd[/red]"))), Console(file=out, width=200))
    text = out.getvalue()
    assert "[red]odd[/red]" in text
    assert "no-go (breach)" in text
    assert "Failures: 1" in text
