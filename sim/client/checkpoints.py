"""Checkpoints as they outlive a client's process: one short text a stream, which shows whether it is whole.

`57:b0dc4b06` is a number and the CRC-32 of its digits. What does not match was never completely written, and is no number.
"""

import zlib
from collections.abc import Mapping
from typing import Literal

from sim.client.session import ClientSession

Damage = Literal["kept", "old", "lost", "torn", "future"]


def written(seq: int) -> str:
    """A checkpoint as it is stored."""
    return f"{seq}:{zlib.crc32(str(seq).encode()):08x}"


def read(text: str | None, careless: bool = False) -> int | None:
    """The checkpoint that a text holds, or None for none and for a text that is not whole.

    `careless` is the defect `reads_torn_checkpoints`: digits are a number.
    """
    digits = (text or "").partition(":")[0]
    if not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) if careless or text == written(int(digits)) else None


def damaged(text: str | None, damage: Damage, events: int) -> str | None:
    """What is left of a stored checkpoint after such a damage; `events` is how many events too low or too high."""
    seq = read(text)
    if text is None or seq is None or damage == "lost":
        return None
    if damage == "torn":
        return text[: max(len(str(seq)) // 2, 1)]  # the disk got no further than this
    return written({"kept": seq, "old": max(seq - events, 0), "future": seq + events}[damage])


def stored_by(session: ClientSession) -> dict[str, str]:
    """What a client's store holds, by topic."""
    cursors = session.replica.cursors.values()
    return {cursor.topic: written(cursor.checkpoint) for cursor in cursors if cursor.checkpoint is not None}


def begin_again(session: ClientSession, stored: Mapping[str, str | None]) -> ClientSession:
    """The next life of a client whose process died: nothing is left but its store."""
    careless = "reads_torn_checkpoints" in session.policy.defects
    found = {topic: read(text, careless) for topic, text in stored.items()}
    checkpoints = {topic: seq for topic, seq in found.items() if seq is not None}
    again = type(session)(session.client, session.replica.topics, session.policy, session.settings, checkpoints)
    again.retries.disconnects = session.retries.disconnects  # what the draws count by, so that no two lives draw the same
    return again
