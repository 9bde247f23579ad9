"""A replica of two streams, events for it, and what it notes."""

import math
from typing import Any

import msgspec

from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.cursor import Cursor
from sim.client.replica import Replica
from sim.protocols.adapter import Capabilities, FreshStart, Positions
from sim.protocols.events import Batch, Hash, Item, Position
from sim.protocols.intents import Compatibility
from tests.client.test_capabilities import DENSE

FIELDS = ("stream", "seq", "attempt", "value", "detail", "marker")
NAN = math.nan
OPAQUE = msgspec.structs.replace(DENSE, positions=Positions.OPAQUE)
FROM_NOW_ON = msgspec.structs.replace(DENSE, fresh_start=FreshStart.FROM_NOW_ON)

Note = tuple[object, ...]


class Client:
    """A replica of the streams a and b, and what it notes. `at` sets fields of the cursor of a."""

    def __init__(self, capabilities: Capabilities = DENSE, policy: str = "reference", **at: Any) -> None:
        self.notes: list[Note] = []
        settings = ClientSettings(1, Compatibility(), capabilities)
        self.replica = Replica(("a", "b"), policies.get(policy), self._note, {}, settings)
        for name, value in at.items():
            setattr(self.a, name, value)

    def _note(self, kind: str, *args: object, **named: object) -> None:
        """Keep a notice without the fields that say nothing, and without its stream if that is a."""
        fields = {**dict(zip(FIELDS, args, strict=False)), **named}
        nothing = {"stream": "a", "seq": -1, "attempt": 0, "detail": "", "marker": -1}
        is_nan = {name for name, value in fields.items() if value != value}
        said = [value for name, value in fields.items() if name not in is_nan and value != nothing.get(name, object())]
        self.notes.append((kind, *said))

    @property
    def a(self) -> Cursor:
        return self.replica.cursors["a"]


def pos(offset: int | str, epoch: str | None = None) -> Position:
    return Position(offset, epoch)


def item(offset: int | str | None, epoch: str | None = None, check: Hash = Hash.OK) -> Item:
    return Item(None if offset is None else pos(offset, epoch), msgspec.Raw(b"{}"), "sha256:aa", check)


def batch(*seqs: int, stream: str = "a", **more: Any) -> Batch:
    return Batch(stream, tuple(item(seq) for seq in seqs), **more)


def taken(client: Client, *batches: Batch, replaying: tuple[str, ...] = (), first: bool = False) -> bool:
    return client.replica.take_batches(batches, replaying, first)
