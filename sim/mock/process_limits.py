"""The limits and periods of the mock's own process. Limits of the simulated service are in `sim/server/settings.py`."""

from typing import Final

BACKLOG: Final = 4096  # length of the kernel's accept queue, for the connects of a storm
MAX_WAITING_FRAMES: Final = 256  # [ours] above this, a socket is not read; more than a replay batch of 200 envelopes
MAX_CACHED_BATCHES: Final = 512  # encoded batches in the cache, so that a fan-out encodes each batch once
TICK_S: Final = 0.05  # between two wake-ups of the service
START_LIMIT_S: Final = 20.0  # for a mock process to listen
STOP_LIMIT_S: Final = 5.0  # for a mock process to end by itself
SHUTDOWN_LIMIT_S: Final = 1  # for unfinished requests when the mock ends
MIN_PORT: Final = 10_000  # [ours] above the ports of well-known services
MAX_PORTS_TRIED: Final = 20
