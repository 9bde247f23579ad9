"""Clients that try to change something over the socket, which only delivers: openly, and hidden in what it does serve.

An open try must be refused. A hidden one may be refused, or served for what it is beside that; either way nothing may
change, which is for the ledger to see: an event that nobody published.
"""

import msgspec

from sim.client.actions import Send
from sim.client.session import NEVER, ClientSession
from sim.protocols.spacetime.frames import Reply, Request

# Whatever a client might take for a command.
_OPEN = (
    *("sync:publish", "sync:append", "sync:update_batch", "sync:frame", "sync:retract", "sync:trim"),
    *("run:append_event", "presence_diff", "stormgate:unknown"),
)


class AnyMutationProbe(ClientSession):
    """Each time it goes live, asks for every kind of mutation at once, each under a reference of its own."""

    name = "any_mutation"
    expects: tuple[str, ...] = ()
    _asked: frozenset[str] = frozenset()  # references of questions that are not yet answered

    def _went_live(self, now: float) -> None:
        self._asked = frozenset(self._ask_for(event, payload) for event, payload in self._questions())
        self._routing_check_at = now + self.settings.reply_timeout_s

    def _ask_for(self, event: str, payload: dict[str, object]) -> str:
        ref = self._next_ref()
        self._actions.append(Send(Request(ref, event, msgspec.Raw(msgspec.json.encode(payload)))))
        return ref

    def _questions(self) -> list[tuple[str, dict[str, object]]]:
        return [(event, self._mutation()) for event in _OPEN]

    def _mutation(self) -> dict[str, object]:
        topic = next(iter(self.replica.topics), "")
        return {"topic": topic, "seq": 1, "event": {"event_type": "stormgate.probe", "payload": {"client": self.client}}}

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if reply.ref in self._asked:
            self._asked -= {reply.ref}
            self._routing_check_at = self._routing_check_at if self._asked else NEVER
            self._note("probed", detail=f"{self.name}:{self._answer(reply)}")

    def _answer(self, reply: Reply) -> str:
        return "accepted" if reply.ok else f"refused:{reply.body.code or 'error'}"

    def _wake_probe(self, now: float) -> None:
        self._routing_check_at = NEVER
        for _ in self._asked:
            self._note("probed", detail=f"{self.name}:refused:silence")
        self._asked = frozenset()


class HiddenMutationProbe(AnyMutationProbe):
    """Each time it goes live, hides mutations in a heartbeat and in a subscribe, which are served as what they are."""

    name = "hidden_mutation"

    def _questions(self) -> list[tuple[str, dict[str, object]]]:
        cursors = self.replica.cursors.values()
        after = {cursor.topic: cursor.watermark for cursor in cursors if cursor.watermark is not None}
        subscribe = {"topics": list(self.replica.topics), "resume_after": after}
        return [("sync:heartbeat", self._mutation()), ("sync:subscribe", {**self._mutation(), **subscribe})]

    def _answer(self, reply: Reply) -> str:
        return "served" if reply.ok else super()._answer(reply)


PROBES: tuple[type[AnyMutationProbe], ...] = (AnyMutationProbe, HiddenMutationProbe)
