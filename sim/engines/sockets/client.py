"""Drives one `Session` over a real socket on asyncio: connects, mints, and wakes the session when it is due."""

import asyncio
from collections.abc import Awaitable, Callable

from sim.base import certificates
from sim.base.clocks import WallClock
from sim.base.errors import TargetError, shortage
from sim.client.actions import Token
from sim.client.session import Session
from sim.engines.shared.pacer import Pacer
from sim.engines.shared.service_api import MintFailedError
from sim.engines.shared.session_driver import NEVER, NO_WAIT_S, SessionDriver
from sim.engines.sockets.socket import ClientSocket, ClientStream, TcpEnd
from sim.protocols.adapter import Open, Transport
from sim.record.parquet import Collector

_PROXY_HOST = "127.0.0.1"

MintToken = Callable[[Session], Awaitable[Token]]


class ClientDriver(SessionDriver):
    """One client over sockets.

    `socket_url` is `ws://host:port/path` without the token. With a `port`, the client connects to that port of this machine
    instead.
    """

    _clock: WallClock
    _wires: dict[int, TcpEnd]  # type: ignore[assignment]

    def __init__(
        self,
        session: Session,
        socket_url: str,
        mint: MintToken,
        clock: WallClock,
        recorder: Collector,
        port: int | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        super().__init__(session, socket_url, clock, recorder, pacer)
        self._port = port
        self._reads = True
        self._mint = mint
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    def start(self) -> None:
        """See `SessionDriver`."""
        if self._must_wait():
            self._arm(self._may_connect_at, self.start)
            return
        self._disarm()
        now = self._clock.now()
        self.session.start(now)
        self._pump(now)

    def read(self, reads: bool) -> bool:
        """Start or stop reading this client's sockets; return whether one is open now. Unread data stays in the kernel."""
        self._reads = reads
        for wire in self._wires.values():
            wire.read(reads)
        return bool(self._wires)

    def _drop_work(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._disarm()

    # --- connecting and minting ---------------------------------------------------------------------

    def _begin_open(self, wanted: Open) -> None:
        kind = ClientSocket if wanted.transport is Transport.WEBSOCKET else ClientStream
        wire = self._wires[wanted.id] = kind(self, wanted)
        self._spawn(self._dial(wire))

    def _begin_mint(self) -> None:
        self._spawn(self._ask_for_token())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": str(error), "exception": error})

    async def _dial(self, wire: TcpEnd) -> None:
        if (other := self._reusable_for(wire)) is not None and wire.take_over(other):  # type: ignore[arg-type]
            return
        for wait_s in self._waits_to_dial():
            await asyncio.sleep(wait_s)
        if self._wires.get(wire.id) is not wire:  # cut while it waited
            return
        if self._clock.now() < self._offline_until:
            self._failed(wire)
            return
        host, port = (wire.host, wire.port) if self._port is None else (_PROXY_HOST, self._port)
        name = wire.host if wire.is_secure and self._port is not None else None
        tls = certificates.trusted() if wire.is_secure else None
        wire.read(self._reads)
        try:
            await self._loop.create_connection(lambda: wire, host, port, ssl=tls, server_hostname=name)
        except OSError as error:
            if (ours := shortage(error)) is not None:
                raise ours from None
            self._failed(wire)

    async def _ask_for_token(self) -> None:
        try:
            token = await self._mint(self.session)
        except (MintFailedError, TargetError) as error:
            self._fail_mint(error)
        else:
            self._has_token(token)

    # --- time ---------------------------------------------------------------------------------------

    def _wake_in_time(self, wake_at: float) -> None:
        if wake_at < self._timer_at:
            self._arm(wake_at)

    def _arm(self, moment: float, then: Callable[[], None] | None = None) -> None:
        self._disarm()
        self._timer_at = moment
        self._timer = self._loop.call_at(self._clock.loop_time(moment), then or self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, NEVER

    def _wake(self) -> None:
        """Wake the session if it is due. If its deadline has moved, set the timer again."""
        self._timer, self._timer_at = None, NEVER
        now = self._clock.now()
        if self.session.wake_at() <= now + NO_WAIT_S:
            if self.session.state.name == "BACKOFF" and self._must_wait():
                self._arm(self._may_connect_at)
                return
            self.session.wake(max(now, self.session.wake_at()))
        self._pump(now)
        if self._timer is None and self.session.wake_at() < NEVER:
            self._arm(self.session.wake_at())
