"""The compiled effect of faults on a client. Each function returns whether the client was hit.

The event queue is empty during an injection, and is rebuilt afterwards.
"""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import clients, handshakers, offline, queued
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.delivery import stand_in_line
from sim.engines.fleet.kernel.disconnecting import connect, fail, lost, unsubscribe
from sim.engines.fleet.kernel.event_queue import schedule
from sim.engines.fleet.kernel.service import attempted, empty
from sim.engines.fleet.kernel.world import Service

_WAITING, _CONNECTING, _LIVE = world.WAITING, world.CONNECTING, world.LIVE
_MINT, _HAND_OUT, _SYN, _JOIN = world.MINT, world.HAND_OUT, world.SYN, world.JOIN
_REFUSED, _DENIED, _TIME_OUT = world.REFUSED, world.DENIED, world.TIME_OUT
_LOST, _EXPELLED = world.LOST, world.EXPELLED
_FOR_HANG_UP, _FOR_EXPEL = world.FOR_HANG_UP, world.FOR_EXPEL
_FOR_HANDSHAKE = world.FOR_HANDSHAKE
_NETWORK = world.NETWORK
_HANDSHAKES, _DELIVERY = world.HANDSHAKES, world.DELIVERY


@inner
def cut(w: Service, i: int, offline_s: float) -> bool:
    """Cut a client's socket and network for `offline_s` seconds. A client that waits has no socket."""
    client, now = clients(w)[i], w.now
    if w.honours_offline:
        offline(w)[i] = now + offline_s
    is_trying = client.event == _SYN and client.due <= now
    if client.state == _WAITING and not is_trying:
        if client.event == _SYN:
            connect(w, i, client.due)
        return False
    if client.state == _WAITING:
        attempted(w, i, client.due)
    is_open = client.event == _JOIN and client.at - client.delay <= now
    if client.state <= _CONNECTING and not is_open:
        fail(w, i, now, _NETWORK)
    else:
        lost(w, i, now, _NETWORK)
    return True


@inner
def _is_served(w: Service, i: int) -> bool:
    """Return whether the service has a connection of this client that neither side has ended."""
    client = clients(w)[i]
    if client.event == _JOIN:
        return client.at - 2 * client.delay <= w.now
    return client.state > _CONNECTING and client.event not in (_LOST, _EXPELLED, _FOR_HANG_UP, _FOR_EXPEL)


@inner
def fall_silent(w: Service) -> None:
    """End the runtime's process, with everything that waited in it."""
    w.is_up = 0
    w.inside_head, w.accept_head = w.inside_tail, w.accept_tail
    w.free_at = w.now
    handshakers(w)[:] = w.now
    empty(w, _HANDSHAKES, w.now)
    empty(w, _DELIVERY, w.now)
    w.line_head = w.line_tail
    queued(w)[:] = 0.0


@inner
def kill(w: Service, i: int) -> bool:
    """Schedule the news of the runtime's end for a client with a connection or a pending handshake."""
    client = clients(w)[i]
    hears_at = w.now + client.delay
    if _is_served(w, i):
        unsubscribe(w, i)
        schedule(w, i, _LOST, hears_at)
        return True
    is_early = hears_at < client.due + w.reply_timeout_s
    if client.event == _JOIN or (client.event in (_TIME_OUT, _FOR_HANDSHAKE) and is_early):
        schedule(w, i, _REFUSED, hears_at)
    return False


@inner
def hang_up(w: Service, i: int) -> bool:
    """Close a client's connection from the service's side."""
    if not _is_served(w, i):
        return False
    unsubscribe(w, i)
    stand_in_line(w, i, _FOR_HANG_UP, w.now)
    return True


@inner
def expel(w: Service, i: int) -> bool:
    """Invalidate a client's token: the service closes its connection, or refuses it after its handshake."""
    client = clients(w)[i]
    w.void_before = w.now
    if _is_served(w, i):
        unsubscribe(w, i)
        stand_in_line(w, i, _FOR_EXPEL, w.now)
        return True
    if client.event == _JOIN:
        schedule(w, i, _DENIED, client.at - client.delay)
    return False


@inner
def forget(w: Service, i: int) -> bool:
    """Remove a client's token, so that its next attempt needs a new one."""
    client = clients(w)[i]
    client.refresh_at = -math.inf
    if client.state == _WAITING and client.event == _SYN and client.due > w.now:
        schedule(w, i, _MINT, client.due + client.delay)
    return True


@inner
def mint_freely(w: Service, i: int, held_s: float) -> bool:
    """Stop delaying tokens: a client whose turn had not come gets its token now."""
    client = clients(w)[i]
    if client.event != _HAND_OUT or client.at - held_s <= w.now:
        return False
    schedule(w, i, _HAND_OUT, w.now)
    return True
