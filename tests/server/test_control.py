"""The control service: tokens it mints, and requests it refuses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.spacetime.profile import PROFILE
from sim.protocols.spacetime.streams import SINGLE_TOPICS, stream_id
from sim.server.control import COUNTERS, Control, ControlRefusedError, TokenRequest
from sim.server.settings import RuntimeSettings
from sim.server.tokens import Claims, Key, Keyring, TokenRefusedError, may_read, verify

NOW = 1_700_000_000.25
SESSION = "Bearer session-ada"


def control(**settings: object) -> Control:
    return Control(RuntimeSettings(**settings), Keyring(Key("k1", b"one")), PROFILE, denied_devices={"stolen"})


def ask(service: Control, body: object = None, session: str | None = SESSION, *, outage: bool = False) -> dict[str, object]:
    request = TokenRequest.parse(session, b"" if body is None else json.dumps(body).encode())
    return service.issue(request, NOW, outage=outage)["data"]


def refusal(service: Control, body: object = None, session: str | None = SESSION, *, outage: bool = False) -> tuple[int, str]:
    with pytest.raises(ControlRefusedError) as refused:
        ask(service, body, session, outage=outage)
    assert str(refused.value) == refused.value.message
    return refused.value.status, refused.value.code


def claims_of(service: Control, answer: dict[str, object], now: float = NOW) -> Claims:
    return verify(answer["token"], service.keyring, now, leeway_s=30, max_age_s=300)


def test_token_response_has_all_contract_fields():
    service = control()
    answer = ask(service, {"topics": ["run:1:events"], "device_id": "laptop"})
    assert answer.pop("token").count(".") == 2
    assert answer == {
        "token_type": "Bearer",
        "transport": "spacetime_ws",
        "protocol_version": "spacetime.sync.v1",
        "expires_in": 300,
        "refresh_after_in": 270,
        "issued_at": "2023-11-14T22:13:20.250Z",
        "refresh_after": "2023-11-14T22:17:50.250Z",
        "expires_at": "2023-11-14T22:18:20.250Z",
        "issuer": "stormgate.control",
        "audience": "stormgate.runtime",
        "subject": "user:ada",
        "org_id": "org-mock",
        "claims_version": "openagents.sync.claims.v1",
        "scopes": ["runtime.run_events"],
        "granted_topics": [{"topic": "run:1:events", "required_scope": "runtime.run_events"}],
        "granted_streams": [{"stream": "runtime.run.1.events", "required_scope": "runtime.run_events"}],
        "kid": "k1",
        "token_id": "token-1700000000250-1",
        "session_id": "session-ada",
        "device_id": "laptop",
    }


def test_token_claims_match_response():
    service = control()
    answer = ask(service, {"topics": ["run:1:events"]})
    claims = claims_of(service, answer)
    assert (claims.user_id, claims.session_id, claims.token_id) == ("ada", answer["session_id"], answer["token_id"])
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + 300)
    assert claims.scopes == ("runtime.run_events",)
    assert may_read(claims, "run:1:events", PROFILE.topics)
    assert not may_read(claims, "run:2:events", PROFILE.topics)


def test_empty_request_gets_every_scope_and_no_grants():
    service = control()
    claims = claims_of(service, ask(service))
    assert (claims.topics, claims.streams) == ((), ())
    assert all(may_read(claims, topic, PROFILE.topics) for topic in (*SINGLE_TOPICS, "run:9:events", "worker:9:lifecycle"))
    assert not may_read(claims, "unheard:of", PROFILE.topics)


def test_streams_and_topics_are_merged():
    service = control()
    answer = ask(service, {"topics": ["run:1:events"], "streams": ["runtime.run.1.events", "runtime.run.2.events"]})
    assert [grant["topic"] for grant in answer["granted_topics"]] == ["run:1:events", "run:2:events"]
    assert all(may_read(claims_of(service, answer), topic, PROFILE.topics) for topic in ("run:1:events", "run:2:events"))


@pytest.mark.parametrize("topic", SINGLE_TOPICS)
def test_single_topic_is_granted_by_its_stream_id(topic):
    service = control()
    answer = ask(service, {"streams": [stream_id(topic)]})
    assert [grant["topic"] for grant in answer["granted_topics"]] == [topic]
    assert may_read(claims_of(service, answer), topic, PROFILE.topics)


@pytest.mark.parametrize(
    "session", [None, "", "Bearer", "Bearer ", "Basic session-ada", "Bearer ada", "Bearer session-", "session-a b"]
)
def test_malformed_session_is_unauthorized(session):
    assert refusal(control(), session=session) == (401, "unauthorized")


@pytest.mark.parametrize("session", ["Bearer session-ada", "bearer  session-ada ", "session-ada"])
def test_authorization_scheme_is_optional(session):
    assert ask(control(), session=session)["subject"] == "user:ada"


@pytest.mark.parametrize(("ttl_s", "refresh_s"), [(10, 1), (60, 30), (300, 270), (900, 870)])
def test_refresh_is_due_before_expiry_but_not_at_once(ttl_s, refresh_s):
    answer = ask(control(token_ttl_min_s=min(ttl_s, 60)), {"ttl_seconds": ttl_s})
    assert (answer["expires_in"], answer["refresh_after_in"]) == (ttl_s, refresh_s)


@pytest.mark.parametrize("ttl_s", [-1, 0, 59, 901, 2**70])
def test_ttl_out_of_bounds_is_refused(ttl_s):
    status, code = refusal(control(), {"ttl_seconds": ttl_s})
    assert (status, code) in {(422, "invalid_ttl"), (422, "malformed_request")}


def test_longest_token_becomes_too_old_before_expiry():
    service = control()
    answer = ask(service, {"ttl_seconds": 900})
    claims_of(service, answer, NOW + 300)
    with pytest.raises(TokenRefusedError) as refused:
        claims_of(service, answer, NOW + 301)
    assert refused.value.code == "token_too_old"


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        *((asked, (422, "unsupported_topic")) for asked in ({"topics": ["a:b"]}, {"topics": ["run::events"]})),
        *((asked, (422, "unsupported_topic")) for asked in ({"streams": ["x"]}, {"streams": ["runtime.topic."]})),
        ({"scopes": ["admin"]}, (403, "scope_not_allowed")),
        ({"scopes": ["admin"], "topics": ["run:1:events"]}, (403, "scope_not_allowed")),
        ({"scopes": ["runtime.topics"]}, (403, "scope_not_allowed")),
        ({"scopes": ["runtime.run_events"], "topics": ["worker:1:lifecycle"]}, (403, "scope_not_allowed")),
        ({"topics": ["fleet:user:bob:workers"]}, (403, "scope_not_allowed")),
        ({"streams": ["runtime.fleet.user.bob.workers"]}, (403, "scope_not_allowed")),
        ({"device_id": "stolen"}, (403, "device_not_allowed")),
        ({"topics": [f"run:{n}:events" for n in range(1000)]}, (422, "grant_too_large")),
    ],
)
def test_request_outside_policy_is_refused_with_code(asked, refused):
    assert refusal(control(), asked) == refused


@pytest.mark.parametrize("topics", [["fleet:user:ada:workers"], [f"run:{n}:events" for n in range(100)]])
def test_own_fleet_and_many_topics_are_granted(topics):
    assert ask(control(), {"topics": topics})["granted_topics"]


@pytest.mark.parametrize("authorization", [None, "", " ", "Bearer", "Bearer "])
def test_request_without_a_session_has_none(authorization):
    assert TokenRequest.parse(authorization, b"").session is None


def test_token_may_be_as_long_as_a_server_takes(monkeypatch):
    length = len(ask(control())["token"])
    for longest, is_granted in ((length, True), (length - 1, False)):
        monkeypatch.setattr("sim.server.control.MAX_TOKEN_CHARS", longest)
        service = control()
        assert (ask(service)["token"] != "") if is_granted else (refusal(service) == (422, "grant_too_large"))


def test_outage_refuses_all_requests():
    assert refusal(control(), outage=True) == (503, "minting_disabled")
    assert refusal(control(), session=None, outage=True) == (503, "minting_disabled")


def test_counters_have_contract_names():
    service = control()
    assert service.counters == dict.fromkeys(COUNTERS, 0)
    ask(service)
    ask(service)
    refusal(service, session=None)
    refusal(service, {"scopes": ["admin"]})
    refusal(service, {"topics": ["a:b"]})
    refusal(service, outage=True)
    service.refused(ControlRefusedError(422, "malformed_request", "no JSON"))
    assert service.counters == {
        "sync.token.issued": 2,
        "sync.token.issue.failed": 3,
        "sync.token.issue.auth_failed": 1,
        "sync.token.issue.policy_denied": 1,
        "sync.token.issue.policy_eval_failed": 0,
    }


def test_token_ids_are_unique_and_can_be_set():
    service = control()
    assert ask(service)["token_id"] != ask(service)["token_id"]
    assert service.issue(TokenRequest("session-ada"), NOW, outage=False, token_id="mine")["data"]["token_id"] == "mine"


def test_old_and_new_tokens_are_valid_after_rotation():
    service = control()
    old = ask(service)
    service.rotate(Key("k2", b"two"))
    new = ask(service)
    assert (old["kid"], new["kid"]) == ("k1", "k2")
    assert claims_of(service, old).user_id == claims_of(service, new).user_id == "ada"


def test_newest_of_the_older_keys_signs_with_the_defect_alone():
    service = control()
    for name in ("k2", "k3"):
        service.rotate(Key(name, name.encode()))
    signed = [
        service.issue(TokenRequest("session-ada"), NOW, outage=False, defects=each) for each in ((), ("sign_with_old_key",))
    ]
    assert [answer["data"]["kid"] for answer in signed] == ["k3", "k2"]


@pytest.mark.parametrize(
    "body", [b"[]", b"nul", b"\xff", b"[" * 50_000, b'{"topics":"run:1:events"}', b'{"ttl_seconds":"300"}']
)
def test_malformed_body_is_refused(body):
    with pytest.raises(ControlRefusedError) as refused:
        TokenRequest.parse(SESSION, body)
    assert (refused.value.status, refused.value.code) == (422, "malformed_request")


def test_nulls_and_unknown_fields_are_accepted():
    assert TokenRequest.parse(SESSION, b'{"topics":null,"ttl_seconds":null,"new":1}') == TokenRequest("session-ada")
    assert TokenRequest.parse(SESSION, b'{"topics":["a","a"]}').topics == ("a",)


@given(st.none() | st.text(), st.binary() | st.text().map(lambda name: json.dumps({"topics": [name]}).encode()))
def test_any_request_gets_a_known_status(session, body):
    status = 200
    try:
        control().issue(TokenRequest.parse(session, body), NOW, outage=False)
    except ControlRefusedError as error:
        status = error.status
    assert status in {200, 401, 422}
