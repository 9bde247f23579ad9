"""The compiled delivery worker and its queue: one frame per turn. A client that needs another frame goes to the back.

Frames of the live tail are not simulated one by one. All readers of the same streams are a group. An event announced to a group
queues the readers that are not queued yet, as one place; queued readers get it in the frame that they wait for. A frame takes a
few topics. A client with events in more topics goes to the back of the queue for the rest, as in the virtual engine.
"""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import announced_to, beats, clients, line, more, order, order_stream, queued, readers
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.service import between
from sim.engines.fleet.kernel.world import Service, whole

_NOBODY = 1e-6  # readers: at most a rounding error of summed fractions
_TURN_S = 0.001  # same as the virtual service's `WORK_QUANTUM_S`
_DELIVERY, _WAIT, _BUSY = world.DELIVERY, world.WAIT, world.BUSY
_HEARTBEATS, _FIRST_GROUP = world.HEARTBEATS, world.FIRST_GROUP


@inner
def _line_up(w: Service, who: int, frames: float, at: float) -> int:
    """Add a place at the back of the queue; return its number."""
    size = len(line(w))
    if w.line_tail - w.line_head >= size:  # hopelessly overloaded: drop the oldest place
        w.line_head += 1
        w.overloaded_at = min(w.overloaded_at, at)
    if w.line_head == w.line_tail:
        w.free_at = max(w.free_at, at)
        w.line_head = w.line_tail = 0  # a short queue stays in the processor's cache
    number = w.line_tail & (size - 1)
    w.line_tail += 1
    place = line(w)[number]
    place.who, place.frames, place.since, place.ticket = who, frames, at, 0
    return number


@inner
def stand_in_line(w: Service, i: int, what: int, at: float) -> None:
    """Queue a client for a frame."""
    number = _line_up(w, i, 1.0, at)
    clients(w)[i].event = what
    more(w)[i].ticket += 1
    line(w)[number].ticket = more(w)[i].ticket


@inner
def one_more(w: Service, at: float) -> None:
    """Queue a frame that no client waits for."""
    _line_up(w, _HEARTBEATS, 1.0, at)


@inner
def _cost_s(w: Service, number: int) -> float:
    """Return the work per frame of a place that is not a client's, in seconds."""
    place = line(w)[number]
    if place.who == _HEARTBEATS:
        return w.batch_s
    owed = _owed(w, number)
    return w.batch_s + (owed - _kept_back(w, owed)) * w.event_s


@inner
def _owed(w: Service, number: int) -> int:
    """Return how many events each reader of a group's place still needs."""
    place = line(w)[number]
    return announced_to(w)[_FIRST_GROUP - place.who] - place.announced + 1


@inner
def _kept_back(w: Service, owed: int) -> int:
    """Return how many of `owed` events, topic by topic, belong to topics beyond the frame's limit."""
    if w.topics <= w.drained_topics:
        return 0
    return owed - owed // w.topics * w.drained_topics - min(owed % w.topics, w.drained_topics)


@inner
def _frames(w: Service, number: int) -> float:
    """Return how many frames of a place are left; readers that have left get none."""
    place = line(w)[number]
    if place.who == _HEARTBEATS:
        return place.frames
    return place.frames * min(1.0, readers(w)[_FIRST_GROUP - place.who] / place.readers)


@inner
def _at_once(w: Service, number: int) -> float:
    """Return the frames of a place that are one turn. Readers that need more events queue again after their frame."""
    frames = _frames(w, number)
    if line(w)[number].who == _HEARTBEATS or _kept_back(w, _owed(w, number)) == 0:
        return frames
    return min(frames, max(_TURN_S / _cost_s(w, number), 1.0))


@inner
def _hand_out(w: Service, number: int, done: float) -> None:
    """Send `done` of a place's frames, and update what is left of it."""
    frames, place = _frames(w, number), line(w)[number]
    start = w.free_at
    w.free_at += done * _cost_s(w, number)
    between(w, _DELIVERY, _BUSY, start, w.free_at, 1.0)
    between(w, _DELIVERY, _WAIT, place.since, (start + w.free_at) / 2, done)
    if place.who != _HEARTBEATS:
        group = _FIRST_GROUP - place.who
        waiting = queued(w)[group] - done  # readers that left are no longer in it
        queued(w)[group] = waiting if waiting > _NOBODY else 0.0
        place.readers = max(readers(w)[group], 1)
        rest = _kept_back(w, _owed(w, number))
        if rest > 0:
            _wait_again(w, whole(group), done, rest)
    place.frames = frames - done


@inner
def _wait_again(w: Service, group: int, frames: float, owed: int) -> None:
    """Put a group's readers that need more events at the back of the queue."""
    announced, last = announced_to(w)[group] + 1 - owed, (w.line_tail - 1) & (len(line(w)) - 1)
    queued(w)[group] += frames
    if w.line_tail - w.line_head > 1 and line(w)[last].who == _FIRST_GROUP - group and line(w)[last].announced == announced:
        line(w)[last].frames += frames  # the readers in the last place need the same events
        return
    place = line(w)[_line_up(w, _FIRST_GROUP - group, frames, w.free_at)]
    place.readers, place.announced = max(readers(w)[group], 1), announced


@inner
def next_turn(w: Service) -> float:
    """Return when the first place is a client's turn, or is done. The queue must not be empty."""
    number = w.line_head & (len(line(w)) - 1)
    if line(w)[number].who >= 0:
        return w.free_at
    return w.free_at + _at_once(w, number) * _cost_s(w, number)


@inner
def take_turn(w: Service) -> int:
    """Take the turn at `free_at`; return its client, or a negative number if none or if the client no longer waits."""
    number = w.line_head & (len(line(w)) - 1)
    place = line(w)[number]
    if w.free_at - place.since > w.max_behind_s:
        w.overloaded_at = min(w.overloaded_at, w.free_at)
    if place.who < 0:
        done, frames = _at_once(w, number), _frames(w, number)
        _hand_out(w, number, done)
        if place.who != _HEARTBEATS:
            w.delivered_at = w.free_at
        if done < frames:
            return -1
    w.line_head += 1
    who = whole(place.who)
    if who >= 0:
        between(w, _DELIVERY, _WAIT, place.since, w.free_at, 1.0)
    if who >= 0 and (more(w)[who].ticket != place.ticket or clients(w)[who].event < world.IN_LINE):
        return -1
    return who


@inner
def _work_on(w: Service, at: float) -> None:
    """Send the frames of the first place that are done by `at`, before the rest of it changes."""
    if w.line_head == w.line_tail or w.free_at >= at:
        return
    number = w.line_head & (len(line(w)) - 1)
    cost_s = 0.0 if line(w)[number].who >= 0 else _cost_s(w, number)
    if cost_s > 0:
        _hand_out(w, number, min(_frames(w, number), (at - w.free_at) / cost_s))


@inner
def announce(w: Service, stream: int, at: float) -> None:
    """Announce an event to all readers of its stream."""
    _work_on(w, at)
    if stream == w.run_streams:  # all clients read the stream that is not a run's
        for group in range(len(readers(w))):
            _deliver(w, group, at)
        return
    for topic in range(w.topics - w.worker_events):
        _deliver(w, (stream - topic) % w.run_streams, at)


@inner
def _deliver(w: Service, group: int, at: float) -> None:
    announced_to(w)[group] += 1
    new = readers(w)[group] - queued(w)[group]
    if new < 0.5:
        return
    place = line(w)[_line_up(w, _FIRST_GROUP - group, new, at)]
    place.readers, place.announced = readers(w)[group], announced_to(w)[group]
    queued(w)[group] += new


@inner
def leave_group(w: Service, group: int) -> None:
    """Remove one reader from a group, whether it is queued or not."""
    n = readers(w)[group]
    readers(w)[group] = n - 1
    queued(w)[group] *= (n - 1) / n


@inner
def behind_s(w: Service, group: int, at: float) -> float:
    """Return how long, on average, a reader is behind the announcements, in seconds."""
    if w.line_head == w.line_tail or readers(w)[group] <= 0:
        return 0.0
    share = min(queued(w)[group] / readers(w)[group], 1.0)
    return share * max(at - line(w)[w.line_head & (len(line(w)) - 1)].since, 0.0)


@inner
def tend(w: Service) -> None:
    """Process the next announcement, or the heartbeats of the next time step."""
    if w.next_pub <= w.next_beat:
        announce(w, order_stream(w)[w.announced], w.next_pub)
        w.announced += 1
        w.next_pub = order(w)[w.announced] if w.announced < w.planned else math.inf
        return
    place = int(w.next_beat / w.beat_s + 0.5) % len(beats(w))
    # The service's own heartbeat, and its answer to the client's. A queued client gets them at its turn, and queues again for
    # the frame that it waited for, so the queue does not grow.
    frames = 2.0 * beats(w)[place] * (1.0 - min(queued(w).sum() / max(readers(w).sum(), 1), 1.0))
    if frames > 0 and w.batch_s > 0:
        _line_up(w, _HEARTBEATS, frames, w.next_beat)
    w.next_beat += w.beat_s
