"""Who is admitted, refused or warned, and how limits count, at each boundary."""

import math
from typing import Any

import msgspec
import pytest

from sim.protocols.intents import Compatibility, Subscribe
from sim.protocols.spacetime.profile import PROFILE
from sim.server.admission import (
    PublishLimits,
    ServiceLimits,
    TokenBucket,
    admitted,
    failure,
    incompatibility,
    is_revoked,
    no_answer,
    slow_consumer,
    subscribe_refusal,
)
from sim.server.counters import Counters, metrics
from sim.server.deployment import Deployment, Throttle, cohort_bucket, in_cohort, unknown_revision
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import StreamLog
from sim.server.tokens import TokenRefusedError, of_nobody, unverified
from tests.client.server_double import KEYRING, START
from tests.server.runtime_driver import ALL, A, B, token

SETTINGS = RuntimeSettings()
FITTING = Compatibility("c", SETTINGS.min_client_build, SETTINGS.protocol_version, SETTINGS.schema_version)


def joined(**fields: object) -> Compatibility:
    return msgspec.structs.replace(FITTING, **fields)


@pytest.mark.parametrize(
    ("join", "query", "code"),
    [
        (FITTING, Compatibility(), ""),
        (Compatibility(), FITTING, ""),
        (joined(protocol_version="x"), FITTING, "unsupported_protocol_version"),
        (joined(schema_version=2), FITTING, "unsupported_schema_version"),
        (joined(schema_version="1"), Compatibility(), ""),
        (joined(schema_version=None), joined(schema_version=2), "unsupported_schema_version"),
        (joined(client_build_id="20260101T000000"), FITTING, "invalid_client_build"),
        (joined(client_build_id="20260101X000000Z"), FITTING, "invalid_client_build"),
        (joined(client_build_id="20260101T000000X"), FITTING, "invalid_client_build"),
        (joined(client_build_id="20251231T235959Z"), FITTING, "upgrade_required"),
        (joined(client_build_id=SETTINGS.max_client_build), FITTING, ""),
        (joined(client_build_id="21000101T000000Z"), FITTING, "unsupported_client_build"),
    ],
)
def test_compatibility_of_a_client(join: Compatibility, query: Compatibility, code: str):
    assert incompatibility(SETTINGS, join, query) == code


def refusal(
    now: float = START, revoked: frozenset[str] = frozenset(), settings: RuntimeSettings = SETTINGS, **switches: Any
) -> str:
    try:
        admitted(token(at=START), KEYRING, now, settings, Switches(**switches), revoked, PROFILE)
    except TokenRefusedError as error:
        return error.code
    return ""


def test_token_is_admitted_until_its_end_and_while_it_can_be_checked():
    life = RuntimeSettings(token_max_age_s=1000)
    assert [refusal(START + age, settings=life) for age in (0, 329.9, 330)] == ["", "", "token_expired"]
    assert [refusal(START + age) for age in (300, 300.1)] == ["", "token_too_old"]
    assert refusal(tokens_void_before=START) == ""
    assert refusal(tokens_void_before=START + 1) == "token_expired"
    for defects, outage, code in (
        (set(), True, ""),
        ({"introspect_tokens"}, True, "unauthorized"),
        ({"introspect_tokens"}, False, ""),
    ):
        assert refusal(defects=defects, mint_outage=outage) == code


def test_session_or_device_is_revoked_unless_a_defect_forgets():
    claims = unverified(token())
    for ids, revoked in (([claims.session_id], True), ([claims.device_id], True), ([claims.user_id], False), ([], False)):
        assert is_revoked(claims, Switches(), ids) is revoked
        assert not is_revoked(claims, Switches(defects={"accept_revoked_token"}), ids)


def test_subscribe_is_refused_if_empty_malformed_or_not_granted():
    claims = unverified(token(topics=(A,)))
    asked = {"": {}, "malformed": {A: None}, "other": {A: None, B: None}, "own": {A: None}}
    found = {
        name: subscribe_refusal(claims, Subscribe("1", after, is_malformed=name == "malformed"), (), PROFILE)
        for name, after in asked.items()
    }
    assert found["own"] is None
    codes = {name: (each.code, each.streams) for name, each in found.items() if each}
    assert codes == {"": ("bad_subscription", ()), "malformed": ("bad_subscription", ()), "other": ("forbidden_topic", (B,))}
    assert subscribe_refusal(claims, Subscribe("1", {B: None}), {"ignore_grants"}, PROFILE) is None


@pytest.mark.parametrize(("is_evicted", "action", "wait_ms"), [(True, "disconnect", 1500.0), (False, "throttle", None)])
def test_warning_to_a_slow_client_says_what_follows(is_evicted: bool, action: str, wait_ms: float | None):
    warning = slow_consumer(RuntimeSettings(slow_consumer_reconnect_after_ms=1500), PROFILE, A, 70, is_evicted)
    assert (warning.code, warning.next.wait_ms) == ("slow_consumer", wait_ms)
    assert dict(warning.details)["reconnect_after_ms"] == 1500.0
    said = {"full_resync_required": False, "action": action, "topic": A, "queue_depth": 70, "queue_limit": 64}
    assert said.items() <= dict(warning.details).items()


def test_bucket_holds_the_tokens_of_one_second_and_at_least_one():
    bucket = TokenBucket(2.0, 2.0, 100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert bucket.take(100.25) == 0.25
    assert bucket.take(100.5) == 0.0
    assert [bucket.take(200.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    slow = TokenBucket(0.25, 1.0, 100.0)
    assert [slow.take(now) for now in (100.0, 100.0, 103.0, 104.0, 200.0, 200.0)] == [0.0, 4.0, 1.0, 0.0, 0.0, 4.0]


def test_limits_of_the_service_say_when_to_come_again():
    limits = ServiceLimits(Throttle(publishes_per_s=1.0, connects_per_s=2.0), 100.0)
    assert limits.publish_refusal(100.0) is None
    refused = limits.publish_refusal(100.0)
    assert refused is not None
    assert (refused.status, refused.retry_after_ms, refused.message) == (429, 1001, "the service is throttled to 1 a second")
    assert [limits.connect_refusal(100.0) is None for _ in range(3)] == [True, True, False]


def test_limits_of_a_topic_are_its_own_or_the_settings():
    rate = PROFILE.topics.topic_class(A).publishes_per_s
    own = PublishLimits(RuntimeSettings(), PROFILE)
    assert [own.refusal(A, 1, 10.0) is None for _ in range(int(rate) + 1)] == [True] * int(rate) + [False]


def test_every_other_publish_is_refused_from_the_first_on():
    counters, switches = Counters(), Switches(defects={"refuse_every_other_publish"})
    found = [failure(switches, counters) for _ in range(4)]
    assert [each is not None for each in found] == [True, False, True, False]
    assert (counters.publish_tries, counters.acted) == (4, {})
    assert found[0] is not None
    assert (found[0].status, found[0].code, found[0].retry_after_ms, found[0].is_taken) == (
        503,
        "publishing_unavailable",
        None,
        False,
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [(413, "spacetime_frame_payload_too_large"), (429, "spacetime_publish_rate_limited"), (500, "internal_error")],
)
def test_failed_publish_has_the_code_of_its_status(status: int, code: str):
    counters = Counters()
    refused = failure(Switches(publish_fail_status=status, publish_fail_share=1.0, publish_fail_taken=True), counters)
    assert refused is not None
    assert (refused.status, refused.code, refused.is_taken, counters.acted) == (status, code, True, {"fail_publishes": 1})
    assert failure(Switches(publish_fail_status=status), counters) is None
    assert (no_answer().status, no_answer().code, no_answer().is_taken) == (500, "internal_error", True)


@pytest.mark.parametrize(
    ("code", "counter"),
    [
        *[
            ("unauthorized", "unauthorized"),
            ("forbidden", "forbidden"),
            ("forbidden_topic", "forbidden"),
            ("new", "unauthorized"),
        ],
        *[("invalid_token", "invalid_token"), ("token_expired", "token_expired"), ("token_too_old", "token_expired")],
        *[("token_not_yet_valid", "token_not_yet_valid"), ("token_revoked", "token_revoked")],
    ],
)
def test_refusal_is_counted_by_its_code(code: str, counter: str):
    counters = Counters()
    counters.refused(code)
    assert {name: count for name, count in counters.auth.items() if count} == {f"{counter}_total": 1}


def test_effects_of_faults_are_added_up():
    counters = Counters()
    for times in (1, 2):
        counters.act("x", times)
    counters.act("y")
    assert counters.acted == {"x": 3, "y": 1}


def test_service_without_traffic_has_no_rates():
    body: Any = metrics(Counters(), [], 0, "full", START, "t")
    assert (body["mirror"]["duplicate_suppression_rate_pct"], body["delivery"]["max_replay_lag"]) == (0.0, 0)
    counters = Counters(published=3, duplicates_suppressed=1, publish_failed=2, polls=4, served=5, stale_cursors=6)
    log = StreamLog(10, 10.0)
    log.append("k", b"{}", START)
    body = metrics(counters, [log, StreamLog(10, 10.0)], 7, "full", START, "t")
    assert body["mirror"] == {
        "published_total": 3,
        "duplicate_suppressed_total": 1,
        "failed_total": 2,
        "duplicate_suppression_rate_pct": 25.0,
    }
    lags = {"active_consumers": 7, "total_polls": 4, "served_messages": 5, "max_replay_lag": 1, "stale_cursor_events_total": 6}
    assert lags.items() <= body["delivery"].items()


def test_client_whose_token_is_not_read_may_do_nothing_but_stay():
    nobody = of_nobody()
    assert (nobody.issued_at, nobody.not_before, nobody.expires_at) == (0.0, 0.0, math.inf)
    assert (nobody.scopes, nobody.topics, nobody.user_id) == ((), (), "")
    refused = subscribe_refusal(nobody, Subscribe("1", dict.fromkeys(ALL)), (), PROFILE)
    assert refused is not None
    assert refused.streams == ALL


def test_only_a_previous_revision_that_is_named_is_known():
    alone = Deployment(revision="r2", previous_revision="")
    assert (alone.revisions, unknown_revision(alone, "")) == (("r2",), "there is no revision ''; there are: r2")
    assert (Deployment().cohort_percent, Deployment().canary_defects) == (100, ())


def test_cohort_is_drawn_from_the_first_bytes_of_a_hash():
    key = "user:1"  # 0x1CD8BD2B, from its first four bytes
    assert cohort_bucket("runtime", key) == 0x1CD8BD2B % 100 == 51
    assert [in_cohort("runtime", key, percent) for percent in (51, 52)] == [False, True]


# --- defaults -------------------------------------------------------------------------------------------

OURS = {
    "replay_budget_events": 0,
    "slow_consumer_tick_s": 0.5,
    "send_buffer_kib": 0,
    "longest_frame_kib": 256,
    "publishes_per_s": 0,
    "profile": "full",
    "long_polls": False,
    "min_client_build": "20260101T000000Z",
    "max_client_build": "20991231T235959Z",
}


def test_our_own_defaults_and_a_healthy_runtime():
    assert {name: getattr(RuntimeSettings(), name) for name in OURS} == OURS
    assert {name: value for name, value in msgspec.structs.asdict(Switches()).items() if value} == {"seed": 1}
