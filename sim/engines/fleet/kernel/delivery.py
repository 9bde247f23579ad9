"""The delivery worker and its queue, compiled: one frame a turn; a client that is owed another goes to the back.

Frames of the live tail are no events. All readers of the same streams are a group. An event that is announced to a group queues
those of its readers that are not queued yet, as one place; the others get it in the frame that they wait for. A frame takes a
few topics: a client that is owed more goes to the back of the queue with the rest, as in the virtual engine.
"""

import math

from sim.engines.fleet.kernel import world
from sim.engines.fleet.kernel.arrays import announced_to, beats, clients, line, more, order, order_stream, queued, readers
from sim.engines.fleet.kernel.compilation import inner
from sim.engines.fleet.kernel.world import Service, whole

_NOBODY = 1e-6  # readers: what is left of sums of fractions
_TURN_S = 0.001  # as the virtual service's `WORK_QUANTUM_S`
_HEARTBEATS, _FIRST_GROUP = world.HEARTBEATS, world.FIRST_GROUP


@inner
def _line_up(w: Service, who: int, frames: float, at: float) -> int:
    """To the back; returns the place."""
    size = len(line(w))
    if w.line_tail - w.line_head >= size:  # beyond any sense: the oldest place is given up
        w.line_head += 1
        w.overloaded_at = min(w.overloaded_at, at)
    if w.line_head == w.line_tail:
        w.free_at = max(w.free_at, at)
        w.line_head = w.line_tail = 0  # a short line stays in the processor's cache
    number = w.line_tail & (size - 1)
    w.line_tail += 1
    place = line(w)[number]
    place.who, place.frames, place.since, place.ticket = who, frames, at, 0
    return number


@inner
def stand_in_line(w: Service, i: int, what: int, at: float) -> None:
    """A client is to get a frame."""
    number = _line_up(w, i, 1.0, at)
    clients(w)[i].event = what
    more(w)[i].ticket += 1
    line(w)[number].ticket = more(w)[i].ticket


@inner
def one_more(w: Service, at: float) -> None:
    """A frame that nobody waits for."""
    _line_up(w, _HEARTBEATS, 1.0, at)


@inner
def _cost_s(w: Service, number: int) -> float:
    """For each of those whose place it is, if it is no client's."""
    place = line(w)[number]
    if place.who == _HEARTBEATS:
        return w.batch_s
    owed = _owed(w, number)
    return w.batch_s + (owed - _kept_back(w, owed)) * w.event_s


@inner
def _owed(w: Service, number: int) -> int:
    """Events, to each reader of the group whose place it is."""
    place = line(w)[number]
    return announced_to(w)[_FIRST_GROUP - place.who] - place.announced + 1


@inner
def _kept_back(w: Service, owed: int) -> int:
    """Of a number of events, topic after topic, those of topics that a frame has no room for."""
    if w.topics <= w.drained_topics:
        return 0
    return owed - owed // w.topics * w.drained_topics - min(owed % w.topics, w.drained_topics)


@inner
def _frames(w: Service, number: int) -> float:
    """That are left of it: readers who have gone meanwhile get none."""
    place = line(w)[number]
    if place.who == _HEARTBEATS:
        return place.frames
    return place.frames * min(1.0, readers(w)[_FIRST_GROUP - place.who] / place.readers)


@inner
def _at_once(w: Service, number: int) -> float:
    """Frames of it that are one turn: readers that queue again for the rest do so when they have their frame."""
    frames = _frames(w, number)
    if line(w)[number].who == _HEARTBEATS or _kept_back(w, _owed(w, number)) == 0:
        return frames
    return min(frames, max(_TURN_S / _cost_s(w, number), 1.0))


@inner
def _hand_out(w: Service, number: int, done: float) -> None:
    """Send a number of the place's frames; what is left of it changes."""
    frames, place = _frames(w, number), line(w)[number]
    w.free_at += done * _cost_s(w, number)
    if place.who != _HEARTBEATS:
        group = _FIRST_GROUP - place.who
        waiting = queued(w)[group] - done  # whoever left is no more among them
        queued(w)[group] = waiting if waiting > _NOBODY else 0.0
        place.readers = max(readers(w)[group], 1)
        rest = _kept_back(w, _owed(w, number))
        if rest > 0:
            _wait_again(w, whole(group), done, rest)
    place.frames = frames - done


@inner
def _wait_again(w: Service, group: int, frames: float, owed: int) -> None:
    """Put a group's readers that are owed more events at the back of the queue."""
    announced, last = announced_to(w)[group] + 1 - owed, (w.line_tail - 1) & (len(line(w)) - 1)
    queued(w)[group] += frames
    if w.line_tail - w.line_head > 1 and line(w)[last].who == _FIRST_GROUP - group and line(w)[last].announced == announced:
        line(w)[last].frames += frames  # those before them are owed the same
        return
    place = line(w)[_line_up(w, _FIRST_GROUP - group, frames, w.free_at)]
    place.readers, place.announced = max(readers(w)[group], 1), announced


@inner
def next_turn(w: Service) -> float:
    """When the first place, which there must be, is a client's turn, or is done."""
    number = w.line_head & (len(line(w)) - 1)
    if line(w)[number].who >= 0:
        return w.free_at
    return w.free_at + _at_once(w, number) * _cost_s(w, number)


@inner
def take_turn(w: Service) -> int:
    """Whose turn it is at `free_at`, or a negative number: it was no client's, or one's that waits no more."""
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
    if who >= 0 and (more(w)[who].ticket != place.ticket or clients(w)[who].event < world.IN_LINE):
        return -1
    return who


@inner
def _work_on(w: Service, at: float) -> None:
    """What of the first place is done by then, before what is left of it changes."""
    if w.line_head == w.line_tail or w.free_at >= at:
        return
    number = w.line_head & (len(line(w)) - 1)
    cost_s = 0.0 if line(w)[number].who >= 0 else _cost_s(w, number)
    if cost_s > 0:
        _hand_out(w, number, min(_frames(w, number), (at - w.free_at) / cost_s))


@inner
def announce(w: Service, stream: int, at: float) -> None:
    """An event goes to all readers of its stream."""
    _work_on(w, at)
    if stream == w.run_streams:  # everyone reads the stream that is not a run's
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
    """One reader less, in the line or not."""
    n = readers(w)[group]
    readers(w)[group] = n - 1
    queued(w)[group] *= (n - 1) / n


@inner
def behind_s(w: Service, group: int, at: float) -> float:
    """By how much of a while, on average, a reader has not got what was announced."""
    if w.line_head == w.line_tail or readers(w)[group] <= 0:
        return 0.0
    share = min(queued(w)[group] / readers(w)[group], 1.0)
    return share * max(at - line(w)[w.line_head & (len(line(w)) - 1)].since, 0.0)


@inner
def tend(w: Service) -> None:
    """The next announcement, or the heartbeats of the next stretch of time."""
    if w.next_pub <= w.next_beat:
        announce(w, order_stream(w)[w.announced], w.next_pub)
        w.announced += 1
        w.next_pub = order(w)[w.announced] if w.announced < w.planned else math.inf
        return
    place = int(w.next_beat / w.beat_s + 0.5) % len(beats(w))
    # The service's own, and its answer to the client's. A client in the queue gets it at its turn, and queues again for what
    # it was there for: that makes the line no longer.
    frames = 2.0 * beats(w)[place] * (1.0 - min(queued(w).sum() / max(readers(w).sum(), 1), 1.0))
    if frames > 0 and w.batch_s > 0:
        _line_up(w, _HEARTBEATS, frames, w.next_beat)
    w.next_beat += w.beat_s
