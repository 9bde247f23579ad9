"""Drills against a lane behind TLS, and against one whose certificate nobody vouches for."""

from dataclasses import replace
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("drill", [DRILL, SLOW], ids=["cut", "through the fault proxy"])
def test_a_lane_behind_tls_is_drilled_like_any(tmp_path: Path, drill: str) -> None:
    pem, believes = certified(tmp_path)
    with thirdparty(tmp_path, "--tls", str(pem)) as live:
        said = drilled(live, drill, **believes)
        upgrades = len([what for what, _ in live.log if what == "upgrade"])
    assert said.code == 0, said
    assert upgrades >= 20


def test_a_certificate_that_nobody_vouches_for_is_one_sentence(tmp_path: Path) -> None:
    pem, _ = certified(tmp_path)
    with thirdparty(tmp_path, "--tls", str(pem)) as live:
        said = drilled(live, DRILL)
        assert not live.log
    assert said.code == 3, said
    assert "/readyz: certificate verification failed" in said.sentence
    assert "SSL_CERT_FILE" in said.sentence


def test_a_lane_without_tls_is_not_one_with_it(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        said = drilled(replace(live, scheme="https"), DRILL)
    assert (said.code, "does not answer as an HTTP server" in said.sentence) == (3, True), said
