"""A world's arrays, as compiled code finds them: by the addresses in the lane's record.

One record is passed from function to function instead of two dozen arrays, which takes a tenth of the time to compile.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from sim.engines.fleet_compile import inner
from sim.engines.fleet_world import ARRAYS, TABLES, Array, Lane

Find = Callable[[Lane], Array]


@intrinsic
def _pointer(_: Any, __: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


def _vector(name: str) -> Find:
    at, rows, kind = f"{name}_at", f"{name}_rows", np.dtype(ARRAYS[name])

    @inner
    def find(w: Lane) -> Array:
        return carray(_pointer(w[at]), (w[rows],), kind)  # type: ignore[call-arg]

    return find


def _table(name: str) -> Find:
    at, rows, columns, kind = f"{name}_at", f"{name}_rows", f"{name}_columns", np.dtype(TABLES[name])

    @inner
    def find(w: Lane) -> Array:
        return carray(_pointer(w[at]), (w[rows], w[columns]), kind)  # type: ignore[call-arg]

    return find


clients = _vector("clients")
more = _vector("more")
line = _vector("line")
queued = _vector("queued")
announced_to = _vector("announced_to")
buckets = _vector("buckets")
heap_at = _vector("heap_at")
heap_client = _vector("heap_client")
published = _table("published")
heads = _vector("heads")
order = _vector("order")
order_stream = _vector("order_stream")
readers = _vector("readers")
floors = _vector("floors")
budgets = _vector("budgets")
handshakers = _vector("handshakers")
inside = _vector("inside")
minters = _vector("minters")
holders = _vector("holders")
beats = _vector("beats")
series = _table("series")
sizes = _table("sizes")
herd = _table("herd")
lives = _table("lives")
live_t = _table("live_t")
tries = _table("tries")
episodes = _table("episodes")
offline = _vector("offline")
reasons = _vector("reasons")
steps_ms = _vector("steps_ms")
