"""One simulated client: the same ClientSession as on the wire, its network a delay each way.

Bytes arrive in the order they were sent, as TCP has it, so a frame never overtakes the one before. Whatever was on its
way when a connection ended is dropped: every connection has a number of its own that callbacks carry.
"""

import math
from collections.abc import Callable

import simpy

from sim.contract.actions import Action, Close, Connect, Send, Token
from sim.contract.chance import draw
from sim.contract.client import ClientSession, State
from sim.contract.frames import ClientFrame, ServerFrame
from sim.engines.virtual_lane import VirtualLane, call_at
from sim.observations import Recorder
from sim.system_model import SystemModel

NEVER = math.inf


class VirtualClient:
    """`began` is when the run did, in the environment's time."""

    def __init__(
        self,
        env: simpy.Environment,
        session: ClientSession,
        lane: VirtualLane,
        model: SystemModel,
        recorder: Recorder,
        began: float,
    ) -> None:
        self.session = session
        self._env = env
        self._lane = lane
        self._model = model
        self._recorder = recorder
        self._began = began
        self.delay_s = one_way_delay_s(model, session.settings.seed, session.client)
        self._life = 0  # of the connection under way or open
        self._number = 0  # the lane's, once open
        self._up_free = self._down_free = 0.0  # when the last bytes each way arrive
        self._timer_at = NEVER
        self._offline_until = 0.0
        self.mint_ms: list[tuple[float, float]] = []

    # --- what the engine does with a client ---------------------------------------------------------

    def start(self) -> None:
        """Begin to mint and connect."""
        self.session.start(self._env.now)
        self._pump()

    def cut(self, offline_s: float) -> bool:
        """Cut the socket at once, and for a while let no connect through; True if there was one to cut."""
        self._offline_until = self._env.now + offline_s
        state = self.session.state
        if state not in (State.CONNECTING, State.JOINING, State.SUBSCRIBING, State.LIVE):
            return False
        self._abandon()
        if state is State.CONNECTING:
            self.session.connect_failed("network", self._env.now)
        else:
            self.session.disconnected("Connection reset by peer", self._env.now)
        self._pump()
        return True

    def come_online(self) -> None:
        """Let connects through again."""
        self._offline_until = 0.0

    # --- what the lane tells, through a connection's own link ---------------------------------------

    def sent(self, frame: ServerFrame, moment: float, life: int) -> None:
        """The lane puts a frame on the wire of connection `life` at `moment`."""
        if life == self._life:
            self._down_free = max(self._down_free, moment + self.delay_s)
            call_at(self._env, self._down_free, lambda: self._arrives(frame, life))

    def _arrives(self, frame: ServerFrame, life: int) -> None:
        if life == self._life:
            self.session.received(frame, self._env.now)
            self._pump()

    def hung_up(self, life: int) -> None:
        """The lane closed connection `life`, or died; the news takes a delay."""
        if life == self._life:
            call_at(self._env, max(self._down_free, self._env.now + self.delay_s), lambda: self._is_lost(life))

    def _is_lost(self, life: int) -> None:
        if life != self._life:
            return
        self._number = 0
        self._life += 1
        if self.session.state is State.CONNECTING:
            self.session.connect_failed("network", self._env.now)
        else:
            self.session.disconnected("spacetime websocket closed", self._env.now)
        self._pump()

    # --- what the session wants ---------------------------------------------------------------------

    def _pump(self) -> None:
        while actions := self.session.actions():
            for action in actions:
                self._carry_out(action)
        if notices := self.session.notices():
            self._recorder.extend(self._env.now - self._began, self.session.client, notices)
        wake_at = self.session.wake_at()
        if wake_at < self._timer_at:
            self._arm(wake_at)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Send):
            self._send(action.frame)
        elif isinstance(action, Close):
            self._abandon()
        elif isinstance(action, Connect):
            self._connect(action.token)
        else:
            self._mint()

    def _send(self, frame: ClientFrame) -> None:
        number, life = self._number, self._life
        self._up_free = max(self._up_free, self._env.now + self.delay_s)
        call_at(self._env, self._up_free, lambda: self._lane.received(number, frame) if life == self._life else None)

    def _abandon(self) -> None:
        """Leave the connection; the lane hears of it a delay later."""
        number, self._number = self._number, 0
        self._life += 1
        if number:
            lane_life = self._lane.life
            gone_at = max(self._up_free, self._env.now + self.delay_s)
            call_at(self._env, gone_at, lambda: self._lane.close(number) if lane_life == self._lane.life else None)

    # --- minting ------------------------------------------------------------------------------------

    def _mint(self) -> None:
        asked = self._env.now
        device = f"client-{self.session.client}"
        call_at(self._env, asked + self.delay_s, lambda: self._lane.mint(self.session, device, self._back(asked)))

    def _back(self, asked: float) -> Callable[[Token | str], None]:
        def answer(token: Token | str) -> None:
            call_at(self._env, self._env.now + self.delay_s, lambda: self._minted(token, asked))

        return answer

    def _minted(self, token: Token | str, asked: float) -> None:
        now = self._env.now
        self.mint_ms.append((asked, (now - asked) * 1000))
        if self.session.state is State.MINTING:
            if isinstance(token, Token):
                self.session.minted(token, now)
            else:
                self.session.mint_failed(token, now)
            self._pump()

    # --- connecting ---------------------------------------------------------------------------------

    def _connect(self, token: Token) -> None:
        self._life += 1
        self._up_free = self._down_free = 0.0
        life = self._life
        if self._env.now < self._offline_until:
            call_at(self._env, self._env.now, lambda: self._refused("network", life))
        else:
            self._syn(token, life, self._model.syn_retry_s)

    def _syn(self, token: Token, life: int, retry_s: float) -> None:
        call_at(self._env, self._env.now + self.delay_s, lambda: self._syn_arrives(token, life, retry_s))

    def _syn_arrives(self, token: Token, life: int, retry_s: float) -> None:
        """Answered, refused as no one listens, or dropped as the backlog is full: then the kernel tries again."""
        if life != self._life:
            return
        if not self._lane.is_up:
            call_at(self._env, self._env.now + self.delay_s, lambda: self._refused("network", life))
        elif self._lane.has_room():
            round_trip_s = 2 * self.delay_s  # SYN-ACK down, the upgrade request up
            call_at(self._env, self._env.now + round_trip_s, lambda: self._upgrade(token, life))
        else:
            again = self._env.now - self.delay_s + retry_s
            call_at(self._env, again, lambda: self._syn(token, life, 2 * retry_s) if life == self._life else None)

    def _upgrade(self, token: Token, life: int) -> None:
        if life != self._life:
            return
        if not self._lane.is_up:
            call_at(self._env, self._env.now + self.delay_s, lambda: self._refused("network", life))
            return
        self._lane.upgrade(token, Link(self, life), lambda outcome: self._upgraded(outcome, life))

    def _upgraded(self, outcome: int | str, life: int) -> None:
        """The lane has answered; the answer arrives a delay later."""
        if life != self._life:
            if isinstance(outcome, int):
                self._lane.close(outcome)
            return
        if isinstance(outcome, int):
            self._number = outcome
        arrives = self._env.now + self.delay_s
        self._down_free = arrives
        call_at(self._env, arrives, lambda: self._open(life) if isinstance(outcome, int) else self._refused(outcome, life))

    def _open(self, life: int) -> None:
        if life == self._life:
            self.session.connected(self._env.now)
            self._pump()

    def _refused(self, code: str, life: int) -> None:
        if life == self._life:
            self._life += 1
            self.session.connect_failed(code, self._env.now)
            self._pump()

    # --- time ---------------------------------------------------------------------------------------

    def _arm(self, moment: float) -> None:
        self._timer_at = moment
        call_at(self._env, moment, lambda: self._wake(moment))

    def _wake(self, moment: float) -> None:
        """A timer that is no longer the armed one only costs this look."""
        if moment != self._timer_at:
            return
        self._timer_at = NEVER
        if self.session.wake_at() <= moment:
            self.session.wake(max(self._env.now, moment))
        self._pump()
        wake_at = self.session.wake_at()
        if self._timer_at == NEVER and wake_at < NEVER:
            self._arm(wake_at)


class Link:
    """One connection of a client, as the lane holds it: what it says about an old one never reaches a new one."""

    __slots__ = ("_client", "_life")

    def __init__(self, client: VirtualClient, life: int) -> None:
        self._client = client
        self._life = life

    def sends(self, frame: ServerFrame, moment: float) -> None:
        """A frame is put on the wire at `moment`."""
        self._client.sent(frame, moment, self._life)

    def lost(self) -> None:
        """The connection is closed from the lane's side now."""
        self._client.hung_up(self._life)


def one_way_delay_s(model: SystemModel, seed: int, client: int) -> float:
    """A client's own delay each way, in seconds: log-normal over clients, by the Box-Muller transform of two draws."""
    network = model.network
    u, v = 1.0 - draw(seed, "delay_u", client), draw(seed, "delay_v", client)
    normal = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
    return network.median_ms / 1000 * math.exp(network.sigma * normal)
