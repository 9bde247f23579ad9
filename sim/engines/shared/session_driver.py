"""Drives a `Session` over a real socket: carries out actions, reports events, and records notices.

The subclasses wait: `ClientDriver` with asyncio callbacks, and `WireClient` (load tests) in one greenlet per client.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from sim.base.clocks import RunClock
from sim.base.errors import TargetError
from sim.client.actions import Action, Close, Connect, Send, Token
from sim.client.notices import Notice
from sim.client.session import Session
from sim.drill.fault_kinds import RestartClients
from sim.engines.shared import client_setup
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.service_api import MintFailedError
from sim.engines.shared.withholding import Withholding
from sim.engines.transports.wire import Wire
from sim.protocols import adapter, registry
from sim.protocols.adapter import TransportEnd
from sim.protocols.events import Message
from sim.record.parquet import Collector

NEVER = float("inf")
NO_WAIT_S = 0.0005  # shorter waits are skipped, because timers are not that exact


class SessionDriver(ABC):
    """One client over sockets. Subclasses connect, mint, and wake the session when it is due."""

    def __init__(
        self, session: Session, socket_url: str, clock: RunClock, recorder: Collector, pacer: Pacer | None = None
    ) -> None:
        self.session = session
        self._socket_url = socket_url
        self.clock_ahead_s = 0.0  # of the client's own clock; only clients that trust their clock use it
        self._clock = clock
        self._recorder = recorder
        self._wires: dict[int, Wire] = {}  # opening or open, by the adapter's identifier
        self._answered: list[Wire] = []  # whose TCP connections can carry another request
        self._reuses = True  # the server does not close such a connection without saying so
        self._connection: adapter.Connection | None = None  # implements the protocol over the wires
        self._offline_until = 0.0
        self._is_dead = False
        self._withholding: Withholding | None = None
        self._pacer = pacer  # limits the connects of all clients to the target's cap
        self._paces_requests = not session.settings.capabilities.is_one_connection  # each opens a TCP connection
        self._may_connect_at = 0.0  # when the pacer allows the next connect; 0: nothing is reserved
        self._asked_at = 0.0  # when the client reserved that connect

    # --- what an engine does with a client ----------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Start to mint and connect as soon as the target's cap allows it."""

    def stop(self) -> None:
        """Stop the client permanently and close its open connection."""
        now = self._clock.now()
        self.session.stop(now)
        self._pump(now)
        self._is_dead = False
        self._drop_work()

    def cut(self, offline_s: float) -> bool:
        """Cut the sockets at once, and block connects for `offline_s`. Return whether there was a socket."""
        self._offline_until = self._clock.now() + offline_s
        connection, cut = self._connection, self._drop_wires()
        self.session.is_cut_by_fault = True
        for wire in cut:
            if connection is not None and connection is self._connection:
                self._take(connection, connection.closed(wire.id, TransportEnd()))
        self.session.is_cut_by_fault = False
        return bool(cut)

    def _drop_wires(self) -> list[Wire]:
        """Abort all connections; returns them."""
        dropped, self._wires = list(self._wires.values()), {}
        for wire in dropped + self._answered:
            wire.abort()
        self._answered.clear()
        return dropped

    def _reusable_for(self, wire: Wire) -> Wire | None:
        """Return an answered request whose TCP connection may carry this one."""
        self._answered = [each for each in self._answered if each.is_reusable]
        found = next((each for each in self._answered if each.origin == wire.origin), None)
        if found is not None:
            self._answered.remove(found)
        return found

    def come_online(self) -> None:
        """Allow connects and deliveries again, correct the clock, and restart a process that is still dead."""
        self._withholding = None
        self._offline_until = 0.0
        self.clock_ahead_s = 0.0
        if self._is_dead:
            self.revive()

    def die(self, fault: RestartClients) -> bool:
        """End like a killed process, and damage the checkpoints; return whether it was running. `revive` restarts it."""
        if self.session.state.name in ("IDLE", "STOPPED"):
            return False
        self._is_dead = True
        self._drop_work()
        self._drop_wires()
        self._record(self._clock.now())
        self.session, rows = client_setup.restart(self.session, fault)
        self._recorder.extend(self._clock.now() - self._clock.began, self.session.client, rows)
        return True

    def withhold(self, withholding: Withholding | None) -> None:
        """Withhold live events from the session from now on; None: no longer."""
        self._withholding = withholding

    def revive(self) -> None:
        """Restart a process that died."""
        if self._is_dead:
            self._is_dead = False
            self.start()

    def carry_on(self) -> None:
        """Carry out what the session was asked for from outside."""
        self._pump(self._clock.now())

    # --- what a socket reports ------------------------------------------------------------------------

    def socket_open(self, wire: Wire, status: int, headers: Mapping[str, str]) -> None:
        """See `Owner`."""
        if (connection := self._connection) is not None:
            self._take(connection, connection.opened(wire.id, status, headers))

    def socket_message(self, wire: Wire, data: bytes, is_text: bool) -> None:
        """See `Owner`."""
        if (connection := self._connection) is None:
            return
        message, now, session = connection.received(wire.id, data, is_text), self._clock.now(), self.session
        self._obey(connection)
        if self._withholding is not None:
            message = self._left(message, self._withholding)
        if (run := session.settings.run_of(message)) is not None and session.follow(run, now):
            self._noticed(now, run.notices)  # nothing else follows from it
        else:
            session.received(message, now)
            self._pump(now)

    def socket_ended(self, wire: Wire, end: TransportEnd) -> None:
        """See `Owner`."""
        if self._wires.get(wire.id) is wire:
            del self._wires[wire.id]
            if wire.is_reusable and self._reuses:
                self._answered.append(wire)
            elif wire.is_reusable:
                wire.close()
            self._reuses = self._reuses and not wire.failed_on_reuse
        if (connection := self._connection) is not None:
            self._take(connection, connection.closed(wire.id, end))

    def _failed(self, wire: Wire) -> None:
        """Handle a TCP connection that could not be opened."""
        if self._wires.get(wire.id) is wire:
            wire.abort()
            self.socket_ended(wire, TransportEnd())

    def _left(self, message: Message, withholding: Withholding) -> Message:
        """Return what the fault leaves of a message, and record what it withholds."""
        left, rows = withholding.split(self.session, message)
        self._recorder.extend(self._clock.now() - self._clock.began, self.session.client, rows)
        return left

    def _take(self, connection: adapter.Connection, message: Message) -> None:
        self._obey(connection)
        if self._withholding is not None:
            message = self._left(message, self._withholding)
        now = self._clock.now()
        self.session.received(message, now)
        self._pump(now)

    # --- what the session wants ---------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Record the notices of what happened at `now`, carry out the session's actions, and schedule its next wake-up."""
        self._record(now)
        while actions := self.session.actions():
            for action in actions:
                self._carry_out(action)
        self._wake_in_time(self.session.wake_at())

    def _record(self, now: float) -> None:
        """Record notices with the time that the session was given.

        Their durations count up to then, and a long message takes time to process: time minus duration is when it was due.
        """
        if notices := self.session.notices():
            self._noticed(now, notices)

    def _noticed(self, now: float, notices: Sequence[Notice]) -> None:
        self._recorder.extend(now - self._clock.began, self.session.client, notices)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Send):
            if self._connection is not None:
                self._hand_over(self._connection, self._connection.send(action.intent))
        elif isinstance(action, Close):
            wires, self._wires, self._connection = [*self._wires.values(), *self._answered], {}, None
            self._answered.clear()
            for wire in wires:
                wire.close()
        elif isinstance(action, Connect):
            self._drop_wires()
            settings = self.session.settings
            whose = f"client {self.session.client}"
            options = registry.ConnectionOptions(self._socket_url, settings.protocol_options, whose)
            self._connection = registry.get(settings.protocol).new_connection(options)
            self._hand_over(self._connection, self._connection.connect(action.credentials))
        else:
            self._begin_mint()

    def _hand_over(self, connection: adapter.Connection, message: Message) -> None:
        """Carry out the adapter's actions, and pass what it returned at once to the session."""
        self._obey(connection)
        if message:
            now = self._clock.now()
            self.session.received(message, now)
            self._record(now)

    def _obey(self, connection: adapter.Connection) -> None:
        """Carry out the adapter's actions."""
        for action in connection.actions():
            if isinstance(action, adapter.Open):
                if (replaced := self._wires.pop(action.id, None)) is not None:
                    replaced.abort()
                self._begin_open(action)
            elif (wire := self._wires.get(action.id)) is None:
                continue
            elif isinstance(action, adapter.Write):
                wire.send(action.data, action.is_text)
            else:
                del self._wires[action.id]
                wire.close()

    def _fail_mint(self, error: MintFailedError | TargetError) -> None:
        now = self._clock.now()
        if self.session.awaits_token:
            code = error.code if isinstance(error, MintFailedError) else "network"
            hint = error.retry_after_ms if isinstance(error, MintFailedError) else None
            self.session.mint_failed(code, now, hint)
        self._pump(now)

    def _has_token(self, token: Token) -> None:
        now = self._clock.now()
        if self.session.awaits_token:
            self.session.minted(client_setup.by_own_clock(token, self.session, self.clock_ahead_s), now)
        self._pump(now)

    def _must_wait(self) -> bool:
        """Return whether the target's cap forbids a connect now. When a connect is allowed, record how long it waited."""
        if self._pacer is None or self._paces_requests:
            return False
        now = self._clock.now()
        if not self._may_connect_at:
            self._asked_at, self._may_connect_at = now, self._pacer.reserve(now)
        if self._may_connect_at <= now + NO_WAIT_S:
            self._may_connect_at = self._pacer.act(max(now, self._may_connect_at))
        if self._may_connect_at > now + NO_WAIT_S:
            return True
        self._may_connect_at = 0.0
        self._note_wait(self._asked_at, now)
        return False

    def _waits_to_dial(self) -> Iterator[float]:
        """Yield seconds to sleep until the target's cap allows a request its own TCP connection."""
        if self._pacer is not None and self._paces_requests:
            asked_at = self._clock.now()
            waited = False
            for wait_s in self._pacer.waits(self._clock.now):
                if wait_s > NO_WAIT_S:
                    waited = True
                    yield wait_s
            if waited:
                self._note_wait(asked_at, self._clock.now())

    def _note_wait(self, asked_at: float, now: float) -> None:
        if (waited_s := now - asked_at) > NO_WAIT_S:
            self._recorder.add(now - self._clock.began, "paced", self.session.client, value=waited_s * 1000)

    # --- what a subclass does -----------------------------------------------------------------------

    @abstractmethod
    def _begin_open(self, wanted: adapter.Open) -> None:
        """Put a new connection among `_wires` and start to connect; call `_failed` if the TCP connection fails."""

    @abstractmethod
    def _begin_mint(self) -> None:
        """Request a token, then call `_has_token` or `_fail_mint`."""

    @abstractmethod
    def _drop_work(self) -> None:
        """Cancel a running mint or connect, and do not wake the session again."""

    @abstractmethod
    def _wake_in_time(self, wake_at: float) -> None:
        """Schedule the session's wake-up for `wake_at`."""
