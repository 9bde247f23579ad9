"""How a client decides: the two policies that ship with the product, by name, and variants of the first.

`reference` is the contract as written; `desktop` is what the shipped desktop client does, defects
included, so that drills show what they are for. A policy that has the name of a backoff preset is the
reference but for when it comes back: it claims to end up with the same, whatever happens. Those in `WRONG`
belong to no real client: each is the reference with one defect, which proves that a drill can fail; no drill file of
the catalogue names one.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from sim.base import randomness
from sim.base.errors import UsageError
from sim.client import backoff
from sim.client.backoff import Backoff
from sim.protocols.events import DisconnectReason

ClientDefect = Literal[
    "applies_duplicates",
    "applies_past_holes",
    "ignores_hashes",
    "reads_torn_checkpoints",
    "trusts_future_checkpoints",
    "trusts_silence",
    "trusts_clock",
]
CLIENT_DEFECTS: tuple[str, ...] = get_args(ClientDefect)


@dataclass(frozen=True, slots=True)
class Policy:
    """Choices a `Session` makes. Durations in seconds unless the name says ms."""

    name: str
    backoff: Backoff
    resets_when_live: bool  # the attempt count starts again after `live_period_s` of being live
    honours_hints: bool  # waits as long as `reconnect_after_ms` or `retry_after_ms` asks
    takes_snapshots: bool  # on a stale cursor: snapshot and no cursor; else: cursor 0
    asks_again: bool  # on a gap: subscribe again from the watermark; else: jump over the hole
    refresh_delay_ms: float | None = None  # fixed delay of a token refresh; None: as any disconnect
    live_period_s: float = 5.0  # [ours] live for so long counts as a live period
    longest_hint_ms: float = 300_000.0  # [ours] a server's hint beyond it is not believed
    fruitless_asks: int = 3  # [ours] replays that did not close a hole before the client reconnects
    defects: frozenset[str] = frozenset()  # of `CLIENT_DEFECTS`

    @property
    def claims_correctness(self) -> bool:
        """Whether it says of itself that nothing gets lost: it goes on from a snapshot, and never jumps over a hole."""
        return self.takes_snapshots and self.asks_again and not self.defects


def _by_the_contract(delays: str) -> Policy:
    return Policy(delays, backoff.get(delays), resets_when_live=True, honours_hints=True, takes_snapshots=True, asks_again=True)


# All of `backoff.PRESETS` that a client has; no client retries immediately for ever.
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


# "wrong_" and what is wrong with it.
WRONG: dict[str, Policy] = {
    f"wrong_{defect}": replace(POLICIES["reference"], name=f"wrong_{defect}", defects=frozenset({defect}))
    for defect in CLIENT_DEFECTS
}


def get(name: str) -> Policy:
    """The policy called `name`; raises `UsageError` naming those that exist."""
    try:
        return (POLICIES | WRONG)[name]
    except KeyError:
        raise UsageError(f"unknown client policy '{name}'; choose from: {', '.join(POLICIES)}.") from None


@dataclass(slots=True)
class Retries:
    """How often one client has come back, and how long it waits before the next time."""

    client: int
    policy: Policy
    seed: int
    disconnects: int = 0  # ever; the argument of every backoff draw
    attempt: int = 0  # the policy's own count
    _previous_delay_ms: float = 0.0

    def count(self, live_for_s: float) -> None:
        """Count a disconnect, or a connect that failed, of a client that was live for so long until then."""
        if self.policy.resets_when_live and live_for_s >= self.policy.live_period_s:
            self.attempt, self._previous_delay_ms = 0, 0.0
        self.attempt += 1
        self.disconnects += 1

    def delay_ms(self, reason: DisconnectReason, hint_ms: float | None) -> tuple[float, bool]:
        """Milliseconds to wait now, and whether a server's hint is in them."""
        if reason is DisconnectReason.TOKEN_REFRESH_DUE and self.policy.refresh_delay_ms is not None:
            return self.policy.refresh_delay_ms, False
        draw = randomness.draw(self.seed, "backoff", self.client, self.disconnects)
        delay_ms = self.policy.backoff.delay_ms(self.attempt, draw, self._previous_delay_ms)
        self._previous_delay_ms = delay_ms
        if hint_ms is not None and self.policy.honours_hints:
            # Jittered, or all clients with the same hint would come back together.
            return min(max(hint_ms, 0.0), self.policy.longest_hint_ms) + delay_ms, True
        return delay_ms, False
