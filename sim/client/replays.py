"""Which streams wait for the answer to a subscribe, for the end of a replay, or until they may be subscribed to again."""

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sim.client.actions import ClientSettings
from sim.client.policies import Policy, Retries
from sim.protocols.events import DisconnectReason, Message, Next, Step

NEVER = math.inf
MIN_POLL_S = 1.0  # [ours] an empty poll is asked again at once only if it lived so long


class Replays:
    """The running replays of one client."""

    __slots__ = ("_refs", "headed", "incomplete", "running", "unanswered")

    def __init__(self) -> None:
        self.running: set[str] = set()  # streams of subscribes whose replay is not complete
        self.unanswered: set[str] = set()
        self.incomplete: set[str] = set()  # the server has not shown the end of their replay
        self.headed: set[str] = set()  # their head was reported since the subscribe
        self._refs: dict[str, str] = {}  # by stream: the last subscribe

    def ask(self, ref: str, streams: Iterable[str]) -> None:
        """Start the replays of a subscribe; it replaces earlier ones of the same streams."""
        for stream in streams:
            self._refs[stream] = ref
            self.running.add(stream)
            self.unanswered.add(stream)
            self.incomplete.add(stream)
            self.headed.discard(stream)

    def poll(self, ref: str, stream: str) -> None:
        """Store the reference of a subscribe that only continues."""
        self._refs[stream] = ref

    def asked(self, ref: str) -> list[str]:
        """Return the streams whose last subscribe has this reference."""
        return [stream for stream, last in self._refs.items() if last == ref]

    def answer(self, streams: Iterable[str], *, ends: bool) -> None:
        """Take the answer for some streams; `ends`: it also ends their replay."""
        self.unanswered.difference_update(streams)
        if ends:
            self.incomplete.difference_update(streams)

    def complete(self, stream: str | None) -> None:
        """Take the end of a stream's replay; None: of all."""
        if stream is None:
            self.incomplete.clear()
        else:
            self.incomplete.discard(stream)

    def drop(self, stream: str) -> None:
        """Forget a stream whose subscription ended."""
        for streams in (self.running, self.unanswered, self.incomplete):
            streams.discard(stream)
        self._refs.pop(stream, None)

    @property
    def is_complete(self) -> bool:
        """Whether all running replays have their answer and their end."""
        return bool(self.running) and not self.unanswered and not self.incomplete

    def finish(self) -> list[str]:
        """End the running replays; returns their streams."""
        ended = list(self._refs) if len(self._refs) == len(self.running) else [s for s in self._refs if s in self.running]
        self.clear()
        return ended

    def clear(self) -> None:
        """Forget all."""
        for streams in (self.running, self.unanswered, self.incomplete, self.headed):
            streams.clear()
        self._refs.clear()


@dataclass(slots=True)
class Feed:
    """A stream's own subscription, or its own connection. `NEVER` where nothing is due or known."""

    retries: Retries
    retry_at: float = NEVER
    reply_by: float = NEVER
    silent_at: float = NEVER
    asked_at: float = -NEVER
    live_since: float = NEVER
    was_live: bool = False
    is_down: bool = False  # its subscription was lost, and not only a poll ended
    is_polled: bool = False  # only a poll ended: the next one may wait for events, so it has no reply time-out
    end_code: str = ""  # the code with which the server ended it for good


class Feeds:
    """The streams of one client that were asked for, or ended, one by one. `note` takes the fields of a `Notice`.

    A client is live again when its last lost stream is. Where each stream has its own connection, a request is a connect.
    """

    __slots__ = ("_client", "_feeds", "_has_own_connections", "_note", "_policy", "_settings")

    def __init__(self, client: int, policy: Policy, settings: ClientSettings, note: Callable[..., None]) -> None:
        self._client = client
        self._policy = policy
        self._settings = settings
        self._note = note
        self._has_own_connections = not settings.capabilities.is_one_connection
        self._feeds: dict[str, Feed] = {}

    def __getitem__(self, stream: str) -> Feed:
        """A stream's feed, which is made when it is first needed."""
        feed = self._feeds.get(stream)
        if feed is None:
            seed = self._settings.seed ^ zlib.crc32(stream.encode())  # so that a client's streams do not retry together
            feed = self._feeds[stream] = Feed(Retries(self._client, self._policy, seed))
        return feed

    @property
    def is_down(self) -> bool:
        """Whether a stream has lost its subscription."""
        return any(feed.is_down for feed in self._feeds.values())

    @property
    def end_code(self) -> str:
        """The code with which the server ended a stream for good; empty: it ended none."""
        return next((feed.end_code for feed in self._feeds.values() if feed.end_code), "")

    def has_only_ended(self, streams: Iterable[str]) -> bool:
        """Whether all these streams ended for good."""
        return all(stream in self._feeds and self._feeds[stream].end_code for stream in streams)

    def ask(self, streams: Iterable[str], now: float, timeout_s: float, silence_s: float) -> None:
        """Start the time-outs of a subscribe."""
        for stream in streams:
            if stream in self._feeds:
                self._feeds[stream].retry_at, self._feeds[stream].asked_at = NEVER, now
            if self._has_own_connections:
                feed = self[stream]
                if not feed.is_polled:
                    self._note("connect_attempted", self._settings.stream_id(stream))
                feed.asked_at, feed.silent_at = now, now + silence_s
                feed.reply_by, feed.is_polled = (NEVER if feed.is_polled else now + timeout_s), False

    def hear(self, message: Message, now: float, silence_s: float) -> None:
        """Take the signs of life in a message."""
        for event in message:
            stream = getattr(event, "stream", None)
            if stream is not None and (feed := self._feeds.get(stream)):
                feed.reply_by, feed.silent_at = NEVER, now + silence_s

    def goes_on(self, stream: str, now: float) -> None:
        """Take the answer to a stream's subscribe."""
        if (feed := self._feeds.get(stream)) is not None:
            is_again, feed.is_down = feed.is_down and feed.was_live, False
            feed.live_since, feed.was_live = min(feed.live_since, now), True
            if is_again and not self.is_down:
                self._note("subscribed", value=(now - feed.asked_at) * 1000)

    def end(self, stream: str, hint: Next, now: float, code: str, *, is_live: bool) -> float | None:
        """Plan the next subscribe of a stream that ended; returns the delay (ms), None if only a poll ended.

        `is_live`: the client was subscribed to all its streams on this connection before.
        """
        feed, name = self[stream], self._settings.stream_id(stream)
        feed.was_live |= is_live and not self._has_own_connections
        feed.reply_by = feed.silent_at = NEVER
        if self._has_own_connections and hint.step is Step.RESUBSCRIBE:
            feed.retry_at, feed.is_polled = max(now, feed.asked_at + MIN_POLL_S), True
            return None
        if self._has_own_connections and feed.live_since == NEVER:
            self._note("connect_failed", name, value=(now - feed.asked_at) * 1000, detail=code)
        else:
            self._note("disconnected", name, detail=DisconnectReason.STREAM_CLOSED)
        feed.retries.count(live_for_s=now - feed.live_since)
        feed.live_since = NEVER
        delay_ms, _ = feed.retries.delay_ms(DisconnectReason.STREAM_CLOSED, hint.wait_ms)
        if hint == Next(Step.RESUBSCRIBE) and feed.retries.attempt == 1:
            delay_ms = 0.0
        feed.retry_at, feed.is_down = now + delay_ms / 1000, True
        return delay_ms

    def end_for_good(self, stream: str, code: str) -> None:
        """Take that a stream cannot be read any more."""
        feed = self[stream]
        feed.reply_by = feed.silent_at = feed.retry_at = NEVER
        feed.is_down, feed.end_code = True, code

    def due(self) -> float:
        """Return the next moment at which something is due."""
        return min((min(feed.retry_at, feed.reply_by, feed.silent_at) for feed in self._feeds.values()), default=NEVER)

    def to_retry(self, now: float) -> list[str]:
        """Return the streams whose next subscribe is due; each once."""
        found = [stream for stream, feed in self._feeds.items() if feed.retry_at <= now]
        for stream in found:
            self._feeds[stream].retry_at = NEVER
        return found

    def overdue(self, now: float) -> list[str]:
        """Return the streams that were silent for too long."""
        return [stream for stream, feed in self._feeds.items() if min(feed.reply_by, feed.silent_at) <= now]

    def clear(self) -> None:
        """Forget all, for a new connection."""
        self._feeds.clear()
