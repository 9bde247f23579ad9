"""What a session reports of itself, and what a whole message makes many sessions report alike."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from sim.client.cursor import Span, spans_of
from sim.protocols.events import Batch, Message

HASH_DIGITS = 12  # of a payload's hash, kept in observations


class Notice(NamedTuple):
    """Something that happened, with the fields of an observation (see `sim.record.observations`)."""

    kind: str
    stream: str = ""
    seq: int = -1
    attempt: int = 0
    value: float = math.nan
    detail: str = ""


# What `Notice(...)` does, without a Python function's call: every applied event makes some.
_as_notice: Callable[[tuple[str, str, int, int, float, str]], Notice] = partial(tuple.__new__, Notice)


class Notes:
    """What happened to one client, until it is taken."""

    __slots__ = ("_own", "_shared")

    def __init__(self) -> None:
        self._own: list[Notice] = []
        self._shared: tuple[Notice, ...] = ()  # what happened before `_own`: shared with other clients

    def add(
        self, kind: str, stream: str = "", seq: int = -1, attempt: int = 0, value: float = math.nan, detail: str = ""
    ) -> None:
        """Note one thing."""
        self._own.append(_as_notice((kind, stream, seq, attempt, value, detail)))

    def add_shared(self, notices: tuple[Notice, ...]) -> None:
        """Notices that many clients share stay one object, unless there is more to say."""
        if self._shared or self._own:
            notices, self._own = (), [*self._shared, *self._own, *notices]
        self._shared = notices

    def take(self) -> Sequence[Notice]:
        """All of them, each once; a tuple is one and the same object for many clients."""
        shared, self._shared = self._shared, ()
        if shared and not self._own:
            return shared
        out, self._own = self._own, []
        return [*shared, *out]


def short_hash(payload_hash: str) -> str:
    """The first digits of a payload hash, enough to distinguish two payloads of one event."""
    return payload_hash[7 : 7 + HASH_DIGITS]


class Run(NamedTuple):
    """A message that holds nothing but spans, and what a client that has all before them notices of it.

    A simulated runtime hands one message to thousands of clients by reference. What it does to one of them is worked out
    once, and the others take it whole. A client that lacks something, or has more, goes through it event by event.
    """

    spans: tuple[Span, ...]
    notices: tuple[Notice, ...]


def run_of(message: Message, stream_id: Callable[[str], str]) -> Run | None:
    """The run that a message is; None for any other. `stream_id` names a topic in notices."""
    spans = spans_of(message)
    if spans is None:
        return None
    batches = [event for event in message if isinstance(event, Batch)]
    notices = [Notice("received", value=float(sum(len(batch.items) for batch in batches)))]
    for batch in batches:
        stream = stream_id(batch.stream)
        for item in batch.items:
            assert item.position is not None
            notices.append(Notice("applied", stream, int(item.position.offset), detail=short_hash(item.payload_hash)))
    notices += [Notice("checkpoint_written", stream_id(span.topic), span.last) for span in spans]
    return Run(spans, tuple(notices))


def no_run(message: Message) -> Run | None:
    """For clients of which each is handed messages of its own."""
    return None
