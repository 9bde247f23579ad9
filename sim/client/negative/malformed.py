"""A client that sends what is no frame, one thing after the other: each must be refused, ignored or answered with the end of
that one socket and the reason; none may be taken for something it is not.

A heartbeat follows each. Once that is answered, all is said about what came before it, and the client is known to be served.
"""

import msgspec

from sim.client.actions import Send
from sim.client.session import NEVER, ClientSession
from sim.protocols.spacetime.disconnects import DisconnectReason, wrong_of
from sim.protocols.spacetime.frames import CHANNEL, TRANSPORT_CHANNEL, Body, Garbage, Reply, TransportBeat

GAP_S = 0.05  # [ours] between an answer and what is sent next
_DEPTH = 5_000  # beyond what recursive readers survive by luck
_ELSEWHERE = ("slow_consumer", "stale_cursor", "reauth_required", "client_timeout")  # errors that are about something else
_LAWFUL = ("null_reference",)  # unusual, and no more than that: it may be served


def malformed(topic: str, ref: str, max_bytes: int) -> dict[str, Garbage]:
    """Everything that is tried, by name and in order. What has a place for a reference carries `ref`; one is longer than
    `max_bytes`."""

    def frame(*parts: object) -> Garbage:
        return Garbage(msgspec.json.encode(parts))

    def subscribe(payload: object) -> Garbage:
        return frame("1", ref, CHANNEL, "sync:subscribe", payload)

    nothing: dict[str, list[str]] = {"topics": []}  # an unsubscribe that would do no harm
    long = frame("1", ref, CHANNEL, "sync:unsubscribe", {"topics": "x" * max_bytes})
    deep = b"[" * _DEPTH + b"]" * _DEPTH
    return {
        "no_text": Garbage(b""),
        "no_json": Garbage(b"this is no JSON"),
        "no_array": Garbage(b'{"event":"sync:unsubscribe","payload":{"topics":[]}}'),
        "too_short": frame("1", ref, CHANNEL, "sync:unsubscribe"),
        "too_long": frame("1", ref, CHANNEL, "sync:unsubscribe", nothing, "one too many"),
        "number_as_join_reference": frame(1, ref, CHANNEL, "sync:unsubscribe", nothing),
        "object_as_reference": frame("1", {"ref": ref}, CHANNEL, "sync:unsubscribe", nothing),
        "number_as_channel": frame("1", ref, 1, "sync:unsubscribe", nothing),
        "null_as_event": frame("1", ref, CHANNEL, None, nothing),
        "array_as_payload": subscribe([topic]),
        "unknown_channel": frame("1", ref, "sync:v0", "sync:unsubscribe", nothing),
        "unknown_event": frame("1", ref, CHANNEL, "stormgate:unknown", {}),
        "numbers_as_topics": subscribe({"topics": [1, 2]}),
        "text_as_topics": frame("1", ref, CHANNEL, "sync:unsubscribe", {"topics": topic}),
        "text_as_cursors": subscribe({"topics": [topic], "resume_after": "yesterday"}),
        "negative_cursor": subscribe({"topics": [topic], "resume_after": {topic: -1}}),
        "endless_cursor": subscribe({"topics": [topic], "resume_after": {topic: 2**63}}),
        "deep_nesting": Garbage(b'["1","%s","%s","sync:unsubscribe",{"topics":%s}]' % (ref.encode(), CHANNEL.encode(), deep)),
        "binary": Garbage(b"\x00\xff\xfe\x80", is_text=False),
        "not_utf8": Garbage(b'["1","%s","%s","sync:unsubscribe",{"topics":["\xff\xfe"]}]' % (ref.encode(), CHANNEL.encode())),
        "huge": long,
        "null_reference": frame(None, None, TRANSPORT_CHANNEL, "heartbeat", {}),
    }


KINDS = tuple(malformed("", "", 0))


class MalformedFramesProbe(ClientSession):
    """Each time it goes live, goes on with what it has not yet sent, and after the last begins anew.

    Its notices' details are `malformed_frames:<what>:` and then `accepted`, `refused:<code>`, `ignored` or `served`. A socket
    that is closed for it answers `refused:closed_<status>`, and `refused:closed` if nothing says why, twice in a row.
    """

    name = "malformed_frames"
    expects: tuple[str, ...] = ()  # the contract has no code for most of it
    _at = 0  # which of `KINDS` is under way, or comes next
    _ref = _fence = ""  # of what is under way, and of the heartbeat behind it
    _heard = ""  # the answer to it, while the heartbeat is not answered
    _is_waiting = _was_cut = False

    def _went_live(self, now: float) -> None:
        self._try_next(now)

    def _try_next(self, now: float) -> None:
        self._routing_check_at = NEVER
        if self._at == len(KINDS):
            self._at = 0
            return
        self._ref, self._fence = self._next_ref(), self._next_ref()
        self._heard, self._is_waiting = "", True
        everything = malformed(next(iter(self.replica.topics), ""), self._ref, self.settings.service.longest_frame_kib * 1024)
        self._actions += [Send(everything[KINDS[self._at]]), Send(TransportBeat(self._fence))]
        self._routing_check_at = now + self.settings.reply_timeout_s

    def _tell(self, answer: str) -> None:
        self._note("probed", detail=f"{self.name}:{KINDS[self._at]}:{answer}")

    def _conclude(self, answer: str, now: float) -> None:
        self._tell(answer)
        self._is_waiting = self._was_cut = False
        self._at += 1
        self._routing_check_at = now + GAP_S
        self._schedule()

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if not self._is_waiting:
            return
        if reply.ref == self._fence:
            self._conclude(self._heard or "ignored", now)
        elif reply.ref in ("", self._ref) and reply.ok:
            self._heard = "served" if KINDS[self._at] in _LAWFUL else "accepted"
        elif reply.ref in ("", self._ref):
            self._heard = self._heard or f"refused:{reply.body.code or 'error'}"

    def _take_error(self, body: Body, now: float) -> None:
        if self._is_waiting and body.code not in _ELSEWHERE:
            self._heard = self._heard or f"refused:{body.code or 'error'}"
        super()._take_error(body, now)

    def _wake_probe(self, now: float) -> None:
        if self._is_waiting:
            self._conclude(self._heard or "silence", now)
        else:
            self._try_next(now)

    def disconnected(self, code: str, now: float) -> None:
        """See `ClientSession`. A network that fails is no answer, so what was under way is tried once more."""
        if self._is_waiting and (wrong := wrong_of(code)):
            self._heard = self._heard or f"refused:{wrong}"
        elif self._is_waiting and self._was_cut:
            self._heard = self._heard or "refused:closed"
        else:
            self._was_cut = self._is_waiting
        super().disconnected(code, now)

    def _lost(self, reason: DisconnectReason, now: float, hint_ms: float | None) -> None:
        if self._is_waiting and self._heard:
            self._conclude(self._heard, now)
            self.attempt = 0  # it knows what it was closed for, and need not spare a lane in trouble
        self._is_waiting = False
        super()._lost(reason, now, hint_ms)
