"""Templates, pointers and forms: rendered values, values in answers, and mistakes in one sentence."""

from typing import Any

import jwt
import pytest

from sim.base.errors import UsageError
from sim.service import templates
from sim.service.forms import CreateForm, PublishForm, ServiceForms, TokenForm
from sim.service.requests import Answer, request_of
from sim.service.tokens import read_token, signed_token, wrong_claims

VALUES: dict[str, object] = {"key": "a/b", "payload": {"n": 1}, "ttl_s": None, "session": "", "run_id": "r 1"}
KEY = "a-key-of-at-least-thirty-two-bytes"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{payload}", {"n": 1}),
        ("is {payload}", 'is {"n":1}'),
        ({"a": "{key}", "ttl": "{ttl_s}", "list": ["{key}", 3]}, {"a": "a/b", "list": ["a/b", 3]}),
        ("{not a name}", "{not a name}"),
        (7, 7),
    ],
)
def test_template_is_rendered(template: Any, expected: Any):
    assert templates.render(template, VALUES) == expected


def test_path_encodes_values_and_headers_without_a_value_are_left_out():
    form = PublishForm(path="/x/{run_id}?k={key}", headers={"A": "Bearer {session}", "B": "{key}"}, body="{payload}")
    request = request_of(form, "http://host", VALUES, lambda answer: answer)
    assert (request.url, request.headers, request.body) == ("http://host/x/r%201?k=a%2Fb", {"B": "a/b"}, b'{"n":1}')


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("", {"events": [{"key": "x", "seq": 1}, {"key": "a/b", "seq": 2}], "a/b": 3, "m~n": 4}),
        ("/events/0/seq", 1),
        ("/events/key={key}/seq", None),  # the value has a slash, which must be escaped
        ("/events/key=x/seq", 1),
        ("/events/key=y/seq", None),
        ("/events/9/seq", None),
        ("/events/-1", None),
        ("/a~1b", 3),
        ("/m~0n", 4),
        ("/a~1b/deeper", None),
        ("none", None),
    ],
)
def test_pointer_finds_value(pointer: str, expected: Any):
    document = {"events": [{"key": "x", "seq": 1}, {"key": "a/b", "seq": 2}], "a/b": 3, "m~n": 4}
    assert templates.find(document, pointer, VALUES) == expected


def test_every_default_form_has_only_known_names():
    for table, form in ServiceForms().pages.items():
        form.check(table)


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"key 'path' has the unknown name \{room\}; known here: .*\{name\}.*\{env:NAME\}"):
        CreateForm(path="/rooms/{room}").check("[targets.x.create]")
    CreateForm(path="/rooms", headers={"X": "{env:API_KEY}"}).check("[targets.x.create]")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"data": {"token": "t", "expires_in": 60, "refresh_after_in": 40}}, ("t", 40.0, 60.0)),
        ({"data": {"token": "t"}}, ("t", 270.0, 300.0)),
        ({"data": {"token": "t", "expires_in": "60"}}, ("t", 30.0, 60.0)),
        ({"data": {"token": "t", "expires_in": "soon"}}, None),
        ({"data": {"token": "t", "expires_in": True}}, None),
        ({"data": {"token": "t", "expires_in": "inf"}}, None),
        ({"data": {"token": "t", "expires_in": [60]}}, None),
        ({"data": {"token": 3}}, None),
        ("text", None),
        (b"printed by a command\n", ("printed", 270.0, 300.0)),
        (b"", None),
    ],
)
def test_token_is_read(answer: Any, expected: tuple[str, float, float] | None):
    found = read_token(TokenForm(), answer, 1000.0)
    assert (found and (found.text, found.refresh_in_s, found.expires_in_s)) == expected


@pytest.mark.parametrize(
    "moment",
    [1_767_225_660, 1_767_225_660.0, 1_767_225_660_000, "1767225660", "2026-01-01T00:01:00Z", "2026-01-01T01:01:00+01:00"],
)
def test_end_of_a_token_may_be_a_moment(moment: object):
    """In seconds or milliseconds since 1970, or in ISO 8601."""
    found = read_token(TokenForm(), {"data": {"token": "t", "expires_in": moment}}, 1_767_225_600.0)
    assert found is not None
    assert (found.refresh_in_s, found.expires_in_s) == (30.0, 60.0)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"iat": 1000, "exp": 1060}, (30.0, 60.0)),
        ({"iat": 1000, "exp": 1004}, (2.0, 4.0)),  # a short token is renewed at half of its life
        ({"exp": 4600}, (3570.0, 3600.0)),  # from now
        ({"iat": 1000, "exp": 1000}, (270.0, 300.0)),
        ({"exp": "soon"}, (270.0, 300.0)),
        ({"exp": True}, (270.0, 300.0)),
        ({}, (270.0, 300.0)),
    ],
)
def test_lifetime_that_an_answer_does_not_state_is_that_of_the_jwt(claims: dict[str, Any], expected: tuple[float, float]):
    token = jwt.encode(claims, KEY, "HS256")
    for answer in (token.encode(), {"data": {"token": token}}):
        found = read_token(TokenForm(), answer, 1000.0)
        assert found is not None
        assert (found.refresh_in_s, found.expires_in_s) == expected
    stated = read_token(TokenForm(), {"data": {"token": token, "expires_in": 90}}, 1000.0)
    assert stated is not None
    assert stated.expires_in_s == 90.0


def test_token_is_signed_with_its_claims_and_their_types_are_compared():
    form = TokenForm(source="signing_key", claims={"sub": "{device}", "exp": "{expires_at}"}, header={"kid": "k1"})
    token = signed_token(form, {"device": "d", "now": 1000, "ttl_s": 60}, KEY)
    claims = jwt.decode(token, KEY, ["HS256"], options={"verify_exp": False})
    assert (claims, jwt.get_unverified_header(token)["kid"]) == ({"sub": "d", "exp": 1060}, "k1")
    assert wrong_claims(token, {"sub": "text", "exp": "number"}) == []
    assert wrong_claims(token, {"sub": "number", "org": "text"}) == ["claim sub is text, not number", "claim org is missing"]
    assert wrong_claims("opaque", {"sub": "text"}) == ["the token is no JWT, so its claims cannot be read"]


@pytest.mark.parametrize(
    ("content", "value"), [(b'{"a":1}', {"a": 1}), (b"no JSON", "no JSON"), (b"\xff", "\ufffd"), (b"", "")]
)
def test_answer_is_json_or_text(content: bytes, value: Any):
    assert Answer(200, "", content).value == value
