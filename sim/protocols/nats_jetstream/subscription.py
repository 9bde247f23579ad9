"""One subscription: a consumer, what it has delivered, and what is held until its log is known."""

from dataclasses import dataclass, field

import msgspec

from sim.protocols.adapter import HELD_ITEM_BYTES
from sim.protocols.events import Activity, Batch, CaughtUp, Event, Item, Message, Position, PositionUnknown, Resumed
from sim.protocols.nats_jetstream.answers import ConsumerFound, StreamInfo
from sim.protocols.nats_jetstream.codec import Place, publish
from sim.protocols.shared_decoding import SharedDecoding

_shared = SharedDecoding()  # single live events, which all clients get with envelopes of their own


@dataclass(slots=True, eq=False)
class Subscription:
    """The consumer of a stream. `after` is the position that was asked for, `subject` where it delivers."""

    ref: str
    stream: str
    after: Position | None
    sid: int
    subject: str
    consumer: str = ""  # its name, which the server chose
    is_assigned: bool = False  # its log is known
    held_bytes: int = 0
    _start: int = 0
    _pending: int = 0
    _epoch: str = ""
    _last: int = 0  # consumer sequence of the last message
    _is_caught_up: bool = False
    _held: list[tuple[Place, bytes]] = field(default_factory=list)
    _stalled: list[str] = field(default_factory=list)  # requests of the flow control that are not yet answered

    def created(self, found: ConsumerFound) -> None:
        """Take that the consumer exists, and where it starts."""
        self.consumer, self._start, self._pending = found.name, found.delivered.stream_seq, found.num_pending

    def unknown_position(self, info: StreamInfo) -> PositionUnknown | None:
        """Compare the position with the log; None if the log has it, or has had it."""
        if self.after is None or not isinstance(self.after.offset, int):
            return None
        head = Position(info.state.last_seq, info.created)
        if self.after.epoch is not None and self.after.epoch != info.created:
            return PositionUnknown(self.stream, self.after, head, "other_log", ref=self.ref)
        if self.after.offset > info.state.last_seq:
            return PositionUnknown(self.stream, self.after, head, "above_head", ref=self.ref)
        return None

    def hold(self, place: Place, payload: bytes) -> None:
        """Hold a message until its log is known."""
        self._held.append((place, payload))
        self.held_bytes += len(payload) + HELD_ITEM_BYTES

    def stall(self, to: str) -> None:
        """Hold the answer to a request of the flow control, so that the server does not send more than can be held."""
        self._stalled.append(to)
        self.held_bytes += len(to) + HELD_ITEM_BYTES

    def assign(self, info: StreamInfo) -> Message:
        """Take which log the consumer reads; returns all that follows from it."""
        self._epoch, self.is_assigned = info.created, True
        at, head = Position(self._start, self._epoch), Position(info.state.last_seq, self._epoch)
        out: list[Event] = [Resumed(self.ref, self.stream, at, head)]
        held, self._held, self.held_bytes = self._held, [], 0
        for place, payload in held:
            out += self.deliver(place, payload)
        if not self._pending and not self._is_caught_up:
            self._is_caught_up = True
            out.append(CaughtUp(self.stream))
        return tuple(out)

    def flow_control(self) -> list[bytes]:
        """Return the answers to the flow control that were held back."""
        stalled, self._stalled = self._stalled, []
        return [publish(to, "", b"") for to in stalled]

    def deliver(self, place: Place, payload: bytes) -> Message:
        """Return a delivered message as a batch. A hole in the numbers of the consumer is a lost delivery."""
        is_after_gap, self._last = place.consumer_seq > self._last + 1, max(self._last, place.consumer_seq)
        if self._is_caught_up and not is_after_gap:
            return self._live(place, payload)
        batch = Batch(self.stream, (self._item(place, payload),), is_after_gap=is_after_gap)
        if place.pending or self._is_caught_up:
            return (batch,)
        self._is_caught_up = True
        return batch, CaughtUp(self.stream)

    def beat(self, last: int | None, is_stalled: bool) -> Message:
        """Take a heartbeat, with the number of the last message that the consumer has sent (None: not stated)."""
        if not self.is_assigned or last is None:
            return (Activity(self.stream),)
        if last > self._last:
            self._last = last
            return (Batch(self.stream, (), is_after_gap=True),)
        if is_stalled or self._is_caught_up:
            return (Activity(self.stream),)
        self._is_caught_up = True  # what was pending is no longer retained
        return (CaughtUp(self.stream),)

    def _item(self, place: Place, payload: bytes) -> Item:
        return Item(Position(place.stream_seq, self._epoch), msgspec.Raw(payload))

    def _live(self, place: Place, payload: bytes) -> Message:
        key = self.stream, self._epoch, place.stream_seq, payload
        if (known := _shared.get(key)) is None:
            known = (Batch(self.stream, (self._item(place, payload),), is_single=True),)
            _shared.put(key, known, len(payload))
        return known
