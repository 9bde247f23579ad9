"""The sync channel's entry in the registry of protocols."""

from collections.abc import Sequence

from sim.protocols.registry import Protocol
from sim.protocols.spacetime.adapter import CAPABILITIES, SpacetimeConnection
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.protocols.spacetime.server import SERVER
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events, stream_id

_CODEX_EVENT = "codex.worker.progress"
_RUN_EVENT = "run.progress"


def _streams_of(runs: Sequence[str], worker_events: bool) -> list[tuple[str, str, str]]:
    """One stream per run, and that of worker events."""
    streams = [(run_events(run), run, _RUN_EVENT) for run in runs]
    return [*streams, (CODEX_WORKER_EVENTS, runs[0], _CODEX_EVENT)] if worker_events else streams


PROTOCOL = Protocol(
    name="spacetime",
    capabilities=CAPABILITIES,
    new_connection=lambda options: SpacetimeConnection(options.url),
    stream_id=stream_id,
    streams_of=_streams_of,
    negative_forms=SpacetimeForms(),
    server=SERVER,
)
