"""Which log each observation is about where a stream's positions started over: for the second judge, plain and slow.

In one log, positions rise in real time. So an event cannot be in a log that has a higher position which was acknowledged before
the event was sent, nor a lower one which was sent after the event was acknowledged, nor its own position. Where clients learned
epochs, an event is in the log whose epoch most of them knew when they applied it, unless it cannot be there.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.analysis.plain_judge import Event, Seen

STARTING = ("rebootstrapped", "clamped", "declared_loss")
NAMING = ("duplicate_dropped", "gap", "hash_mismatch", "altered", "applied")
OF_PUBLISHER = ("published", "publish_tried", "publish_failed", "read_back")
Key = tuple[str, int]  # stream and marker


def name_of(stream: str, log: int) -> str:
    """A stream's name in its n-th log, from 0."""
    return stream if log == 0 else f"{stream} (log {log + 1})"


def base(name: str) -> str:
    """The stream of a log."""
    return name.partition(" (log ")[0]


def is_later(name: str, other: str) -> bool:
    """Whether a log is later than another one of the same stream."""
    return _number(name) > _number(other)


def is_newest(name: str, names: Iterable[str]) -> bool:
    """Whether no later log of its stream is among these names."""
    return not any(base(other) == base(name) and is_later(other, name) for other in names)


def _number(name: str) -> int:
    return int(name.partition(" (log ")[2].rstrip(")") or 1)


def logs_of(events: Mapping[Key, "Event"], rows: Sequence["Seen"], positions: str, auditor: int) -> dict[str, dict[int, int]]:
    """The log of each acknowledged event by its number, for each stream whose positions started over."""
    found = {}
    for stream in {stream for stream, _ in events}:
        own = {number: event for (name, number), event in events.items() if name == stream}
        applied = [row for row in rows if row.kind == "applied" and row.stream == stream]
        is_stated = positions != "opaque" and any(event.seq >= 0 for event in own.values())
        recreated = _recreated(rows)
        epochs = {} if positions == "opaque" else _epochs([row for row in rows if row.stream == stream], own)
        if is_stated:
            log = _by_positions({number: event.seq for number, event in own.items()}, own, positions == "dense", epochs)
        elif recreated:
            log = _by_times(own, recreated, {row.marker for row in applied if row.client == auditor})
        elif positions != "opaque" and (epochs or any(row.kind == "clamped" and row.stream == stream for row in rows)):
            log = _by_positions(_most_seen(applied), own, True, epochs)
        else:
            continue
        if len(set(log.values())) > 1:
            found[stream] = log
    return found


def _recreated(rows: Sequence["Seen"]) -> list[tuple[float, float]]:
    """When faults deleted all logs and created them again."""
    begun = [row.t for row in rows if row.kind == "fault_injected" and row.detail == "recreate_log"]
    ended = [row.t for row in rows if row.kind == "fault_reverted" and row.detail == "recreate_log"]
    return list(zip(begun, ended + [math.inf] * len(begun), strict=False))


def _by_times(own: Mapping[int, "Event"], recreated: list[tuple[float, float]], retained: set[int]) -> dict[int, int]:
    """By the times of the faults: what a new client found is in the newest log."""
    if not retained or any(own[n].acknowledged_t < max(recreated)[0] for n in retained if n in own):
        return {}
    return {
        number: len(recreated) if number in retained else sum(end_t <= event.sent_t for _, end_t in recreated)
        for number, event in own.items()
    }


def _most_seen(applied: Sequence["Seen"]) -> dict[int, int]:
    """The position at which most clients applied each event."""
    seen: dict[int, Counter[int]] = {}
    for row in applied:
        if row.seq >= 0 and row.marker >= 0:
            seen.setdefault(row.marker, Counter())[row.seq] += 1
    return {number: max(sorted(counts), key=lambda seq: (counts[seq], seq)) for number, counts in seen.items()}


def _epochs(rows: Sequence["Seen"], own: Mapping[int, "Event"]) -> dict[int, int]:
    """The age of the epoch that most clients knew when they applied an event; the older one of two."""
    ages: dict[str, int] = {}
    knows: dict[int, int] = {}
    votes: dict[int, Counter[int]] = {}
    for row in rows:
        if row.kind == "epoch_learned":
            knows[row.client] = ages.setdefault(row.detail, len(ages))
        elif row.kind == "applied" and row.marker >= 0 and row.client in knows:
            event = own.get(row.marker)
            if event is None or event.seq in (-1, row.seq):
                votes.setdefault(row.marker, Counter())[knows[row.client]] += 1
    found = {number: max(sorted(of), key=lambda age: (of[age], -age)) for number, of in votes.items()}
    with_events = sorted({*found.values()})
    return {number: with_events.index(age) for number, age in found.items()} if len(ages) > 1 else {}


def _by_positions(
    seq_of: Mapping[int, int], events: Mapping[int, "Event"], are_dense: bool, epochs: Mapping[int, int]
) -> dict[int, int]:
    """By lower positions of events that were sent later; where they are dense, one position must also have two events.

    Two epochs that have events at one position show it, too.
    """
    own = {
        number: _Placed(seq, events[number].sent_t, events[number].acknowledged_t)
        for number, seq in seq_of.items()
        if number in events and seq >= 0
    }
    order = sorted(own.values(), key=lambda each: each.acknowledged_t)
    is_lower = any(e.acknowledged_t < o.sent_t and e.seq > o.seq for e in order for o in order)
    known = {number: epochs[number] for number in own if number in epochs}
    is_shared = any(own[n].seq == own[m].seq and known[n] != known[m] for n in known for m in known)
    if not is_shared and (not is_lower or (are_dense and len({each.seq for each in order}) == len(order))):
        return {}
    found = _separate(own, epochs)
    for number in sorted(events.keys() - own.keys()):
        found[number] = _of_number({n: found[n] for n in own if n < number} or {0: 0}, number)
    names = sorted({*found.values()})
    if len(names) > 1:
        found |= {number: log for number, log in epochs.items() if number not in events and log in names}
    return {number: names.index(log) for number, log in found.items()}


class _Placed(NamedTuple):
    seq: int
    sent_t: float
    acknowledged_t: float


def _separate(own: Mapping[int, _Placed], epochs: Mapping[int, int]) -> dict[int, int]:
    """The log of each event, in the order of acknowledgements; an event of the log before may be acknowledged late."""
    logs: list[list[_Placed]] = [[]]
    found = {}
    for number, event in sorted(own.items(), key=lambda each: each[1].acknowledged_t):
        logs += [[] for _ in range(len(logs), epochs.get(number, -1) + 1)]
        last = len(logs) - 1
        fitting = [n for n in (epochs.get(number, last), last, last - 1) if n >= 0 and _fits(event, logs[n])]
        if not fitting:
            logs.append([])
            fitting = [len(logs) - 1]
        found[number] = fitting[0]
        logs[fitting[0]].append(event)
    return found


def _fits(event: _Placed, log: Sequence[_Placed]) -> bool:
    return not any(
        other.seq == event.seq
        or (other.acknowledged_t < event.sent_t and other.seq > event.seq)
        or (other.sent_t > event.acknowledged_t and other.seq < event.seq)
        for other in log
    )


def placed(rows: Sequence["Seen"], events: Mapping[Key, "Event"], logs: Mapping[str, Mapping[int, int]]) -> list["Seen"]:
    """The rows with the names of the logs that they are about."""
    found = []
    of_client: dict[tuple[int, str], list[int]] = {}
    log_of: dict[int, int] = {}
    for n, row in enumerate(rows):
        if row.stream not in logs:
            continue
        if row.client >= 0:
            of_client.setdefault((row.client, row.stream), []).append(n)
        elif row.kind in OF_PUBLISHER and row.marker >= 0:
            log_of[n] = _of_number(logs[row.stream], row.marker)
    for (_, stream), own in of_client.items():
        log_of |= _along(rows, own, events, logs[stream])
    for n, row in enumerate(rows):
        found.append(row._replace(stream=name_of(row.stream, log_of[n])) if n in log_of else row)
    return found


def _of_number(log: Mapping[int, int], number: int) -> int:
    """The log of an event; that of the event before it by number, if it is not known."""
    if number in log:
        return log[number]
    before = [known for known in log if known <= number]
    return log[max(before)] if before else log[min(log)]


def _along(rows: Sequence["Seen"], own: Sequence[int], events: Mapping[Key, "Event"], log: Mapping[int, int]) -> dict[int, int]:
    """The log of each row of one client: that of its event, or that in which the client is."""
    sure = {}
    for n in own:
        row = rows[n]
        event = events.get((row.stream, row.marker))
        if row.kind in NAMING and row.marker >= 0 and (event is None or row.seq in (-1, event.seq) or event.seq < 0):
            sure[n] = _of_number(log, row.marker)
    found, current = dict(sure), 0
    for place, n in enumerate(own):
        row = rows[n]
        if n in sure:
            current = sure[n]
        elif row.kind in STARTING or place == 0:
            after = next((sure[later] for later in own[place:] if later in sure), None)
            current = _existing(row, events, log) if after is None else min(after, _possible(row, events, log))
        found[n] = current
    return found


def _possible(row: "Seen", events: Mapping[Key, "Event"], log: Mapping[int, int]) -> int:
    """The newest log that may have existed: all events of the logs before had been sent."""
    newest = max(log.values())
    own = {events[row.stream, number].sent_t: of for number, of in log.items() if (row.stream, number) in events}
    sent_t = {n: max((t for t, of in own.items() if of < n), default=-math.inf) for n in range(1, newest + 1)}
    return max((n for n in range(1, newest + 1) if sent_t[n] <= row.t), default=0)


def _existing(row: "Seen", events: Mapping[Key, "Event"], log: Mapping[int, int]) -> int:
    """The newest log that existed for certain: one of its events had been acknowledged."""
    own = {number: of for number, of in log.items() if (row.stream, number) in events}
    return max((of for number, of in own.items() if events[row.stream, number].acknowledged_t <= row.t), default=0)
