"""Python's garbage collector while thousands of sessions or connections live."""

import contextlib
import gc
from collections.abc import Iterator

# Python's own are 700, 10, 10. What a closed socket leaves in cycles is still found within one storm.
_THRESHOLDS = (50_000, 10, 10)


@contextlib.contextmanager
def relaxed_gc() -> Iterator[None]:
    """Look for cycles more rarely: nearly all that lives goes on living, and looking took a fifth of a storm's handshakes."""
    before = gc.get_threshold()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
