"""The entry of NATS JetStream in the registry of protocols."""

from collections.abc import Sequence

from sim.protocols.nats_jetstream.adapter import CAPABILITIES, JetStreamConnection
from sim.protocols.nats_jetstream.profile import SERVER
from sim.protocols.registry import Protocol


def _streams_of(runs: Sequence[str], worker_events: bool) -> list[tuple[str, str, str]]:
    return [(run, run, "event") for run in runs]


PROTOCOL = Protocol(
    name="nats_jetstream",
    capabilities=CAPABILITIES,
    new_connection=JetStreamConnection,
    stream_id=str,
    streams_of=_streams_of,
    server=SERVER,
)
