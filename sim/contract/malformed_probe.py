"""A client that sends what is no frame, one thing after the other: each must be refused, ignored or answered with the end of
that one socket; none may be taken for something it is not.
"""

import json

from sim.contract.actions import Send
from sim.contract.client import NEVER, ClientSession
from sim.contract.disconnects import DisconnectReason
from sim.contract.frames import CHANNEL, Body, Garbage, Reply

PATIENCE_S = 2.0  # [ours] what was not answered by then is taken to be ignored, which the contract allows
_DEPTH = 5_000  # beyond what recursive readers survive by luck
_LONG_BYTES = 256 * 1024  # [ours] many times any frame that a client has reason to send
_ELSEWHERE = ("slow_consumer", "stale_cursor", "reauth_required", "rate_limited")  # errors that are about something else


def malformed(topic: str, ref: str) -> tuple[str | bytes, ...]:
    """Everything that is tried, in order; what has a place for a reference carries `ref`."""

    def text(*parts: object) -> str:
        return json.dumps(parts)

    return (
        "",
        "this is no JSON",
        '{"event":"sync:subscribe"}',
        text("1", ref, CHANNEL, "sync:subscribe"),
        text("1", ref, CHANNEL, "sync:subscribe", {"topics": [topic]}, "one too many"),
        text(1, 2, 3, 4, 5),
        text("1", ref, CHANNEL, None, {}),
        text("1", ref, "sync:v0", "sync:subscribe", {"topics": [topic]}),
        text("1", ref, CHANNEL, "sync:subscribe", [topic]),
        text("1", ref, CHANNEL, "sync:subscribe", {"topics": [1, 2]}),
        text("1", ref, CHANNEL, "sync:subscribe", {"topics": [topic], "resume_after": "yesterday"}),
        text("1", ref, CHANNEL, "sync:subscribe", {"topics": [topic], "resume_after": {topic: -1}}),
        text("1", ref, CHANNEL, "sync:subscribe", {"topics": [topic], "resume_after": {topic: 2**70}}),
        text("1", ref, CHANNEL, "sync:unsubscribe", {"topics": topic}),
        "[" * _DEPTH,
        "x" * _LONG_BYTES,
        b"\x00\xff\xfe\x80",
    )


class MalformedFramesProbe(ClientSession):
    """Each time it goes live, goes on with what it has not yet sent, and after the last begins anew."""

    name = "malformed_frames"
    expects: tuple[str, ...] = ()  # the contract has no code for it
    _at = 0  # which of them is under way, or comes next
    _probe_ref = ""

    def _went_live(self, now: float) -> None:
        self._try_next(now)

    def _try_next(self, now: float) -> None:
        self._probe_ref = self._next_ref()
        everything = malformed(self.replica.topics[0] if self.replica.topics else "", self._probe_ref)
        if self._at == len(everything):
            self._at = 0
            return
        self._actions.append(Send(Garbage(everything[self._at])))
        self._probe_at = now + PATIENCE_S

    @property
    def _is_waiting(self) -> bool:
        return self._probe_at < NEVER

    def _answered(self, answer: str) -> None:
        self._probe_at = NEVER
        self._at += 1
        self._note("probed", detail=f"{self.name}:{answer}")

    def _take_error(self, body: Body, now: float) -> None:
        if self._is_waiting and body.code not in _ELSEWHERE:
            self._answered(f"refused:{body.code or 'error'}")
            self._try_next(now)
        super()._take_error(body, now)

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if self._is_waiting and reply.ref in ("", self._probe_ref):
            self._answered("accepted" if reply.ok else f"refused:{reply.body.code or 'error'}")
            self._try_next(now)

    def _wake_probe(self, now: float) -> None:
        self._answered("refused:ignored")
        self._try_next(now)

    def _lost(self, reason: DisconnectReason, now: float, hint_ms: float | None) -> None:
        if self._is_waiting:
            self._answered("refused:closed")
        super()._lost(reason, now, hint_ms)
