"""Notices: what a session reports about itself, and what many sessions report alike after the same message."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from sim.client.marks import MarkRange, mark_range
from sim.client.spans import Span, spans_of
from sim.protocols.events import Batch, CaughtUp, Closed, EndedBy, Head, Message, Next, Refused
from sim.protocols.markers import MarkerReader
from sim.protocols.payloads import digits_of
from sim.protocols.shared_decoding import BoundedCache

_DELIVERY = frozenset({Batch, Head, CaughtUp})
NO_CODE, TIMEOUT = "no_code", "timeout"  # the server refused something and did not say why; it did not answer in time
_SILENT = frozenset({"network", "refused", TIMEOUT})  # codes of a failed connect for which no server answered
_MAX_CODE_CHARS = 80
HASH_DIGITS = 12  # of a payload's hash, in observations


class Notice(NamedTuple):
    """Something that happened, with the fields of an observation (see `sim.record.observations`)."""

    kind: str
    stream: str = ""
    seq: int = -1
    attempt: int = 0
    value: float = math.nan
    detail: str = ""
    marker: int = -1


# `Notice(...)` without the cost of a Python call, because every applied event makes notices.
_as_notice: Callable[[tuple[str, str, int, int, float, str, int]], Notice] = partial(tuple.__new__, Notice)


class Notes:
    """The notices of one client, until they are taken."""

    __slots__ = ("_own", "_shared")

    def __init__(self) -> None:
        self._own: list[Notice] = []
        self._shared: tuple[Notice, ...] = ()  # earlier than `_own`; shared with other clients

    def add(
        self,
        kind: str,
        stream: str = "",
        seq: int = -1,
        attempt: int = 0,
        value: float = math.nan,
        detail: str = "",
        marker: int = -1,
    ) -> None:
        """Add one notice."""
        self._own.append(_as_notice((kind, stream, seq, attempt, value, detail, marker)))

    def add_shared(self, notices: tuple[Notice, ...]) -> None:
        """Add notices that many clients share; they stay one object if there are no others."""
        if self._shared or self._own:
            notices, self._own = (), [*self._shared, *self._own, *notices]
        self._shared = notices

    def take(self) -> Sequence[Notice]:
        """Return all notices, each once; many clients may share one tuple."""
        shared, self._shared = self._shared, ()
        if shared and not self._own:
            return shared
        out, self._own = self._own, []
        return [*shared, *out]


def ending(by: EndedBy, code: int | str, hint: Next, stream: str = "", status: int | None = None) -> Notice:
    """Return the notice of an end: its number is the close code or the HTTP status, its value the hint in ms."""
    number = code if isinstance(code, int) else status or 0
    value = math.nan if hint.wait_ms is None else hint.wait_ms
    text = f"{by}:{str(code)[:_MAX_CODE_CHARS]}:{hint.step}"
    return Notice("ended", stream, attempt=number, value=value, detail=text)


def of_closed(event: Closed, by_fault: bool) -> Notice:
    """Return the notice of a connection that the client did not close."""
    said = EndedBy.NETWORK if event.code is None else EndedBy.SERVER
    code = event.reason if event.code is None else event.code
    return ending(EndedBy.FAULT if by_fault else said, code, event.next)


def of_refused(event: Refused, by_fault: bool) -> Notice:
    """Return the notice of a connect that failed."""
    said = EndedBy.NETWORK if event.status is None and event.code in _SILENT else EndedBy.SERVER
    return ending(EndedBy.FAULT if by_fault else said, event.code, event.next, status=event.status)


def short_hash(payload_hash: str) -> str:
    """Return the first digits of a payload hash, enough to distinguish two payloads of one event; empty in an unknown form."""
    return digits_of(payload_hash)[:HASH_DIGITS]


class Run(NamedTuple):
    """A message that consists of spans, and the notices of a client that has all earlier events.

    A simulated runtime passes one message to thousands of clients by reference. Its effect is computed once, and all these
    clients apply it as a whole. A client with fewer or more events processes it event by event.
    """

    spans: tuple[Span, ...]
    notices: tuple[Notice, ...]
    marks: tuple[MarkRange, ...] = ()


def run_of(message: Message, stream_id: Callable[[str], str], markers: MarkerReader) -> Run | None:
    """Return a message as a run; None if it is not one. `stream_id` names a topic in notices."""
    spans = spans_of(message)
    if spans is None or not _DELIVERY.issuperset(map(type, message)):
        return None
    batches = [event for event in message if isinstance(event, Batch)]
    notices = [Notice("received", value=float(sum(len(batch.items) for batch in batches)))]
    numbers: dict[str, list[int]] = {}
    for batch in batches:
        stream = stream_id(batch.stream)
        for item in batch.items:
            assert item.position is not None
            seq, (marker, problem) = int(item.position.offset), markers.read(item.payload, stream)
            notices.append(Notice("applied", stream, seq, detail=short_hash(item.payload_hash), marker=marker))
            numbers.setdefault(batch.stream, []).append(marker)
            if problem:
                notices.append(Notice("altered", stream, seq, detail=problem, marker=marker))
    notices += [Notice("checkpoint_written", stream_id(span.topic), span.last) for span in spans]
    return Run(spans, tuple(notices), tuple(found for each in numbers.items() if (found := mark_range(*each))))


class KnownRuns(BoundedCache[int, tuple[Message, Run | None]]):
    """Cache of the run in each message, which is computed once per message object.

    The key is the object's `id`. The cache holds the object, so that no other object can have the same `id`.
    """

    def __init__(self, stream_id: Callable[[str], str], markers: MarkerReader) -> None:
        super().__init__()
        self._stream_id = stream_id
        self._markers = markers

    def __call__(self, message: Message) -> Run | None:
        """See `run_of`."""
        key = id(message)
        if (known := self._young.get(key) or self._old.get(key)) is None:  # `get` without a call: most messages come here
            known = message, run_of(message, self._stream_id, self._markers)
            batches = [event for event in message if isinstance(event, Batch)]
            self.put(key, known, sum(len(bytes(item.payload)) for batch in batches for item in batch.items))
        return known[1]


def no_run(message: Message) -> Run | None:
    """Return None: for clients that do not share messages."""
    return None
