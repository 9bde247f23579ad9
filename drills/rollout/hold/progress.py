"""Show how far a stage is and how long it will take: one changing line on a terminal, else one line a minute."""

import threading
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from drills.reports.terminal import err
from drills.rollout.hold import times

_LINE_EVERY_S = 60.0  # without a terminal
_REFRESHES_PER_S = 2.0


class Progress:
    """The progress of a stage in `parts`: name -> expected seconds, in order. Use it as a context manager.

    `is_silent`: without a terminal it prints nothing, because the stage itself does.
    """

    def __init__(
        self, title: str, parts: Mapping[str, float], *, is_silent: bool = False, console: Console | None = None
    ) -> None:
        self._title, self._parts, self._console = title, parts, console or err()
        self._is_silent = is_silent
        self._part, self._text = next(iter(parts), ""), ""
        self._began_s = time.monotonic()
        self._over = threading.Event()
        self._live: Live | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_live(self) -> bool:
        """Whether there is one changing line, on a terminal."""
        return self._console.is_terminal

    def __enter__(self) -> Self:
        if self.is_live:
            spinner = Spinner("dots")

            def line() -> Spinner:
                spinner.update(text=Text(self.line()))
                return spinner

            self._live = Live(get_renderable=line, console=self._console, refresh_per_second=_REFRESHES_PER_S, transient=True)
            self._live.start()
        elif not self._is_silent:
            self._thread = threading.Thread(target=self._print_lines, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()

    def begin(self, part: str) -> None:
        """A part begins."""
        self._part, self._text, self._began_s = part, "", time.monotonic()

    def show(self, text: str) -> None:
        """Set what is shown of the current part."""
        self._text = text

    def line(self) -> str:
        """The current line: part, what is shown of it, and the remaining time."""
        if self._is_silent:
            return self._text or f"{self._title}: starting"
        detail = f", {self._text}" if self._text else ""
        return f"{self._title}: {self._part}{detail}; about {times.words(self.left_s())} left"

    def left_s(self) -> float:
        """The expected remaining seconds of all parts. A part that takes longer than expected counts as ending now."""
        names = [*self._parts]
        later = names[names.index(self._part) + 1 :]
        here = self._parts[self._part] - (time.monotonic() - self._began_s)
        return max(here, 0.0) + sum(self._parts[name] for name in later)

    def _print_lines(self) -> None:
        while not self._over.wait(_LINE_EVERY_S):
            self._console.print(self.line(), markup=False, soft_wrap=True)
