"""What every check answers on five hand-written drills. `every_answer.toml` has its state, value, samples and reason."""

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from drills.judging import gates
from drills.judging.checks.base import Case
from drills.judging.checks.registry import OF_RUNS
from sim.drill.model import Drill
from sim.record.observations import Kind
from tests.drills.asking import THRESHOLDS
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill

EXPECTED = tomllib.loads(Path(__file__).with_name("every_answer.toml").read_text())
FLOOR, BUDGET, WORKER = "retention_floor_breach", "replay_budget_exceeded", "runtime.codex.worker.events"
NEGATIVE = ("any_mutation", "malformed_frames", "expired_token", "garbled_token")
DRILL = storm_drill(4, stale_reasons=(FLOOR,), negative_clients=NEGATIVE)


def troubled() -> Story:
    """A storm of four clients in which nearly everything goes wrong once or twice."""
    story = good_storm(4).without(lambda row: row.kind is Kind.SETTLED and row.client == 2)
    story.header["retired_routes"] = ["/old", "/older"]
    story.tell(19.95, Kind.STEADY, value=0.5, detail="slow")
    for part in (faults, connections, cursors, contents, negative_clients, authority):
        part(story)
    story.rows.sort(key=lambda row: row.t)
    return story


def faults(story: Story) -> None:
    story.header["plan"] = [{"kind": "drop_sockets", "at_s": 0.0, "clients": 4}]
    for index, kind in enumerate(("duplicate_deliveries", "half_open_links", "stop_reading"), 1):
        story.header["plan"].append({"kind": kind, "at_s": 2.0})
        story.tell(20.5, Kind.FAULT_INJECTED, attempt=index, detail=kind)
        story.tell(22.0, Kind.FAULT_OBSERVED, attempt=index, value=3.0, detail=kind)
        story.tell(22.0, Kind.FAULT_REVERTED, attempt=index, detail=kind)
    story.tell(22.0, Kind.HALF_OPEN_LEFT, attempt=2, value=2.0).tell(21.0, Kind.DUPLICATE_DROPPED, 1, STREAM, 5)


def connections(story: Story) -> None:
    story.tell(40.0, Kind.DISCONNECTED, 1, detail="network").tell(40.0, Kind.ENDED, 1, detail="server:1012:retry", attempt=1012)
    story.tell(41.0, Kind.DISCONNECTED, 2, detail="network").tell(42.0, Kind.HEARTBEAT_TIMEOUT, 2)
    story.tell(20.6, Kind.EVICTED, 3, detail="disconnect").tell(21.0, Kind.DISCONNECTED, 3, detail="network")
    story.tell(21.3, Kind.CONNECT_ATTEMPTED, 3, attempt=1)
    for t, code in ((43.0, "token_expired"), (43.5, "token_too_old"), (35.0, "invalid_token")):
        story.tell(t, Kind.CONNECT_FAILED, 0, detail=code)
    story.tell(44.0, Kind.TOKEN_REFUSED, 0, detail="forbidden")
    story.tell(30.0, Kind.BACKOFF, 0, attempt=3, value=9000.0, detail="network")
    story.tell(59.0, Kind.STILL_PENDING, 3, STREAM, 300, value=330.0, detail="behind")
    story.tell(59.5, Kind.STILL_PENDING, AUDITOR, STREAM, 300, value=330.0, detail="behind")


def cursors(story: Story) -> None:
    for number, (client, why) in enumerate(((0, FLOOR), (0, FLOOR), (1, BUDGET))):
        story.tell(45.0 + number, Kind.STALE, client, STREAM, 300 + 29 * number, attempt=number, value=1.0, detail=why)
    story.tell(47.0, Kind.DECLARED_LOSS, 3, STREAM, 330, value=2.0).tell(47.0, Kind.DECLARED_LOSS, 3, WORKER, 3)


def contents(story: Story) -> None:
    story.apply(0, 329, t=46.0).apply(1, 340, t=46.0).tell(46.5, Kind.HASH_MISMATCH, 2, STREAM, 7, detail="x")
    for detail in ("live", "replay"):
        story.tell(46.0, Kind.GAP, 2, STREAM, 9, value=7.0, detail=detail)


def negative_clients(story: Story) -> None:
    story.header["negative_clients"] = {"5": "any_mutation", "6": "malformed_frames", "7": "expired_token"}
    story.header["malformed_kinds"] = ["array", "huge", "text"]
    for client, answer in (
        *((5, "any_mutation:refused:mutation_refused"), (7, "expired_token:accepted")),
        *((6, f"malformed_frames:{what}:refused:closed") for what in ("array", "huge")),
        (6, "malformed_frames:text:refused:bad_event"),
    ):
        story.tell(31.0, Kind.PROBED, client, detail=answer)


def authority(story: Story) -> None:
    for number in range(3):
        story.tell(48.0 + number, Kind.PUBLISH_FAILED, -1, STREAM, value=2000.0, detail="refused")
        story.tell(48.0 + number, Kind.PUBLISH_TRIED, -1, STREAM, attempt=1, value=1000.0, detail="refused")
    for t, route, status in ((10.0, "/old", 404.0), (22.0, "/older", 410.0), (30.0, "/old", 404.0)):
        story.tell(t, Kind.ROUTE_ANSWERED, -1, detail=route, value=status)
    story.tell(31.0, Kind.KEYS_ROTATED, detail="k2")
    for client, key in ((0, "k1"), (1, "k2")):
        story.tell(33.0 + client, Kind.TOKEN_MINTED, client, value=4.0, detail=key)
        story.tell(36.0, Kind.SESSION_REVOKED, client).tell(39.0, Kind.SIGNED_IN, client)
    story.tell(37.0, Kind.DISCONNECTED, 1, detail="unauthorized").tell(38.0, Kind.SUBSCRIBED, 1)


def outages() -> Story:
    """From 10 s to 20 s there are no new tokens, nothing is delivered, clocks are skewed and appends overlap."""
    story = Story(4, header={"capabilities": {}}).tell(10.0, Kind.TOKEN_FORGOTTEN, 3)
    for t, phase in ((0.0, "steady"), (10.0, "fault"), (20.0, "recovery"), (30.0, "settle"), (40.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    for index, kind in enumerate(("mint_outage", "stop_delivery", "skew_clocks", "concurrent_appends")):
        story.tell(10.0, Kind.FAULT_INJECTED, attempt=index, detail=kind)
        story.tell(20.0, Kind.FAULT_REVERTED, attempt=index, detail=kind)
    for client in range(4):
        story.tell(1.0, Kind.TOKEN_MINTED, client, value=4.0).tell(2.0, Kind.SUBSCRIBED, client, value=1.0)
        story.tell(11.0, Kind.DISCONNECTED, client, detail="network")
    story.tell(12.0, Kind.SUBSCRIBED, 0, value=1.0).tell(20.0, Kind.SUBSCRIBED, 1, value=1.0)  # just in time, and just too late
    story.tell(15.0, Kind.TOKEN_MINTED, 0, value=1.0).tell(16.0, Kind.DISCONNECTED, 0, detail="token_refresh_due")
    story.tell(17.0, Kind.SUBSCRIBED, 0, value=1.0)
    story.tell(10.0, Kind.TOKEN_MINTED, 1, value=1.0).tell(20.0, Kind.TOKEN_MINTED, 2, value=1.0)
    # Due from just after the outage's start to a second before its end; one is acknowledged when that is over.
    on_time = ((1, 12.0, 500.0), (2, 13.0, 500.0), (3, 14.0, 500.0), (5, 12.0, 1999.0), (6, 12.0, 2000.0), (7, 19.5, 500.0))
    for seq, t, took_ms in (*on_time, (4, 21.0, 4000.0), (8, 20.0, 8000.0)):
        story.publish(seq, t=t, value=took_ms)
    story.publish(1, t=25.0, value=10.0, stream="runtime.run.2.events")
    for t, took_ms in ((13.0, 500.0), (26.0, 10.0)):
        story.tell(t, Kind.PUBLISH_FAILED, -1, STREAM, value=took_ms, detail="refused")
    story.rows.sort(key=lambda row: row.t)
    return story


def refused() -> Story:
    """A storm in which all that must be refused is refused, and all that was revoked, rotated or cut comes back."""
    story = good_storm(4)
    story.header |= {"retired_routes": ["/old"], "malformed_kinds": ["array", "huge", "text"], "plan": []}
    story.header["negative_clients"] = {"5": "any_mutation", "6": "malformed_frames", "7": "expired_token"}
    for client, answer, times in (
        *((5, "any_mutation:refused:mutation_refused", 2), (7, "expired_token:refused:token_expired", 1)),
        *((8, "garbled_token:refused:invalid_token", 1), (6, "malformed_frames:array:silence", 1)),
        *((6, f"malformed_frames:{what}:refused:bad_event", 2) for what in ("array", "text")),
        (6, "malformed_frames:huge:refused:closed", 1),
    ):
        for _ in range(times):
            story.tell(31.0, Kind.PROBED, client, detail=answer)
    story.tell(58.0, Kind.SETTLED, 5).tell(58.0, Kind.SETTLED, 6)
    for t in (1.0, 20.0, 25.0):
        story.tell(t, Kind.ROUTE_ANSWERED, -1, detail="/old", value=404.0)
    story.tell(31.0, Kind.KEYS_ROTATED, detail="k2").tell(33.0, Kind.TOKEN_MINTED, 0, value=4.0, detail="k2")
    story.tell(36.0, Kind.SESSION_REVOKED, 0, value=1.0).tell(39.0, Kind.DISCONNECTED, 0, detail="unauthorized")
    story.tell(40.0, Kind.SIGNED_IN, 0).tell(40.5, Kind.SUBSCRIBED, 0)
    story.tell(45.0, Kind.STALE, 0, STREAM, 300, attempt=1, value=1.0, detail=FLOOR)
    for number, kind in enumerate(("stop_delivery", "mint_outage", "skew_clocks"), 1):
        story.tell(15.0, Kind.FAULT_INJECTED, attempt=number, detail=kind)
        story.tell(24.0, Kind.FAULT_REVERTED, attempt=number, detail=kind)
    story.rows.sort(key=lambda row: row.t)
    return story


STORIES: dict[str, tuple[Callable[[], Story], Drill]] = {
    "healthy": (lambda: good_storm(4), DRILL),
    "troubled": (troubled, DRILL),
    "outages": (outages, storm_drill(4)),
    "refused": (refused, DRILL),
    "empty": (lambda: Story(2), DRILL),
}


def answers(story: Story, drill: Drill, names: Iterable[str]) -> dict[str, Any]:
    """State, value to five digits, number of samples and reason of each check."""
    case = Case(drill, story.history())
    found = {name: gates.answer(OF_RUNS[name], case, THRESHOLDS.get(name), "") for name in names}
    return {name: [str(each.state), f"{each.value:.5g}", each.n, each.reason] for name, each in found.items()}


@pytest.mark.parametrize("name", STORIES)
def test_every_check_says_what_it_found(name: str) -> None:
    story, drill = STORIES[name]
    assert answers(story(), drill, EXPECTED[name]) == EXPECTED[name]


def test_no_check_of_a_run_is_left_out() -> None:
    assert all(EXPECTED[story].keys() == gates.DECISIONS.keys() for story in ("healthy", "troubled", "empty"))
