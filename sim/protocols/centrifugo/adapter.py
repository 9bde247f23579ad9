"""Client side of Centrifugo's JSON protocol: one WebSocket; converts intents to commands, and answers and pushes to events."""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from sim.protocols.adapter import (
    ActionQueue,
    Capabilities,
    CaughtUpSign,
    Credentials,
    FreshStart,
    HeadSource,
    Liveness,
    Open,
    Positions,
    Publishing,
    Refusals,
    Renewal,
    ResumingBy,
    StaleSign,
    Subscribing,
    Transport,
    TransportEnd,
    Write,
)
from sim.protocols.centrifugo import codes
from sim.protocols.centrifugo.codec import (
    PONG,
    Line,
    Page,
    Publication,
    Push,
    Session,
    Subscription,
    command,
    decode,
    request_of,
    subscribe_body,
)
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    Event,
    Head,
    Item,
    Joined,
    Malformed,
    Message,
    Opened,
    Outcome,
    Position,
    PositionUnknown,
    Published,
    PublishFailed,
    Refused,
    Renewed,
    Resumed,
    Stale,
    Whose,
)
from sim.protocols.intents import AskHead, Intent, Join, Publish, Raw, Read, Renew, Subscribe, Unsubscribe
from sim.protocols.shared_decoding import SharedDecoding

CAPABILITIES = Capabilities(
    positions=Positions.DENSE,
    has_epochs=True,
    head=(HeadSource.REPLY, HeadSource.QUERY),
    head_of=Whose.AUTHORITY,
    caught_up=CaughtUpSign.REPLY,
    stale=StaleSign.FLAG,
    has_snapshots=False,
    fresh_start=FreshStart.FROM_NOW_ON,
    is_one_connection=True,
    refusals=Refusals.CODES,
    liveness=Liveness.SERVER_PINGS,
    hash_form="",
    can_resubscribe=True,
    resuming_by=ResumingBy.SUBSCRIBE,
    renewal=Renewal.ON_CONNECTION,
    publishing=Publishing.HTTP,
    subscribing=Subscribing.EACH_STREAM,
    resumes_without_epoch=True,
    silence_codes=("3012", "slow_consumer"),
)
WITHOUT_HISTORY = msgspec.structs.replace(  # a namespace without history has no positions, and nothing to resume from
    CAPABILITIES, positions=Positions.OPAQUE, has_epochs=False, head=(HeadSource.NONE,), stale=StaleSign.SILENT
)
OTHERS = 1 << 30  # numbers of commands that are no intent of a session start here, so that their answers can be told apart
_SOCKET = 0
_NO_HISTORY = "the channel has no positions; set history_size and history_ttl of its namespace, or the option 'history = false'"
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class _Asked(msgspec.Struct, frozen=True):
    """A command without an answer yet."""

    intent: Intent
    channel: str = ""
    after: Position | None = None


class CentrifugoConnection(ActionQueue):
    """See `sim.protocols.adapter.Connection`. `url` is the socket's; `has_history` is false for namespaces without history."""

    shared: ClassVar[SharedDecoding] = SharedDecoding()

    def __init__(self, url: str, has_history: bool = True, shared: SharedDecoding | None = None) -> None:
        super().__init__()
        self._url = url
        self._has_history = has_history
        self._shared = self.shared if shared is None else shared
        self._is_open = False
        self._join_ref = ""  # of the connect, while it has no answer
        self._must_pong = False
        self._commands = 0
        self._asked: dict[int, _Asked] = {}
        self._epochs: dict[str, str] = {}  # by subscribed channel; an event does not state its log's
        self._epochs_key: tuple[tuple[str, str], ...] = ()  # the same, as a part of a key

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. The token is in the first command."""
        self._actions.append(Open(_SOCKET, Transport.WEBSOCKET, self._url))
        return ()

    def send(self, intent: Intent) -> Message:
        """See `Connection`. A channel that is subscribed again is left first."""
        if isinstance(intent, Raw):
            self._actions.append(Write(_SOCKET, intent.data, intent.is_text))
        elif isinstance(intent, Subscribe):
            again = [channel for channel in intent.after if channel in self._epochs]
            left = [self._leave(intent, channel) for channel in again]
            self._write(*left, *(self._enter(intent, channel, after) for channel, after in intent.after.items()))
        elif isinstance(intent, Unsubscribe):
            self._write(*(self._leave(intent, channel) for channel in intent.streams))
        else:
            self._join_ref = intent.ref if isinstance(intent, Join) else self._join_ref
            name, body = request_of(intent)
            self._write(command(self._number(_Asked(intent)), name, body))
        return ()

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """See `Connection`."""
        self._is_open = True
        return (Opened(),)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`. A frame of events means the same to all connections that know the same epochs."""
        key = (self._epochs_key, data)
        if (known := self._shared.get(key)) is not None:
            return known
        events: list[Event] = []
        for line in data.split(b"\n"):
            if line.strip():
                events += self._read_line(line)
        message = tuple(events) or (Activity(),)
        if all(type(event) is Batch for event in message) and key[0] is self._epochs_key:
            self._shared.put(key, message, 2 * len(data))
        return message

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`."""
        return codes.closed(end, self._join_ref) if self._is_open else (codes.connect_refused(end),)

    # --- commands -----------------------------------------------------------------------------------

    def _number(self, asked: _Asked) -> int:
        self._commands += 1
        self._asked[self._commands] = asked
        return self._commands

    def _enter(self, intent: Subscribe, channel: str, after: Position | None) -> bytes:
        return command(self._number(_Asked(intent, channel, after)), "subscribe", subscribe_body(channel, after))

    def _leave(self, intent: Subscribe | Unsubscribe, channel: str) -> bytes:
        self._forget(channel)
        return command(self._number(_Asked(Unsubscribe(intent.ref, (channel,)))), "unsubscribe", {"channel": channel})

    def _write(self, *lines: bytes) -> None:
        if lines:
            self._actions.append(Write(_SOCKET, b"\n".join(lines)))

    def _learn(self, channel: str, epoch: str) -> None:
        if self._epochs.get(channel) != epoch:
            self._epochs[channel] = epoch
            self._epochs_key = tuple(sorted(self._epochs.items()))

    def _forget(self, channel: str) -> None:
        if self._epochs.pop(channel, None) is not None:
            self._epochs_key = tuple(sorted(self._epochs.items()))

    # --- answers and pushes -------------------------------------------------------------------------

    def _read_line(self, data: bytes) -> list[Event]:
        try:
            line = decode(data)
        except _UNREADABLE:
            return [Malformed("malformed_frame")]
        if line.push is not None:
            return [self._read_push(line.push)]
        if line.id:
            return self._read_answer(line)
        if self._must_pong:
            self._write(PONG)
        return [Activity()]

    def _read_push(self, push: Push) -> Event:
        if push.unsubscribe is not None:
            self._forget(push.channel)
            return codes.stream_ended(push.channel, push.unsubscribe.code)
        if push.pub is None:
            return Activity(push.channel or None)
        if push.pub.epoch and push.channel in self._epochs:
            self._learn(push.channel, push.pub.epoch)
        return self._batch(push.channel, (push.pub,), self._epochs.get(push.channel, ""))

    def _batch(self, channel: str, publications: tuple[Publication, ...], known: str) -> Batch | Malformed:
        """Return events with their positions, in the log that they state or that is known."""
        items = []
        for each in publications:
            if not each.offset and self._has_history:
                return Malformed("no_offset")
            epoch = each.epoch or known or None
            items.append(Item(Position(each.offset, epoch) if each.offset else None, each.data))
        return Batch(channel, tuple(items))

    def _read_answer(self, line: Line) -> list[Event]:
        asked = self._asked.pop(line.id, None)
        code = codes.name_of(line.error) if line.error else ""
        if asked is None:
            return [Answer(str(line.id - OTHERS), not code, code)]
        intent = asked.intent
        if isinstance(intent, Join):
            self._join_ref = ""
        if line.error is not None:
            if isinstance(intent, Publish):
                return [PublishFailed(intent.key, code, codes.next_of(line.error), Outcome.REFUSED)]
            streams = (asked.channel,) if asked.channel else ()
            is_known = isinstance(intent, Join | Renew | Subscribe)
            return [codes.refused(intent.ref, line.error, streams) if is_known else Answer(intent.ref, False, code)]
        if isinstance(intent, Join):
            session = line.connect or Session()
            self._must_pong = session.pong
            return [Joined(intent.ref, token_ttl_s=_ttl(session), ping_s=session.ping or None)]
        if isinstance(intent, Renew):
            return [Renewed(intent.ref, _ttl(line.refresh or Session()))]
        if isinstance(intent, Subscribe):
            return self._subscribed(intent.ref, asked, line.subscribe or Subscription())
        if isinstance(intent, Publish):
            return [Published(intent.key, None)]
        if isinstance(intent, AskHead | Read):
            return self._read_page(intent, line.history or Page())
        return [Activity()]

    def _read_page(self, intent: AskHead | Read, page: Page) -> list[Event]:
        head = Head(intent.stream, Position(page.offset, page.epoch or None))
        events = [self._batch(intent.stream, page.publications, page.epoch)] if page.publications else []
        return [*events, head]

    def _subscribed(self, ref: str, asked: _Asked, answer: Subscription) -> list[Event]:
        """Return the events that were missed, then where the server starts."""
        channel = asked.channel
        if self._has_history and not answer.epoch:
            return [Refused(ref, "no_history", next=codes.TERMINAL, message=_NO_HISTORY, streams=(channel,))]
        self._learn(channel, answer.epoch)
        missed = [self._batch(channel, answer.publications, answer.epoch)] if answer.publications else []
        return [*missed, started(ref, channel, asked.after, answer)]


def started(ref: str, channel: str, after: Position | None, answer: Subscription) -> Event:
    """Return where the server starts a stream. It does not say why it could not recover; the positions show it."""
    last = answer.offset
    if answer.publications:
        last = answer.publications[-1].offset
    if not answer.epoch:
        return Resumed(ref, channel)
    head = Position(last, answer.epoch)
    if after is None:
        return Resumed(ref, channel, head, head)
    if answer.recovered:
        return Resumed(ref, channel, Position(after.offset, answer.epoch), head)
    if after.epoch is None:
        return PositionUnknown(channel, after, head, "no_epoch", head, ref)
    if after.epoch != answer.epoch:
        return PositionUnknown(channel, after, head, "other_log", head, ref)
    missed = last - after.offset if isinstance(after.offset, int) else 0
    if missed < 0:
        return PositionUnknown(channel, after, head, "above_head", head, ref)
    return Stale(channel, after, None, head, ("not_recovered",), missed, subscribed_at=head, ref=ref)


def _ttl(session: Session) -> float | None:
    return session.ttl if session.expires else None
