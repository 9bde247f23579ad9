"""Python's garbage collector while thousands of sessions run."""

import contextlib
import gc
from collections.abc import Iterator

_THRESHOLDS = (100_000, 50, 100)  # Python's own are 700, 10, 10


@contextlib.contextmanager
def relaxed_garbage_collection() -> Iterator[None]:
    """Look for cycles more rarely: thousands of sessions make none, and looking took a tenth of a delivery's time."""
    before = gc.get_threshold()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
