"""A world that follows a script, and each engine's driver on a clock that skips what nothing happens in."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from sim.drill import model
from sim.drill.fault_lifecycle import Done, Record
from sim.drill.fault_schedule import PlannedFault, Timing, plan
from sim.drill.model import Drill, Fleet, Load, Phases
from sim.drill.phase_runner import PhaseRunner
from sim.engines.fleet.driver import KernelDriver
from sim.engines.greenlets.driver import GreenletDriver
from sim.engines.sockets.driver import AsyncioDriver
from sim.engines.virtual.clock import VirtualClock
from sim.engines.virtual.driver import VirtualDriver

NEVER = 10**6
Call = tuple[float, str]


def drill_with(*faults: model.AnyFault, **phases: float) -> Drill:
    lengths = {"steady_s": 1.0, "steady_limit_s": 2.0, "fault_s": 3.0, "recovery_s": 0.5, "settle_s": 2.0} | phases
    checks = ("delivery.dropped_deliveries",)
    return Drill("scripted", "Is it one?", checks, Fleet(10, connects_per_s=20.0), Load(10.0), Phases(**lengths), faults)


@dataclass
class Script:
    """How a world behaves. Counts are of polls, and moments of seconds since the run began."""

    drill: Drill
    ready_after: int = 0
    inject_takes_s: float = 0.0
    revert_takes_s: float = 0.0
    lead_s: float = 0.0
    inject_fails: bool = False
    revert_fails: bool = False
    drains_after: int = 0
    settles_after: int = 0
    is_audited_after: int = 0
    stop_at: float | None = None
    storm_at: float | None = None
    revert_at: float | None = None
    is_open_ended: bool = False
    breaks_at: float | None = None  # what the driver checks fails


class Action:
    """An action that ends later, with a value or a failure."""

    def __init__(self, world: "ScriptedWorld", takes_s: float, failure: Exception | None) -> None:
        self.is_done = False
        self._failure = failure
        self._world = world
        world.later(world.now() + takes_s, self._end)

    def _end(self) -> None:
        self.is_done = True
        self._world.look()

    def result(self) -> float:
        if self._failure is not None:
            raise self._failure
        return 1.0

    def cancel(self) -> None:
        self._world.call("cancel")
        self.is_done = True


class ScriptedWorld:
    """`later` and `look` are the driver's: call something at a moment, and look at the signals."""

    def __init__(self, script: Script, now: Callable[[], float]) -> None:
        self.script = script
        self.now = now
        self.calls: list[Call] = []
        self.record = Record(self._add, now, 0.0)
        self.actions = self
        self.later: Callable[[float, Callable[[], None]], object] = lambda moment, do: None
        self.look: Callable[[], None] = lambda: None
        self.polls = dict.fromkeys(("ready", "drained", "settled", "audited"), 0)
        self.phases = PhaseRunner(script.drill, plan(script.drill, 1), self, is_open_ended=script.is_open_ended)

    def call(self, what: str) -> None:
        self.calls.append((round(self.now(), 6), what))

    def _add(self, t: float, kind: str, *_: int, attempt: int = 0, value: float, detail: str) -> None:
        self.call(f"{kind} {attempt} {detail}" if kind.startswith("fault_") else f"{kind} {detail}")

    def _poll(self, what: str, limit: int) -> bool:
        self.polls[what] += 1
        return self.polls[what] > limit

    def entered(self, phase: str) -> None:
        self.call(f"entered {phase}")

    def start(self) -> None:
        self.call("start")

    def unready_reason(self) -> str:
        return "" if self._poll("ready", self.script.ready_after) else "9 of 10 clients live"

    def end_load(self) -> None:
        self.call("end_load")

    def finish_publishing(self) -> None:
        self.call("finish_publishing")

    def is_publishing(self) -> bool:
        return not self._poll("drained", self.script.drains_after)

    def abandon_publishing(self) -> None:
        self.call("abandon_publishing")

    def add_auditor(self) -> None:
        self.call("add_auditor")

    def is_settled(self) -> bool:
        return self._poll("settled", self.script.settles_after)

    def conclude(self) -> None:
        self.call("conclude")

    def is_audited(self) -> bool:
        return self._poll("audited", self.script.is_audited_after)

    def conclude_audit(self) -> None:
        self.call("conclude_audit")

    # --- faults -------------------------------------------------------------------------------------

    def timing(self, planned: PlannedFault) -> Timing:
        return planned.timing

    def announce(self, planned: Sequence[PlannedFault], now: float) -> float:
        self.call(f"announce {[each.index for each in planned]}")
        return now + self.script.lead_s

    def inject(self, planned: PlannedFault) -> Any:
        self.call(f"inject {planned.index}")
        failure = RuntimeError("inject") if self.script.inject_fails else None
        return self._action(self.script.inject_takes_s, failure, planned.index)

    def revert(self, planned: PlannedFault) -> Any:
        self.call(f"revert {planned.index}")
        return self._action(self.script.revert_takes_s, None, planned.index)

    def end_early(self) -> None:
        self.call("end_early")

    def revert_all(self) -> Any:
        self.call("revert_all")
        return self._action(self.script.revert_takes_s, RuntimeError("revert") if self.script.revert_fails else None)

    def _action(self, takes_s: float, failure: Exception | None, index: int = 0) -> Any:
        """No two actions end at one moment: which of them the runner hears of first is the clock's affair."""
        return Action(self, takes_s + 0.0007 * index, failure) if takes_s or failure else Done(1.0)


@dataclass
class Skipping:
    """A clock that goes from one moment to the next."""

    at: float = 0.0
    queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    number: Any = field(default_factory=itertools.count)

    def now(self) -> float:
        return self.at

    def later(self, moment: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (moment, next(self.number), do))

    def advance(self, until: float) -> None:
        """To that moment, or only to what happens first."""
        if self.queue and self.queue[0][0] <= until:
            moment, _, do = heapq.heappop(self.queue)
            self.at = max(self.at, moment)
            do()
        else:
            self.at = max(self.at, until)


def follow(world: ScriptedWorld, stop: Callable[[], None], by_hand: Callable[[], None]) -> None:
    """Have happen what the script says."""
    script = world.script

    def storm() -> None:
        if world.phases.phase in ("steady", "fault") and world.phases.faults.waiting:
            world.phases.bring_forward()
            by_hand()

    def revert() -> None:
        if world.phases.phase == "fault":
            world.phases.revert_by_hand()
            by_hand()

    for moment, do in ((script.stop_at, stop), (script.storm_at, storm), (script.revert_at, revert)):
        if moment is not None:
            world.later(moment, do)


def on_virtual(script: Script) -> ScriptedWorld:
    clock = VirtualClock()
    world = ScriptedWorld(script, lambda: clock.now)
    driver = VirtualDriver(clock, world.phases.run())
    world.later, world.look = clock.call_at, driver.look

    def by_hand() -> None:
        driver.signals.is_by_hand = True
        driver.look()

    follow(world, driver.stop, by_hand)
    clock.call_at(0.0, driver.start)
    clock.run(until=driver.is_over)
    return world


def on_kernel(script: Script) -> ScriptedWorld:
    clock = Skipping()
    world = ScriptedWorld(script, clock.now)
    driver = KernelDriver(clock.now, clock.advance)
    world.later = clock.later
    follow(
        world,
        lambda: setattr(driver.signals, "is_stopped", True),
        lambda: setattr(driver.signals, "is_by_hand", True),
    )
    driver.drive(world.phases.run())
    return world


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits."""

    skipped_to = 0.0

    def time(self) -> float:
        return self.skipped_to

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.skipped_to = max(self.skipped_to, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def on_asyncio(script: Script) -> ScriptedWorld:
    loop = SkippingLoop()
    clock: Any = SimpleNamespace(now=loop.time)
    world = ScriptedWorld(script, loop.time)
    driver = AsyncioDriver(clock, lambda: broken(world))
    world.later, world.look = loop.call_at, driver.look

    def by_hand() -> None:
        driver.signals.is_by_hand = True
        driver.look()

    follow(world, driver.stop, by_hand)
    try:
        loop.run_until_complete(driver.drive(world.phases.run()))
    finally:
        loop.close()
    return world


def on_greenlets(script: Script) -> ScriptedWorld:
    clock: Any = Skipping()
    world = ScriptedWorld(script, clock.now)
    driver = GreenletDriver(clock, lambda: broken(world))
    world.later, world.look = clock.later, lambda: None
    # The one thing that waits.
    driver._nudged = SimpleNamespace(  # type: ignore[assignment]
        clear=lambda: None, set=lambda: None, wait=lambda within_s: clock.advance(clock.now() + within_s)
    )
    follow(world, driver.stop, driver.look)
    driver.drive(world.phases.run())
    return world


def broken(world: ScriptedWorld) -> None:
    if world.script.breaks_at is not None and world.now() >= world.script.breaks_at:
        raise OSError("the disk is full")


DRIVERS = {"virtual": on_virtual, "kernel": on_kernel, "asyncio": on_asyncio, "greenlets": on_greenlets}
