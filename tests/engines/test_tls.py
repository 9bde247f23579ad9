"""Drills against a service behind TLS, and against one with an untrusted certificate."""

from dataclasses import replace
from pathlib import Path

import pytest

from drills.judging.checks.registry import OF_RUNS
from drills.judging.checks.verdicts import State
from drills.judging.gates import GENERATOR
from drills.runs import results
from tests.commands import Said, stormgate
from tests.live import DRILL, Live, certified, thirdparty

CUT = '{ kind = "drop_sockets", at_s = 0.2 }'
SLOW = DRILL.replace(CUT, '{ kind = "slow_links", at_s = 0.2, for_s = 1.0, latency_ms = 20.0 }').replace(
    '"reconnect.live_again_99_s", ', ""
)


def drilled(live: Live, drill: str, **environment: str) -> Said:
    targets, path = live.write(drill=drill)
    words = ("drill", "run", path, "--target", "thirdparty", "--targets", targets, "--out", live.folder / "out")
    return stormgate(*words, **live.environment, **environment)


def untimed_states(folder: Path) -> dict[str, State]:
    """The states of all checks that a busy machine cannot change."""
    (run_dir,) = (folder / "out").iterdir()
    (verdict,) = results.judge_run(run_dir).drills
    return {check.name: check.state for check in verdict.checks if check.name != GENERATOR and not OF_RUNS[check.name].is_timed}


@pytest.mark.parametrize("drill", [DRILL, SLOW], ids=["cut", "through the fault proxy"])
def test_a_service_behind_tls_is_drilled_like_any_other(tmp_path: Path, drill: str) -> None:
    pem, trusted = certified(tmp_path)
    with thirdparty(tmp_path, "--tls", str(pem)) as live:
        said = drilled(live, drill, **trusted)
        upgrades = len([what for what, _ in live.log if what == "upgrade"])
    states = untimed_states(tmp_path)
    assert {name: state for name, state in states.items() if state is not State.PASS} == {}, said
    assert {"replay.divergence", "drill.phases", "drill.faults_observed"} <= set(states)
    assert upgrades >= 20


def test_an_untrusted_certificate_is_reported_in_one_sentence(tmp_path: Path) -> None:
    pem, _ = certified(tmp_path)
    with thirdparty(tmp_path, "--tls", str(pem)) as live:
        said = drilled(live, DRILL)
        assert not live.log
    assert said.code == 3, said
    assert "/readyz: certificate verification failed" in said.sentence
    assert "SSL_CERT_FILE" in said.sentence


def test_a_service_without_tls_is_not_drilled_over_https(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        said = drilled(replace(live, scheme="https"), DRILL)
    assert (said.code, "does not answer as an HTTP server" in said.sentence) == (3, True), said
