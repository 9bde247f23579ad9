"""Markers: the identity of an event, inside its own payload, so that judging a delivery needs no word of the server.

The publisher puts a marker into each payload, the same on every try. A delivered payload shows by it which event it is, and
whether it is what was sent. The text is `sg.RUN.STREAM.NUMBER.CHECKSUM`, for example `sg.5f0c9b1a77d2.0a1b2c3d.17.89abcdef`.
"""

import re
import zlib
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from sim.base.json_pointer import find
from sim.protocols.payloads import canonical_json

KEY: Final = "marker"  # in the published payload, which is a JSON object
PUBLISHED_AT: Final = "/payload"  # where the mock's services put the published payload in a delivered one
_FORM = re.compile(r"sg\.([0-9a-f]{12})\.([0-9a-f]{8})\.([0-9]{1,12})\.([0-9a-f]{8})")
_MAX_KNOWN = 1024  # entries in the cache of read payloads
_MAX_KNOWN_BYTES = 4096  # of a payload in the cache: larger ones cost more to keep than to read
_decode = msgspec.json.Decoder().decode


class Marker(NamedTuple):
    """`run` and `stream` are 12 and 8 hexadecimal digits, `number` counts a stream's events from 1."""

    run: str
    stream: str
    number: int
    checksum: str

    def text(self) -> str:
        """The marker as it is published."""
        return f"sg.{self.run}.{self.stream}.{self.number}.{self.checksum}"


class Reading(NamedTuple):
    """What a delivered payload says: the event's number, -1 without a marker of this run and stream.

    `problem` is `checksum` if the payload is not what was published, `stream` if its marker is of another stream of this run,
    and `run` if it is of another run, which is right on a stream that several runs publish to.
    """

    number: int
    problem: str = ""


FOREIGN: Final = Reading(-1)


def parse(text: object) -> Marker | None:
    """Return the marker in a text; None if it is not one."""
    form = _FORM.fullmatch(text) if isinstance(text, str) else None
    return None if form is None else Marker(form[1], form[2], int(form[3]), form[4])


@lru_cache(maxsize=4096)
def stream_marker(stream: str) -> str:
    """Return the `stream` of its markers for a stream's id."""
    return f"{zlib.crc32(stream.encode()):08x}"


def checksum_of(payload: dict[str, Any]) -> str:
    """Return the checksum of a decoded payload without its marker. How a service formats the JSON does not matter."""
    return f"{zlib.crc32(canonical_json({key: value for key, value in payload.items() if key != KEY})):08x}"


def marked(payload: dict[str, Any], run: str, stream: str, number: int) -> dict[str, Any]:
    """Return a payload with its marker."""
    return {**payload, KEY: Marker(run, stream_marker(stream), number, checksum_of(payload)).text()}


def bytes_of(number: int) -> int:
    """Return how many bytes the marker adds to a payload's JSON."""
    return len(f',"{KEY}":"sg....."') + 12 + 8 + 8 + len(str(number)) - 1


def marker_of(payload: bytes | msgspec.Raw, pointer: str) -> tuple[Marker, bool] | None:
    """Return a delivered payload's marker, and whether its checksum is right; None without one. Never raises."""
    try:
        content = find(_decode(payload), pointer)
        marker = parse(content.get(KEY)) if isinstance(content, dict) else None
        return None if marker is None else (marker, checksum_of(content) == marker.checksum)
    except (ValueError, LookupError, RecursionError, msgspec.MsgspecError):  # a peer can send anything
        return None


class MarkerReader:
    """Reads the markers of one run. `pointer` says where the published payload stands in a delivered one.

    Many clients get the same payload, so the latest are remembered.
    """

    def __init__(self, run: str = "", pointer: str = PUBLISHED_AT) -> None:
        self._run = run
        self._pointer = pointer
        self._known: dict[tuple[str, bytes], Reading] = {}

    def read(self, payload: msgspec.Raw, stream: str) -> Reading:
        """Read a payload that was delivered in the stream with this id."""
        if not self._run:
            return FOREIGN
        key = stream, bytes(payload)
        if (known := self._known.get(key)) is not None:
            return known
        reading = self._read(*key)
        if len(key[1]) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = reading
        return reading

    def _read(self, stream: str, payload: bytes) -> Reading:
        found = marker_of(payload, self._pointer)
        if found is None:
            return FOREIGN
        marker, is_intact = found
        if marker.run != self._run:
            return Reading(-1, "run")
        if marker.stream != stream_marker(stream):
            return Reading(-1, "stream")
        return Reading(marker.number, "" if is_intact else "checksum")


NO_MARKERS: Final = MarkerReader()
