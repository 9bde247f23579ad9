"""Base of all negative clients: ordinary sessions that also try something forbidden and record the answer."""

from sim.client.session import Session
from sim.protocols.adapter import NegativeForms
from sim.protocols.events import Refused, Reply


class NegativeClient(Session):
    """A session with a forbidden request. `expects`: codes that the contract allows for its refusal; empty: any code."""

    name = ""
    expects: tuple[str, ...] = ()
    needs_forms = False  # it sends messages that only the protocol's own forms have
    needs_tokens = False
    needs_builds = False  # it joins as another build, which the protocol must state

    @property
    def _forms(self) -> NegativeForms:
        forms = self.settings.forms
        assert forms is not None, "negative clients need the forms of their protocol"
        return forms

    @property
    def _topic(self) -> str:
        return next(iter(self.replica.topics), "")

    def _mutation(self) -> dict[str, object]:
        """Return a payload that looks like a command's."""
        event = {"event_type": "stormgate.probe", "payload": {"client": self.client}}
        return {"topic": self._topic, "seq": 1, "event": event}

    def _report(self, answer: str) -> None:
        self._note("probed", detail=f"{self.name}:{answer}")


class OneQuestion(NegativeClient):
    """Reports its first answer, and is then an ordinary client."""

    _has_answer = False

    def _report(self, answer: str) -> None:
        if not self._has_answer:
            self._has_answer = True
            super()._report(answer)


def verdict(reply: Reply | Refused) -> str:
    """Return `accepted`, or `refused:` and the code."""
    return "accepted" if reply.ok else f"refused:{reply.code or 'error'}"
