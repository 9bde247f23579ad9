"""All errors, by cause: the user, the peer, or a defect of ours.

Every message says what happened, where, and what to do. The command line prints it and
exits with `exit_code`; nothing below `drills.cli.main` ever prints or exits.
"""

import errno
from collections.abc import Mapping

from sim.base.exit_codes import ExitCode

_DESCRIPTORS = "no file descriptor is left; raise `ulimit -n`, or use fewer clients"
_PORTS = "no local port is left for a connection; use fewer clients, or widen net.ipv4.ip_local_port_range"
_SHORTAGES: Mapping[int | None, str] = {errno.EMFILE: _DESCRIPTORS, errno.ENFILE: _DESCRIPTORS, errno.EADDRNOTAVAIL: _PORTS}


class StormgateError(Exception):
    """Base of all errors this project raises on purpose."""

    exit_code: ExitCode = ExitCode.TOOL


class UsageError(StormgateError):
    """Invalid input of the user: a file, flag, name or combination."""

    exit_code = ExitCode.USAGE


class NotRunnableError(UsageError):
    """The target, or the simulated server of the protocol, cannot run this drill, whatever the options are."""

    exit_code = ExitCode.INCONCLUSIVE


class TargetError(StormgateError):
    """The target is not reachable, or does not speak the service's protocol."""

    exit_code = ExitCode.USAGE


class AdapterError(StormgateError):
    """The code of a protocol that an installed package adds failed. It ends the run, which then judges nobody."""


class PeerError(StormgateError):
    """The peer violated the protocol. Never fatal to a run: engines record it and continue."""


class MalformedFrameError(PeerError):
    """Bytes from the peer that are not a valid frame; `code` is short and stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BrokenMessageError(PeerError):
    """A message for which the WebSocket protocol requires closing the connection; `status` (RFC 6455) is the reason."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the connection is closed with status {status}")
        self.status = status


class EvidenceError(StormgateError):
    """A run's files are missing, damaged or incomplete, so they prove nothing."""


class StorageError(StormgateError):
    """Results could not be written, for example on a full disk."""


class ShortageError(StormgateError):
    """Our own machine lacks file descriptors or ports, so what failed says nothing about the target."""


def shortage(error: OSError) -> ShortageError | None:
    """Return the shortage of our own machine that an error shows, or None."""
    remedy = _SHORTAGES.get(error.errno)
    return ShortageError(f"{error.strerror}: {remedy}.") if remedy else None


class HookError(StormgateError):
    """An operator's hook failed, so the drill could not continue."""


class IllegalMoveError(StormgateError):
    """A defect of ours: a call in a state that does not allow it."""
