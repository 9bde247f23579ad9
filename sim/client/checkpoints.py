"""Stored checkpoints: positions that survive a client's process, and how faults damage them."""

import zlib
from typing import Literal

import msgspec

from sim.base.errors import UsageError
from sim.protocols.adapter import Positions
from sim.protocols.events import Position

Damage = Literal["kept", "old", "lost", "torn", "future"]
_PLACE = msgspec.json.Decoder(tuple[int | str, str | None])


def can_damage(positions: Positions, how: Damage) -> bool:
    """Return whether a fault can damage checkpoints of this kind so: no client can invent an opaque position."""
    return positions is not Positions.OPAQUE or how not in ("old", "future")


def stored(position: Position) -> str:
    """Return a checkpoint in its stored form: `57:b0dc4b06` is a number and the CRC-32 of its digits.

    A position with text or with an epoch is stored as JSON, `["1-0","e1"]:` and the CRC-32.
    """
    body = str(position.offset)
    if isinstance(position.offset, str) or position.epoch is not None:
        body = msgspec.json.encode((position.offset, position.epoch)).decode()
    return f"{body}:{zlib.crc32(body.encode()):08x}"


def restore(text: str | None, careless: bool = False) -> Position | None:
    """Return the checkpoint in a stored text; None without a text, or if it was not completely written.

    `careless` is the defect `reads_torn_checkpoints`: any readable part is accepted.
    """
    body = (text or "").rpartition(":")[0] if text and ":" in text else text or ""
    position = _position_in(body)
    if position is None and careless and body.startswith("["):
        return Position(body)
    return position if position is not None and (careless or text == stored(position)) else None


def _position_in(body: str) -> Position | None:
    if body.isascii() and body.isdigit():
        return Position(int(body))
    try:
        offset, epoch = _PLACE.decode(body)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    return None if isinstance(offset, int) and offset < 0 else Position(offset, epoch)


def damage(text: str | None, how: Damage, events: int) -> str | None:
    """Return a stored checkpoint after damage of this kind; `events` is how many events it becomes too low or too high.

    Raises `UsageError` for a position that cannot be damaged so (see `can_damage`).
    """
    position = restore(text)
    if text is None or position is None or how == "lost":
        return None
    if how == "torn":
        body = text.rpartition(":")[0]
        return text[: max(len(body) // 2, 1)]  # the write was interrupted here
    if how == "kept":
        return text
    if isinstance(position.offset, str):
        raise UsageError(f"a checkpoint with an opaque position cannot become '{how}'. Use kept, lost or torn.")
    offset = max(position.offset - events, 0) if how == "old" else position.offset + events
    return stored(Position(offset, position.epoch))
