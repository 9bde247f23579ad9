"""Negative clients that try mutations and expired tokens: how each answer is recorded."""

import msgspec
import pytest

from sim.base.errors import UsageError
from sim.client import policies
from sim.client.actions import ClientSettings, Connect, Mint, Send, Token
from sim.client.negative.registry import NEGATIVE_CLIENTS, session_class, why_unasked
from sim.client.negative.tokens import ExpiredToken
from sim.client.session import Session
from sim.protocols.events import Closed, DisconnectReason, Next, Opened, Step, StreamEnded
from sim.protocols.intents import Compatibility, Join, Raw
from sim.protocols.nats_jetstream.adapter import CAPABILITIES as NATS
from sim.protocols.spacetime.codec import decode_client
from sim.protocols.spacetime.frames import Request, Subscribe, SyncBeat
from tests.client.server_double import RUN as SERVICE_RUN
from tests.client.server_double import InMemoryService
from tests.client.session_driver import RUN, SessionDriver, batch


def answers(driver: SessionDriver) -> list[str]:
    return [notice.detail for notice in driver.of("probed")]


def live_client() -> tuple[SessionDriver, str]:
    """A live client that tried a mutation, and the reference of its request."""
    driver, (request,) = live_with_requests("mutation_over_socket")
    frame = decode_client(request.data)
    assert isinstance(frame, Request)
    assert frame.event == "sync:publish"
    assert RUN.encode() in bytes(frame.payload)
    return driver, request.ref


@pytest.mark.parametrize(
    ("ok", "code", "answer"),
    [(True, "", "accepted"), (False, "mutation_refused", "refused:mutation_refused"), (False, "", "refused:error")],
)
def test_mutation_answer_is_recorded_and_client_stays_live(ok, code, answer):
    driver, ref = live_client()
    driver.reply(ref, ok=ok, code=code)
    assert answers(driver) == [f"mutation_over_socket:{answer}"]
    driver.wait(10.0)
    driver.receive(batch(2))
    assert driver.session.is_live
    assert driver.seqs("applied") == [1, 2]
    assert len(answers(driver)) == 1


def test_channel_that_a_mutation_ends_is_joined_again_without_another_question():
    driver, _ = live_client()
    driver.session.received((StreamEnded(None, "phx_error", Next(Step.RESUBSCRIBE)),), driver.now)
    assert answers(driver) == ["mutation_over_socket:refused:phx_error"]
    assert not driver.session.is_live
    driver.wait(10.0)
    driver.replay(driver.join(), batch(2))
    assert driver.session.is_live
    assert driver.sent() == []
    driver.session.received((StreamEnded(None, "phx_error", Next(Step.RESUBSCRIBE)),), driver.now)
    assert len(answers(driver)) == 1


def test_unanswered_mutation_counts_as_refused():
    driver, ref = live_client()
    driver.wait(9.9)
    assert not answers(driver)
    driver.wait(0.2)
    driver.reply(ref)  # too late
    assert answers(driver) == ["mutation_over_socket:refused:silence"]
    assert driver.session.is_live


def test_mutation_is_repeated_after_lost_connection():
    driver, _ = live_client()
    driver.lose("network")
    driver.replay(driver.reconnect(), batch(head=1))
    assert not answers(driver)
    assert isinstance(driver.sent()[0], Raw)


def reauthenticating() -> SessionDriver:
    """A client that must authenticate again, at the end of its backoff."""
    driver = SessionDriver(session=ExpiredToken).go_live(1)
    driver.error("reauth_required")
    driver.expect_close()
    driver.wait(driver.session.wake_at() - driver.now)
    return driver


def old_token(driver: SessionDriver) -> str:
    (action,) = driver.actions()
    assert isinstance(action, Connect)
    return action.token.text


def test_refused_old_token_is_tried_once_then_client_mints():
    driver = reauthenticating()
    assert old_token(driver) == "t1"
    driver.fail_connect("token_expired")
    assert answers(driver) == ["expired_token:refused:token_expired"]
    assert isinstance(driver.reconnect(), Subscribe)
    assert driver.tokens == 2


def test_accepted_old_token_is_recorded():
    driver = reauthenticating()
    assert old_token(driver) == "t1"
    driver.open()
    assert answers(driver) == [], "some servers refuse it at the join only"
    assert isinstance(driver.join(), Subscribe)
    assert answers(driver) == ["expired_token:accepted"]


@pytest.mark.parametrize("code", ["network", "timeout"])
def test_old_token_is_tried_again_after_network_failure(code):
    driver = reauthenticating()
    for _ in range(3):
        assert old_token(driver) == "t1"
        driver.fail_connect(code)
        driver.actions()
        driver.wait(driver.session.wake_at() - driver.now)
    assert not answers(driver)
    assert old_token(driver) == "t1"
    driver.wait(10.0)  # a timeout is no answer either
    driver.actions()
    driver.wait(max(driver.session.wake_at() - driver.now, 0.0))
    assert not answers(driver)


def test_expired_token_is_tried_only_after_leeway():
    for age_s, is_tried in ((310.0, False), (331.0, True)):
        driver = SessionDriver(session=ExpiredToken, refresh_s=270.0, expires_s=300.0).go_live(1)
        driver.now += age_s
        driver.lose("network")
        driver.actions()
        driver.wait(1.0)
        (action,) = driver.actions()
        assert (action.token.text == "t1") if is_tried else (action == Mint())


def test_client_without_expired_token_behaves_normally():
    driver = SessionDriver(session=ExpiredToken).go_live(1)
    driver.lose("network")
    driver.reconnect()
    assert not answers(driver)


@pytest.mark.parametrize(
    ("defects", "mutation", "token"),
    [
        (set(), "refused:mutation_refused", "refused:token_expired"),
        ({"accept_mutation", "accept_expired_token"}, "accepted", "accepted"),
    ],
)
def test_runtime_answers_mutation_and_expired_token(defects, mutation, token):
    for name, answer in (("mutation_over_socket", mutation), ("expired_token", token)):
        service = InMemoryService(1, session=session_class(name))
        service.switch(defects=defects)
        service.publish(SERVICE_RUN)
        service.advance(1.0, carrying=True)
        service.now += 1.0
        service.switch(defects=defects, tokens_void_before=service.now)
        service.advance(5.0, carrying=True)
        service.settle()
        assert {notice.detail for notice in service.of(0, "probed")} == {f"{name}:{answer}"}
        assert bool(service.runtime.mutations) == (name == "mutation_over_socket" and answer == "accepted")


def test_negative_clients_are_found_by_name():
    assert session_class(None) is Session
    assert {name: session_class(name) for name in NEGATIVE_CLIENTS} == NEGATIVE_CLIENTS
    with pytest.raises(UsageError, match="expired_token"):
        session_class("x")


def live_with_requests(name: str) -> tuple[SessionDriver, list[Raw]]:
    """A negative client that has just gone live, and its requests."""
    driver = SessionDriver(session=session_class(name))
    driver.replay(driver.begin(), batch(1))
    return driver, [frame for frame in driver.sent() if isinstance(frame, Raw)]


def test_every_mutation_kind_is_sent_and_answered_once():
    driver, asked = live_with_requests("any_mutation")
    assert len({decode_client(frame.data).event for frame in asked}) == len({frame.ref for frame in asked}) == len(asked) > 5
    for frame in asked[1:]:
        driver.reply(frame.ref, ok=False, code="mutation_refused")
        driver.reply(frame.ref, ok=False, code="mutation_refused")
    driver.reply(asked[0].ref)
    assert answers(driver) == ["any_mutation:refused:mutation_refused"] * (len(asked) - 1) + ["any_mutation:accepted"]
    driver.receive(batch(2))
    assert driver.seqs("applied") == [1, 2]


def test_unanswered_mutations_count_as_silence():
    driver, asked = live_with_requests("any_mutation")
    for frame in asked[:-2]:
        driver.reply(frame.ref, ok=False, code="no")
    driver.wait(10.1)
    assert answers(driver)[-2:] == ["any_mutation:refused:silence"] * 2
    assert len(answers(driver)) == len(asked)


def test_hidden_mutation_decodes_as_valid_frame():
    driver, asked = live_with_requests("hidden_mutation")
    assert all(b"stormgate.probe" in frame.data for frame in asked)
    beat, subscribe = (decode_client(frame.data) for frame in asked)
    assert isinstance(beat, SyncBeat)
    assert isinstance(subscribe, Subscribe)
    assert (subscribe.topics, subscribe.resume_after, subscribe.bad_cursor) == ((RUN,), {RUN: 1}, False)
    for frame in asked:
        driver.reply(frame.ref)
    assert answers(driver) == ["hidden_mutation:served"] * 2


@pytest.mark.parametrize("name", ["any_mutation", "hidden_mutation"])
@pytest.mark.parametrize("defects", [set(), {"accept_mutation"}, {"accept_hidden_mutation"}])
def test_runtime_executes_mutations_only_with_defect(name: str, defects: set[str]):
    service = InMemoryService(1, session=session_class(name))
    service.switch(defects=defects)
    service.publish(SERVICE_RUN)
    service.advance(1.0, carrying=True)
    service.publish(SERVICE_RUN, 2)
    service.settle_and_check()
    granted = defects == {"accept_mutation"} and name == "any_mutation"
    answered = {notice.detail for notice in service.of(0, "probed")}
    refused = "refused:mutation_refused" if name == "any_mutation" else "served"
    assert answered == {f"{name}:{'accepted' if granted else refused}"}
    carried_out = granted or (defects == {"accept_hidden_mutation"} and name == "hidden_mutation")
    assert bool(service.runtime.mutations) == carried_out
    assert all(b"stormgate.probe" in bytes(msgspec.Raw(payload)) for payload in service.runtime.mutations)


def test_bad_token_that_is_refused_by_a_close_is_no_token_to_renew():
    """Some servers take the token in the join, and only close. A client that renews by a reconnect waits for that."""
    client = session_class("outdated_token")(
        0, ("a",), policies.get("reference"), ClientSettings(1, Compatibility("test"), NATS)
    )
    client.start(1000.0)
    assert client.actions() == [Mint()]
    client.minted(Token("t", 1001.0, 1001.0), 1000.0)
    due = client.wake_at()
    client.wake(due)
    assert [type(action) for action in client.actions()] == [Connect]
    client.received((Opened(),), due)
    client.wake(due + 0.1)
    sent = [action.intent for action in client.actions() if isinstance(action, Send)]
    assert [type(intent) for intent in sent] == [Join]
    client.received((Closed(DisconnectReason.UNAUTHORIZED, 1008, Next(Step.TERMINAL)),), due + 0.2)
    answers = [notice.detail for notice in client.notices() if notice.kind == "probed"]
    assert answers == ["outdated_token:refused:unauthorized"]


MINTS = {"foreign_topic_mint", "unsupported_topic_mint"}
NEEDS = {
    "needs_forms": {"mutation_over_socket", "any_mutation", "hidden_mutation", "malformed_frames", "forbidden_topic"} | MINTS,
    "needs_tokens": {name for name in NEGATIVE_CLIENTS if "token" in name} | MINTS | {"forbidden_topic"},
    "needs_builds": {name for name in NEGATIVE_CLIENTS if name.endswith("_build")} | {"other_protocol", "other_schema"},
}


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ("needs_forms", "its protocol states no messages of negative clients"),
        ("needs_tokens", "the target has no tokens"),
        ("needs_builds", "its protocol does not state a client's build"),
    ],
)
def test_negative_client_cannot_ask_without_what_it_needs(needs: str, why: str):
    had = {"has_forms": "needs_forms", "has_tokens": "needs_tokens", "states_builds": "needs_builds"}
    lacks = {has: need != needs for has, need in had.items()}
    for name in NEGATIVE_CLIENTS:
        assert why_unasked(name, **dict.fromkeys(had, True)) == ""
        assert why_unasked(name, **lacks) == (why if name in NEEDS[needs] else "")
    assert why_unasked("no negative client", **lacks) == ""
