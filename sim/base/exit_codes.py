"""The exit codes of every command, and what they mean."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    GO = 0
    NO_GO = 1
    INCONCLUSIVE = 2
    USAGE = 3
    TOOL = 4

    @property
    def meaning(self) -> str:
        """A phrase that explains the code."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.GO: "go: every check passed, or the command did what it was asked to do",
    ExitCode.NO_GO: "no-go: a check failed or an invariant was violated",
    ExitCode.INCONCLUSIVE: "inconclusive: too little data to decide, a dry run, or drills that the target cannot run",
    ExitCode.USAGE: "wrong usage, configuration or target; nothing was started",
    ExitCode.TOOL: "stormgate, the load generator or the evidence failed",
}
