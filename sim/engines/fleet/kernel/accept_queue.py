"""The compiled accept queue of a service with one loop: the delivery worker does handshakes when no frame waits.

The end of a handshake is not known when it is requested, so a client that waits for one has no event. It gets its handshake in
its turn, or gives up at its moment. Both orders are kept outside the event queue, and can hold places of clients that left.
"""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import accept_queue, clients, give_up_at, give_up_client, more
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.disconnecting import fail
from sim.engines.fleet.kernel.event_queue import rise, schedule, sink
from sim.engines.fleet.kernel.service import between, stay
from sim.engines.fleet.kernel.world import Service, whole

_JOIN, _DENIED, _FOR_HANDSHAKE = world.JOIN, world.DENIED, world.FOR_HANDSHAKE
_NETWORK = world.NETWORK
_HANDSHAKES, _DELIVERY, _BUSY = world.HANDSHAKES, world.DELIVERY, world.BUSY


@inner
def queue_handshake(w: Service, i: int, at: float) -> None:
    """Queue a client for its handshake."""
    clients(w)[i].event = _FOR_HANDSHAKE
    more(w)[i].ticket += 1
    place = accept_queue(w)[w.accept_tail % len(accept_queue(w))]
    place.who, place.since, place.ticket = i, at, more(w)[i].ticket
    w.accept_tail += 1
    if w.waiting == len(give_up_at(w)):
        _forget_the_gone(w)
    _watch(w, i, clients(w)[i].due + w.reply_timeout_s)


@inner
def next_handshake(w: Service) -> float:
    """Return when the worker starts the next handshake if no frame waits; infinity if no handshake waits."""
    if w.accept_head == w.accept_tail:
        return math.inf
    return float(max(w.free_at, accept_queue(w)[w.accept_head % len(accept_queue(w))].since))


@inner
def shake_hands(w: Service) -> None:
    """Do the next handshake. It takes the same time if its client has left."""
    start = next_handshake(w)
    w.free_at = done = start + w.handshake_s
    place = accept_queue(w)[w.accept_head % len(accept_queue(w))]
    stay(w, _HANDSHAKES, place.since, start, done)
    between(w, _DELIVERY, _BUSY, start, done, 1.0)
    w.accept_head += 1
    i = whole(place.who)
    client = clients(w)[i]
    if client.event != _FOR_HANDSHAKE or more(w)[i].ticket != place.ticket:
        return
    if done + client.delay >= client.due + w.reply_timeout_s:
        return  # it will have given up
    if client.refresh_at - w.refresh_after_s < w.void_before:
        schedule(w, i, _DENIED, done + client.delay)
    else:
        schedule(w, i, _JOIN, done + 2 * client.delay)


# --- clients by the moment they give up: a heap -----------------------------------------------------


@inner
def give_up(w: Service) -> None:
    """Take the earliest moment: its client gives up, if it still waits for that handshake."""
    i, at = whole(give_up_client(w)[0]), give_up_at(w)[0]
    w.waiting -= 1
    sink(give_up_at(w), give_up_client(w), w.waiting)
    w.next_give_up = give_up_at(w)[0] if w.waiting > 0 else math.inf
    if _waits(w, i, at):
        fail(w, i, at, _NETWORK)


@inner
def _waits(w: Service, i: int, at: float) -> bool:
    """Return whether the client still waits in the attempt that gives up at `at`."""
    client = clients(w)[i]
    return bool(client.event == _FOR_HANDSHAKE and client.due + w.reply_timeout_s == at)


@inner
def _watch(w: Service, i: int, at: float) -> None:
    w.waiting += 1
    rise(give_up_at(w), give_up_client(w), w.waiting - 1, at, i)
    w.next_give_up = give_up_at(w)[0]


@inner
def _forget_the_gone(w: Service) -> None:
    """Remove clients that no longer wait. No client waits twice, so at least half of the places become free."""
    before, w.waiting = w.waiting, 0
    for place in range(before):
        i, at = whole(give_up_client(w)[place]), give_up_at(w)[place]
        if _waits(w, i, at):
            _watch(w, i, at)
