"""The checks of drills of the authority: tokens, keys, sessions, publishing, clocks, routes that are gone."""

import pytest
from msgspec.structs import replace

from drills.judging.checks.verdicts import State
from sim.drill.fault_kinds import FailPublishes, MintOutage, RevokeSessions, RotateKeys, SkewClocks, StopDelivery
from sim.protocols.spacetime.retired_routes import RETIRED
from sim.record.observations import Kind
from tests.drills.asking import FAIL, NO_DATA, PASS, state
from tests.histories import STREAM, Story, good_storm, storm_drill


def test_tokens_too_old() -> None:
    drill = storm_drill(2, checks=("error.tokens_too_old",))
    assert state("error.tokens_too_old", good_storm(2), drill) is PASS
    refused = good_storm(2).tell(30.0, Kind.CONNECT_FAILED, 0, detail="token_too_old")
    assert state("error.tokens_too_old", refused, drill) is FAIL
    assert state("error.tokens_too_old", good_storm(2).tell(30.0, Kind.CONNECT_FAILED, 0, detail="network"), drill) is PASS


@pytest.mark.parametrize(
    ("status", "failed", "expected"), [(413, 3, "PASS"), (413, 2, "FAIL"), (429, 0, "PASS"), (503, 1, "FAIL")]
)
def test_publish_failures(status: int, failed: int, expected: str) -> None:
    """Three publishes were refused: those of 413 for good, the others to be tried again."""
    drill = replace(storm_drill(2), faults=(FailPublishes(at_s=0.0, status=status, share=0.5, for_s=1.0),))
    story = good_storm(2).without(lambda row: row.kind == Kind.FAULT_OBSERVED)
    story.tell(21.0, Kind.FAULT_OBSERVED, value=3.0, detail="fail_publishes")
    for _ in range(failed):
        story.tell(20.5, Kind.PUBLISH_FAILED, stream=STREAM, value=5.0, detail="some_code")
    assert state("drill.publish_failures", story, drill) is State[expected]


def test_publish_failures_of_nothing_published() -> None:
    drill = replace(storm_drill(2), faults=(FailPublishes(at_s=0.0, status=413, share=0.5, for_s=1.0),))
    assert state("drill.publish_failures", Story(2), drill) is NO_DATA


def outage(*lives: tuple[int, float]) -> Story:
    """Nothing is minted from 10 s to 20 s; clients 0 to 2 are cut at 11 s, client 2 without a token; `lives`: live again."""
    story = Story(3).tell(10.0, Kind.FAULT_INJECTED, detail="mint_outage").tell(10.0, Kind.TOKEN_FORGOTTEN, 2)
    for client in range(3):
        story.tell(5.0, Kind.SUBSCRIBED, client).tell(11.0, Kind.DISCONNECTED, client, detail="network")
    for client, t in lives:
        story.tell(t, Kind.SUBSCRIBED, client)
    return story.tell(20.0, Kind.FAULT_REVERTED, detail="mint_outage")


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (outage((0, 12.0), (1, 12.0), (2, 22.0)), "PASS"),
        (outage((0, 12.0), (1, 21.0), (2, 22.0)), "FAIL"),
        (outage((0, 12.0)), "FAIL"),
        (Story(3), "NO_DATA"),
    ],
    ids=["back", "too late", "never", "nothing cut"],
)
def test_token_holders(story: Story, expected: str) -> None:
    drill = replace(storm_drill(3), faults=(MintOutage(at_s=0.0, for_s=1.0),))
    assert state("drill.token_holders", story, drill) is State[expected]


def revocation(**more: float) -> Story:
    """Client 0 is revoked at 10 s, told at 10.1 s, signed in at 15 s, back at 16 s; client 1 stays; `more`: what is not so."""
    story = Story(2).tell(1.0, Kind.SUBSCRIBED, 0).tell(1.0, Kind.SUBSCRIBED, 1)
    story.tell(10.0, Kind.SESSION_REVOKED, 0).tell(15.0, Kind.SIGNED_IN, 0).tell(16.0, Kind.SUBSCRIBED, 0)
    if "untold" not in more:
        story.tell(more.get("told", 10.1), Kind.DISCONNECTED, 0, detail="unauthorized")
    if "let_in" in more:
        story.tell(more["let_in"], Kind.SUBSCRIBED, 0)
    if "other" in more:
        story.tell(more["other"], Kind.DISCONNECTED, 1, detail="network")
    return story


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (revocation(), "PASS"),
        (revocation(untold=1.0), "FAIL"),
        (revocation(told=12.0), "PASS"),
        (revocation(told=14.9), "FAIL"),
        (revocation(let_in=12.0), "FAIL"),
        (revocation(other=11.0), "FAIL"),
        (revocation(other=17.0), "PASS"),
        (Story(2), "NO_DATA"),
    ],
    ids=[
        "as it must be",
        "untold",
        "told in time",
        "told late",
        "let in",
        "another cut",
        "another cut later",
        "nobody revoked",
    ],
)
def test_revocation(story: Story, expected: str) -> None:
    drill = replace(storm_drill(2), faults=(RevokeSessions(at_s=0.0, for_s=1.0),))
    assert state("drill.revocation", story, drill) is State[expected]


def rotation(kid: str, due: float = 12.0, refused: str = "network") -> Story:
    """The keys were rotated at 10 s; a token due then or later has this key, and a connect was refused."""
    story = Story(2).tell(5.0, Kind.TOKEN_MINTED, 0, value=1.0, detail="old").tell(10.0, Kind.KEYS_ROTATED, detail="new")
    story.tell(due + 1.0, Kind.TOKEN_MINTED, 0, value=1000.0, detail=kid)
    return story.tell(14.0, Kind.CONNECT_FAILED, 0, detail=refused)


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (rotation("new"), "PASS"),
        (rotation("old"), "FAIL"),
        (rotation("new", refused="invalid_token"), "FAIL"),
        (rotation("old", due=9.5), "NO_DATA"),  # asked for before
        (Story(2), "NO_DATA"),
    ],
    ids=["new key", "old key", "refused", "before", "not rotated"],
)
def test_key_rotation(story: Story, expected: str) -> None:
    drill = replace(storm_drill(2), faults=(RotateKeys(at_s=0.0, for_s=1.0),))
    assert state("drill.key_rotation", story, drill) is State[expected]


def without_delivery(*acknowledged: float, failed: int = 0) -> Story:
    """Delivery is down from 10 s to 20 s; an event is due every second from 11 s, acknowledged at these moments."""
    story = (
        Story(1).tell(10.0, Kind.FAULT_INJECTED, detail="stop_delivery").tell(20.0, Kind.FAULT_REVERTED, detail="stop_delivery")
    )
    for number, t in enumerate(acknowledged):
        story.tell(t, Kind.PUBLISHED, stream=STREAM, seq=number + 1, value=(t - 11.0 - number) * 1000)
    for _ in range(failed):
        story.tell(12.0, Kind.PUBLISH_FAILED, stream=STREAM, value=10.0, detail="publishing_unavailable")
    return story


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (without_delivery(11.1, 12.1, 13.1), "PASS"),
        (without_delivery(11.1, 12.1, 20.5), "FAIL"),
        (without_delivery(11.1, failed=1), "FAIL"),
        (without_delivery(), "NO_DATA"),
    ],
    ids=["at once", "only afterwards", "never", "nothing due"],
)
def test_authority_served(story: Story, expected: str) -> None:
    drill = replace(storm_drill(1), faults=(StopDelivery(at_s=0.0, for_s=1.0),))
    assert state("drill.authority_served", story, drill) is State[expected]


def skewed(renewed_after_s: float) -> Story:
    """A token is got at 10 s, while clocks are off, and given up so much later; it is to be renewed after 270 s."""
    story = Story(2).tell(9.0, Kind.FAULT_INJECTED, detail="skew_clocks").tell(10.0, Kind.TOKEN_MINTED, 1, value=1.0)
    story.tell(10.0 + renewed_after_s, Kind.DISCONNECTED, 1, detail="token_refresh_due")
    return story.tell(20.0, Kind.FAULT_REVERTED, detail="skew_clocks")


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (skewed(270.0), "PASS"),
        (skewed(0.1), "FAIL"),
        (skewed(0.1).changed(lambda row: row.kind is Kind.DISCONNECTED, detail="network"), "PASS"),
        (skewed(0.1).changed(lambda row: row.kind is Kind.DISCONNECTED, client=0), "PASS"),
        (Story(2), "NO_DATA"),
    ],
    ids=["in time", "at once", "for another reason", "another client's", "no token"],
)
def test_clocks(story: Story, expected: str) -> None:
    drill = replace(storm_drill(2), faults=(SkewClocks(at_s=0.0, by_s=300.0, for_s=1.0),))
    assert state("drill.clocks", story, drill) is State[expected]


def asked(*moments: float, status: float = 404.0) -> Story:
    """The routes that are gone were asked for at these moments; the drill's fault phase is from 20 s to 25 s."""
    story = good_storm(1)
    for t in moments:
        for method, path in RETIRED:
            story.tell(t, Kind.ROUTE_ANSWERED, value=status, detail=f"{method} {path}")
    return story


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (asked(1.0, 22.0, 30.0), "PASS"),
        (asked(1.0, 30.0), "INCONCLUSIVE"),
        (asked(1.0, 22.0, 30.0).tell(31.0, Kind.ROUTE_ANSWERED, value=200.0, detail="GET /x"), "FAIL"),
        (asked(1.0, 22.0, 30.0, status=503.0), "FAIL"),
        (asked(), "NO_DATA"),
    ],
    ids=["gone", "not asked in the storm", "served", "another error", "not asked"],
)
def test_retired_routes(story: Story, expected: str) -> None:
    assert state("drill.retired_routes", story, storm_drill(1, retired_routes=True)) is State[expected]
