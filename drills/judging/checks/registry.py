"""The registry of checks: what each one measures, how it decides, and which evidence it needs.

It contains only data. The modules beside this one decide about a run; `drills.rollout.verdict.window_checks` decides about a
stage's window. Both attach their decisions by name. A run check and a window check with the same name use one threshold.
To add a check: declare it here, attach a decision to its name, and add its threshold to `drills/thresholds.toml`.
"""

from collections.abc import Mapping

from drills.judging.checks.specs import (
    COUNT,
    NONE_ALLOWED,
    P95,
    RATIO,
    Ability,
    CheckSpec,
    Expected,
    When,
    has_fault,
    has_negative_client,
    of_window,
    rule,
    trims_nothing,
)
from sim.protocols.adapter import FreshStart, Positions, Refusals, StaleSign
from sim.server.stream_log import REPLAY_BUDGET_EXCEEDED, RETENTION_FLOOR_BREACH

GATES = ("error", "replay", "reconnect", "delivery", "ux")
_SAYS_STALE = Ability("its server does not say when it cannot resume", lambda it: it.stale is not StaleSign.SILENT)
_HAS_CODES = Ability("its server states no codes when it refuses a connect", lambda it: it.refusals is not Refusals.BARE_STATUS)
_STARTS_AT_RETAINED = Ability(
    "a new client gets only new events, and the target file has no [read_back]",
    lambda it: it.fresh_start is FreshStart.RETAINED,
)
_IS_DENSE = Ability("its positions do not show missing events", lambda it: it.positions is Positions.DENSE)
_HAS_ONE_ORDER = Ability(
    "its positions cannot be compared, and readers may get events in different orders",
    lambda it: it.positions is not Positions.OPAQUE or it.has_one_order,
)
_EVICTS = Ability("its server does not disconnect slow consumers", lambda it: it.evicts)
_ASKS_TO_WAIT = Ability(
    "its server does not disconnect slow consumers, or does not say how long they should wait",
    lambda it: it.evicts and it.refusals is Refusals.CODES_AND_HINTS,
)
_OUTSIDE_FAULT = "outside the fault phase"
_MINIMUM_N = ("minimum_n",)
_EXPECTS_NO_STALE = When(
    "drills that expect no stale answers and create no log again",
    lambda drill: not drill.expect.stale_reasons and all(fault.kind != "recreate_log" for fault in drill.faults),
)
MISUSES = ("mutation_over_socket", "any_mutation", "hidden_mutation", "malformed_frames")
"""Negative clients that misuse an open socket. Afterwards the server must serve them like any other client."""
NOTICED_FAULTS = ("duplicate_deliveries", "jumble_deliveries", "malform_frames", "reorder_deliveries", "delay_deliveries")
"""Faults of delivery that clients can notice."""

# In the order of reports: the checks that a drill lists, then those that are always on.
_OF_RUNS = (
    CheckSpec(
        "error.websocket_auth_error_ratio", "ratio", "connects refused for their token / attempts", RATIO, across="ratio"
    ),
    CheckSpec("error.token_issue_failure_ratio", "ratio", "token requests refused / all", RATIO, across="ratio"),
    CheckSpec(
        *("error.failed_tries_ratio", "ratio", "tries of publishes without an acknowledgement / all"),
        f"{RATIO}; passes without any",
        window="while no fault is active",
        origin="synthetic",
        across="ratio",
    ),
    CheckSpec(
        "error.stale_cursors",
        "answers",
        "stale answers to clients",
        COUNT,
        window="worst 10 min",
        keys=("window_s",),
        ability=_SAYS_STALE,
    ),
    CheckSpec(
        *("replay.bootstrap_ms", "ms", "bootstrap time (connect due to caught up)", P95),
        window="after the first fault",
        is_timed=True,
        across="mean",
        keys=_MINIMUM_N,
    ),
    CheckSpec(
        *("replay.client_lag_events", "events", "head minus last applied event, sampled", P95),
        window=_OUTSIDE_FAULT,
        is_timed=True,
        across="mean",
        keys=_MINIMUM_N,
    ),
    CheckSpec(
        "replay.divergence", "events", "events that a replay skipped, or sent from below the cursor", COUNT, ability=_IS_DENSE
    ),
    CheckSpec(
        *("replay.stale_loops", "loops", "two or more stale answers in a row for one client"),
        COUNT,
        ability=_SAYS_STALE,
    ),
    CheckSpec(
        *("delivery.failed_publish_ratio", "ratio", "failed publishes / all publishes", RATIO),
        origin="synthetic",
        across="ratio",
    ),
    CheckSpec("delivery.dropped_deliveries", "events", "events published, never applied and not declared lost", COUNT),
    CheckSpec(
        "delivery.slow_consumer_evictions", "evictions", "slow clients that the server disconnected", COUNT, ability=_EVICTS
    ),
    CheckSpec(
        "ux.integrity", "events", "events applied twice, out of order, missing or with a wrong hash", COUNT, keys=_MINIMUM_N
    ),
    CheckSpec(
        *("ux.publish_to_apply_ms", "ms", "delivery time (publish due to applied)", P95),
        window=_OUTSIDE_FAULT,
        is_timed=True,
        across="mean",
        keys=_MINIMUM_N,
    ),
    CheckSpec(
        *(
            "reconnect.live_again_99_s",
            "s",
            "time from the end of a fault until 99 % of the clients it cut are live",
            "worst fault",
        ),
        window="after each fault",
        is_timed=True,
        across="mean",
    ),
    CheckSpec("reconnect.backoff_bounded", "ms", "the longest delay that a client chose to wait", "maximum"),
    CheckSpec(
        *("reconnect.backoff_unjittered", "ratio", "share of an attempt number's delays within a tenth of its nominal step"),
        "fullest window, worst attempt number",
        keys=_MINIMUM_N,
    ),
    CheckSpec(
        *("reconnect.backoff_never_resets", "backoffs", "backoffs that were not reset after a live period", COUNT),
        keys=("live_for_s",),
    ),
    CheckSpec(
        *("reconnect.heartbeat_timeouts_per_s", "timeouts/s", "connections that clients closed after silence", "mean rate"),
        is_timed=True,
        across="mean",
    ),
    CheckSpec(
        *("error.tokens_too_old", "refusals", "connects refused for a token that is valid but older than the runtime accepts"),
        COUNT,
        ability=_HAS_CODES,
    ),
    rule(
        *("drill.token_holders", "clients", "clients with a valid token that did not return while no token could be minted"),
        window="the outage of minting",
        when=has_fault("mint_outage"),
    ),
    rule(
        *("drill.revocation", "clients", "revoked clients that stayed or came back, and other clients that were disconnected"),
        window="from the revocation to the next sign-in",
        when=has_fault("revoke_sessions"),
    ),
    rule(
        *("drill.key_rotation", "tokens", "tokens not signed with the new key, and connects refused for their key"),
        window="after the keys were rotated",
        when=has_fault("rotate_keys"),
    ),
    rule(
        *("drill.authority_served", "events", "publishes that were not acknowledged while delivery was down"),
        "count, one in a hundred allowed",
        window="while delivery is down",
        origin="synthetic",
        when=has_fault("stop_delivery"),
    ),
    rule("drill.clocks", "tokens", "tokens that were renewed long before it was time", when=has_fault("skew_clocks")),
    rule(
        *("drill.retired_routes", "answers", "answers other than 404 from retired routes"),
        "count, 0 allowed; each route is asked in each phase",
        origin="synthetic",
        when=When("drills that ask retired routes", lambda drill: drill.expect.retired_routes),
    ),
    rule(
        *("drill.publish_failures", "events", "difference between failed publishes and those the runtime refused for good"),
        origin="synthetic",
        when=has_fault("fail_publishes"),
    ),
    rule(
        *("drill.streams_alive", "streams", "streams that acknowledged no event after appends overlapped on them"),
        window="recovery",
        origin="synthetic",
        when=has_fault("concurrent_appends"),
    ),
    rule(
        *("drill.negative_clients", "grants", "forbidden requests that were granted, or refused with a wrong code"),
        "count, 0 allowed; every negative client got an answer",
        origin="synthetic",
        when=When("drills with negative clients", lambda drill: bool(drill.expect.negative_clients)),
    ),
    rule(
        *("drill.misusers_served", "clients", "clients that misused a socket and were not served afterwards"),
        window="settle",
        when=has_negative_client(*MISUSES),
    ),
    CheckSpec(
        *("delivery.one_order", "events", "events that two clients applied with different payloads, or in another order"),
        COUNT,
        ability=_HAS_ONE_ORDER,
    ),
    rule(
        *("drill.faults_noticed", "faults", "faults of delivery that clients did not notice"),
        "a fault is noticed if clients saw at least half of the times it took effect",
        when=has_fault(*NOTICED_FAULTS),
    ),
    rule(
        *("drill.cut_once", "clients", "clients that a rolling deploy disconnected more than once"),
        window="the fault phase",
        when=has_fault("rolling_deploy"),
    ),
    rule(
        *("reconnect.half_open_left", "connections", "half-open connections that one side still held at the end of the fault"),
        window="each such fault",
    ),
    rule("reconnect.needless_disconnects", "connections", "connections lost in a drill that cuts none"),
    rule(
        "reconnect.early_returns", "clients", "evicted clients that returned before reconnect_after_ms", ability=_ASKS_TO_WAIT
    ),
    rule(
        *("delivery.slow_consumers_kept", "clients", "clients that stopped reading and were not evicted"),
        window="each such fault",
        ability=_EVICTS,
    ),
    rule("delivery.live_gaps", "events", "events applied past a gap in a live stream", ability=_IS_DENSE),
    rule("drill.phases", "phases", "steady state, fault, recovery, settle, end", "all, in order"),
    rule(
        *("drill.steady_state", "ok", "health of the system before the first fault", "every check of it is good"),
        window="steady",
    ),
    rule("drill.faults_observed", "faults", "faults that took effect and were reverted", "all that were scheduled"),
    rule(
        *("drill.undisturbed", "connections", "connections lost that no fault explains, by its window and its clients"),
    ),
    rule(
        *("drill.load", "events", "events published, acknowledged or not", "at least 90 % of what the drill asks for"),
        origin="synthetic",
    ),
    CheckSpec(
        *("drill.generator_lag_ms", "ms", "lateness of the load generator itself", "p95"), origin="synthetic", keys=_MINIMUM_N
    ),
    rule(
        *("drill.wall_clocks", "s", "how far our wall clock and the target's were off"),
        "ours by the monotonic clock, the target's by the Date of its answers; an error over 5 s",
        origin="synthetic",
    ),
    rule("drill.converged", "clients", "clients that did not reach the heads of their streams", window="settle"),
    rule(
        *("drill.audited", "ok", "a fresh client reads everything that is retained", "it caught up"),
        window="settle",
        origin="synthetic",
        ability=_STARTS_AT_RETAINED,
        or_read_back=True,
    ),
    rule("drill.declared_loss", "events", "events that clients declared lost"),
    rule(
        *("drill.unexpected_stale", "answers", "stale answers that the drill does not expect"),
        ability=_SAYS_STALE,
        when=_EXPECTS_NO_STALE,
    ),
    rule(
        *("drill.stale_signalled", "reasons", "reasons for staleness that clients received"),
        "all that the drill expects, and no other",
        ability=_SAYS_STALE,
        when=When("drills that expect stale answers", lambda drill: bool(drill.expect.stale_reasons)),
    ),
    rule(
        *("drill.stale_justified", "cursors", "cursors refused although the replay budget or the retained window covers them"),
        ability=_SAYS_STALE,
        when=When(
            f"drills that expect {REPLAY_BUDGET_EXCEEDED}, or {RETENTION_FLOOR_BREACH} of the usual window",
            lambda drill: (
                REPLAY_BUDGET_EXCEEDED in drill.expect.stale_reasons
                or (RETENTION_FLOOR_BREACH in drill.expect.stale_reasons and trims_nothing(drill))
            ),
        ),
    ),
    rule(
        *("drill.malformed_frames", "kinds", "kinds of malformed frames after which a socket was closed without a reason"),
        "count, 0 allowed; each kind was sent and answered",
        when=has_negative_client("malformed_frames"),
    ),
    rule(
        *("replay.parity", "variants", "variants whose log, state, checkpoints or order differ from the first one's"),
        is_derived=True,
        when=When("drills with variants", lambda drill: bool(drill.variants)),
    ),
    rule("drill.invariants", "invariants", "invariants that were violated", is_derived=True),
    rule(
        *("drill.evidence", "rows", "integrity of a drill's files", "complete, and byte for byte what the run recorded"),
        origin="synthetic",
        is_derived=True,
    ),
    rule(
        *("drill.loss_unnoticeable", "events", "withheld events that a client cannot notice as missing"),
        "inconclusive with any: clients cannot show that they recover from a loss",
        is_derived=True,
    ),
    rule(
        *("drill.runnable", "ok", "whether the target and its protocol can run the drill"),
        "the first reason against it; a drill that cannot run decides nothing",
        window="before the drill",
        origin="synthetic",
        is_derived=True,
    ),
    rule(
        *("drill.stop_condition", "conditions", "stop conditions of the target that were met", "none may be met"),
        window="until then",
        origin="synthetic",
        is_derived=True,
    ),
)
EVIDENCE, INVARIANTS, PARITY, STOP_CONDITION = "drill.evidence", "drill.invariants", "replay.parity", "drill.stop_condition"
RUNNABLE, LOSS_UNNOTICEABLE = "drill.runnable", "drill.loss_unnoticeable"

_CLIENTS_COUNT = "clients' own counts stand in and are labelled so"
_GROWTH = (
    "Mann-Kendall test on the increments of six equal blocks, S >= 13, and the last block above the first by more than that: "
    "fail; minute by minute p < 0.01 alone: inconclusive"
)
_HELD_RATE = (
    "servers: the rate over any 5 min that is held for 10 min, by its bounds between two answers; clients, of themselves: "
    "the upper 95 % Poisson bound of the whole stage, and no ten minutes in which every canary check was over it"
)
_SURGE = "bounds between two answers; fewer than 10 do not count; in the first hour stage 0 stands for the hour before"
_BURN = "fails where the lower 95 % Wilson bounds of both spans are over it; that stops a stage at once"
_RATIO_OF_P95 = "the wider of: ratio of both p95 by bounds of 97.5 % each; median of that ratio over pairs of canary checks"
_NO_CONTROL = "no_data: without a control nothing is compared, and stage 2 is no go"


def _surge(name: str, what: str) -> CheckSpec:
    return of_window(
        *(name, "ratio", f"{what} in 5 min / in 5 min of the hour before", _SURGE, "worst 5 min against the trailing hour"),
        keys=("window_s", "long_s", "minimum_events", "minimum_n"),
        no_data=f"no baseline: inconclusive; where no server counts it, {_CLIENTS_COUNT}",
    )


def _burn(name: str, spans: str) -> CheckSpec:
    measures = f"how fast the error budget burns, over {spans}"
    return of_window(name, "times", measures, _BURN, f"worst {spans}", keys=("window_s", "long_s", "budget"))


def _held_rate(name: str, unit: str, measures: str) -> CheckSpec:
    no_data = f"no_data; the metrics endpoint counts none, so {_CLIENTS_COUNT}"
    return of_window(name, unit, measures, _HELD_RATE, "5 min rate held 10 min", no_data=no_data)


def _growth(name: str, unit: str, what: str, no_data: str = "no_data") -> CheckSpec:
    return of_window(name, unit, f"how many more {what} in the last sixth than in the first", _GROWTH, no_data=no_data)


def _against_control(name: str, unit: str, measures: str, method: str, keys: tuple[str, ...] = ()) -> CheckSpec:
    return CheckSpec(name, unit, measures, method, "control", "stage", keys=keys, no_data=_NO_CONTROL)


_OF_WINDOWS = (
    of_window(
        *("window.coverage", "ratio", "snapshots with data / expected snapshots"),
        "at least 90 % of them and 50 in all, no hole over 3 intervals",
        takes_threshold=False,
    ),
    of_window(
        *("window.canary_checks", "canary checks", "canary checks that did not run as they must"),
        "the worst answer to what every drill is asked; a tenth may be cut short or have a late load generator",
        takes_threshold=False,
    ),
    of_window("window.invariants", "invariants", "invariants that were violated", NONE_ALLOWED, takes_threshold=False),
    of_window(
        *("error.websocket_auth_error_ratio", "ratio", "connects refused for their token / attempts", RATIO),
        no_data=f"the metrics endpoint counts no attempts: {_CLIENTS_COUNT}",
    ),
    of_window(
        *("error.websocket_auth_error_ratio_10m", "ratio"),
        "connects refused for their token / attempts, in the worst ten minutes",
        f"{RATIO}; ten minutes without any error are no evidence, however few attempts they had",
        "worst 10 min",
        no_data=_CLIENTS_COUNT,
    ),
    of_window(
        *("error.token_issue_failure_ratio", "ratio", "token requests refused / all", RATIO),
        no_data=f"no_data; where the control service has no counters, {_CLIENTS_COUNT}",
    ),
    of_window(
        *("error.stale_cursors", "answers", "stale answers to clients"),
        "count in any ten minutes, by its bounds between two answers of a server",
        "worst 10 min",
        keys=("window_s",),
        optional_keys=("warn",),
        no_data=_CLIENTS_COUNT,
    ),
    _surge("error.unauthorized_surge", "refusals as unauthorized"),
    _surge("error.token_expired_surge", "refusals of expired tokens"),
    of_window("error.error_budget_ratio", "ratio", "tokens, connects and publishes that failed / all", RATIO),
    _burn("error.error_budget_burn_fast", "1 h and 5 min"),
    _burn("error.error_budget_burn_slow", "6 h and 30 min"),
    of_window(
        *("replay.bootstrap_ms", "ms", "bootstrap time (connect due to caught up)", P95),
        keys=_MINIMUM_N,
        no_data="n < 59: inconclusive",
    ),
    of_window(
        *("replay.bootstrap_vs_baseline", "times", "bootstrap time (connect due to caught up), against stage 0"),
        "upper 95 % bound of the p95 against the p95 of stage 0; fails where even the lower is beyond the upper of stage 0",
        keys=_MINIMUM_N,
        no_data="no baseline: inconclusive",
    ),
    of_window(
        *("replay.client_lag_events", "events", "head minus last applied event, sampled", P95, "worst 10 min"), keys=_MINIMUM_N
    ),
    of_window(
        *("replay.errors", "errors", "subscribes refused for neither token nor cursor, and malformed frames", COUNT),
    ),
    of_window("replay.divergence", "events", "events that a replay skipped, or sent from below the cursor", COUNT),
    of_window("replay.stale_loops", "loops", "two or more stale answers in a row for one client", COUNT),
    _held_rate("reconnect.reconnects_per_s", "reconnects/s", "reconnects/s"),
    _held_rate("reconnect.reconnects_per_s_per_100", "reconnects/s", "reconnects/s of 100 clients"),
    _held_rate("reconnect.heartbeat_timeouts_per_s", "timeouts/s", "connections that clients closed after silence, /s"),
    of_window("delivery.failed_publish_ratio", "ratio", "failed publishes / all publishes", RATIO),
    _growth("delivery.failed_publish_growth", "publishes/10 min", "publishes fail"),
    of_window(
        *("delivery.dropped_deliveries", "events", "events published, never applied and not declared lost", COUNT),
        no_data="no server counts it (delivery.dropped_messages_total counts trimmed entries): the clients' ledger",
    ),
    _growth("delivery.dropped_growth", "events/10 min", "deliveries are dropped", "the clients' ledger"),
    _growth("delivery.slow_consumer_growth", "evictions/10 min", "slow clients are evicted", "reported, not gating"),
    of_window(
        *("ux.integrity", "events", "events applied twice, out of order, missing or with a wrong hash", COUNT, "whole ledger"),
        keys=_MINIMUM_N,
    ),
    of_window("ux.publish_to_apply_ms", "ms", "delivery time (publish due to applied)", P95, keys=_MINIMUM_N),
    _against_control(
        *("canary.error_ratio", "ratio", "share of failed tokens, connects and publishes, canary minus control"),
        "Newcombe's bounds of the difference; Fisher's exact test: under 5 % it cannot pass, under 0.1 % it fails",
    ),
    _against_control(
        *(
            "canary.bootstrap_ms",
            "times",
            "bootstrap time (connect due to caught up), canary against control",
            _RATIO_OF_P95,
            _MINIMUM_N,
        )
    ),
    _against_control(
        *(
            "canary.publish_to_apply_ms",
            "times",
            "delivery time (publish due to applied), canary against control",
            _RATIO_OF_P95,
        ),
        _MINIMUM_N,
    ),
)
OF_RUNS: Mapping[str, CheckSpec] = {spec.name: spec for spec in _OF_RUNS}
OF_WINDOWS: Mapping[str, CheckSpec] = {spec.name: spec for spec in _OF_WINDOWS if spec.needs == "window"}
AGAINST_CONTROL: Mapping[str, CheckSpec] = {spec.name: spec for spec in _OF_WINDOWS if spec.needs == "control"}
ALL: tuple[CheckSpec, ...] = (*_OF_RUNS, *_OF_WINDOWS)


def expected() -> dict[str, Expected]:
    """The entries that a thresholds file must have, by name of the check; run checks first."""
    found: dict[str, Expected] = {}
    for spec in ALL:
        if spec.takes_threshold:
            known = found.get(spec.name, Expected(spec.unit, spec.comparator, (), ()))
            keys = dict.fromkeys((*known.keys, *spec.keys))
            found[spec.name] = known._replace(keys=(*keys,), optional_keys=(*known.optional_keys, *spec.optional_keys))
    return found
