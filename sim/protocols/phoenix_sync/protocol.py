"""The sync runtime's entry in the registry of protocols."""

from collections.abc import Sequence

from sim.protocols.phoenix_sync.adapter import CAPABILITIES, PhoenixSyncConnection
from sim.protocols.phoenix_sync.server import SERVER
from sim.protocols.registry import Protocol
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, stream_id

_EVENT = "worker.progress"


def _streams_of(runs: Sequence[str], worker_events: bool) -> list[tuple[str, str, str]]:
    """All workers publish into one shared topic, so a drill has one stream, of its first worker."""
    return [(CODEX_WORKER_EVENTS, runs[0], _EVENT)]


PROTOCOL = Protocol(
    name="phoenix_sync",
    capabilities=CAPABILITIES,
    new_connection=lambda options: PhoenixSyncConnection(options.url),
    stream_id=stream_id,
    streams_of=_streams_of,
    negative_forms=SpacetimeForms(),
    server=SERVER,
)
