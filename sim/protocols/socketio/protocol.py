"""Socket.IO's entry in the registry of protocols."""

from collections.abc import Sequence

from sim.protocols.registry import Protocol
from sim.protocols.socketio.adapter import CAPABILITIES, SocketIoConnection
from sim.protocols.socketio.profile import SERVER

_EVENT = "event"


def _stream_id(topic: str) -> str:
    return topic


def _streams_of(runs: Sequence[str], worker_events: bool) -> list[tuple[str, str, str]]:
    """One stream per run: a room of the application, which it names as the run. There are no worker events."""
    return [(run, run, _EVENT) for run in runs]


PROTOCOL = Protocol(
    name="socketio",
    capabilities=CAPABILITIES,
    new_connection=lambda options: SocketIoConnection(options.url, options.options),
    stream_id=_stream_id,
    streams_of=_streams_of,
    server=SERVER,
)
