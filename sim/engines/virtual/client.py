"""A simulated client: the same session as on the wire, over a network with a delay in each direction.

Bytes arrive in the order they were sent, as in TCP, so a frame never overtakes an earlier one. What is in flight when a
connection ends is dropped: each attempt to connect has its own `Link`, which callbacks carry. Frames that only bring the next
events wait in the link's inbox until the client takes them (`catch_up`).

`VirtualClient` has one connection. `sim.engines.virtual.streams_client` has one for each stream.
"""

import math
from collections.abc import Callable
from functools import partial

from sim.base.errors import IllegalMoveError
from sim.base.randomness import draw
from sim.client.actions import Action, Close, Connect, Send, Token
from sim.client.session import Session
from sim.client.transitions import State
from sim.drill.fault_kinds import RestartClients
from sim.drill.system_model import SystemModel
from sim.engines.shared import client_setup
from sim.engines.shared.withholding import Withholding
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.inbox import Link
from sim.engines.virtual.links import RoughLink
from sim.engines.virtual.service import SimulatedService
from sim.protocols.events import Activity, Closed, Message, Opened, Refused
from sim.protocols.intents import Beat, Intent
from sim.record.parquet import Recorder

NEVER = math.inf
_PING = (Activity(),)


class VirtualClient:
    """A client of a simulated fleet. `began` is the start of the run, in the environment's time."""

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
        self._links: dict[str, Link] = {}  # the connections that are opening or open, by stream; "": of all streams
        self._timer_at = NEVER
        self._offline_until = 0.0
        self._is_dead = False
        self._withholding: Withholding | None = None
        self.clock_ahead_s = 0.0  # error of its own clock; only clients that trust their own clock are affected
        self.rough: RoughLink | None = None  # its link under network faults; None: no fault

    # --- calls by the engine ------------------------------------------------------------------------

    def start(self) -> None:
        """Start to mint a token and connect."""
        self.session.start(self._env.now)
        self._pump()

    def cut(self, offline_s: float) -> bool:
        """Cut the socket and block connects for `offline_s` seconds; return whether there was a socket."""
        self.catch_up()
        self._offline_until = self._env.now + offline_s
        cut = self._abandon()
        self.session.is_cut_by_fault = True
        for link in cut:
            self._lose(link, Closed())
        self.session.is_cut_by_fault = False
        return bool(cut)

    def withhold(self, withholding: Withholding | None) -> None:
        """Withhold live events from the session from now on; None: no longer."""
        self.catch_up()
        self._withholding = withholding
        self._surprise()

    def come_online(self) -> None:
        """Allow connects and deliveries again, correct the clock, and restart the process if it is still down."""
        self._withholding = None
        self._offline_until = 0.0
        self.clock_ahead_s = 0.0
        if self._is_dead:
            self.revive()

    def die(self, fault: RestartClients) -> bool:
        """End like a killed process, with damaged checkpoints; return whether it was running. `revive` restarts it."""
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
        """Restart the process if it died."""
        if self._is_dead:
            self._is_dead = False
            self.start()

    # --- network faults -----------------------------------------------------------------------------

    def reset(self) -> bool:
        """Reset the connections on both sides, as the network does; return whether there was one."""
        self.catch_up()
        links = list(self._links.values())
        for link in links:
            self.reset_one(link)
        return bool(links)

    def reset_one(self, link: object) -> None:
        """Reset this connection on both sides, if the client still has it."""
        self.catch_up()
        if isinstance(link, Link) and not link.is_dropped:
            self._later(self._service.close, link.number, link)
            self._drop(link)
            self._lose(link, Closed())

    def half_open(self, gone: str) -> list[Link]:
        """Remove one side of each open connection; return the connections that the other side still has."""
        self.catch_up()
        links = [link for link in self._links.values() if link.number and link.is_open]
        for link in links:
            if gone == "runtime":
                self._service.close(link.number, link)
            elif not link.is_dropped:
                self._drop(link)
                self._lose(link, Closed())
        return links

    def is_left_in(self, link: Link) -> bool:
        """Return whether one side still has this half-open connection."""
        return self._has(link) or self._service.has(link.number, link)

    def end_half_open(self, link: Link) -> None:
        """Reset this connection on the side that still has it."""
        self._service.close(link.number, link)
        self.reset_one(link)

    # --- messages from the service ------------------------------------------------------------------

    def arrives(self, message: Message, link: Link, place: int) -> None:
        """Receive a message, after the first `place` frames that its link has ever put in its inbox."""
        if not link.is_dropped:
            link.called -= 1
            self._read(link, self._env.now, link.taken + len(link.inbox) - place)
            if not link.is_dropped:
                self._receive(message, link)

    def catch_up(self) -> None:
        """Take the frames in the inbox that have arrived by now."""
        if (link := self._links.get("")) is not None and link.inbox:  # only a single connection is foreseen
            self._read(link, self._env.now, 0)

    def _read(self, link: Link, now: float, leave: int) -> None:
        """Take the frames in the inbox that have arrived, except the last `leave` frames."""
        inbox, session, share, began = link.inbox, self.session, self._recorder.share, self._began
        before = len(inbox)
        while len(inbox) > leave and inbox[0][0] <= now:
            arrived, message, run = inbox.popleft()
            if not link.is_foreseen:
                link.taken, before = link.taken + before - len(inbox), len(inbox)
                if not link.is_dropped:
                    self._receive(message, link)
            elif run is not None:
                if not session.follow(run, arrived):
                    raise IllegalMoveError(f"client {session.client}: a run that does not go on from where it is")
                share(arrived - began, session.client, run.notices)
            else:
                session.received(message, arrived)  # a message without a run creates no notices
        link.taken += before - len(inbox)

    def _receive(self, message: Message, link: Link) -> None:
        if self._withholding is not None:
            message, rows = self._withholding.split(self.session, message)
            self._recorder.extend(self._env.now - self._began, self.session.client, rows)
        self.session.received(message, self._env.now)
        self._pump()
        if link.pongs and message == _PING:
            self._send(Beat(""))
        if not link.is_dropped and link.may_be_foreseen and self._withholding is None:
            link.foresee(self.session)

    def _surprise(self) -> None:
        """Take each frame that is left in an inbox when it arrives: its effect could not be predicted after all."""
        if (link := self._links.get("")) is not None and link.is_foreseen:
            link.surprise(self._look)

    def _look(self, link: Link) -> None:
        if not link.is_dropped:
            self.catch_up()

    def is_lost(self, link: Link, event: Closed) -> None:
        """Learn that the service closed the connection, or died."""
        self.catch_up()
        if not link.is_dropped:
            self._drop(link)
            self._lose(link, event)

    def _has(self, link: Link) -> bool:
        return not link.is_dropped

    def _drop(self, link: Link) -> None:
        """Forget a connection: nothing that is in flight on it reaches the client any more."""
        link.is_dropped = True
        self._links.pop(link.stream, None)

    def _lose(self, link: Link, event: Closed) -> None:
        """Tell the session that a connection ended, or could not be opened."""
        if not link.is_open:
            self.session.connect_failed(self._service.profile.refusals.connect("network"), self._env.now)
        else:
            self.session.disconnected(event, self._env.now)
        self._pump()

    # --- actions of the session ---------------------------------------------------------------------

    def _pump(self) -> None:
        while actions := self.session.actions():
            for action in actions:
                self._carry_out(action)
        if notices := self.session.notices():
            self._recorder.extend(self._env.now - self._began, self.session.client, notices)
            self._surprise()
        wake_at = self.session.wake_at()
        if wake_at < self._timer_at:
            self._arm(wake_at)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Send):
            self._send(action.intent)
        elif isinstance(action, Close):
            self._abandon()
        elif isinstance(action, Connect):
            self._connect(action)
        else:
            self._mint()

    def _send(self, intent: Intent) -> None:
        if link := self._links.get(""):
            self._send_over(link, intent)

    def _send_over(self, link: Link, intent: Intent) -> None:
        """Send an intent over an open connection."""
        if self.rough is not None:
            size = self.rough.size_of.of_intent(intent)
            self.rough.to_runtime.carry(link, self._env.now, size, self._reaches, intent, link)
            return
        link.up_free = max(link.up_free, self._env.now + self.delay_s)
        self._env.call_at(link.up_free, self._reaches, intent, link)

    def _reaches(self, intent: Intent, link: Link) -> None:
        if not link.is_dropped:
            self._service.received(link.number, link, intent)

    def _abandon(self) -> list[Link]:
        """Leave all connections, and return them."""
        links = list(self._links.values())
        for link in links:
            self._leave(link)
        return links

    def _leave(self, link: Link) -> None:
        """Leave a connection; the service learns this one delay later."""
        self._drop(link)
        if not link.number:
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
        """Send the control service's answer to the client; it arrives one delay later."""
        self._later(self._minted, asker, token)

    def _minted(self, asker: Session, token: Token | str) -> None:
        now = self._env.now
        if asker is self.session and self.session.awaits_token:
            if isinstance(token, Token):
                self.session.minted(client_setup.by_own_clock(token, self.session, self.clock_ahead_s), now)
            else:
                self.session.mint_failed(token, now)
            self._pump()

    # --- connecting ---------------------------------------------------------------------------------

    def _connect(self, asked: Connect) -> None:
        self._dial(asked, Link(self, self._env, self.delay_s, self.session.settings.run_of, pongs=self._service.profile.pings))

    def _dial(self, asked: Connect, link: Link) -> None:
        """Start to open a connection."""
        self._links[link.stream] = link
        if self._env.now < self._offline_until:
            self._env.call_at(self._env.now, self._refused, "network", link)
        else:
            self._syn(asked, link, self._model.syn_retry_s)

    def _syn(self, asked: Connect, link: Link, retry_s: float) -> None:
        if not link.is_dropped:
            self._later(self._syn_arrives, asked, link, retry_s)

    def _syn_arrives(self, asked: Connect, link: Link, retry_s: float) -> None:
        """Answer a SYN, refuse it if nothing listens, or drop it if the backlog is full; the kernel then sends it again."""
        if link.is_dropped:
            return
        if not self._service.is_up or (self.rough is not None and self.rough.is_refused()):
            self._later(self._refused, "network", link)
        elif self._service.has_room():
            self._ask_upgrade(asked, link)
        else:
            self._env.call_at(self._env.now - self.delay_s + retry_s, self._syn, asked, link, 2 * retry_s)

    def _ask_upgrade(self, asked: Connect, link: Link) -> None:
        """Receive the SYN-ACK, then send the upgrade request."""
        if self.rough is not None:
            self.rough.to_runtime.carry(link, self._env.now + self.delay_s, 0.0, self._upgrade, asked, link)
        else:
            self._env.call_at(self._env.now + 2 * self.delay_s, self._upgrade, asked, link)

    def _upgrade(self, asked: Connect, link: Link) -> None:
        if link.is_dropped:
            return
        if self._service.is_up:
            self._service.upgrade(asked, link, lambda outcome: self._upgraded(outcome, link))
        else:
            self._later(self._refused, "network", link)

    def _upgraded(self, outcome: int | str | Refused, link: Link) -> None:
        """Send the service's answer to the client; it arrives one delay later."""
        if not isinstance(outcome, int):
            self._later(self._refused, outcome, link)
            return
        link.number = outcome
        if link.is_dropped:
            self._service.close(outcome, link)
        else:
            self._accepted(link)

    def _accepted(self, link: Link) -> None:
        """Open the connection at the client, too, one delay later."""
        if self.rough is not None:
            self.rough.to_client.carry(link, self._env.now, 0.0, self._open, link)
            return
        link.down_free = self._env.now + self.delay_s
        self._env.call_at(link.down_free, self._open, link)

    def _open(self, link: Link) -> None:
        if not link.is_dropped:
            link.is_open = True
            self.session.connected(Opened(), self._env.now)
            self._pump()

    def _refused(self, refusal: str | Refused, link: Link) -> None:
        if not link.is_dropped:
            self._drop(link)
            known = refusal if isinstance(refusal, Refused) else self._service.profile.refusals.connect(refusal)
            self._fail(known, link)
            self._pump()

    def _fail(self, refusal: Refused, link: Link) -> None:
        """Tell the session that a connection was refused."""
        self.session.connect_failed(refusal, self._env.now)

    def _later(self, do: Callable[..., None], *arguments: object) -> None:
        """Call `do(*arguments)` one delay from now."""
        self._env.call_at(self._env.now + self.delay_s, do, *arguments)

    # --- time ---------------------------------------------------------------------------------------

    def _arm(self, moment: float) -> None:
        self._timer_at = moment
        self._env.call_at(moment, self._wake, moment)

    def _wake(self, moment: float) -> None:
        """Wake the session, unless this timer is no longer the armed one."""
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
    """Return a client's own one-way delay in seconds: log-normal over clients, by the Box-Muller transform of two draws."""
    network = model.network
    u, v = 1.0 - draw(seed, "delay_u", client), draw(seed, "delay_v", client)
    normal = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
    return network.median_ms / 1000 * math.exp(network.sigma * normal)
