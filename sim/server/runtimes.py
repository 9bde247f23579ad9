"""Which runtime simulates a protocol's server."""

from sim.protocols.profile import ServerProfile
from sim.server.runtime import Runtime
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_runtime import StreamRuntime
from sim.server.tokens import Keyring


def runtime_of(settings: RuntimeSettings, keyring: Keyring, profile: ServerProfile, switches: Switches) -> Runtime:
    """Return a new runtime with the habits of this profile."""
    if profile.streams is None:
        return Runtime(settings, keyring, profile, switches)
    return StreamRuntime(settings, keyring, profile, profile.streams, switches)
