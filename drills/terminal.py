"""The terminal: verdicts on stdout, progress on stderr; plain lines where nobody watches."""

from rich.console import Console


def out() -> Console:
    """Where verdicts and tables go."""
    return Console(highlight=False)


class Progress:
    """What a run is doing: one line that changes on a terminal, a line a step elsewhere."""

    def __init__(self, drill: str) -> None:
        self._drill = drill
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status(f"{drill}: starting") if self._console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, phase: str, text: str) -> None:
        """Say where the run is."""
        line = f"{self._drill}: {phase}: {text}"
        if self._status is not None:
            self._status.update(line)
        else:
            self._console.print(line, soft_wrap=True)
