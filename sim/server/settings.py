"""Settings of the sync service's runtime, and the switches that make it misbehave on purpose."""

from typing import Annotated, Literal, get_args

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
ShareOrZero = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Profile = Literal["full", "pinned"]


class RuntimeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the runtime and its control service. Defaults are those of the real service, except where marked [ours]."""

    window_events: Count = 1024  # entries of a stream kept for replay
    replay_budget_events: CountOrZero = 0  # 0: each topic class's own
    replay_batch_size: Count = 200  # events in one frame of a replay
    outbound_queue_events: Count = 64  # undelivered events of one client above which it counts as slow
    topics_per_drain: Count = 2  # fairness: topics in one message to a client
    slow_consumer_strikes: Count = 3  # consecutive checks with a full queue until a client is disconnected
    slow_consumer_tick_s: Positive = 0.5  # [ours] how often queues are checked for slow clients
    slow_consumer_reconnect_after_ms: Count = 2000  # wait that the service asks of an evicted client
    send_buffer_kib: CountOrZero = 0  # [ours] kernel send buffer of each socket; 0: the system's default
    longest_frame_kib: Count = 256  # [ours] a longer frame from a client ends its connection
    heartbeat_interval_s: Positive = 15.0  # between two heartbeats
    client_timeout_s: Positive = 60.0  # silence after which a client is disconnected
    token_ttl_s: Count = 300  # default lifetime of a token
    token_ttl_min_s: Count = 60  # shortest lifetime that a client can request
    token_ttl_max_s: Count = 900  # longest lifetime that a client can request
    token_refresh_margin_s: CountOrZero = 30  # time before a token's end in which a client should renew it
    token_leeway_s: CountOrZero = 30  # tolerance of the token's times
    token_max_age_s: Count = 300  # a token issued longer ago is refused
    publishes_per_s: CountOrZero = 0  # 0: each topic class's own
    profile: Profile = "full"  # of the metrics endpoint
    sync_frames: bool = False  # deliver each event as a separate message
    long_polls: bool = False  # [ours] clients of a simulated protocol that has both wait by long polls, not by a stream
    protocol_version: str = "spacetime.sync.v1"  # required of clients
    schema_version: int = 1  # required of clients
    min_client_build: str = "20260101T000000Z"  # [ours] oldest build that may join
    max_client_build: str = "20991231T235959Z"  # [ours] newest build that may join


class LiveFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault of live updates: the affected shares of clients and of events; see `sim.server.delivery.disorder`."""

    clients: Share
    events: Share
    delay_ms: NotNegative = 0.0


Defect = Literal[
    "skip_delivery",
    "duplicate_delivery",
    "replay_off_by_one",
    "ignore_cursor",
    "no_stale_signal",
    "accept_expired_token",
    "accept_mutation",
    "lose_log_on_restart",
    "wrong_payload_hash",
    "cross_topic_leak",
    "reorder_replay",
    "accept_any_signature",
    "vague_refusals",
    "ignore_grants",
    "grant_any_topic",
    "forget_idempotency_keys",
    "acknowledge_unwritten",
    "stall_on_concurrent_appends",
    "old_snapshots",
    "hollow_snapshots",
    "unsteady_digests",
    "alter_copies",
    "stale_too_early",
    "wrong_stale_reason",
    "introspect_tokens",
    "accept_revoked_token",
    "keep_revoked_sockets",
    "revoke_everyone",
    "keep_slow_consumers",
    "skip_for_slow_consumers",
    "keep_silent_clients",
    "drop_late_heartbeats",
    "forget_fallback_key",
    "sign_with_old_key",
    "publish_needs_delivery",
    "lose_undelivered",
    "accept_old_builds",
    "refuse_oldest_build",
    "two_versions",
    "swap_payloads",
    "repeat_payloads",
    "alter_payloads",
    "deploy_cuts_everyone",
    "serve_retired_route",
    "accept_hidden_mutation",
    "accept_malformed",
    "malformed_cuts_everyone",
    "echo_cursor_above_head",
    "announce_before_commit",
    "forget_revocations",
    "wait_for_company",
    "refuse_every_other_publish",
    "unanswered_to_some",
]
DEFECTS: tuple[str, ...] = get_args(Defect)
DEFECT_MEANINGS: dict[str, str] = {
    "skip_delivery": "some events are never delivered to some clients, neither live nor in a replay",
    "duplicate_delivery": "some live updates are sent twice, which the contract allows",
    "replay_off_by_one": "a replay begins one event too late",
    "ignore_cursor": "a replay begins at the oldest retained event and ignores the cursor",
    "no_stale_signal": "a stale cursor is accepted silently",
    "accept_expired_token": "expired tokens open connections",
    "accept_mutation": "a mutation sent over the socket is carried out",
    "lose_log_on_restart": "a restart forgets every acknowledged event",
    "wrong_payload_hash": "some updates carry a hash that is not their payload's",
    "cross_topic_leak": "some events go to clients that never subscribed to their topic",
    "reorder_replay": "the first two events of a replay batch change places",
    "accept_any_signature": "a token's signature is not checked",
    "vague_refusals": "every refused token is called unauthorized, without the true reason",
    "ignore_grants": "a subscription gets any topic, even those that its token does not grant",
    "grant_any_topic": "the control service grants topics of other users",
    "forget_idempotency_keys": "an event that is published again under its key is appended a second time",
    "acknowledge_unwritten": "a publish that fails is acknowledged all the same",
    "stall_on_concurrent_appends": "once two appends to a stream overlap, it takes no event any more",
    "old_snapshots": "a snapshot ends before the first event that is retained",
    "hollow_snapshots": "a snapshot has the position of the head, and contains nothing",
    "unsteady_digests": "each time a snapshot is sent, it has another digest",
    "alter_copies": "some updates are sent a second time, with another payload",
    "stale_too_early": "a cursor is refused long before the replay budget is used up",
    "wrong_stale_reason": "every stale cursor is blamed on retention",
    "introspect_tokens": "while the control service mints no tokens, the runtime takes none either",
    "accept_revoked_token": "tokens of revoked sessions open connections",
    "keep_revoked_sockets": "a revoked session keeps the sockets that it has open",
    "revoke_everyone": "revoking some sessions closes the sockets of all",
    "keep_slow_consumers": "a client whose queue is full is neither warned nor evicted",
    "skip_for_slow_consumers": "what does not fit into a full queue is left out silently",
    "keep_silent_clients": "a client from which nothing more comes is never dropped",
    "drop_late_heartbeats": "a client is dropped as silent as soon as one of its heartbeats is late",
    "forget_fallback_key": "with a new signing key, what the old one signed is refused at once",
    "sign_with_old_key": "the control service goes on signing with the old key while that one still verifies",
    "publish_needs_delivery": "while delivery is down, publishes are refused",
    "lose_undelivered": "what is published while delivery is down is acknowledged and lost",
    "accept_old_builds": "clients of builds that are too old may join",
    "refuse_oldest_build": "the oldest build of the compatibility window is refused",
    "two_versions": "some clients are handed other payloads than the rest, each under its right hash",
    "swap_payloads": "the first two payloads of a batch change places, while positions and hashes are right",
    "repeat_payloads": "some events of a batch are replaced by the one before, under their own positions and right hashes",
    "alter_payloads": "some payloads are changed, under their right hashes",
    "deploy_cuts_everyone": "a wave of a deploy closes the sockets of all instances",
    "serve_retired_route": "a retired route is still answered",
    "accept_hidden_mutation": "a mutation that is hidden in a heartbeat is carried out",
    "accept_malformed": "a malformed frame is answered as if it were carried out",
    "malformed_cuts_everyone": "a malformed frame closes the sockets of all clients",
    "echo_cursor_above_head": "a cursor above the head is confirmed, and all events below it are lost silently",
    "announce_before_commit": "some live events are announced before they can be read, so live clients never get them",
    "forget_revocations": "a revocation is forgotten when the session's sockets are closed",
    "refuse_every_other_publish": "every other publish is refused, until it is tried again",
    "unanswered_to_some": "some publishes always fail although their event is stored, and some clients never get that event",
    "wait_for_company": "most live events wait until the next event of their topic is published, or another client connects",
}


class Switches(msgspec.Struct, forbid_unknown_fields=True):
    """Faults and defects of a runtime that can be changed while it runs; the defaults are a healthy runtime."""

    defects: set[Defect] = msgspec.field(default_factory=set)
    seed: int = 1  # selects the clients and events that a fault or defect affects
    mint_delay_ms: NotNegative = 0.0  # time one token takes at the control service
    mint_concurrency: CountOrZero = 0  # tokens minted at once; 0: no limit
    mint_outage: bool = False
    mint_ahead_s: NotNegative = 0.0  # how far the control service's clock is ahead of the runtime's
    publish_fail_status: int = 0  # HTTP status with which a share of the publishes is refused; 0: none
    publish_fail_share: NotNegative = 0.0
    publish_fail_retry_after_ms: CountOrZero = 0  # retry delay in such a refusal; 0: none
    publish_fail_taken: bool = False  # the event is appended although its publish is refused
    publish_delay_ms: NotNegative = 0.0
    delivery_down: bool = False  # sockets are closed and refused; HTTP is still served
    skip_live_clients: NotNegative = 0.0  # share of clients whose live tail loses events
    skip_live_events: NotNegative = 0.0  # share of those clients' live events that are lost
    duplicate_deliveries: LiveFault | None = None  # sent twice
    jumble_deliveries: LiveFault | None = None  # with a payload that does not match its hash
    reorder_deliveries: LiveFault | None = None  # sent after the next event of the stream
    delay_deliveries: LiveFault | None = None  # sent `delay_ms` late, after events that follow meanwhile
    malform_frames: LiveFault | None = None  # the whole frame is malformed
    shrunk_budget_events: CountOrZero = 0  # replay budget instead of the configured one; 0: not shrunk
    tokens_void_before: float = 0.0  # tokens issued before this unix time count as expired
