"""Access tokens: when they are valid, and why they are refused."""

import base64
import dataclasses
import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.spacetime.profile import PROFILE
from sim.protocols.spacetime.streams import SINGLE_TOPICS, run_events, stream_id
from sim.server import tokens
from sim.server.tokens import Claims, Key, Keyring, TokenRefusedError, may_read, mint, verify

NOW = 1_700_000_000.0
SECRET = b"a secret that no text may show!!"
KEY = Key("k1", SECRET)
RING = Keyring(KEY)
CLAIMS = Claims(
    issuer=tokens.ISSUER,
    audience=tokens.AUDIENCE,
    subject="user:ada",
    issued_at=NOW,
    not_before=NOW,
    expires_at=NOW + 200,
    token_id="token-1",
    user_id="ada",
    org_id="org",
    session_id="session-ada",
    device_id="device",
    scopes=("runtime.run_events",),
    topics=("run:1:events",),
    streams=("runtime.run.2.events",),
)


def check(token: str | None, now: float = NOW, ring: Keyring = RING, **options: object) -> Claims:
    return verify(token, ring, now, **{"leeway_s": 30.0, "max_age_s": 300.0, **options})


def refusal(token: str | None, now: float = NOW, ring: Keyring = RING, **options: object) -> str | None:
    try:
        check(token, now, ring, **options)
    except TokenRefusedError as error:
        return error.code
    return None


def changed(**fields: object) -> str:
    return mint(dataclasses.replace(CLAIMS, **fields), KEY)


def raw(payload: object, header: dict[str, object] | None = None) -> str:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return jwt.api_jws.PyJWS().encode(body, SECRET, "HS256", headers=header)


def wire_claims() -> dict[str, object]:
    return jwt.decode(changed(), SECRET, ["HS256"], options={"verify_signature": False})


def test_claims_survive_round_trip():
    assert check(changed()) == CLAIMS


def test_token_has_contract_claim_names():
    header = jwt.get_unverified_header(changed())
    assert (header["alg"], header["kid"]) == ("HS256", "k1")
    assert " ".join(wire_claims()) == (
        "iss aud sub iat nbf exp jti oa_user_id oa_org_id oa_session_id oa_device_id "
        "oa_sync_scopes oa_sync_topics oa_sync_streams oa_claims_version"
    )


@pytest.mark.parametrize("name", list(wire_claims()))
def test_every_claim_is_required_and_typed(name):
    claims = wire_claims()
    assert refusal(raw({**claims, name: {}})) == "invalid_token"
    del claims[name]
    assert refusal(raw(claims)) == "invalid_token"


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"[" * 3000, b"\xff", b'{"iat":1e999}', b'{"exp":NaN}', b'{"exp":' + b"9" * 5000 + b"}"]
)
def test_malformed_signed_payload_is_refused(payload):
    assert refusal(raw(payload)) == "invalid_token"


def test_other_algorithm_is_refused():
    claims = wire_claims()
    assert refusal(jwt.encode(claims, None, algorithm="none")) == "invalid_token"
    assert refusal(jwt.encode(claims, SECRET * 2, algorithm="HS512")) == "invalid_token"
    assert refusal(raw(claims, {"crit": ["exp"], "b64": False})) == "invalid_token"


def test_unreadable_token_is_refused():
    header = base64.urlsafe_b64encode(b"[" * 4000).decode()
    assert refusal(f"{header}.e30.x") == "invalid_token", "deeply nested header"
    assert refusal("x" * (tokens.MAX_TOKEN_CHARS + 1)) == "invalid_token", "longer than the maximum"
    assert refusal(None) == refusal("") == "unauthorized"


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | st.characters(categories=["Cs"]))
def test_any_text_is_refused_with_known_code(text):
    assert refusal(text) in {"unauthorized", "invalid_token"}


@given(st.data())
def test_token_with_one_changed_character_is_refused_or_equivalent(data):
    token = changed()
    at = data.draw(st.integers(0, len(token) - 1))
    other = token[:at] + data.draw(st.characters()) + token[at + 1 :]
    # The last character of base64 may carry unused bits, so another text can be the same signature.
    assert refusal(other) == "invalid_token" or check(other) == CLAIMS


@pytest.mark.parametrize(
    ("age", "code"),
    [(0, None), (200, None), (229.9, None), (230, "token_expired"), (10_000, "token_expired")],
)
def test_expiry_has_leeway(age, code):
    assert refusal(changed(), NOW + age) == code


@pytest.mark.parametrize(
    ("early", "code"), [(0, None), (30, None), (30.1, "token_not_yet_valid"), (9999, "token_not_yet_valid")]
)
@pytest.mark.parametrize("field", ["not_before", "issued_at"])
def test_future_token_has_leeway(field, early, code):
    assert refusal(changed(**{field: NOW + early})) == code


@pytest.mark.parametrize(
    ("age", "code"), [(300, None), (300.1, "token_too_old"), (929, "token_too_old"), (930, "token_expired")]
)
def test_long_lived_token_is_too_old_before_it_expires(age, code):
    assert refusal(changed(expires_at=NOW + 900), NOW + age) == code


OUTDATED = {"accept_expired_token"}


@pytest.mark.parametrize(
    ("fields", "now", "options", "code"),
    [
        ({}, NOW, {"revoked_tokens": {"token-1"}}, "token_revoked"),
        ({}, NOW, {"revoked_tokens": {"token-2"}}, None),
        ({}, NOW, {"void_before": NOW + 0.1}, "token_expired"),
        ({}, NOW, {"void_before": NOW}, None),
        # The defect accepts outdated tokens only.
        ({}, NOW + 10_000, {"defects": OUTDATED, "void_before": NOW + 1}, None),
        ({"not_before": NOW + 99}, NOW, {"defects": OUTDATED}, "token_not_yet_valid"),
        ({}, NOW + 10_000, {"defects": OUTDATED, "revoked_tokens": {"token-1"}}, "token_revoked"),
        ({"issuer": "someone"}, NOW, {"defects": OUTDATED}, "invalid_token"),
        ({"issuer": "someone"}, NOW, {}, "invalid_token"),
        ({"audience": "someone"}, NOW, {}, "invalid_token"),
        ({"token_id": ""}, NOW, {}, "invalid_token"),
    ],
)
def test_revoked_void_outdated_or_foreign_token_is_refused(fields, now, options, code):
    assert refusal(changed(**fields), now, **options) == code


def test_rotated_keyring_verifies_old_tokens_until_key_is_dropped():
    new = Key("k2", b"another secret, as long as it is")
    rotated = RING.rotated(new)
    assert (rotated.primary, rotated.fallbacks) == (new, (KEY,))
    assert refusal(changed(), ring=rotated) is None
    assert refusal(mint(CLAIMS, new), ring=rotated) is None
    assert refusal(mint(CLAIMS, new), ring=RING) == "invalid_token"
    assert refusal(changed(), ring=Keyring(new)) == "invalid_token"
    assert rotated.rotated(Key("k3", b"c")).fallbacks == (new, KEY)


@pytest.mark.parametrize("token", [None, "x", "a.b.c", changed(issuer="someone"), changed(expires_at=0.0)])
def test_refusal_shows_neither_secret_nor_token(token):
    with pytest.raises(TokenRefusedError) as refused:
        check(token)
    assert SECRET.decode() not in str(refused.value)
    assert len(token or "") < 5 or token not in str(refused.value)


def test_repr_hides_secret():
    assert "secret" not in repr(KEY)
    assert "a secret" not in repr(Keyring(KEY, (KEY,)))
    assert "k1" in repr(KEY)


def test_short_key_is_accepted(recwarn):
    key = Key("k", b"x")
    check(mint(CLAIMS, key), ring=Keyring(key))
    assert not recwarn.list


def test_every_topic_has_a_scope():
    for topic in (*SINGLE_TOPICS, run_events("1"), "worker:1:lifecycle", "fleet:user:1:workers", "whatever"):
        assert PROFILE.topics.required_scope(topic).startswith("runtime.")
    assert PROFILE.topics.required_scope("runtime.codex_worker_events") == "runtime.codex_worker_events"
    assert PROFILE.topics.required_scope(run_events("1")) == "runtime.run_events"


def test_claims_with_grants_allow_only_granted_topics():
    assert may_read(CLAIMS, "run:1:events", PROFILE.topics)
    assert may_read(CLAIMS, "run:2:events", PROFILE.topics), "a stream grant covers its topic"
    assert not may_read(CLAIMS, "run:3:events", PROFILE.topics)
    assert not may_read(dataclasses.replace(CLAIMS, topics=(), streams=("nothing",)), "run:1:events", PROFILE.topics)


def test_claims_without_grants_allow_topics_of_their_scopes():
    free = dataclasses.replace(CLAIMS, topics=(), streams=())
    assert may_read(free, "run:3:events", PROFILE.topics)
    assert not may_read(free, "worker:3:lifecycle", PROFILE.topics)


@given(st.text())
def test_grant_without_scope_allows_nothing(topic):
    granted = dataclasses.replace(CLAIMS, scopes=(), topics=(topic,), streams=(stream_id(topic),))
    assert not may_read(granted, topic, PROFILE.topics)
    assert may_read(dataclasses.replace(granted, scopes=(PROFILE.topics.required_scope(topic),)), topic, PROFILE.topics)


def test_cached_signature_does_not_bypass_other_checks():
    """Only the verified signature is cached."""
    token = changed()
    assert check(token) == check(token) == CLAIMS
    assert refusal(token, ring=Keyring(Key("k2", b"another secret, as long as needs be"))) == "invalid_token"
    assert refusal(token, now=NOW + 231) == "token_expired"
    assert refusal(token, void_before=NOW + 1) == "token_expired"
    assert refusal(token, revoked_tokens={"token-1"}) == "token_revoked"
    assert check(token) == CLAIMS
