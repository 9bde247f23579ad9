"""All negative clients by name: clients that send requests that must be refused.

The answer is a notice of kind `probed` with the detail `<name>:accepted` or `<name>:refused:<code>` (or `<name>:served`,
if that is right). A client with several requests names each: `<name>:<request>:accepted`. `EXPECTED` has the codes that the
contract allows; all others are wrong.
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
# The codes with which each must be refused; empty: any code, as the contract names none.
EXPECTED: dict[str, tuple[str, ...]] = {client.name: client.expects for client in _ALL}


def why_unasked(name: str, *, has_forms: bool, has_tokens: bool, states_builds: bool) -> str:
    """Return why a negative client cannot ask its question, in words; empty: it can.

    `has_forms`: its protocol states the messages of negative clients; `has_tokens`: the target mints tokens; `states_builds`: a
    join states the client's build.
    """
    client = NEGATIVE_CLIENTS.get(name)
    if client is not None and client.needs_forms and not has_forms:
        return "its protocol states no messages of negative clients"
    if client is not None and client.needs_tokens and not has_tokens:
        return "the target has no tokens"
    if client is not None and client.needs_builds and not states_builds:
        return "its protocol does not state a client's build"
    return ""


def session_class(negative_client: str | None) -> type[Session]:
    """Return the session class of a negative client by its name; None: of an ordinary client. Raises `UsageError`."""
    if negative_client is None:
        return Session
    try:
        return NEGATIVE_CLIENTS[negative_client]
    except KeyError:
        known = ", ".join(NEGATIVE_CLIENTS)
        raise UsageError(f"there is no negative client {negative_client!r}; there are: {known}.") from None
