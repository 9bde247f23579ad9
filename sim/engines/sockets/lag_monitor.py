"""How late things are, all the time a run goes on: this process's own timers, and clients behind the heads."""

import asyncio
from collections.abc import Mapping, Sequence

from sim.base.clocks import WallClock
from sim.engines.shared import client_setup
from sim.engines.sockets.client import ClientDriver
from sim.record.parquet import Recorder

_LAG_PERIOD_S = 0.05
_SAMPLE_PERIOD_S = 0.5
_LAG_SAMPLES = 500  # clients whose lag is sampled each time; more would be load of its own


async def monitor_own_lag(clock: WallClock, recorder: Recorder) -> None:
    """Record how late timers are: a load generator's honesty. A long stall is many late ticks, not one."""
    due = clock.now() + _LAG_PERIOD_S
    while True:
        await asyncio.sleep(max(due - clock.now(), 0))
        while (late_s := (now := clock.now()) - due) >= 0:
            recorder.add(now - clock.began, "generator_lag", value=late_s * 1000)
            due += _LAG_PERIOD_S


async def sample_client_lag(
    fleet: Sequence[ClientDriver], heads: Mapping[str, int], clock: WallClock, recorder: Recorder
) -> None:
    """Record each client's distance from the heads, in events, some clients at a time when there are many."""
    first, step = 0, min(len(fleet), _LAG_SAMPLES)
    while True:
        await asyncio.sleep(_SAMPLE_PERIOD_S)
        recorder.flush()
        recorder.check()
        for number in range(first, first + step):
            session = fleet[number % len(fleet)].session
            if (lag := client_setup.lag_events(session, heads)) is not None:
                recorder.add(clock.now() - clock.began, "client_lag", session.client, value=lag)
        first = (first + step) % len(fleet)
