"""When a negative client uses which token, and when it asks again, exactly."""

import math
from dataclasses import replace

import pytest

from sim.client import policies
from sim.client.actions import ClientSettings, Connect, Mint, Send, Token
from sim.client.negative import malformed
from sim.client.negative.base import verdict
from sim.client.negative.registry import session_class
from sim.client.negative.tokens import BadToken, ExpiredToken, ForbiddenMint
from sim.client.transitions import State
from sim.protocols.events import Answer, Closed, DisconnectReason, Joined, Opened, Refused
from sim.protocols.intents import Compatibility, Join, Subscribe
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.server import tokens
from sim.server.settings import RuntimeSettings
from sim.server.tokens import AUDIENCE, ISSUER, Claims, Key
from tests.client.session_driver import RUN

NOW = 1000.0
SERVICE = RuntimeSettings(token_leeway_s=30, token_max_age_s=300, token_ttl_min_s=60, token_ttl_max_s=900)


def client(name: str) -> BadToken:
    settings = ClientSettings(1, Compatibility("c"), CAPABILITIES, service=SERVICE, forms=SpacetimeForms())
    return session_class(name)(4, (RUN,), policies.get("reference"), settings)  # type: ignore[return-value]


def signed(*, issued_at: float = NOW, not_before: float = NOW) -> Token:
    claims = Claims(ISSUER, AUDIENCE, "user:u", issued_at, not_before, NOW + 100, "id", "u", "org", "s", "d")
    return Token(tokens.mint(claims, Key("k", b"k")), NOW + 90, NOW + 100)


def test_token_must_be_refused_from_a_moment_on():
    assert client("missing_token")._due_at(signed(), NOW) == NOW
    assert client("outdated_token")._due_at(signed(), NOW) == NOW + 100 + 30 + 0.5
    assert client("overaged_token")._due_at(signed(issued_at=NOW - 9), NOW) == NOW - 9 + 300 + 0.5
    premature = client("premature_token")
    for early_s, due_at in ((30.5, math.inf), (30.6, NOW)):
        assert premature._due_at(signed(not_before=NOW + early_s), NOW) == due_at


def test_token_is_kept_until_it_must_be_refused():
    outdated = client("outdated_token")
    outdated.start(NOW)
    assert outdated.actions() == [Mint()]
    outdated.minted(signed(), NOW)
    assert (outdated.actions(), outdated.state, outdated.wake_at(), outdated.must_mint) == (
        [],
        State.BACKOFF,
        NOW + 130.5,
        False,
    )
    outdated.wake(NOW + 130.4)
    assert outdated.actions() == []
    outdated.wake(NOW + 130.5)
    (connect,) = outdated.actions()
    assert isinstance(connect, Connect)
    assert connect.token.refresh_at == math.inf


def test_another_token_is_asked_for_twice_a_second():
    premature = client("premature_token")
    premature.start(NOW)
    premature.actions()
    premature.minted(signed(), NOW)
    assert (premature.actions(), premature.wake_at(), premature.must_mint) == ([], NOW + 0.5, True)
    premature.wake(NOW + 0.5)
    assert premature.actions() == [Mint()]


@pytest.mark.parametrize("reason", [DisconnectReason.UNAUTHORIZED, DisconnectReason.FORBIDDEN, DisconnectReason.NETWORK])
def test_bad_token_is_restored_with_its_answer(reason: DisconnectReason):
    missing, good = client("missing_token"), signed()
    missing.start(NOW)
    missing.minted(good, NOW)
    (_, connect) = missing.actions()
    assert isinstance(connect, Connect)
    assert connect.token.text == ""
    missing.received((Opened(),), NOW)
    missing.received((Closed(reason),), NOW)
    answers = [notice.detail for notice in missing.notices() if notice.kind == "probed"]
    assert answers == ([] if reason is DisconnectReason.NETWORK else [f"missing_token:refused:{reason}"])
    assert missing.token == good


def test_signature_of_a_garbled_token_differs_in_its_first_character():
    garbled = client("garbled_token")
    assert [garbled._misuse(text) for text in ("a.b.Axyz", "a.b.xyz")] == ["a.b.Bxyz", "a.b.Ayz"]


def test_forged_tokens_say_what_they_claim():
    for name, issuer, audience in (
        ("foreign_key_token", ISSUER, AUDIENCE),
        ("foreign_issuer_token", "stormgate.forger", AUDIENCE),
        ("foreign_audience_token", ISSUER, "stormgate.elsewhere"),
    ):
        claims = tokens.unverified(client(name)._misuse(signed().text))
        assert (claims.issuer, claims.audience, claims.user_id) == (issuer, audience, "u")


def test_requests_for_tokens_that_must_not_be_granted():
    usual = client("missing_token").token_request
    forms = SpacetimeForms()
    wanted = {
        "foreign_topic_mint": replace(usual, topics=(RUN, forms.unmintable_streams[0])),
        "unsupported_topic_mint": replace(usual, topics=(RUN, forms.unmintable_streams[1])),
        "endless_token_mint": replace(usual, ttl_s=901),
        "outdated_token": replace(usual, ttl_s=60),
        "overaged_token": replace(usual, ttl_s=900),
    }
    for name, request in wanted.items():
        asking = client(name)
        assert asking.token_request == request
        asking._has_answer = True
        assert asking.token_request == usual


@pytest.mark.parametrize(("code", "answers"), [("network", []), ("invalid_ttl", ["endless_token_mint:refused:invalid_ttl"])])
def test_network_failure_is_no_answer_to_a_mint(code: str, answers: list[str]):
    asking = client("endless_token_mint")
    assert isinstance(asking, ForbiddenMint)
    for _ in range(2):
        asking.state = State.MINTING
        asking.mint_failed(code, NOW)
    assert [notice.detail for notice in asking.notices() if notice.kind == "probed"] == answers


def test_void_token_is_tried_after_its_end_and_leeway():
    asking = client("expired_token")
    assert isinstance(asking, ExpiredToken)
    token = signed()
    assert [asking._is_void(token, NOW + age) for age in (129.9, 130.0)] == [False, True]
    asking._void = token
    assert asking._is_void(token, NOW)
    assert not asking._is_void(signed(), NOW)


def test_foreign_stream_is_asked_for_once_and_only_its_answer_counts():
    asking = client("forbidden_topic")
    asking.start(NOW)
    asking.minted(signed(), NOW)
    asking.actions()
    asking.received((Opened(),), NOW)
    (join,) = [action.intent for action in asking.actions() if isinstance(action, Send)]
    assert isinstance(join, Join)
    asking.received((Joined(join.ref),), NOW)
    (own,) = [action.intent for action in asking.actions() if isinstance(action, Send)]
    assert isinstance(own, Subscribe)
    asking.received((Answer(own.ref, True),), NOW)
    asking._went_live(NOW)
    (asked,) = [action.intent for action in asking.actions() if isinstance(action, Send)]
    assert isinstance(asked, Subscribe)
    assert asked.after == {SpacetimeForms().foreign_stream: None}
    asking._take_other_reply(Answer("another", True), NOW)
    asking._take_other_reply(Refused(asked.ref, "forbidden_topic"), NOW)
    asking._went_live(NOW)
    assert asking.actions() == []
    assert [notice.detail for notice in asking.notices() if notice.kind == "probed"] == [
        "forbidden_topic:refused:forbidden_topic"
    ]


def test_verdicts():
    assert [verdict(each) for each in (Answer("1", True), Answer("1", False), Refused("1", "no"))] == [
        *("accepted", "refused:error", "refused:no"),
    ]


def test_waits_of_a_client_that_sends_malformed_frames():
    assert (malformed.GAP_S, malformed._MAX_CLOSES) == (0.05, 3)


def test_payload_of_a_mutation_names_its_client_and_topic():
    event = {"event_type": "stormgate.probe", "payload": {"client": 4}}
    assert client("any_mutation")._mutation() == {"topic": RUN, "seq": 1, "event": event}
