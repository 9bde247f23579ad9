"""Drives one ClientSession over a real socket: carries out its actions, tells it what happened, wakes it in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import quote

from websockets.uri import WebSocketURI, parse_uri

from sim.contract.actions import Action, Close, Connect, Send, Token
from sim.contract.client import ClientSession
from sim.contract.codec import decode_server, encode_client
from sim.engines import course
from sim.engines.pacer import Pacer
from sim.engines.socket import ClientSocket
from sim.errors import MalformedFrameError, TargetError
from sim.fault_kinds import RestartClients
from sim.observations import Recorder

NEVER = float("inf")
_PROXY_HOST = "127.0.0.1"
_NO_WAIT_S = 0.0005  # as exact as timers are


class MintFailedError(Exception):
    """No token: the refusal's code, and when to try again."""

    def __init__(self, code: str, retry_after_ms: float | None = None) -> None:
        super().__init__(code)
        self.code, self.retry_after_ms = code, retry_after_ms


MintToken = Callable[[ClientSession], Awaitable[Token]]


class Clock(Protocol):
    """Unix seconds that never go back, and when the run began."""

    began: float

    def now(self) -> float:
        """Unix seconds."""


class WallClock:
    """The machine's wall clock at the start, carried on by its monotonic clock."""

    def __init__(self) -> None:
        self.began = time.time()
        self._offset = self.began - time.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self._offset

    def loop_time(self, moment: float) -> float:
        """A moment as the event loop counts."""
        return moment - self._offset


class ClientDriver:
    """One client's life over sockets.

    `socket_url` is `ws://host:port/path` without the token; `port` is one on this machine to connect to instead.
    """

    def __init__(
        self,
        session: ClientSession,
        socket_url: str,
        mint: MintToken,
        clock: WallClock,
        recorder: Recorder,
        port: int | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        self.session = session
        self._socket_url = socket_url
        self._port = port
        self._reads = True
        self.clock_ahead_s = 0.0  # by so much its own clock is off, which only who trusts it goes by
        self._mint = mint
        self._clock = clock
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._socket: ClientSocket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._offline_until = 0.0
        self._is_dead = False
        self._pacer = pacer  # keeps all clients' connects to the target's cap
        self._may_connect_at = 0.0  # the moment it gave this client for its next connect; 0: none
        self._asked_at = 0.0  # when it was asked for that

    # --- what the engine does with a client ---------------------------------------------------------

    def start(self) -> None:
        """Begin to mint and connect, as soon as the target's cap allows."""
        if self._must_wait():
            self._arm(self._may_connect_at, self.start)
            return
        self._disarm()
        self.session.start(self._clock.now())
        self._pump()

    def stop(self) -> None:
        """End for good; what is still open is closed."""
        self.session.stop(self._clock.now())
        self._pump()
        self._is_dead = False
        for task in self._tasks:
            task.cancel()
        self._disarm()

    def cut(self, offline_s: float) -> bool:
        """Cut the socket at once, and for a while let no connect through; True if there was one to cut."""
        now = self._clock.now()
        self._offline_until = now + offline_s
        socket, self._socket = self._socket, None
        if socket is None:
            return False
        socket.abort()
        self._socket_gone("Connection reset by peer", now)
        return True

    def come_online(self) -> None:
        """Let connects through again; a process that is still down begins again."""
        self._offline_until = 0.0
        self.clock_ahead_s = 0.0
        if self._is_dead:
            self.revive()

    def die(self, fault: RestartClients) -> bool:
        """End as a killed process does, with its checkpoints damaged; True if it was running. `revive` starts the next life."""
        if self.session.state.name in ("IDLE", "STOPPED"):
            return False
        self._is_dead = True
        for task in self._tasks:
            task.cancel()
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.abort()
        self._record()
        self.session, rows = course.restart(self.session, fault)
        self._recorder.extend(self._clock.now() - self._clock.began, self.session.client, rows)
        return True

    def revive(self) -> None:
        """Start the next life of a process that died."""
        if self._is_dead:
            self._is_dead = False
            self.start()

    def read(self, reads: bool) -> bool:
        """Read this client's sockets, or leave what comes to the kernel; True if there is one open now."""
        self._reads = reads
        if self._socket is None:
            return False
        self._socket.read(reads)
        return True

    # --- what the socket tells ----------------------------------------------------------------------

    def socket_open(self, socket: ClientSocket) -> None:
        """The upgrade succeeded."""
        self._socket = socket
        self.session.connected(self._clock.now())
        self._pump()

    def socket_refused(self, socket: ClientSocket, code: str) -> None:
        """The upgrade was refused, or never came about."""
        self._socket = None
        self.session.connect_failed(code, self._clock.now())
        self._pump()

    def socket_text(self, socket: ClientSocket, text: bytes) -> None:
        """A frame came in."""
        now = self._clock.now()
        try:
            frame = decode_server(text)
        except MalformedFrameError as error:
            self.session.malformed(error.code, now)
        else:
            self.session.received(frame, now)
        self._pump()

    def socket_lost(self, socket: ClientSocket, reason: str) -> None:
        """The other side, or the network, ended the connection."""
        self._socket = None
        self._socket_gone(reason, self._clock.now())

    def _socket_gone(self, reason: str, now: float) -> None:
        if self.session.state.name == "CONNECTING":
            self.session.connect_failed("network", now)
        else:
            self.session.disconnected(reason, now)
        self._pump()

    # --- what the session wants ---------------------------------------------------------------------

    def _pump(self) -> None:
        while actions := self.session.actions():
            for action in actions:
                self._carry_out(action)
        self._record()
        wake_at = self.session.wake_at()
        if wake_at < self._timer_at:
            self._arm(wake_at)

    def _record(self) -> None:
        if notices := self.session.notices():
            self._recorder.extend(self._clock.now() - self._clock.began, self.session.client, notices)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Send):
            if self._socket is not None:
                self._socket.send(encode_client(action.frame))
        elif isinstance(action, Close):
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        elif isinstance(action, Connect):
            self._spawn(self._connect(action.token))
        else:
            self._spawn(self._ask_for_token())

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, token: Token) -> None:
        if self._clock.now() < self._offline_until:
            self._fail_connect()
            return
        uri = parse_uri(f"{self._socket_url}?token={quote(token.text)}&vsn=2.0.0")
        socket = self._socket = ClientSocket(uri, self)
        try:
            await self._dial(socket, uri)
        except OSError:
            if self._socket is socket:
                self._socket = None
                self._fail_connect()

    async def _dial(self, socket: ClientSocket, uri: WebSocketURI) -> None:
        host, port = (uri.host, uri.port) if self._port is None else (_PROXY_HOST, self._port)
        name = uri.host if uri.secure and self._port is not None else None
        socket.read(self._reads)
        await self._loop.create_connection(lambda: socket, host, port, ssl=uri.secure or None, server_hostname=name)

    def _fail_connect(self) -> None:
        if self.session.state.name == "CONNECTING":
            self.session.connect_failed("network", self._clock.now())
            self._pump()

    async def _ask_for_token(self) -> None:
        try:
            token = await self._mint(self.session)
        except (MintFailedError, TargetError) as error:
            if self.session.state.name == "MINTING":
                code = error.code if isinstance(error, MintFailedError) else "network"
                hint = error.retry_after_ms if isinstance(error, MintFailedError) else None
                self.session.mint_failed(code, self._clock.now(), hint)
        else:
            if self.session.state.name == "MINTING":
                self.session.minted(course.by_own_clock(token, self.session, self.clock_ahead_s), self._clock.now())
        self._pump()

    def _must_wait(self) -> bool:
        """Whether the target's cap forbids an attempt just now; once one may be made, what was waited for it is recorded."""
        if self._pacer is None:
            return False
        now = self._clock.now()
        if not self._may_connect_at:
            self._asked_at, self._may_connect_at = now, self._pacer.reserve(now)
        if self._may_connect_at <= now + _NO_WAIT_S:
            self._may_connect_at = self._pacer.act(max(now, self._may_connect_at))
        if self._may_connect_at > now + _NO_WAIT_S:
            return True
        self._may_connect_at = 0.0
        if (waited_s := now - self._asked_at) > _NO_WAIT_S:
            self._recorder.add(now - self._clock.began, "paced", self.session.client, value=waited_s * 1000)
        return False

    # --- time ---------------------------------------------------------------------------------------

    def _arm(self, moment: float, then: Callable[[], None] | None = None) -> None:
        self._disarm()
        self._timer_at = moment
        self._timer = self._loop.call_at(self._clock.loop_time(moment), then or self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, NEVER

    def _wake(self) -> None:
        """Wake the session if it is time; deadlines that moved away meanwhile only cost this one look."""
        self._timer, self._timer_at = None, NEVER
        if self.session.wake_at() <= self._clock.now() + 0.0005:
            if self.session.state.name == "BACKOFF" and self._must_wait():
                self._arm(self._may_connect_at)
                return
            self.session.wake(max(self._clock.now(), self.session.wake_at()))
        self._pump()
        if self._timer is None and self.session.wake_at() < NEVER:
            self._arm(self.session.wake_at())
