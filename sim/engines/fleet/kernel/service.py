"""The compiled functions that all clients share: worker queues, heads of streams, and counters."""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import clients, heads, inside, levels, published, series, sizes
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.world import Array, Service

_ATTEMPTED = world.ATTEMPTED
_WAIT, _BUSY = world.WAIT, world.BUSY
_OCTAVE_BINS, _LOWEST_OCTAVE = world.OCTAVE_BINS, world.LOWEST_OCTAVE
_SIZE_BINS = world.OCTAVE_BINS * world.OCTAVES
_MAX_TRIES = 2**15 - 1


@inner
def count(w: Service, what: int, at: float) -> None:
    """Count one more in a series, in its bin of time."""
    place = int(at / w.bin_s)
    series(w)[what, min(place, series(w).shape[1] - 1)] += 1


@inner
def size(w: Service, what: int, seconds: float) -> None:
    """Count a duration in a bin whose upper edge is less than a thousandth above it."""
    part, octave = math.frexp(max(seconds, 1e-6))
    place = (octave - _LOWEST_OCTAVE) * _OCTAVE_BINS + int((part - 0.5) * 2 * _OCTAVE_BINS)
    sizes(w)[what, min(max(place, 0), _SIZE_BINS - 1)] += 1


@inner
def between(w: Service, station: int, what: int, start: float, end: float, by: float) -> None:
    """Add `by` to how many wait or are served at a station, from `start` until `end`."""
    if end <= start:
        return
    row, table = 4 * station + 2 * what, levels(w)
    for at, change in ((start, by), (end, -by)):
        place = at / w.level_s
        whole = min(int(place), table.shape[1] - 1)
        table[row, whole] += change
        table[row + 1, whole] += change * max(1 - (place - whole), 0.0)


@inner
def stay(w: Service, station: int, at: float, start: float, end: float) -> None:
    """Note an arrival at a station that is served from `start` until `end`."""
    between(w, station, _WAIT, at, start, 1.0)
    between(w, station, _BUSY, start, end, 1.0)


@inner
def empty(w: Service, station: int, now: float) -> None:
    """Forget who waits and is served at a station from now on. Changes in the bin of `now` count from `now`."""
    table, place = levels(w), min(int(now / w.level_s), levels(w).shape[1] - 1)
    left = 1 - (now / w.level_s - place)
    for row in range(4 * station, 4 * station + 4, 2):
        inside = table[row, : place + 1].sum()
        table[row, place] -= inside
        table[row + 1, place] -= inside * left
        table[row, place + 1 :] = 0.0
        table[row + 1, place + 1 :] = 0.0


@inner
def attempted(w: Service, i: int, at: float) -> None:
    """Count a client's attempt to connect."""
    count(w, _ATTEMPTED, at)
    client = clients(w)[i]
    if client.tries < _MAX_TRIES:
        client.tries += 1


@inner
def admit(free_at: Array, at: float, takes_s: float) -> float:
    """Return when an arrival is done: first come, first served. `free_at` is a heap of when each worker is free."""
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
def has_room(w: Service, at: float) -> bool:
    """Return whether the accept backlog takes one more. All handshakes take the same time, so they end in order of arrival."""
    if w.one_loop:
        return w.accept_tail - w.accept_head < w.backlog
    ring = len(inside(w))
    if ring == 0:
        return True
    while w.inside_head < w.inside_tail and inside(w)[w.inside_head % ring] <= at:
        w.inside_head += 1
    return w.inside_tail - w.inside_head < w.backlog


@inner
def head_of(w: Service, stream: int, at: float) -> int:
    """Return how many events of a stream were announced by `at`."""
    low, high = 0, heads(w)[stream]
    while low < high:
        middle = (low + high) >> 1
        if published(w)[stream, middle] <= at:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def stream_of(w: Service, i: int, topic: int) -> int:
    """Return a topic's stream. Client n reads run streams n, n + 1, ...; all clients read the stream that is not a run's."""
    return w.run_streams if topic >= w.topics - w.worker_events else (i + topic) % w.run_streams
