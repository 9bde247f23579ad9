"""What a whole frame does to a client that has exactly what came before it: the same for all such clients.

A simulated runtime hands one frame to thousands of clients by reference. What it does to one of them, applied event by
event, is worked out once, and the others take it whole (`Replica.take_run`). A client that lacks something, has more, or
is in the middle of a replay goes through the frame event by event, as every client on a wire does.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sim.client.notices import Notice, short_hash
from sim.protocols.spacetime.frames import Update, UpdateBatch
from sim.protocols.spacetime.streams import stream_id


class Span(NamedTuple):
    """Events `after + 1` to `last` of one topic; `head` is the topic's, as the frame has it."""

    topic: str
    after: int
    last: int
    head: int


class Run(NamedTuple):
    """A frame that holds nothing but spans, in order and intact, and what a client notices of it."""

    spans: tuple[Span, ...]
    notices: tuple[Notice, ...]


def run_of(batch: UpdateBatch, is_intact: Callable[[Update], bool]) -> Run | None:
    """The run that a frame is, or None: holes, another order, wrong hashes, or heads that cannot be."""
    heads = {mark.topic: mark.watermark for mark in batch.head_watermarks}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for update in batch.updates:
        topic, seq = update.topic, update.watermark
        if seq != last.get(topic, seq - 1) + 1 or not is_intact(update):
            return None
        first.setdefault(topic, seq)
        last[topic] = seq
    if not last or len(batch.head_watermarks) != len(last) or any(heads.get(topic, -1) < last[topic] for topic in last):
        return None
    spans = tuple(Span(topic, first[topic] - 1, last[topic], heads[topic]) for topic in last)
    return Run(spans, (Notice("received", value=float(len(batch.updates))), *_notices(batch, spans)))


def _notices(batch: UpdateBatch, spans: tuple[Span, ...]) -> Iterator[Notice]:
    for update in batch.updates:
        yield Notice("applied", stream_id(update.topic), update.watermark, detail=short_hash(update.payload_hash))
    for span in spans:
        yield Notice("checkpoint_written", stream_id(span.topic), span.last)


def no_run(batch: UpdateBatch) -> Run | None:
    """For clients of which each is handed frames of its own."""
    return None
