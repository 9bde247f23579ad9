"""The compiled event queue: buckets of time, and one pending event per client.

A bucket is a list of chunks with a few clients each. The current bucket is a small heap, so that new events in it find their
place. At equal moments the client with the lower number comes first, for any width of the buckets.
"""

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import buckets, chunks, clients, fetch, fetch_chunk, heap_at, heap_client
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.world import Array, Service, whole

_PLACES = world.CHUNK - 2
_NOTHING, _IN_LINE = world.NOTHING, world.IN_LINE


@inner
def schedule(w: Service, i: int, event: int, at: float) -> None:
    """Schedule a client's next event; it has one at a time."""
    client = clients(w)[i]
    client.event, client.at = event, at
    if w.bucket < 0:  # `requeue` adds it later
        return
    bucket = int(at * w.buckets_a_s)
    if bucket <= w.bucket:
        push(w, i, at)
        return
    bucket = min(bucket, len(buckets(w)) - 1)
    number = whole(buckets(w)[bucket])
    if number < 0 or chunks(w)[number, 1] == _PLACES:
        number = buckets(w)[bucket] = _new_chunk(w, number)
    chunk = chunks(w)[number]
    chunk[2 + chunk[1]] = i
    chunk[1] += 1


@inner
def _new_chunk(w: Service, before: int) -> int:
    """Return an empty chunk, linked before another. There are as many as clients, and each one in use holds a client."""
    number = w.free_chunk
    if number >= 0:
        w.free_chunk = chunks(w)[number, 0]
    else:
        number = w.chunks_used
        w.chunks_used = number + 1
    chunks(w)[number, 0], chunks(w)[number, 1] = before, 0
    return number


@inner
def push(w: Service, i: int, at: float) -> None:
    """Add a client to the heap of the current bucket."""
    w.heaped += 1
    rise(heap_at(w), heap_client(w), w.heaped - 1, at, i)


@inner
def pop(w: Service) -> int:
    """Remove the first client of the heap and return it."""
    first = whole(heap_client(w)[0])
    w.heaped -= 1
    sink(heap_at(w), heap_client(w), w.heaped)
    return first


@inner
def rise(ats: Array, who: Array, place: int, at: float, i: int) -> None:
    """Add an entry to a heap of moments and clients, from its free last place upwards."""
    while place > 0:
        above = (place - 1) >> 1
        if ats[above] < at or (ats[above] == at and who[above] < i):
            break
        ats[place], who[place] = ats[above], who[above]
        place = above
    ats[place], who[place] = at, i


@inner
def sink(ats: Array, who: Array, last: int) -> None:
    """Move the last entry of a heap to the removed first place, and down from there."""
    at, i = ats[last], who[last]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= last:
            break
        right = below + 1
        if right < last and (ats[right] < ats[below] or (ats[right] == ats[below] and who[right] < who[below])):
            below = right
        if at < ats[below] or (at == ats[below] and i < who[below]):
            break
        ats[place], who[place] = ats[below], who[below]
        place = below
    ats[place], who[place] = at, i


@inner
def fill(w: Service, until: float) -> bool:
    """Advance to the next non-empty bucket; False if no such bucket starts before `until`."""
    bucket, last = w.bucket + 1, len(buckets(w)) - 1
    end = min(int(until * w.buckets_a_s), last)
    while bucket <= end and buckets(w)[bucket] < 0:
        bucket += 1
    if bucket > end:
        w.bucket = max(w.bucket, end)
        return False
    w.bucket = bucket
    _look_ahead(w, bucket)
    number = whole(buckets(w)[bucket])
    buckets(w)[bucket] = -1
    while number >= 0:
        chunk = chunks(w)[number]
        for place in range(2, 2 + chunk[1]):
            push(w, whole(chunk[place]), clients(w)[chunk[place]].at)
        after = whole(chunk[0])
        chunk[0] = w.free_chunk
        w.free_chunk, number = number, after
    return True


@inner
def _look_ahead(w: Service, bucket: int) -> None:
    """Prefetch what is needed soon: the clients of the next bucket, and the first chunk of the bucket after it."""
    if bucket + 2 >= len(buckets(w)):
        return
    fetch_chunk(w, buckets(w)[bucket + 2])
    number = whole(buckets(w)[bucket + 1])
    while number >= 0:
        chunk = chunks(w)[number]
        for place in range(2, 2 + chunk[1]):
            fetch(w, chunk[place])
        number = whole(chunk[0])


@inner
def forget_queue(w: Service) -> None:
    """Empty the queue before many events change; events scheduled from now on wait for `requeue`."""
    w.heaped, w.bucket = 0, -1


@inner
def requeue(w: Service) -> None:
    """Rebuild the queue after some clients' events have changed."""
    buckets(w)[:] = -1
    w.free_chunk, w.chunks_used = -1, 0
    w.heaped, w.bucket = 0, int(w.now * w.buckets_a_s)
    for i in range(len(clients(w))):
        if _NOTHING < clients(w)[i].event < _IN_LINE:
            schedule(w, i, clients(w)[i].event, clients(w)[i].at)
