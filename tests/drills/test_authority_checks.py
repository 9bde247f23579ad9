"""Checks of the authority: tokens, keys, sessions, publishing, clocks, retired routes. Each passes, fails and lacks data."""

import pytest

from drills.judging.checks.verdicts import State
from sim.drill.fault_kinds import (
    ConcurrentAppends,
    FailPublishes,
    MintOutage,
    RevokeSessions,
    RotateKeys,
    SkewClocks,
    StopDelivery,
)
from sim.drill.model import Drill
from sim.record.observations import Kind
from sim.service.paths import RETIRED
from tests.drills.asking import CASE, cases, state, with_fault
from tests.histories import STREAM, Story, good_storm, storm_drill


def connect_failed(code: str) -> Story:
    return good_storm(2).tell(30.0, Kind.CONNECT_FAILED, 0, detail=code)


def publishes_failed(failed: int) -> Story:
    """The fault refused three publishes; the publisher gave up on `failed`."""
    story = good_storm(2).without(lambda row: row.kind == Kind.FAULT_OBSERVED)
    story.tell(21.0, Kind.FAULT_OBSERVED, value=3.0, detail="fail_publishes")
    for _ in range(failed):
        story.tell(20.5, Kind.PUBLISH_FAILED, stream=STREAM, value=5.0, detail="some_code")
    return story


def publishes_failed_by_hook(*moments: float, took_ms: float = 5.0, by: str = "hook") -> Story:
    """A hook refused publishes from 20 s to 21 s, and said nothing of their number; these failed."""
    dropped = (Kind.FAULT_OBSERVED, Kind.FAULT_INJECTED, Kind.FAULT_REVERTED)
    story = good_storm(2).without(lambda row: row.kind in dropped)
    story.header["plan"] = [{"kind": "fail_publishes", "by": by, "at_s": 0.0}]
    story.tell(20.0, Kind.FAULT_INJECTED, detail="fail_publishes").tell(
        21.0, Kind.FAULT_OBSERVED, value=1.0, detail="fail_publishes"
    )
    story.tell(21.0, Kind.FAULT_REVERTED, detail="fail_publishes")
    for t in moments:
        story.tell(t, Kind.PUBLISH_FAILED, stream=STREAM, value=took_ms, detail="some_code")
    return story


def appended_at_once(*acknowledged_t: float, failed: tuple[float, ...] = ()) -> Story:
    """Appends overlapped until 23 s; single events were acknowledged, or failed, at these times."""
    dropped = (Kind.FAULT_OBSERVED, Kind.FAULT_INJECTED, Kind.FAULT_REVERTED, Kind.PUBLISHED)
    story = good_storm(2).without(lambda row: row.kind in dropped)
    story.tell(20.0, Kind.FAULT_INJECTED, detail="concurrent_appends")
    story.tell(23.0, Kind.FAULT_REVERTED, detail="concurrent_appends")
    for t in acknowledged_t:
        story.tell(t, Kind.PUBLISHED, stream=STREAM, seq=int(1000 * t), value=5.0, detail="abc")
    for t in failed:
        story.tell(t, Kind.PUBLISH_FAILED, stream=STREAM, value=20_000.0, detail="unknown_outcome")
    return story


def failing(status: int) -> Drill:
    return with_fault(2, FailPublishes(at_s=0.0, status=status, share=0.5, for_s=1.0))


def outage(*lives: tuple[int, float]) -> Story:
    """No tokens from 10 s to 20 s; clients 0 to 2 are cut at 11 s, client 2 without a token; `lives`: live again."""
    story = Story(3).tell(10.0, Kind.FAULT_INJECTED, detail="mint_outage").tell(10.0, Kind.TOKEN_FORGOTTEN, 2)
    for client in range(3):
        story.tell(5.0, Kind.SUBSCRIBED, client).tell(11.0, Kind.DISCONNECTED, client, detail="network")
    for client, t in lives:
        story.tell(t, Kind.SUBSCRIBED, client)
    return story.tell(20.0, Kind.FAULT_REVERTED, detail="mint_outage")


def revocation(
    notified: float | None = 10.1, live_at: float | None = None, other: float | None = None, took_s: float = 0.0
) -> Story:
    """Client 0 is revoked at 10 s, signs in at 15 s, is live again at 16 s; client 1 stays connected.

    `notified`: when client 0 is disconnected; `live_at`: when it is live too early; `other`: when client 1 is cut; `took_s`:
    until the revocation was said to be done.
    """
    story = Story(2).tell(1.0, Kind.SUBSCRIBED, 0).tell(1.0, Kind.SUBSCRIBED, 1)
    story.tell(10.0, Kind.SESSION_REVOKED, 0, value=took_s).tell(15.0, Kind.SIGNED_IN, 0).tell(16.0, Kind.SUBSCRIBED, 0)
    if notified is not None:
        story.tell(notified, Kind.DISCONNECTED, 0, detail="unauthorized")
    if live_at is not None:
        story.tell(live_at, Kind.SUBSCRIBED, 0)
    return story if other is None else story.tell(other, Kind.DISCONNECTED, 1, detail="network")


def rotation(kid: str, due: float = 12.0, refused: str = "network") -> Story:
    """The keys were rotated at 10 s; a token due then or later has this key, and a connect was refused."""
    story = Story(2).tell(5.0, Kind.TOKEN_MINTED, 0, value=1.0, detail="old").tell(10.0, Kind.KEYS_ROTATED, detail="new")
    story.tell(due + 1.0, Kind.TOKEN_MINTED, 0, value=1000.0, detail=kid)
    return story.tell(14.0, Kind.CONNECT_FAILED, 0, detail=refused)


def rotated_again(kid: str) -> Story:
    """The keys were rotated a second time at 20 s; a later token has this key."""
    return (
        rotation("new").tell(20.0, Kind.KEYS_ROTATED, detail="newest").tell(25.0, Kind.TOKEN_MINTED, 1, value=1.0, detail=kid)
    )


def without_delivery(*acknowledged: float, failed: int = 0) -> Story:
    """Delivery is down from 10 s to 20 s; an event is due every second from 11 s, acknowledged at these times."""
    kind = "stop_delivery"
    story = Story(1).tell(10.0, Kind.FAULT_INJECTED, detail=kind).tell(20.0, Kind.FAULT_REVERTED, detail=kind)
    for number, t in enumerate(acknowledged):
        story.tell(t, Kind.PUBLISHED, stream=STREAM, seq=number + 1, value=(t - 11.0 - number) * 1000)
    for _ in range(failed):
        story.tell(12.0, Kind.PUBLISH_FAILED, stream=STREAM, value=10.0, detail="publishing_unavailable")
    return story


def skewed(renewed_after_s: float, client: int = 1, reason: str = "token_refresh_due") -> Story:
    """Client 1 gets a token at 10 s under skewed clocks; a client disconnects later; a renewal is due after 270 s."""
    story = Story(2).tell(9.0, Kind.FAULT_INJECTED, detail="skew_clocks").tell(10.0, Kind.TOKEN_MINTED, 1, value=1.0)
    story.tell(10.0 + renewed_after_s, Kind.DISCONNECTED, client, detail=reason)
    return story.tell(20.0, Kind.FAULT_REVERTED, detail="skew_clocks")


def requested(*moments: float, status: float = 404.0, further: str = "") -> Story:
    """The retired routes were requested at these times; the drill's fault phase is from 20 s to 25 s.

    `further`: a route that the target names besides, and that nobody requested.
    """
    story = good_storm(1)
    story.header["retired_routes"] = [*RETIRED, *([further] if further else [])]
    for t in moments:
        for route in RETIRED:
            story.tell(t, Kind.ROUTE_ANSWERED, value=status, detail=route)
    return story


CASES = [
    *cases(
        "error.tokens_too_old",
        storm_drill(2, checks=("error.tokens_too_old",)),
        PASS=[good_storm(2), connect_failed("network")],
        FAIL=[connect_failed("token_too_old")],
    ),
    # 413 refuses for good; the other refusals are to be tried again.
    *cases("drill.publish_failures", failing(413), PASS=[publishes_failed(3)], FAIL=[publishes_failed(2)], NO_DATA=[Story(2)]),
    *cases(
        "drill.streams_alive",
        with_fault(2, ConcurrentAppends(at_s=0.0, for_s=1.0)),
        PASS=[appended_at_once(24.0), appended_at_once(24.0, failed=(45.0,))],
        FAIL=[appended_at_once(22.0, 23.001, failed=(45.0,))],  # the second was due before the end
        NO_DATA=[appended_at_once(22.0), appended_at_once(22.0, failed=(42.0,))],
    ),
    *cases("drill.publish_failures", failing(429), PASS=[publishes_failed(0)]),
    *cases("drill.publish_failures", failing(503), FAIL=[publishes_failed(1)]),
    *cases(
        "drill.publish_failures",
        failing(413),
        PASS=[publishes_failed_by_hook(20.2, 20.6, 20.9)],
        FAIL=[
            publishes_failed_by_hook(20.2, 25.0),
            publishes_failed_by_hook(20.5, took_ms=20_000.0),
            publishes_failed_by_hook(20.2, 20.6, by="stormgate"),
        ],
        INCONCLUSIVE=[publishes_failed_by_hook()],
    ),
    *cases(
        "drill.token_holders",
        with_fault(3, MintOutage(at_s=0.0, for_s=1.0)),
        PASS=[outage((0, 12.0), (1, 12.0), (2, 22.0))],
        FAIL=[outage((0, 12.0), (1, 21.0), (2, 22.0)), outage((0, 12.0))],
        NO_DATA=[Story(3)],
    ),
    *cases(
        "drill.revocation",
        with_fault(2, RevokeSessions(at_s=0.0, for_s=1.0)),
        PASS=[revocation(), revocation(12.0), revocation(13.5, took_s=1.5), revocation(other=17.0)],
        FAIL=[
            revocation(None),
            revocation(14.9),
            revocation(13.6, took_s=1.5),
            revocation(live_at=12.0),
            revocation(other=11.0),
        ],
        NO_DATA=[Story(2)],
    ),
    *cases(
        "drill.key_rotation",
        with_fault(2, RotateKeys(at_s=0.0, for_s=1.0)),
        PASS=[rotation("new"), rotated_again("newest")],
        FAIL=[rotation("old"), rotation("new", refused="invalid_token"), rotated_again("new"), rotated_again("old")],
        NO_DATA=[rotation("old", due=9.5), Story(2)],  # requested before the rotation; not rotated
    ),
    *cases(
        "drill.authority_served",
        with_fault(1, StopDelivery(at_s=0.0, for_s=1.0)),
        PASS=[without_delivery(11.1, 12.1, 13.1)],
        FAIL=[without_delivery(11.1, 12.1, 20.5), without_delivery(11.1, failed=1)],
        NO_DATA=[without_delivery()],
    ),
    *cases(
        "drill.clocks",
        with_fault(2, SkewClocks(at_s=0.0, by_s=300.0, for_s=1.0)),
        PASS=[skewed(270.0), skewed(0.1, reason="network"), skewed(0.1, client=0)],
        FAIL=[skewed(0.1)],
        NO_DATA=[Story(2)],
    ),
    *cases(
        "drill.retired_routes",
        storm_drill(1, retired_routes=True),
        PASS=[requested(1.0, 22.0, 30.0)],
        INCONCLUSIVE=[
            requested(1.0, 30.0),  # not requested in the fault phase
            requested(1.0, 22.0, 30.0, further="GET /old"),
        ],
        FAIL=[
            requested(1.0, 22.0, 30.0).tell(31.0, Kind.ROUTE_ANSWERED, value=200.0, detail="GET /x"),
            requested(1.0, 22.0, 30.0, status=503.0),
        ],
        NO_DATA=[requested()],
    ),
]


@pytest.mark.parametrize(CASE, CASES)
def test_check_has_the_state_of_its_history(name: str, story: Story, drill: Drill, expected: State) -> None:
    assert state(name, story, drill) is expected
