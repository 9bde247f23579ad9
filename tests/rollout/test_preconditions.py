"""Preconditions on a real service: a token is healthy when the runtime takes it."""

from pathlib import Path

import pytest

from drills.rollout.preflight import preconditions
from drills.rollout.setup.records import Revisions
from drills.runs import targets
from sim.engines.shared.endpoints import Endpoints
from sim.mock.server import admin_token
from tests.served import serving
from tests.targets.test_described_service import KEY, rooms

NEW, OLD, HALF = (Revisions(control=name, runtime=name) for name in ("new", "old", ""))
USUAL, ANCIENT = "20260601T000000Z", "20000101T000000Z"


def answers(endpoints: Endpoints, build: str) -> tuple[str, str, str]:
    """The states of the token and of the builds, and the token's reason."""
    found = preconditions.ask(endpoints, [build], (), {}, NEW, None)
    return found["token_issuance"][0], found["builds_deployed"][0], found["token_issuance"][1]


@pytest.mark.parametrize("is_right", [True, False])
def test_a_token_that_the_runtime_refuses_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    monkeypatch.setenv("ROOMS_KEY", KEY["ROOMS_KEY"] if is_right else "another-key-of-thirty-two-bytes-or-more")
    with rooms(tmp_path) as file:
        endpoints = targets.resolve("rooms", file)
        assert endpoints is not None
        token, builds, reason = answers(endpoints, USUAL)
    assert (token, builds) == (("pass", "pass") if is_right else ("fail", "fail"))
    assert is_right or "no client could join with it: invalid_token" in reason


def test_a_refused_build_says_nothing_of_the_token(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        token, builds, _ = answers(Endpoints.of_embedded_mock(served.url, admin_token()), ANCIENT)
    assert (token, builds) == ("pass", "fail")


@pytest.mark.parametrize(
    ("deployed", "good", "state", "words"),
    [
        (NEW, OLD, "pass", "control old"),
        (NEW, None, "pass", "control new"),
        (NEW, NEW, "fail", "are the deployed ones"),
        (NEW, HALF, "fail", "not configured"),
        (HALF, OLD, "fail", "could not be found out"),
    ],
)
def test_revisions_to_roll_back_to_are_configured_and_not_the_deployed_ones(
    deployed: Revisions, good: Revisions | None, state: str, words: str
) -> None:
    nowhere = Endpoints.of_embedded_mock("http://127.0.0.1:9", "x")
    found = preconditions.ask(nowhere, [USUAL], (), {}, deployed, good)["rollback_revisions"]
    assert (found[0], words in found[1]) == (state, True), found
