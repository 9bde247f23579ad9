"""The record of a run: one flat table with one row per observation. This module defines its columns and its kinds of rows.

    column   type      meaning                                         value for "does not apply"
    t        float64   seconds since the run began
    kind     string    one of `Kind`
    client   int32     index of the client                             -1
    stream   string    stream id                                       ""
    seq      int64     sequence number in that stream                  -1
    attempt  int32     the client's connect or backoff attempt         0
    value    float64   milliseconds, events or a count, by kind        NaN
    detail   string    a code                                          ""

`sim.record.columns` collects rows in memory, `sim.record.parquet` writes and reads them.
"""

from enum import StrEnum

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("t", pa.float64()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("client", pa.int32()),
        ("stream", pa.dictionary(pa.int32(), pa.string())),
        ("seq", pa.int64()),
        ("attempt", pa.int32()),
        ("value", pa.float64()),
        ("detail", pa.dictionary(pa.int32(), pa.string())),
    ]
)
NAN = float("nan")

Row = tuple[str, str, int, int, float, str]
"""One observation of a client without its time: kind, stream, seq, attempt, value, detail."""


class Kind(StrEnum):
    """What a row says. `value`, `seq` and `detail` are given in brackets where they are used."""

    PHASE = "phase"  # a phase begins [detail: steady, fault, heal, settle, end]
    TOKEN_MINTED = "token_minted"  # [value: ms from the moment it was due to having it, detail: id of the signing key]
    TOKEN_REFUSED = "token_refused"  # [value: ms, detail: code]
    CONNECT_ATTEMPTED = "connect_attempted"
    CONNECT_FAILED = "connect_failed"  # [value: ms, detail: code; auth codes are the runtime's own]
    CONNECT_DONE = "connect_done"  # the WebSocket is open [value: ms from the moment the attempt was due]
    JOINED = "joined"
    SUBSCRIBED = "subscribed"  # the client is live [value: ms from the due moment of the attempt]
    SUBSCRIBE_REFUSED = "subscribe_refused"  # [detail: code]
    REPLAY_STARTED = "replay_started"  # one a stream of a subscribe [seq: cursor asked from, -1: none]
    REPLAYED = "replayed"  # a stream's replay ended [seq: events replayed, value: those that were new]
    REPLAY_COMPLETED = "replay_completed"  # caught up [value: ms from the connect's due moment; NaN: a replay asked for again]
    STALE = "stale"  # [seq: cursor, value: replay lag in events, detail: reasons joined by +]
    REBOOTSTRAPPED = "rebootstrapped"  # [seq: new watermark, value: old or NaN, detail: snapshot, retained, fresh]
    PUBLISHED = "published"  # acknowledged [seq, value: ms from due to acknowledged, detail: payload hash]
    PUBLISH_FAILED = "publish_failed"  # [value: ms, detail: code]
    RECEIVED = "received"  # one update batch [value: updates in it]
    APPLIED = "applied"  # [seq, detail: payload hash]
    DUPLICATE_DROPPED = "duplicate_dropped"  # [seq]
    GAP = "gap"  # [seq: got, value: watermark, detail: live or replay]
    REPLAY_BELOW_CURSOR = "replay_below_cursor"  # the runtime ignored the cursor [seq: got, value: cursor asked from]
    DECLARED_LOSS = "declared_loss"  # [seq: last lost, value: how many]
    HASH_MISMATCH = "hash_mismatch"  # [seq]
    UNGRANTED = "ungranted"  # an event of a topic never subscribed to [seq]
    MALFORMED = "malformed"  # a frame that is none [detail: code]
    CLAMPED = "clamped"  # watermark taken back to a lower head [seq: new, value: old]
    CHECKPOINT_WRITTEN = "checkpoint_written"  # [seq]
    RESTARTED = "restarted"  # by a fault: its process died [seq: what its store says, -1: nothing, value: said before, detail]
    DISCONNECTED = "disconnected"  # [detail: reason]
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    EVICTED = "evicted"  # slow consumer, told to go [detail: action]
    BACKOFF = "backoff"  # [attempt: the policy's own count, value: delay ms, detail: reason]
    TOKEN_FORGOTTEN = "token_forgotten"  # a fault took the client's token
    KEYS_ROTATED = "keys_rotated"  # tokens are signed with another key from now on [detail: its id]
    SESSION_REVOKED = "session_revoked"  # a fault is about to revoke the client's session
    SIGNED_IN = "signed_in"  # the fault is over: the client has a new session
    ROUTE_ANSWERED = "route_answered"  # a route that is gone [value: HTTP status, detail: method and route]
    PROBED = "probed"  # a probe's question was answered [detail: probe:answer, or probe:what:answer]
    FAULT_INJECTED = "fault_injected"  # [attempt: index in the plan, detail: kind]
    FAULT_OBSERVED = "fault_observed"  # it was seen to act [attempt: index, value: how often, detail: kind]
    FAULT_REVERTED = "fault_reverted"  # taken back [attempt: index, detail: kind]
    # Half-open connections that a side was still in when time was up [attempt: the fault's index, value: how many]
    HALF_OPEN_LEFT = "half_open_left"
    RUNTIME_DIED = "runtime_died"  # its process ended by itself, not by a fault
    GENERATOR_LAG = "generator_lag"  # the load generator's own lateness [value: ms]
    CLIENT_LAG = "client_lag"  # sampled head minus watermark [value: events]
    PACED = "paced"  # a connect waited for the target's cap [value: ms]
    METRICS_POLLED = "metrics_polled"  # of the runtime [attempt: which poll, value: ms, detail: ok, or why not]
    SERVER_METRIC = "server_metric"  # of those metrics [attempt: which poll, value, detail: its name]
    STEADY = "steady"  # the check before anything is broken [value: 1 good, 0 sick; detail: why]
    SETTLED = "settled"  # this client converged
    STILL_PENDING = "still_pending"  # [seq: watermark, value: head, detail: why]
