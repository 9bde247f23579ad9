"""A simulated client of a protocol without connections: one request for each stream, which the server answers without end.

What an adapter does on the wire is done here for messages that are passed by reference: it answers a join by itself, and turns
the end or the refusal of a request into that of its stream.
"""

import msgspec

from sim.client.actions import Connect
from sim.engines.virtual.client import VirtualClient
from sim.engines.virtual.inbox import Link
from sim.protocols.events import Closed, Joined, Message, Opened, PositionUnknown, Refused, StreamEnded
from sim.protocols.intents import Intent, Join, Leave, Subscribe, Unsubscribe

NETWORK = "network"
ENDS = frozenset({PositionUnknown, Refused, StreamEnded})


class StreamsClient(VirtualClient):
    """See `VirtualClient`. Nothing is sent before the first subscribe."""

    _asked: Connect

    def _connect(self, asked: Connect) -> None:
        self._asked = asked
        self.session.received((Opened(),), self._env.now)

    def _send(self, intent: Intent) -> None:
        match intent:
            case Join(ref=ref):
                ping_s = self.session.settings.heartbeat_interval_s
                self.session.received((Joined(ref, ping_s=ping_s),), self._env.now)
            case Subscribe(ref=ref, after=after, batch_size=size):
                for stream, position in after.items():
                    self._stop(stream)
                    self._ask(Subscribe(ref, {stream: position}, size))
            case Unsubscribe(streams=streams):
                for stream in streams:
                    self._stop(stream)
            case Leave():
                self._abandon()
            case _:
                raise TypeError(f"the protocol has no {type(intent).__name__}")

    def _stop(self, stream: str) -> None:
        if (link := self._links.get(stream)) is not None:
            self._leave(link)

    def _ask(self, request: Subscribe) -> None:
        self._dial(self._asked, Link(self, self._env, self.delay_s, self.session.settings.run_of, request=request))

    def _accepted(self, link: Link) -> None:
        """Let the service answer the request that came with the connection."""
        link.is_open = True
        if link.request is not None:
            self._service.received(link.number, link, link.request)

    def _receive(self, message: Message, link: Link) -> None:
        """Take a message; one that makes a request useless ends it first, so that nothing more of it comes."""
        if self._is_over(message):
            self._leave(link)
        super()._receive(message, link)

    def _is_over(self, message: Message) -> bool:
        """Return whether nothing of use follows this message on its connection."""
        return not ENDS.isdisjoint([event.__class__ for event in message])

    def _lose(self, link: Link, event: Closed) -> None:
        self._tell((StreamEnded(link.stream, str(event.code or NETWORK), event.next),))

    def _fail(self, refusal: Refused, link: Link) -> None:
        if refusal.code == NETWORK:
            self._tell((StreamEnded(link.stream, NETWORK),))
        else:
            self._tell((msgspec.structs.replace(refusal, is_open=True, streams=(link.stream,)),))

    def _tell(self, message: Message) -> None:
        self.session.received(message, self._env.now)
        self._pump()
