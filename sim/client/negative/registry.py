"""Clients that try what must be refused: ordinary sessions that also ask a forbidden question and note the answer.

The answer is a notice of kind `probed` whose detail is `<probe>:accepted` or `<probe>:refused:<code>` (or `<probe>:served`,
where that is what must be); a probe with several questions names each, as `<probe>:<what>:accepted`. `EXPECTED` says which
codes the contract has for it; the others are wrong ones.
"""

import msgspec

from sim.base.errors import UsageError
from sim.client.actions import Send, Token
from sim.client.negative import builds, malformed, mutations, tokens
from sim.client.session import NEVER, ClientSession
from sim.client.states import State
from sim.protocols.spacetime.disconnects import NETWORK_CODES
from sim.protocols.spacetime.frames import Body, Reply, Request


class MutationProbe(ClientSession):
    """Asks the socket for a publish each time it goes live. Whatever the answer, it stays live."""

    name = "mutation_over_socket"
    expects: tuple[str, ...] = ()
    _probe_ref = ""

    def _went_live(self, now: float) -> None:
        self._probe_ref = self._next_ref()
        event = {"event_type": "stormgate.probe", "payload": {"client": self.client}}
        payload = msgspec.json.encode({"topic": self.replica.topics[0] if self.replica.topics else "", "event": event})
        self._actions.append(Send(Request(self._probe_ref, "sync:publish", msgspec.Raw(payload))))
        self._routing_check_at = now + self.settings.reply_timeout_s

    def _take_other_reply(self, reply: Reply, now: float) -> None:
        if self._routing_check_at < NEVER and reply.ref == self._probe_ref:
            self._answered("accepted" if reply.ok else f"refused:{reply.body.code or 'error'}")

    def _wake_probe(self, now: float) -> None:
        self._answered("refused:silence")

    def _answered(self, answer: str) -> None:
        self._routing_check_at = NEVER
        self._note("probed", detail=f"{self.name}:{answer}")


class ExpiredTokenProbe(ClientSession):
    """Connects with a token that it knows to be void, once a token, before it mints a new one.

    It knows from `reauth_required`, or because the token's time and the runtime's leeway are over.
    """

    name = "expired_token"
    expects = ("token_expired",)
    _void: Token | None = None  # the token it was told is no longer good
    _tried: Token | None = None  # whose question has been answered

    def _take_error(self, body: Body, now: float) -> None:
        if body.code == "reauth_required":
            self._void = self.token
        super()._take_error(body, now)

    def _begin_attempt(self, now: float) -> None:
        if self.token is not None and self._is_void(self.token, now) and self._tried is not self.token:
            self._retry_at = NEVER
            self._connect(now)
        else:
            super()._begin_attempt(now)

    def _is_void(self, token: Token, now: float) -> bool:
        return token is self._void or now >= token.expires_at + self.settings.service.token_leeway_s

    def connected(self, now: float) -> None:
        """See `ClientSession`; with a void token, this is the defect."""
        self._answer("accepted", now)
        super().connected(now)

    def connect_failed(self, code: str, now: float) -> None:
        """See `ClientSession`; a failing network is no answer, so the question is put again."""
        if code not in NETWORK_CODES:
            self._answer(f"refused:{code}", now)
        super().connect_failed(code, now)

    def _answer(self, answer: str, now: float) -> None:
        asked = self.state is State.CONNECTING and self._tried is not self.token
        if asked and self.token is not None and self._is_void(self.token, now):
            self._tried = self.token
            self._note("probed", detail=f"{self.name}:{answer}")


class RevokedTokenProbe(ExpiredTokenProbe):
    """Connects once more with the token of a session that was revoked."""

    name = "revoked_token"
    expects = ("token_revoked",)


_OWN = (MutationProbe, ExpiredTokenProbe, RevokedTokenProbe, malformed.MalformedFramesProbe)
_OTHERS = (*tokens.PROBES, *builds.PROBES)
_MUTATIONS = mutations.PROBES
PROBES: dict[str, type[ClientSession]] = {
    **{probe.name: probe for probe in _OWN},
    **{probe.name: probe for probe in _MUTATIONS},
    **{probe.name: probe for probe in _OTHERS},
}
# The codes that each is to be refused with; none: any will do, as the contract names none.
EXPECTED: dict[str, tuple[str, ...]] = {
    **{probe.name: probe.expects for probe in _OWN},
    **{probe.name: probe.expects for probe in _MUTATIONS},
    **{probe.name: probe.expects for probe in _OTHERS},
}


def session_class(probe: str | None) -> type[ClientSession]:
    """The class of session for a client that is this probe, or none; raises `UsageError` for an unknown name."""
    if probe is None:
        return ClientSession
    try:
        return PROBES[probe]
    except KeyError:
        raise UsageError(f"there is no probe '{probe}'; there are: {', '.join(PROBES)}.") from None
