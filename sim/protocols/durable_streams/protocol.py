"""The entry of Durable Streams in the registry of protocols."""

from collections.abc import Sequence

from sim.protocols.durable_streams.adapter import CAPABILITIES, DurableStreamsConnection
from sim.protocols.durable_streams.profile import SERVER
from sim.protocols.registry import Protocol

_EVENT = "event"  # messages have no type


def _streams_of(runs: Sequence[str], worker_events: bool) -> list[tuple[str, str, str]]:
    """Each run has its own stream, of the same name."""
    return [(run, run, _EVENT) for run in runs]


PROTOCOL = Protocol(
    name="durable_streams",
    capabilities=CAPABILITIES,
    new_connection=lambda options: DurableStreamsConnection(options.url, options.options),
    stream_id=str,
    streams_of=_streams_of,
    server=SERVER,
)
