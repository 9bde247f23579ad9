"""A server of events and intents with any capabilities, one session, and the check of what the session did.

It has no wire: it answers intents with events, in an order and in messages that a random generator chooses. Every event has
its own number, which is its payload and its hash, so that the check needs no position.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from sim.client import policies
from sim.client.actions import ClientSettings, Close, Connect, Mint, Send, Token
from sim.client.notices import Notice
from sim.client.session import Session
from sim.client.transitions import CONNECTED, State
from sim.protocols.adapter import (
    Capabilities,
    CaughtUpSign,
    FreshStart,
    HeadSource,
    Positions,
    ResumingBy,
    StaleSign,
    Subscribing,
)
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    Event,
    Hash,
    Head,
    Item,
    Joined,
    Next,
    Opened,
    Position,
    PositionUnknown,
    Refused,
    Renewed,
    Repeated,
    Resumed,
    Stale,
    Step,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import AskHead, Beat, Compatibility, Intent, Join, Renew, Subscribe, Unsubscribe

TOPICS = ("a", "b")
TTL_S = 90.0  # of tokens
NEVER = math.inf


@dataclass
class Log:
    """One stream's log; `numbers` are its events, `offsets` their positions, and the first `floor` are no longer retained."""

    epoch: int = 1
    numbers: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    floor: int = 0


class CapabilityServer:
    """The server, and a session that it serves. `random` chooses the order of answers and the size of batches."""

    def __init__(self, capabilities: Capabilities, rng: random.Random, *, has_item_positions: bool = True) -> None:
        self.capabilities = capabilities
        self.random = rng
        self.has_item_positions = has_item_positions
        self.now = 1000.0
        self.logs = {topic: Log() for topic in TOPICS}
        self.published = 0
        self.asked: dict[str | None, int] = {}  # by topic: how often the session subscribed
        self.sent: dict[str, int] = {}  # by subscribed topic: how many events of its log this connection was sent
        self.is_open = self.is_joined = False
        self.pid, self.sessions = 0, dict[str, dict[str, int]]()  # what each session had been sent, by its name
        self.rooms: dict[str, int] = {}  # by topic: where the subscriptions of the session with this `pid` started
        self.refusals: list[Next] = []  # of the next joins
        self.breaks_next = False  # the next item has a wrong hash
        self.drops_next = False  # the next live batch is not sent
        self.notices: list[tuple[int, Notice]] = []  # with the number of events that were published before
        settings = ClientSettings(1, Compatibility("test"), capabilities)
        self.session = Session(0, TOPICS, policies.get("reference"), settings)
        self.session.start(self.now)
        self.obey()

    # --- the driver ---------------------------------------------------------------------------------

    def obey(self) -> None:
        """Carry out the session's actions."""
        while actions := self.session.actions():
            for action in actions:
                if isinstance(action, Mint):
                    assert self.session.awaits_token
                    self.session.minted(Token("t", self.now + 0.9 * TTL_S, self.now + TTL_S), self.now)
                elif isinstance(action, Connect):
                    self.is_open, self.is_joined, self.sent = True, False, {}
                    self.tell(Opened())
                elif isinstance(action, Send) and self.is_open:
                    self.take(action.intent)
                elif isinstance(action, Close):
                    self.is_open, self.sent = False, {}
        self.notices += [(self.published, notice) for notice in self.session.notices()]

    def tell(self, *events: Event) -> None:
        """Send events to the session in one message, if it is connected."""
        if self.session.state in CONNECTED or (events and isinstance(events[0], Opened)):
            self.session.received(events, self.now)

    def tell_in_parts(self, events: Sequence[Event]) -> None:
        """Send events in one message or in several. Where positions may have holes, a new subscribe ends what is under way."""
        part: list[Event] = []
        asked = dict(self.asked)
        for number, event in enumerate(events, 1):
            part.append(event)
            if self.random.random() < 0.4 or number == len(events):
                is_dense = self.capabilities.positions is Positions.DENSE
                self.tell(*(each for each in part if is_dense or self.asked.get(_topic(each)) == asked.get(_topic(each))))
                part = []
                self.obey()

    def wait(self, seconds: float) -> None:
        """Let time pass; the server shows a sign of life, and its heads, every few seconds."""
        until = self.now + seconds
        while self.now < until:
            due = min(self.session.wake_at(), until, self.now + 5.0)
            is_tick = due > self.now
            self.now = max(self.now, due)
            if self.session.wake_at() <= self.now:
                self.session.wake(self.now)
            if is_tick and self.is_open:
                self.beat()
            self.obey()

    def beat(self) -> None:
        """Send a heartbeat, with the heads that the server reports so."""
        heads: list[Event] = [] if self.capabilities.is_one_connection else [Activity(topic) for topic in self.sent]
        if HeadSource.HEARTBEATS in self.capabilities.head and self.capabilities.positions is not Positions.OPAQUE:
            for topic, sent in self.sent.items():
                at = sent if self.capabilities.head_of is Whose.SOCKET else len(self.logs[topic].numbers)
                heads.append(Head(topic, self.position(topic, at), self.capabilities.head_of))
        self.tell(*heads)

    # --- faults -------------------------------------------------------------------------------------

    def publish(self, topic: str) -> None:
        """Append an event, and deliver it to a subscribed session."""
        log = self.logs[topic]
        self.published += 1
        log.numbers.append(self.published)
        step = self.random.randint(1, 4) if self.capabilities.positions is Positions.ORDERED else 1
        log.offsets.append((log.offsets[-1] if log.offsets else 0) + step)
        if topic in self.sent:
            batch = self.batch(topic, self.sent[topic], len(log.numbers))
            if not self.drops_next:
                self.tell(batch)
            self.drops_next = False
        self.obey()

    def repeat(self, topic: str) -> None:
        """Deliver the last event again: as a duplicate, or in the protocol's second form."""
        log = self.logs[topic]
        if self.sent.get(topic) == len(log.numbers) > log.floor:
            batch = self.batch(topic, len(log.numbers) - 1, len(log.numbers))
            self.tell(batch if self.random.random() < 0.5 else Repeated((batch,)))
        self.obey()

    def trim(self, topic: str) -> None:
        """Retain only the last events."""
        log = self.logs[topic]
        log.floor = max(log.floor, len(log.numbers) - self.random.randint(0, 2))

    def replace_log(self, topic: str) -> None:
        """Lose the log; connected clients are cut."""
        self.logs[topic] = Log(self.logs[topic].epoch + 1)
        self.sessions.clear()
        self.cut()

    def cut(self) -> None:
        """Break the connection."""
        if self.is_open:
            self.is_open, self.sent = False, {}
            if not self.capabilities.is_one_connection:
                for topic in TOPICS:
                    self.tell(StreamEnded(topic, "network"))
                self.is_open = True
            elif self.session.state in CONNECTED:
                self.session.received((Closed(),), self.now)
        self.obey()

    def end_stream(self, topic: str, step: Step) -> None:
        """End one subscription."""
        if topic in self.sent and self.capabilities.resuming_by is not ResumingBy.JOIN:
            del self.sent[topic]
            self.tell(StreamEnded(topic, "ended", Next(step)))
        self.obey()

    def end_all(self) -> None:
        """End what was joined, and leave the connection open."""
        if self.is_joined:
            self.is_joined, self.sent = False, {}
            self.tell(StreamEnded(None, "phx_close", Next(Step.RESUBSCRIBE)))
        self.obey()

    # --- intents ------------------------------------------------------------------------------------

    def take(self, intent: Intent) -> None:
        """Answer an intent."""
        if isinstance(intent, Join):
            self._take_join(intent)
        elif isinstance(intent, Subscribe):
            self._take_subscribe(intent)
        elif isinstance(intent, Unsubscribe):
            for topic in intent.streams:
                self.sent.pop(topic, None)
        elif isinstance(intent, Renew):
            self.tell(Renewed(intent.ref, TTL_S))
        elif isinstance(intent, AskHead):
            self.tell(Head(intent.stream, self.position(intent.stream, len(self.logs[intent.stream].numbers))))
        else:
            assert isinstance(intent, Beat)
            self.tell(Answer(intent.ref, ok=True, is_beat=True))

    def _take_join(self, join: Join) -> None:
        if self.refusals:
            self.tell(Refused(join.ref, "no", next=self.refusals.pop(0)))
            return
        self.is_joined = True
        events: list[Event] = []
        had = self.sessions.get(join.session or "")
        if had is None:
            self.pid, self.rooms = self.pid + 1, {}
        for topic, start in self.rooms.items():
            events += self.batches(topic, (had or {}).get(topic, start))
        name = self.name_session()
        self.tell_in_parts([*events, Joined(join.ref, name, resumed=had is not None, token_ttl_s=TTL_S, ping_s=20.0)])

    def _take_subscribe(self, intent: Subscribe) -> None:
        if self.capabilities.subscribing is Subscribing.WHOLE_SET:
            assert set(intent.after) == set(TOPICS)
            self.sent = {}
        for topic in intent.after:
            self.asked[topic] = self.asked.get(topic, 0) + 1
        order = list(intent.after)
        self.random.shuffle(order)
        answers = {topic: self._answer(intent.ref, topic, intent.after[topic]) for topic in order}
        refused = [event for events in answers.values() for event in events if isinstance(event, Stale | PositionUnknown)]
        refused = [event for event in refused if event.subscribed_at is None]
        if refused and self.capabilities.subscribing is Subscribing.WHOLE_SET:
            self.sent = {}
            self.tell(*refused)
            return
        self.tell_in_parts([event for topic in order for event in answers[topic]])

    def _answer(self, ref: str, topic: str, after: Position | None) -> list[Event]:
        """Return the events that answer a subscribe to one stream."""
        log, end = self.logs[topic], len(self.logs[topic].numbers)
        start = self.index(topic, after)
        if after is None:
            start = log.floor if self.capabilities.fresh_start is FreshStart.RETAINED else end
        elif start is None or start < log.floor:
            if self.capabilities.stale is StaleSign.EXPLICIT:
                return [self._refusal(ref, topic, start is None, after, None)]
            if self.capabilities.stale is StaleSign.FLAG:
                self.sent[topic] = end
                events: list[Event] = [self._refusal(ref, topic, start is None, after, self.position(topic, end))]
                return [*events, CaughtUp(topic)] if self.capabilities.caught_up is CaughtUpSign.EXPLICIT else events
            start = log.floor
        self.sent[topic] = self.rooms[topic] = start
        at, batches = self.position(topic, start), self.batches(topic, start)
        head = self.position(topic, end) if HeadSource.REPLY in self.capabilities.head else None
        return self._ordered(Resumed(ref, topic, at, head), batches, topic)

    def _ordered(self, answer: Resumed, batches: list[Event], topic: str) -> list[Event]:
        """Return an answer among its replay, wherever this protocol may put it."""
        if self.capabilities.caught_up is CaughtUpSign.REPLY:
            return [*batches, answer]
        place = self.random.randint(0, len(batches))
        events: list[Event] = [*batches[:place], answer, *batches[place:]]
        if self.capabilities.caught_up is CaughtUpSign.EXPLICIT:
            events.insert(self.random.randint(max(place, len(batches)), len(events)), CaughtUp(topic))
        return events

    def _refusal(self, ref: str, topic: str, is_unknown: bool, asked: Position, at: Position | None) -> Stale | PositionUnknown:
        head = self.position(topic, len(self.logs[topic].numbers))
        if is_unknown:
            return PositionUnknown(topic, asked, head, "other_log", at, ref)
        return Stale(topic, asked, self.position(topic, self.logs[topic].floor), head, subscribed_at=at, ref=ref)

    # --- positions and batches ----------------------------------------------------------------------

    def position(self, topic: str, index: int) -> Position:
        """Return the position after the first `index` events of a log."""
        log = self.logs[topic]
        epoch = f"e{log.epoch}" if self.capabilities.has_epochs else None
        if self.capabilities.positions is Positions.OPAQUE:
            return Position(f"{topic}{log.epoch}-{index}", epoch)
        return Position(log.offsets[index - 1] if index else 0, epoch)

    def index(self, topic: str, position: Position | None) -> int | None:
        """Return how many events are before a position; None if it is not of this log."""
        for index in range(len(self.logs[topic].numbers) + 1):
            if self.position(topic, index) == position:
                return index
        return None

    def batches(self, topic: str, start: int) -> list[Event]:
        """Return all events after the first `start` in batches, as they are sent."""
        end, batches = len(self.logs[topic].numbers), list[Event]()
        self.sent[topic] = start
        while start < end:
            stop = min(start + self.random.randint(1, 3), end)
            batches.append(self.batch(topic, start, stop))
            start = stop
        return batches

    def batch(self, topic: str, start: int, end: int) -> Batch:
        """Return these events of a log in a batch, as it is sent."""
        items = tuple(self._item(topic, index) for index in range(start, end))
        self.sent[topic] = end
        after = None if self.has_item_positions else self.position(topic, end)
        return Batch(topic, items, after, self.name_session())

    def name_session(self) -> str | None:
        """Return the name of the session as it is now, in protocols whose join resumes."""
        if self.capabilities.resuming_by is not ResumingBy.JOIN:
            return None
        name = f"{self.pid}/{len(self.sessions)}"
        self.sessions[name] = dict(self.sent)
        return name

    def _item(self, topic: str, index: int) -> Item:
        number = self.logs[topic].numbers[index]
        check, self.breaks_next = Hash.BAD if self.breaks_next else Hash.OK, False
        position = self.position(topic, index + 1) if self.has_item_positions else None
        return Item(position, msgspec.Raw(str(number).encode()), f"sha256:{number:012d}", check)

    # --- the check ----------------------------------------------------------------------------------

    def of(self, kind: str, topic: str) -> list[tuple[int, Notice]]:
        """Return a stream's notices of a kind, each with the number of events that were published before."""
        return [(published, notice) for published, notice in self.notices if notice.kind == kind and notice.stream == topic]

    def applied(self, topic: str) -> list[int]:
        """Return the events that the session applied, in that order."""
        return [int(notice.detail) for _, notice in self.of("applied", topic)]

    def settle(self) -> None:
        """Serve the session well until it is live, publish once more, and check what it did."""
        self.refusals, self.breaks_next, self.drops_next = [], False, False
        for _ in range(2):
            self.wait(150.0)
            for topic in TOPICS:
                self.publish(topic)
        until = self.now + 60.0
        while self.now < until and not (self.session.is_live and self.session.is_caught_up):
            self.wait(1.0)
        if self.session.state is State.ENDED:
            assert [notice.detail for _, notice in self.notices if notice.kind == "gave_up"] == [self.session.end_code]
            return
        assert self.session.is_live, self.session.why_pending()
        assert self.session.is_caught_up
        for topic in TOPICS:
            self.check(topic)

    def check(self, topic: str) -> None:
        """Check that no event was applied twice or out of order, and that every other one was declared lost."""
        applied = self.applied(topic)
        assert applied == sorted(set(applied)), f"twice or out of order: {applied}"
        first = self.of("rebootstrapped", topic)[0][1]
        if self.capabilities.positions is Positions.OPAQUE:
            baseline = min(applied, default=0) - 1
        else:
            baseline = next((n for n, at in self._placed(topic) if at > first.seq), 0) - 1
        lost = {n for n in self.logs[topic].numbers if n > baseline} - set(applied)
        assert not {n for n in lost if not self._is_declared(topic, n)}, (lost, self.of("declared_loss", topic))
        if not self.capabilities.has_epochs:  # a position names one event
            had = {notice.seq for _, notice in self.of("applied", topic)}
            for _, loss in self.of("declared_loss", topic):
                assert not math.isfinite(loss.value) or not {s for s in had if loss.seq - loss.value < s <= loss.seq}, (
                    "not lost"
                )

    def _placed(self, topic: str) -> list[tuple[int, int]]:
        log = self.logs[topic]
        return list(zip(log.numbers, log.offsets, strict=True))

    def _is_declared(self, topic: str, number: int) -> bool:
        for published, notice in self.of("declared_loss", topic):
            if math.isnan(notice.value):
                if number <= published:
                    return True
            elif notice.seq - notice.value < dict(self._placed(topic))[number] <= notice.seq:
                return True
        return False


Fault = Callable[[CapabilityServer], None]


def _topic(event: Event) -> str | None:
    return getattr(event, "stream", None)
