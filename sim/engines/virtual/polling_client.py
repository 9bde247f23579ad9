"""A simulated client that reads each stream by whole answers: one that comes at once, then long polls from the stream's end.

The connection of a stream is kept for the next request. As in an adapter, the session hears of a time-out only, and asks again.
"""

from dataclasses import dataclass

from sim.client.actions import Connect
from sim.engines.virtual.inbox import Link
from sim.engines.virtual.streams_client import ENDS, NETWORK, StreamsClient
from sim.protocols.events import Batch, CaughtUp, Closed, Message, Next, Position, Refused, Resumed, Step, StreamEnded
from sim.protocols.intents import Poll, Subscribe

_POLL_OVER, _ASK_AGAIN = "poll", Next(Step.RESUBSCRIBE)


@dataclass(slots=True)
class _Asked:
    """One request under way. `is_answered`: the session knows that its subscribe was accepted."""

    ref: str
    stream: str
    after: Position | None
    is_live: bool = False
    is_answered: bool = False


class PollingClient(StreamsClient):
    """See `StreamsClient`."""

    _requests: dict[str, _Asked]  # those under way, by stream
    _ends: dict[str, Position]  # by stream: the position at which the last answer was the end

    def _connect(self, asked: Connect) -> None:
        self._requests, self._ends = {}, {}
        super()._connect(asked)

    def _stop(self, stream: str) -> None:
        """End a request under way with its connection; one without a request is kept."""
        if self._requests.pop(stream, None) is not None:
            super()._stop(stream)

    def _ask(self, request: Subscribe) -> None:
        ((stream, after),) = request.after.items()
        self._request(_Asked(request.ref, stream, after))

    def _request(self, asked: _Asked) -> None:
        """Send a request. It only waits at the end of a stream, because nothing is heard of it meanwhile."""
        stream, after = asked.stream, asked.after
        asked.is_live = after is not None and self._ends.get(stream) == after
        self._requests[stream] = asked
        poll = Poll(asked.ref, {stream: after}, waits=asked.is_live)
        if (link := self._links.get(stream)) is not None:
            self._send_over(link, poll)
        else:
            self._dial(self._asked, Link(self, self._env, self.delay_s, self.session.settings.run_of, request=poll))

    def _receive(self, message: Message, link: Link) -> None:
        """Take a whole answer. Ask for what follows first; the session may stop that at once."""
        stream = link.stream
        if (asked := self._requests.pop(stream, None)) is None:
            return
        if asked.is_answered:
            message = tuple(event for event in message if not isinstance(event, Resumed))
        answers = [event for event in message if isinstance(event, Batch)]
        if not answers:
            if not any(isinstance(event, Refused) for event in message):
                self._ends.pop(stream, None)
            super()._receive(message, link)
            return
        if (after := answers[-1].after) is not None and CaughtUp(stream) in message:
            self._ends[stream] = after
        if after == asked.after and asked.is_live:
            super()._receive((*message, StreamEnded(stream, _POLL_OVER, _ASK_AGAIN)), link)
            return
        self._request(_Asked(asked.ref, stream, after, is_answered=True))
        super()._receive(message, link)

    def _is_over(self, message: Message) -> bool:
        """A poll that is over leaves its connection open."""
        return any(event.__class__ in ENDS and getattr(event, "code", "") != _POLL_OVER for event in message)

    def _lose(self, link: Link, event: Closed) -> None:
        """Report the end of a request; nobody misses a connection without one."""
        if self._requests.pop(link.stream, None) is not None:
            self._ends.pop(link.stream, None)
            self._tell((StreamEnded(link.stream, NETWORK),))

    def _fail(self, refusal: Refused, link: Link) -> None:
        self._requests.pop(link.stream, None)
        if refusal.code == NETWORK:
            self._ends.pop(link.stream, None)
        super()._fail(refusal, link)
