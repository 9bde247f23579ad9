"""Who may connect and join, and how the runtime answers beats, mutations and malformed frames."""

import msgspec
import pytest

from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.frames import Join, Reply, Request, Subscribe, SyncBeat, TransportBeat
from sim.server.settings import Switches
from sim.server.tokens import TokenRefusedError
from tests.client.server_double import COMPATIBILITY
from tests.server.runtime_driver import WORKER, A, compatibility, seqs, token


@pytest.mark.parametrize(("text", "counter"), [(None, "unauthorized_total"), ("x.y.z", "invalid_token_total")])
def test_a_bad_token_is_refused_and_counted(driver, text, counter):
    with pytest.raises(TokenRefusedError):
        driver.runtime.open(text, COMPATIBILITY, driver.now)
    assert driver.runtime.counters.auth[counter] == 1
    assert driver.runtime.consumers == 0


def test_switch_voids_tokens_issued_before_a_time(driver):
    number, old = driver.live(A), token("d")
    driver.now += 5.0
    assert driver.runtime.set_switches(Switches(tokens_void_before=driver.now)) == 1
    (push,) = driver.pull(number)
    assert push.body.code == "reauth_required"
    assert driver.runtime.is_closing(number)
    with pytest.raises(TokenRefusedError) as caught:
        driver.runtime.open(old, COMPATIBILITY, driver.now)
    assert caught.value.code == "token_expired"
    driver.open()


def test_revoked_session_is_notified_closed_and_refused(driver):
    one, other = driver.live(A, device="one"), driver.live(A, device="other")
    assert driver.runtime.revoke(["session-one"]) == 1
    driver.publish(A)
    assert [frame.body.code for frame in driver.pull(one)] == ["reauth_required"]
    assert seqs(driver.pull(other)) == [1]
    assert not driver.runtime.is_closing(other)
    with pytest.raises(TokenRefusedError) as caught:
        driver.open("one")
    assert caught.value.code == "token_revoked"
    assert driver.runtime.counters.auth["token_revoked_total"] == 1


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
def test_incompatible_client_is_refused_with_its_code(driver, changes, code):
    number = driver.open()
    (reply,) = driver.ask(number, Join("1", compatibility(**changes)))
    assert (reply.ref, reply.ok, reply.body.code) == ("1", False, code)
    (reply,) = driver.ask(number, Subscribe("2", (A,), {}))
    assert reply.body.code == "not_joined"


def test_connect_query_supplies_fields_missing_from_join(driver):
    number = driver.runtime.open(token(), compatibility(schema_version="1"), driver.now)
    (reply,) = driver.ask(number, Join("1", Compatibility()))
    assert reply.ok


def test_join_returns_granted_topics(driver):
    (reply,) = driver.ask(driver.open(topics=(A, WORKER)), Join("j", COMPATIBILITY, "jr"))
    assert (reply.ref, reply.body.allowed_topics, reply.body.current_watermarks) == ("j", (A, WORKER), ())
    assert reply.body.subscription_id
    assert driver.runtime.channel(1) == "jr"


def test_mutation_over_socket_is_refused_and_changes_nothing(driver, number):
    (reply,) = driver.ask(number, Request("9", "sync:publish", msgspec.Raw(b'{"topic":"x"}')))
    assert (reply.ref, reply.ok, reply.body.code) == ("9", False, "mutation_refused")
    assert driver.runtime.mutations == []
    driver.publish(A)
    assert seqs(driver.pull(number)) == [1]


def test_transport_heartbeat_is_answered_before_join(driver):
    number = driver.open()
    assert driver.ask(number, TransportBeat("1")) == [Reply("1", True, channel="phoenix")]
    assert driver.ask(number, SyncBeat("2"))[0].body.code == "not_joined"
    number = driver.joined()
    assert driver.ask(number, SyncBeat("2")) == [Reply("2", True)]


def test_malformed_frame_is_answered_and_changes_nothing(driver, number):
    driver.runtime.malformed(number, "malformed_frame", driver.now)
    (push,) = driver.pull(number)
    assert push.body.code == "malformed_frame"
    driver.runtime.malformed(99, "malformed_frame", driver.now)
    driver.runtime.hang_up({"d"})
    driver.runtime.malformed(number, "malformed_frame", driver.now)  # a closing connection gets no further frames
    assert driver.pull(number) == []
