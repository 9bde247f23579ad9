"""Terminal output: verdicts on stdout, progress on stderr; plain lines if stderr is not a terminal."""

import os
import re
import textwrap
import time
from collections.abc import Sequence
from typing import Self

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from sim.base.process_pool import Standing

_LINE_EVERY_S = 1.0  # without a terminal: often enough to see progress
_COMMAND = re.compile("`[^`]*`")
_JOINED, _PARTED = {ord(" "): "\0", ord("\n"): "\1"}, {0: " ", 1: "\n"}
_SEVERAL_EVERY_S = 10.0  # for several runs at once, while none of them ends


def out() -> Console:
    """The console for verdicts and tables."""
    return Console(highlight=False)


def err() -> Console:
    """The console for everything except verdicts and tables."""
    return Console(stderr=True, highlight=False)


def width_of(console: Console) -> int | None:
    """Columns of a terminal, or the variable COLUMNS; None for a file or a pipe, which has lines of any length."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text unchanged, folded between words if the console has a width. What is in `backquotes` stays whole."""
    width = width_of(console)
    console.print(Text(folded(text, width) if width else text, style=style), soft_wrap=True)


def folded(text: str, width: int) -> str:
    """Each line folded between words, what is over indented by two more columns. Words and commands stay whole."""
    whole = _COMMAND.sub(lambda command: command[0].translate(_JOINED), text)
    return "\n".join(_folded_line(line, width) for line in whole.split("\n")).translate(_PARTED)


def _folded_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    words = line.lstrip(" ")
    indent = " " * (len(line) - len(words))
    under = indent + "  "
    lines = textwrap.wrap(
        words, width, initial_indent=indent, subsequent_indent=under, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


class _Bar:
    """A changing line with a bar, if stderr is a terminal. `length`: amount of work; None if unknown."""

    def __init__(self, what: str, length: float | None) -> None:
        self._what = what
        self._console = err()
        self._said_at = 0.0
        self._live: bars.Progress | None = None
        if self._console.is_terminal:
            bar = [bars.BarColumn(bar_width=24)] if length else []
            columns = bars.SpinnerColumn(), *bar, bars.TextColumn("{task.description}", markup=False)
            self._live = bars.Progress(*columns, console=self._console, transient=True)
            self._live.add_task(f"{what}: starting", total=length)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, text: str, done: float | None) -> None:
        """Show a text: at once on a terminal, else as a line."""
        if self._live is not None:
            self._live.update(self._live.task_ids[0], description=text, completed=done)
        else:
            self._console.print(text.replace("\n", "; "), soft_wrap=True, markup=False)
            self._said_at = time.monotonic()


class Progress(_Bar):
    """The progress of a run: on a terminal one line, with a bar if `length` is known; else a line per phase and second.

    `length` is the amount of work, in the unit of `done`: seconds to simulate, replications to run.
    """

    def __init__(self, what: str, length: float | None = None) -> None:
        super().__init__(what, length)
        self._phase = self._unsaid = ""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._unsaid:
            self._console.print(self._unsaid, soft_wrap=True, markup=False)

    def __call__(self, phase: str, text: str, done: float | None = None) -> None:
        """Show the phase that the run is in."""
        line = f"{self._what}: {phase}: {text}"
        if self._live is not None or phase != self._phase or time.monotonic() >= self._said_at + _LINE_EVERY_S:
            self._show(line, done)
            self._phase, self._unsaid = phase, ""
        else:
            self._unsaid = line


class Several(_Bar):
    """The progress of several runs: on a terminal, a bar and a line per active run; else a line at intervals."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        super().__init__(what, len(names))
        self._names, self._done, self._began_at = names, -1, time.monotonic()

    def __call__(self, standings: Sequence[Standing]) -> None:
        """Show the state of all runs."""
        done = sum(standing.is_done for standing in standings)
        left = time_left(done, len(self._names), time.monotonic() - self._began_at)
        said = f"{self._what}: {done} of {len(self._names)} done{left}"
        running = [_at(name, standing) for name, standing in zip(self._names, standings, strict=True) if standing.is_running]
        if self._live is not None or self._is_time(done, len(standings)):
            self._show("\n".join((said, *running)), done)
            self._done = done

    def _is_time(self, done: int, total: int) -> bool:
        silent_s = time.monotonic() - self._said_at
        news = done != self._done and (silent_s >= _LINE_EVERY_S or done == total)
        return news or silent_s >= _SEVERAL_EVERY_S


def time_left(done: int, total: int, took_s: float) -> str:
    """How long the rest takes if it goes on as so far, for the end of a line; empty while unknown, and at the end."""
    return f", about {length(took_s / done * (total - done))} left" if 0 < done < total else ""


def length(seconds: float) -> str:
    """A length of time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _at(name: str, standing: Standing) -> str:
    reached = f", {standing.reached:.1f} s simulated" if standing.reached else ""
    return f"{name}: {standing.phase}{reached}" if standing.phase else f"{name}: starting"
