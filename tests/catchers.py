"""Which drill catches which defect of a runtime or of a client, by which names: the same on every engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Catch:
    """What is wrong, the drill that shows it, and what must turn red by name."""

    wrong: str
    drill: str
    names: frozenset[str]


def catch(wrong: str, drill: str, *names: str) -> Catch:
    return Catch(wrong, drill, frozenset(names))


DEFECT_CATCHERS = (
    catch("skip_delivery", "dropped_delivery", "delivery.dropped_deliveries", "replay.divergence"),
    catch("replay_off_by_one", "reconnect_storm", "replay.divergence"),
    catch("ignore_cursor", "reconnect_storm", "replay.divergence"),
    catch("no_stale_signal", "stale_cursor", "drill.stale_signalled"),
    catch("accept_expired_token", "token_expiry_storm", "drill.probes", "expired_token_accepted"),
    catch("accept_mutation", "reconnect_storm", "drill.probes", "socket_changed_state"),
    catch("lose_log_on_restart", "runtime_restart", "acknowledged_lost"),
    catch("wrong_payload_hash", "dropped_delivery", "ux.integrity", "jumbled_message"),
    catch("cross_topic_leak", "reconnect_storm", "cross_topic_leak"),
    catch("reorder_replay", "runtime_restart", "replay.divergence"),
)
# What is wrong with tokens, publishing and who may do what.
AUTHORITY_CATCHERS = (
    catch("accept_any_signature", "token_misuse", "drill.probes", "garbled_token_accepted", "foreign_key_token_accepted"),
    catch("vague_refusals", "token_misuse", "drill.probes"),
    catch("ignore_grants", "token_misuse", "drill.probes", "forbidden_topic_accepted"),
    catch("grant_any_topic", "token_misuse", "drill.probes", "foreign_topic_mint_accepted"),
    catch("forget_idempotency_keys", "publish_failures", "phantom_event"),
    catch("acknowledge_unwritten", "publish_failures", "acknowledged_lost"),
    catch("introspect_tokens", "control_outage", "error.websocket_auth_error_ratio", "drill.token_holders"),
    catch("accept_revoked_token", "session_revocation", "drill.probes", "drill.revocation", "revoked_token_accepted"),
    catch("keep_revoked_sockets", "session_revocation", "drill.revocation"),
    catch("revoke_everyone", "session_revocation", "drill.revocation"),
    catch("forget_fallback_key", "token_rotation", "drill.key_rotation", "error.websocket_auth_error_ratio"),
    catch("sign_with_old_key", "token_rotation", "drill.key_rotation"),
    catch("publish_needs_delivery", "http_authority", "drill.authority_served"),
    catch("lose_undelivered", "http_authority", "acknowledged_lost"),
    catch("accept_old_builds", "compatibility_window", "drill.probes", "old_build_accepted"),
    catch("refuse_oldest_build", "compatibility_window", "drill.probes"),
)
# What is wrong with replays, snapshots and the order of things.
DELIVERY_CATCHERS = (
    catch("old_snapshots", "stale_cursor_storm", "drill.declared_loss"),
    catch("stale_too_early", "replay_budget_exceeded", "drill.stale_justified"),
    catch("wrong_stale_reason", "replay_budget_exceeded", "drill.stale_signalled"),
    catch("two_versions", "multi_client_order", "delivery.one_order", "acknowledged_lost"),
    catch("deploy_cuts_everyone", "rolling_deploy", "drill.cut_once"),
    catch("accept_mutation", "mutation_over_socket", "socket_changed_state", "phantom_event", "drill.probes"),
    catch("accept_hidden_mutation", "mutation_over_socket", "phantom_event"),
)
# What a runtime does wrong with slow, silent and late clients.
SILENCE_CATCHERS = (
    catch("keep_slow_consumers", "slow_consumer", "delivery.slow_consumers_untold"),
    catch("skip_for_slow_consumers", "slow_consumer", "delivery.slow_consumers_untold", "delivery.live_gaps"),
    catch("keep_silent_clients", "half_open_sockets", "reconnect.half_open_left"),
    catch("drop_late_heartbeats", "latency_brownout", "reconnect.needless_disconnects"),
)
# By drills that only run on real sockets.
SOCKETS_CATCHERS = (catch("serve_retired_route", "retired_routes", "drill.retired_routes"),)
ALL_CATCHERS = (*DEFECT_CATCHERS, *AUTHORITY_CATCHERS, *DELIVERY_CATCHERS, *SILENCE_CATCHERS)
HARMLESS = "duplicate_delivery"  # the contract allows it, so it must turn nothing red anywhere
DESKTOP_CATCHERS = (
    catch("resubscribes from zero", "stale_cursor", "stale_loop", "replay.stale_loops", "reconnect.backoff_unjittered"),
    catch("jumps over holes", "dropped_delivery", "silent_loss", "delivery.dropped_deliveries"),
    catch("goes on counting", "reconnect_storm", "reconnect.backoff_never_resets", "reconnect.backoff_unjittered"),
)
# Settings of a fleet that its drill must not let pass.
SETTING_CATCHERS = (
    catch("fleet.token_ttl_s=900", "token_lifetime", "error.tokens_too_old"),
    catch("fleet.policy=wrong_trusts_clock", "clock_skew", "drill.clocks", "error.tokens_too_old"),
)
# Policies that are wrong on purpose: everything that turns red, and nothing else does.
CLIENT_CATCHERS = (
    catch("wrong_applies_duplicates", "duplicate_delivery", "applied_twice", "ux.integrity", "drill.faults_noticed"),
    catch("wrong_ignores_hashes", "jumbled_frames", "acknowledged_lost", "delivery.one_order", "drill.faults_noticed"),
    catch(
        *("wrong_applies_past_holes", "disordered_delivery", "hole", "silent_loss"),
        *("ux.integrity", "delivery.dropped_deliveries", "drill.faults_noticed"),
    ),
    catch("wrong_reads_torn_checkpoints", "checkpoint_damage", "hole", "ux.integrity"),
    catch("wrong_trusts_future_checkpoints", "checkpoint_damage", "silent_loss", "delivery.dropped_deliveries"),
    catch("wrong_trusts_silence", "half_open_sockets", "reconnect.half_open_left"),
)
# The network's drills on defects that other drills catch, too, and on the shipped client.
NETWORK_CATCHERS = (
    catch("ignore_cursor", "partition_heal", "replay.divergence"),
    catch("replay_off_by_one", "network_flap", "replay.divergence"),
)
DESKTOP_NETWORK_CATCHERS = (
    catch("desktop", "slow_consumer", "reconnect.early_returns"),
    catch("desktop", "network_flap", "reconnect.backoff_unjittered"),
)
# A second cut after a live period, the only place where a backoff that is never reset shows.
LIVE_PERIOD = ("phases.fault_s=7.2", "faults.1.at_s=6.2")
IMPATIENT = ("phases.settle_s=3",)  # what will not converge need not be waited for
