"""Client policies by name: the two that ship with the product, and variants of the first.

`reference` is the contract as written. `desktop` is what the shipped desktop client does, including its defects,
so that drills can show them. A policy with the name of a backoff preset differs from the reference only in its
reconnect delays: it promises the same final state. No real client has a policy of `WRONG`: each is the
reference with one defect, which proves that a drill can fail. No drill file of the catalogue names one.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from sim.base import randomness
from sim.base.errors import UsageError
from sim.client import backoff
from sim.client.backoff import Backoff
from sim.protocols.events import DisconnectReason, Next, Step

ClientDefect = Literal[
    "applies_duplicates",
    "applies_past_holes",
    "ignores_hashes",
    "ignores_epochs",
    "reads_torn_checkpoints",
    "trusts_future_checkpoints",
    "trusts_silence",
    "trusts_clock",
    "retries_terminal",
    "ignores_hints",
    "resets_on_accept",
    "reconnects_at_once",
]
CLIENT_DEFECTS: tuple[str, ...] = get_args(ClientDefect)


@dataclass(frozen=True, slots=True)
class Policy:
    """Choices a `Session` makes. Durations in seconds unless the name says ms."""

    name: str
    backoff: Backoff
    resets_when_live: bool  # the attempt count restarts after `live_period_s` of being live
    honours_hints: bool  # waits at least for `reconnect_after_ms` or `retry_after_ms`
    takes_snapshots: bool  # on a stale cursor: snapshot and no cursor; else: cursor 0
    asks_again: bool  # on a gap: subscribe again from the watermark; else: jump over the hole
    refresh_delay_ms: float | None = None  # fixed delay of a token refresh; None: as for any disconnect
    live_period_s: float = 5.0  # [ours] minimum length of a live period
    longest_hint_ms: float = 300_000.0  # [ours] longer hints of a server are reduced to this
    fruitless_asks: int = 3  # [ours] replays that did not close a hole before the client reconnects
    defects: frozenset[str] = frozenset()  # of `CLIENT_DEFECTS`


def _by_the_contract(delays: str) -> Policy:
    return Policy(delays, backoff.get(delays), resets_when_live=True, honours_hints=True, takes_snapshots=True, asks_again=True)


# All of `backoff.PRESETS` that a real client has; no real client always retries immediately.
_OTHER_DELAYS = ("sdk", "phoenix_js", "centrifuge_js", "ably", "server_hint", "equal_jitter", "decorrelated")
POLICIES: dict[str, Policy] = {
    "reference": _by_the_contract("reference"),
    "desktop": Policy(
        "desktop",
        backoff.get("desktop"),
        resets_when_live=False,
        honours_hints=False,
        takes_snapshots=False,
        asks_again=False,
        refresh_delay_ms=100.0,
    ),
    **{name: _by_the_contract(name) for name in _OTHER_DELAYS},
}


# The names are "wrong_" and the defect. A defect of which the session knows nothing is another choice.
_CHOICES: dict[str, dict[str, Any]] = {
    "ignores_hints": {"honours_hints": False},
    "reconnects_at_once": {"backoff": backoff.get("none")},
}
WRONG: dict[str, Policy] = {
    f"wrong_{defect}": replace(
        POLICIES["reference"], name=f"wrong_{defect}", defects=frozenset({defect}), **_CHOICES.get(defect, {})
    )
    for defect in CLIENT_DEFECTS
}


def get(name: str) -> Policy:
    """Return the policy called `name`; raises `UsageError`, which lists all policies."""
    known = POLICIES | WRONG
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"unknown client policy '{name}'; choose from: {', '.join(known)}.") from None


@dataclass(slots=True)
class Retries:
    """The reconnects of one client: their number, and the delay before the next."""

    client: int
    policy: Policy
    seed: int
    disconnects: int = 0  # in total; the argument of every backoff draw
    attempt: int = 0  # the policy's own count
    _previous_delay_ms: float = 0.0

    def count(self, live_for_s: float) -> None:
        """Count a disconnect or a failed connect; the client had been live for `live_for_s` seconds."""
        if self.policy.resets_when_live and live_for_s >= self.policy.live_period_s:
            self.reset()
        self.attempt += 1
        self.disconnects += 1

    def reset(self) -> None:
        """Count from the start again."""
        self.attempt, self._previous_delay_ms = 0, 0.0

    def delay_ms(self, reason: DisconnectReason, hint_ms: float | None) -> tuple[float, bool]:
        """Return the milliseconds to wait now, and whether they include a server's hint."""
        if reason is DisconnectReason.TOKEN_REFRESH_DUE and self.policy.refresh_delay_ms is not None:
            return self.policy.refresh_delay_ms, False
        draw = randomness.draw(self.seed, "backoff", self.client, self.disconnects)
        delay_ms = self.policy.backoff.delay_ms(self.attempt, draw, self._previous_delay_ms)
        self._previous_delay_ms = delay_ms
        if hint_ms is not None and self.policy.honours_hints:
            # With jitter; otherwise all clients with the same hint would reconnect together.
            return min(max(hint_ms, 0.0), self.policy.longest_hint_ms) + delay_ms, True
        return delay_ms, False


@dataclass(slots=True)
class LastTry:
    """Whether a client may try again after an end that is terminal: once, with a new token."""

    policy: Policy
    is_token_proven: bool = False  # the client was live with this token
    is_running: bool = False  # the try after a terminal end, until the client was live for long

    def may_retry(self, hint: Next, live_for_s: float) -> bool:
        """Take an end, after the client had been live for `live_for_s` seconds; returns whether the client may try again."""
        if live_for_s >= self.policy.live_period_s:
            self.is_running = False
        if hint.step is not Step.TERMINAL:
            return True
        if self.is_running or not self.is_token_proven:
            return False
        self.is_running = True
        return True
