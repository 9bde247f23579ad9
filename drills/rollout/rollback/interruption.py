"""Being told to end: as Ctrl-C does it while something can be broken off, and not at all while something is being put back."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def armed() -> Iterator[None]:
    """While the body runs, every polite way to be ended raises `KeyboardInterrupt`."""
    with kept():
        for number in _changeable():
            signal.signal(number, signal.default_int_handler)
        yield


@contextlib.contextmanager
def held_off(say: Callable[[], None]) -> Iterator[None]:
    """The body runs to its end, whoever wants it ended; `say` tells them why."""

    def hold(_: int, __: FrameType | None) -> None:
        say()

    with kept():
        for number in _changeable():
            signal.signal(number, hold)
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """After the body all signals are handled as before, also where an event loop had them meanwhile and left them otherwise."""
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _changeable()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _changeable() -> tuple[signal.Signals, ...]:
    """Under nohup, a terminal that is closed ends nothing; and only the main thread has signals."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    return tuple(number for number in _NUMBERS if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN)
