"""What each drill of the catalogue finds in a simulated third-party server, where that differs from a healthy mock.

Every finding is a weakness of the protocol or of its server. Those of `drills/third_party/findings` are the real server's;
the others need a fault that only a simulated server has.
"""

_NO_BUDGET = "has no replay budget that could shrink"
_NO_HASHES = "has no hashes"
_OPAQUE_ORDER = "all that a client knows is in which order events come"
_SERVER_READS = "can only be read by their server"
_OUTLIVES_TOKENS = "no connection ends with its token"
_NO_TOKENS = "asks for no token"
_NO_EPOCHS = "needs positions with epochs"

# Drills that a simulated server cannot have, each with a part of the reason.
_STALE = dict.fromkeys(("stale_cursor", "stale_cursor_storm", "replay_budget_exceeded"), _NO_BUDGET)
_OF_OPAQUE = {"disordered_delivery": _OPAQUE_ORDER, "checkpoint_damage": _SERVER_READS, "epoch_changed": _NO_EPOCHS}
NOT_RUN: dict[str, dict[str, str]] = {
    "nats_jetstream": {**_STALE, "jumbled_frames": _NO_HASHES},
    "centrifugo": {**_STALE, "jumbled_frames": _NO_HASHES},
    "socketio": {
        **_STALE,
        **_OF_OPAQUE,
        "jumbled_frames": _NO_HASHES,
        "log_recreated": "stores no log",
        **dict.fromkeys(("token_expiry_storm", "malformed_clients", "mutation_over_socket"), _OUTLIVES_TOKENS),
    },
    "durable_streams": {
        **_STALE,
        **_OF_OPAQUE,
        "jumbled_frames": _NO_HASHES,
        **dict.fromkeys(("token_expiry_storm", "token_rotation", "token_misuse", "session_revocation"), _NO_TOKENS),
        **dict.fromkeys(("malformed_clients", "mutation_over_socket", "clock_skew", "control_outage"), _NO_TOKENS),
    },
}
# Every drill of this name has these settings, too.
POLLED = "durable_streams by long polls"
ALWAYS: dict[str, tuple[str, ...]] = {POLLED: ("runtime.long_polls=true",)}
NOT_RUN[POLLED] = NOT_RUN["durable_streams"]
PROTOCOLS = tuple(NOT_RUN)
OVERRIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "nats_jetstream": {},
    # It disconnects a client with more than 1 MiB that is not sent.
    "centrifugo": {"slow_consumer": ("load.events_per_s=20", "load.payload_bytes=45000", "phases.steady_s=3")},
    "socketio": {},
    "durable_streams": {},
    POLLED: {
        # A stalled poll gets no more bytes that a second fault could stall: both begin together.
        "partition_heal": ("faults.1.at_s=0",),
        "close_codes": tuple(f"faults.{each}.codes=[1006]" for each in (0, 1, 3)),  # a poll that ends states no code
    },
}
_OVERAGED = frozenset({"drill.negative_clients", "overaged_token_accepted"})  # tokens end, and nothing else limits their age
_LOST = frozenset({"drill.declared_loss", "drill.unexpected_stale"})
FOUND: dict[str, dict[str, frozenset[str]]] = {
    "nats_jetstream": {
        **dict.fromkeys(("token_misuse", "token_lifetime"), _OVERAGED),
        # A checkpoint above the head is like one of another log: the client cannot know what it lost.
        "checkpoint_damage": frozenset({"drill.declared_loss"}),
    },
    "centrifugo": {
        **dict.fromkeys(("token_misuse", "token_lifetime"), _OVERAGED),
        "checkpoint_damage": _LOST,  # the same
        "runtime_restart": _LOST,  # the memory engine keeps nothing
    },
    "socketio": {
        **dict.fromkeys(("token_misuse", "token_lifetime"), _OVERAGED),
        "runtime_restart": _LOST,  # sessions and events are in the server's memory
        "half_open_sockets": _LOST,  # who returns before the server has noticed is not recovered
        **dict.fromkeys(("session_revocation", "close_codes"), _LOST),  # a session that the server ended is not recovered
    },
    "durable_streams": {
        # It never asks whether a reader is still there.
        "half_open_sockets": frozenset({"reconnect.half_open_left"}),
        # A deleted stream says nothing to its readers, who go on in the middle of the new one.
        "log_recreated": frozenset(
            {"log_recreated", "silent_loss", "missing_at_rest", "delivery.dropped_deliveries", "drill.converged"}
        ),
    },
}
FOUND[POLLED] = {
    # Who waits hears that the stream is gone, and starts again; who was cut off returns into the middle of the new one.
    "log_recreated": frozenset({"log_recreated", "silent_loss", "delivery.dropped_deliveries", "drill.converged"}),
}
_HOLES = "its positions do not show missing events"
_ORDER = "its positions cannot be compared"
_NO_STALE = "does not say when it cannot resume"
_NO_EVICTION = "does not disconnect slow consumers"
_NO_CLIENT = "no negative client could ask"
_NEGATIVE = dict.fromkeys(("drill.negative_clients", "drill.misusers_served", "drill.malformed_frames"), _NO_CLIENT)
_NO_AUDIT = {"drill.audited": "a new client gets only new events"}
_SPARSE = dict.fromkeys(("replay.divergence", "delivery.live_gaps"), _HOLES)
_SILENT_STALE = dict.fromkeys(("replay.stale_loops", "drill.unexpected_stale"), _NO_STALE)
_KEEPS_SLOW = dict.fromkeys(("reconnect.early_returns", "delivery.slow_consumers_kept"), _NO_EVICTION)
UNTOLD: dict[str, dict[str, str]] = {
    "nats_jetstream": {**_NEGATIVE, **_SPARSE, **_SILENT_STALE, **_KEEPS_SLOW},
    "centrifugo": {**_NEGATIVE, **_NO_AUDIT, "reconnect.early_returns": "how long they should wait"},
    "socketio": {**_NEGATIVE, **_NO_AUDIT, **_SPARSE, **_KEEPS_SLOW, "delivery.one_order": _ORDER},
    "durable_streams": {
        **_NEGATIVE,
        **_SPARSE,
        **_SILENT_STALE,
        **_KEEPS_SLOW,
        "error.tokens_too_old": "states no codes",
    },
}
_UNNOTICEABLE = {(drill, "drill.loss_unnoticeable"): "withheld" for drill in ("dropped_delivery", "multi_client_order")}
SILENT: dict[str, dict[tuple[str, str], str]] = {
    "nats_jetstream": _UNNOTICEABLE,
    # Tokens are renewed on open connections, and none is due in a drill this short.
    "centrifugo": {("token_rotation", "drill.key_rotation"): "no token was minted"},
    "socketio": _UNNOTICEABLE,
    # A silent answer is noticed after its pings and ten seconds more, when these links are whole again.
    "durable_streams": {**_UNNOTICEABLE, ("partition_heal", "reconnect.backoff_bounded"): "no client chose a backoff"},
}
UNTOLD[POLLED] = UNTOLD["durable_streams"]
SILENT[POLLED] = _UNNOTICEABLE


def spoken(name: str) -> str:
    """The protocol of a name in these tables."""
    return name.partition(" ")[0]
