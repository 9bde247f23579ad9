"""One simulated client: the same Session as on the wire, its network a delay each way.

Bytes arrive in the order they were sent, as TCP has it, so a frame never overtakes the one before. Whatever was on its
way when a connection ended is dropped: every attempt to connect has a `Link` of its own, which callbacks carry. Frames that
only bring what comes next wait in its inbox until someone looks at the client (`catch_up`).
"""

import math
from collections.abc import Callable
from functools import partial

from sim.base.randomness import draw
from sim.client.actions import Action, Close, Connect, Send, Token
from sim.client.session import Session
from sim.client.transitions import State
from sim.drill.fault_kinds import RestartClients
from sim.drill.system_model import SystemModel
from sim.engines.shared import client_setup
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.inbox import Link
from sim.engines.virtual.links import RoughLink, intent_bytes
from sim.engines.virtual.service import SimulatedService
from sim.protocols.events import Closed, Message, Opened
from sim.protocols.intents import Intent
from sim.protocols.spacetime.codes import connect_refused
from sim.record.parquet import Recorder

NEVER = math.inf


class VirtualClient:
    """`began` is when the run did, in the environment's time."""

    def __init__(
        self,
        env: VirtualClock,
        session: Session,
        service: SimulatedService,
        model: SystemModel,
        recorder: Recorder,
        began: float,
    ) -> None:
        self.session = session
        self._env = env
        self._service = service
        self._model = model
        self._recorder = recorder
        self._began = began
        self.delay_s = one_way_delay_s(model, session.settings.seed, session.client)
        self._link: Link | None = None  # the connection under way or open
        self._timer_at = NEVER
        self._offline_until = 0.0
        self._is_dead = False
        self.clock_ahead_s = 0.0  # by so much its own clock is off, which only who trusts it goes by
        self.rough: RoughLink | None = None  # what faults make of its link; None: nothing

    # --- what the engine does with a client ---------------------------------------------------------

    def start(self) -> None:
        """Begin to mint and connect."""
        self.session.start(self._env.now)
        self._pump()

    def cut(self, offline_s: float) -> bool:
        """Cut the socket at once, and for a while let no connect through; True if there was one to cut."""
        self.catch_up()
        self._offline_until = self._env.now + offline_s
        state = self.session.state
        if state not in (State.CONNECTING, State.JOINING, State.SUBSCRIBING, State.LIVE):
            return False
        self._abandon()
        self._lose(Closed())
        return True

    def come_online(self) -> None:
        """Let connects through again; a process that is still down begins again."""
        self._offline_until = 0.0
        self.clock_ahead_s = 0.0
        if self._is_dead:
            self.revive()

    def die(self, fault: RestartClients) -> bool:
        """End as a killed process does, with its checkpoints damaged; True if it was running. `revive` starts the next life."""
        if self.session.state in (State.IDLE, State.STOPPED):
            return False
        self.catch_up()
        self._is_dead = True
        self._abandon()
        self._timer_at = NEVER
        self.session, rows = client_setup.restart(self.session, fault)
        self._recorder.extend(self._env.now - self._began, self.session.client, rows)
        return True

    def revive(self) -> None:
        """Start the next life of a process that died."""
        if self._is_dead:
            self._is_dead = False
            self.start()

    # --- what network faults do to its connection ---------------------------------------------------

    def reset(self) -> bool:
        """The network resets the connection under both sides; True if there was one."""
        self.catch_up()
        link, self._link = self._link, None
        if link is None:
            return False
        self._later(self._service.close, link.number, link)
        self._lose(Closed())
        return True

    def reset_one(self, link: object) -> None:
        """As `reset`, if the client still has this connection."""
        if link is self._link:
            self.reset()

    def half_open(self, gone: str) -> "Link | None":
        """Take one side away from the open connection; returns what the other side is left in, if there was one."""
        self.catch_up()
        link = self._link
        if link is None or not link.number or self.session.state is State.CONNECTING:
            return None
        if gone == "runtime":
            self._service.close(link.number, link)
        else:
            self._link = None
            self._lose(Closed())
        return link

    def is_left_in(self, link: Link) -> bool:
        """Whether a side still has this half-open connection."""
        return link is self._link or self._service.has(link.number, link)

    def end_half_open(self, link: Link) -> None:
        """Whoever still has it gets a reset."""
        self._service.close(link.number, link)
        self.reset_one(link)

    # --- what comes over a link ---------------------------------------------------------------------

    def arrives(self, message: Message, link: Link, place: int) -> None:
        """A message of the service is here, and so are the first `place` that its link was ever to keep in its inbox."""
        if link is self._link:
            link.called -= 1
            self._read(link, self._env.now, link.taken + len(link.inbox) - place)
            if link is self._link:
                self._receive(message, link)

    def catch_up(self) -> None:
        """Take what has arrived by now and waits in the inbox."""
        if (link := self._link) is not None and link.inbox:
            self._read(link, self._env.now, 0)

    def _read(self, link: Link, now: float, leave: int) -> None:
        """Take what is in the inbox and has arrived, except for the last `leave` frames."""
        inbox, session, share, began = link.inbox, self.session, self._recorder.share, self._began
        before = len(inbox)
        while len(inbox) > leave and inbox[0][0] <= now:
            arrived, message, run = inbox.popleft()
            if not link.is_foreseen:
                link.taken, before = link.taken + before - len(inbox), len(inbox)
                if link is self._link:
                    self._receive(message, link)
            elif run is not None:
                session.follow(run, arrived)
                share(arrived - began, session.client, run.notices)
            else:
                session.received(message, arrived)  # which makes no notices
        link.taken += before - len(inbox)

    def _receive(self, message: Message, link: Link) -> None:
        self.session.received(message, self._env.now)
        self._pump()
        if link is self._link and link.may_be_foreseen:
            link.foresee(self.session)

    def _look(self, link: Link) -> None:
        """A frame of the inbox is here, and what it does was not to be foreseen after all."""
        if link is self._link:
            self.catch_up()

    def is_lost(self, link: Link, event: Closed) -> None:
        """The news that the service closed the connection, or died, is here."""
        if link is self._link:
            self.catch_up()
            self._link = None
            self._lose(event)

    def _lose(self, event: Closed) -> None:
        if self.session.state is State.CONNECTING:
            self.session.connect_failed(connect_refused("network"), self._env.now)
        else:
            self.session.disconnected(event, self._env.now)
        self._pump()

    # --- what the session wants ---------------------------------------------------------------------

    def _pump(self) -> None:
        while actions := self.session.actions():
            for action in actions:
                self._carry_out(action)
        if notices := self.session.notices():
            self._recorder.extend(self._env.now - self._began, self.session.client, notices)
            if self._link is not None and self._link.is_foreseen:
                self._link.surprise(self._look)
        wake_at = self.session.wake_at()
        if wake_at < self._timer_at:
            self._arm(wake_at)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Send):
            self._send(action.intent)
        elif isinstance(action, Close):
            self._abandon()
        elif isinstance(action, Connect):
            self._connect(action.token)
        else:
            self._mint()

    def _send(self, intent: Intent) -> None:
        if link := self._link:
            if self.rough is not None:
                self.rough.to_runtime.carry(link, self._env.now, intent_bytes(intent), self._reaches, intent, link)
                return
            link.up_free = max(link.up_free, self._env.now + self.delay_s)
            self._env.call_at(link.up_free, self._reaches, intent, link)

    def _reaches(self, intent: Intent, link: Link) -> None:
        if link is self._link:
            self._service.received(link.number, link, intent)

    def _abandon(self) -> None:
        """Leave the connection; the service hears of it a delay later."""
        link, self._link = self._link, None
        if link is None or not link.number:
            return
        if self.rough is not None:
            self.rough.to_runtime.close(link, self._env.now, self._service.close, link.number, link)
        else:
            self._env.call_at(max(link.up_free, self._env.now + self.delay_s), self._service.close, link.number, link)

    # --- minting ------------------------------------------------------------------------------------

    def _mint(self) -> None:
        self._later(
            self._service.mint, self.session, f"client-{self.session.client}", partial(self._mint_answered, self.session)
        )

    def _mint_answered(self, asker: Session, token: Token | str) -> None:
        """The control service has answered; the answer arrives a delay later."""
        self._later(self._minted, asker, token)

    def _minted(self, asker: Session, token: Token | str) -> None:
        now = self._env.now
        if asker is self.session and self.session.state is State.MINTING:
            if isinstance(token, Token):
                self.session.minted(client_setup.by_own_clock(token, self.session, self.clock_ahead_s), now)
            else:
                self.session.mint_failed(token, now)
            self._pump()

    # --- connecting ---------------------------------------------------------------------------------

    def _connect(self, token: Token) -> None:
        link = self._link = Link(self, self._env, self.delay_s, self.session.settings.run_of)
        if self._env.now < self._offline_until:
            self._env.call_at(self._env.now, self._refused, "network", link)
        else:
            self._syn(token, link, self._model.syn_retry_s)

    def _syn(self, token: Token, link: Link, retry_s: float) -> None:
        if link is self._link:
            self._later(self._syn_arrives, token, link, retry_s)

    def _syn_arrives(self, token: Token, link: Link, retry_s: float) -> None:
        """Answered, refused as no one listens, or dropped as the backlog is full: then the kernel tries again."""
        if link is not self._link:
            return
        if not self._service.is_up or (self.rough is not None and self.rough.is_refused()):
            self._later(self._refused, "network", link)
        elif self._service.has_room():
            self._ask_upgrade(token, link)
        else:
            self._env.call_at(self._env.now - self.delay_s + retry_s, self._syn, token, link, 2 * retry_s)

    def _ask_upgrade(self, token: Token, link: Link) -> None:
        """The SYN-ACK comes down, and the upgrade request goes up."""
        if self.rough is not None:
            self.rough.to_runtime.carry(link, self._env.now + self.delay_s, 0.0, self._upgrade, token, link)
        else:
            self._env.call_at(self._env.now + 2 * self.delay_s, self._upgrade, token, link)

    def _upgrade(self, token: Token, link: Link) -> None:
        if link is not self._link:
            return
        if self._service.is_up:
            self._service.upgrade(token, link, lambda outcome: self._upgraded(outcome, link))
        else:
            self._later(self._refused, "network", link)

    def _upgraded(self, outcome: int | str, link: Link) -> None:
        """The service has answered; the answer arrives a delay later."""
        if isinstance(outcome, str):
            self._later(self._refused, outcome, link)
            return
        link.number = outcome
        if link is not self._link:
            self._service.close(outcome, link)
            return
        if self.rough is not None:
            self.rough.to_client.carry(link, self._env.now, 0.0, self._open, link)
            return
        link.down_free = self._env.now + self.delay_s
        self._env.call_at(link.down_free, self._open, link)

    def _open(self, link: Link) -> None:
        if link is self._link:
            self.session.connected(Opened(), self._env.now)
            self._pump()

    def _refused(self, code: str, link: Link) -> None:
        if link is self._link:
            self._link = None
            self.session.connect_failed(connect_refused(code), self._env.now)
            self._pump()

    def _later(self, do: Callable[..., None], *arguments: object) -> None:
        """A one-way delay from now."""
        self._env.call_at(self._env.now + self.delay_s, do, *arguments)

    # --- time ---------------------------------------------------------------------------------------

    def _arm(self, moment: float) -> None:
        self._timer_at = moment
        self._env.call_at(moment, self._wake, moment)

    def _wake(self, moment: float) -> None:
        """A timer that is no longer the armed one only costs this look."""
        if moment != self._timer_at:
            return
        self.catch_up()
        self._timer_at = NEVER
        if self.session.wake_at() <= moment:
            self.session.wake(max(self._env.now, moment))
        self._pump()
        wake_at = self.session.wake_at()
        if self._timer_at == NEVER and wake_at < NEVER:
            self._arm(wake_at)


def one_way_delay_s(model: SystemModel, seed: int, client: int) -> float:
    """A client's own delay each way, in seconds: log-normal over clients, by the Box-Muller transform of two draws."""
    network = model.network
    u, v = 1.0 - draw(seed, "delay_u", client), draw(seed, "delay_v", client)
    normal = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
    return network.median_ms / 1000 * math.exp(network.sigma * normal)
