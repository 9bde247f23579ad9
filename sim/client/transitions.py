"""The states of a client session and its one transition table: what may happen in which state, and which state follows."""

from enum import Enum, auto


class State(Enum):
    """Where a session is."""

    IDLE = auto()
    MINTING = auto()  # it waits for a token
    CONNECTING = auto()
    JOINING = auto()  # the connection is open
    SUBSCRIBING = auto()
    LIVE = auto()
    BACKOFF = auto()  # it waits until its next attempt is due
    ENDED = auto()  # it gave up: the server said that a retry cannot succeed
    STOPPED = auto()

    __hash__ = object.__hash__  # members are singletons; Enum's own hashes the name at every look-up


class Trigger(Enum):
    """What moves a session from state to state."""

    START = "start"
    NEEDS_TOKEN = "needs_token"  # an attempt is due, without a good token
    HAS_TOKEN = "has_token"  # an attempt is due, with one
    MINTED = "minted"
    MINT_FAILED = "mint_failed"
    RENEWED = "renewed"  # a token for the open connection arrived
    HELD_BACK = "held_back"  # the token does not suit yet (negative clients)
    CONNECTED = "connected"
    CONNECT_FAILED = "connect_failed"
    JOINED = "joined"
    SUBSCRIBED = "subscribed"
    RECEIVED = "received"
    REJOINS = "rejoins"  # what was joined ended, and the connection is open
    DISCONNECTED = "disconnected"  # by either side
    GAVE_UP = "gave_up"
    STOP = "stop"

    __hash__ = object.__hash__


CONNECTED = frozenset({State.JOINING, State.SUBSCRIBING, State.LIVE})
TRANSITIONS: dict[Trigger, dict[State, State]] = {
    Trigger.START: {State.IDLE: State.BACKOFF, State.ENDED: State.BACKOFF},  # a user signs in again after it gave up
    Trigger.NEEDS_TOKEN: {State.BACKOFF: State.MINTING},
    Trigger.HAS_TOKEN: {State.BACKOFF: State.CONNECTING},
    Trigger.MINTED: {State.MINTING: State.CONNECTING},
    Trigger.MINT_FAILED: {State.MINTING: State.BACKOFF},
    Trigger.RENEWED: {state: state for state in CONNECTED},
    Trigger.HELD_BACK: {State.CONNECTING: State.BACKOFF},
    Trigger.CONNECTED: {State.CONNECTING: State.JOINING},
    Trigger.CONNECT_FAILED: {State.CONNECTING: State.BACKOFF},
    Trigger.JOINED: {State.JOINING: State.SUBSCRIBING},
    Trigger.SUBSCRIBED: {State.SUBSCRIBING: State.LIVE, State.LIVE: State.LIVE},
    Trigger.RECEIVED: {state: state for state in CONNECTED},
    Trigger.REJOINS: dict.fromkeys(CONNECTED, State.JOINING),
    Trigger.DISCONNECTED: dict.fromkeys(CONNECTED, State.BACKOFF),
    Trigger.GAVE_UP: {State.BACKOFF: State.ENDED},
    Trigger.STOP: dict.fromkeys(State, State.STOPPED),
}
"""By trigger: the states in which it is legal, and the next state of each. Any other combination is an `IllegalMoveError`."""
