"""A negative client that sends what is no frame, one thing after the other.

Each must be refused, ignored, or answered with the end of that one socket and the reason; none may be taken for something it
is not. A heartbeat follows each. Its answer shows that all is said about what came before it, and that the client is served.
"""

from sim.client.actions import Send
from sim.client.negative.base import NegativeClient
from sim.client.session import NEVER
from sim.protocols.events import Closed, DisconnectReason, Next, Problem, Reply
from sim.protocols.intents import Beat

GAP_S = 0.05  # [ours] between an answer and what is sent next
_ELSEWHERE = ("slow_consumer", "stale_cursor", "reauth_required", "client_timeout")  # errors that are about something else
# Of the WebSocket's close codes (RFC 6455, 7.4.1) those that say what was wrong.
_WRONGS = (1002, 1003, 1007, 1008, 1009, 1010, 1011)


class MalformedFrames(NegativeClient):
    """Each time it goes live, goes on with what it has not yet sent, and after the last starts over.

    Its notices' details are `malformed_frames:<what>:` and then `accepted`, `refused:<code>`, `ignored` or `served`. A socket
    that is closed for it answers `refused:closed_<status>`, and `refused:closed` if nothing says why, twice in a row.
    """

    name = "malformed_frames"
    _at = 0  # which of the forms is under way, or comes next
    _kind = _ref = _fence = ""  # of what is under way, and of the heartbeat behind it
    _heard = ""  # the answer to it, while the heartbeat is not answered
    _is_waiting = _was_cut = False

    def _went_live(self, now: float) -> None:
        self._try_next(now)

    def _try_next(self, now: float) -> None:
        self._answer_by = NEVER
        if self._at == len(self._forms.kinds):
            self._at = 0
            return
        self._ref, self._fence = self._next_ref(), self._next_ref()
        self._kind, self._heard, self._is_waiting = self._forms.kinds[self._at], "", True
        forms = self._forms.malformed(self._topic, self._ref, self.settings.service.longest_frame_kib * 1024)
        self._actions += [Send(forms[self._kind]), Send(Beat(self._fence))]
        self._answer_by = now + self.settings.reply_timeout_s

    def _conclude(self, answer: str, now: float) -> None:
        self._report(f"{self._kind}:{answer}")
        self._is_waiting = self._was_cut = False
        self._at += 1
        self._answer_by = now + GAP_S
        self._schedule()

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if not self._is_waiting:
            return
        if reply.ref == self._fence:
            self._conclude(self._heard or "ignored", now)
        elif reply.ref in ("", self._ref) and reply.ok:
            self._heard = "served" if self._kind in self._forms.lawful else "accepted"
        elif reply.ref in ("", self._ref):
            self._heard = self._heard or f"refused:{reply.code or 'error'}"

    def _take_problem(self, problem: Problem, now: float) -> None:
        if self._is_waiting and problem.code not in _ELSEWHERE:
            self._heard = self._heard or f"refused:{problem.code or 'error'}"
        super()._take_problem(problem, now)

    def _answer_missing(self, now: float) -> None:
        if self._is_waiting:
            self._conclude(self._heard or "silence", now)
        else:
            self._try_next(now)

    def disconnected(self, event: Closed, now: float) -> None:
        """See `Session`. A network that fails is no answer, so what was under way is tried once more."""
        if self._is_waiting and event.code in _WRONGS:
            self._heard = self._heard or f"refused:closed_{event.code}"
        elif self._is_waiting and self._was_cut:
            self._heard = self._heard or "refused:closed"
        else:
            self._was_cut = self._is_waiting
        super().disconnected(event, now)

    def _lost(self, reason: DisconnectReason, now: float, hint: Next) -> None:
        if self._is_waiting and self._heard:
            self._conclude(self._heard, now)
            self.attempt = 0  # it knows what it was closed for, and need not spare a service in trouble
        self._is_waiting = False
        super()._lost(reason, now, hint)
