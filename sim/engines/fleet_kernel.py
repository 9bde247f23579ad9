"""The storm, compiled: what Python calls of it.

A client is a record and one pending event. Tests hold it to the virtual engine, whose sessions and cores it retells.
"""

import math

from sim.engines import fleet_world
from sim.engines.fleet_arrays import clients, heap_at, offline
from sim.engines.fleet_chance import draw
from sim.engines.fleet_compile import compiled, inner
from sim.engines.fleet_enter import go_live, issue, join, mint, replay, reply, subscribe, syn, upgrade
from sim.engines.fleet_lane import attempted, tend
from sim.engines.fleet_leave import connect, fail, lost
from sim.engines.fleet_queue import fill, forget_queue, pop, requeue, schedule
from sim.engines.fleet_world import Array, Lane

_WAITING, _CONNECTING, _LIVE = fleet_world.WAITING, fleet_world.CONNECTING, fleet_world.LIVE
_NOTHING, _MINT, _ISSUE, _SYN, _UPGRADE = (
    *(fleet_world.NOTHING, fleet_world.MINT, fleet_world.ISSUE, fleet_world.SYN, fleet_world.UPGRADE),
)
_JOIN, _SUBSCRIBE, _REPLAY, _REPLY = fleet_world.JOIN, fleet_world.SUBSCRIBE, fleet_world.REPLAY, fleet_world.REPLY
_GO_LIVE, _REFUSED, _OFFLINE, _LOST = fleet_world.GO_LIVE, fleet_world.REFUSED, fleet_world.OFFLINE, fleet_world.LOST
_LEAVE_STALE, _REFRESH, _TIME_OUT = fleet_world.LEAVE_STALE, fleet_world.REFRESH, fleet_world.TIME_OUT
_NETWORK, _REFRESH_DUE, _STALE = fleet_world.NETWORK, fleet_world.REFRESH_DUE, fleet_world.STALE
_CURSOR_ZERO = fleet_world.CURSOR_ZERO


@inner
def happen(w: Lane, i: int, at: float) -> None:
    """A client's event."""
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
    elif event == _REPLAY:
        replay(w, i, at)
    elif event == _REPLY:
        reply(w, i, at)
    elif event == _MINT:
        mint(w, i, at)
    elif event == _ISSUE:
        issue(w, i, at)
    elif event == _OFFLINE:
        attempted(w, i, at)
        fail(w, i, at)
    elif event in (_REFUSED, _TIME_OUT):
        fail(w, i, at)
    elif event == _LOST:
        lost(w, i, at, _NETWORK)
    elif event == _REFRESH:
        lost(w, i, at, _REFRESH_DUE)
    elif event == _LEAVE_STALE:
        clients(w)[i].flags |= _CURSOR_ZERO
        lost(w, i, at, _STALE)


@compiled
def advance(lane: Array, until: float) -> None:
    """Everything that happens before a moment."""
    w = lane[0]
    while True:
        if w.heaped == 0 and not fill(w, until):
            break
        at = heap_at(w)[0]
        if at >= until:
            break
        if at >= w.next_pub or at >= w.next_beat:
            tend(w, at)
        w.events += 1
        happen(w, pop(w), at)
    tend(w, until)
    w.now = until


@compiled
def arrive(lane: Array) -> None:
    """Everyone's own delay each way, and the moment of its first request for a token."""
    w = lane[0]
    for i in range(len(clients(w))):
        client = clients(w)[i]
        u, v = 1.0 - draw(w.delay_u_key, i, 0), draw(w.delay_v_key, i, 0)
        normal = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
        client.delay = w.median_s * math.exp(w.sigma * normal)
        client.due = i * w.arrival_gap_s
        client.live_since = client.has_until = client.refresh_at = -math.inf
        client.fresh = (1 << w.topics) - 1
        schedule(w, i, _MINT, client.due + client.delay)


@compiled
def there(lane: Array, renewal_s: float) -> int:
    """How many are live, or away for a moment to renew their token."""
    w = lane[0]
    count, now = 0, w.now
    for i in range(len(clients(w))):
        count += clients(w)[i].state == _LIVE or now <= clients(w)[i].live_since + renewal_s
    return count


@compiled
def cut(lane: Array, chosen: Array, offline_s: float) -> int:
    """Cut the sockets of the chosen now, and keep their network away for a while; returns how many there were to cut."""
    w = lane[0]
    hit = 0
    now = w.now
    forget_queue(w)
    for i in range(len(clients(w))):
        if not chosen[i]:
            continue
        client = clients(w)[i]
        if w.honours_offline:
            offline(w)[i] = now + offline_s
        is_trying = client.event == _SYN and client.due <= now
        if client.state == _WAITING and not is_trying:
            if client.event == _SYN:
                connect(w, i, client.due)
            continue
        hit += 1
        if client.state == _WAITING:
            attempted(w, i, client.due)
        is_open = client.event == _JOIN and client.at - client.delay <= now
        if client.state <= _CONNECTING and not is_open:
            fail(w, i, now)
        else:
            lost(w, i, now, _NETWORK)
    requeue(w)
    return hit
