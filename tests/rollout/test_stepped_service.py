"""The stepped service is a mock like any other, except for its clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from drills.rollout.preflight.preconditions import joins, mint
from drills.runs import targets
from sim.base.clocks import SteppedClock, from_iso
from tests.rollout.stepped_service import ADMIN, METRICS, stepped_service

START = datetime(2026, 3, 2, 15, tzinfo=UTC)


def test_what_says_the_time_follows_the_clock(tmp_path: Path):
    clock = SteppedClock(START)
    with stepped_service(tmp_path, clock) as stepped:
        for _ in range(2):
            answer = httpx.get(stepped.url + METRICS, headers={"Authorization": f"Bearer {ADMIN}"}, trust_env=False)
            assert from_iso(answer.json()["generated_at"]) == clock.now()
            assert "date" not in answer.headers
            clock.step(timedelta(days=1))


def test_it_is_met_through_a_targets_file_and_its_answers_can_be_altered(tmp_path: Path):
    with stepped_service(tmp_path, SteppedClock(START)) as stepped:
        endpoints = targets.resolve(stepped.name, stepped.targets)
        assert endpoints is not None
        assert (endpoints.kind, endpoints.admin_token) == ("staging", ADMIN)
        token, (state, reason) = mint(endpoints)
        assert state == "pass", reason
        assert token is not None
        assert joins(endpoints, token, ["20260601T000000Z"])[0] == "pass"
        refused = joins(endpoints, token, ["20260601T000000Z", "20000101T000000Z"])
        assert refused == ("fail", "a client of build 20000101T000000Z cannot join: upgrade_required")
        assert joins(endpoints, replace(token, text="no-token"), ["20260601T000000Z"])[0] == "fail"
        stepped.alter = lambda path, status, body: (503, b"gone")
        assert mint(endpoints)[1][0] == "fail"
        stepped.alter = lambda path, status, body: (200, b"<html>")
        assert mint(endpoints)[1] == (
            "fail",
            f"POST {endpoints.control_url}/api/spacetime/token {{}} gave 200 <html>",
        )
