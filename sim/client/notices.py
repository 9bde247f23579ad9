"""What a session tells of itself."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

HASH_DIGITS = 12  # of a payload's hash, kept in observations


class Notice(NamedTuple):
    """Something that happened, with the fields of an observation (see `sim.record.observations`)."""

    kind: str
    stream: str = ""
    seq: int = -1
    attempt: int = 0
    value: float = math.nan
    detail: str = ""


# What `Notice(...)` does, without a Python function's call: every applied event makes some.
_as_notice: Callable[[tuple[str, str, int, int, float, str]], Notice] = partial(tuple.__new__, Notice)


class Notes:
    """What happened to one client, until it is taken."""

    __slots__ = ("_own", "_shared")

    def __init__(self) -> None:
        self._own: list[Notice] = []
        self._shared: tuple[Notice, ...] = ()  # what happened before `_own`: shared with other clients

    def add(
        self, kind: str, stream: str = "", seq: int = -1, attempt: int = 0, value: float = math.nan, detail: str = ""
    ) -> None:
        """Note one thing."""
        self._own.append(_as_notice((kind, stream, seq, attempt, value, detail)))

    def add_shared(self, notices: tuple[Notice, ...]) -> None:
        """Notices that many clients share stay one object, unless there is more to say."""
        if self._shared or self._own:
            notices, self._own = (), [*self._shared, *self._own, *notices]
        self._shared = notices

    def take(self) -> Sequence[Notice]:
        """All of them, each once; a tuple is one and the same object for many clients."""
        shared, self._shared = self._shared, ()
        if shared and not self._own:
            return shared
        out, self._own = self._own, []
        return [*shared, *out]


def short_hash(payload_hash: str) -> str:
    """The first digits of a payload hash, enough to tell two payloads of one event apart."""
    return payload_hash[7 : 7 + HASH_DIGITS]
