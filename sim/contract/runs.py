"""What a whole frame does to a client that has exactly what came before it: the same for all such clients.

A simulated runtime hands one frame to thousands of clients by reference. What it does to one of them, applied event by
event, is worked out once, and the others take it whole (`Replica.take_run`). A client that lacks something, has more, or
is in the middle of a replay goes through the frame event by event, as every client on a wire does.
"""

from collections.abc import Callable
from typing import NamedTuple

from sim.contract.frames import Update, UpdateBatch
from sim.contract.notices import Notice, short_hash
from sim.contract.streams import stream_id


class Run(NamedTuple):
    """Events `after + 1` to `last` of one topic, in order and intact; `head` is the topic's, as the frame has it."""

    topic: str
    after: int
    last: int
    head: int
    notices: tuple[Notice, ...]


def run_of(batch: UpdateBatch, is_intact: Callable[[Update], bool]) -> Run | None:
    """The run that a frame is, or None: several topics, holes, another order, wrong hashes, or a head that cannot be."""
    updates, marks = batch.updates, batch.head_watermarks
    if not updates or len(marks) != 1:
        return None
    topic, first, head = updates[0].topic, updates[0].watermark, marks[0].watermark
    in_order = all(update.topic == topic and update.watermark == first + place for place, update in enumerate(updates))
    last = first + len(updates) - 1
    if not in_order or marks[0].topic != topic or head < last or not all(map(is_intact, updates)):
        return None
    stream = stream_id(topic)
    applied = [Notice("applied", stream, update.watermark, detail=short_hash(update.payload_hash)) for update in updates]
    received = Notice("received", value=float(len(updates)))
    return Run(topic, first - 1, last, head, (received, *applied, Notice("checkpoint_written", stream, last)))


def no_run(batch: UpdateBatch) -> Run | None:
    """For clients of which each is handed frames of its own."""
    return None
