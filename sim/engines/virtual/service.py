"""The simulated services: control, HTTP authority and runtime. They are the contract's own cores behind queues that take time.

Everything is a callback on the environment's clock. `now` is always the environment's time, in seconds.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from sim.base.errors import BrokenMessageError, MalformedFrameError
from sim.base.randomness import draw
from sim.client.actions import Connect, Token
from sim.client.session import Session
from sim.drill.system_model import SystemModel
from sim.engines.shared import client_setup
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.queues import NO_LIMIT, Station, Turnstile
from sim.protocols.events import Batch, Closed, Message, Refused
from sim.protocols.intents import Intent, Raw
from sim.protocols.payloads import canonical_json
from sim.protocols.profile import Publication, ServerForms
from sim.record import stations
from sim.record.stations import Level, StationLoad
from sim.server import misbehaviours
from sim.server.admission import Appends, PublishLimits, Refusal, failure, is_acknowledged_unwritten, no_answer
from sim.server.closing import CloseOrder, UpgradeRefusedError
from sim.server.control import Control, ControlRefusedError, TokenRequest
from sim.server.runtime import DeliveryDownError
from sim.server.runtimes import runtime_of
from sim.server.settings import RuntimeSettings, Switches
from sim.server.tokens import Key, Keyring, TokenRefusedError, device_id

_LOST = Closed()
WORK_QUANTUM_S = 0.001  # how much of the delivery worker's work one step simulates
_KEY = Key("virtual", hashlib.sha256(b"the simulator's own; nothing outside ever sees a token of it").digest())


class Peer(Protocol):
    """The client's end of a connection, as the service sees it: the receiver of frames and of the news of a loss."""

    def sends(self, message: Message, moment: float) -> None:
        """Carry a message that the service puts on the wire at `moment`."""

    def lost(self, event: Closed) -> None:
        """Learn that the service closes the connection now; `event` is what the client receives."""


class SimulatedService:
    """The simulated service, which is up at first. `kill` stops the runtime; `restart` starts it again with the same log."""

    def __init__(
        self, env: VirtualClock, forms: ServerForms, settings: RuntimeSettings, switches: Switches, model: SystemModel
    ) -> None:
        self._env = env
        self.forms = forms
        self.profile = forms.profile
        self._settings = settings
        self._model = model
        self.control = Control(settings, Keyring(_KEY), self.profile)
        self.runtime = runtime_of(settings, Keyring(_KEY), self.profile, switches)
        self._appends = Appends()
        self._limits = PublishLimits(settings, self.profile)
        self._rotations = 0
        self._events_of: dict[str, int] = {}  # by run
        self.is_up = True
        self._began = env.now
        self._handshakes = Station(model.server.handshake_workers, env.now)
        self._accept_queue: deque[tuple[Connect, Peer]] = deque()  # if the service has one loop: waiting for a handshake
        self._arrived: list[int] = []  # handshakes, by bin of time
        self._unanswered = 0  # SYNs that found the accept backlog full
        self._minting = Station(model.control.mint_workers, env.now)
        self._mint_limit = Station(1, env.now)
        self._mint_gap_s = 1 / model.control.mints_per_s if model.control.mints_per_s else 0.0
        self._slow_minting = Turnstile(env)
        self._publishing = Station(model.server.publish_workers, env.now)
        self._peers: dict[int, Peer] = {}
        self._in_handshake: dict[Peer, Callable[[int | str | Refused], None]] = {}
        self._waiting: deque[int] = deque()
        self._queued: set[int] = set()
        self._delivering, self._undelivered = Level(env.now), Level(env.now)
        self._shaking, self._unshaken = Level(env.now), Level(env.now)  # if the service has one loop
        self._full: set[int] = set()  # connections whose link is full for now
        self._free_at = 0.0
        self._working = False
        self._wake_at = float("inf")
        self._is_one_loop = model.server.one_loop
        self._handshake_s = model.server.handshake_ms / 1000
        self._batch_s = model.server.delivery_batch_ms / 1000
        # An event in a frame of its own costs one batch, and nothing more.
        self._event_s = 0.0 if settings.sync_frames else model.server.delivery_event_ms / 1000
        self.life = 0  # counts kills: what was in flight to an earlier life is lost

    @property
    def switches(self) -> Switches:
        """The faults and defects in force."""
        return self.runtime.switches

    def loads(self, since_s: float) -> list[StationLoad]:
        """Return the load of each station so far; what is told in one number counts from `since_s` on."""
        until_s, is_one = self._env.now - self._began, self._is_one_loop

        def of(name: str, busy: Level, waiting: Level) -> StationLoad:
            return stations.load(name, 1, stations.FINE_S, busy.means(until_s), waiting.means(until_s), since_s)

        door = self._handshakes.load(stations.HANDSHAKES, until_s, since_s)
        if is_one:
            door = of(stations.HANDSHAKES, self._shaking, self._unshaken)
        backlog = self._model.server.accept_backlog
        door = msgspec.structs.replace(door, places=backlog, refused=self._unanswered, arrived=self._arrived)
        return [
            *([self._mint_limit.load(stations.TOKEN_LIMIT, until_s, since_s)] if self._mint_gap_s else []),
            self._minting.load(stations.MINTING, until_s, since_s),
            door,
            of(stations.EVENT_LOOP if is_one else stations.DELIVERY, self._delivering, self._undelivered),
            self._publishing.load(stations.PUBLISHING, until_s, since_s),
        ]

    # --- control service ----------------------------------------------------------------------------

    def mint(self, session: Session, device: str, answer: Callable[[Token | str], None]) -> None:
        """Answer, in its turn, with a token or a refusal's code."""
        turn, _ = self._mint_limit.admit(self._env.now, self._mint_gap_s)
        self._env.call_at(turn, self._begin_minting, session, device, answer)

    def _begin_minting(self, session: Session, device: str, answer: Callable[[Token | str], None]) -> None:
        _, end = self._minting.admit(self._env.now, self._model.control.mint_ms / 1000)
        wish = session.token_request
        request = TokenRequest(f"session-{wish.account}", topics=wish.topics, device_id=device, ttl_s=wish.ttl_s)
        self._env.call_at(end, self._hold_up, lambda: answer(self._issue(request)))

    def _hold_up(self, issue: Callable[[], None]) -> None:
        """Delay a token while the slow-mint fault lasts, a limited number of tokens at once."""
        if self.switches.mint_delay_ms > 0:
            self.runtime.counters.act("slow_mint")
            self._slow_minting.enter(issue)
        else:
            issue()

    def _issue(self, request: TokenRequest) -> Token | str:
        now, switches = self._env.now, self.switches
        if switches.mint_outage:
            self.runtime.counters.act("mint_outage")
        if switches.mint_ahead_s:
            self.runtime.counters.act("skew_control")
        try:
            moment = now + switches.mint_ahead_s
            answer = self.control.issue(request, moment, outage=switches.mint_outage, defects=switches.defects)
        except ControlRefusedError as error:
            return error.code
        data = answer["data"]
        moments = now + data["refresh_after_in"], now + data["expires_in"]
        told = client_setup.unix_s(data["refresh_after"]), client_setup.unix_s(data["expires_at"])
        return Token(data["token"], *moments, data["kid"], data["session_id"], *told)

    # --- connections --------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Return whether the accept backlog takes another connection; if not, its SYN is not answered."""
        inside = len(self._accept_queue) if self._is_one_loop else self._handshakes.inside(self._env.now)
        has_room = inside < self._model.server.accept_backlog
        self._unanswered += not has_room
        return has_room

    def upgrade(self, asked: Connect, peer: Peer, answer: Callable[[int | str | Refused], None]) -> None:
        """Do a handshake in its turn; answer with a connection's number, or a refusal or its code (`network`: it died)."""
        self._in_handshake[peer] = answer
        place = int((self._env.now - self._began) / stations.FINE_S)
        self._arrived += [0] * (place + 1 - len(self._arrived))
        self._arrived[place] += 1
        if self._is_one_loop:
            self._accept_queue.append((asked, peer))
            self._unshaken.set(self._env.now, len(self._accept_queue))
            self._go_to_work()
            return
        _, end = self._handshakes.admit(self._env.now, self._handshake_s)
        self._env.call_at(end, self._shake, asked, peer)

    def _shake(self, asked: Connect, peer: Peer) -> None:
        if answer := self._in_handshake.pop(peer, None):
            answer(self._open(asked, peer))

    def _open(self, asked: Connect, peer: Peer) -> int | str | Refused:
        try:
            number = self.runtime.open(asked.token.text, asked.metadata, self._env.now)
        except TokenRefusedError as refusal:
            return refusal.code
        except DeliveryDownError:
            return "protocol"
        except UpgradeRefusedError as refusal:
            body = refusal.end.body if self.profile.states_refusals else b""
            return self.profile.refusals.upgrade(msgspec.structs.replace(refusal.end, body=body))
        self._peers[number] = peer
        self._arm()
        return number

    def received(self, number: int, peer: Peer, intent: Intent) -> None:
        """Receive a client's intent; ignore it if its connection is of an earlier life."""
        if self._peers.get(number) is not peer:
            return
        if isinstance(intent, Raw):  # only the frame reader can decide what it is
            self._read(number, intent)
        else:
            self.runtime.received(number, intent, self._env.now)
        for payload in self.runtime.mutations:  # the defect accept_mutation: a socket changes a stream
            topic = next(iter(self.runtime.streams.logs))
            self._append(topic, f"socket-{self._env.now}", canonical_json(msgspec.json.decode(payload)))
        self.runtime.mutations.clear()
        self.kick()

    def _read(self, number: int, sent: Raw) -> None:
        """Read bytes as a WebSocket server does. Without forms on the wire, they are malformed."""
        if self.forms.wire is None:
            self.runtime.malformed(number, "malformed_frame", self._env.now)
            return
        try:
            intent = self.forms.wire.read(sent.data, sent.is_text, self._settings.longest_frame_kib * 1024)
        except BrokenMessageError as error:
            self._hang_up(number, self._env.now, Closed(code=error.status))
        except MalformedFrameError as error:
            self.runtime.malformed(number, error.code, self._env.now)
        else:
            self.runtime.received(number, intent, self._env.now)

    def close(self, number: int, peer: Peer) -> None:
        """Close a connection that the client or its network ended; ignore one of an earlier life."""
        if self._peers.get(number) is peer:
            self.runtime.close(number)
            del self._peers[number]
            self._full.discard(number)

    def has(self, number: int, peer: Peer) -> bool:
        """Return whether this connection is open, as far as the service knows."""
        return self._peers.get(number) is peer

    # --- publishing ---------------------------------------------------------------------------------

    def publish(
        self, topic: str, key: str, event: Mapping[str, object], answer: Callable[[int | Refusal | None], None]
    ) -> None:
        """Append one event; answer with its seq (-1: not stated), a refusal, or None when the runtime is down."""
        if not self.is_up:
            answer(None)
            return
        payload = canonical_json(self._content(event))
        if no := self._limits.refusal(topic, len(payload), self._env.now):
            self.runtime.counters.publish_failed += 1
            answer(no)
            return
        _, end = self._publishing.admit(self._env.now, self._model.server.publish_ms / 1000)
        if delay_ms := self.switches.publish_delay_ms:
            self.runtime.counters.act("slow_publishes")
            end += delay_ms / 1000
        stalled, life = self._appends.begin(topic, self.switches), self.life

        def finish() -> None:
            self._appends.end(topic)
            taken = life == self.life and (stalled or self._take(topic, key, payload, str(event["run_id"])))
            answer(taken or None)

        self._env.call_at(end, finish)

    def _content(self, event: Mapping[str, object]) -> object:
        """Return what subscribers get of a published event; the number of an event that is tried again does not count."""
        run_id = str(event["run_id"])
        number = self._events_of.get(run_id, 0) + 1
        return self.profile.content(Publication(run_id, str(event["event_type"]), event["payload"], number, self._env.now))

    def create_run(self, run_id: str) -> None:
        """Create a run, with the event that it begins with, if any."""
        if self.profile.first_event is not None:
            kind, payload = self.profile.first_event
            content = self._content({"run_id": run_id, "event_type": kind, "payload": payload})
            self._append(self.profile.topics.of_event(run_id, kind), f"{run_id}-{kind}", canonical_json(content), run_id)

    def _take(self, topic: str, key: str, payload: bytes, run_id: str) -> int | Refusal:
        """Process a publish whose turn has come, under the faults in force; return its seq or a refusal."""
        counters, defects = self.runtime.counters, self.switches.defects
        broken = failure(self.switches, counters)
        if broken is not None and is_acknowledged_unwritten(self.switches):
            return self.runtime.streams.head(topic) + 1 if self.profile.answers_position else -1
        if broken is not None:
            counters.publish_failed += 1
        if broken is not None and not broken.is_taken:
            return broken
        if "forget_idempotency_keys" in defects:
            key = f"{key}, try {counters.publish_tries}"
        appended = self._append(topic, key, payload, run_id)
        if misbehaviours.is_unanswered(self.switches, appended):
            broken = no_answer()
        return broken or (appended if self.profile.answers_position else -1)

    def _append(self, topic: str, key: str, payload: bytes, run_id: str = "") -> int:
        done = self.runtime.streams.log(topic).append(key, payload, self._env.now)
        if not done.duplicate:
            self._events_of[run_id] = self._events_of.get(run_id, 0) + 1
            self.runtime.counters.published += 1
            self._mirror(topic, self.runtime.counters.published)
        return done.entry.seq

    def _mirror(self, topic: str, number: int, tries: int = 1) -> None:
        """Announce an event if the mirror takes it, or try again. After the last try it arrives with the topic's next event."""
        server = self._model.server
        if draw(self.switches.seed, "mirror", number, tries) >= server.mirror_failure_share:
            self.runtime.announce(topic, self._env.now)
            self.kick()
        elif tries < server.mirror_tries:
            self._env.call_at(self._env.now + server.mirror_retry_ms / 1000, self._mirror, topic, number, tries + 1)
        else:
            self.runtime.counters.publish_failed += 1

    # --- delivery -----------------------------------------------------------------------------------

    def kick(self) -> None:
        """Queue every connection that has something to receive for the delivery worker."""
        self._line_up(sorted(self.runtime.ready()))  # a set, sorted so that runs repeat exactly
        self._arm()

    def _line_up(self, numbers: Iterable[int]) -> None:
        queued = self._queued
        new = [number for number in numbers if number not in queued]
        queued.update(new)
        self._waiting.extend(new)
        self._undelivered.set(self._env.now, len(self._waiting))
        self._go_to_work()

    def _go_to_work(self) -> None:
        if not self._working and (self._waiting or self._accept_queue):
            self._working = True
            self._env.call_at(self._free_at, self._work)

    def _work(self) -> None:
        """Send frames for one quantum, one frame per turn. If this worker also does handshakes, do them when no frame waits."""
        now = self._env.now
        done_at, until = now, now + WORK_QUANTUM_S
        waiting, queued, full, peers, runtime = self._waiting, self._queued, self._full, self._peers, self.runtime
        while waiting and done_at <= until:
            number = waiting.popleft()
            if number in full:
                queued.discard(number)
                continue
            if message := runtime.pull(number, now):
                events = 0
                for each in message:
                    if isinstance(each, Batch):
                        events += len(each.items)
                done_at += self._batch_s + events * self._event_s
                if peer := peers.get(number):
                    peer.sends(message, done_at)
            if runtime.owes(number):
                waiting.append(number)
                continue
            queued.discard(number)
            if runtime.is_closing(number):
                self._hang_up(number, done_at, runtime.end_of(number))
        while self._accept_queue and done_at <= until:
            self._shaking.between(done_at, done_at + self._handshake_s)
            done_at += self._handshake_s
            self._env.call_at(done_at, self._shake, *self._accept_queue.popleft())
        self._free_at = done_at
        self._delivering.between(now, done_at)
        for level, still in ((self._undelivered, waiting), (self._unshaken, self._accept_queue)):
            level.set((now + done_at) / 2, len(still))  # they left one after the other
        self._working = bool(waiting or self._accept_queue)
        if self._working:
            self._env.call_at(done_at, self._work)

    def hold(self, number: int) -> None:
        """Stop sending to this connection: its link is full."""
        if number in self._peers:
            self._full.add(number)

    def release(self, number: int) -> None:
        """Resume sending to this connection: its link has room again."""
        if number in self._full:
            self._full.discard(number)
            self._line_up([number])

    def _hang_up(self, number: int, moment: float, event: Closed) -> None:
        peer = self._peers.pop(number, None)
        self.runtime.close(number)
        if peer is not None:
            self._env.call_at(moment, peer.lost, event)

    # --- the runtime's own deadlines ----------------------------------------------------------------

    def _arm(self) -> None:
        wake_at = self.runtime.wake_at()
        if wake_at < self._wake_at:
            self._wake_at = wake_at
            life = self.life
            self._env.call_at(wake_at, lambda: self._wake(wake_at, life))

    def _wake(self, moment: float, life: int) -> None:
        if life == self.life and moment == self._wake_at:
            self._wake_at = float("inf")
            self.runtime.wake(max(self._env.now, moment))
            self.kick()

    # --- faults -------------------------------------------------------------------------------------

    def set_switches(self, switches: Switches) -> int:
        """Put faults in force; return how many sockets must authenticate again."""
        expelled = self.runtime.set_switches(switches)
        self._slow_minting.set(switches.mint_concurrency or NO_LIMIT, switches.mint_delay_ms / 1000)
        self.kick()
        return expelled

    def rotate_keys(self) -> str:
        """Sign with a new key, and still accept tokens that the old key signed; return the new key's id."""
        self._rotations += 1
        kid = f"{_KEY.kid}-{self._rotations}"
        self.control.rotate(Key(kid, hashlib.sha256(kid.encode()).digest()))
        self.runtime.take_keys(self.control.keyring)
        return kid

    def retire_keys(self) -> None:
        """Accept only tokens that the newest key signed."""
        self.control.retire_old_keys()
        self.runtime.take_keys(self.control.keyring)

    def revoke(self, tokens: Sequence[Token]) -> int:
        """Revoke the sessions of tokens; return how many."""
        self.runtime.revoke([token.session_id for token in tokens])
        self.kick()
        return len(tokens)

    def hang_up(self, clients: Iterable[int]) -> int:
        """Close these clients' sockets; return how many."""
        closed = self.runtime.hang_up({device_id(client) for client in clients})
        self.kick()
        return closed

    def recreate_log(self, topic: str) -> int:
        """Create a topic's log again; return how many events are gone."""
        gone = self.runtime.recreate_log(topic)
        self.kick()
        return gone

    def close_connections(self, order: CloseOrder) -> int:
        """Close connections with chosen codes; return how many."""
        closed = self.runtime.closing.follow(order)
        self.kick()
        return closed

    def kill(self) -> None:
        """End the runtime's process and every connection; acknowledged events stay in its log."""
        self.is_up = False
        self.life += 1
        peers, self._peers = self._peers, {}
        waiting, self._in_handshake = self._in_handshake, {}
        self._waiting.clear()
        self._accept_queue.clear()
        for level in (self._undelivered, self._unshaken):
            level.set(self._env.now, 0)
        self._queued.clear()
        self._full.clear()
        self._wake_at = float("inf")
        for station in (self._handshakes, self._publishing):
            station.clear(self._env.now)
        for peer in peers.values():
            peer.lost(_LOST)
        for answer in waiting.values():
            answer("network")

    def restart(self) -> None:
        """Start the runtime again, with only its log."""
        before, habits = self.runtime, self.profile.streams
        is_kept = (habits is None or habits.keeps_log) and "lose_log_on_restart" not in before.switches.defects
        self.runtime = runtime_of(self._settings, self.control.keyring, self.profile, before.switches)
        self.runtime.counters = before.counters
        self.runtime.streams.follow(before.streams, is_kept=is_kept)
        self._limits = PublishLimits(self._settings, self.profile)
        self.is_up = True
