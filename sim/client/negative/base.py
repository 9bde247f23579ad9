"""What all negative clients share: ordinary sessions that also try something forbidden and note the answer."""

from sim.client.session import Session
from sim.protocols.adapter import NegativeForms
from sim.protocols.events import Refused, Reply


class NegativeClient(Session):
    """`expects`: the codes that the contract has for its refusal; empty: any code will do."""

    name = ""
    expects: tuple[str, ...] = ()

    @property
    def _forms(self) -> NegativeForms:
        forms = self.settings.forms
        assert forms is not None, "negative clients need the forms of their protocol"
        return forms

    @property
    def _topic(self) -> str:
        return next(iter(self.replica.topics), "")

    def _mutation(self) -> dict[str, object]:
        """What a client might take for a command's payload."""
        event = {"event_type": "stormgate.probe", "payload": {"client": self.client}}
        return {"topic": self._topic, "seq": 1, "event": event}

    def _report(self, answer: str) -> None:
        self._note("probed", detail=f"{self.name}:{answer}")


class OneQuestion(NegativeClient):
    """Reports its first answer, and is an ordinary client from then on."""

    _has_answer = False

    def _report(self, answer: str) -> None:
        if not self._has_answer:
            self._has_answer = True
            super()._report(answer)


def verdict(reply: Reply | Refused) -> str:
    """`accepted`, or `refused:` and the code."""
    return "accepted" if reply.ok else f"refused:{reply.code or 'error'}"
