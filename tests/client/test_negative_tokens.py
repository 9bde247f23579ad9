"""Negative clients with bad tokens or builds, against the control service and the runtime without a network."""

import math

import msgspec
import pytest

from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.negative.builds import CLIENTS as BUILDS
from sim.client.negative.builds import OtherBuild
from sim.client.negative.registry import EXPECTED, NEGATIVE_CLIENTS, session_class
from sim.client.negative.tokens import CLIENTS as TOKENS
from sim.client.session import Session
from sim.drill.model import NegativeClientName
from sim.engines.shared.client_setup import by_own_clock, clock_ahead_s, forget_token, unix_s
from sim.protocols.events import Closed
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.protocols.spacetime.profile import PROFILE
from sim.protocols.spacetime.streams import run_events
from sim.server import tokens
from sim.server.control import Control, ControlRefusedError, TokenRequest
from sim.server.runtime import DeliveryDownError
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import Key, TokenRefusedError
from tests.client.server_double import COMPATIBILITY, KEYRING, START, InMemoryService
from tests.client.session_driver import SessionDriver

RUN = run_events("7")
SHORT = RuntimeSettings(token_ttl_min_s=2, token_leeway_s=2, token_max_age_s=6)
NAMES = tuple(client.name for client in TOKENS)


class Authority(InMemoryService):
    """Control service, runtime and one client, without a network between them."""

    def __init__(self, client: str | None, *, offline: bool = False, **switches: object) -> None:
        self.switches = Switches(**switches)
        self.control = Control(SHORT, KEYRING, PROFILE)
        self.requested_ttls: list[int | None] = []
        own = {"session": session_class(client), "switches": self.switches, "network_is_down": offline}
        super().__init__(settings=SHORT, topics=(RUN,), **own)

    def pass_time(self, seconds: float) -> "Authority":
        """Let time pass while frames move at once."""
        self.advance(seconds, carrying=True)
        return self

    def mint(self, session: Session) -> None:
        """Ask the control service for the session's token."""
        asked = session.token_request
        self.requested_ttls.append(asked.ttl_s)
        request = TokenRequest(f"session-{asked.account}", topics=asked.topics, device_id="d", ttl_s=asked.ttl_s)
        moment = self.now + self.switches.mint_ahead_s
        try:
            data = self.control.issue(request, moment, outage=self.switches.mint_outage, defects=self.switches.defects)["data"]
        except ControlRefusedError as refusal:
            session.mint_failed(refusal.code, self.now)
        else:
            moments = self.now + data["refresh_after_in"], self.now + data["expires_in"]
            session.minted(Token(data["token"], *moments, data["kid"], data["session_id"]), self.now)

    @property
    def session(self) -> Session:
        return self.sessions[0]

    @property
    def answers(self) -> list[str]:
        """The recorded answers of the negative client."""
        return [notice.detail for notice in self.of(0, "probed")]


@pytest.mark.parametrize("name", NAMES)
def test_each_bad_token_is_refused_with_expected_code_then_client_goes_live(name: str):
    authority = Authority(name, mint_ahead_s=60.0 if name == "premature_token" else 0.0).pass_time(8.0)
    (answer,) = authority.answers
    client, verdict, code = answer.split(":")
    assert (client, verdict) == (name, "refused")
    assert code in EXPECTED[name]
    authority.switches.mint_ahead_s = 0.0
    authority.pass_time(10.0)
    assert authority.session.is_live
    assert authority.answers == [answer]


# Whether a runtime with a defect accepts a negative client.
ACCEPTED = {
    ("accept_any_signature", "garbled_token"): True,
    ("accept_any_signature", "foreign_key_token"): True,
    ("accept_any_signature", "foreign_issuer_token"): False,
    ("accept_any_signature", "missing_token"): False,
    ("accept_expired_token", "outdated_token"): True,
    ("accept_expired_token", "overaged_token"): True,
    ("ignore_grants", "forbidden_topic"): True,
    ("grant_any_topic", "foreign_topic_mint"): True,
}


@pytest.mark.parametrize(("defect", "name"), ACCEPTED)
def test_defect_accepts_only_its_bad_tokens(defect: str, name: str):
    is_accepted = Authority(name, defects={defect}).pass_time(8.0).answers == [f"{name}:accepted"]
    assert is_accepted == ACCEPTED[defect, name]


def test_vague_refusals_return_wrong_code():
    for name in ("garbled_token", "outdated_token", "overaged_token"):
        assert Authority(name, defects={"vague_refusals"}).pass_time(8.0).answers == [f"{name}:refused:unauthorized"]


def revoked(*defects: str) -> Authority:
    """A client whose session is revoked while it is live, on a runtime with these defects."""
    authority = Authority("revoked_token", defects=set(defects)).pass_time(1.0)
    assert authority.session.is_live
    assert authority.session.token is not None
    authority.runtime.revoke([authority.session.token.session_id])
    return authority.pass_time(3.0)


def test_revoked_session_is_refused_until_client_signs_in_again():
    authority = revoked()
    assert authority.answers == ["revoked_token:refused:token_revoked"]
    assert not authority.session.is_live
    assert authority.session.token_request.account == "client-0"
    forget_token(authority.session, sign_in=True)
    assert authority.session.token_request.account == "client-0.1"
    assert authority.pass_time(9.0).session.is_live


def test_accept_revoked_token_accepts_revoked_session():
    authority = revoked("accept_revoked_token")
    assert authority.answers == ["revoked_token:accepted"]
    assert authority.session.is_live


def test_keep_revoked_sockets_closes_no_connection():
    assert revoked("keep_revoked_sockets").session.retries.disconnects == 0


def test_revoke_everyone_closes_sockets_of_other_sessions():
    for defects, expected in (((), 0), (("revoke_everyone",), 1)):
        authority = Authority(None, defects=set(defects)).pass_time(1.0)
        authority.runtime.revoke(["another session"])
        assert authority.pass_time(0.2).session.retries.disconnects == expected


def test_introspect_tokens_refuses_tokens_during_mint_outage():
    for defects, expected in (((), True), (("introspect_tokens",), False)):
        authority = Authority(None, defects=set(defects)).pass_time(1.0)
        authority.switches.mint_outage = True
        authority.lose(0, Closed())
        assert authority.pass_time(1.0).session.is_live == expected


def test_client_without_token_requests_one_at_next_connect():
    authority = Authority(None).pass_time(1.0)
    forget_token(authority.session)
    assert authority.pass_time(1.0).requested_ttls == [None]
    authority.lose(0, Closed())
    assert authority.pass_time(1.0).requested_ttls == [None, None]


@pytest.mark.parametrize("client", BUILDS, ids=lambda client: client.name)
def test_each_build_gets_expected_answer_once_then_client_goes_live(client: type[OtherBuild]):
    authority = Authority(client.name).pass_time(5.0)
    (expected,) = client.expects
    assert authority.answers == [f"{client.name}:{expected if expected == 'served' else f'refused:{expected}'}"]
    assert authority.session.is_live


def test_only_the_answer_to_its_join_is_the_answer_to_a_build():
    driver = SessionDriver(session=session_class("old_build"))
    driver.start()
    driver.connect()
    driver.reply("another", ok=False, code="rate_limited")
    assert driver.of("probed") == []
    (join,) = driver.sent()
    driver.reply(join.ref, ok=False, code="upgrade_required")
    assert [notice.detail for notice in driver.of("probed")] == ["old_build:refused:upgrade_required"]


def rotated(*defects: str) -> Authority:
    """A client that reconnects after a key rotation; the old key stays as fallback."""
    authority = Authority(None, defects=set(defects)).pass_time(1.0)
    authority.control.rotate(Key("k2", b"two"))
    authority.runtime.take_keys(authority.control.keyring)
    authority.lose(0, Closed())
    return authority.pass_time(1.0)


def kids(authority: Authority) -> list[str]:
    return [notice.detail for notice in authority.of(0, "token_minted")]


def test_old_tokens_stay_valid_until_old_key_is_retired():
    authority = rotated()
    assert authority.session.is_live
    assert kids(authority) == ["k1"]
    authority.control.retire_old_keys()
    authority.runtime.take_keys(authority.control.keyring)
    authority.lose(0, Closed())
    assert authority.pass_time(3.0).session.is_live
    assert kids(authority) == ["k1", "k2"]


def test_forget_fallback_key_refuses_old_tokens_at_once():
    assert kids(rotated("forget_fallback_key").pass_time(2.0)) == ["k1", "k2"]


def test_sign_with_old_key_continues_until_old_key_is_retired():
    authority = rotated("sign_with_old_key")
    forget_token(authority.session)
    authority.lose(0, Closed())
    assert kids(authority.pass_time(2.0)) == ["k1", "k1"]
    authority.control.retire_old_keys()
    forget_token(authority.session)
    authority.lose(0, Closed())
    assert kids(authority.pass_time(3.0)) == ["k1", "k1", "k2"]


def test_stopped_delivery_closes_and_refuses_sockets():
    authority = Authority(None).pass_time(1.0)
    down = Switches(delivery_down=True)
    authority.runtime.set_switches(down)
    assert authority.runtime.is_closing(authority.wires[0].number)
    with pytest.raises(DeliveryDownError):
        authority.runtime.open(authority.session.token.text, COMPATIBILITY, authority.now)
    assert authority.runtime.counters.acted == {"stop_delivery": 2}
    authority.runtime.set_switches(Switches())
    assert authority.runtime.open(authority.session.token.text, COMPATIBILITY, authority.now)


@pytest.mark.parametrize(
    ("policy", "ahead_s", "refresh_s"), [("reference", 300.0, 270.0), ("wrong_trusts_clock", 300.0, -30.0)]
)
def test_only_wrong_trusts_clock_uses_own_clock(policy: str, ahead_s: float, refresh_s: float):
    settings = ClientSettings(1, COMPATIBILITY, CAPABILITIES, forms=SpacetimeForms())
    session = Session(0, (RUN,), policies.get(policy), settings)
    token = Token("t", 270.0, 300.0, server_refresh_at=270.0, server_expires_at=300.0)
    assert by_own_clock(token, session, ahead_s).refresh_at == refresh_s
    assert by_own_clock(token, session, 0.0) == token
    without_server_times = Token("t", 270.0, 300.0)
    assert by_own_clock(without_server_times, session, ahead_s) is without_server_times


def test_timestamps_are_parsed_and_clock_offsets_alternate():
    assert unix_s("1970-01-01T00:01:00.500Z") == 60.5
    assert math.isnan(unix_s("soon"))
    assert [clock_ahead_s(client, 300.0) for client in (0, 1, 2)] == [300.0, -300.0, 300.0]


def test_network_failure_is_no_answer():
    authority = Authority("garbled_token", offline=True).pass_time(5.0)
    assert authority.answers == []
    authority.network_is_down = False
    assert authority.pass_time(10.0).answers == ["garbled_token:refused:invalid_token"]


def test_premature_token_client_waits_for_a_future_token():
    authority = Authority("premature_token").pass_time(3.0)
    assert authority.answers == []
    assert len(authority.requested_ttls) > 4
    authority.switches.mint_ahead_s = 60.0
    assert authority.pass_time(1.0).answers == ["premature_token:refused:token_not_yet_valid"]


def test_special_lifetime_is_requested_once():
    assert Authority("outdated_token").pass_time(8.0).requested_ttls == [2, None]
    assert Authority("overaged_token").pass_time(10.0).requested_ttls == [900, None]
    assert Authority(None).pass_time(1.0).requested_ttls == [None]


def test_unverified_reads_claims_and_refuses_malformed_tokens():
    minted = Authority(None).control.issue(TokenRequest("session-a"), START, outage=False)["data"]["token"]
    assert tokens.unverified(minted).user_id == "a"
    for text in ("", "x", "a.b.c"):
        with pytest.raises(TokenRefusedError, match="malformed"):
            tokens.unverified(text)


def test_drill_model_lists_every_negative_client():
    assert set(msgspec.json.schema(NegativeClientName)["enum"]) == set(NEGATIVE_CLIENTS) == set(EXPECTED)
