"""Reconnect delays: the well-known backoff formulas, and those of shipped clients by name.

A delay is a function of the attempt, of one uniform draw in [0, 1) and of the previous delay. There is
no state, so a simulator and a client cannot disagree. All delays are in milliseconds and bounded.
"""

from dataclasses import dataclass
from typing import Protocol

from sim.base.errors import UsageError

_MAX_DOUBLINGS = 31  # far above any cap; keeps a count of a million attempts from becoming a huge integer


class Backoff(Protocol):
    """A reconnect delay. `attempt` counts from 1, `draw` is uniform in [0, 1), `previous_ms` is 0 at first."""

    @property
    def name(self) -> str:
        """The preset's name."""

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """Return the milliseconds to wait before the attempt."""


def _doubled(base_ms: float, doublings: int, cap_ms: float) -> float:
    return min(base_ms * 2.0 ** min(max(doublings, 0), _MAX_DOUBLINGS), cap_ms)


@dataclass(frozen=True, slots=True)
class FullJitter:
    """U(0, min(base * 2^(n-1), cap)): M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015."""

    name: str
    base_ms: float = 250.0
    cap_ms: float = 8000.0

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        return draw * _doubled(self.base_ms, attempt - 1, self.cap_ms)


@dataclass(frozen=True, slots=True)
class EqualJitter:
    """Half of min(base * 2^(n-1), cap), plus U(0, the other half): "equal jitter" of the same post."""

    name: str
    base_ms: float = 250.0
    cap_ms: float = 8000.0

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        return (0.5 + 0.5 * draw) * _doubled(self.base_ms, attempt - 1, self.cap_ms)


@dataclass(frozen=True, slots=True)
class DecorrelatedJitter:
    """min(cap, U(base, 3 * previous)), the first from U(base, 3 * base): "decorrelated jitter" of the same post."""

    name: str
    base_ms: float = 250.0
    cap_ms: float = 8000.0

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        highest = 3.0 * min(max(previous_ms, self.base_ms), self.cap_ms)
        return min(self.base_ms + draw * (highest - self.base_ms), self.cap_ms)


@dataclass(frozen=True, slots=True)
class Exponential:
    """min(base * 2^min(n-1, max_doublings), cap), without jitter: clients that are disconnected together reconnect together."""

    name: str
    base_ms: float = 250.0
    cap_ms: float = 8000.0
    max_doublings: int = _MAX_DOUBLINGS

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        return _doubled(self.base_ms, min(attempt - 1, self.max_doublings), self.cap_ms)


@dataclass(frozen=True, slots=True)
class CentrifugeJitter:
    """min(cap, base + U(0, min(cap, base * 2^(n-1)))).

    Source: `backoff` in centrifuge-js (npm package `centrifuge` 5.8.0), whose step counts from 0, with
    its defaults `minReconnectDelay` 500 and `maxReconnectDelay` 20000.
    """

    name: str
    base_ms: float = 500.0
    cap_ms: float = 20_000.0

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        return min(self.cap_ms, self.base_ms + draw * _doubled(self.base_ms, attempt - 1, self.cap_ms))


@dataclass(frozen=True, slots=True)
class Steps:
    """A fixed list of delays, then always the same one; no jitter."""

    name: str
    steps_ms: tuple[float, ...]
    then_ms: float

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        step = max(attempt - 1, 0)
        return self.steps_ms[step] if step < len(self.steps_ms) else self.then_ms


@dataclass(frozen=True, slots=True)
class Uniform:
    """base + U(0, spread) for every attempt."""

    name: str
    base_ms: float
    spread_ms: float

    def delay_ms(self, attempt: int, draw: float, previous_ms: float) -> float:
        """See the class."""
        return self.base_ms + draw * self.spread_ms


_PHOENIX_MS = (10.0, 50.0, 100.0, 150.0, 200.0, 250.0, 500.0, 1000.0, 2000.0)
_ABLY_QUICK_RETRIES = 8  # of 15 s each: the two minutes of ably's `connectionStateTtl`

_ALL: tuple[Backoff, ...] = (
    FullJitter("reference"),
    Exponential("desktop"),  # the shipped desktop client
    Exponential("sdk", base_ms=200.0, cap_ms=5000.0, max_doublings=8),  # the shared client library
    Steps("phoenix_js", _PHOENIX_MS, 5000.0),  # `reconnectAfterMs` in phoenix.js's socket.js
    CentrifugeJitter("centrifuge_js"),
    Steps("ably", (15_000.0,) * _ABLY_QUICK_RETRIES, 30_000.0),  # its retry timeouts, disconnected then suspended
    Uniform("server_hint", 400.0, 250.0),  # a server's `reconnect_after_ms` of 400, spread by the client
    EqualJitter("equal_jitter"),
    DecorrelatedJitter("decorrelated"),
    Uniform("none", 0.0, 0.0),
)
PRESETS: dict[str, Backoff] = {backoff.name: backoff for backoff in _ALL}


def get(name: str) -> Backoff:
    """Return the preset of that name. Raises UsageError, which lists the presets, for an unknown name."""
    preset = PRESETS.get(name)
    if preset is None:
        raise UsageError(f"unknown backoff {name!r}: expected one of {', '.join(sorted(PRESETS))}")
    return preset
