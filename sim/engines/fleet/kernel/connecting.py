"""The compiled steps of a client until it is live: token, connect, join, subscribe, replay, live.

They mirror `VirtualClient`, `SimulatedService`, and the session and server code that these drive. Tests compare both.
"""

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.accept_queue import queue_handshake
from sim.engines.fleet.kernel.arrays import (
    beats,
    budgets,
    clients,
    floors,
    handshakers,
    holders,
    inside,
    live_t,
    minters,
    more,
    readers,
    tries,
)
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.delivery import one_more, stand_in_line
from sim.engines.fleet.kernel.disconnecting import back_off, connect
from sim.engines.fleet.kernel.event_queue import schedule
from sim.engines.fleet.kernel.service import admit, attempted, count, has_room, head_of, size, stay, stream_of
from sim.engines.fleet.kernel.world import Service, whole

_WAITING, _CONNECTING, _JOINING = world.WAITING, world.CONNECTING, world.JOINING
_SUBSCRIBING, _LIVE = world.SUBSCRIBING, world.LIVE
_NOTHING, _ISSUE, _HAND_OUT = world.NOTHING, world.ISSUE, world.HAND_OUT
_SYN, _UPGRADE, _JOIN, _SUBSCRIBE = world.SYN, world.UPGRADE, world.JOIN, world.SUBSCRIBE
_GO_LIVE, _REFUSED, _DENIED = world.GO_LIVE, world.REFUSED, world.DENIED
_TIME_OUT, _UNANSWERED, _LOST = world.TIME_OUT, world.UNANSWERED, world.LOST
_EXPELLED, _LEAVE_STALE, _REFRESH = world.EXPELLED, world.LEAVE_STALE, world.REFRESH
_FOR_JOIN, _FOR_STALE, _FOR_REPLAY = world.FOR_JOIN, world.FOR_STALE, world.FOR_REPLAY
_FOR_REPLY, _FOR_HANG_UP, _FOR_EXPEL = world.FOR_REPLY, world.FOR_HANG_UP, world.FOR_EXPEL
_UNAUTHORIZED = world.UNAUTHORIZED
_TOKEN_LIMIT, _MINTING, _HANDSHAKES = world.TOKEN_LIMIT, world.MINTING, world.HANDSHAKES
_HAS_BEAT, _IS_SUBSCRIBED = world.HAS_BEAT, world.IS_SUBSCRIBED
_REBOOTSTRAPPED, _CURSOR_ZERO = world.REBOOTSTRAPPED, world.CURSOR_ZERO
_WENT_LIVE, _MINTED, _TOKEN_REFUSED = world.WENT_LIVE, world.MINTED, world.TOKEN_REFUSED
_STALE_ANSWERS, _SUBSCRIBED, _REACHED = world.STALE_ANSWERS, world.SUBSCRIBED, world.REACHED
_BEFORE, _AFTER, _TOKEN_WAIT = world.BOOTSTRAP_BEFORE, world.BOOTSTRAP_AFTER, world.TOKEN_WAIT


@inner
def mint(w: Service, i: int, at: float) -> None:
    """Queue a request for a token that arrived at the control service."""
    turn = max(at, w.mint_turn)
    w.mint_turn = turn + w.mint_gap_s
    if w.mint_gap_s > 0:
        stay(w, _TOKEN_LIMIT, at, turn, w.mint_turn)
    done = admit(minters(w), turn, w.mint_s)
    stay(w, _MINTING, turn, done - w.mint_s, done)
    schedule(w, i, _ISSUE, done)


@inner
def issue(w: Service, i: int, at: float) -> None:
    """Hand out a token, or delay it while a fault lasts."""
    if w.held_mint_s > 0:
        w.held_mints += 1
        schedule(w, i, _HAND_OUT, admit(holders(w), at, w.held_mint_s))
    else:
        hand_out(w, i, at)


@inner
def hand_out(w: Service, i: int, at: float) -> None:
    """Send the control service's answer; it arrives one delay later."""
    client = clients(w)[i]
    back_at = at + client.delay
    if w.mint_outage:
        w.refused_mints += 1
        count(w, _TOKEN_REFUSED, back_at)
        back_off(w, i, back_at, _UNAUTHORIZED)
        return
    count(w, _MINTED, back_at)
    size(w, _TOKEN_WAIT, back_at - client.due)
    client.refresh_at = at + w.refresh_after_s
    connect(w, i, back_at)


@inner
def syn(w: Service, i: int, at: float) -> None:
    """Answer a SYN, refuse it if nothing listens, or drop it if the backlog is full; the kernel then sends it again."""
    client = clients(w)[i]
    if client.state == _WAITING:
        client.state, client.retry_s = _CONNECTING, w.syn_retry_s
        attempted(w, i, client.due)
    give_up_at = client.due + w.reply_timeout_s
    if not w.is_up:
        schedule(w, i, _REFUSED, at + client.delay)
    elif has_room(w, at):
        schedule(w, i, _UPGRADE, at + 2 * client.delay)
    else:
        w.unanswered += 1
        _syn_again(w, i, at, give_up_at)


@inner
def _syn_again(w: Service, i: int, at: float, give_up_at: float) -> None:
    client = clients(w)[i]
    if at + client.retry_s < give_up_at:
        schedule(w, i, _SYN, at + client.retry_s)
        client.retry_s *= 2
    else:
        schedule(w, i, _UNANSWERED, give_up_at)


@inner
def upgrade(w: Service, i: int, at: float) -> None:
    """Queue the handshake of a WebSocket request that arrived at the service."""
    client = clients(w)[i]
    if not w.is_up:
        schedule(w, i, _REFUSED, at + client.delay)
        return
    count(w, _REACHED, at)
    if w.one_loop:
        queue_handshake(w, i, at)
        return
    done = admit(handshakers(w), at, w.handshake_s)
    stay(w, _HANDSHAKES, at, done - w.handshake_s, done)
    if len(inside(w)):
        inside(w)[w.inside_tail % len(inside(w))] = done
        w.inside_tail += 1
    give_up_at = client.due + w.reply_timeout_s
    if done + client.delay >= give_up_at:  # the client will have given up
        schedule(w, i, _TIME_OUT, give_up_at)
    elif client.refresh_at - w.refresh_after_s < w.void_before:
        schedule(w, i, _DENIED, done + client.delay)
    else:
        schedule(w, i, _JOIN, done + 2 * client.delay)


@inner
def join(w: Service, i: int, at: float) -> None:
    """Receive the client's join over its open socket."""
    client = clients(w)[i]
    client.state = _JOINING
    beat = more(w)[i].beat = int((at - 2 * client.delay) / w.beat_s) % len(beats(w))
    client.flags |= _HAS_BEAT
    beats(w)[beat] += 1
    stand_in_line(w, i, _FOR_JOIN, at)


@inner
def subscribe(w: Service, i: int, at: float) -> None:
    """Receive the client's subscription: answer that a cursor is stale, or start the replay."""
    client = clients(w)[i]
    client.state = _SUBSCRIBING
    count(w, _SUBSCRIBED, at)
    w.limited_subscribes += w.shrunk_budget > 0
    stale = _stale_topics(w, i, at)
    if stale == 0:
        client.topic, more(w)[i].position = 0, -1
        stand_in_line(w, i, _FOR_REPLAY, at)
        return
    count(w, _STALE_ANSWERS, at)
    if w.snapshots:
        more(w)[i].fresh |= stale
        if not client.flags & _REBOOTSTRAPPED:
            client.flags |= _REBOOTSTRAPPED
            w.rebootstrapped += 1
    stand_in_line(w, i, _FOR_STALE, at)


@inner
def served(w: Service, i: int, at: float) -> None:
    """Send a client its frame, in its turn."""
    client = clients(w)[i]
    what = client.event
    if what == _FOR_REPLAY:
        _replay(w, i, at)
        return
    if what == _FOR_HANG_UP:
        schedule(w, i, _LOST, at + client.delay)
        return
    w.free_at = told = at + w.batch_s
    if what == _FOR_JOIN:
        schedule(w, i, _SUBSCRIBE, told + 2 * client.delay)
    elif what == _FOR_REPLY:
        schedule(w, i, _GO_LIVE, told + client.delay)
    elif what == _FOR_EXPEL:
        schedule(w, i, _EXPELLED, told + client.delay)
    elif what == _FOR_STALE:
        one_more(w, at)  # a second answer with the same content, which the client does not wait for
        if w.snapshots:
            schedule(w, i, _SUBSCRIBE, told + 2 * client.delay)
        else:
            schedule(w, i, _LEAVE_STALE, told + client.delay)


@inner
def _oldest(w: Service, stream: int, head: int) -> int:
    return max(max(1, head - w.window + 1), floors(w)[stream] + 1)


@inner
def _stale_topics(w: Service, i: int, at: float) -> int:
    client = clients(w)[i]
    stale = 0
    for topic in range(w.topics):
        stream = stream_of(w, i, topic)
        if more(w)[i].fresh >> topic & 1:
            continue
        head = head_of(w, stream, at)
        after = 0 if client.flags & _CURSOR_ZERO else head_of(w, stream, client.has_until)
        budget = w.shrunk_budget if w.shrunk_budget > 0 else budgets(w)[stream]
        if head > 0 and (after < _oldest(w, stream, head) - 1 or head - after > max(budget, 1)):
            stale |= 1 << topic
    return stale


@inner
def _replay(w: Service, i: int, at: float) -> None:
    """Send the next frame of a replay, and queue the client for the frame after it."""
    client, rest = clients(w)[i], more(w)[i]
    sent = 0
    while client.topic < w.topics and sent == 0:
        stream = stream_of(w, i, whole(client.topic))
        head = head_of(w, stream, at)
        if rest.position < 0:
            if rest.fresh >> client.topic & 1:
                rest.position = _oldest(w, stream, head) - 1
            else:
                rest.position = 0 if client.flags & _CURSOR_ZERO else head_of(w, stream, client.has_until)
        sent = max(min(head - rest.position, w.batch_size), 0)
        rest.position += sent
        if rest.position >= head:
            client.topic, rest.position = client.topic + 1, -1
    w.replayed += sent
    w.free_at = at + w.batch_s + sent * w.event_s
    if client.topic < w.topics:
        stand_in_line(w, i, _FOR_REPLAY, at)
        return
    client.flags |= _IS_SUBSCRIBED  # until now, the replay brought it all that was announced
    readers(w)[i % w.run_streams] += 1
    stand_in_line(w, i, _FOR_REPLY, at)


@inner
def go_live(w: Service, i: int, at: float) -> None:
    """Make a client live: the answer has arrived."""
    client = clients(w)[i]
    client.state, client.live_since = _LIVE, at
    client.flags &= 0xFF ^ _CURSOR_ZERO
    more(w)[i].fresh = 0
    w.live += 1
    count(w, _WENT_LIVE, at)
    size(w, _AFTER if at >= w.first_fault_t else _BEFORE, at - client.due)
    for e in range(w.begun):
        if client.pending >> e & 1:
            live_t(w)[e, i] = at
            tries(w)[e, i] += client.tries
    client.pending = client.tries = 0
    if client.refresh_at < w.horizon_s:
        schedule(w, i, _REFRESH, max(at, client.refresh_at))
    else:
        client.event = _NOTHING
