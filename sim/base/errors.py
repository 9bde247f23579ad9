"""What can go wrong, by whose doing: the user's, the peer's, or ours.

Every message is one sentence that says what, where and what to do. The command line prints it and
leaves with `exit_code`; nothing below `drills.cli.main` ever prints or exits.
"""

from sim.base.exit_codes import ExitCode


class StormgateError(Exception):
    """Base of all errors this project raises on purpose."""

    exit_code: ExitCode = ExitCode.TOOL


class UsageError(StormgateError):
    """The user asked for something that cannot be: a bad file, flag, name or combination."""

    exit_code = ExitCode.USAGE


class TargetError(StormgateError):
    """The named target is not there, or does not speak the sync lane's protocol."""

    exit_code = ExitCode.USAGE


class PeerError(StormgateError):
    """The other end of a connection sent something the contract does not allow.

    Never fatal to a run: engines record it and go on.
    """


class MalformedFrameError(PeerError):
    """Bytes from the peer that are not a frame of the contract; `code` is short and stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BrokenMessageError(PeerError):
    """A message that ends its connection by the WebSocket's own rules, before anyone reads it; `status` (RFC 6455) says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the connection is closed with status {status}")
        self.status = status


class EvidenceError(StormgateError):
    """A run's files are missing, damaged or cut short, so nothing can be concluded from them."""


class StorageError(StormgateError):
    """Results could not be written, for example because the disk is full."""


class HookError(StormgateError):
    """An operator's hook did not do what it was asked to, so the drill could not go on."""


class IllegalMoveError(StormgateError):
    """A defect of ours: an adapter called a session in a state that does not allow it."""
