"""The compiled end of a connection or attempt: what the client missed, and when it tries again.

Mirrors `Session._lost` and `_back_off` in numbers. The moment of the cut determines what the live tail brought a client.
"""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import beats, clients, episodes, herd, lives, more, offline, reasons, steps_ms
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.delivery import behind_s, leave_group
from sim.engines.fleet.kernel.event_queue import schedule
from sim.engines.fleet.kernel.randomness import draw
from sim.engines.fleet.kernel.service import count
from sim.engines.fleet.kernel.world import Service, whole

_WAITING, _LIVE = world.WAITING, world.LIVE
_MINT, _SYN, _OFFLINE = world.MINT, world.SYN, world.OFFLINE
_REFRESH_DUE, _UNAUTHORIZED, _FORBIDDEN = world.REFRESH_DUE, world.UNAUTHORIZED, world.FORBIDDEN
_HAS_BEAT, _IS_SUBSCRIBED = world.HAS_BEAT, world.IS_SUBSCRIBED
_FAILED, _LEFT_LIVE = world.FAILED, world.LEFT_LIVE
_DISCONNECTED, _RENEWED = world.DISCONNECTED, world.RENEWED
_HERD_ATTEMPTS, _STEP_BINS = world.HERD_ATTEMPTS, world.STEP_BINS
_HERD_BINS = world.STEP_BINS * world.MAX_STEPS
_LIFE_BINS, _LIVES_A_S = world.LIFE_BINS, round(1 / world.LIFE_BIN_S)
_BASE_MS, _CAP_MS, _MAX_DOUBLINGS = (
    250.0,
    8000.0,
    10,
)  # nominal step, see `sim.analysis.reconnects`
FULL, EQUAL, DECORRELATED, PLAIN, CENTRIFUGE, LISTED, UNIFORM = range(7)
"""The formulas of `sim.client.backoff`, as `sim.engines.fleet.setup` numbers them."""


@inner
def connect(w: Service, i: int, at: float) -> None:
    """Schedule an attempt of a client with a token: the SYN's arrival, or a failure at once if it has no network."""
    client = clients(w)[i]
    client.due = at
    if w.honours_offline and at < offline(w)[i]:
        schedule(w, i, _OFFLINE, at)
    else:
        schedule(w, i, _SYN, at + client.delay)


@inner
def lost(w: Service, i: int, at: float, reason: int) -> None:
    """End a client's connection. It has all that was announced until then, except what was still in flight."""
    client = clients(w)[i]
    behind = behind_s(w, i % w.run_streams, at)
    unsubscribe(w, i)
    count(w, _RENEWED if reason == _REFRESH_DUE else _DISCONNECTED, at)
    reasons(w)[reason] += 1
    for e in range(w.begun):
        if episodes(w)[e, 0] <= at <= episodes(w)[e, 1]:
            client.pending |= 1 << e
    if client.state == _LIVE:
        w.live -= 1
        count(w, _LEFT_LIVE, at)
        client.has_until = at - client.delay - behind
    back_off(w, i, at, reason)


@inner
def unsubscribe(w: Service, i: int) -> None:
    """Stop all sending to a client."""
    client = clients(w)[i]
    if client.flags & _HAS_BEAT:
        client.flags &= 0xFF ^ _HAS_BEAT
        beats(w)[more(w)[i].beat] -= 1
    if client.flags & _IS_SUBSCRIBED:
        client.flags &= 0xFF ^ _IS_SUBSCRIBED
        leave_group(w, i % w.run_streams)


@inner
def fail(w: Service, i: int, at: float, reason: int) -> None:
    """Fail an attempt to connect."""
    count(w, _FAILED, at)
    back_off(w, i, at, reason)


@inner
def back_off(w: Service, i: int, at: float, reason: int) -> None:
    """Count, draw a delay and wait, like `Session._back_off`."""
    client = clients(w)[i]
    was_live = client.state == _LIVE
    if was_live and w.resets and at - client.live_since >= w.live_period_s:
        client.attempt = 0
        if w.backoff == DECORRELATED:
            more(w)[i].previous_ms = 0.0
    client.attempt += 1
    if was_live and client.disconnects > 0:
        life = min(int((at - client.live_since) * _LIVES_A_S), _LIFE_BINS - 1)
        lives(w)[0, life] += 1
        lives(w)[1, life] += client.attempt > 1
    client.disconnects += 1
    delay_ms = w.refresh_delay_ms
    if reason != _REFRESH_DUE or delay_ms < 0:
        drawn = draw(w.backoff_key, i, whole(client.disconnects))
        delay_ms = _delay_ms(w, i, whole(client.attempt), drawn)
    _count_delay(w, whole(client.attempt), delay_ms, reason)
    client.state, client.due = _WAITING, at + delay_ms / 1000
    client.live_since = at if reason == _REFRESH_DUE and client.attempt == 1 else -math.inf
    if reason in (_REFRESH_DUE, _UNAUTHORIZED, _FORBIDDEN):
        client.refresh_at = -math.inf
    if client.due >= client.refresh_at:
        schedule(w, i, _MINT, client.due + client.delay)
    else:
        connect(w, i, client.due)


@inner
def _count_delay(w: Service, attempt: int, delay_ms: float, reason: int) -> None:
    w.backoffs += 1
    w.longest_ms = max(w.longest_ms, delay_ms)
    if reason != _REFRESH_DUE:
        step_ms = min(_BASE_MS * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS), _CAP_MS)
        place = min(int(delay_ms / step_ms * _STEP_BINS), _HERD_BINS - 1)
        herd(w)[min(attempt, _HERD_ATTEMPTS - 1), place] += 1


@inner
def _delay_ms(w: Service, i: int, attempt: int, drawn: float) -> float:
    """Return the delay of `sim.client.backoff`, in milliseconds."""
    base, cap = w.base_ms, w.cap_ms
    if w.backoff == UNIFORM:
        return base + drawn * cap
    if w.backoff == LISTED:
        return steps_ms(w)[min(attempt - 1, len(steps_ms(w)) - 1)]
    if w.backoff == DECORRELATED:
        highest = 3.0 * min(max(more(w)[i].previous_ms, base), cap)
        more(w)[i].previous_ms = delay_ms = min(base + drawn * (highest - base), cap)
        return delay_ms
    step = min(base * 2.0 ** min(attempt - 1, w.doublings), cap)
    if w.backoff == FULL:
        return drawn * step
    if w.backoff == EQUAL:
        return (0.5 + 0.5 * drawn) * step
    return step if w.backoff == PLAIN else min(cap, base + drawn * step)
