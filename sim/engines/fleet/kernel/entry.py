"""The functions of the compiled storm that Python calls.

A client is a record with one pending event. Tests compare the results with the virtual engine, whose sessions it mirrors.
"""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.accept_queue import give_up, next_handshake, shake_hands
from sim.engines.fleet.kernel.arrays import clients, heap_at, more
from sim.engines.fleet.kernel.compilation import compiled, inner
from sim.engines.fleet.kernel.connecting import go_live, hand_out, issue, join, mint, served, subscribe, syn, upgrade
from sim.engines.fleet.kernel.delivery import next_turn, take_turn, tend
from sim.engines.fleet.kernel.disconnecting import fail, lost
from sim.engines.fleet.kernel.event_queue import fill, forget_queue, pop, requeue, schedule
from sim.engines.fleet.kernel.injection import cut, expel, fall_silent, forget, hang_up, kill, mint_freely
from sim.engines.fleet.kernel.randomness import draw
from sim.engines.fleet.kernel.service import attempted, between
from sim.engines.fleet.kernel.world import Array, Service

_LIVE = world.LIVE
_MINT, _ISSUE, _HAND_OUT, _SYN = world.MINT, world.ISSUE, world.HAND_OUT, world.SYN
_UPGRADE, _JOIN, _SUBSCRIBE = world.UPGRADE, world.JOIN, world.SUBSCRIBE
_GO_LIVE = world.GO_LIVE
_REFUSED, _OFFLINE, _DENIED = world.REFUSED, world.OFFLINE, world.DENIED
_TIME_OUT, _UNANSWERED, _LOST = world.TIME_OUT, world.UNANSWERED, world.LOST
_EXPELLED, _LEAVE_STALE, _REFRESH = world.EXPELLED, world.LEAVE_STALE, world.REFRESH
_NETWORK, _REFRESH_DUE, _STALE = world.NETWORK, world.REFRESH_DUE, world.STALE
_UNAUTHORIZED, _FORBIDDEN = world.UNAUTHORIZED, world.FORBIDDEN
_CURSOR_ZERO = world.CURSOR_ZERO
_DELIVERY, _BUSY = world.DELIVERY, world.BUSY


@inner
def happen(w: Service, i: int, at: float) -> None:
    """Process a client's event."""
    event = clients(w)[i].event
    if event == _SYN:
        syn(w, i, at)
    elif event == _UPGRADE:
        upgrade(w, i, at)
    elif event == _JOIN:
        join(w, i, at)
    elif event == _SUBSCRIBE:
        subscribe(w, i, at)
    elif event == _GO_LIVE:
        go_live(w, i, at)
    elif event == _MINT:
        mint(w, i, at)
    elif event == _ISSUE:
        issue(w, i, at)
    elif event == _HAND_OUT:
        hand_out(w, i, at)
    elif event == _OFFLINE:
        attempted(w, i, at)
        fail(w, i, at, _NETWORK)
    elif event in (_REFUSED, _TIME_OUT, _UNANSWERED):
        fail(w, i, at, _NETWORK)
    elif event == _DENIED:
        fail(w, i, at, _FORBIDDEN)
    elif event == _LOST:
        lost(w, i, at, _NETWORK)
    elif event == _REFRESH:
        lost(w, i, at, _REFRESH_DUE)
    elif event == _EXPELLED:
        lost(w, i, at, _UNAUTHORIZED)
    elif event == _LEAVE_STALE:
        clients(w)[i].flags |= _CURSOR_ZERO
        lost(w, i, at, _STALE)


@inner
def turn(w: Service) -> None:
    """Process the next place in the delivery worker's queue or, if that is empty, in the accept queue."""
    if w.line_head == w.line_tail:
        shake_hands(w)
        return
    i = take_turn(w)
    if i >= 0:
        start = w.free_at
        served(w, i, start)
        between(w, _DELIVERY, _BUSY, start, w.free_at, 1.0)


@compiled
def advance(service: Array, until: float) -> None:
    """Simulate everything up to `until`, in seconds."""
    w = service[0]
    while True:
        has_event = w.heaped > 0 or fill(w, until)
        at = min(heap_at(w)[0], until) if has_event else until
        turn_at = next_turn(w) if w.line_head < w.line_tail else next_handshake(w)
        tend_at = min(w.next_pub, w.next_beat)
        if min(turn_at, tend_at, w.next_give_up) <= at:
            if turn_at <= min(tend_at, w.next_give_up):
                turn(w)
            elif tend_at <= w.next_give_up:
                tend(w)
            else:
                give_up(w)
            continue
        if not has_event or at >= until:
            break
        w.events += 1
        happen(w, pop(w), at)
    w.now = until


@compiled
def arrive(service: Array) -> None:
    """Draw each client's own one-way delay, and schedule its first request for a token."""
    w = service[0]
    for i in range(len(clients(w))):
        client = clients(w)[i]
        u, v = 1.0 - draw(w.delay_u_key, i, 0), draw(w.delay_v_key, i, 0)
        normal = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
        client.delay = w.median_s * math.exp(w.sigma * normal)
        client.due = i * w.arrival_gap_s
        client.live_since = client.has_until = client.refresh_at = -math.inf
        more(w)[i].fresh = (1 << w.topics) - 1
        schedule(w, i, _MINT, client.due + client.delay)


@compiled
def there(service: Array, renewal_s: float) -> int:
    """Return how many clients are live, or have been renewing their token for at most `renewal_s`."""
    w = service[0]
    count, now = 0, w.now
    for i in range(len(clients(w))):
        count += clients(w)[i].state == _LIVE or now <= clients(w)[i].live_since + renewal_s
    return count


@compiled
def inject(service: Array, how: int, chosen: Array, value: float) -> int:
    """Inject a fault now, into the chosen clients or, if `chosen` is empty, into all; return how many it hit."""
    w = service[0]
    forget_queue(w)
    if how == world.KILL:
        fall_silent(w)
    hit = 0
    for i in range(len(clients(w))):
        if len(chosen) and not chosen[i]:
            continue
        if how == world.CUT:
            hit += cut(w, i, value)
        elif how == world.KILL:
            hit += kill(w, i)
        elif how == world.HANG_UP:
            hit += hang_up(w, i)
        elif how == world.EXPEL:
            hit += expel(w, i)
        elif how == world.FORGET:
            hit += forget(w, i)
        elif how == world.MINT_FREELY:
            hit += mint_freely(w, i, value)
    requeue(w)
    return hit
