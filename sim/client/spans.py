"""Spans: consecutive events, the same for all clients that have all earlier ones."""

from collections.abc import Mapping
from typing import NamedTuple

from sim.client.cursor import Cursor
from sim.protocols.events import Batch, Hash, Head, Item, Message


class Span(NamedTuple):
    """Events `after + 1` to `last` of one topic's log; `head` is the topic's head in the message, -1 if it is not stated."""

    topic: str
    after: int
    last: int
    head: int
    epoch: str | None = None


def spans_of(message: Message) -> tuple[Span, ...] | None:
    """Return a message's spans if it has only intact, consecutive events with a head for each topic or for none; else None."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    epochs: dict[str, str | None] = {}
    marks = [event for event in message if isinstance(event, Head)]
    for batch in [event for event in message if isinstance(event, Batch)]:
        if batch.after is not None or batch.session is not None or batch.is_after_gap:
            return None
        for item in batch.items:
            seq = _next_seq(item, last.get(batch.stream), epochs.get(batch.stream))
            if seq is None:
                return None
            first.setdefault(batch.stream, seq)
            last[batch.stream], epochs[batch.stream] = seq, item.position.epoch if item.position else None
    heads = {mark.stream: mark.position.offset for mark in marks if isinstance(mark.position.offset, int)}
    if not last or (marks and len(marks) != len(last)) or any(marks and heads.get(topic, -1) < last[topic] for topic in last):
        return None
    return tuple(Span(topic, first[topic] - 1, last[topic], heads.get(topic, -1), epochs[topic]) for topic in last)


def _next_seq(item: Item, last: int | None, epoch: str | None) -> int | None:
    """Return an item's number if it is intact, and the one after `last` in the log of this epoch (None: its stream's first)."""
    position = item.position
    if position is None or not isinstance(position.offset, int) or item.check is Hash.BAD:
        return None
    return position.offset if last is None or (position.offset == last + 1 and position.epoch == epoch) else None


def take_spans(cursors: Mapping[str, Cursor], spans: tuple[Span, ...], replaying: bool) -> bool:
    """Apply all spans at once, where clients have all events before them; otherwise return False and change nothing."""
    for topic, after, last, _, epoch in spans:
        cursor = cursors.get(topic)
        if cursor is None or cursor.checkpoint == last or (cursor.watermark != after and not cursor.may_skip_to(after)):
            return False
        if cursor.epoch != epoch or not cursor.takes_spans:
            return False
        if replaying and after < (cursor.asked_from or 0):
            return False
    if replaying:
        for topic, after, last, _, _ in spans:
            cursors[topic].replayed += last - after
            cursors[topic].replayed_new += last - after
    for topic, _, last, head, _ in spans:
        cursor = cursors[topic]
        cursor.watermark = cursor.checkpoint = last
        if head >= 0:
            cursor.head = head
        if cursor.seen < last:
            cursor.seen = last
    return True


def go_on(spans: tuple[Span, ...], places: dict[str, int]) -> bool:
    """Whether spans continue at these places by topic; if so, the places move to their ends."""
    if len(spans) == 1:
        topic, after, last, _, _ = spans[0]
        if places.get(topic) != after:
            return False
        places[topic] = last
        return True
    for topic, after, _, _, _ in spans:
        if places.get(topic) != after:
            return False
    for topic, _, last, _, _ in spans:
        places[topic] = last
    return True
