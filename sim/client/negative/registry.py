"""All negative clients by name: clients that try what must be refused.

The answer is a notice of kind `probed` whose detail is `<name>:accepted` or `<name>:refused:<code>` (or `<name>:served`,
where that is right); one with several questions names each, as `<name>:<what>:accepted`. `EXPECTED` says which codes the
contract has for it; all others are wrong.
"""

from sim.base.errors import UsageError
from sim.client.negative import builds, mutations, tokens
from sim.client.negative.base import NegativeClient
from sim.client.negative.malformed import MalformedFrames
from sim.client.session import Session

_ALL: tuple[type[NegativeClient], ...] = (
    *(mutations.MutationOverSocket, tokens.ExpiredToken, tokens.RevokedToken, MalformedFrames),
    *mutations.CLIENTS,
    *tokens.CLIENTS,
    *builds.CLIENTS,
)
NEGATIVE_CLIENTS: dict[str, type[NegativeClient]] = {client.name: client for client in _ALL}
# The codes that each is to be refused with; empty: any code will do, as the contract names none.
EXPECTED: dict[str, tuple[str, ...]] = {client.name: client.expects for client in _ALL}


def session_class(negative_client: str | None) -> type[Session]:
    """The class of session for a negative client of this name, or for an ordinary one; raises `UsageError`."""
    if negative_client is None:
        return Session
    try:
        return NEGATIVE_CLIENTS[negative_client]
    except KeyError:
        known = ", ".join(NEGATIVE_CLIENTS)
        raise UsageError(f"there is no negative client {negative_client!r}; there are: {known}.") from None
