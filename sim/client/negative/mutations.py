"""Negative clients that send mutations over the socket, which only delivers: openly or hidden in allowed messages.

An open mutation must be refused. A message with a hidden one may be refused, or served without the mutation. In no case may
anything change; the ledger shows a change as an event that was never published.
"""

from collections.abc import Iterable

from sim.client.actions import Send
from sim.client.lifecycle import NEVER
from sim.client.negative.base import NegativeClient, verdict
from sim.protocols.events import Opened, Reply, StreamEnded
from sim.protocols.intents import Raw


class AnyMutation(NegativeClient):
    """Each time it goes live, requests all kinds of mutations at once, each with its own reference."""

    name = "any_mutation"
    needs_forms = True
    _asked: frozenset[str] = frozenset()  # references of unanswered requests

    _has_ended = False  # the channel, because of a question on this connection

    def connected(self, event: Opened, now: float) -> None:
        """See `Session`."""
        self._has_ended = False
        super().connected(event, now)

    def _went_live(self, now: float) -> None:
        if self._has_ended:  # it is served again; another question would end the channel again
            return
        questions = list(self._questions())
        self._asked = frozenset(question.ref for question in questions)
        self._actions += [Send(question) for question in questions]
        self._answer_by = now + self.settings.reply_timeout_s

    def _questions(self) -> Iterable[Raw]:
        return [self._forms.request(self._next_ref(), name, self._mutation()) for name in self._forms.mutations]

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if reply.ref in self._asked:
            self._asked -= {reply.ref}
            self._answer_by = self._answer_by if self._asked else NEVER
            self._report(self._verdict(reply))

    def _take_stream_end(self, event: StreamEnded, now: float) -> None:
        """Some servers refuse by ending the channel, which answers all questions."""
        if self._asked:
            self._has_ended = True
            self._conclude(f"refused:{event.code}")
        super()._take_stream_end(event, now)

    def _verdict(self, reply: Reply) -> str:
        return verdict(reply)

    def _answer_missing(self, now: float) -> None:
        self._conclude("refused:silence")

    def _conclude(self, answer: str) -> None:
        self._answer_by = NEVER
        for _ in self._asked:
            self._report(answer)
        self._asked = frozenset()


class MutationOverSocket(AnyMutation):
    """Requests a publish over the socket each time it goes live. It stays live after any answer."""

    name = "mutation_over_socket"

    def _questions(self) -> Iterable[Raw]:
        payload = {name: value for name, value in self._mutation().items() if name != "seq"}
        return [self._forms.request(self._next_ref(), self._forms.mutations[0], payload)]


class HiddenMutation(AnyMutation):
    """Each time it goes live, hides mutations in a heartbeat and in a subscribe, which the runtime may serve."""

    name = "hidden_mutation"

    def _questions(self) -> Iterable[Raw]:
        cursors = self.replica.cursors.values()
        after = {cursor.topic: cursor.position for cursor in cursors}
        return self._forms.hidden_mutations((self._next_ref(), self._next_ref()), self._mutation(), after)

    def _verdict(self, reply: Reply) -> str:
        return "served" if reply.ok else verdict(reply)


CLIENTS = (AnyMutation, HiddenMutation)
