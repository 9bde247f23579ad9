"""How often a client has come back, and how long it waits before it does so again."""

from dataclasses import dataclass

from sim.base import randomness
from sim.client.policies import Policy
from sim.protocols.spacetime.disconnects import DisconnectReason


@dataclass(slots=True)
class Retries:
    """Of one client, by its policy."""

    client: int
    policy: Policy
    seed: int
    disconnects: int = 0  # ever; the argument of every backoff draw
    attempt: int = 0  # the policy's own count
    _previous_delay_ms: float = 0.0

    def count(self, live_for_s: float) -> None:
        """Another disconnect, or connect that failed, of a client that was live for so long until then."""
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
            # Jittered, or everyone told to wait would come back together.
            return min(max(hint_ms, 0.0), self.policy.longest_hint_ms) + delay_ms, True
        return delay_ms, False
