"""A negative client that sends malformed frames, one after the other.

Each must be refused, ignored, or answered by closing only that socket with a reason; none may be accepted as valid.
A heartbeat follows each. Its answer shows that no other answer is pending, and that the client is still served.
"""

from sim.client.actions import Send
from sim.client.lifecycle import NEVER
from sim.client.negative.base import NegativeClient
from sim.client.notices import Notice
from sim.protocols.events import Closed, DisconnectReason, Next, Problem, Refused, Reply, StreamEnded
from sim.protocols.intents import Beat

GAP_S = 0.05  # [ours] between an answer and the next frame
_MAX_CLOSES = 3  # [ours] a server that closes more often refuses most forms so
_ELSEWHERE = ("slow_consumer", "stale_cursor", "reauth_required", "client_timeout")  # errors with another cause
# The WebSocket close codes (RFC 6455, 7.4.1) that name an error of the client.
_WRONGS = (1002, 1003, 1007, 1008, 1009, 1010, 1011)


class MalformedFrames(NegativeClient):
    """Sends the remaining malformed frames each time it goes live; after the last one it starts again.

    The detail of its notices is `malformed_frames:<kind>:` and `accepted`, `refused:<code>`, `ignored`, `served` or `silence`.
    If the socket is closed, it is `refused:closed_<status>`, or `refused:closed` after two closes in a row without a reason.
    """

    name = "malformed_frames"
    needs_forms = True
    _at = 0  # index of the current or next form
    _kind = _ref = _fence = ""  # of the current form, and of the heartbeat after it
    _heard = ""  # the form's answer, until the heartbeat is answered
    _is_waiting = _was_cut = False
    _closes = 0  # of the connection, by forms of this round

    def _went_live(self, now: float) -> None:
        if self._at or self._closes <= _MAX_CLOSES:  # where forms close the connection, one round is enough
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

    def _obey(self, event: Refused | Problem, now: float) -> None:
        if isinstance(event, Problem) and self._is_waiting and event.code not in _ELSEWHERE:
            self._heard = self._heard or f"refused:{event.code or 'error'}"
        super()._obey(event, now)

    def _take_stream_end(self, event: StreamEnded, now: float) -> None:
        """Some servers refuse by ending the channel. The next form is sent when the client is live again."""
        if self._is_waiting:
            self._conclude(f"refused:{event.code}", now)
            self._answer_by = NEVER
        super()._take_stream_end(event, now)

    def _answer_missing(self, now: float) -> None:
        if self._is_waiting:
            self._conclude(self._heard or "silence", now)
        else:
            self._try_next(now)

    def disconnected(self, event: Closed, now: float) -> None:
        """See `Session`. A network failure is no answer, so the current form is sent once more."""
        if self._is_waiting and event.code in _WRONGS:
            self._heard = self._heard or f"refused:closed_{event.code}"
        elif self._is_waiting and self._was_cut:
            self._heard = self._heard or "refused:closed"
        else:
            self._was_cut = self._is_waiting
        super().disconnected(event, now)

    def _lost(self, reason: DisconnectReason, now: float, hint: Next, end: Notice) -> None:
        if self._is_waiting and self._heard:
            self._closes += 1
            self._conclude(self._heard, now)
            self.retries.attempt = 0  # the client caused the close itself, so backoff is unnecessary
        self._is_waiting = False
        super()._lost(reason, now, hint, end)
