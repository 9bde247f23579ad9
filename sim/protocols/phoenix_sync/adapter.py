"""Client side of the sync runtime's channel: one WebSocket; converts intents to frames, and frames to events.

It shares the frames of Phoenix Channels with `spacetime`. What differs: metadata is in the URL, only beats on the channel
count, each batch comes again in a second form, positions in answers and heartbeats are the socket's own, and a refused upgrade
has no code.
"""

from urllib.parse import urlencode

import msgspec

from sim.protocols import endings
from sim.protocols.adapter import CaughtUpSign, Credentials, HeadSource, Open, Refusals, Transport, TransportEnd, Write
from sim.protocols.events import (
    Answer,
    Message,
    Repeated,
    StreamEnded,
    Whose,
)
from sim.protocols.intents import Beat, Intent, Subscribe
from sim.protocols.phoenix_sync.payloads import check
from sim.protocols.phoenix_sync.profile import REJOIN, UNMATCHED, connect_refused, upgrade_refused
from sim.protocols.shared_decoding import SharedDecoding
from sim.protocols.spacetime import adapter as spacetime
from sim.protocols.spacetime import frames
from sim.protocols.spacetime.adapter import SpacetimeConnection, heads
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.frames import ServerFrame

CAPABILITIES = msgspec.structs.replace(  # as for `spacetime`, except:
    spacetime.CAPABILITIES,
    head=(HeadSource.REPLY, HeadSource.HEARTBEATS),
    head_of=Whose.SOCKET,
    caught_up=CaughtUpSign.REPLY,
    has_snapshots=False,
    refusals=Refusals.BARE_STATUS,
    hash_form="sha256 of canonical JSON, Base64",
    evicts=False,
    beats_on_channel=True,
    silence_codes=("phx_close",),  # of the channel; its socket stays open
)
_SOCKET = 0
_PUSH = msgspec.json.Decoder(tuple[object, object, object, str, dict[str, msgspec.Raw]])
_UNMATCHED = msgspec.json.Decoder(tuple[None, str | None, object, str, dict[str, object]])


class PhoenixSyncConnection(SpacetimeConnection):
    """See `sim.protocols.adapter.Connection`. `url` is the socket's, without a query."""

    shared = SharedDecoding()
    check = staticmethod(check)
    beats_report = Whose.SOCKET

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. The token and the metadata are part of the URL; in the join, the runtime ignores them."""
        given = msgspec.to_builtins(credentials.metadata)
        query = {"token": credentials.token, "vsn": "2.0.0", **{name: value for name, value in given.items() if value}}
        self._actions.append(Open(_SOCKET, Transport.WEBSOCKET, f"{self._url}?{urlencode(query)}"))
        return ()

    def send(self, intent: Intent) -> Message:
        """See `Connection`."""
        if isinstance(intent, Beat):
            self._asked[intent.ref] = Beat
            self._actions.append(Write(_SOCKET, encode_client(frames.SyncBeat(intent.ref, intent.payload)).encode()))
            return ()
        return super().send(intent)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`."""
        if b'"sync:frame"' in data[:64] and _is_second_form(data):
            return (Repeated(()),)
        if b'"unmatched topic"' in data and (unmatched := _unmatched(data)) is not None:
            self._asked.pop(unmatched.ref, None)
            return (unmatched,)
        return super().received(id, data, is_text)

    def read(self, frame: ServerFrame) -> Message:
        """Convert a frame to events."""
        if isinstance(frame, frames.ChannelClosed):
            return (StreamEnded(None, frame.event, REJOIN),)
        if isinstance(frame, frames.Reply) and frame.ok and self._asked.get(frame.ref) is Subscribe:
            (resumed,) = super().read(frame)
            return (resumed, *heads(frame.body.current_watermarks or (), Whose.SOCKET))
        return super().read(frame)

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`. The code 1011 says nothing: the runtime closes with it after a revocation, too."""
        if self._is_open:
            return (endings.closed(end),)
        if end.status is not None:
            return (upgrade_refused(end),)
        return (connect_refused("protocol" if end.is_broken else "network"),)


def _is_second_form(data: bytes) -> bool:
    """Whether a message is a batch in its second form, or another push that was sent before in its first form."""
    try:
        return bytes(_PUSH.decode(data)[4].get("kind", b"")).startswith(b'"KHALA_FRAME_KIND')
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _unmatched(data: bytes) -> Answer | None:
    """Return the answer to a message that was sent without a joined channel; None for another message."""
    try:
        _, ref, _, event, payload = _UNMATCHED.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Answer(ref or "", False, UNMATCHED) if event == "phx_reply" and payload.get("status") == "error" else None
