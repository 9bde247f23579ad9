"""Centrifugo's entry in the registry of protocols."""

from collections.abc import Mapping, Sequence

from sim.protocols.adapter import Capabilities
from sim.protocols.centrifugo.adapter import CAPABILITIES, WITHOUT_HISTORY, CentrifugoConnection
from sim.protocols.centrifugo.profile import SERVER
from sim.protocols.registry import ConnectionOptions, Protocol

_EVENT = "event"


def _has_history(options: Mapping[str, object]) -> bool:
    return options.get("history", True) is not False


def _capabilities(options: Mapping[str, object]) -> Capabilities:
    return CAPABILITIES if _has_history(options) else WITHOUT_HISTORY


def _new_connection(options: ConnectionOptions) -> CentrifugoConnection:
    return CentrifugoConnection(options.url, _has_history(options.options))


def _streams_of(runs: Sequence[str], worker_events: bool) -> list[tuple[str, str, str]]:
    """A drill's stream is the channel of that name."""
    return [(channel, channel, _EVENT) for channel in runs]


PROTOCOL = Protocol(
    name="centrifugo",
    capabilities=CAPABILITIES,
    new_connection=_new_connection,
    stream_id=str,
    streams_of=_streams_of,
    server=SERVER,
    capabilities_with=_capabilities,
)
