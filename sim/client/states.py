"""The states of a client session, and what may happen in which."""

from enum import Enum, auto


class State(Enum):
    """Where a session is; the contract's `connecting` is MINTING to SUBSCRIBING here."""

    IDLE = auto()
    MINTING = auto()
    CONNECTING = auto()
    JOINING = auto()
    SUBSCRIBING = auto()
    LIVE = auto()
    BACKOFF = auto()
    STOPPED = auto()

    __hash__ = object.__hash__  # each exists once; Enum's own hashes its name, at every look into a set


CONNECTED = frozenset({State.JOINING, State.SUBSCRIBING, State.LIVE})
LEGAL: dict[str, frozenset[State]] = {
    "start": frozenset({State.IDLE}),
    "minted": frozenset({State.MINTING}),
    "mint_failed": frozenset({State.MINTING}),
    "connected": frozenset({State.CONNECTING}),
    "connect_failed": frozenset({State.CONNECTING}),
    "received": CONNECTED,
    "disconnected": CONNECTED,
}
