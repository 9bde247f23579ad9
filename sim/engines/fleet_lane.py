"""What the lane does for all clients together, compiled: its queues, its announcements, and what is counted.

Frames of the live tail are no events: what they cost the delivery worker is reckoned burst by burst.
"""

import math

from sim.engines import fleet_world
from sim.engines.fleet_arrays import (
    beats,
    bursts,
    clients,
    heads,
    inside,
    order,
    order_stream,
    published,
    readers,
    series,
    sizes,
)
from sim.engines.fleet_compile import inner
from sim.engines.fleet_world import Array, Lane

_ATTEMPTED = fleet_world.ATTEMPTED
_OCTAVE_BINS, _LOWEST_OCTAVE = fleet_world.OCTAVE_BINS, fleet_world.LOWEST_OCTAVE
_SIZE_BINS = fleet_world.OCTAVE_BINS * fleet_world.OCTAVES
_MOST_TRIES = 2**15 - 1


@inner
def count(w: Lane, what: int, at: float) -> None:
    """One more of a series, in its bin of time."""
    place = int(at / w.bin_s)
    series(w)[what, min(place, series(w).shape[1] - 1)] += 1


@inner
def size(w: Lane, what: int, seconds: float) -> None:
    """Into a bin whose upper edge is less than a thousandth above."""
    part, octave = math.frexp(max(seconds, 1e-6))
    place = (octave - _LOWEST_OCTAVE) * _OCTAVE_BINS + int((part - 0.5) * 2 * _OCTAVE_BINS)
    sizes(w)[what, min(max(place, 0), _SIZE_BINS - 1)] += 1


@inner
def attempted(w: Lane, i: int, at: float) -> None:
    """A client connects."""
    count(w, _ATTEMPTED, at)
    client = clients(w)[i]
    if client.tries < _MOST_TRIES:
        client.tries += 1


@inner
def admit(free_at: Array, at: float, takes_s: float) -> float:
    """First come, first served by several workers: when it is done. `free_at` is a heap of when each worker is free."""
    done = max(at, free_at[0]) + takes_s
    place, last = 0, len(free_at)
    while True:
        below = 2 * place + 1
        if below >= last:
            break
        if below + 1 < last and free_at[below + 1] < free_at[below]:
            below += 1
        if done <= free_at[below]:
            break
        free_at[place] = free_at[below]
        place = below
    free_at[place] = done
    return done


@inner
def has_room(w: Lane, at: float) -> bool:
    """Whether the accept backlog takes one more. Handshakes all take the same, so they end in the order they came."""
    ring = len(inside(w))
    if ring == 0:
        return True
    while w.inside_head < w.inside_tail and inside(w)[w.inside_head % ring] <= at:
        w.inside_head += 1
    return w.inside_tail - w.inside_head < w.backlog


@inner
def serve(w: Lane, at: float, takes_s: float) -> float:
    """A frame for one client by the delivery worker: when it goes out."""
    w.free_at = max(at, w.free_at) + takes_s
    if w.free_at - at > w.most_behind_s and w.overloaded_at == math.inf:
        w.overloaded_at = at
    return w.free_at


@inner
def announce(w: Lane, stream: int, at: float) -> None:
    """An event goes to all readers of its stream."""
    if stream == w.run_streams:  # everyone reads the one that is none of a run's
        for group in range(len(readers(w))):
            _deliver(w, group, at)
        return
    for topic in range(w.topics - w.worker_events):
        _deliver(w, (stream - topic) % w.run_streams, at)


@inner
def _deliver(w: Lane, group: int, at: float) -> None:
    """A burst to all who read the same; to whom the one before has yet to go, it goes in the same frame."""
    n = readers(w)[group]
    if n == 0:
        return
    begin, end, of = bursts(w)[group, 0], bursts(w)[group, 1], bursts(w)[group, 2]
    left = 0.0
    if at < end:
        left = min(of if at <= begin else of * (end - at) / (end - begin), float(n))
    start = max(at, w.free_at)
    w.delivered_at = serve(w, at, (n - left) * (w.batch_s + w.event_s) + left * w.event_s)
    bursts(w)[group, 0] = max(begin, at) if left > 0 else start
    bursts(w)[group, 1], bursts(w)[group, 2] = w.delivered_at, n


@inner
def tend(w: Lane, until: float) -> None:
    """Announcements and heartbeats up to a moment: what they cost the delivery worker."""
    while min(w.next_pub, w.next_beat) <= until:
        if w.next_pub <= w.next_beat:
            announce(w, order_stream(w)[w.announced], w.next_pub)
            w.announced += 1
            w.next_pub = order(w)[w.announced] if w.announced < w.planned else math.inf
        else:
            places = len(beats(w))
            place = int(w.next_beat / w.beat_s + 0.5) % places
            if beats(w)[place] > 0 and w.batch_s > 0:  # the lane's own, and its answer to the client's
                serve(w, w.next_beat, 2 * beats(w)[place] * w.batch_s)
            w.next_beat += w.beat_s


@inner
def head_of(w: Lane, stream: int, at: float) -> int:
    """How many events of a stream were announced by then."""
    low, high = 0, heads(w)[stream]
    while low < high:
        middle = (low + high) >> 1
        if published(w)[stream, middle] <= at:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def stream_of(w: Lane, i: int, topic: int) -> int:
    """Client n reads run streams n, n + 1, ...; everyone reads the one that is none."""
    return w.run_streams if topic >= w.topics - w.worker_events else (i + topic) % w.run_streams
