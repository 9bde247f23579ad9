"""Continuity of a stream: may a cursor resume, and what becomes of an event that arrives."""

from dataclasses import dataclass
from enum import StrEnum

RETENTION_FLOOR_BREACH = "retention_floor_breach"
REPLAY_BUDGET_EXCEEDED = "replay_budget_exceeded"


@dataclass(frozen=True, slots=True)
class Window:
    """What a runtime retains of a stream: the sequence numbers `oldest` to `head`, empty when `oldest` is `head + 1`."""

    oldest: int
    head: int

    @property
    def floor(self) -> int:
        """The retention floor: the lowest cursor that misses nothing."""
        return self.oldest - 1


def effective_budget(replay_budget_events: int) -> int:
    """The replay budget in force, in events: a budget of 0 still lets one event through, as the shipped code has it."""
    return max(replay_budget_events, 1)


def replay_lag(after: int, window: Window) -> int:
    """How many events a cursor is behind the head; 0 for a cursor at or above it."""
    return max(window.head - after, 0)


def stale_reasons(after: int, window: Window | None, replay_budget_events: int) -> tuple[str, ...]:
    """Why a cursor cannot resume, in the contract's order; empty: it can.

    A stream without a window (nothing was ever appended) and a cursor above the head resume.
    """
    if window is None:
        return ()
    reasons = []
    if after < window.floor:
        reasons.append(RETENTION_FLOOR_BREACH)
    if replay_lag(after, window) > effective_budget(replay_budget_events):
        reasons.append(REPLAY_BUDGET_EXCEEDED)
    return tuple(reasons)


class Outcome(StrEnum):
    """What the apply rule says about one event."""

    APPLY = "apply"
    DUPLICATE = "duplicate"
    GAP = "gap"  # nothing is applied; ask again from the watermark
    SNAPSHOT_REQUIRED = "snapshot_required"


def apply_outcome(watermark: int | None, seq: int) -> Outcome:
    """The apply rule for an event `seq` at `watermark`; None: no snapshot or cursor was accepted yet."""
    if watermark is None:
        return Outcome.SNAPSHOT_REQUIRED
    if seq == watermark + 1:
        return Outcome.APPLY
    return Outcome.DUPLICATE if seq <= watermark else Outcome.GAP
