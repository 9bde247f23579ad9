"""Who may connect and join, and how the runtime answers beats, mutations and malformed frames."""

import msgspec
import pytest

from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.frames import (
    Join,
    Reply,
    Request,
    Subscribe,
    SyncBeat,
    TransportBeat,
)
from sim.server.settings import Switches
from sim.server.tokens import TokenRefusedError
from tests.client.server_double import COMPATIBILITY
from tests.server.runtime_driver import WORKER, A, Desk, compatibility, seqs, token


@pytest.mark.parametrize(("text", "counter"), [(None, "unauthorized_total"), ("x.y.z", "invalid_token_total")])
def test_a_bad_token_is_refused_and_counted(text, counter):
    desk = Desk()
    with pytest.raises(TokenRefusedError):
        desk.runtime.open(text, COMPATIBILITY, desk.now)
    assert desk.runtime.counters.auth[counter] == 1
    assert desk.runtime.consumers == 0


def test_tokens_issued_before_a_moment_can_be_made_void():
    desk = Desk()
    number, old = desk.live(A), token("d")
    desk.now += 5.0
    assert desk.runtime.set_switches(Switches(tokens_void_before=desk.now)) == 1
    (told,) = desk.pull(number)
    assert told.body.code == "reauth_required"
    assert desk.runtime.is_closing(number)
    with pytest.raises(TokenRefusedError) as caught:
        desk.runtime.open(old, COMPATIBILITY, desk.now)
    assert caught.value.code == "token_expired"
    desk.open()


def test_a_revoked_session_is_told_closed_and_let_in_no_more():
    desk = Desk()
    one, other = desk.live(A, device="one"), desk.live(A, device="other")
    assert desk.runtime.revoke(["session-one"]) == 1
    desk.publish(A)
    assert [frame.body.code for frame in desk.pull(one)] == ["reauth_required"]
    assert seqs(desk.pull(other)) == [1]
    assert not desk.runtime.is_closing(other)
    with pytest.raises(TokenRefusedError) as caught:
        desk.open("one")
    assert caught.value.code == "token_revoked"
    assert desk.runtime.counters.auth["token_revoked_total"] == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"protocol_version": "spacetime.sync.v2"}, "unsupported_protocol_version"),
        ({"schema_version": 2}, "unsupported_schema_version"),
        ({"client_build_id": "latest"}, "invalid_client_build"),
        ({"client_build_id": "20260201-000000Z"}, "invalid_client_build"),
        ({"client_build_id": "20200101T000000Z"}, "upgrade_required"),
        ({"client_build_id": "21000101T000000Z"}, "unsupported_client_build"),
    ],
)
def test_an_incompatible_client_is_refused_by_name(changes, code):
    desk = Desk()
    number = desk.open()
    (reply,) = desk.tell(number, Join("1", compatibility(**changes)))
    assert (reply.ref, reply.ok, reply.body.code) == ("1", False, code)
    (reply,) = desk.tell(number, Subscribe("2", (A,), {}))
    assert reply.body.code == "not_joined"


def test_what_a_join_leaves_out_the_query_may_say():
    desk = Desk()
    number = desk.runtime.open(token(), compatibility(schema_version="1"), desk.now)
    (reply,) = desk.tell(number, Join("1", Compatibility()))
    assert reply.ok


def test_a_join_returns_the_granted_topics():
    desk = Desk()
    (reply,) = desk.tell(desk.open(topics=(A, WORKER)), Join("j", COMPATIBILITY, "jr"))
    assert (reply.ref, reply.body.allowed_topics, reply.body.current_watermarks) == ("j", (A, WORKER), ())
    assert reply.body.subscription_id
    assert desk.runtime.channel(1) == "jr"


def test_a_mutation_over_the_socket_is_refused_and_changes_nothing():
    desk = Desk()
    number = desk.live(A)
    (reply,) = desk.tell(number, Request("9", "sync:publish", msgspec.Raw(b'{"topic":"x"}')))
    assert (reply.ref, reply.ok, reply.body.code) == ("9", False, "mutation_refused")
    assert desk.runtime.mutations == []
    desk.publish(A)
    assert seqs(desk.pull(number)) == [1]


def test_beats_are_answered_even_before_the_join():
    desk = Desk()
    number = desk.open()
    assert desk.tell(number, TransportBeat("1")) == [Reply("1", True, channel="phoenix")]
    assert desk.tell(number, SyncBeat("2"))[0].body.code == "not_joined"
    number = desk.joined()
    assert desk.tell(number, SyncBeat("2")) == [Reply("2", True)]


def test_what_is_no_frame_is_answered_and_changes_nothing():
    desk = Desk()
    number = desk.live(A)
    desk.runtime.malformed(number, "malformed_frame", desk.now)
    (push,) = desk.pull(number)
    assert push.body.code == "malformed_frame"
    desk.runtime.malformed(99, "malformed_frame", desk.now)
    desk.runtime.hang_up({"d"})
    desk.runtime.malformed(number, "malformed_frame", desk.now)  # whoever is sent away gets no more words
    assert desk.pull(number) == []
