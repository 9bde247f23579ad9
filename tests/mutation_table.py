"""Which drill catches what is wrong with a runtime, a client or a setting, and by which names: one table for every engine.

The table is the proof that drills, laws and checks can fail. The ordinary tests run all of it in simulation and a few rows on
real sockets; `make prove` runs all of it there. What no row can turn red has a hand-written history in `tests/known_bad.py`;
`tests/test_everything_can_fail.py` checks that nothing is left out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results, running, variants
from drills.runs.request import Request
from sim.drill.model import Drill
from sim.protocols import registry
from tests.storms import small

EVERYWHERE = ("sockets", "virtual")
HARMLESS = "duplicate_delivery"  # the contract allows it, so it must turn nothing red anywhere
IMPATIENT = ("phases.settle_s=3",)  # what will not converge need not be waited for
PATIENT = ()  # long backoffs come of being refused again and again: those who are not lost take their time to converge
# A second cut after a live period, the only place where a backoff that is never reset shows.
# One shared topic gets as many events as one of several streams does elsewhere.
SHARED = ("load.events_per_s=15",)
LIVE_PERIOD = ("phases.fault_s=7.2", "faults.1.at_s=6.2")


@dataclass(frozen=True)
class Catch:
    """What is wrong, the drill that shows it, and what must turn red by name."""

    kind: Literal["defect", "policy", "setting", "model"]
    wrong: str  # a defect of the mock, a client's policy, or KEY=VALUE of the drill or of the model that is simulated
    drill: str
    names: frozenset[str]  # of checks that fail or are an error, and of laws
    only: bool = False  # in simulation nothing else turns red; on a busy machine times may
    settings: tuple[str, ...] = ()  # more settings, without which there is less to see or longer to wait
    engines: tuple[str, ...] = EVERYWHERE
    protocol: str = registry.DEFAULT
    tested: tuple[str, ...] = ("virtual",)  # on these engines by the ordinary tests, too

    def __str__(self) -> str:
        return f"{self.wrong}-{self.drill}"

    def planned(self, engine: str) -> Drill:
        """The drill with what is wrong in it, made small."""
        own = {"policy": (f"fleet.policy={self.wrong}",), "setting": (self.wrong,)}.get(self.kind, ())
        drill = small(self.drill, *self.settings, *own)
        return variants.on_engine(drill, engine) if drill.variants else drill

    def judged(self, out: Path, engine: str) -> DrillVerdict:
        """The verdict on that drill, run into a folder of its own below `out`."""
        defects = (self.wrong,) if self.kind == "defect" else ()
        model = None
        if self.kind == "model":
            model = out / "model.toml"
            model.write_text(self.wrong)
        request = Request(
            (self.planned(engine),),
            engine=engine,
            target="mock",
            seed=1,
            defects=defects,
            thresholds=None,
            out=out,
            model=model,
            protocol=self.protocol,
        )
        (verdict,) = results.judge_run(running.run(request)).drills
        return verdict

    def missed(self, verdict: DrillVerdict, engine: str) -> str:
        """What is not as it must be, in words; empty where all that must turn red did."""
        found = turned_red(verdict)
        pale = sorted(self.names - found)
        more = sorted(found - self.names) if self.only and engine == "virtual" else []
        complaints = (f"not red: {', '.join(pale)}" if pale else "", f"red, too: {', '.join(more)}" if more else "")
        return "; ".join(complaint for complaint in complaints if complaint)


def turned_red(verdict: DrillVerdict) -> frozenset[str]:
    """Checks that failed or are an error, and broken laws, but not the check that only says that there are some."""
    checks = {check.name for check in verdict.checks if check.state in (State.FAIL, State.ERROR)}
    return frozenset(checks - {"drill.invariants"} | {violation.invariant for violation in verdict.violations})


def defect(wrong: str, drill: str, *names: str, settings: tuple[str, ...] = IMPATIENT, **more: Any) -> Catch:
    return Catch("defect", wrong, drill, frozenset(names), settings=settings, **more)


def policy(wrong: str, drill: str, *names: str, **more: Any) -> Catch:
    return Catch("policy", wrong, drill, frozenset(names), **more)


def setting(wrong: str, drill: str, *names: str, **more: Any) -> Catch:
    return Catch("setting", wrong, drill, frozenset(names), **more)


def model(wrong: str, drill: str, *names: str, **more: Any) -> Catch:
    """Of the simulated server; only simulations have a model."""
    return Catch("model", wrong, drill, frozenset(names), engines=("virtual",), **more)


MUTATIONS = (
    # Deliveries, replays, tokens, the log: what can be wrong with a runtime most simply.
    defect(
        *("skip_delivery", "dropped_delivery", "delivery.dropped_deliveries", "replay.divergence", "early_replay_complete"),
        tested=EVERYWHERE,
    ),
    defect("replay_off_by_one", "reconnect_storm", "replay.divergence"),
    defect("ignore_cursor", "reconnect_storm", "replay.divergence", only=True),
    defect("no_stale_signal", "stale_cursor", "drill.stale_signalled"),
    defect(
        *("accept_expired_token", "token_expiry_storm", "drill.negative_clients", "expired_token_accepted"),
        only=True,
        tested=EVERYWHERE,
    ),
    defect(
        *("accept_mutation", "reconnect_storm", "drill.negative_clients", "socket_changed_state", "phantom_event"),
        only=True,
    ),
    defect("lose_log_on_restart", "runtime_restart", "acknowledged_lost", "log_recreated", tested=EVERYWHERE),
    defect(  # no client ever becomes live, so there is no steady state to wait for
        *("wrong_payload_hash", "dropped_delivery", "ux.integrity", "jumbled_message", "drill.steady_state"),
        settings=(*IMPATIENT, "phases.steady_limit_s=3"),
    ),
    defect("cross_topic_leak", "reconnect_storm", "cross_topic_leak", only=True),
    defect("reorder_replay", "runtime_restart", "replay.divergence", "drill.audited", "drill.converged"),
    # Tokens, publishing, and who may do what.
    defect(
        *("accept_any_signature", "token_misuse", "drill.negative_clients"),
        *("garbled_token_accepted", "foreign_key_token_accepted"),
        only=True,
    ),
    defect("vague_refusals", "token_misuse", "drill.negative_clients", only=True),
    defect("ignore_grants", "token_misuse", "drill.negative_clients", "forbidden_topic_accepted", only=True),
    defect("grant_any_topic", "token_misuse", "drill.negative_clients", "foreign_topic_mint_accepted", only=True),
    defect("forget_idempotency_keys", "publish_failures", "phantom_event", "applied_twice", "ux.integrity", only=True),
    defect("forget_idempotency_keys", "lost_publish_answers", "phantom_event", "applied_twice", "ux.integrity", only=True),
    defect(
        *("acknowledge_unwritten", "publish_failures", "acknowledged_lost", "drill.publish_failures"),
        *("silent_loss", "delivery.dropped_deliveries", "drill.audited", "drill.converged", "drill.faults_observed"),
        only=True,
    ),
    defect(
        *("stall_on_concurrent_appends", "concurrent_appends", "drill.streams_alive", "delivery.failed_publish_ratio"),
        "error.failed_tries_ratio",
        only=True,
    ),
    defect("introspect_tokens", "control_outage", "error.websocket_auth_error_ratio", "drill.token_holders", settings=PATIENT),
    defect(
        *("accept_revoked_token", "session_revocation", "drill.negative_clients", "drill.revocation", "revoked_token_accepted"),
        only=True,
    ),
    defect(  # the reference client asks again; one that does not loses what was announced too early
        *("announce_before_commit", "reconnect_storm", "silent_loss", "delivery.dropped_deliveries", "drill.converged"),
        "missing_at_rest",
        settings=(*IMPATIENT, "fleet.policy=desktop"),
    ),
    defect(
        *("echo_cursor_above_head", "checkpoint_damage", "silent_loss", "delivery.dropped_deliveries", "drill.converged"),
        only=True,
        settings=(*IMPATIENT, *SHARED),
        protocol="phoenix_sync",
    ),
    defect(
        *("forget_revocations", "session_revocation", "drill.negative_clients", "drill.revocation", "revoked_token_accepted"),
        only=True,
    ),
    defect("keep_revoked_sockets", "session_revocation", "drill.revocation", only=True),
    defect("revoke_everyone", "session_revocation", "drill.revocation", "drill.undisturbed", only=True, settings=PATIENT),
    defect("forget_fallback_key", "token_rotation", "drill.key_rotation", "error.websocket_auth_error_ratio", only=True),
    defect("sign_with_old_key", "token_rotation", "drill.key_rotation"),
    defect("unanswered_to_some", "dropped_delivery", "partly_delivered", "delivery.failed_publish_ratio"),
    defect("refuse_every_other_publish", "reconnect_storm", "error.failed_tries_ratio", tested=EVERYWHERE),
    defect("publish_needs_delivery", "http_authority", "drill.authority_served", settings=PATIENT),
    defect("lose_undelivered", "http_authority", "acknowledged_lost", settings=PATIENT),
    defect("accept_old_builds", "compatibility_window", "drill.negative_clients", "old_build_accepted", only=True),
    defect("refuse_oldest_build", "compatibility_window", "drill.negative_clients", only=True),
    defect("serve_retired_route", "retired_routes", "drill.retired_routes", engines=("sockets",), tested=("sockets",)),
    # Snapshots, staleness, and the order of things.
    defect("old_snapshots", "stale_cursor_storm", "drill.declared_loss", "incomplete_snapshot", only=True),
    defect("hollow_snapshots", "stale_cursor_storm", "incomplete_snapshot", only=True),
    defect("unsteady_digests", "stale_cursor_storm", "incomplete_snapshot", only=True),
    defect("stale_too_early", "replay_budget_exceeded", "drill.stale_justified", only=True),
    defect("wrong_stale_reason", "replay_budget_exceeded", "drill.stale_signalled", "drill.stale_justified", only=True),
    defect(
        *("two_versions", "multi_client_order", "delivery.one_order", "acknowledged_lost", "phantom_event"),
        *("silent_loss", "delivery.dropped_deliveries", "drill.audited", "drill.converged"),
        only=True,
    ),
    # A service that lies: positions, heads and hashes are right, and payloads are not.
    defect("swap_payloads", "runtime_restart", "real_time_order", "acknowledged_lost", tested=EVERYWHERE),
    defect("repeat_payloads", "runtime_restart", "applied_twice", "silent_loss", "acknowledged_lost", tested=EVERYWHERE),
    defect("alter_payloads", "reconnect_storm", "altered_payload", "acknowledged_lost", tested=EVERYWHERE),
    defect("alter_copies", "reconnect_storm", "altered_payload", "acknowledged_lost", only=True),
    defect("deploy_cuts_everyone", "rolling_deploy", "drill.cut_once", "drill.undisturbed", only=True),
    defect(
        "accept_mutation", "mutation_over_socket", "socket_changed_state", "phantom_event", "drill.negative_clients", only=True
    ),
    defect("accept_hidden_mutation", "mutation_over_socket", "phantom_event", only=True),
    defect(
        "accept_malformed",
        "malformed_clients",
        "drill.negative_clients",
        "malformed_frames_accepted",
        only=True,
        tested=EVERYWHERE,
    ),
    defect(
        *("malformed_cuts_everyone", "malformed_clients", "drill.undisturbed", "drill.malformed_frames"),
        settings=(*IMPATIENT, "phases.steady_limit_s=3"),
    ),
    # Slow, silent and late clients, and networks that break.
    defect("keep_slow_consumers", "slow_consumer", "delivery.slow_consumers_kept", only=True),
    defect(
        *("skip_for_slow_consumers", "slow_consumer", "delivery.slow_consumers_kept", "delivery.live_gaps"),
        only=True,
    ),
    defect("keep_silent_clients", "half_open_sockets", "reconnect.half_open_left", only=True),
    defect("drop_late_heartbeats", "latency_brownout", "reconnect.needless_disconnects", "drill.undisturbed", only=True),
    defect("ignore_cursor", "partition_heal", "replay.divergence", only=True),
    defect("replay_off_by_one", "network_flap", "replay.divergence"),
    # A server that stays quiet until somebody comes: our auditor must not be the one.
    defect(
        *("wait_for_company", "reconnect_storm", "drill.converged"),
        settings=(*IMPATIENT, *SHARED),
        protocol="phoenix_sync",
    ),
    # The shipped client: it resubscribes from zero, jumps over holes, goes on counting, and comes back when it likes.
    policy(
        *("desktop", "stale_cursor", "stale_loop", "replay.stale_loops", "stale_without_recovery"),
        "reconnect.backoff_unjittered",
    ),
    policy(
        "desktop",
        "dropped_delivery",
        "silent_loss",
        "missing_at_rest",
        "delivery.dropped_deliveries",
        "drill.converged",
        "checkpoint_ahead",
        only=True,
        tested=EVERYWHERE,
    ),
    policy(
        *("desktop", "reconnect_storm", "reconnect.backoff_never_resets", "reconnect.backoff_unjittered"),
        only=True,
        settings=LIVE_PERIOD,
    ),
    policy("desktop", "slow_consumer", "reconnect.early_returns", "ignored_hint", only=True),
    policy("desktop", "network_flap", "reconnect.backoff_unjittered", only=True),
    policy("desktop", "parity", "replay.parity"),
    # Clients that are wrong on purpose, and one that waits for longer than the server allows.
    policy("wrong_trusts_clock", "clock_skew", "drill.clocks", "error.tokens_too_old"),
    policy(
        *("wrong_applies_duplicates", "duplicate_delivery", "applied_twice", "ux.integrity", "drill.faults_noticed"),
        only=True,
        settings=IMPATIENT,
    ),
    policy(
        *("wrong_ignores_hashes", "jumbled_frames", "acknowledged_lost", "delivery.one_order", "drill.faults_noticed"),
        *("phantom_event", "silent_loss", "delivery.dropped_deliveries", "drill.converged"),
        only=True,
        settings=IMPATIENT,
    ),
    policy(
        *("wrong_applies_past_holes", "disordered_delivery", "hole", "silent_loss"),
        *("ux.integrity", "delivery.dropped_deliveries", "drill.faults_noticed", "drill.converged"),
        only=True,
        settings=IMPATIENT,
    ),
    policy("wrong_reads_torn_checkpoints", "checkpoint_damage", "hole", "ux.integrity", only=True, settings=IMPATIENT),
    policy(
        *("wrong_trusts_future_checkpoints", "checkpoint_damage", "silent_loss", "delivery.dropped_deliveries"),
        "drill.converged",
        only=True,
        settings=IMPATIENT,
    ),
    policy("wrong_trusts_silence", "half_open_sockets", "reconnect.half_open_left", only=True, settings=IMPATIENT),
    policy(
        *("wrong_ignores_epochs", "epoch_changed", "resumed_in_new_log", "silent_loss", "delivery.dropped_deliveries"),
        settings=IMPATIENT,
        protocol="centrifugo",
        engines=("virtual",),
    ),
    policy("ably", "runtime_restart", "reconnect.backoff_bounded"),
    # Clients that react wrongly to how their connection ended.
    policy("wrong_retries_terminal", "close_codes", "retried_terminal", only=True, tested=EVERYWHERE),
    policy("wrong_ignores_hints", "close_codes", "ignored_hint", only=True),
    policy("wrong_resets_on_accept", "close_codes", "backoff_reset_by_accept", only=True),
    policy("wrong_reconnects_at_once", "close_codes", "reconnected_too_fast"),
    policy("desktop", "close_codes", "ignored_hint", only=True),
    # Settings of a drill's fleet, runtime or settings that it must not let pass.
    setting("fleet.token_ttl_s=900", "token_lifetime", "error.tokens_too_old", "error.websocket_auth_error_ratio", only=True),
    setting("runtime.publishes_per_s=1", "reconnect_storm", "delivery.failed_publish_ratio"),
    setting("runtime.replay_budget_events=1", "reconnect_storm", "drill.unexpected_stale", only=True),
    setting(  # clients are dropped before their next heartbeat is due
        *("runtime.client_timeout_s=0.5", "reconnect_storm", "drill.undisturbed", "drill.steady_state"),
        settings=("phases.steady_limit_s=3",),
    ),
    setting("phases.settle_s=0.1", "runtime_restart", "drill.converged", "reconnect.live_again_99_s"),
    # Servers that are too slow.
    model("server.handshake_ms = 30", "reconnect_storm", "replay.bootstrap_ms", only=True),
    model("server.publish_ms = 700", "reconnect_storm", "ux.publish_to_apply_ms", "delivery.failed_publish_ratio", only=True),
    model("server.delivery_event_ms = 4", "dropped_delivery", "replay.client_lag_events"),
)
