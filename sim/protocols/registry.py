"""The protocols that stormgate speaks, by name. Other code gets one here, and never imports a protocol's package.

An installed package adds one by an entry point of the group `stormgate.protocols`: its name is the protocol's, its object a
`Protocol`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from sim.base.errors import UsageError
from sim.protocols import guard
from sim.protocols.adapter import Capabilities, Connection, NegativeForms
from sim.protocols.profile import ServerForms, WireForms

DEFAULT = "spacetime"
GROUP = "stormgate.protocols"
# Each has a `PROTOCOL` in its module `protocol`.
_SHIPPED = ("spacetime", "phoenix_sync", "nats_jetstream", "centrifugo", "socketio", "durable_streams")


@dataclass(frozen=True)
class ConnectionOptions:
    """The socket's or the service's URL without a query, and the options of the target file. `client` is for errors only."""

    url: str
    options: Mapping[str, object] = field(default_factory=dict)
    client: str = ""


@dataclass(frozen=True)
class Protocol:
    """One protocol. `streams_of` maps a drill's streams, given its runs and whether it has worker events, onto the protocol's.

    It returns the topic, the run and the event type of each.
    """

    name: str
    capabilities: Capabilities
    new_connection: Callable[[ConnectionOptions], Connection]
    stream_id: Callable[[str], str]  # the name of a topic in observations
    streams_of: Callable[[Sequence[str], bool], list[tuple[str, str, str]]]
    negative_forms: NegativeForms | None = None
    server: ServerForms | None = None  # what a simulated server needs
    # What it supports with the options of a target file, where that depends on them.
    capabilities_with: Callable[[Mapping[str, object]], Capabilities] | None = None

    def able(self, options: Mapping[str, object]) -> Capabilities:
        """Return the capabilities with the options of a target file."""
        return self.capabilities if self.capabilities_with is None else self.capabilities_with(options)


def names() -> tuple[str, ...]:
    """Return the known protocols: those shipped, then those of installed packages."""
    return (*_SHIPPED, *(name for name in sorted(_installed()) if name not in _SHIPPED))


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def get(name: str) -> Protocol:
    """Return a protocol by its name. Raises `UsageError` for an unknown one, and for a package whose protocol is unusable."""
    if name in _SHIPPED:
        protocol: Protocol = import_module(f"sim.protocols.{name}.protocol").PROTOCOL
        return protocol
    if (entry := _installed().get(name)) is None:
        raise UsageError(f"unknown protocol '{name}'; there are: {', '.join(names())}.")
    package = entry.dist.name if entry.dist else "a package"
    where = f"protocol '{name}': its entry point {entry.value} in {package}"
    try:
        found = entry.load()
    except Exception as error:  # another's code may raise anything while it is imported
        raise UsageError(
            f"{where} cannot be loaded ({type(error).__name__}: {error}). Repair or remove that package."
        ) from None
    if not isinstance(found, Protocol):
        raise UsageError(f"{where} is {type(found).__name__}, but expected a Protocol of sim.protocols.registry.")
    return _guarded(found)


def _guarded(found: Protocol) -> Protocol:
    """Return an installed protocol whose every function is guarded: see `sim.protocols.guard`."""

    guarded = guard.guarded_functions(found.name, found)

    def new_connection(options: ConnectionOptions) -> Connection:
        able = guarded.able(options.options)
        return guard.GuardedConnection(guarded.new_connection(options), found.name, able, options.client)

    return replace(guarded, new_connection=new_connection)


def server_forms(name: str) -> ServerForms:
    """Return what a simulated server of this protocol needs. Raises `UsageError` for a protocol that none serves."""
    forms = get(name).server
    if forms is None:
        served = ", ".join(each for each in names() if get(each).server is not None)
        raise UsageError(f"protocol '{name}': no simulated server speaks it; these can be simulated: {served}.")
    return forms


def wire_forms(name: str) -> WireForms:
    """Return what the mock needs to serve this protocol. Raises `UsageError` for one that it cannot serve."""
    wire = server_forms(name).wire
    if wire is None:
        raise UsageError(f"protocol '{name}' can be simulated, but the mock cannot serve it; use --engine virtual or a target.")
    return wire
