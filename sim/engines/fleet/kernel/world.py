"""The data of the compiled simulation: a record per client, the service's record, queues, and counters.

All moments are seconds since the start of the run. This module has no compiled code.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
whole: Any = np.int64  # the usual number type of compiled code


def _codes(count: int) -> Any:
    """Return NumPy numbers from 0 on; for each Python number, Numba would compile another version of a function."""
    return np.arange(count, dtype=np.int64)


# States of a client: waiting (for its backoff or a token), connecting, or live.
WAITING, CONNECTING, JOINING, SUBSCRIBING, LIVE = _codes(5)
# A client's next event, at the service or at the client itself.
NOTHING, MINT, ISSUE, HAND_OUT, SYN, UPGRADE, JOIN, SUBSCRIBE, GO_LIVE, REFUSED, OFFLINE = _codes(11)
TIME_OUT, UNANSWERED, DENIED, LOST, EXPELLED, LEAVE_STALE, REFRESH = _codes(18)[11:]
# What a client is queued for at the delivery worker; its event then has no moment of its own.
FOR_JOIN, FOR_STALE, FOR_REPLAY, FOR_REPLY, FOR_HANG_UP, FOR_EXPEL, FOR_HANDSHAKE = _codes(7) + 32
IN_LINE = FOR_JOIN
# Why a connection ended, or an attempt failed.
NETWORK, REFRESH_DUE, STALE, UNAUTHORIZED, FORBIDDEN = _codes(5)
REASONS = ("network", "token_refresh_due", "stale_cursor", "unauthorized", "forbidden")
# The effects of faults on their clients.
CUT, KILL, HANG_UP, EXPEL, FORGET, MINT_FREELY = _codes(6)
# Counters by bins of time.
ATTEMPTED, FAILED, WENT_LIVE, LEFT_LIVE, DISCONNECTED, RENEWED, MINTED, TOKEN_REFUSED, STALE_ANSWERS, SUBSCRIBED, REACHED = (
    _codes(11)
)
SERIES = (
    *("connects_attempted", "connects_failed", "went_live", "left_live", "disconnected", "renewed", "tokens_minted"),
    *("tokens_refused", "stale_answers", "subscribe_answers", "connects_reached"),
)
# Durations in bins of a thousandth, in seconds: bootstraps before and after the first fault, and waits for tokens.
BOOTSTRAP_BEFORE, BOOTSTRAP_AFTER, TOKEN_WAIT = _codes(3)
# Stations whose load is kept, and the two numbers of each: how many wait, and how many are served.
TOKEN_LIMIT, MINTING, HANDSHAKES, DELIVERY = _codes(4)
WAIT, BUSY = _codes(2)
OCTAVE_BINS, LOWEST_OCTAVE, OCTAVES = 1024, -20, 44
HERD_ATTEMPTS, STEP_BINS, MAX_STEPS = 33, 200, 64  # delays by attempt, in bins of a fraction of their nominal step
LIFE_BINS, LIFE_BIN_S = 6001, 0.1  # live periods that ended in a backoff
# A client's flags.
HAS_BEAT, IS_SUBSCRIBED, REBOOTSTRAPPED, CURSOR_ZERO = 1, 2, 4, 8

# The fields that nearly every event of a client reads; they fill one line of the processor's cache.
CLIENT = np.dtype(
    [
        ("at", "f8"),  # when its event happens
        ("due", "f8"),  # when the current attempt, or the token's request, is due
        ("live_since", "f8"),  # if not live: since when it is renewing its token; -inf: it is not
        ("has_until", "f8"),  # it has all that was announced until then; -inf: nothing so far
        ("refresh_at", "f8"),  # when to renew its token; -inf: it needs a new one first
        ("delay", "f4"),  # one way to the service; exact to about a nanosecond
        ("retry_s", "f4"),  # until its next SYN
        ("pending", "u4"),  # episodes after which it is not live again yet, by bit
        ("disconnects", "i4"),
        ("attempt", "u2"),
        ("tries", "u2"),  # attempts since it was last live
        ("state", "u1"),
        ("event", "u1"),
        ("flags", "u1"),
        ("topic", "u1"),  # the topic that is replayed
    ],
)
# The other fields of a client.
MORE = np.dtype(
    [
        ("previous_ms", "f8"),  # its last backoff, for formulas that depend on it
        ("position", "i4"),  # in the topic that is replayed; -1: not started
        ("fresh", "u4"),  # topics to which it subscribes without a cursor, by bit
        ("beat", "i4"),  # the place of its heartbeat in the interval
        ("ticket", "i4"),  # of its valid place in the queue; its other places are invalid
    ],
    align=True,
)
# A place in the delivery worker's queue: a client's, or a number of frames of one kind.
PLACE = np.dtype(
    [
        ("since", "f8"),
        ("frames", "f8"),  # frames left, all alike; fractions are allowed
        ("readers", "f8"),  # of the group, when the place was queued
        ("announced", "i8"),  # events announced to the group up to then
        ("who", "i4"),  # a client, `HEARTBEATS`, or a group of readers: `FIRST_GROUP` and below
        ("ticket", "i4"),
    ],
)
# A place in the accept queue of a service with one loop.
ARRIVAL = np.dtype([("since", "f8"), ("who", "i4"), ("ticket", "i4")])
CHUNK = 8  # numbers per chunk; a bucket is a list of chunks, each with two numbers and up to six clients
HEARTBEATS = whole(-1)
FIRST_GROUP = whole(-2)
MAX_EPISODES = MAX_TOPICS = 32  # each has one bit

ARRAYS: dict[str, Any] = {
    "clients": CLIENT,  # all clients
    "more": MORE,  # other fields of all clients
    "line": PLACE,  # a ring: the delivery worker's queue; its length is a power of two
    "queued": "f8",  # readers in that queue, by group
    "announced_to": "i8",  # announced events, by group
    "buckets": "i4",  # the first chunk of each; -1: none
    "heap_at": "f8",  # the current bucket
    "heap_client": "i4",
    "heads": "i8",  # how many events are announced in total, by stream
    "order": "f8",  # all announcements, in order
    "order_stream": "i4",
    "readers": "i8",  # subscribed connections, by group: those with the same streams, numbered by the first
    "floors": "i8",  # a fault trimmed events up to here, by stream
    "budgets": "i8",  # replay budget, by stream
    "handshakers": "f8",  # when each handshake worker is free; a heap
    "inside": "f8",  # when handshakes end, a ring
    "accept_queue": ARRIVAL,  # if there is one loop: a ring of clients that wait for a handshake
    "give_up_at": "f8",  # when each of these gives up; a heap
    "give_up_client": "i4",
    "minters": "f8",  # when each mint worker is free; a heap
    "holders": "f8",  # when each place of the slow-mint fault is free; a heap
    "beats": "i4",  # connections by the place of their heartbeat in the interval
    "offline": "f8",  # a client has no network until then
    "reasons": "i8",  # disconnects, by reason
    "steps_ms": "f8",  # the delays of a backoff that is a list; the last one repeats
}
TABLES: dict[str, Any] = {
    "chunks": "i4",  # [chunk, 2 + place]: the next chunk of its bucket, or the next free one; number of clients; clients
    "published": "f8",  # [stream, event]: when each is announced
    "series": "i4",  # [SERIES, bin]
    "levels": "f8",  # [4 * station + 2 * (WAIT or BUSY), bin]: changes; and in the next row, the share of the bin after each
    "sizes": "i8",  # [3, bin]
    "herd": "i4",  # [attempt, bin]
    "lives": "i8",  # [2, bin]: all, and those after which the backoff did not reset
    "live_t": "f8",  # [episode, client]: when live again; -1: not so far
    "tries": "i2",  # [episode, client]: attempts from the episode's start until then
    "episodes": "f8",  # [episode, 2]: a disconnect from the first to the second moment belongs to this fault
}

SERVICE = np.dtype(
    [
        *((name, "f8") for name in ("now", "buckets_a_s", "horizon_s", "bin_s", "free_at", "next_pub", "next_beat")),
        *((name, "f8") for name in ("handshake_s", "batch_s", "event_s", "mint_s", "mint_gap_s", "mint_turn", "syn_retry_s")),
        *((name, "f8") for name in ("beat_s", "reply_timeout_s", "live_period_s", "refresh_after_s", "first_fault_t")),
        *((name, "f8") for name in ("base_ms", "cap_ms", "refresh_delay_ms", "max_behind_s", "longest_ms", "arrival_gap_s")),
        *((name, "i8") for name in ("bucket", "heaped", "planned", "announced", "backlog", "inside_head", "inside_tail")),
        *((name, "i8") for name in ("line_head", "line_tail", "drained_topics", "free_chunk", "chunks_used")),
        *((name, "i8") for name in ("live", "window", "shrunk_budget", "batch_size", "topics", "run_streams", "worker_events")),
        *((name, "i8") for name in ("begun", "backoff", "doublings", "resets", "snapshots", "honours_offline", "is_up")),
        *((name, "i8") for name in ("mint_outage", "refused_mints", "limited_subscribes", "replayed", "backoffs", "events")),
        *((name, "i8") for name in ("rebootstrapped", "held_mints", "one_loop", "accept_head", "accept_tail", "waiting")),
        *((name, "u8") for name in ("backoff_key", "delay_u_key", "delay_v_key")),
        *((name, "f8") for name in ("median_s", "sigma", "overloaded_at", "held_mint_s", "void_before", "delivered_at")),
        *((name, "f8") for name in ("next_give_up", "level_s")),
        ("unanswered", "i8"),
        *((f"{name}_at", "u8") for name in (*ARRAYS, *TABLES)),  # address and size of each array: see `arrays`
        *((f"{name}_rows", "i8") for name in (*ARRAYS, *TABLES)),
        *((f"{name}_columns", "i8") for name in TABLES),
    ],
    align=True,
)
Service = Any
"""A record of `SERVICE` in compiled code."""


class World:
    """All data of a run: the service's record, and arrays by their names in `ARRAYS` and `TABLES`."""

    def __init__(self, service: Array, arrays: dict[str, Array]) -> None:
        self.service = service
        self._arrays: dict[str, Array] = {}
        for name, array in arrays.items():
            self[name] = array

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, array: Array) -> None:
        """Set an array for compiled code: put its address into the service's record, and keep the array alive."""
        kept = self._arrays[name] = np.ascontiguousarray(array, {**ARRAYS, **TABLES}[name])
        self.service[f"{name}_at"], self.service[f"{name}_rows"] = kept.ctypes.data, len(kept)
        if name in TABLES:
            self.service[f"{name}_columns"] = kept.shape[1]
