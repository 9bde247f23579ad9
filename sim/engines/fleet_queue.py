"""The queue of events, compiled: buckets of time, and one pending event a client.

A bucket is a list through the clients' own records. The one that is being worked through is a small heap, so that what falls
into it meanwhile finds its place; of one moment the client with the lower number comes first, however wide buckets are.
"""

from sim.engines import fleet_world
from sim.engines.fleet_arrays import buckets, clients, heap_at, heap_client
from sim.engines.fleet_compile import inner
from sim.engines.fleet_world import Lane, whole

_NOTHING, _IN_LINE = fleet_world.NOTHING, fleet_world.IN_LINE


@inner
def schedule(w: Lane, i: int, event: int, at: float) -> None:
    """What happens to a client next; it has one event at a time."""
    client = clients(w)[i]
    client.event, client.at = event, at
    bucket = int(at / w.width_s)
    if bucket <= w.bucket:
        push(w, i, at)
        return
    last = len(buckets(w)) - 1
    bucket = min(bucket, last)
    client.next = buckets(w)[bucket]
    buckets(w)[bucket] = i


@inner
def push(w: Lane, i: int, at: float) -> None:
    """Into the heap of the bucket at work."""
    place = w.heaped
    w.heaped = place + 1
    while place > 0:
        above = (place - 1) >> 1
        if heap_at(w)[above] < at or (heap_at(w)[above] == at and heap_client(w)[above] < i):
            break
        heap_at(w)[place], heap_client(w)[place] = heap_at(w)[above], heap_client(w)[above]
        place = above
    heap_at(w)[place], heap_client(w)[place] = at, i


@inner
def pop(w: Lane) -> int:
    """The first client of the heap."""
    first = whole(heap_client(w)[0])
    last = w.heaped - 1
    w.heaped = last
    at, i = heap_at(w)[last], heap_client(w)[last]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= last:
            break
        right = below + 1
        if right < last and (
            heap_at(w)[right] < heap_at(w)[below]
            or (heap_at(w)[right] == heap_at(w)[below] and heap_client(w)[right] < heap_client(w)[below])
        ):
            below = right
        if at < heap_at(w)[below] or (at == heap_at(w)[below] and i < heap_client(w)[below]):
            break
        heap_at(w)[place], heap_client(w)[place] = heap_at(w)[below], heap_client(w)[below]
        place = below
    heap_at(w)[place], heap_client(w)[place] = at, i
    return first


@inner
def fill(w: Lane, until: float) -> bool:
    """Turn to the next bucket that has something; False if there is none that begins before `until`."""
    bucket, last = w.bucket + 1, len(buckets(w)) - 1
    end = min(int(until / w.width_s), last)
    while bucket <= end and buckets(w)[bucket] < 0:
        bucket += 1
    if bucket > end:
        w.bucket = max(w.bucket, end)
        return False
    w.bucket = bucket
    i = whole(buckets(w)[bucket])
    buckets(w)[bucket] = -1
    while i >= 0:
        push(w, i, clients(w)[i].at)
        i = whole(clients(w)[i].next)
    return True


@inner
def forget_queue(w: Lane) -> None:
    """Before many events are changed: what is scheduled from now on waits for `requeue`."""
    w.heaped, w.bucket = 0, -1


@inner
def requeue(w: Lane) -> None:
    """Put every client's event into the queue anew, after some were changed."""
    buckets(w)[:] = -1
    w.heaped, w.bucket = 0, int(w.now / w.width_s)
    for i in range(len(clients(w))):
        if _NOTHING < clients(w)[i].event < _IN_LINE:
            schedule(w, i, clients(w)[i].event, clients(w)[i].at)
