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
    marker   int64     number of the event, by its marker               -1, also for an event without one of this run

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
        ("marker", pa.int64()),
    ]
)
NAN = float("nan")

Row = tuple[str, str, int, int, float, str, int]
"""One observation of a client without its time: kind, stream, seq, attempt, value, detail, marker."""


SNAPSHOT_PROBLEMS = ("empty", "below_floor", "above_head", "unfit")
"""Why a snapshot does not cover what it claims: without content or position; it ends before the first retained event; it is
above the head; it contains another number of events than its position states."""


class Kind(StrEnum):
    """Kind of a row. The brackets name the columns that the kind uses besides `t`, `client` and `stream`."""

    PHASE = "phase"  # a phase starts [detail: steady, fault, recovery, settle, end]
    TOKEN_MINTED = "token_minted"  # [value: ms from the due time of the request, detail: id of the signing key]
    TOKEN_REFUSED = "token_refused"  # [value: ms, detail: code]
    CONNECT_ATTEMPTED = "connect_attempted"  # a connect started
    CONNECT_FAILED = "connect_failed"  # [value: ms, detail: code; auth codes are the service's own]
    CONNECT_DONE = "connect_done"  # the WebSocket is open [value: ms from the due time of the attempt]
    JOINED = "joined"  # the join was accepted
    SUBSCRIBED = "subscribed"  # the client is live [value: ms from the due time of the attempt]
    SUBSCRIBE_REFUSED = "subscribe_refused"  # [detail: code]
    REPLAY_STARTED = "replay_started"  # one per stream of a subscribe [seq: requested cursor, -1: no cursor]
    REPLAYED = "replayed"  # the replay of a stream ended [seq: events replayed, value: events that were new]
    REPLAY_COMPLETED = "replay_completed"  # caught up [value: ms from the due time of the connect; NaN: a repeated replay]
    STALE = "stale"  # [seq: cursor, value: replay lag in events, detail: reasons joined by +]
    # One was offered with a stale answer [seq, detail: one of `SNAPSHOT_PROBLEMS`, or the digest of its events, or nothing]
    SNAPSHOT = "snapshot"
    REBOOTSTRAPPED = "rebootstrapped"  # [seq: new watermark, value: old or NaN, detail: snapshot, retained, other_log, fresh]
    # A publish was sent [attempt: number of the try, value: ms to its answer, detail: acknowledged, refused, unknown, or
    # answer_lost by a fault of stormgate; marker]
    PUBLISH_TRIED = "publish_tried"
    PUBLISHED = "published"  # acknowledged [seq, value: ms from due to acknowledged, detail: payload hash, marker]
    EPOCH_LEARNED = "epoch_learned"  # which log the client's position is of [seq: the position, detail: epoch]
    PUBLISH_FAILED = "publish_failed"  # [value: ms, detail: code, marker]
    RECEIVED = "received"  # one update batch [value: updates in it]
    APPLIED = "applied"  # [seq, detail: payload hash, marker]
    # What was received is not what was published [seq, marker, detail: checksum, or stream or run: the marker is of another
    # one, or position: the client applied another event at its opaque position]
    ALTERED = "altered"
    DUPLICATE_DROPPED = "duplicate_dropped"  # [seq, detail: payload hash, marker]
    # A fault of stormgate held back a live event between adapter and session [seq, marker]
    WITHHELD = "withheld"
    GAP = "gap"  # [seq: received, value: watermark, detail: live or replay, marker]
    REPLAY_BELOW_CURSOR = "replay_below_cursor"  # the service ignored the cursor [seq: received, value: requested cursor]
    DECLARED_LOSS = "declared_loss"  # [seq: last lost, value: number of events, NaN: unknown]
    HASH_MISMATCH = "hash_mismatch"  # not applied [seq, marker]
    UNGRANTED = "ungranted"  # an event of a topic that the client did not subscribe to [seq]
    MALFORMED = "malformed"  # a malformed frame [detail: code]
    CLAMPED = "clamped"  # the watermark was lowered to a lower head [seq: new, value: old]
    CHECKPOINT_WRITTEN = "checkpoint_written"  # [seq]
    RESTARTED = (
        "restarted"  # a fault killed the client's process [seq: stored checkpoint, -1: missing, value: previous, detail]
    )
    DISCONNECTED = "disconnected"  # [detail: reason]
    # A connection or a stream's subscription ended, or a connect failed [attempt: close code or HTTP status, or 0, value: the
    # server's hint in ms, detail: who ended it, code and next step, joined by :]
    ENDED = "ended"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"  # no heartbeat arrived in time
    EVICTED = "evicted"  # a slow consumer was disconnected [detail: action]
    GAVE_UP = "gave_up"  # the server said that a retry cannot succeed, also after a new token [detail: code]
    BACKOFF = "backoff"  # [attempt: the policy's own count, value: delay ms, detail: reason]
    TOKEN_FORGOTTEN = "token_forgotten"  # a fault deleted the client's token
    KEYS_ROTATED = "keys_rotated"  # tokens are now signed with another key [detail: its id]
    SESSION_REVOKED = "session_revoked"  # a fault begins to revoke the client's session [value: s until it says that it did]
    SIGNED_IN = "signed_in"  # the fault is over: the client has a new session
    ROUTE_ANSWERED = "route_answered"  # a retired route answered [value: HTTP status, detail: method and route]
    PROBED = "probed"  # a negative client's request was answered [detail: client:answer, or client:request:answer]
    FAULT_INJECTED = "fault_injected"  # [attempt: index in the fault schedule, detail: kind]
    FAULT_OBSERVED = "fault_observed"  # the fault took effect [attempt: index, value: number of times, detail: kind]
    FAULT_REVERTED = "fault_reverted"  # [attempt: index, detail: kind]
    # Connections that were still half-open on one side when time was up [attempt: index of the fault, value: how many]
    HALF_OPEN_LEFT = "half_open_left"
    RUNTIME_DIED = "runtime_died"  # the service's process ended by itself, not by a fault
    GENERATOR_LAG = "generator_lag"  # delay of the load generator itself [value: ms]
    # The state of our machine [attempt: ms that were measured, value, detail: what and, with several processes, whose]. Shares
    # of that time: our generator or our server ran (`generator_ran`, `server_ran`), it waited for a core (`generator_waited`,
    # `server_waited`), all threads of a target on this machine did so (`target_ran`, `target_waited`), the thread that wanted
    # a core for longest did either (`target_longest`), other virtual machines had our cores (`steal`), some process waited
    # for a resource (`cpu_pressure`, `memory_pressure`, `io_pressure`). 1: a process was stopped (`generator_stopped`,
    # `server_stopped`), no process of a target on this machine could be found until now (`target_unseen`). Seconds: the
    # machine was asleep (`asleep`), the wall clock left the monotonic clock since the run began (`wall_clock`), the clock of
    # the target is ahead of ours (`target_clock`)
    MACHINE = "machine"
    CLIENT_LAG = "client_lag"  # sampled head minus watermark [value: events]
    PACED = "paced"  # a connect waited for the target's connect limit [value: ms]
    METRICS_POLLED = (
        "metrics_polled"  # poll of the service's metrics [attempt: number of the poll, value: ms, detail: ok or reason]
    )
    SERVER_METRIC = "server_metric"  # one of these metrics [attempt: number of the poll, value, detail: its name]
    STEADY = "steady"  # check of the steady state before the first fault [value: 1 holds, 0 does not; detail: why]
    READ_BACK = "read_back"  # the service returned it over HTTP after settling [seq, detail: as for altered, marker]
    READ_BACK_COMPLETED = "read_back_completed"  # a stream was read [value: events, detail: ok or unknown_stream]
    SETTLED = "settled"  # the client converged
    STILL_PENDING = "still_pending"  # [seq: watermark, value: head, detail: why]
