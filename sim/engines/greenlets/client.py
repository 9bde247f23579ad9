"""Drives one `Session` over a real socket. One greenlet mints, connects, reads, and wakes the session when it is due."""

import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import partial

import gevent
from gevent.event import Event

from sim.base import certificates
from sim.base.clocks import WallClock
from sim.base.errors import TargetError, shortage
from sim.client.notices import Notice
from sim.client.session import Session
from sim.engines.greenlets.http import GreenletHttp
from sim.engines.shared import service_api
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.service_api import MintFailedError
from sim.engines.shared.session_driver import NO_WAIT_S, SessionDriver
from sim.engines.transports.http_stream import HttpStream
from sim.engines.transports.web_socket import WebSocket
from sim.engines.transports.wire import Wire
from sim.protocols.adapter import Open, Transport
from sim.record.parquet import Collector

_READ_BYTES = 65536
_LONGEST_WAIT_S = 3600.0
Listener = Callable[[float, Session, Sequence[Notice]], None]


class TcpEnd(Wire):
    """The TCP connection below a wire. The greenlet that calls `take` reads it."""

    _tcp: socket.socket | None = None

    def dial(self, within_s: float) -> None:
        """Connect and send the request; raise `OSError` on failure."""
        self._tcp = tcp = _connected(self.host, self.port, within_s)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_secure:
            self._tcp = certificates.trusted().wrap_socket(tcp, server_hostname=self.host)
        if self._owner is None:  # cut while it was connecting
            self._cut()
        else:
            self._ask()

    def take_over(self, other: "TcpEnd") -> bool:
        """Send the request on the TCP connection of an answered one. Return whether there was one."""
        self._tcp, other._tcp, other.is_reusable = other._tcp, None, False
        self.is_second = self._tcp is not None
        if self._tcp is not None and self._owner is not None:
            self._ask()
        return self._tcp is not None

    def take(self, within_s: float) -> None:
        """Read once, for at most `within_s`, and report the result to the owner."""
        assert self._tcp is not None
        try:
            self._tcp.settimeout(within_s)
            data = self._tcp.recv(_READ_BYTES)
        except TimeoutError:
            return
        except OSError as error:
            self._take_end(error)  # not reported after our own `close` or `abort`
            self._cut()
            return
        if data:
            self._take_bytes(data)
        else:
            self._take_eof()
            self._take_end(None)
            self._cut()

    def _flush(self) -> None:
        if self._tcp is None:
            return
        for data in self._to_send():
            if not data:
                self._cut()
                return
            with contextlib.suppress(OSError):  # the next read reports the closed connection
                self._tcp.sendall(data)

    def _hang_up(self) -> None:
        self._cut()

    def _cut(self) -> None:
        if self._tcp is not None:
            self._tcp.close()


class GreenSocket(WebSocket, TcpEnd):
    """A WebSocket connection."""


class GreenStream(HttpStream, TcpEnd):
    """A request whose answer is awaited."""


def _connected(host: str, port: int, within_s: float) -> socket.socket:
    """Open a TCP connection. Skip the lookup of a numeric IPv4 address: it needs a thread, in a storm thousands of them."""
    if not host.replace(".", "").isdigit():
        return socket.create_connection((host, port), within_s)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        tcp.settimeout(within_s)
        tcp.connect((host, port))
    except BaseException:
        tcp.close()
        raise
    return tcp


class WireClient(SessionDriver):
    """One client over sockets. Its greenlet calls `run`. `listener` is called with all notices that are recorded."""

    def __init__(
        self,
        session: Session,
        endpoints: GreenletHttp,
        clock: WallClock,
        recorder: Collector,
        listener: Listener,
        pacer: Pacer | None = None,
    ) -> None:
        super().__init__(session, endpoints.endpoints.socket_url, clock, recorder, pacer)
        self._endpoints = endpoints
        self._listener = listener
        self._nudged = Event()
        self._todo: Callable[[], None] | None = None
        self._main: GreenSocket | None = None  # the one connection that the client's own greenlet reads
        self._is_over = False
        self._failure: Exception | None = None  # of a greenlet that reads one request; the client's own raises it

    def run(self, arrives_at: float) -> None:
        """Start at the moment `arrives_at`, and continue until `stop`."""
        while (wait_s := arrives_at - self._clock.now()) > 0 and not self._is_over:
            self._nudged.wait(wait_s)
        if not self._is_over:
            self.start()
        while not self._is_over:
            self._live_on()

    def start(self) -> None:
        """See `SessionDriver`."""
        if self._must_wait():
            self._todo = self._start_later
            self._nudged.set()
            return
        now = self._clock.now()
        self.session.start(now)
        self._pump(now)

    def _start_later(self) -> None:
        self._nudged.wait(max(self._may_connect_at - self._clock.now(), 0))
        if not self._is_over and not self._is_dead:
            self.start()

    def stop(self) -> None:
        """See `SessionDriver`."""
        self._is_over = True
        super().stop()
        self._nudged.set()

    def _live_on(self) -> None:
        """Do the next work, or wait for data, for a deadline, or for new work."""
        self._nudged.clear()
        if self._failure is not None:
            raise self._failure
        left_s = min(self.session.wake_at() - self._clock.now(), _LONGEST_WAIT_S)
        todo, self._todo = self._todo, None
        if todo is not None:
            todo()
        elif left_s <= NO_WAIT_S and self.session.state.name == "BACKOFF" and self._must_wait():
            self._nudged.wait(max(self._may_connect_at - self._clock.now(), 0))
        elif left_s <= NO_WAIT_S:
            now = self._clock.now()
            self.session.wake(max(now, self.session.wake_at()))
            self._pump(now)
        elif self._main is not None and self._is_wanted(self._main):
            self._main.take(left_s)
        else:
            self._nudged.wait(left_s)

    # --- minting and connecting ---------------------------------------------------------------------

    def _begin_mint(self) -> None:
        self._todo = self._mint
        self._nudged.set()

    def _begin_open(self, wanted: Open) -> None:
        if wanted.transport is Transport.WEBSOCKET and self.session.settings.capabilities.is_one_connection:
            self._wires[wanted.id] = self._main = GreenSocket(self, wanted)
            self._todo = partial(self._connect, self._main)
            self._nudged.set()
        else:
            kind = GreenSocket if wanted.transport is Transport.WEBSOCKET else GreenStream
            wire = self._wires[wanted.id] = kind(self, wanted)
            gevent.spawn(self._read_to_its_end, wire)

    def _is_wanted(self, wire: TcpEnd) -> bool:
        return self._wires.get(wire.id) is wire

    def _read_to_its_end(self, wire: TcpEnd) -> None:
        """Connect and read in a greenlet of its own, one for each open request."""
        try:
            if self._dial(wire, self.session.settings.reply_timeout_s):
                while self._is_wanted(wire):
                    wire.take(_LONGEST_WAIT_S)
            else:
                self._failed(wire)
        except Exception as error:
            self._failure = error
            self._nudged.set()

    def _mint(self) -> None:
        asking = self.session
        try:
            token = self._endpoints.ask(service_api.mint, asking)
        except (MintFailedError, TargetError) as error:
            if asking is self.session:
                self._fail_mint(error)
        else:
            if asking is self.session:
                self._has_token(token)

    def _connect(self, wire: GreenSocket) -> None:
        is_connected = self._dial(wire, max(self.session.wake_at() - self._clock.now(), NO_WAIT_S))
        # After its own connect time-out, the session handles the failure itself.
        if not is_connected and self.session.wake_at() > self._clock.now() + NO_WAIT_S:
            self._failed(wire)

    def _dial(self, wire: TcpEnd, within_s: float) -> bool:
        if (other := self._reusable_for(wire)) is not None and wire.take_over(other):  # type: ignore[arg-type]
            return True
        for wait_s in self._waits_to_dial():
            gevent.sleep(wait_s)
        if self._clock.now() < self._offline_until:
            return False
        try:
            wire.dial(within_s)
        except OSError as error:
            if (ours := shortage(error)) is not None:
                raise ours from None
            return False
        return True

    def _drop_work(self) -> None:
        self._todo = None
        self._nudged.set()

    def _wake_in_time(self, wake_at: float) -> None:
        """End the current wait, because `_live_on` reads the wake-up time only before each wait."""
        self._nudged.set()

    def _noticed(self, now: float, notices: Sequence[Notice]) -> None:
        super()._noticed(now, notices)
        self._listener(now, self.session, notices)
