"""Centrifugo's entry in the registry of protocols."""

from collections.abc import Mapping, Sequence

import msgspec

from sim.base.config import to_struct
from sim.protocols.adapter import Capabilities
from sim.protocols.centrifugo.adapter import CAPABILITIES, WITHOUT_HISTORY, CentrifugoConnection
from sim.protocols.centrifugo.profile import SERVER
from sim.protocols.registry import ConnectionOptions, Protocol

_EVENT = "event"


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[targets.NAME.protocol_options]`."""

    history: bool = True  # whether the namespace keeps any; without it, events have no positions


def _options(given: Mapping[str, object]) -> Options:
    """Read the options of a target file. Raises `UsageError`."""
    return to_struct(dict(given), Options, "[protocol_options]")


def _capabilities(given: Mapping[str, object]) -> Capabilities:
    return CAPABILITIES if _options(given).history else WITHOUT_HISTORY


def _new_connection(options: ConnectionOptions) -> CentrifugoConnection:
    return CentrifugoConnection(options.url, _options(options.options).history)


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
