"""What the shipped desktop client does, quirks included, so that drills can show what it costs.

Every function answers as that client's own code answered when it was run; `tests/vectors` has the answers.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sim.client.backoff import PRESETS
from sim.protocols.spacetime.disconnects import MINTS_FIRST, DisconnectReason
from sim.server.continuity import Outcome, apply_outcome

TOKEN_REFRESH_DELAY_MS = 100


class DesktopBatch(NamedTuple):
    """What became of a batch: sequence numbers by outcome, and the checkpoint (watermark and cursor) after it."""

    applied: list[int]
    duplicate: list[int]
    gap: list[int]
    checkpoint: int


def apply_batch(watermark: int, seqs: Iterable[int]) -> DesktopBatch:
    """Apply a batch of events as the desktop client does.

    After a gap its checkpoint becomes `min(gap) - 1`, which lies above the watermark: it jumps over
    the hole without a word, and as the failing event itself was not applied, the next one is a gap again.
    """
    batch = DesktopBatch([], [], [], watermark)
    for seq in seqs:
        outcome = apply_outcome(watermark, seq)
        if outcome is Outcome.APPLY:
            watermark = seq
            batch.applied.append(seq)
        else:
            (batch.duplicate if outcome is Outcome.DUPLICATE else batch.gap).append(seq)
    return batch._replace(checkpoint=min(batch.gap) - 1 if batch.gap else watermark)


class DesktopDelay(NamedTuple):
    """What the desktop client does after a disconnect: wait, perhaps set its cursor to 0, perhaps mint a token."""

    delay_ms: int
    reset_cursor: bool
    refresh_token: bool


class DesktopCounter:
    """The desktop client's count of disconnects: token refreshes count too, and going live never resets it."""

    def __init__(self) -> None:
        self.disconnects = 0

    def live(self) -> None:
        """The client went live. Nothing is reset: that is the defect."""

    def disconnected(self, reason: DisconnectReason) -> DesktopDelay:
        """Count a disconnect; what the client does next."""
        self.disconnects += 1
        delay_ms = int(PRESETS["desktop"].delay_ms(self.disconnects, 0.0, 0.0))
        if reason is DisconnectReason.TOKEN_REFRESH_DUE:
            delay_ms = TOKEN_REFRESH_DELAY_MS
        return DesktopDelay(delay_ms, reason is DisconnectReason.STALE_CURSOR, reason in MINTS_FIRST)
