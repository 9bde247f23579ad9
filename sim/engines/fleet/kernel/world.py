"""What the compiled simulation works on: a record a client, the service's own numbers, queues, and what is counted.

All moments are seconds since the run began. Nothing here is compiled; `fleet_kernel` is.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
whole: Any = np.int64  # a number as compiled code has most of them


def _codes(count: int) -> Any:
    """Numbers from 0 on. They are NumPy's: of functions that are handed Python's own, Numba compiles a version for each."""
    return np.arange(count, dtype=np.int64)


# Where a client is: waiting (for its backoff or a token), on its way in, or live.
WAITING, CONNECTING, JOINING, SUBSCRIBING, LIVE = _codes(5)
# What happens to it next, and where: at the service, or at the client itself.
NOTHING, MINT, ISSUE, HAND_OUT, SYN, UPGRADE, JOIN, SUBSCRIBE, GO_LIVE, REFUSED, OFFLINE = _codes(11)
TIME_OUT, UNANSWERED, DENIED, LOST, EXPELLED, LEAVE_STALE, REFRESH = _codes(18)[11:]
# What it stands in the delivery worker's line for; its event then has no moment of its own.
FOR_JOIN, FOR_STALE, FOR_REPLAY, FOR_REPLY, FOR_HANG_UP, FOR_EXPEL, FOR_HANDSHAKE = _codes(7) + 32
IN_LINE = FOR_JOIN
# Why a connection, or an attempt, came to nothing.
NETWORK, REFRESH_DUE, STALE, UNAUTHORIZED, FORBIDDEN = _codes(5)
REASONS = ("network", "token_refresh_due", "stale_cursor", "unauthorized", "forbidden")
# What a fault does, once it is known to whom.
CUT, KILL, HANG_UP, EXPEL, FORGET, MINT_FREELY = _codes(6)
# What is counted in bins of time.
ATTEMPTED, FAILED, WENT_LIVE, LEFT_LIVE, DISCONNECTED, RENEWED, MINTED, TOKEN_REFUSED, STALE_ANSWERS, SUBSCRIBED = _codes(10)
SERIES = (
    *("connects_attempted", "connects_failed", "went_live", "left_live", "disconnected", "renewed", "tokens_minted"),
    *("tokens_refused", "stale_answers", "subscribe_answers"),
)
# What is counted by size, in bins of a thousandth: bootstraps before and after the first fault, and tokens. Seconds.
BOOTSTRAP_BEFORE, BOOTSTRAP_AFTER, TOKEN_WAIT = _codes(3)
OCTAVE_BINS, LOWEST_OCTAVE, OCTAVES = 1024, -20, 44
HERD_ATTEMPTS, STEP_BINS, MAX_STEPS = 33, 200, 64  # delays by attempt, in bins of a part of their nominal step
LIFE_BINS, LIFE_BIN_S = 6001, 0.1  # live periods that ended in a backoff
# A client's flags.
HAS_BEAT, IS_SUBSCRIBED, REBOOTSTRAPPED, CURSOR_ZERO = 1, 2, 4, 8

# What nearly every event of a client looks at: as much as a processor's cache takes at once.
CLIENT = np.dtype(
    [
        ("at", "f8"),  # when it happens
        ("due", "f8"),  # of the attempt under way, or of the token's request
        ("live_since", "f8"),  # when not live: since when it is renewing its token, -inf for not at all
        ("has_until", "f8"),  # it has all that was announced until then; -inf: it never had anything
        ("refresh_at", "f8"),  # of its token; -inf: it needs a new one first
        ("delay", "f4"),  # one way to the service; right to a nanosecond or so
        ("retry_s", "f4"),  # until its next SYN
        ("pending", "u4"),  # of which episodes it is not live again, by bit
        ("disconnects", "i4"),
        ("attempt", "u2"),
        ("tries", "u2"),  # attempts since it was live
        ("state", "u1"),
        ("event", "u1"),
        ("flags", "u1"),
        ("topic", "u1"),  # which is replayed
    ],
)
# The rest.
MORE = np.dtype(
    [
        ("previous_ms", "f8"),  # its last backoff, for those that depend on it
        ("position", "i4"),  # in the topic that is replayed; -1: not begun
        ("fresh", "u4"),  # which of its topics it subscribes to without a cursor, by bit
        ("beat", "i4"),  # when in a heartbeat's interval its own is
        ("ticket", "i4"),  # of its place in the line; any other that it has there is void
    ],
    align=True,
)
# A place in the delivery worker's queue: a client's, or a number of frames of one kind.
PLACE = np.dtype(
    [
        ("since", "f8"),
        ("frames", "f8"),  # left, all alike; a burst is a liquid here
        ("readers", "f8"),  # of the group, when it was lined up
        ("announced", "i8"),  # to the group, up to then
        ("who", "i4"),  # a client, or `HEARTBEATS`, or those below: groups of readers
        ("ticket", "i4"),
    ],
)
# A place in the accept queue of a service with one loop.
ARRIVAL = np.dtype([("since", "f8"), ("who", "i4"), ("ticket", "i4")])
CHUNK = 8  # numbers: a bucket of the queue is a list of chunks, each with two numbers and up to six clients
HEARTBEATS = whole(-1)
FIRST_GROUP = whole(-2)
MAX_EPISODES = MAX_TOPICS = 32  # that have a bit each

ARRAYS: dict[str, Any] = {
    "clients": CLIENT,  # everyone
    "more": MORE,  # of everyone
    "line": PLACE,  # a ring: who waits for the delivery worker; it is a power of two long
    "queued": "f8",  # readers in that line, by group
    "announced_to": "i8",  # events, by group
    "buckets": "i4",  # the first chunk of each, -1: none
    "heap_at": "f8",  # the bucket that is being worked through
    "heap_client": "i4",
    "heads": "i8",  # how many events are announced in all, by stream
    "order": "f8",  # all announcements, in order
    "order_stream": "i4",
    "readers": "i8",  # subscribed connections, by group: those who read the same, known by the first stream they read
    "floors": "i8",  # trimmed by a fault up to here, by stream
    "budgets": "i8",  # replay budget, by stream
    "handshakers": "f8",  # when each worker is free; a heap
    "inside": "f8",  # when handshakes end, a ring
    "accept_queue": ARRIVAL,  # of one loop: a ring of who waits for a handshake
    "give_up_at": "f8",  # and when each will wait no longer; a heap
    "give_up_client": "i4",
    "minters": "f8",  # a heap
    "holders": "f8",  # of tokens that a fault holds up; a heap
    "beats": "i4",  # connections by the place of their heartbeat in the interval
    "offline": "f8",  # a client's network is away until then
    "reasons": "i8",  # disconnects
    "steps_ms": "f8",  # of a backoff that is a list, the last one for ever
}
TABLES: dict[str, Any] = {
    "chunks": "i4",  # [chunk, 2 + place]: the next of its bucket, or of those that are free; how many clients; who
    "published": "f8",  # [stream, event]: when each is announced
    "series": "i4",  # [SERIES, bin]
    "sizes": "i8",  # [3, bin]
    "herd": "i4",  # [attempt, bin]
    "lives": "i8",  # [2, bin]: all, and those after which the backoff went on counting
    "live_t": "f8",  # [episode, client]: live again; -1: not so far
    "tries": "i2",  # [episode, client]: attempts from its begin until then
    "episodes": "f8",  # [episode, 2]: a disconnect from then to then is of this fault
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
        ("next_give_up", "f8"),
        *((f"{name}_at", "u8") for name in (*ARRAYS, *TABLES)),  # where each array is, and how large: see `fleet_arrays`
        *((f"{name}_rows", "i8") for name in (*ARRAYS, *TABLES)),
        *((f"{name}_columns", "i8") for name in TABLES),
    ],
    align=True,
)
Service = Any
"""A record of `SERVICE`, as compiled code has it."""


class World:
    """Everything a run has: the service's record, and arrays by their names in `ARRAYS` and `TABLES`."""

    def __init__(self, service: Array, arrays: dict[str, Array]) -> None:
        self.service = service
        self._arrays: dict[str, Array] = {}
        for name, array in arrays.items():
            self[name] = array

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, array: Array) -> None:
        """Compiled code finds it from now on: the service's record has its address, and this object keeps it there."""
        kept = self._arrays[name] = np.ascontiguousarray(array, {**ARRAYS, **TABLES}[name])
        self.service[f"{name}_at"], self.service[f"{name}_rows"] = kept.ctypes.data, len(kept)
        if name in TABLES:
            self.service[f"{name}_columns"] = kept.shape[1]
